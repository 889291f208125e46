"""What the score stage prints: how many molecules were scored, how well, and what failed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chemkl.config import InputError
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards.model import FailureCount

N_BEST = 5
"""So many molecules are shown."""


class Summary:
    """Sums up rows while they are scored.

    Args:
        names: The components.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._columns = [prefix + name for name in names for prefix in (RAW_PREFIX, SCORE_PREFIX)]
        self._sums = pd.Series(0.0, index=[*self._columns, "reward"])
        self._numbers = pd.Series(0, index=self._columns)
        self._lines = 0
        self._valid = 0
        self._best = pd.Series(dtype=float)
        self._called: dict[str, str] = {}
        self._reasons: dict[str, tuple[int, int]] = {}  # how often, and the first line

    def add(self, rows: pd.DataFrame) -> None:
        """Take rows in."""
        valid = rows[rows["valid"]]
        self._lines += len(rows)
        self._valid += len(valid)
        self._sums += valid[[*self._columns, "reward"]].sum()
        self._numbers += valid[self._columns].notna().sum()
        for reason, line in rows.loc[~rows["valid"], ["reason", "line"]].itertuples(index=False):
            n, first = self._reasons.get(reason, (0, line))
            self._reasons[reason] = (n + 1, first)
        named = valid.drop_duplicates("canonical_smiles").set_index("canonical_smiles")["name"]
        called = {str(s): str(n) for s, n in named.dropna().items()} | self._called
        new = valid.set_index("canonical_smiles")["reward"]
        joined = pd.concat([self._best, new]) if len(self._best) else new
        first = joined[~joined.index.duplicated()]
        self._best = first.sort_values(ascending=False, kind="stable").head(N_BEST)
        self._called = {s: called[s] for s in self._best.index if s in called}

    def require_valid(self, file: Path) -> None:
        """Refuse a file without one valid molecule.

        Raises:
            InputError: with the commonest reasons.
        """
        if self._valid:
            return
        common = sorted(self._reasons.items(), key=lambda item: -item[1][0])[:N_BEST]
        reasons = "; ".join(f"{n:,} x {reason} (first: line {at})" for reason, (n, at) in common)
        raise InputError(f"{file}: no line holds a valid molecule. Reasons: {reasons}")

    def results(self, failures: Mapping[str, FailureCount]) -> dict[str, Any]:
        """Everything as plain values; NaN where there is nothing to take a mean of."""
        components = {
            name: {
                "asked": failures[name].asked,
                "failed": failures[name].failed,
                "mean_raw": self._mean(RAW_PREFIX + name),
                "mean_score": self._mean(SCORE_PREFIX + name),
            }
            for name in self._names
        }
        return {
            "lines": self._lines,
            "valid": self._valid,
            "mean_reward": self._sums["reward"] / self._valid if self._valid else float("nan"),
            "best": self._best.to_dict(),
            "components": components,
        }

    def print(self, console: Console, failures: Mapping[str, FailureCount]) -> None:
        """Show it."""
        results = self.results(failures)
        console.print(f"lines    {self._lines:,}", highlight=False)
        console.print(f"valid    {self._valid:,}", highlight=False)
        console.print(
            f"reward   {_number(results['mean_reward'])} (mean of the valid)", highlight=False
        )
        console.print(_components(results["components"], failures))
        for name, count in failures.items():
            if count.failed and count.failed == count.asked:
                console.print(f"component {name} failed on every molecule: all rewards are 0")
        best = Table("reward", *(["name"] * bool(self._called)), "best molecules", box=None)
        for smiles, reward in results["best"].items():
            called = [escape(self._called.get(smiles, ""))] if self._called else []
            best.add_row(_number(reward), *called, escape(smiles))
        console.print(best)

    def _mean(self, column: str) -> float:
        number = int(self._numbers[column])
        return float(self._sums[column]) / number if number else float("nan")


def _components(results: Mapping[str, Any], failures: Mapping[str, FailureCount]) -> Table:
    table = Table(box=None)
    table.add_column("component")
    for heading in ("asked", "failed", "mean raw", "mean score"):
        table.add_column(heading, justify="right")
    table.add_column("most frequent reason of failure")
    for name, one in results.items():
        numbers = [f"{one['asked']:,}", f"{one['failed']:,}"]
        numbers += [_number(one["mean_raw"]), _number(one["mean_score"])]
        reasons = failures[name].reasons.most_common(1)
        table.add_row(name, *numbers, escape(reasons[0][0]) if reasons else "")
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"
