"""Closed-form optima of the objectives on finite spaces.

Legend: V all sequences of the space; lr log pi_ref; R reward; beta the KL coefficient; z the
anchor. Computed in float64 and returned in the precision of ``logp_ref``, which is normalised
first. The formulas are those of GX-Chen et al., arXiv 2510.20817.
"""

from typing import Literal

import torch
from torch import Tensor

from chemkl.losses.targets import resolve_beta
from chemkl.losses.types import check_rows, check_values

_BISECTIONS = 200  # halves the bracket to the last bit of a float64


def reverse_kl_optimum(reward: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """Return the maximiser of E_pi[R] - beta KL(pi || pi_ref): G = pi_ref exp(R/beta) / zeta."""
    reward_V, logp_ref_V = _in_double(reward, logp_ref, beta)
    return torch.softmax(logp_ref_V + reward_V / beta, dim=0).to(logp_ref.dtype)


def forward_kl_optimum(reward: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """Return the maximiser of E_pi[R] - beta KL(pi_ref || pi): G = beta pi_ref / (L - R)."""
    reward_V, logp_ref_V = _in_double(reward, logp_ref, beta)
    return _forward(reward_V, logp_ref_V, beta).to(logp_ref.dtype)


def mara_optimum(
    reward: Tensor,
    logp_ref: Tensor,
    beta: float,
    *,
    tau: float,
    kl: Literal["reverse", "forward"] = "reverse",
) -> Tensor:
    """Return the optimum of the MARA objective, with the anchor of the whole space.

    Algorithm 2 gives every hit (R >= tau) the anchor's reward and reference probability. The anchor
    is the likeliest hit, the first of a tie; without a hit nothing changes. Under the reverse KL,
    Algorithm 1 (R(z) + beta (lr(z) - lr) as the reward of a hit) has the same optimum; under the
    forward KL it does not flatten the hits.
    """
    if kl not in ("reverse", "forward"):
        raise ValueError(f"kl must be 'reverse' or 'forward', got {kl!r}")
    reward_V, logp_ref_V = _in_double(reward, logp_ref, beta)
    hit_V = reward_V >= tau
    if bool(hit_V.any()):
        z = int(torch.where(hit_V, logp_ref_V, -torch.inf).argmax())
        reward_V = torch.where(hit_V, reward_V[z], reward_V)
        logp_ref_V = torch.where(hit_V, logp_ref_V[z], logp_ref_V)
    if kl == "reverse":
        return torch.softmax(logp_ref_V + reward_V / beta, dim=0).to(logp_ref.dtype)
    return _forward(reward_V, logp_ref_V, beta).to(logp_ref.dtype)


def _in_double(reward: Tensor, logp_ref: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Check the arguments; return reward and normalised log reference in float64."""
    check_rows(reward=reward, logp_ref=logp_ref)
    check_values("reward", reward=reward)
    check_values("logp", logp_ref=logp_ref)
    resolve_beta(beta, None)
    return reward.detach().double(), torch.log_softmax(logp_ref.detach().double(), dim=0)


def _forward(reward_V: Tensor, logp_ref_V: Tensor, beta: float) -> Tensor:
    """Solve sum of beta p / (L - R) = 1 for L by bisection; p = exp(logp_ref) may sum to any mass.

    The unknown is L - max R: it is at least beta times the mass of the best sequences (their terms
    alone would exceed 1 below that) and at most beta times the whole mass.
    """
    p_V = logp_ref_V.exp()
    gap_V = reward_V.max() - reward_V
    low, high = float(beta * p_V[gap_V == 0].sum()), float(beta * p_V.sum())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float((beta * p_V / (middle + gap_V)).sum()) > 1:
            low = middle
        else:
            high = middle
    return beta * p_V / (high + gap_V)
