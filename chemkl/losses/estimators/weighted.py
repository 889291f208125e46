"""Estimators of KL(target || pi) by weighted maximum likelihood: rows weigh target / proposal.

Legend: B rows of a batch; lp log pi_theta (with graph); q the policy that sampled a row.
"""

import torch
from torch import Tensor

from chemkl.losses.estimators.base import Metrics, any_target, estimator, sizes_B
from chemkl.losses.estimators.states import Chains
from chemkl.losses.reductions import Groups, mean_over_rows
from chemkl.losses.types import check_rows

_BISECTIONS = 40


@estimator("snis", off_policy=True, refuses=any_target)
def snis(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    group_B: Tensor | None = None,
    *,
    ess: float = 0.1,
) -> tuple[Tensor, Metrics]:
    """Self-normalised importance sampling: -sum w lp, w the softmax of log_target - log q.

    The gradient of KL(p || pi) for the normalised target p, as in reweighted wake-sleep (Bornschein
    and Bengio, arXiv 1406.2751); with fixed weights it is maximum likelihood on p. Rows may come
    from anywhere if log q is given. The weights' normalisation makes a bias of the order 1/B, none
    where the policy is the target.

    Deviations:
        1. Tempering: where few rows carry the weight, log w is multiplied by the largest number up
           to 1 for which the effective sample size reaches the share ``ess`` of the rows that can
           have weight. At the target the weights are equal, and nothing is tempered.
        2. Groups: each is normalised by itself and counts by its rows.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target; -inf gives weight 0.
        logp_behaviour_B: log q.
        group_B: group numbers; None is one group, of two rows or more. A group without weight
            changes nothing.
        ess: from 0 (no tempering) to less than 1.

    Metrics: ess, the effective sample size as a share of the rows, before tempering; temper, the
    mean of the multipliers.
    """
    check_rows(
        logp_policy=logp_policy_B,
        log_target=log_target_B,
        logp_behaviour=logp_behaviour_B,
        group=group_B,
    )
    groups = Groups.of(group_B, logp_policy_B)
    sizes_B("snis", groups)  # one row alone has the weight 1, whatever it is
    log_weight_B = log_target_B - logp_behaviour_B
    return _weighted_likelihood("snis", logp_policy_B, log_weight_B, groups, ess)


@estimator("msc", off_policy=False, refuses=any_target)
def msc(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    chains: Chains,
    retained_B: Tensor | None = None,
    group_B: Tensor | None = None,
    *,
    ess: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Metrics]:
    """Markovian score climbing: ``snis`` with a row of each group retained from batch to batch.

    Naesseth, Lindsten and Blei, arXiv 2003.10374. Proposals of the policy and the retained row are
    weighed together (conditional importance sampling); one of them, drawn by its weight, is the
    next retained row. For a policy at rest the chain's rows follow the target whatever the batch
    size, so the bias of ``snis`` fades with the steps instead of with B.

    Deviations:
        1. The gradient uses all rows by their weights, not the drawn one alone: the same
           expectation given the batch, with less variance.
        2. Tempering as in ``snis``, of the gradient's weights only, off by default.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target; -inf gives weight 0.
        logp_behaviour_B: log q; of the retained row under today's policy.
        chains: draws the next retained rows.
        retained_B: True at the rows that were carried, at most one a group; None: the first batch.
        group_B: group numbers; None is one group.
        ess: see ``snis``.
        seed: of the draws.

    Metrics: those of ``snis``; moved, the share of the groups whose retained row was replaced.
    """
    check_rows(
        logp_policy=logp_policy_B,
        log_target=log_target_B,
        logp_behaviour=logp_behaviour_B,
        group=group_B,
        retained=retained_B,
    )
    groups = Groups.of(group_B, logp_policy_B)
    kept_B = torch.zeros_like(log_target_B, dtype=torch.bool) if retained_B is None else retained_B
    if bool((groups.sum_B(kept_B.long()) > 1).any()):
        raise ValueError(
            "msc retains one row a group, but a group of the batch has several: give each chain a "
            "group number of its own"
        )
    log_weight_B = log_target_B - logp_behaviour_B
    chains.draw(log_weight_B, groups, seed)
    loss, metrics = _weighted_likelihood("msc", logp_policy_B, log_weight_B, groups, ess)
    assert chains.carry_B is not None  # draw has set it
    metrics["moved"] = (chains.carry_B & ~kept_B).sum() / len(groups.ids_N)
    return loss, metrics


def _weighted_likelihood(
    name: str, logp_policy_B: Tensor, log_weight_B: Tensor, groups: Groups, ess: float
) -> tuple[Tensor, Metrics]:
    """Return the weighted likelihood of the batch, and how few rows carried it."""
    if not 0 <= ess < 1:
        raise ValueError(f"{name}: ess must lie in [0, 1), got {ess}")
    share_B = _ess_share_B(log_weight_B, groups)
    temper_B = _temper_B(log_weight_B, groups, ess)
    weight_B = _softmax_B(_tempered(log_weight_B, temper_B), groups)
    loss = -mean_over_rows(weight_B * groups.size_B() * logp_policy_B)
    return loss, {"ess": share_B.mean(), "temper": temper_B.mean()}


def _softmax_B(log_weight_B: Tensor, groups: Groups) -> Tensor:
    """Weights that sum to 1 over each group; all 0 in a group without any."""
    possible_B = log_weight_B != -torch.inf  # NaN goes through, for the objective to refuse
    highest_B = groups.max_N(log_weight_B, possible_B)[groups.index_B]
    raw_B = torch.where(possible_B, (log_weight_B - highest_B).exp(), 0.0)
    return torch.where(possible_B, raw_B / groups.sum_B(raw_B).clamp(min=1), 0.0)


def _ess_share_B(log_weight_B: Tensor, groups: Groups) -> Tensor:
    """The effective sample size of each row's group, as a share of its rows; 0 without weight."""
    weight_B = _softmax_B(log_weight_B, groups)
    square_B = groups.sum_B(weight_B**2)
    return torch.where(square_B > 0, 1 / square_B, 0.0) / groups.size_B()


def _tempered(log_weight_B: Tensor, multiplier_B: Tensor) -> Tensor:
    """The log weights times a multiplier; a row without weight stays so at 0 too."""
    impossible_B = log_weight_B == -torch.inf
    return torch.where(impossible_B, -torch.inf, log_weight_B * multiplier_B)


def _temper_B(log_weight_B: Tensor, groups: Groups, ess: float) -> Tensor:
    """The largest multiplier up to 1 with which each row's group reaches its share of rows."""
    possible_B = log_weight_B > -torch.inf
    wanted_B = ess * groups.sum_B(possible_B.to(log_weight_B)) / groups.size_B()

    def reached_B(multiplier_B: Tensor) -> Tensor:
        return _ess_share_B(_tempered(log_weight_B, multiplier_B), groups) >= wanted_B

    low_B, high_B = torch.zeros_like(log_weight_B), torch.ones_like(log_weight_B)
    done_B = reached_B(high_B)
    for _ in range(_BISECTIONS if not bool(done_B.all()) else 0):
        middle_B = (low_B + high_B) / 2
        enough_B = reached_B(middle_B)
        low_B = torch.where(enough_B, middle_B, low_B)
        high_B = torch.where(enough_B, high_B, middle_B)
    return torch.where(done_B, 1.0, low_B)
