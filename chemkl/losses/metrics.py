"""What an objective tells of a batch: detached scalars under fixed names.

Legend: B rows of a batch. A mean over no row (of the hits, when there is none) is NaN.
"""

import torch
from torch import Tensor

from chemkl.losses.targets import gibbs_log_target
from chemkl.losses.types import LossInputs, TargetOutput

METRICS = {
    "loss": "the loss that was minimised; its value means little, its gradient does",
    "reward_mean": "mean reward over all rows",
    "hit_rate": "share of rows that the target treats as hits; 0 for gibbs, which has no hit test",
    "logp_policy_mean": "mean log-probability under the policy, nats",
    "logp_ref_mean": "mean log-probability under the reference, nats",
    "logp_ref_hits_mean": "the same over the hits: falling means ever odder sequences",
    "anchor_logp_ref": "mean over the hits of log pi_ref of the anchor that they are lifted to",
    "log_target_mean": "mean unnormalised log target, nats",
    "log_ratio_mean": "mean of log target - log policy: log Z when the policy is the target",
    "log_ratio_std": "its standard deviation, over all rows: 0 when the policy is the target",
    "kl": "mean of log policy - log reference: KL(policy || reference) on the policy's own rows",
    "mara_bonus_mean": "mean over the hits of beta (log target - gibbs log target), reward units",
    "mara_bonus_std": "its standard deviation over the hits: beside a reward of 1, not above it",
}
"""Every name of ``describe`` and of the objective itself, with its meaning."""


def describe(inputs: LossInputs, target: TargetOutput, beta: float) -> dict[str, Tensor]:
    """Compute the metrics of a batch that need no estimator, over all its rows."""
    logp_policy_B = inputs.logp_policy.detach()
    logp_ref_B = inputs.logp_ref.detach()
    reward_B = inputs.reward.detach()
    hit_B = target.hit
    log_ratio_B = target.log_target - logp_policy_B
    bonus_B = beta * (target.log_target - gibbs_log_target(logp_ref_B, reward_B, beta))
    return {
        "reward_mean": reward_B.mean(),
        "hit_rate": hit_B.to(logp_ref_B).mean(),
        "logp_policy_mean": logp_policy_B.mean(),
        "logp_ref_mean": logp_ref_B.mean(),
        "logp_ref_hits_mean": logp_ref_B[hit_B].mean(),
        "anchor_logp_ref": target.anchor_logp_ref[hit_B].mean(),
        "log_target_mean": target.log_target.mean(),
        "log_ratio_mean": log_ratio_B.mean(),
        "log_ratio_std": log_ratio_B.std(correction=0),
        "kl": (logp_policy_B - logp_ref_B).mean(),
        "mara_bonus_mean": bonus_B[hit_B].mean(),
        "mara_bonus_std": _std(bonus_B[hit_B]),
    }


def _std(values_B: Tensor) -> Tensor:
    """The standard deviation, NaN without torch's warning where there is no value."""
    return values_B.std(correction=0) if values_B.numel() else values_B.new_full((), torch.nan)
