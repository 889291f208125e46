"""The estimator of RL regularised by the forward KL, which ends at no target's distribution.

Legend: B rows of a batch; P fresh samples of the reference; lp log pi_theta (with graph); lr
log pi_ref; beta the KL coefficient.
"""

from typing import Any, Literal, get_args

from torch import Tensor

from chemkl.losses.estimators.base import (
    Metrics,
    Shape,
    against_the_others,
    check_above_0,
    estimator,
    full_support_only,
    unshaped,
)
from chemkl.losses.kl import k3_value
from chemkl.losses.reductions import Groups, mean_over_rows
from chemkl.losses.targets import Gibbs, Target
from chemkl.losses.types import check_rows

Reference = Literal["batch", "prior"]


def _forward_kl_refuses(target: Target, *, reference: Reference = "batch", **_: Any) -> str | None:
    """Refuse a target without full support; with fresh prior samples, every one but gibbs."""
    if reference == "prior" and not isinstance(target, Gibbs):
        return (
            "by fresh samples of the prior: whether one of them is a hit would cost an oracle "
            "call, and without it the reference cannot be anchored. Use the reference batch, or "
            "the target gibbs"
        )
    return full_support_only(target)


@estimator("forward_kl", off_policy=False, refuses=_forward_kl_refuses)
def forward_kl(
    logp_policy_B: Tensor,
    logp_anchored_B: Tensor,
    reward_anchored_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    logp_policy_of_prior_P: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    reference: Reference = "batch",
    clip: float = 20.0,
) -> tuple[Tensor, Metrics]:
    """RL regularised by the forward KL: the gradient of -(E_pi[R] - beta KL(pi_ref || pi)).

    GX-Chen et al., arXiv 2510.20817. It ends at beta pi_ref / (L - R), which is not the gibbs
    target, and its gradient is not that of a KL to any fixed distribution. With the mara target R
    and pi_ref of a hit are those of its anchor (Algorithm 2); that flattens the hits here too,
    while an augmented reward (Algorithm 1) does not.

    The reward has a leave-one-out baseline. The KL comes from the rows of the batch, as the
    gradient of k3 = exp(d) - d - 1 with d = lr - lp, or from fresh samples of the reference as
    -mean lp.

    Deviations:
        1. exp(d) is held at exp(clip) (see there); the paper does not say what it did.
        2. The anchored reference is not normalised; its mass only shifts L.
        3. ``reference="prior"`` is not in the paper.

    Args:
        logp_policy_B: lp, with graph.
        logp_anchored_B: lr, of a hit that of its anchor.
        reward_anchored_B: R, of a hit that of its anchor.
        beta: the KL coefficient.
        group_B: group numbers; None is one group.
        logp_policy_of_prior_P: lp of fresh samples of the reference, for ``reference="prior"``.
        shape: the shaper of the reward's advantage.
        reference: "batch", or "prior": unbiased, never clipped, no oracle call, gibbs only.
        clip: nats, above 0. A row less likely than under the reference by more is pulled up as one
            at the clip is: biased, and only in that case.

    Metrics: advantage_std; k3, its mean, whose value is that of the *reverse* KL to the reference
    (see ``chemkl.losses.kl``); clip_rate, the share of rows clipped.
    """
    check_rows(
        logp_policy=logp_policy_B,
        logp_anchored=logp_anchored_B,
        reward_anchored=reward_anchored_B,
        group=group_B,
    )
    if reference not in get_args(Reference):
        raise ValueError(f"forward_kl: reference must be 'batch' or 'prior', got {reference!r}")
    check_above_0("forward_kl", clip=clip)
    groups = Groups.of(group_B, logp_policy_B)
    reward_B = reward_anchored_B.to(logp_policy_B)
    advantage_B = shape(against_the_others("forward_kl", reward_B, groups))
    reward_loss = -mean_over_rows(advantage_B * logp_policy_B)
    d_B = logp_anchored_B - logp_policy_B.detach()
    metrics = {
        "advantage_std": advantage_B.std(correction=0),
        "k3": k3_value(logp_policy_B, logp_anchored_B, clip=clip).mean(),
        "clip_rate": (d_B > clip).to(d_B).mean(),
    }
    if reference == "prior":
        if logp_policy_of_prior_P is None:
            raise ValueError(
                "forward_kl with reference='prior' needs LossInputs(logp_policy_of_prior=...): the "
                "policy's log-probabilities, with graph, of sequences sampled from the reference"
            )
        check_rows(logp_policy_of_prior=logp_policy_of_prior_P)
        return reward_loss - beta * mean_over_rows(logp_policy_of_prior_P), metrics
    # the gradient of k3 is -(exp(d) - 1) grad lp; written so, a clipped row keeps its pull
    pull_B = d_B.clamp(max=clip).exp() - 1
    return reward_loss - beta * mean_over_rows(pull_B * logp_policy_B), metrics
