"""Evaluate the molecules of a run: quality, yields, diversity, likeness to references."""

from chemkl.evaluation.metrics import METRICS, Metric, evaluate, metrics_schema
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.samples import from_smiles, from_trace

__all__ = [
    "METRICS",
    "Comparisons",
    "Metric",
    "evaluate",
    "from_smiles",
    "from_trace",
    "metrics_schema",
]
