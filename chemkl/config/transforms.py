"""From a component's raw value to a score between 0 and 1: a function for each transform.

What a function takes beside the value is a setting of the user: its type, range and default stand
in the signature, its meaning in the docstring, and nowhere else.

The formulas are REINVENT4's (reinvent/scoring/transforms), the gaussians and the line GuacaMol's
(Brown et al., J. Chem. Inf. Model. 59, 1096 (2019); score_modifier.py), with these deviations:

1. ``step`` may be open at one end, like left_step and right_step.
2. ``low`` must be below ``high`` in the sigmoids; REINVENT4 turns equal ends into a hard step.
3. float64 throughout; REINVENT4 rounds to float32.
4. ``value_map`` compares numbers (REINVENT4: their text) and may have a score for all others.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_type_hints,
)

from pydantic import Field, FiniteFloat

from chemkl.config.base import Config, by_kind

Positive = Annotated[FiniteFloat, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Low = Annotated[FiniteFloat, Field(description="Lower end of the step, in the component's unit.")]
High = Annotated[
    FiniteFloat, Field(description="Upper end of the step, in the component's unit; above `low`.")
]
Steepness = Annotated[
    FiniteFloat,
    Field(
        gt=0,
        description="Steepness, no unit, above 0; at 0.25 the score is .05 at one end and .95 at "
        "the other.",
    ),
]
Mu = Annotated[
    FiniteFloat, Field(description="Where the curve has its top, 1, in the component's unit.")
]
Sigma = Annotated[
    FiniteFloat,
    Field(
        gt=0,
        description="Its width, above 0, in the component's unit: the score is .61 at one sigma "
        "from `mu`, .14 at two.",
    ),
]
Function = TypeVar("Function", bound=Callable[..., float])

SETTINGS: "dict[str, type[TransformSettings]]" = {}
"""The settings of every transform, by kind."""
Check = Callable[..., str]
"""Says of settings, given by name, what does not go together; empty: they do."""


class TransformSettings(Config):
    """What a user chooses of a transform: its kind, and the settings that its function takes."""

    kind: str
    """Which transform, by name."""
    check: ClassVar[Check] = staticmethod(lambda **_: "")
    function: ClassVar[Callable[..., float]]

    @classmethod
    def listed(cls) -> tuple[str, ...]:
        """Its kind, which `chemkl show transforms` lists with its keys."""
        return get_args(cls.model_fields["kind"].annotation)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say what of the settings does not go together."""
        if text := type(self).check(**self.model_dump(exclude={"kind"})):
            yield "", text

    def build(self) -> Callable[[float], float]:
        """Give the function from a raw value to a score."""
        return partial(type(self).function, **self.model_dump(exclude={"kind"}))

    def __reduce__(self) -> tuple[Any, ...]:  # pickle finds no class that is made when needed
        return _unpickled, (self.model_dump(),)


def _unpickled(values: dict[str, Any]) -> TransformSettings:
    return SETTINGS[values["kind"]].model_validate(values)


def transform(check: Check | None = None) -> Callable[[Function], Function]:
    """Register a function of a raw value and keyword-only settings, under its own name.

    Args:
        check: says which settings do not go together.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Function) -> Function:
        kind = function.__name__
        if kind in SETTINGS:
            raise ValueError(f"transform {kind!r} is registered already")
        summary = documented(function)[0]
        of_kind = Literal[kind]  # type: ignore[valid-type] # known at run time
        default = kind if kind == "none" else ...
        fields: dict[str, Any] = {"kind": (of_kind, Field(default, description=summary))}
        fields |= fields_of(function, skip=1)
        model = SETTINGS[kind] = TransformSettings.with_fields(kind, fields, summary)
        model.function, model.check = function, check or TransformSettings.check
        return function

    return register


def fields_of(function: Callable[..., Any], skip: int = 0) -> dict[str, Any]:
    """Read a function's parameters, the first ones skipped, as the fields of a pydantic model.

    Types, ranges and defaults stand in its signature, meanings there or in its docstring. A
    parameter whose type is a NamedTuple stands for the fields of that.
    """
    meanings = documented(function)[1]
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in [*inspect.signature(function).parameters.items()][skip:]:
        if is_group(hints[name]):
            fields |= fields_of(hints[name])
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        in_signature = any(getattr(m, "description", "") for m in get_args(hints[name])[1:])
        meaning: dict[str, Any] = {} if in_signature else {"description": meanings.get(name)}
        fields[name] = (hints[name], Field(default, **meaning))
    return fields


def is_group(kind: Any) -> bool:
    """Whether a type is a NamedTuple: settings that several functions share."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Read a docstring: all before its sections, and what its section Args says of each name."""
    text = inspect.getdoc(function) or "-"
    before, *sections = re.split(r"\n+(Args|Returns|Raises):\n", text)
    entries = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    pairs = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", entries, re.MULTILINE)
    return before.strip(), {name: " ".join(meaning.split()) for name, meaning in pairs}


def _ordered(low: float, high: float, **_: float) -> str:
    text = f"low = {low:g} must be below high = {high:g}; for a hard edge use step"
    return text if low >= high else ""


