"""Several scores between 0 and 1 to one reward between 0 and 1."""

import math
from collections.abc import Callable, Sequence


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
