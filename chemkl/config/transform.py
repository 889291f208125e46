"""Settings of the transforms: how a component's raw value becomes a score between 0 and 1."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from chemkl.config.base import Config


class NoTransform(Config):
    """The raw value is the score; only for components that lie between 0 and 1."""

    kind: Literal["none"] = "none"
    """Leave the raw value as it is."""


class _Slope(Config):
    """A smooth step between two values of the component."""

    low: FiniteFloat
    """Lower end of the step, in the component's unit."""
    high: FiniteFloat
    """Upper end of the step, in the component's unit; above `low`."""
    k: FiniteFloat = Field(0.25, gt=0)
    """Steepness, no unit, above 0; at 0.25 the score is .05 at one end and .95 at the other."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class Sigmoid(_Slope):
    """More is better: 1 / (1 + 10^(-10 k (x - (high + low)/2) / (high - low)))."""

    kind: Literal["sigmoid"]
    """Rises from 0 to 1 between `low` and `high`."""


class ReverseSigmoid(_Slope):
    """Less is better: one minus the sigmoid."""

    kind: Literal["reverse_sigmoid"]
    """Falls from 1 to 0 between `low` and `high`."""


class DoubleSigmoid(Config):
    """A window: rises at `low`, falls at `high`; REINVENT4's formula and defaults."""

    kind: Literal["double_sigmoid"]
    """Near 1 between `low` and `high`, near 0 outside."""
    low: FiniteFloat
    """Where the rising side is 0.5, in the component's unit."""
    high: FiniteFloat
    """Where the falling side is 0.5, in the component's unit; above `low`."""
    coef_div: FiniteFloat = Field(100.0, gt=0)
    """Divides both steepnesses, in the component's unit, above 0."""
    coef_si: FiniteFloat = Field(150.0, gt=0)
    """Steepness of the rising side before division, above 0."""
    coef_se: FiniteFloat = Field(150.0, gt=0)
    """Steepness of the falling side before division, above 0."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class Step(Config):
    """All or nothing: 1 from `low` to `high`, both included, else 0."""

    kind: Literal["step"]
    """1 inside, 0 outside."""
    low: FiniteFloat | None = None
    """Smallest value that scores 1, in the component's unit; null: no lower end."""
    high: FiniteFloat | None = None
    """Largest value that scores 1, in the component's unit; null: no upper end."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a step needs low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} must not be above high = {self.high:g}")
        return self


class LeftStep(Config):
    """All or nothing, small is good: 1 up to `low`, `low` included, else 0; REINVENT4's."""

    kind: Literal["left_step"]
    """1 on the left of `low`, 0 on its right."""
    low: FiniteFloat
    """Largest value that scores 1, in the component's unit (the name is REINVENT4's)."""


class RightStep(Config):
    """All or nothing, large is good: 1 from `high` on, `high` included, else 0; REINVENT4's."""

    kind: Literal["right_step"]
    """0 on the left of `high`, 1 on its right."""
    high: FiniteFloat
    """Smallest value that scores 1, in the component's unit (the name is REINVENT4's)."""


class ExponentialDecay(Config):
    """Less is better: exp(-k x), and 1 for every x below 0; REINVENT4's formula."""

    kind: Literal["exponential_decay"]
    """Falls from 1 at 0 towards 0."""
    k: FiniteFloat = Field(gt=0)
    """Rate of the decay, above 0, one over the component's unit: the score halves every .69 / k."""


class _Bell(Config):
    """A normal curve of height 1, or one half of it."""

    mu: FiniteFloat
    """Where the curve has its top, 1, in the component's unit."""
    sigma: FiniteFloat = Field(gt=0)
    """Its width, above 0, in the component's unit: the score is .61 at one sigma from `mu`, .14 at
    two."""


class Gaussian(_Bell):
    """The nearer to `mu` the better: exp(-((x - mu) / sigma)^2 / 2)."""

    kind: Literal["gaussian"]
    """1 at `mu`, falling on both sides."""


class MinGaussian(_Bell):
    """Less is better: 1 up to `mu`, a gaussian's right half above; GuacaMol's MinGaussian."""

    kind: Literal["min_gaussian"]
    """1 up to `mu`, falling above it."""


class MaxGaussian(_Bell):
    """More is better: 1 from `mu` on, a gaussian's left half below; GuacaMol's MaxGaussian."""

    kind: Literal["max_gaussian"]
    """1 from `mu` on, falling below it."""


class LinearClip(Config):
    """A straight line from 0 at `low` to 1 at `high`, level beyond; GuacaMol's Clipped."""

    kind: Literal["linear_clip"]
    """Linear between `low` and `high`, rising or falling."""
    low: FiniteFloat
    """Where the score becomes 0, in the component's unit."""
    high: FiniteFloat
    """Where the score becomes 1, in the component's unit; below `low` the line falls."""

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        if self.low == self.high:
            raise ValueError(
                f"low and high must differ (both are {self.low:g}); for a hard edge use step"
            )
        return self


Share = Annotated[float, Field(ge=0, le=1)]
"""A score: a number from 0 to 1."""


class ValueMap(Config):
    """A table, for components of few values such as counts; like REINVENT4's value_mapping."""

    kind: Literal["value_map"]
    """Looks the value up."""
    values: dict[FiniteFloat, Share] = Field(min_length=1)
    """Score by value, for example {0: 1, 1: 0.5}; the value must be met exactly."""
    otherwise: Share | None = None
    """Score of every value that is not in the table; null: such a molecule has no score, a reason
    and reward 0."""


def _check_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low = {low:g} must be below high = {high:g}; for a hard edge use step")


Transform = Annotated[
    NoTransform
    | Sigmoid
    | ReverseSigmoid
    | DoubleSigmoid
    | Step
    | LeftStep
    | RightStep
    | ExponentialDecay
    | Gaussian
    | MinGaussian
    | MaxGaussian
    | LinearClip
    | ValueMap,
    Field(discriminator="kind"),
]
"""Any transform, told apart by its kind."""
