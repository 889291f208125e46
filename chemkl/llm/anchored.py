"""MARA as a bonus on the rewards of another trainer of language models; torch only.

MARA is mode-anchored reward augmentation (arXiv 2510.20817). Legend: B rows, the completions of a
batch on all ranks; lr log pi_ref, summed over the tokens of a completion, end token included.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chemkl.losses import Mara, augmented_reward


class Anchored(NamedTuple):
    """The effect of MARA on a batch; every tensor is (B,)."""

    bonus: Tensor  # Rbar - R of Algorithm 1; 0 where the row is no hit
    hit: Tensor  # the row counts as a hit
    anchor: Tensor  # the row is the anchor of its group
    anchor_logp_ref: Tensor  # log pi_ref of the anchor of the row's group, NaN if it has none


def anchor_rewards(
    target: Mara,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    group_B: Tensor | None = None,
    complete_B: Tensor | None = None,
) -> Anchored:
    """Compute the bonus Rbar - R of each row, in double precision.

    For a trainer that subtracts beta KL(pi || pi_ref) itself, per sequence: a hit (R >= tau) gets
    R(z) + beta (lr(z) - lr), z the likeliest hit of its group under the reference; every other row
    keeps R. If beta differs from the trainer's, the hits do not become equally likely.

    Args:
        target: with the KL coefficient that the trainer uses.
        reward_B: NaN where a row was not scored: such a row is neither hit nor anchor, and does not
            count in a quantile.
        logp_ref_B: of the frozen reference.
        group_B: integers; rows with the same number answer the same prompt. None: one group.
        complete_B: False where the completion was cut off before its end token. It is no hit and
            does not count in a quantile: without the end token its probability is that of a prefix.

    Raises:
        ValueError: a reward is infinite, log pi_ref of a complete row not finite, shapes differ.
    """
    scored_B = ~reward_B.isnan() if complete_B is None else ~reward_B.isnan() & complete_B
    zero_B, no_B = torch.zeros_like(reward_B, dtype=torch.float64), torch.zeros_like(scored_B)
    anchored = Anchored(zero_B, no_B, no_B.clone(), torch.full_like(zero_B, torch.nan))
    if bool(scored_B.any()):
        reward_H, logp_ref_H = reward_B[scored_B].double(), logp_ref_B[scored_B].double()
        output = target(logp_ref_H, reward_H, None if group_B is None else group_B[scored_B])
        rbar_H = augmented_reward(output.log_target, logp_ref_H, target.beta)
        anchored.bonus[scored_B] = torch.where(output.hit, rbar_H - reward_H, 0.0)
        anchored.hit[scored_B] = output.hit
        anchored.anchor[scored_B] = output.anchor
        anchored.anchor_logp_ref[scored_B] = output.anchor_logp_ref
    return anchored
