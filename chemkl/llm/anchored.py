"""MARA as a reward: what a trainer of language models adds to its own rewards; torch only.

MARA is mode-anchored reward augmentation (arXiv 2510.20817). Legend: B rows, the completions of one
batch, of all ranks together; lr log pi_ref, the sum over a completion's tokens, end token included.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from chemkl.losses import Mara, augmented_reward


class Anchored(NamedTuple):
    """What MARA makes of a batch; every tensor is (B,)."""

    bonus: Tensor  # Rbar - R of Algorithm 1; 0 where the row is no hit
    hit: Tensor  # the row is treated as a hit
    anchor: Tensor  # the row is the anchor of its group
    anchor_logp_ref: Tensor  # log pi_ref of the anchor of the row's group, NaN where there is none


def anchor_rewards(
    target: Mara,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    group_B: Tensor | None = None,
    complete_B: Tensor | None = None,
) -> Anchored:
    """Evaluate the target on the rows that can be hits, in double precision, and write it as Rbar.

    It is for a trainer that subtracts beta KL(pi || pi_ref) itself, a sequence at a time: a hit
    (R >= tau) gets R(z) + beta (lr(z) - lr), z the likeliest hit of its group under the reference;
    every other row keeps R. With any other beta than the trainer's the hits are not flat.

    Args:
        target: of the KL coefficient that the trainer uses.
        reward_B: NaN where nothing could be scored: such a row is neither hit nor anchor, and has
            no part in a quantile.
        logp_ref_B: the frozen reference.
        group_B: whole numbers; rows of one number answer one prompt. None: one group.
        complete_B: False where the completion was cut off before its end token. It is no hit, and
            has no part in a quantile: without its end token its probability is that of a beginning.

    Raises:
        ValueError: a reward is infinite, log pi_ref of a complete row not finite, shapes differ.
    """
    can_B = ~reward_B.isnan() if complete_B is None else ~reward_B.isnan() & complete_B
    zero_B, no_B = torch.zeros_like(reward_B, dtype=torch.float64), torch.zeros_like(can_B)
    anchored = Anchored(zero_B, no_B, no_B.clone(), torch.full_like(zero_B, torch.nan))
    if bool(can_B.any()):
        reward_H, logp_ref_H = reward_B[can_B].double(), logp_ref_B[can_B].double()
        given = target(logp_ref_H, reward_H, None if group_B is None else group_B[can_B])
        rbar_H = augmented_reward(given.log_target, logp_ref_H, target.beta)
        anchored.bonus[can_B] = torch.where(given.hit, rbar_H - reward_H, 0.0)
        anchored.hit[can_B] = given.hit
        anchored.anchor[can_B] = given.anchor
        anchored.anchor_logp_ref[can_B] = given.anchor_logp_ref
    return anchored
