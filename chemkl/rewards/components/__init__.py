"""The reward components, one file a family; importing this package registers them all."""

from chemkl.rewards.components import physchem, similarity, substructure

__all__ = ["physchem", "similarity", "substructure"]
