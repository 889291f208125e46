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


_Below1 = Annotated[float, Field(ge=0, lt=1)]


class _EstimatorBase(Config):
    """What all estimators have."""

    duplicates: Literal["keep", "drop"] = "keep"
    """Strings that occur several times in a batch: keep counts each, drop only the first."""


class PlainEstimator(_EstimatorBase):
    """An estimator without options."""

    kind: Literal["reinvent", "rloo", "log_variance"]
    """reinvent (the loss of REINVENT4 and Saturn), rloo (policy gradient with a leave-one-out
    baseline), log_variance (fit to the target up to a constant; may learn from old samples)."""


class GrpoEstimator(_EstimatorBase):
    """Group-relative policy gradient (arXiv 2402.03300), of the total score, KL included."""

    kind: Literal["grpo"]
    """The score, centred and divided by its deviation over the batch."""
    normalise: bool = True
    """Divide by the deviation; false is Dr. GRPO (arXiv 2503.20783), nearly rloo."""
    clip: _Inside | None = None
    """PPO's bound on the probability ratio, 0 to 1, exclusive; does nothing while a batch is used
    for one update, as here. null: none."""


class TrajectoryBalanceEstimator(_EstimatorBase):
    """Trajectory balance (arXiv 2201.13259, 2509.15207): reinvent with a learned log Z."""

    kind: Literal["trajectory_balance"]
    """Mean squared difference to the target with a learned constant."""
    log_z_rate: _Coefficient = 100.0
    """How much faster than the network's weights log Z is learned, above 0."""


class ForwardKlEstimator(_EstimatorBase):
    """RL regularised by KL(prior || policy), which ends elsewhere than all others: see README."""

    kind: Literal["forward_kl"]
    """Reward gradient, and a pull back to the prior that keeps all that the prior can write."""
    reference: Literal["batch", "prior"] = "batch"
    """Where the pull comes from: the batch's own molecules, weighed; or as many fresh samples of
    the prior a step: exact, no oracle call, twice the time, target gibbs only."""
    clip: _Coefficient = 20.0
    """Nats, above 0; with reference batch: where the prior finds a molecule likelier by more than
    this, its weight stops growing."""


class FDpgEstimator(_EstimatorBase):
    """f-DPG (arXiv 2302.08215): the policy gradient of an f-divergence to the target."""

    kind: Literal["f_dpg"]
    """Pseudo-reward by how much the policy over- or underestimates a molecule."""
    divergence: Literal["kl", "reverse_kl", "js", "tv"] = "kl"
    """kl covers the target, reverse_kl is that of rloo, js (Jensen-Shannon) and tv (total
    variation) lie between; all but reverse_kl go with the target filter."""
    decay: _Below1 = 0.99
    """Weight of the past in the running estimate of the target's mass, 0 to less than 1."""
    clip: _Coefficient = 20.0
    """Nats, above 0: bound of exp() for molecules that the policy makes far too rare."""


class AlphaDpgEstimator(_EstimatorBase):
    """alpha-DPG (arXiv 2512.05962): between covering the target and seeking its modes."""

    kind: Literal["alpha_dpg"]
    """Policy gradient of the alpha-divergence."""
    alpha: _Below1 = 0.5
    """0 covers the target, towards 1 it seeks its modes; 0 to less than 1."""
    most: _Coefficient = 10.0
    """Largest pseudo-reward of a molecule, above 0; the paper's 10."""
    decay: _Below1 = 0.99
    """Weight of the past in the running estimate of the target's mass, 0 to less than 1."""


class SnisEstimator(_EstimatorBase):
    """Maximum likelihood of the batch, its rows weighed by target / policy (arXiv 1406.2751)."""

    kind: Literal["snis"]
    """Self-normalised importance sampling."""
    ess: _Below1 = 0.1
    """Share of the batch that must carry weight, 0 to less than 1; weights are tempered until it
    does. 0: never."""


class MscEstimator(_EstimatorBase):
    """Markovian score climbing (arXiv 2003.10374): snis with a molecule kept from step to step."""

    kind: Literal["msc"]
    """Conditional importance sampling with a persistent chain."""
    ess: _Below1 = 0.0
    """As in snis; 0: no tempering."""
    seed: int = Field(0, ge=0)
    """Decides which molecules are kept; at least 0."""


