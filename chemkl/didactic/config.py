"""Settings of the didactic stage: which figures of the paper, and how their policies train."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from chemkl.config.base import Config

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LearningConfig(Config):
    """How a policy over a few tokens is trained on its own samples; it starts from uniform."""

    steps: int = Field(3000, ge=1)
    """Updates a run. At 3,000 every policy ends within 0.02 (total variation) of its optimum; at
    1,000 those with a beta of 0.3 or less are still up to 0.65 off."""
    batch_size: int = Field(64, ge=2)
    """Tokens sampled a step, at least 2: the estimators compare tokens with each other."""
    learning_rate: _Positive = 5e-3
    """Learning rate of AdamW, as in the paper. At 0.02 1,000 steps suffice for all policies but the
    Gaussian of Fig. 1, which may then end on the lighter mode."""
    constant_share: float = Field(0.5, ge=0, le=1)
    """Share of the steps at that rate; over the rest it falls linearly to 0, which averages out the
    sampling noise. 1: constant throughout."""
    second_moment: float = Field(0.99, ge=0, lt=1)
    """Decay of AdamW's average of squared gradients. At the usual 0.999 the first gradients, as
    large as 1/beta, would reduce the steps for most of the run."""
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight decay of AdamW; above 0 it pulls the policy to uniform, away from the optimum."""
    reverse_estimator: Literal["rloo", "log_variance", "trajectory_balance", "reinvent"] = (
        "log_variance"
    )
    """Estimator for the reverse KL. log_variance and trajectory_balance converge to the optimum,
    rloo up to noise; reinvent, without a baseline, is slow at a small beta."""
    forward_reference: Literal["batch", "prior"] = "batch"
    """Source of the KL in forward_kl: the weighted rows of the batch, or fresh samples of the
    reference; the latter for the target gibbs only, mara always uses batch."""


class DidacticConfig(Config):
    """Figures 1 to 5 of arXiv 2510.20817, from closed forms and from training on samples."""

    figures: tuple[Literal[1, 2, 3, 4, 5], ...] = Field((1, 2, 3, 4, 5), min_length=1)
    """Which figures, by their numbers in the paper: 1 fitting a fixed distribution, 2 two modes of
    unequal reward, 3 unequal rewards, 4 equal rewards, 5 MARA."""
    learning: LearningConfig = LearningConfig()
    """How the policies are trained."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the samples, 0 or above; each run has its own stream, independent of the figures."""

    @field_validator("figures")
    @classmethod
    def _each_once(cls, figures: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({figure for figure in figures if figures.count(figure) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(str, twice))} given twice; each figure is made once")
        return tuple(sorted(figures))
