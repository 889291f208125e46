"""From a component's raw value to a score between 0 and 1.

The formulas are REINVENT4's (reinvent/scoring/transforms), with these deviations:

1. ``step`` may be open at one end (REINVENT4's left_step and right_step).
2. ``low`` must be below ``high`` in the sigmoids; REINVENT4 turns equal ends into a hard step.
3. float64 throughout; REINVENT4 rounds to float32.
"""

import math
from collections.abc import Callable
from functools import partial

from chemkl.config import Config, InputError, did_you_mean

TRANSFORMS: dict[str, Callable[..., float]] = {}
"""Every transform, by the `kind` of its settings in chemkl.config.reward."""


def transform(kind: str) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function of a raw value and, by keyword, the fields of its settings.

    Raises:
        ValueError: the kind is taken.
    """

    def register(function: Callable[..., float]) -> Callable[..., float]:
        if kind in TRANSFORMS:
            raise ValueError(f"transform {kind!r} is registered already")
        TRANSFORMS[kind] = function
        return function

    return register


def build_transform(settings: Config) -> Callable[[float], float]:
    """Give the function that a transform's settings describe.

    Raises:
        InputError: no transform is registered for this kind of settings.
    """
    fields = settings.model_dump()
    kind = fields.pop("kind")
    if kind not in TRANSFORMS:
        raise InputError(f"unknown transform {kind!r}{did_you_mean(kind, TRANSFORMS)}")
    return partial(TRANSFORMS[kind], **fields)


@transform("none")
def none(x: float) -> float:
    """Leave the value as it is."""
    return x


@transform("sigmoid")
def sigmoid(x: float, *, low: float, high: float, k: float) -> float:
    """1 / (1 + 10^(-10 k (x - (high + low)/2) / (high - low)))."""
    return _logistic10(10 * k * (x - (high + low) / 2) / (high - low))


@transform("reverse_sigmoid")
def reverse_sigmoid(x: float, *, low: float, high: float, k: float) -> float:
    """One minus the sigmoid."""
    return 1 - sigmoid(x, low=low, high=high, k=k)


@transform("double_sigmoid")
def double_sigmoid(
    x: float, *, low: float, high: float, coef_div: float, coef_si: float, coef_se: float
) -> float:
    """Rise at ``low`` in the lower half, fall at ``high`` in the upper half.

    Below the middle 1 / (1 + 10^(-(x - low) coef_si / coef_div)), from the middle on
    1 - 1 / (1 + 10^(-(x - high) coef_se / coef_div)). The halves meet in the middle when the two
    coefficients are equal; otherwise there is a jump.
    """
    if x < (low + high) / 2:
        return _logistic10((x - low) * coef_si / coef_div)
    return 1 - _logistic10((x - high) * coef_se / coef_div)


@transform("step")
def step(x: float, *, low: float | None, high: float | None) -> float:
    """1 from ``low`` to ``high``, both included, else 0; an end that is None is open."""
    if math.isnan(x):
        return math.nan
    return float((low is None or low <= x) and (high is None or x <= high))


def _logistic10(exponent: float) -> float:
    """1 / (1 + 10^-exponent), without overflow on either side."""
    if exponent >= 0:
        return 1 / (1 + math.exp(-exponent * math.log(10)))
    odds = math.exp(exponent * math.log(10))
    return odds / (1 + odds)
