"""Molecules to numbers: reward components, their transforms and aggregates; no torch here."""

from chemkl.rewards.model import RewardModel
from chemkl.rewards.registry import component

__all__ = ["RewardModel", "component"]
