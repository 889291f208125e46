"""How a run changes: the metrics after every so many oracle calls, and families that grow or go.

Each row over calls is about all molecules first scored up to its call, so the last one agrees with
the table of the whole run; everything is carried along from row to row, which is linear in the
molecules. A family is a generic scaffold. Molecules without one (acyclic, or a ring atom that
cannot become a carbon) are in no family and enter no share.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from chemkl.chem.fingerprints import tanimoto_sums
from chemkl.config.evaluate import MetricOptions
from chemkl.cores import n_cores
from chemkl.evaluation import diversity
from chemkl.evaluation.metrics import AUC_SIZES, IDENTITY, window_at
from chemkl.evaluation.samples import Molecule, Samples, moses_bits, pairs_bits, sample
from chemkl.results.columns import columns_of, described_schema

_TOP = "".join(
    f"top_{k} double: Mean of the {k} best rewards so far. Null with a threshold.\n"
    for k in AUC_SIZES
)
_COLUMNS: dict[str, tuple[pa.DataType, str]] = IDENTITY | columns_of(f"""
call int64: Oracle calls so far (distinct molecules, in a file of samples). Each row is about the
  molecules first scored up to here: all of them, or the hits at the threshold.
n_molecules int64: Distinct molecules: with a threshold, Yield.
murcko int64: Distinct non-empty Bemis-Murcko scaffolds: with a threshold, their yield.
generic int64: Distinct non-empty generic scaffolds.
effective_scaffolds double: exp of the entropy over the molecules per scaffold.
top_share double: Share of the largest scaffold among the molecules with a scaffold.
circles int64: #Circles at Tanimoto distance {{circles_distance:g}}, Morgan radius 2, 1024 bits,
  LeaderPicker in the order first scored.
n_pairwise int64: Molecules that IntDiv was computed on: all, or those first scored up to here of
  the random sample of max_molecules that the whole run is sampled down to.
int_div_moses_1 double: IntDiv_1 of MOSES; Morgan radius 2, 1024 bits.
int_div_pairs double: Mean of 1 - T over pairs; Morgan radius 2, 2048 bits.
mean_reward double: Mean raw reward of the molecules first scored since the row before, those whose
  reward could not be computed left out. Null with a threshold.
{_TOP}late_uniqueness double: Distinct canonical SMILES among the last {{late_samples}} valid
  samples up to here / their number. Null with a threshold.
late_scaffolds int64: Distinct Bemis-Murcko scaffolds among those samples. Null with a threshold.
late_effective_scaffolds double: exp of the entropy over the scaffolds of those samples, acyclic
  ones left out. Null with a threshold.
late_top_share double: Share of the largest scaffold among those samples, acyclic ones left out.
  Null with a threshold.
""")


def over_time_schema(options: MetricOptions) -> pa.Schema:
    """Schema of `over_time.parquet`, a description in every field."""
    return described_schema(_COLUMNS, **options.model_dump())


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
    # repeats come after the call before them
    calls = np.maximum.accumulate([samples.molecule_of[s].call for s in samples.valid])
    ends = np.searchsorted(calls, points, side="right").tolist()
    parts = (
        _cumulative(samples.molecules, points, options),
        _rewards(samples.molecules, points),
        (window_at(samples, end, options.late_samples) for end in ends),
    )
    rows = [so_far | new | late for so_far, new, late in zip(*parts, strict=True)]
    for threshold in thresholds if samples.is_scored else ():
        of_hits = _cumulative(samples.hits(threshold), points, options)
        rows += [{"threshold": threshold, **row} for row in of_hits]
    return [{**dict.fromkeys(_COLUMNS), **row, "run": samples.name} for row in rows]


def _cumulative(
    molecules: Sequence[Molecule], points: Sequence[int], options: MetricOptions
) -> Iterator[dict[str, Any]]:
    """What there is up to each call: counts, scaffolds, #Circles, IntDiv."""
    chosen = sample(molecules, options.max_molecules, options.seed)
    chosen_calls = [molecule.call for molecule in chosen]
    moses, pairs = (  # for each n from 0 on, the sum of T_ij over i < j among the first n
        np.cumsum([0.0, *tanimoto_sums(bits, workers=options.workers or n_cores())[0][0]])
        for bits in (moses_bits(chosen), pairs_bits(chosen))
    )
    leaders = diversity.leaders(moses_bits(molecules), options.circles_distance)
    sizes: Counter[str] = Counter()
    generic: set[str] = set()
    n = n_with = largest = 0
    n_log_n = 0.0  # the sum over the sizes
    for call, new in zip(points, _new(molecules, points), strict=True):
        n += len(new)
        generic.update(m.generic for m in new if m.generic)
        for scaffold in (m.scaffold for m in new if m.scaffold):
            before = sizes[scaffold]
            sizes[scaffold] = now = before + 1
            n_log_n += now * math.log(now) - (before * math.log(before) if before else 0)
            n_with, largest = n_with + 1, max(largest, now)
        m = bisect_right(chosen_calls, call)
        yield {
            "call": call,
            "n_molecules": n,
            "murcko": len(sizes),
            "generic": len(generic),
            # H = -sum (n_i / n) ln (n_i / n) = ln n - sum n_i ln n_i / n
            "effective_scaffolds": n_with * math.exp(-n_log_n / n_with) if n_with else None,
            "top_share": largest / n_with if n_with else None,
            "circles": bisect_right(leaders, n - 1),
            "n_pairwise": m,
            # IntDiv of MOSES counts every pair twice, and every molecule with itself
            "int_div_moses_1": float(1 - (m + 2 * moses[m]) / m**2) if m else None,
            "int_div_pairs": float(1 - pairs[m] / (m * (m - 1) / 2)) if m > 1 else None,
        }


