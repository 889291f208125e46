"""Settings of the estimator: the loss that walks to the target, and its options."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from chemkl.config.base import Config, did_you_mean

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Inside = Annotated[float, Field(gt=0, lt=1)]
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
    log_z_rate: _Positive = 100.0
    """How much faster than the network's weights log Z is learned, above 0."""


class ForwardKlEstimator(_EstimatorBase):
    """RL regularised by KL(prior || policy), which ends elsewhere than all others: see README."""

    kind: Literal["forward_kl"]
    """Reward gradient, and a pull back to the prior that keeps all that the prior can write."""
    reference: Literal["batch", "prior"] = "batch"
    """Where the pull comes from: the batch's own molecules, weighed; or as many fresh samples of
    the prior a step: exact, no oracle call, twice the time, target gibbs only."""
    clip: _Positive = 20.0
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
    clip: _Positive = 20.0
    """Nats, above 0: bound of exp() for molecules that the policy makes far too rare."""


class AlphaDpgEstimator(_EstimatorBase):
    """alpha-DPG (arXiv 2512.05962): between covering the target and seeking its modes."""

    kind: Literal["alpha_dpg"]
    """Policy gradient of the alpha-divergence."""
    alpha: _Below1 = 0.5
    """0 covers the target, towards 1 it seeks its modes; 0 to less than 1."""
    most: _Positive = 10.0
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
