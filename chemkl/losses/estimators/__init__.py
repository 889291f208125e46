"""Estimators: losses whose gradient walks the policy to a target."""

from chemkl.losses.estimators.base import ESTIMATORS, Estimator, estimator
from chemkl.losses.estimators.divergence import alpha_dpg, f_dpg
from chemkl.losses.estimators.regularised import forward_kl
from chemkl.losses.estimators.score import (
    grpo,
    log_variance,
    reinvent,
    rloo,
    trajectory_balance,
)
from chemkl.losses.estimators.weighted import msc, snis

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "alpha_dpg",
    "estimator",
    "f_dpg",
    "forward_kl",
    "grpo",
    "log_variance",
    "msc",
    "reinvent",
    "rloo",
    "snis",
    "trajectory_balance",
]
