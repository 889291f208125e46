"""The metrics after every so many oracle calls: how a run found what it found, and if it collapsed.

Each row is about all molecules first scored up to its call, so the last one agrees with the table
of the whole run; everything is carried along from row to row, which is linear in the molecules.
"""

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import diversity
from chemkl.evaluation.metrics import AUC_SIZES, IDENTITY, describe_window
from chemkl.evaluation.samples import Molecule, Samples, moses_bits, n_workers, pairs_bits, sample
from chemkl.results import described_schema

_INT, _FLOAT = pa.int64(), pa.float64()
_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    **IDENTITY,
    "call": (
        _INT,
        "Oracle calls so far (distinct molecules, in a file of samples). Each row is about the "
        "molecules first scored up to here: all of them, or the hits at the threshold.",
    ),
    "n_molecules": (_INT, "Distinct molecules: with a threshold, Yield."),
    "murcko": (_INT, "Distinct non-empty Bemis-Murcko scaffolds: with a threshold, their yield."),
    "generic": (_INT, "Distinct non-empty generic scaffolds."),
    "effective_scaffolds": (_FLOAT, "exp of the entropy over the molecules per scaffold."),
    "top_share": (_FLOAT, "Share of the largest scaffold among the molecules with a scaffold."),
    "circles": (
        _INT,
        "#Circles at Tanimoto distance {circles_distance:g}, Morgan radius 2, 1024 bits, "
        "LeaderPicker in the order first scored.",
    ),
    "n_pairwise": (
        _INT,
        "Molecules that IntDiv was computed on: all, or those first scored up to here of the "
        "random sample of max_molecules that the whole run is sampled down to.",
    ),
    "int_div_moses_1": (_FLOAT, "IntDiv_1 of MOSES; Morgan radius 2, 1024 bits."),
    "int_div_pairs": (_FLOAT, "Mean of 1 - T over pairs; Morgan radius 2, 2048 bits."),
    "mean_reward": (
        _FLOAT,
        "Mean raw reward of the molecules first scored since the row before, those whose reward "
        "could not be computed left out. Null with a threshold.",
    ),
    **{
        f"top_{k}": (_FLOAT, f"Mean of the {k} best rewards so far. Null with a threshold.")
        for k in AUC_SIZES
    },
    "late_uniqueness": (
        _FLOAT,
        "Distinct canonical SMILES among the last {late_samples} valid samples up to here / their "
        "number. Null with a threshold.",
    ),
    "late_scaffolds": (
        _INT,
        "Distinct Bemis-Murcko scaffolds among those samples. Null with a threshold.",
    ),
    "late_effective_scaffolds": (
        _FLOAT,
        "exp of the entropy over the scaffolds of those samples, acyclic ones left out. Null with "
        "a threshold.",
    ),
    "late_top_share": (
        _FLOAT,
        "Share of the largest scaffold among those samples, acyclic ones left out. Null with a "
        "threshold.",
    ),
}


def over_time_schema(options: MetricOptions) -> pa.Schema:
    """Schema of `over_time.parquet`, a description in every field."""
    described = options.model_dump()
    return described_schema(
        {name: (kind, text.format(**described)) for name, (kind, text) in _COLUMNS.items()}
    )


def over_time(
    samples: Samples, thresholds: Sequence[float], options: MetricOptions, every: int
) -> list[dict[str, Any]]:
    """Compute all rows of one run: those of all its molecules first, then those of its hits.

    There are `every` calls between two rows, and the last call has one too; a run without a
    molecule has none.
    """
    if not samples.molecules:
        return []
    last = samples.molecules[-1].call
    points = [*range(every, last, every), last]
    rows = [
        {**so_far, **newest, **late}
        for so_far, newest, late in zip(
            _cumulative(samples.molecules, points, options),
            _rewards(samples.molecules, points),
            _windows(samples, points, options.late_samples),
            strict=True,
        )
    ]
    for threshold in thresholds if samples.is_scored else ():
        of_hits = _cumulative(samples.hits(threshold), points, options)
        rows += [{"threshold": threshold, **row} for row in of_hits]
    empty = dict.fromkeys(_COLUMNS)
    return [{**empty, **row, "run": samples.name} for row in rows]


