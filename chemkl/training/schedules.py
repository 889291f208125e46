"""Schedules: tau and beta of a target as functions of how far a run is and what it was paid.

Each is a function of the rows of the trace before a step, so that a run that goes on has the same
values. With t the calls, or steps, made since the first stage with this objective began, and R the
rewards as they are paid:

- staircase: v_t = values[k], k the last with at[k] <= t; before the first the target's own;
- quantile over steps: tau_t = max(tau_{t-1}, Q_q(R of the samples of the last n steps));
- quantile over hits: tau_t = max(tau_{t-1}, Q_q(R of the distinct hits of the stage so far));

Q_q is linear between neighbours, and `most` bounds it from above; tau_0 is the target's own.
"""

from bisect import bisect_right
from typing import Any

import numpy as np
import pandas as pd

from chemkl.config.objective import QuantileSchedule, StaircaseSchedule, TargetSettings
from chemkl.results.inspection import new_rows, sampled_rows


class Staircase:
    """Values that change at given calls or steps."""

    def __init__(self, config: StaircaseSchedule, start: float) -> None:
        self._config = config
        self._values = [start, *config.values]
        self._counts = {"calls": 0, "steps": 0}

    @property
    def value(self) -> float:
        """That of the next step."""
        return self._values[bisect_right(self._config.at, self._counts[self._config.by])]

    def add(self, rows: pd.DataFrame) -> None:
        """Take in the rows of a step."""
        self._counts["calls"] += int(rows["call"].count())
        self._counts["steps"] += 1


class Quantile:
    """A tau that rises with the rewards."""

    def __init__(self, config: QuantileSchedule, start: float) -> None:
        self._config = config
        self.value = start
        """That of the next step."""
        self._paid: list[np.ndarray] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Take in the rows of a step."""
        config = self._config
        if config.over == "steps":
            rows = sampled_rows(rows)
        else:
            rows = new_rows(rows)
            rows = rows[rows["hit"].astype(bool) & rows["call"].notna()]
        self._paid.append(rows["reward_filtered"].to_numpy(float))
        if config.over == "steps":
            self._paid = self._paid[-config.steps :]
        paid = np.concatenate(self._paid)
        if len(paid):
            now = float(np.quantile(paid, config.quantile))
            now = now if config.most is None else min(now, config.most)
            self.value = max(self.value, now)


class Schedule:
    """The schedules of a target, by what they move: tau and beta."""

    def __init__(self, target: TargetSettings) -> None:
        self._of: dict[str, Staircase | Quantile] = {}
        schedule = target.schedule
        if schedule is not None and schedule.tau is not None:
            kind: Any = Staircase if schedule.tau.kind == "staircase" else Quantile
            self._of["tau"] = kind(schedule.tau, target.tau)
        if schedule is not None and schedule.beta is not None:
            self._of["beta"] = Staircase(schedule.beta, target.resolved_beta)

    @property
    def values(self) -> dict[str, float]:
        """Those of the next step; empty where nothing moves."""
        return {name: one.value for name, one in self._of.items()}

    def add(self, rows: pd.DataFrame) -> None:
        """Take in the rows of a step."""
        for one in self._of.values():
            one.add(rows)
