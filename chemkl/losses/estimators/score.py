"""Estimators of the reverse KL(pi || target) by the score s = beta (log_target - lp).

Legend: B rows of a batch; lp log pi_theta (with graph); log_target the unnormalised target; beta
the KL coefficient.
"""

import math

import torch
from torch import Tensor

from chemkl.losses.estimators.base import (
    Metrics,
    Shape,
    against_the_others,
    check_above_0,
    estimator,
    sizes_B,
    unshaped,
)
from chemkl.losses.estimators.states import LearnedLogZ
from chemkl.losses.reductions import Groups, mean_over_rows
from chemkl.losses.types import check_rows

_EPSILON = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


@estimator("reinvent", off_policy=True)
def reinvent(logp_policy_B: Tensor, log_target_B: Tensor) -> tuple[Tensor, Metrics]:
    """REINVENT's difference between augmented and posterior: mean (log_target - lp)^2.

    With the gibbs target log_target = lr + sigma R is the augmented likelihood of REINVENT
    (Olivecrona et al., arXiv 1704.07555; "DAP" in later versions). On rows of the policy itself its
    expected gradient is 2/beta that of -J, the reverse-KL objective, at the value log Z = 0 of the
    partition function: there is no baseline, hence more variance than that of ``rloo``.

    Deviations:
        1. The target may be any of full support.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B)
    return mean_over_rows((log_target_B - logp_policy_B) ** 2), {}


@estimator("rloo", off_policy=False)
def rloo(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
) -> tuple[Tensor, Metrics]:
    """Reverse-KL policy gradient, leave-one-out baseline: -mean((s - mean of the others' s) lp).

    Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!"); Ahmadian et al., arXiv
    2402.14740. Its expected gradient is that of -J = beta KL(pi || G) + constant, for the
    normalised target G. The baseline is that of the row's group. On rows that another policy
    sampled it is not: there the score function needs importance weights.

    Deviations:
        1. The KL is inside the score, as -beta lp + beta lr, for the whole sequence at once.
        2. The target may be any of full support.
        3. A shaper, if there is one, changes s minus its baseline.

    Metrics: advantage_std, the standard deviation of s minus its baseline.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    advantage_B = shape(against_the_others("rloo", score_B, groups))
    loss = -mean_over_rows(advantage_B * logp_policy_B)
    return loss, {"advantage_std": advantage_B.std(correction=0)}


@estimator("grpo", off_policy=False)
def grpo(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    normalise: bool = True,
    clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Group-relative policy gradient: -mean(A lp), A = (s - mean of the group) / its deviation.

    Shao et al., arXiv 2402.03300. Without ``normalise`` (Dr. GRPO, Liu et al., arXiv 2503.20783)
    the expected gradient is (n-1)/n that of ``rloo`` for groups of n rows. The division by the
    deviation is a bias: it changes the step of each group, by a factor that its own rows decide.

    Deviations:
        1. The TOTAL score, KL included, is centred and divided. With the KL in the loss beside
           normalised rewards the effective coefficient would be beta times the deviation, and
           the target would no longer be the one asked for.
        2. One probability ratio for the whole sequence, not one a token, with ``clip`` only.
        3. The target may be any of full support.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target.
        logp_behaviour_B: lp when the row was sampled; ``clip`` compares with it.
        beta: the KL coefficient.
        group_B: group numbers; None is one group.
        shape: the shaper.
        normalise: divide by the deviation of the group; a group of equal scores has advantage 0.
        clip: PPO's: no gain from moving exp(lp - lp_behaviour) beyond 1 - clip or 1 + clip. For
            several updates on one batch; in the first of them it changes nothing.

    Metrics: advantage_std, and with ``clip`` clip_rate, the share of rows that it holds.
    """
    check_rows(
        logp_policy=logp_policy_B,
        log_target=log_target_B,
        logp_behaviour=logp_behaviour_B,
        group=group_B,
    )
    if clip is not None and not 0 < clip < 1:
        raise ValueError(f"grpo: clip must lie strictly in (0, 1), or be None, got {clip}")
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    size_B = sizes_B("grpo", groups)
    advantage_B = score_B - groups.mean_B(score_B)
    if normalise:
        variance_B = groups.mean_B(advantage_B**2) * size_B / (size_B - 1)
        # below the rounding of what the scores are made of there is nothing to tell apart
        size_of_terms_B = beta * (log_target_B.abs() + logp_policy_B.detach().abs())
        rounding_B = groups.mean_B(size_of_terms_B) * 8 * _EPSILON[score_B.dtype]
        deviation_B = variance_B.sqrt()
        # written so that NaN stays NaN, which the objective refuses
        advantage_B = torch.where(deviation_B <= rounding_B, 0.0, advantage_B / deviation_B)
    advantage_B = shape(advantage_B)
    metrics = {"advantage_std": advantage_B.std(correction=0)}
    if clip is None:
        return -mean_over_rows(advantage_B * logp_policy_B), metrics
    log_ratio_B = logp_policy_B - logp_behaviour_B
    up_B = (advantage_B > 0) & (log_ratio_B > math.log1p(clip))
    down_B = (advantage_B < 0) & (log_ratio_B < math.log1p(-clip))
    held_B = up_B | down_B
    # a held row never enters exp: its overflow would make 0 * inf of the gradient
    ratio_B = torch.where(held_B, 0.0, log_ratio_B).exp()
    bound_B = torch.where(up_B, ratio_B.new_tensor(1 + clip), 1 - clip)
    metrics["clip_rate"] = held_B.to(ratio_B).mean()
    return -mean_over_rows(advantage_B * torch.where(held_B, bound_B, ratio_B)), metrics


@estimator("log_variance", off_policy=True)
def log_variance(
    logp_policy_B: Tensor, log_target_B: Tensor, group_B: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """The variance of the log-ratio log_target - lp over the batch; 0 when lp is the target.

    VarGrad: Richter et al., arXiv 2010.10436. The unbiased variance, with a gradient that is 2/beta
    times that of ``rloo`` on the same rows, to rounding. As a loss it is right on rows from
    anywhere: it is 0 at the target and positive elsewhere, whatever distribution covers the space.

    Deviations:
        1. The variance itself, not half of it.
        2. Groups: the mean of the groups' variances, weighted by their numbers of rows.
        3. The target may be any of full support.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    groups = Groups.of(group_B, logp_policy_B)
    log_ratio_B = log_target_B - logp_policy_B
    deviation_B = log_ratio_B - groups.mean_B(log_ratio_B)
    size_B = sizes_B("log_variance", groups)
    return mean_over_rows(deviation_B**2 * size_B / (size_B - 1)), {}


@estimator("trajectory_balance", off_policy=True)
def trajectory_balance(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    learned_log_z: LearnedLogZ,
    group_B: Tensor | None = None,
    *,
    log_z_rate: float = 100.0,
) -> tuple[Tensor, Metrics]:
    """Trajectory balance with a learned constant: mean (log Z + lp - log_target)^2.

    Malkin et al., arXiv 2201.13259; as a way to post-train a language model: FlowRL, Zhu et al.,
    arXiv 2509.15207. It is 0 when the policy is the target and log Z its partition function,
    whatever distribution covers the space. ``reinvent`` is this with log Z = 0; at the log Z that
    is best for the batch it is ``log_variance`` up to a factor (n-1)/n.

    Deviations:
        1. log Z is one number, not a network of the prompt: it takes a single group.
        2. log Z starts at the first batch's mean of log_target - lp.
        3. The target may be any of full support.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target.
        learned_log_z: log Z, an additional parameter for the optimizer.
        group_B: group numbers, all the same; None is one group.
        log_z_rate: how much faster than the policy's weights log Z is learned.

    Metrics: log_z.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    check_above_0("trajectory_balance", log_z_rate=log_z_rate)
    n_groups = len(Groups.of(group_B, logp_policy_B).ids_N)
    if n_groups > 1:
        raise ValueError(
            f"trajectory_balance learns one log Z, but the batch has {n_groups} groups, each with "
            "a partition function of its own: use log_variance, which estimates it for each group"
        )
    log_ratio_B = log_target_B - logp_policy_B
    log_z = learned_log_z.value(log_ratio_B.detach().mean(), log_z_rate)
    loss = mean_over_rows((log_z.to(log_ratio_B) - log_ratio_B) ** 2)
    return loss, {"log_z": log_z}
