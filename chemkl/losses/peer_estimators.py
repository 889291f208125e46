"""Estimators of other programs that train molecule generators, in the terms of this one.

Three of them learn from the order of the rewards: `hill_climbing` and `ahc` from the best rows of a
batch, `dpo` from the better row of each pair. In general they do not converge to the target; their
docstrings state where they do.

Legend: B rows of a batch.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from chemkl.losses.estimators import (
    Metrics,
    Shape,
    against_the_others,
    clipped_policy_gradient,
    estimator,
    full_support_only,
    sizes_B,
    unshaped,
)
from chemkl.losses.registry import INSIDE, Range
from chemkl.losses.types import Groups, mean_over_rows

TOP = Range(0, 1, "(]", hint="it is a share: 0.5 of a batch of 64 are its 32 best rows")


@estimator("ppo", off_policy=False, weighs_old=True)
def ppo(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    retained_B: Tensor | None = None,
    *,
    clip: Annotated[float, INSIDE] = 0.2,
) -> tuple[Tensor, Metrics]:
    """Proximal policy optimisation, clipped: -mean min(r A, clip(r, 1 - clip, 1 + clip) A).

    Schulman et al., arXiv 1707.06347; r is the probability ratio of the current policy to the one
    that sampled the row, A the advantage of ``rloo``. Without clipped rows the expected gradient is
    that of the reverse KL, on rows of an older policy, too; in the first update on a batch r is 1,
    and the gradient is that of ``rloo``.

    Deviations:
        1. No critic: the baseline is the mean of the others of the row's group.
        2. One ratio for the whole sequence, not one a token.
        3. The KL to the prior is part of the score, under the current policy and not the one that
           sampled, so the target stays the fixed point for any number of updates on a batch.
        4. No entropy term; the shaper ``entropy`` adds one.
        5. Replayed rows have the ratio to the policy that sampled them, as in RePO (Li et al.,
           arXiv 2506.09340). It is at most 1 for rows of negative advantage, for which PPO has no
           bound (Ye et al., arXiv 1912.09729, use 3, and no gradient above). The target is still
           the only stationary point.

    Options:
        clip: bound on the probability ratio: no gain from moving it beyond 1 - clip or 1 + clip.
            For replay, and for several updates on one batch; it does not change the first update on
            sampled rows.

    Metrics: advantage_std; clip_rate, the share of clipped rows.
    """
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    advantage_B = shape(against_the_others("ppo", score_B, groups))
    return clipped_policy_gradient(advantage_B, logp_policy_B, logp_behaviour_B, clip, retained_B)


def _best_rows(
    name: str, reward_B: Tensor, logp_B: Tensor, groups: Groups, top_k: float
) -> tuple[Tensor, Metrics]:
    """Return weights 1/top_k for the best rows of each group, 0 for the rest; and the metrics.

    Rows tied at the edge share the remaining weight, the mean over all ways to break the tie. So
    the weights do not depend on the order of the rows, nor on their processes.
    """
    cast_B = reward_B.to(logp_B)
    n_best_B = top_k * sizes_B(name, groups).to(cast_B)
    together_BB = groups.index_B[:, None] == groups.index_B[None, :]
    above_B = (together_BB & (cast_B[None, :] > cast_B[:, None])).sum(dim=1)
    tied_B = (together_BB & (cast_B[None, :] == cast_B[:, None])).sum(dim=1)
    weight_B = ((n_best_B - above_B) / tied_B).clamp(0, 1) / top_k
    weight_B = weight_B + 0 * cast_B  # NaN and infinity pass, for the objective to refuse
    return weight_B, {"top_reward": mean_over_rows(weight_B * reward_B)}


@estimator("ahc", off_policy=True)
def ahc(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    reward_anchored_B: Tensor,
    group_B: Tensor | None = None,
    *,
    top_k: Annotated[float, TOP] = 0.5,
) -> tuple[Tensor, Metrics]:
    """Augmented hill climbing: REINVENT's loss, mean (log_target - lp)^2, on the best rows alone.

    Thomas et al., J. Cheminform. 14, 68 (2022). At top_k 1 it is ``reinvent``. Below, it is no
    estimator of the KL-regularised objective: it is stationary where w (log_target - lp) is
    constant, w the chance that a row is among the best of its batch. So rows of one reward have the
    target's ratio, and rows of lower reward, with a smaller w, less than the target gives them. In
    a large batch w is 1 above an edge and 0 below, where no mass is left. With gibbs that leaves a
    few of the best sequences at any beta; with mara, whose hits are tied, it is flat over the hits.

    Deviations:
        1. Rows are ranked by the target's reward, for a mara hit that of its anchor; rows tied at
           the edge share the remaining weight.
        2. Any target of full support.
        3. No diversity filter and no replay of its own: those of the run apply.

    Options:
        top_k: share of the batch that is learnt from, its best rows; 0.5 in the paper.

    Metrics: top_reward, the mean reward of these rows.
    """
    groups = Groups.of(group_B, logp_policy_B)
    weight_B, metrics = _best_rows("ahc", reward_anchored_B, logp_policy_B, groups, top_k)
    return mean_over_rows(weight_B * (log_target_B - logp_policy_B) ** 2), metrics


_order_refuses = partial(
    full_support_only,
    why="nothing is ranked there, and all hits are equal. Use the target gibbs or mara",
)


@estimator("hill_climbing", off_policy=True, refuses=_order_refuses)
def hill_climbing(
    logp_policy_B: Tensor,
    reward_anchored_B: Tensor,
    group_B: Tensor | None = None,
    *,
    top_k: Annotated[float, TOP] = 0.25,
) -> tuple[Tensor, Metrics]:
    """Hill climbing: maximum likelihood of the best rows of a batch, -mean lp over them.

    Segler et al., ACS Cent. Sci. 4, 120 (2018); Neil et al., "Exploring deep recurrent models with
    reinforcement learning for molecule design" (2018). It is no estimator of the KL-regularised
    objective: it uses neither the prior nor beta, and of the target only the rewards. Any policy on
    sequences of one reward is stationary; it ends on those of the best reward, in ratios that
    depend on chance and the start.

    Deviations:
        1. One step on each batch, not epochs over the best of all batches so far.
        2. Rows are ranked by the target's reward, as in ``ahc``.

    Options:
        top_k: share of the batch that is learnt from, its best rows.

    Metrics: top_reward, the mean reward of these rows.
    """
    groups = Groups.of(group_B, logp_policy_B)
    weight_B, metrics = _best_rows("hill_climbing", reward_anchored_B, logp_policy_B, groups, top_k)
    return -mean_over_rows(weight_B * logp_policy_B), metrics


Labels = Literal["soft", "hard"]


@estimator("dpo", off_policy=True, refuses=_order_refuses)
def dpo(
    logp_policy_B: Tensor,
    logp_anchored_B: Tensor,
    reward_anchored_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    *,
    labels: Labels = "soft",
) -> tuple[Tensor, Metrics]:
    """Direct preference optimisation on all pairs of a batch: -log sigmoid of the margin.

    Rafailov et al., arXiv 2305.18290. The margin of a pair is beta ((lp - lr) of the winner minus
    that of the loser). In the Bradley-Terry model the first of two wins with probability
    sigmoid(R1 - R2); "soft" labels are the mean over such draws. The loss is smallest where every
    margin is the difference of the rewards, at the target, for rows from any distribution; near
    there it is beta^2/4 times ``log_variance``, plus a constant. With "hard" labels the higher
    reward always wins, as is usual if a score makes the pairs: no margin is wide enough then, so it
    is no estimator of the KL-regularised objective, and ends on sequences of the best reward.

    Deviations:
        1. All pairs of rows within a group of the batch.
        2. R and lr are those of the target: of a mara hit its anchor's, so hits tie.
        3. Pairs of equal reward: with soft labels each wins half of the time, with hard ones they
           do not count.

    Options:
        labels: soft: a row wins with probability sigmoid(difference of rewards), which ends at the
            target. hard: the higher reward always wins.

    Metrics: accuracy, the share of the pairs of unequal reward that the policy, relative to the
    reference, orders like the rewards.
    """
    groups = Groups.of(group_B, logp_policy_B)
    size_B = sizes_B("dpo", groups)
    implicit_B = beta * (logp_policy_B - logp_anchored_B)
    margin_BB = implicit_B[:, None] - implicit_B[None, :]
    reward_B = reward_anchored_B.to(logp_policy_B)
    gap_BB = reward_B[:, None] - reward_B[None, :]
    if labels == "soft":
        cost_BB = softplus(margin_BB) - torch.sigmoid(gap_BB) * margin_BB
    else:
        cost_BB = softplus(-torch.sign(gap_BB) * margin_BB)
    together_BB = groups.index_B[:, None] == groups.index_B[None, :]
    pair_BB = together_BB & ~torch.eye(len(reward_B), dtype=torch.bool, device=reward_B.device)
    unequal_BB = pair_BB & (gap_BB != 0)
    counted_BB = pair_BB if labels == "soft" else unequal_BB
    loss = mean_over_rows(torch.where(counted_BB, cost_BB, 0.0).sum(dim=1) / (size_B - 1))
    ordered = (margin_BB * gap_BB > 0)[unequal_BB].to(reward_B)
    return loss, {"accuracy": ordered.mean()}
