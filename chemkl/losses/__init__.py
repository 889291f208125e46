"""The loss core, torch only: target x estimator = objective.

objective = build_objective(target=Mara(beta=0.1, tau=0.8), estimator="rloo")
output = objective(LossInputs(logp_policy=..., logp_ref=..., reward=...))
output.loss.backward()
"""

from chemkl.losses.compose import Objective, build_objective, objective_from_config
from chemkl.losses.estimators import ESTIMATORS, log_variance, reinvent, rloo
from chemkl.losses.mara import Mara
from chemkl.losses.metrics import METRICS
from chemkl.losses.targets import TARGETS, Filtered, Gibbs, Target, augmented_reward
from chemkl.losses.types import LossInputs, LossOutput, TargetOutput

__all__ = [
    "ESTIMATORS",
    "METRICS",
    "TARGETS",
    "Filtered",
    "Gibbs",
    "LossInputs",
    "LossOutput",
    "Mara",
    "Objective",
    "Target",
    "TargetOutput",
    "augmented_reward",
    "build_objective",
    "log_variance",
    "objective_from_config",
    "reinvent",
    "rloo",
]
