"""Settings of the transforms: how a component's raw value becomes a score between 0 and 1."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chemkl.config.base import Config
from chemkl.config.loading import load_config
from chemkl.config.paths import InputPath


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


Role = Literal["scorer", "filter", "penalty"]
"""What a component's score is used for."""

Aggregate = Literal["geometric_mean", "arithmetic_mean", "product", "minimum"]
"""The ways to join the scores."""


class ComponentConfig(Config):
    """One part of a reward."""

    kind: str
    """Which component: a name in the registry of rewards, for example qed or tanimoto."""
    name: str = ""
    """What its columns are called (raw_<name>, score_<name>): letters, digits, _ . - only; default:
    its kind. Two components of one kind need two names."""
    role: Role = "scorer"
    """scorer: its score enters the aggregate; filter: a score below 0.5 makes the reward 0, and
    spares the costly components; penalty: its score multiplies the aggregate."""
    weight: FiniteFloat = Field(1.0, gt=0)
    """Its share in the aggregate, relative to the others, above 0 (under product: its exponent);
    for scorers only, and not under minimum."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the component's kind takes, for example references for tanimoto; empty: its defaults."""
    transform: Transform = NoTransform()
    """From the raw value to a score between 0 and 1: kind none, sigmoid, reverse_sigmoid,
    double_sigmoid, step, left_step, right_step, exponential_decay, gaussian, min_gaussian,
    max_gaussian, linear_clip or value_map. none is for components that lie between 0 and 1
    already."""

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

    @model_validator(mode="after")
    def _only_scorers_are_weighed(self) -> Self:
        if self.role != "scorer" and self.weight != 1:
            raise ValueError(
                f"weight = {self.weight:g} belongs to scorers; a {self.role} has none: leave it out"
            )
        return self


class RewardConfig(Config):
    """How a molecule is paid: a number between 0 and 1."""

    components: list[ComponentConfig] = Field(min_length=1)
    """The parts, at least one; each name once."""
    aggregate: Aggregate = "geometric_mean"
    """How the scorers' scores become one. The geometric mean is 0 as soon as one score is; the
    arithmetic mean lets one part make up for another; the product punishes every part that is not
    perfect; the minimum pays for the worst part alone."""
    max_atoms: int = Field(500, ge=1, le=5000)
    """Molecules with more atoms are invalid (explicit atoms); keeps a runaway string cheap. 1 to
    5,000, beyond which RDKit takes seconds for one."""
    most_failures: float = Field(0.5, ge=0, le=1, exclude=True)
    """A component that failed on more than this share of the molecules that it was asked about, at
    least 100, ends the run with the reason: it is broken, not they. 0 to 1; 1: never. No part of
    the run's identity: a run that ended so may continue with another share."""
    workers: int = Field(1, ge=1, exclude=True)
    """Processes that score molecules. 1: this process, without any other (unless there is a
    timeout). More than the cores that are free do not help. The scores do not depend on it; no part
    of the run's identity."""
    timeout: FiniteFloat | None = Field(None, gt=0, exclude=True)
    """Seconds that one molecule may take; then the worker process that is stuck is killed, and the
    molecule has failed. The components are then asked in worker processes, about one molecule at a
    time. null: no limit. No part of the run's identity."""
    cache: Path | None = Field(None, exclude=True)
    """A file in which raw values are kept by component and molecule, for this run and all others
    that name it, at the same time too; made if there is none. On a disk of this machine: it is not
    safe on a network file system. Relative to the working directory. null: none. No part of the
    run's identity."""

    folder: Path | None = Field(None, exclude=True)
    """Where relative paths in the parameters are looked up, before the working directory; null: the
    folder of the file that the reward stands in. No part of the run's identity."""

    @model_validator(mode="before")
    @classmethod
    def _knows_its_folder(cls, given: object, info: ValidationInfo) -> object:
        folder = (info.context or {}).get("folder")
        if isinstance(given, Mapping) and folder is not None and given.get("folder") is None:
            return {**given, "folder": folder}
        return given

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

    @model_validator(mode="after")
    def _something_to_aggregate(self) -> Self:
        weights = [each.weight for each in self.components if each.role == "scorer"]
        if not weights:
            raise ValueError(
                "no component is a scorer, so there is nothing to pay for: give one of them role "
                "scorer"
            )
        if self.aggregate == "minimum" and any(weight != 1 for weight in weights):
            raise ValueError("the minimum takes no weights: leave weight out of the components")
        return self


def _from_file(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str | Path):
        context = {**(info.context or {}), "kind": "configs/rewards"}
        path = TypeAdapter(InputPath).validate_python(value, context=context)
        return load_config(RewardConfig, path)
    return value


RewardSource = Annotated[RewardConfig, BeforeValidator(_from_file)]
"""A reward's settings, or the path of the file that holds them."""
