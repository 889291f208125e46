"""Estimators of the KL between policy and reference: values to report, surrogates to train on.

Legend: B rows sampled by the policy; lp log pi_theta, lr log pi_ref; d = lr - lp the log-ratio.
k1 = -d, k2 = d^2/2 and k3 = exp(d) - d - 1 (J. Schulman, "Approximating KL Divergence",
joschu.net/blog/kl-approx.html, 2020) estimate the reverse KL, KL(pi || pi_ref). Their expected
gradients differ (Liu et al., arXiv 2510.01555): 0 for k1, that of the reverse KL for k2, and that
of the forward KL, KL(pi_ref || pi), for k3. So the ``_value`` functions have no graph, and each
``_surrogate_`` is named by its gradient. All return a number per row, to be averaged.

The loss core reports ``k3_value``; the others are for training loops that add a KL to their loss.
"""

import math

import torch
from torch import Tensor

from chemkl.losses.types import check_rows, check_values

LOG_RATIO_CLIP = 20.0
"""Nats beyond which k3 continues as a straight line; exp(20) is 5e8, exp(89) overflows fp32."""


def k1_value(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Return -d, nats, without graph: unbiased, of high variance and either sign."""
    return -_log_ratio(logp_policy_B, logp_ref_B).detach()


def k2_value(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Return d^2/2, nats, without graph: biased to third order in d, never negative."""
    return _log_ratio(logp_policy_B, logp_ref_B).detach().square() / 2


def k3_value(
    logp_policy_B: Tensor, logp_ref_B: Tensor, *, clip: float | None = LOG_RATIO_CLIP
) -> Tensor:
    """Return exp(d) - d - 1, nats, without graph: unbiased without ``clip``, never negative.

    Args:
        logp_policy_B: log pi_theta.
        logp_ref_B: log pi_ref.
        clip: nats above 0. Beyond it k3 continues along its tangent. The mean is then too low, by
            at most the probability of the sequences with d > clip under the reference. None: no
            clip.
    """
    return _k3(_log_ratio(logp_policy_B, logp_ref_B).detach(), clip)


def reverse_kl_surrogate_score(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Return k1 without graph, times lp: the expected gradient is exactly that of the reverse KL.

    The value means nothing. It has no baseline; on rows of the policy a constant may be subtracted
    from k1.
    """
    return k1_value(logp_policy_B, logp_ref_B) * logp_policy_B


def reverse_kl_surrogate_k2(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Return k2 with its graph: the expected gradient is exactly that of the reverse KL.

    The gradient of each row is that of ``reverse_kl_surrogate_score``; the value is biased.
    """
    return _log_ratio(logp_policy_B, logp_ref_B).square() / 2


def forward_kl_surrogate_k3(
    logp_policy_B: Tensor, logp_ref_B: Tensor, *, clip: float | None = LOG_RATIO_CLIP
) -> Tensor:
    """Return k3 with its graph: the expected gradient is that of the *forward* KL.

    The value estimates the reverse KL. A loss that adds k3 to bound KL(pi || pi_ref) has another
    optimum.

    Args:
        logp_policy_B: log pi_theta.
        logp_ref_B: log pi_ref; may be an anchored reference, which need not be normalised.
        clip: nats above 0: a row with d above it has the weight exp(clip) instead of exp(d), not 0
            as with a clamped log-ratio. Its share pi_ref(y) of the gradient is reduced to
            pi(y) exp(clip). None: no clip.
    """
    return _k3(_log_ratio(logp_policy_B, logp_ref_B), clip)


def _log_ratio(logp_policy_B: Tensor, logp_ref_B: Tensor) -> Tensor:
    """Check both, and return d = lr - lp, without a gradient for the reference."""
    check_rows(logp_policy=logp_policy_B, logp_ref=logp_ref_B)
    check_values("logp", logp_policy=logp_policy_B, logp_ref=logp_ref_B)
    return logp_ref_B.detach() - logp_policy_B


def _k3(log_ratio_B: Tensor, clip: float | None) -> Tensor:
    """Return exp(d) - d - 1, and beyond ``clip`` its tangent."""
    if clip is None:
        return torch.expm1(log_ratio_B) - log_ratio_B
    if not 0 < clip < math.inf:
        raise ValueError(
            f"clip must be a finite number of nats above 0, or None, got {clip}; "
            f"{LOG_RATIO_CLIP:g} is the default"
        )
    inside_B = log_ratio_B.clamp(max=clip)
    beyond_B = (log_ratio_B - clip).clamp(min=0)  # gradient 0 for rows inside
    return torch.expm1(inside_B) - inside_B + math.expm1(clip) * beyond_B
