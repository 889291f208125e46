"""Rewards of molecules: components, transforms and aggregates, without torch."""

from chemkl.rewards.model import RewardModel
from chemkl.rewards.registry import BatchScore, Failure, Score, TransientError, component

__all__ = ["BatchScore", "Failure", "RewardModel", "Score", "TransientError", "component"]