def _rewards(molecules: Sequence[Molecule], points: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Mean reward of the new molecules, and of the best so far."""
    best: list[float] = []
    for some in _new(molecules, points):
        new = [r for m in some if (r := m.reward) is not None and not math.isnan(r)]
        best = sorted([*best, *new], reverse=True)[: max(AUC_SIZES)]
        yield {
            "mean_reward": float(np.mean(new)) if new else None,
            **{f"top_{k}": float(np.mean(best[:k])) if best else None for k in AUC_SIZES},
        }


def _new(molecules: Sequence[Molecule], points: Sequence[int]) -> Iterator[Sequence[Molecule]]:
    """The molecules first scored up to each call and behind the one before."""
    ends = np.searchsorted([molecule.call for molecule in molecules], points, side="right")
    return (molecules[start:end] for start, end in pairwise([0, *ends.tolist()]))


# ---- scaffold families of the prior and the policy


def families_schema(late_samples: int) -> pa.Schema:
    """Schema of `families.parquet`, a description in every field."""
    return described_schema(f"""
run string: Name of the run or file.
family string: Generic scaffold: all atoms carbon, all bonds single.
prior_samples int64: Valid samples of the prior in this family, with repeats.
prior_share double: The same / valid samples of the prior in any family.
policy_samples int64: Samples of this family among the last {late_samples} valid samples of the run,
  with repeats.
policy_share double: The same / those of them in any family.
share_change double: policy_share - prior_share.
prior_reward double: Largest raw reward R of the prior's samples in this family. Null: none is
  scored.
n_molecules int64: Distinct molecules of this family in the whole run.
best_reward double: Largest raw reward R among them. Null: none is scored.
first_call int64: Oracle call of the first of them (in a file of samples, its number among the
  distinct molecules). Null: the run never made one.
""")


def family_rows(samples: Samples, prior: Samples, late_samples: int) -> list[dict[str, Any]]:
    """Compute the share of each family under the prior and under the policy at the end.

    The last `late_samples` valid samples of the run stand for the policy. A row for every family of
    either, that with the largest share first.
    """

    def gathered(made: Samples, last: int) -> tuple[Counter[str], dict[str, list[Molecule]]]:
        """By family how many of the last valid samples are in it, and all its molecules."""
        by_family: dict[str, list[Molecule]] = {}
        for molecule in made.molecules:
            if molecule.generic:
                by_family.setdefault(molecule.generic, []).append(molecule)
        sampled = (made.molecule_of[smiles].generic for smiles in made.valid[-last:])
        return Counter(filter(None, sampled)), by_family

    def best_reward(molecules: Sequence[Molecule]) -> float | None:
        """The largest one; None: nothing is scored, or every score failed."""
        rewards = [m.reward for m in molecules if m.reward is not None and not math.isnan(m.reward)]
        return max(rewards, default=None)

    before, of_prior = gathered(prior, len(prior.valid))
    after, of_run = gathered(samples, late_samples)
    rows: list[dict[str, Any]] = []
    for family in {*before, *of_prior, *after, *of_run}:
        prior_share = before[family] / max(before.total(), 1)
        policy_share = after[family] / max(after.total(), 1)
        made = of_run.get(family, [])
        rows.append(
            {
                "run": samples.name,
                "family": family,
                "prior_samples": before[family],
                "prior_share": prior_share,
                "policy_samples": after[family],
                "policy_share": policy_share,
                "share_change": policy_share - prior_share,
                "prior_reward": best_reward(of_prior.get(family, [])),
                "n_molecules": len(made),
                "best_reward": best_reward(made),
                "first_call": made[0].call if made else None,
            }
        )
    rows.sort(key=lambda row: (-max(row["prior_share"], row["policy_share"]), row["family"]))
    return rows
