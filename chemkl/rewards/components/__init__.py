"""The reward components, one file per family; importing this package registers all of them."""

from chemkl.rewards.components import (  # noqa: F401 - for what they register
    descriptors,
    docking,
    functions,
    models,
    programs,
    published_models,
    shape,
    similarity,
    substructure,
)
