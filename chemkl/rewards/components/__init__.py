"""The reward components, one file a family; importing this package registers them all."""

from chemkl.rewards.components import (
    activity,
    admet,
    alerts,
    counts,
    docking,
    isomer,
    models,
    own,
    physchem,
    reactions,
    rings,
    scaffold,
    shape,
    similarity,
    substructure,
    topology,
)

__all__ = [
    "activity",
    "admet",
    "alerts",
    "counts",
    "docking",
    "isomer",
    "models",
    "own",
    "physchem",
    "reactions",
    "rings",
    "scaffold",
    "shape",
    "similarity",
    "substructure",
    "topology",
]