def _has_an_end(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "a step needs low, high or both" if low is high else ""
    return f"low = {low:g} must not be above high = {high:g}" if low > high else ""


def _differ(low: float, high: float) -> str:
    text = f"low and high must differ (both are {low:g}); for a hard edge use step"
    return text if low == high else ""


def _logistic10(exponent: float) -> float:
    """1 / (1 + 10^-exponent), without overflow on either side."""
    if exponent >= 0:
        return 1 / (1 + math.exp(-exponent * math.log(10)))
    odds = math.exp(exponent * math.log(10))
    return odds / (1 + odds)


@transform()
def none(x: float) -> float:
    """The raw value is the score; only for components that lie between 0 and 1."""
    return x


@transform(_ordered)
def sigmoid(x: float, *, low: Low, high: High, k: Steepness = 0.25) -> float:
    """More is better: 1 / (1 + 10^(-10 k (x - (high + low)/2) / (high - low)))."""
    return _logistic10(10 * k * (x - (high + low) / 2) / (high - low))


@transform(_ordered)
def reverse_sigmoid(x: float, *, low: Low, high: High, k: Steepness = 0.25) -> float:
    """Less is better: one minus the sigmoid."""
    return 1 - sigmoid(x, low=low, high=high, k=k)


@transform(_ordered)
def double_sigmoid(
    x: float,
    *,
    low: FiniteFloat,
    high: FiniteFloat,
    coef_div: Positive = 100.0,
    coef_si: Positive = 150.0,
    coef_se: Positive = 150.0,
) -> float:
    """A window: rises at `low`, falls at `high`; REINVENT4's formula and defaults.

    Below the middle 1 / (1 + 10^(-(x - low) coef_si / coef_div)), from the middle on
    1 - 1 / (1 + 10^(-(x - high) coef_se / coef_div)). The halves meet in the middle when the two
    coefficients are equal; otherwise there is a jump.

    Args:
        x: the raw value.
        low: Where the rising side is 0.5, in the component's unit.
        high: Where the falling side is 0.5, in the component's unit; above `low`.
        coef_div: Divides both steepnesses, in the component's unit, above 0.
        coef_si: Steepness of the rising side before division, above 0.
        coef_se: Steepness of the falling side before division, above 0.
    """
    if x < (low + high) / 2:
        return _logistic10((x - low) * coef_si / coef_div)
    return 1 - _logistic10((x - high) * coef_se / coef_div)


@transform(_has_an_end)
def step(x: float, *, low: FiniteFloat | None = None, high: FiniteFloat | None = None) -> float:
    """All or nothing: 1 from `low` to `high`, both included, else 0.

    Args:
        x: the raw value.
        low: Smallest value that scores 1, in the component's unit; null: no lower end.
        high: Largest value that scores 1, in the component's unit; null: no upper end.
    """
    if math.isnan(x):
        return math.nan
    return float((low is None or low <= x) and (high is None or x <= high))


@transform()
def left_step(x: float, *, low: FiniteFloat) -> float:
    """All or nothing, small is good: 1 up to `low`, `low` included, else 0; REINVENT4's.

    Args:
        x: the raw value.
        low: Largest value that scores 1, in the component's unit (the name is REINVENT4's).
    """
    return step(x, high=low)


@transform()
def right_step(x: float, *, high: FiniteFloat) -> float:
    """All or nothing, large is good: 1 from `high` on, `high` included, else 0; REINVENT4's.

    Args:
        x: the raw value.
        high: Smallest value that scores 1, in the component's unit (the name is REINVENT4's).
    """
    return step(x, low=high)


@transform()
def exponential_decay(x: float, *, k: Positive) -> float:
    """Less is better: exp(-k x), and 1 for every x below 0; REINVENT4's formula.

    Args:
        x: the raw value.
        k: Rate of the decay, above 0, one over the component's unit: the score halves every
            .69 / k.
    """
    return 1.0 if x < 0 else math.exp(-k * x)


@transform()
def gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """The nearer to `mu` the better: exp(-((x - mu) / sigma)^2 / 2)."""
    z = (x - mu) / sigma
    return math.exp(-z * z / 2)  # z**2 would overflow far away, z * z becomes infinite


@transform()
def min_gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """Less is better: 1 up to `mu`, a gaussian's right half above; GuacaMol's MinGaussian."""
    return 1.0 if x < mu else gaussian(x, mu=mu, sigma=sigma)


@transform()
def max_gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """More is better: 1 from `mu` on, a gaussian's left half below; GuacaMol's MaxGaussian."""
    return 1.0 if x > mu else gaussian(x, mu=mu, sigma=sigma)


@transform(_differ)
def linear_clip(x: float, *, low: FiniteFloat, high: FiniteFloat) -> float:
    """A straight line from 0 at `low` to 1 at `high`, level beyond; GuacaMol's Clipped.

    Args:
        x: the raw value.
        low: Where the score becomes 0, in the component's unit.
        high: Where the score becomes 1, in the component's unit; below `low` the line falls.
    """
    share = (x - low) / (high - low)
    return share if math.isnan(share) else min(max(share, 0.0), 1.0)


@transform()
def value_map(
    x: float,
    *,
    values: Annotated[dict[FiniteFloat, Share], Field(min_length=1)],
    otherwise: Share | None = None,
) -> float:
    """A table, for components of few values such as counts; like REINVENT4's value_mapping.

    Args:
        x: the raw value.
        values: Score by value, for example {0: 1, 1: 0.5}; the value must be met exactly.
        otherwise: Score of every value that is not in the table; null: such a molecule has no
            score, a reason and reward 0.
    """
    if math.isnan(x):
        return math.nan
    return values.get(x, math.nan if otherwise is None else otherwise)


if TYPE_CHECKING:
    Transform = TransformSettings
else:
    Transform = Annotated[Union[*SETTINGS.values()], by_kind(*SETTINGS.values())]
"""The settings of any transform, told apart by its kind."""
