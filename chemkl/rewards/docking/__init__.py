"""Docking: dockstring's prepared receptors or your own, ligands by Open Babel, AutoDock Vina."""

from chemkl.rewards.docking.ligands import check_ligand, prepare_ligand
from chemkl.rewards.docking.programs import Clock, find_obabel, find_vina
from chemkl.rewards.docking.receptors import (
    TARGETS,
    Box,
    Receptor,
    own_receptor,
    published_receptor,
)
from chemkl.rewards.docking.vina import dock

__all__ = [
    "TARGETS",
    "Box",
    "Clock",
    "Receptor",
    "check_ligand",
    "dock",
    "find_obabel",
    "find_vina",
    "own_receptor",
    "prepare_ligand",
    "published_receptor",
]
