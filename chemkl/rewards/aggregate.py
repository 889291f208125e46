"""Several scores between 0 and 1 to one reward between 0 and 1."""

import math
from collections.abc import Callable, Sequence


def geometric_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted geometric mean, (prod s_i^w_i)^(1 / sum w_i): 0 as soon as one score is 0."""
    total = math.fsum(weights)
    mean: float = math.prod(
        score ** (weight / total) for score, weight in zip(scores, weights, strict=True)
    )
    return mean


def arithmetic_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted arithmetic mean, sum w_i s_i / sum w_i."""
    paid = math.fsum(score * weight for score, weight in zip(scores, weights, strict=True))
    return paid / math.fsum(weights)


AGGREGATES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "arithmetic_mean": arithmetic_mean,
    "geometric_mean": geometric_mean,
}
"""The ways to join scores, by their name in configs."""
