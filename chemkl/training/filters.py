"""Diversity filters: they withdraw the reward of what has been paid often enough."""

from collections import Counter
from collections.abc import Callable

import pandas as pd

from chemkl.config.filters import MurckoFilterConfig

DiversityFilter = Callable[[pd.DataFrame], pd.Series]
"""Turns rows into their filtered rewards; its state is a function of the rows seen so far."""


class NoFilter:
    """Pays every molecule in full."""

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Return the rewards as they are."""
        return rows["reward"].astype(float)


class MurckoBucket:
    """Pays exactly ``bucket`` sampled molecules of each Bemis-Murcko scaffold, later ones get 0.

    REINVENT's identical-Murcko filter (J. Cheminform. 12, 68 (2020)) with two deviations:

    1. A bucket of 25 pays 25 molecules, not 26, and rows of one batch are taken in order, so that
       a batch full of one scaffold is not paid as a whole.
    2. All acyclic molecules share one bucket, that of the empty scaffold, as there.

    A molecule that is sampled again takes another place in the bucket: a policy that has collapsed
    onto one molecule loses its reward too.
    """

    def __init__(self, bucket: int, min_score: float) -> None:
        self._bucket = bucket
        self._min_score = min_score
        self._paid: Counter[str] = Counter()

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Return the filtered reward of each row, in order, and count its scaffold."""
        filtered = rows["reward"].astype(float)
        for i, (reward, scaffold) in enumerate(zip(rows["reward"], rows["scaffold"], strict=True)):
            if not isinstance(scaffold, str) or reward < self._min_score:
                continue
            if self._paid[scaffold] == self._bucket:
                filtered.iloc[i] = 0.0
            else:
                self._paid[scaffold] += 1
        return filtered


def build_filter(config: MurckoFilterConfig | None) -> DiversityFilter:
    """Build the filter of a config; None pays everything."""
    return MurckoBucket(config.bucket, config.min_score) if config else NoFilter()