_Estimators = (
    PlainEstimator
    | GrpoEstimator
    | TrajectoryBalanceEstimator
    | ForwardKlEstimator
    | FDpgEstimator
    | AlphaDpgEstimator
    | SnisEstimator
    | MscEstimator
)
ESTIMATOR_KINDS: tuple[str, ...] = tuple(
    kind
    for model in get_args(_Estimators)
    for kind in get_args(model.model_fields["kind"].annotation)
)
"""Every estimator that a config may name."""


def _known_estimator(value: Any) -> Any:
    """Let a bare name stand for its kind, and name the near kind on a misspelt one."""
    section = {"kind": value} if isinstance(value, str) else value
    if isinstance(section, Mapping) and "kind" in section:
        kind = section["kind"]
        if kind not in ESTIMATOR_KINDS:
            hint = did_you_mean(str(kind), ESTIMATOR_KINDS)
            raise ValueError(f"estimator {kind!r} is not known{hint}")
    return section


EstimatorConfig = Annotated[
    _Estimators, Field(discriminator="kind"), BeforeValidator(_known_estimator)
]
"""The loss that walks to the target; a bare name stands for its kind with the defaults."""


ShaperKind = Literal["set_diversity", "differential_smoothing", "ucpo", "ips"]

_Share = Annotated[float, Field(gt=0, le=1)]


class _ShaperBase(Config):
    """What all shapers have."""

    @property
    def options(self) -> dict[str, float]:
        """The settings without the kind, by their names in the loss core."""
        return self.model_dump(exclude={"kind"})


class SetDiversityConfig(_ShaperBase):
    """SetPO (arXiv 2602.01062): hits gain what they add to the diversity of the batch's hits."""

    kind: Literal["set_diversity"]
    """Adds weight x (diversity of the hits - diversity without this one); Tanimoto similarity."""
    weight: _Coefficient = 1.0
    """Weight of the gain, above 0, in units of the advantage; the gain itself is of the order of
    one over the number of hits in the batch."""


class DifferentialSmoothingConfig(_ShaperBase):
    """Differential smoothing (arXiv 2511.19942): hits that the policy makes rare gain more."""

    kind: Literal["differential_smoothing"]
    """Subtracts gamma x log policy from the advantage of the hits."""
    gamma: _Coefficient = 0.01
    """Reward units per nat, above 0; a molecule has tens of nats, so 0.01 moves an advantage by
    some tenths."""


class UcpoConfig(_ShaperBase):
    """UCPO (arXiv 2605.00365): hits share their advantage by how rare the policy makes them."""

    kind: Literal["ucpo"]
    """Multiplies the advantage of the hits; the factors have mean 1."""
    strength: _Share = 0.2
    """Share of the advantage that goes by rarity, above 0, at most 1; 0.2 is the authors'."""
    temperature: _Coefficient = 1.0
    """Nats by which log-probabilities are divided before they are compared, above 0; at 1 the
    rarest hit has nearly all of that share, at about the mean number of tokens it is spread."""


class IpsConfig(_ShaperBase):
    """Inverse probability scaling (arXiv 2601.21669): frequent scaffolds weigh less."""

    kind: Literal["ips"]
    """Divides the advantage by the share of the batch that has the molecule's scaffold. All acyclic
    molecules count as one scaffold; invalid strings keep their advantage."""
    eps: _Share = 0.01
    """Smallest share to divide by, above 0, at most 1; the factor is never above 1/eps."""


def _known_shaper(value: Any) -> Any:
    """Let a bare name stand for its kind, and name the near kind on a misspelt one."""
    section = {"kind": value} if isinstance(value, str) else value
    if isinstance(section, Mapping) and "kind" in section:
        kind, known = section["kind"], get_args(ShaperKind)
        if kind not in known:
            raise ValueError(f"shaper {kind!r} is not known{did_you_mean(str(kind), known)}")
    return section


ShaperConfig = Annotated[
    SetDiversityConfig | DifferentialSmoothingConfig | UcpoConfig | IpsConfig,
    Field(discriminator="kind"),
    BeforeValidator(_known_shaper),
]
"""The outside signal in the advantage; a bare name stands for its kind with the defaults."""
