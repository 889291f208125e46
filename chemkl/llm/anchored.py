"""MARA as a reward: what a trainer of language models adds to its own rewards; torch only.

MARA is mode-anchored reward augmentation (arXiv 2510.20817). Legend: B rows, the completions of one
batch, of all ranks together; lr log pi_ref, the sum over a completion's tokens, end token included.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chemkl.losses import Mara, augmented_reward


@dataclass(frozen=True, eq=False)
class Anchored:
    """The rewards of a batch after MARA; every tensor is (B,).

    Attributes:
        reward: Rbar of Algorithm 1; equal to the reward given where the row is no hit.
        bonus: Rbar - R; 0 where the row is no hit.
        hit: the row is treated as a hit.
        anchor: the row is the anchor of its group.
        anchor_logp_ref: log pi_ref of the anchor of the row's group, NaN where there is none.
    """

    reward: Tensor
    bonus: Tensor
    hit: Tensor
    anchor: Tensor
    anchor_logp_ref: Tensor


def anchor_rewards(
    target: Mara,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    group_B: Tensor | None = None,
    complete_B: Tensor | None = None,
) -> Anchored:
    """Evaluate the target on the rows that can be hits, in double precision, and write it as Rbar.

    Args:
        target: of the KL coefficient that the trainer uses.
        reward_B: NaN where nothing could be scored: such a row is neither hit nor anchor, it has no
            part in a quantile, and its reward stays NaN.
        logp_ref_B: the frozen reference.
        group_B: whole numbers; rows of one number answer one prompt. None: one group.
        complete_B: False where the completion was cut off before its end token. It is no hit, and
            has no part in a quantile: without its end token its probability is that of a beginning.

    Raises:
        ValueError: a reward is infinite, the shapes differ, log pi_ref of a complete row is not
            finite.
    """
    can_B = ~reward_B.isnan()
    if complete_B is not None:
        can_B = can_B & complete_B
    reward, logp_ref = reward_B.double(), logp_ref_B.double()
    no_B = torch.zeros_like(can_B)
    anchored = Anchored(
        reward.clone(),
        torch.zeros_like(reward),
        no_B,
        no_B.clone(),
        torch.full_like(reward, torch.nan),
    )
    if not bool(can_B.any()):
        return anchored
    given = target(logp_ref[can_B], reward[can_B], None if group_B is None else group_B[can_B])
    augmented = augmented_reward(given.log_target, logp_ref[can_B], target.beta)
    rbar = torch.where(given.hit, augmented, reward[can_B])
    anchored.reward[can_B] = rbar
    anchored.bonus[can_B] = rbar - reward[can_B]
    anchored.hit[can_B] = given.hit
    anchored.anchor[can_B] = given.anchor
    anchored.anchor_logp_ref[can_B] = given.anchor_logp_ref
    return anchored


def anchored_rewards(
    reward_B: Tensor,
    logp_ref_B: Tensor,
    group_B: Tensor | None = None,
    *,
    beta: float,
    tau: float | None = None,
    complete_B: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return Rbar for a trainer that subtracts beta KL(pi || pi_ref) itself, a sequence at a time.

    A hit (R >= tau) has R(z) + beta (lr(z) - lr), z the likeliest hit of its group under the
    reference; every other row keeps R (Algorithm 1 of arXiv 2510.20817). With any other beta than
    the trainer's the hits are not flat. Further options are those of ``chemkl.losses.Mara``, the
    other arguments those of `anchor_rewards`.

    Raises:
        ValueError: an option that Mara refuses, and what ``anchor_rewards`` refuses.
    """
    target = Mara(beta=beta, tau=tau, **options)
    return anchor_rewards(target, reward_B, logp_ref_B, group_B, complete_B).reward
