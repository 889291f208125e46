"""Estimators of the KL between policy and reference, the value of each apart from its gradient.

Legend: B rows that the policy itself sampled; lp log pi_theta, lr log pi_ref; d = lr - lp the
log-ratio. k1 = -d, k2 = d^2/2 and k3 = exp(d) - d - 1 (J. Schulman, "Approximating KL Divergence",
joschu.net/blog/kl-approx.html, 2020) estimate KL(pi || pi_ref), the reverse KL; what
back-propagating them does is another matter (Liu et al., arXiv 2510.01555): nothing for k1, the
gradient of the reverse KL for k2, that of the forward KL, KL(pi_ref || pi), for k3. So there is a
``_value`` to report and a ``_surrogate_`` to train on; each is a number per row, to be averaged.
"""

import math

import torch
from torch import Tensor

from chemkl.losses.types import check_rows, check_values

LOG_RATIO_CLIP = 20.0
"""Nats beyond which k3 goes on as a straight line; exp(20) is 5e8, exp(89) overflows fp32."""


def k1_value(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """The value -d, nats, without graph: unbiased; of high variance and of either sign."""
    return -_log_ratio(logp_policy_B, logp_ref_B).detach()


def k2_value(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """The value d^2/2, nats, without graph: biased, to third order in d; never negative."""
    return _log_ratio(logp_policy_B, logp_ref_B).detach().square() / 2


def k3_value(
    logp_policy_B: Tensor, logp_ref_B: Tensor, *, clip: float | None = LOG_RATIO_CLIP
) -> Tensor:
    """The value exp(d) - d - 1, nats, without graph: unbiased without ``clip``; never negative.

    Args:
        logp_policy_B: log pi_theta.
        logp_ref_B: log pi_ref.
        clip: nats above 0. Where d is above it, k3 is continued along its tangent. The mean is then
            too low, by at most the probability that the reference gives to the sequences with
            d > clip. None: no clip.
    """
    return _k3(_log_ratio(logp_policy_B, logp_ref_B).detach(), clip)


def reverse_kl_surrogate_score(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """k1 without graph, times lp: its expected gradient is that of KL(pi || pi_ref), exactly.

    Its value means nothing. Without a baseline; on the policy's own rows a constant may be
    subtracted from k1.
    """
    return k1_value(logp_policy_B, logp_ref_B) * logp_policy_B


def reverse_kl_surrogate_k2(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """k2 with its graph: its expected gradient is that of KL(pi || pi_ref), exactly.

    Row by row it is that of ``reverse_kl_surrogate_score``; the value is that of k2, biased.
    """
    return _log_ratio(logp_policy_B, logp_ref_B).square() / 2


def forward_kl_surrogate_k3(
    logp_policy_B: Tensor, logp_ref_B: Tensor, *, clip: float | None = LOG_RATIO_CLIP
) -> Tensor:
    """k3 with its graph: its expected gradient is that of the *forward* KL, KL(pi_ref || pi).

    The value is that of the reverse KL. A run that adds k3 to its loss to hold KL(pi || pi_ref)
    down walks to another optimum.

    Args:
        logp_policy_B: log pi_theta.
        logp_ref_B: log pi_ref; may be an anchored reference, which need not be normalised.
        clip: nats above 0: a row with d above it weighs exp(clip) instead of exp(d), never 0 as
            with a clamped log-ratio. Its share pi_ref(y) of the gradient is cut to
            pi(y) exp(clip). None: no clip.
    """
    return _k3(_log_ratio(logp_policy_B, logp_ref_B), clip)


def _log_ratio(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Check both and return d = lr - lp; the reference never gets a gradient."""
    check_rows(logp_policy=logp_policy_B, logp_ref=logp_ref_B)
    check_values("logp", logp_policy=logp_policy_B, logp_ref=logp_ref_B)
    return logp_ref_B.detach() - logp_policy_B


def _k3(log_ratio_B: Tensor, clip: float | None) -> Tensor:
    """exp(d) - d - 1, and beyond ``clip`` its tangent there."""
    if clip is None:
        return torch.expm1(log_ratio_B) - log_ratio_B
    if not 0 < clip < math.inf:
        raise ValueError(
            f"clip must be a finite number of nats above 0, or None, got {clip}; "
            f"{LOG_RATIO_CLIP:g} is the default"
        )
    inside_B = log_ratio_B.clamp(max=clip)
    beyond_B = (log_ratio_B - clip).clamp(min=0)  # its own clamp: rows inside have gradient 0 here
    return torch.expm1(inside_B) - inside_B + math.expm1(clip) * beyond_B
