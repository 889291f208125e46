"""Molecules to numbers: reward components, their transforms and aggregates; no torch here."""

from chemkl.rewards.model import RewardModel
from chemkl.rewards.registry import BatchScore, Failure, Score, TransientError, component

__all__ = ["BatchScore", "Failure", "RewardModel", "Score", "TransientError", "component"]
