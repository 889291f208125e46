"""The reward components, one file a family; importing this package registers them all."""

from chemkl.rewards.components import (  # noqa: F401 - for what they register
    activity,
    admet,
    counts,
    docking,
    functions,
    models,
    physchem,
    programs,
    shape,
    similarity,
    substructure,
)
