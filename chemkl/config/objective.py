"""Settings of the target: the distribution that the policy is to walk to."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from chemkl.config.base import Config, did_you_mean

TargetKind = Literal["gibbs", "mara", "filter"]

_Coefficient = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Reward = Annotated[float, Field(allow_inf_nan=False)]
_Inside = Annotated[float, Field(gt=0, lt=1)]


class _TargetBase(Config):
    """What all targets have: beta, or REINVENT's sigma = 1/beta."""

    beta: _Coefficient | None = None
    """Weight of the KL to the prior, above 0, in reward units per nat: a small one trusts the
    reward, a large one the prior. Give beta or sigma."""
    sigma: _Coefficient | None = None
    """1/beta, above 0; REINVENT's name for it (its default is 128). Give beta or sigma."""

    @model_validator(mode="after")
    def _one_coefficient(self) -> "_TargetBase":
        if self.beta is not None and self.sigma is not None:
            raise ValueError(
                f"beta ({self.beta:g}) and sigma ({self.sigma:g}) are both given; sigma is 1/beta: "
                "remove one of the two"
            )
        if self.beta is None and self.sigma is None and self._needs_coefficient():
            raise ValueError("beta or sigma (= 1/beta) is missing; for example sigma: 128")
        return self

    def _needs_coefficient(self) -> bool:
        return True

    @property
    def resolved_beta(self) -> float:
        """Beta, from whichever of the two was given."""
        if self.beta is not None:
            return self.beta
        return 1 / self.sigma if self.sigma is not None else 1.0


class GibbsConfig(_TargetBase):
    """The optimum of KL-regularised RL: prior x exp(reward/beta). It is what REINVENT walks to."""

    kind: Literal["gibbs"]
    """log target = log prior + reward/beta."""


class MaraConfig(_TargetBase):
    """Mode-anchored reward augmentation (arXiv 2510.20817): every hit is equally likely."""

    kind: Literal["mara"]
    """Hits (reward >= tau) have the target of their anchor, all other molecules that of gibbs."""
    tau: _Reward | None = None
    """Reward from which on a molecule is a hit; best the threshold that you will screen with (0.80
    and 0.85 in the paper's chemistry). Give tau, or tau_quantile and tau_floor."""
    tau_quantile: _Inside | None = None
    """Quantile of a batch's rewards (0 to 1, exclusive) that serves as tau where the range of the
    reward is not known; 0.9 in the paper's creative writing."""
    tau_floor: _Reward | None = None
    """With tau_quantile: tau is never below this. Take it above the reward of a failure, or a
    batch of zeros would consist of hits. Fewer than 2 hits: plain gibbs for that batch."""
    alpha: float = Field(1.0, ge=0, le=1)
    """How flat the hits are, 0 to 1: the share of the way from the molecule's own log prior to the
    anchor's. 1 is the paper; less holds back long, odd molecules."""
    cap: _Coefficient | None = None
    """No hit is lifted by more than so many nats, above 0; none: no cap, as in the paper."""
    reward_on_hits: Literal["anchor", "own", "tau"] = "anchor"
    """Reward that hits have in the target: the anchor's (the paper; ranking above tau is lost), the
    molecule's own, or tau."""
    anchor: Literal["batch", "running"] = "batch"
    """Where the anchor comes from: the hit of the batch that is likeliest under the prior (the
    paper), or a high quantile of the hits of the run so far."""
    anchor_quantile: _Inside = 0.95
    """With anchor: running: the quantile of the log prior among the distinct hits so far, 0 to 1,
    exclusive; at 1 a single odd molecule would be the anchor for good."""

    @model_validator(mode="after")
    def _one_tau(self) -> "MaraConfig":
        if self.tau is not None and self.tau_quantile is not None:
            raise ValueError("tau and tau_quantile are both given; remove one of the two")
        if self.tau is None and self.tau_quantile is None:
            raise ValueError(
                "tau is missing: a reward such as tau: 0.8, or tau_quantile: 0.9 with tau_floor"
            )
        if (self.tau_quantile is None) != (self.tau_floor is None):
            raise ValueError(
                "tau_quantile and tau_floor go together: give both, or tau alone; tau_floor is the "
                "lowest reward that may count as a hit"
            )
        return self


class FilterConfig(_TargetBase):
    """The prior, restricted to the hits; for estimators that bear a target of -inf elsewhere."""

    kind: Literal["filter"]
    """log target = log prior on hits, -inf on all other molecules."""
    tau: _Reward
    """Reward from which on a molecule is a hit."""

    def _needs_coefficient(self) -> bool:
        return False  # beta only scales the score here; 1 when not given


def _known_target(value: Any) -> Any:
    """Name the near kind on a misspelt one, before pydantic chooses the model by it."""
    if isinstance(value, Mapping) and "kind" in value:
        kind, allowed = value["kind"], get_args(TargetKind)
        if kind not in allowed:
            raise ValueError(f"target {kind!r} is not known{did_you_mean(str(kind), allowed)}")
    return value


TargetConfig = Annotated[
    GibbsConfig | MaraConfig | FilterConfig,
    Field(discriminator="kind"),
    BeforeValidator(_known_target),
]
"""The distribution that the policy is trained towards."""
