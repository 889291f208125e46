"""The loss core, torch only: target x estimator = objective.

objective = build_objective(target=Mara(beta=0.1, tau=0.8), estimator="rloo")
output = objective(LossInputs(logp_policy=..., logp_ref=..., reward=...))
output.loss.backward()
"""

from chemkl.losses.estimators import (
    ESTIMATORS,
    alpha_dpg,
    estimator,
    f_dpg,
    forward_kl,
    grpo,
    log_variance,
    msc,
    reinvent,
    rloo,
    snis,
    trajectory_balance,
)
from chemkl.losses.objective import METRICS, Objective, build_objective, objective_from_config
from chemkl.losses.peer_estimators import ahc, dpo, hill_climbing, ppo
from chemkl.losses.shapers import SHAPERS, build_shaper
from chemkl.losses.targets import TARGETS, Filtered, Gibbs, Mara, Target, augmented_reward
from chemkl.losses.types import LossInputs, LossOutput, TargetOutput

__all__ = [
    "ESTIMATORS",
    "METRICS",
    "SHAPERS",
    "TARGETS",
    "Filtered",
    "Gibbs",
    "LossInputs",
    "LossOutput",
    "Mara",
    "Objective",
    "Target",
    "TargetOutput",
    "ahc",
    "alpha_dpg",
    "augmented_reward",
    "build_objective",
    "build_shaper",
    "dpo",
    "estimator",
    "f_dpg",
    "forward_kl",
    "grpo",
    "hill_climbing",
    "log_variance",
    "msc",
    "objective_from_config",
    "ppo",
    "reinvent",
    "rloo",
    "snis",
    "trajectory_balance",
]
