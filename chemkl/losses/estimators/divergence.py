"""Estimators of other divergences to the target, by a pseudo-reward -f'(pi/p).

Legend: B rows of a batch; lp log pi_theta (with graph); u = lp - log p with p the normalised
target; Z its partition function.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from chemkl.losses.estimators.base import (
    Metrics,
    Shape,
    against_the_others,
    any_target,
    check_above_0,
    estimator,
    unshaped,
)
from chemkl.losses.estimators.states import AverageLogZ
from chemkl.losses.reductions import Groups, mean_over_rows
from chemkl.losses.targets import Target
from chemkl.losses.types import check_rows

Divergence = Literal["kl", "reverse_kl", "js", "tv"]


def _f_dpg_refuses(target: Target, *, divergence: Divergence = "kl", **_: Any) -> str | None:
    """Refuse a target without full support where the force would not be bounded."""
    if target.full_support or divergence != "reverse_kl":
        return None
    return (
        "which is -inf outside of the hits: with the divergence reverse_kl the score of every "
        "other row would be infinite. Use the divergence kl, js or tv, or the target gibbs or mara"
    )


@estimator("f_dpg", off_policy=False, refuses=_f_dpg_refuses)
def f_dpg(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    divergence: Divergence = "kl",
    decay: float = 0.99,
    clip: float = 20.0,
) -> tuple[Tensor, Metrics]:
    """f-DPG: the policy gradient of D_f(pi || p) = E_p[f(pi/p)], pseudo-reward -f'(e^u).

    Go et al., arXiv 2302.08215. f' is, in their words: "kl" KL(p || pi), -exp(-u); "reverse_kl"
    KL(pi || p), u + 1; "js" Jensen-Shannon, log 2 - softplus(-u); "tv" total variation, sign(u)/2.
    With "kl" it is DPG (Parshakova et al., arXiv 1912.08517); with "reverse_kl" that of ``rloo``
    without the factor beta. Z is a moving average of the batches' mean exp(log_target - lp).

    Deviations:
        1. The baseline is the mean of the others of the group.
        2. Z includes the batch itself, which makes a bias of the order 1/B that averages out as
           ``decay`` goes to 1; the average of old batches is one of an older policy.
        3. exp(-u) is held at exp(clip): another divergence, with the same optimum, that differs
           for rows that rare under the policy only.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target; -inf is allowed but with "reverse_kl".
        average_log_z: the memory of Z.
        group_B: group numbers; None is one group.
        shape: the shaper.
        divergence: "kl", "reverse_kl", "js" or "tv".
        decay: of the average of Z a batch, from 0 (this batch alone) to less than 1.
        clip: nats, above 0.

    Metrics: advantage_std; log_z, the mean over the rows.
    """
    if divergence not in get_args(Divergence):
        allowed = ", ".join(get_args(Divergence))
        raise ValueError(f"f_dpg: divergence must be one of {allowed}, got {divergence!r}")
    check_above_0("f_dpg", clip=clip)
    u_B, log_z_B = _normalised("f_dpg", logp_policy_B, log_target_B, average_log_z, group_B, decay)
    pseudo_reward_B = {
        "kl": lambda: (-u_B).clamp(max=clip).exp(),
        "reverse_kl": lambda: -(u_B + 1),
        "js": lambda: softplus(-u_B) - math.log(2),
        "tv": lambda: torch.where(u_B.isnan(), u_B, -torch.sign(u_B) / 2),  # sign(NaN) is 0
    }[divergence]()
    groups = Groups.of(group_B, logp_policy_B)
    advantage_B = shape(against_the_others("f_dpg", pseudo_reward_B, groups))
    loss = -mean_over_rows(advantage_B * logp_policy_B)
    return loss, {"advantage_std": advantage_B.std(correction=0), "log_z": log_z_B.mean()}


@estimator("alpha_dpg", off_policy=False, refuses=any_target)
def alpha_dpg(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    alpha: float = 0.5,
    most: float = 10.0,
    decay: float = 0.99,
) -> tuple[Tensor, Metrics]:
    """alpha-DPG: the alpha-divergence between KL(p || pi) (0) and KL(pi || p) (towards 1).

    Pseudo-reward min(expm1(-(1 - alpha) u), most); that of f = (t^alpha - alpha t - 1 + alpha) /
    (alpha (alpha - 1)) times 1 - alpha, so the step stays of one size as alpha goes to 1.
    Kruszewski et al., arXiv 2512.05962, who have the filter target; any other will do. Z is that of
    ``f_dpg``.

    Deviations:
        1. The factor 1 - alpha.
        2. Z is a moving average over batches of the policy's own rows, see ``f_dpg``.

    Args:
        logp_policy_B: lp, with graph.
        log_target_B: the unnormalised log target; -inf is allowed.
        average_log_z: the memory of Z.
        group_B: group numbers; None is one group.
        shape: the shaper.
        alpha: 0 covers the target, towards 1 it seeks its modes; from 0 to less than 1.
        most: where the pseudo-reward is cut, above 0: another divergence, with the same optimum,
            that differs for rows rare under the policy.
        decay: of the average of Z a batch, from 0 to less than 1.

    Metrics: advantage_std; log_z; clip_rate, the share of rows cut.
    """
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha_dpg: alpha must lie in [0, 1), got {alpha}; for KL(pi || p) itself take rloo"
        )
    check_above_0("alpha_dpg", most=most)
    u_B, log_z_B = _normalised(
        "alpha_dpg", logp_policy_B, log_target_B, average_log_z, group_B, decay
    )
    free_B = torch.expm1(-(1 - alpha) * u_B)
    groups = Groups.of(group_B, logp_policy_B)
    advantage_B = shape(against_the_others("alpha_dpg", free_B.clamp(max=most), groups))
    metrics = {
        "advantage_std": advantage_B.std(correction=0),
        "log_z": log_z_B.mean(),
        "clip_rate": (free_B > most).to(u_B).mean(),
    }
    return -mean_over_rows(advantage_B * logp_policy_B), metrics


def _normalised(
    name: str,
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Return u = lp - log_target + log Z, +inf where the target is -inf, and log Z; no graph."""
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    if not 0 <= decay < 1:
        raise ValueError(f"{name}: decay must lie in [0, 1), got {decay}")
    logp_B = logp_policy_B.detach()
    groups = Groups.of(group_B, logp_B)
    log_z_B = average_log_z.update(log_target_B - logp_B, groups, decay)
    outside_B = log_target_B == -torch.inf
    return torch.where(outside_B, torch.inf, logp_B - log_target_B + log_z_B), log_z_B
