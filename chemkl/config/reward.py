"""Settings of a reward: its components, how each becomes a score, how the scores are joined."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

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


def _check_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low = {low:g} must be below high = {high:g}; for a hard edge use step")


Transform = Annotated[
    NoTransform | Sigmoid | ReverseSigmoid | DoubleSigmoid | Step, Field(discriminator="kind")
]


class ComponentConfig(Config):
    """One part of a reward."""

    kind: str
    """Which component: a name in the registry of rewards, for example qed or tanimoto."""
    name: str = ""
    """What its columns are called (raw_<name>, score_<name>): letters, digits, _ . - only; default:
    its kind. Two components of one kind need two names."""
    weight: FiniteFloat = Field(1.0, gt=0)
    """Its share in the aggregate, relative to the others, above 0."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the component's kind takes, for example references for tanimoto; empty: its defaults."""
    transform: Transform = NoTransform()
    """From the raw value to a score between 0 and 1: kind none, sigmoid, reverse_sigmoid,
    double_sigmoid or step. none is for components that lie between 0 and 1 already."""

    @model_validator(mode="before")
    @classmethod
    def _called_by_its_kind(cls, given: object) -> object:
        if isinstance(given, Mapping) and isinstance(given.get("kind"), str):
            return {**given, "name": given.get("name") or given["kind"]}
        return given

    @field_validator("name")
    @classmethod
    def _fit_for_a_column(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError("a name has letters, digits, _ . and - only")
        return name

    @field_validator("transform", mode="before")
    @classmethod
    def _kind_alone(cls, given: object) -> object:
        """Let ``transform: none`` stand for ``transform: {kind: none}``."""
        return {"kind": given} if isinstance(given, str) else given


class RewardConfig(Config):
    """How a molecule is paid: a number between 0 and 1."""

    components: list[ComponentConfig] = Field(min_length=1)
    """The parts, at least one; each name once."""
    aggregate: Literal["geometric_mean", "arithmetic_mean"] = "geometric_mean"
    """How the scores become one reward, by weight. The geometric mean is 0 as soon as one score
    is; the arithmetic mean lets one part make up for another."""
    max_atoms: int = Field(500, ge=1)
    """Molecules with more atoms are invalid (explicit atoms); keeps a runaway string cheap."""

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [component.name for component in self.components]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"component names must differ, but several are called {', '.join(twice)}: "
                "give each a name of its own"
            )
        return self
