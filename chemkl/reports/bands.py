"""The runs of a method as one curve: their mean and the band from the lowest to the highest run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

NOTE = (
    "Line: mean over the runs of a method; band: from the lowest run to the highest. Both end "
    "where the shortest run does; thin lines are the longer runs alone."
)


@dataclass(frozen=True)
class Band:
    """Curves of several runs of one method, put together.

    Attributes:
        x: where the mean is known: as far as the shortest run reaches.
        mean: over the runs.
        low: of the lowest run.
        high: of the highest run.
        n: runs that have a curve at all.
        tails: what the longer runs do after that, each alone.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int
    tails: Sequence[pd.Series]


def band(curves: Sequence[pd.Series], points: int) -> Band:
    """Put the curves of a method's runs together; straight lines join their points.

    Args:
        curves: values by an increasing number, one curve a run; missing values are left out, and
            runs without any value.
        points: at most so many of a method's points are kept, the first and last among them.
    """
    known = [curve.dropna().astype(float) for curve in curves]
    known = [curve for curve in known if len(curve)]
    if not known:
        none = np.empty(0)
        return Band(none, none, none, none, 0, ())
    start = max(curve.index[0] for curve in known)
    end = min(curve.index[-1] for curve in known)
    x = np.unique(np.concatenate([curve.index.to_numpy(dtype=float) for curve in known]))
    x = x[(x >= start) & (x <= end)]
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).astype(int))]
    if not len(x):  # no place that all have: each stands for itself
        return Band(x, x, x, x, len(known), [thinned(curve, points) for curve in known])
    values = np.array([np.interp(x, curve.index, curve.to_numpy()) for curve in known])
    return Band(
        x,
        values.mean(axis=0),
        values.min(axis=0),
        values.max(axis=0),
        len(known),
        [
            thinned(curve[curve.index >= end], points // 2)
            for curve in known
            if curve.index[-1] > end
        ],
    )


def thinned(curve: pd.Series, points: int) -> pd.Series:
    """At most so many points of a curve, evenly spread, the first and last among them."""
    return curve.iloc[np.linspace(0, len(curve) - 1, min(len(curve), points)).astype(int)]
