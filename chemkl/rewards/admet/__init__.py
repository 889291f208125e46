"""ADMET-AI's models (Swanson et al., Bioinformatics 40, btae416 (2024)), run in NumPy."""

from chemkl.rewards.admet.endpoints import ENDPOINTS, Endpoint
from chemkl.rewards.admet.graphs import Graph, graph_of
from chemkl.rewards.admet.network import Ensemble, load_ensemble

__all__ = ["ENDPOINTS", "Endpoint", "Ensemble", "Graph", "graph_of", "load_ensemble"]
