"""Targets: what KL-regularised RL walks to, as functions (log pi_ref, R) -> log target.

Legend: B rows of a batch; lr log pi_ref; R reward; beta the KL coefficient. What they share, and
the two without an anchor; MARA has a file of its own. Source: GX-Chen et al., arXiv 2510.20817.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from chemkl.losses.registry import Registry
from chemkl.losses.types import TargetOutput, check_logp, check_reward, check_rows, check_whole

_NOT_GIVEN: Any = None


class Target(Protocol):
    """What an objective needs of a target."""

    @property
    def beta(self) -> float:
        """The KL coefficient in reward units per nat; also the scale of the score."""

    @property
    def full_support(self) -> bool:
        """Whether log_target is finite wherever log pi_ref is."""

    @property
    def has_hits(self) -> bool:
        """Whether it tells hits from other rows."""

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the target remembers from batch to batch."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``state_dict``."""


def resolve_beta(beta: float | None, sigma: float | None) -> float:
    """Return the one KL coefficient from beta or REINVENT's sigma = 1/beta, just one of them.

    Raises:
        ValueError: none or both given, or not a finite number above 0.
    """
    if beta is not None and sigma is not None:
        raise ValueError(f"give beta or sigma (= 1/beta), not both: got {beta=} and {sigma=}")
    for name, value in (("beta", beta), ("sigma", sigma)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(
                f"{name} must be a finite number above 0, got {value}: beta = 1/sigma weighs the "
                "KL to the reference; without it there is no target, and MARA would change "
                "nothing. For a weak pull to the reference take a small beta such as 0.001"
            )
    if beta is not None:
        return beta
    if sigma is not None:
        return 1 / sigma
    raise ValueError(
        "give beta, or sigma (= 1/beta), one of the two: for example beta=0.1, or sigma=128 as "
        "in REINVENT"
    )


@dataclass(frozen=True, kw_only=True)
class KLTarget:
    """What the shipped targets share: beta, given as such or as sigma, and no memory.

    Attributes:
        beta: the KL coefficient, above 0, in reward units per nat.
        sigma: 1/beta, in place of beta; not kept.
    """

    beta: float = _NOT_GIVEN  # a float from __post_init__ on
    sigma: InitVar[float | None] = None

    full_support: ClassVar[bool] = True
    has_hits: ClassVar[bool] = True

    def __post_init__(self, sigma: float | None) -> None:
        object.__setattr__(self, "beta", resolve_beta(self.beta, sigma))

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: the target depends on the batch alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Accept the empty state only."""
        if state:
            raise ValueError(
                f"this {type(self).__name__} target remembers nothing, but the state to load has "
                f"{', '.join(sorted(state))}: it was saved with another target"
            )


TARGETS: Registry[Callable[..., Target]] = Registry("target")


@TARGETS.register("gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(KLTarget):
    """log_target = lr + R/beta: the optimum of reverse-KL RL, and REINVENT's augmented likelihood.

    Maximises E_pi[R] - beta KL(pi || pi_ref) (arXiv 2510.20817; REINVENT, arXiv 1704.07555, with
    sigma = 1/beta). Sequences of equal reward keep the reference's ratio at every beta. There is no
    hit test and no anchor, and groups change nothing.
    """

    has_hits: ClassVar[bool] = False

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        no_B = torch.zeros_like(reward_B, dtype=torch.bool)
        log_target_B = gibbs_log_target(logp_ref_B, reward_B, self.beta)
        none_B = torch.full_like(logp_ref_B, torch.nan)
        return TargetOutput(log_target_B, no_B, no_B, none_B, logp_ref_B, reward_B)


@TARGETS.register("filter")
@dataclass(frozen=True, kw_only=True)
class Filtered(KLTarget):
    """log_target = lr on hits (R >= tau), -inf elsewhere: the reference, restricted to the hits.

    The target of alpha-DPG and the foil of MARA. There is no anchor, and groups change nothing.
    beta does not shape it, only scales the score; it is 1 when not given. An estimator whose score
    must be finite refuses this target.

    Attributes:
        tau: the reward from which on a sequence is a hit.
    """

    tau: float

    full_support: ClassVar[bool] = False

    def __post_init__(self, sigma: float | None) -> None:
        if self.beta is None and sigma is None:
            sigma = 1.0
        super().__post_init__(sigma)
        if not math.isfinite(self.tau):
            raise ValueError(f"tau must be a finite reward, got {self.tau}")

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        hit_B = reward_B >= self.tau
        log_target_B = torch.where(hit_B, logp_ref_B, -torch.inf)
        no_B = torch.zeros_like(hit_B)
        none_B = torch.full_like(logp_ref_B, torch.nan)
        return TargetOutput(log_target_B, hit_B, no_B, none_B, logp_ref_B, reward_B)


def gibbs_log_target(logp_ref_B: Tensor, reward_B: Tensor, beta: float) -> Tensor:
    """Return lr + R/beta, in the precision of the log-probabilities."""
    return logp_ref_B + (reward_B / beta).to(logp_ref_B)


def augmented_reward(
    log_target_B: Tensor,
    logp_ref_B: Tensor,
    beta: float,
    kl: Literal["reverse", "forward"] = "reverse",
) -> Tensor:
    """Write a target as a reward: Rbar = beta (log_target - lr), whose gibbs target it is.

    For MARA this is Algorithm 1 of arXiv 2510.20817: hits have R(z) + beta (lr(z) - lr), others R.
    A trainer that computes KL(pi || pi_ref) itself takes Rbar for its reward.

    Args:
        log_target_B: log target from a target of the same beta.
        logp_ref_B: log pi_ref.
        beta: the coefficient of that trainer's KL; with any other one the hits are not flat.
        kl: the direction of that trainer's KL.

    Raises:
        ValueError: for the forward KL, where an augmented reward does not flatten the hits.
    """
    if kl == "forward":
        raise ValueError(
            "an augmented reward (Algorithm 1) under the forward KL puts most of the mass on the "
            "rarest hit; anchor the reference instead (Algorithm 2), or use kl='reverse'"
        )
    return beta * (log_target_B - logp_ref_B)


def check_target_inputs(logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None) -> None:
    """Refuse what no target can be evaluated on, shapes first."""
    check_rows(logp_ref=logp_ref_B, reward=reward_B, group=group_B)
    check_logp("logp_ref", logp_ref_B)
    check_reward(reward_B)
    check_whole("group", group_B)
