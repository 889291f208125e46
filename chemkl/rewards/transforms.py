"""From a component's raw value to a score between 0 and 1, and from several scores to one reward.

The formulas are REINVENT4's (reinvent/scoring/transforms), the gaussians and the line GuacaMol's
(Brown et al., J. Chem. Inf. Model. 59, 1096 (2019); score_modifier.py), with these deviations:

1. ``step`` may be open at one end, like left_step and right_step.
2. ``low`` must be below ``high`` in the sigmoids; REINVENT4 turns equal ends into a hard step.
3. float64 throughout; REINVENT4 rounds to float32.
4. ``value_map`` compares numbers (REINVENT4: their text) and may have a score for all others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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


@transform("left_step")
def left_step(x: float, *, low: float) -> float:
    """1 up to ``low``, included, else 0."""
    return step(x, low=None, high=low)


@transform("right_step")
def right_step(x: float, *, high: float) -> float:
    """1 from ``high`` on, included, else 0."""
    return step(x, low=high, high=None)


@transform("exponential_decay")
def exponential_decay(x: float, *, k: float) -> float:
    """exp(-k x); 1 below 0."""
    return 1.0 if x < 0 else math.exp(-k * x)


@transform("gaussian")
def gaussian(x: float, *, mu: float, sigma: float) -> float:
    """exp(-((x - mu) / sigma)^2 / 2)."""
    z = (x - mu) / sigma
    return math.exp(-z * z / 2)  # z**2 would overflow far away, z * z becomes infinite


@transform("min_gaussian")
def min_gaussian(x: float, *, mu: float, sigma: float) -> float:
    """1 up to ``mu``, the gaussian above."""
    return 1.0 if x < mu else gaussian(x, mu=mu, sigma=sigma)


@transform("max_gaussian")
def max_gaussian(x: float, *, mu: float, sigma: float) -> float:
    """1 from ``mu`` on, the gaussian below."""
    return 1.0 if x > mu else gaussian(x, mu=mu, sigma=sigma)


@transform("linear_clip")
def linear_clip(x: float, *, low: float, high: float) -> float:
    """(x - low) / (high - low), cut to 0 and 1."""
    share = (x - low) / (high - low)
    return share if math.isnan(share) else min(max(share, 0.0), 1.0)


@transform("value_map")
def value_map(x: float, *, values: Mapping[float, float], otherwise: float | None) -> float:
    """The score that ``values`` has for x; without one ``otherwise``, and without that NaN."""
    if math.isnan(x):
        return math.nan
    return values.get(x, math.nan if otherwise is None else otherwise)


def _logistic10(exponent: float) -> float:
    """1 / (1 + 10^-exponent), without overflow on either side."""
    if exponent >= 0:
        return 1 / (1 + math.exp(-exponent * math.log(10)))
    odds = math.exp(exponent * math.log(10))
    return odds / (1 + odds)


# ---- several scores to one reward


def geometric_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted geometric mean, (prod s_i^w_i)^(1 / sum w_i): 0 as soon as one score is 0."""
    total = math.fsum(weights)
    return product(scores, [weight / total for weight in weights])


def arithmetic_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted arithmetic mean, sum w_i s_i / sum w_i."""
    paid = math.fsum(score * weight for score, weight in zip(scores, weights, strict=True))
    return paid / math.fsum(weights)


def product(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted product, prod s_i^w_i; with weights of 1 the plain product."""
    joined: float = math.prod(score**weight for score, weight in zip(scores, weights, strict=True))
    return joined


def minimum(scores: Sequence[float], weights: Sequence[float]) -> float:
    """The smallest score; NaN if one is NaN. Weights, one for each score, change nothing."""
    known = [score for score, _ in zip(scores, weights, strict=True)]
    return math.nan if any(map(math.isnan, known)) else min(known)


AGGREGATES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "arithmetic_mean": arithmetic_mean,
    "geometric_mean": geometric_mean,
    "minimum": minimum,
    "product": product,
}
"""The ways to join scores, by their name in configs."""