def _cumulative(
    molecules: Sequence[Molecule], points: Sequence[int], options: MetricOptions
) -> Iterator[dict[str, Any]]:
    """What there is up to each call: counts, scaffolds, #Circles, IntDiv."""
    chosen = sample(molecules, options.max_molecules, options.seed)
    chosen_calls = [molecule.call for molecule in chosen]
    moses = diversity.similarity_sums(moses_bits(chosen), workers=n_workers(options.workers))
    pairs = diversity.similarity_sums(pairs_bits(chosen), workers=n_workers(options.workers))
    leaders = diversity.leaders(moses_bits(molecules), options.circles_distance)
    scaffolds = _Scaffolds()
    n = 0
    for call in points:
        while n < len(molecules) and molecules[n].call <= call:
            scaffolds.add(molecules[n])
            n += 1
        m = bisect_right(chosen_calls, call)
        yield {
            "call": call,
            "n_molecules": n,
            **scaffolds.values(),
            "circles": bisect_right(leaders, n - 1),
            "n_pairwise": m,
            # IntDiv of MOSES counts every pair twice, and every molecule with itself
            "int_div_moses_1": float(1 - (m + 2 * moses[m]) / m**2) if m else None,
            "int_div_pairs": float(1 - pairs[m] / (m * (m - 1) / 2)) if m > 1 else None,
        }


class _Scaffolds:
    """The scaffolds so far, and the sum of n ln n over their sizes, from which H follows."""

    def __init__(self) -> None:
        self._sizes: Counter[str] = Counter()
        self._generic: set[str] = set()
        self._n = self._largest = 0
        self._n_log_n = 0.0

    def add(self, molecule: Molecule) -> None:
        if molecule.generic:
            self._generic.add(molecule.generic)
        if not molecule.scaffold:
            return
        before = self._sizes[molecule.scaffold]
        self._sizes[molecule.scaffold] = now = before + 1
        self._n_log_n += now * math.log(now) - (before * math.log(before) if before else 0)
        self._n += 1
        self._largest = max(self._largest, now)

    def values(self) -> dict[str, Any]:
        n = self._n
        return {
            "murcko": len(self._sizes),
            "generic": len(self._generic),
            # H = -sum (n_i / n) ln (n_i / n) = ln n - sum n_i ln n_i / n
            "effective_scaffolds": n * math.exp(-self._n_log_n / n) if n else None,
            "top_share": self._largest / n if n else None,
        }


def _rewards(molecules: Sequence[Molecule], points: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Mean reward of the new molecules, and of the best so far."""
    best: list[float] = []  # a heap: the smallest of the best ones is first
    n = 0
    for call in points:
        new: list[float] = []
        while n < len(molecules) and molecules[n].call <= call:
            reward = molecules[n].reward
            if reward is not None and not math.isnan(reward):
                new.append(reward)
            n += 1
        for reward in new:
            (heapq.heappushpop if len(best) == max(AUC_SIZES) else heapq.heappush)(best, reward)
        top = sorted(best, reverse=True)
        yield {
            "mean_reward": float(np.mean(new)) if new else None,
            **{f"top_{k}": float(np.mean(top[:k])) if top else None for k in AUC_SIZES},
        }


def _windows(samples: Samples, points: Sequence[int], n: int) -> Iterator[dict[str, Any]]:
    """The last n valid samples up to each call; repeats come after the call before them."""
    scaffold_of = {molecule.smiles: molecule.scaffold for molecule in samples.molecules}
    first = {molecule.smiles: molecule.call for molecule in samples.molecules}
    calls = np.maximum.accumulate([first[smiles] for smiles in samples.valid])
    for call in points:
        end = int(np.searchsorted(calls, call, side="right"))
        yield describe_window(samples.valid[max(end - n, 0) : end], scaffold_of)
