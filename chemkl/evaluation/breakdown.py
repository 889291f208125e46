"""Breakdowns of a run's metrics: over its oracle calls, by scaffold family, by prompt.

Over time: each row covers all molecules first scored up to its call, so the last row agrees with
the table of the whole run. The values are updated from row to row, which is linear in the number of
molecules.

By family: a family is a generic scaffold. Molecules without one (acyclic, or with a ring atom that
cannot become a carbon) belong to no family and count in no share.

By prompt: the rows of one prompt of a language model's run are evaluated as if they were the whole
run. A molecule belongs to every prompt that sampled it, so several prompts may count it. Its call
is its position among the prompt's distinct molecules in order of first appearance: the calls of
the run are shared by all prompts, and a molecule that another prompt sampled before has no call in
this prompt's rows. Its reward is the one computed for this prompt, because each prompt may have a
different reward. Metrics that only a whole run has are left out: AUC top-k (the budget is the
run's), the call of a collapse, and the likeness to references and to the prior.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from chemkl.chem.fingerprints import tanimoto_sums
from chemkl.config import InputError
from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import diversity, metrics
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.samples import Molecule, Samples, moses_bits, pairs_bits, sample
from chemkl.processes import n_cores
from chemkl.results import described_schema, description_of
from chemkl.results.columns import columns_of
from chemkl.results.inspection import sampled_rows, valid_rows
from chemkl.results.trace import list_parts, read_part_schema

# ---- over time

_TOP = "".join(
    f"top_{k} double: Mean of the {k} best rewards so far. Null with a threshold.\n"
    for k in metrics.AUC_SIZES
)
_COLUMNS: dict[str, tuple[pa.DataType, str]] = metrics.IDENTITY | columns_of(f"""
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
    """Compute the rows of one run: all molecules first, then the hits at each threshold.

    There is a row after every `every` calls and one at the last call. A run without a molecule has
    no rows.
    """
    if not samples.molecules:
        return []
    last = samples.molecules[-1].call
    points = [*range(every, last, every), last]
    # a repeat has no call: it counts at the latest call before it
    calls = np.maximum.accumulate([samples.molecule_of[s].call for s in samples.valid])
    ends = np.searchsorted(calls, points, side="right").tolist()
    parts = (
        _cumulative(samples.molecules, points, options),
        _rewards(samples.molecules, points),
        (metrics.window_at(samples, end, options.late_samples) for end in ends),
    )
    rows = [so_far | new | late for so_far, new, late in zip(*parts, strict=True)]
    for threshold in thresholds if samples.is_scored else ():
        of_hits = _cumulative(samples.hits(threshold), points, options)
        rows += [{"threshold": threshold, **row} for row in of_hits]
    return [{**dict.fromkeys(_COLUMNS), **row, "run": samples.name} for row in rows]


def _cumulative(
    molecules: Sequence[Molecule], points: Sequence[int], options: MetricOptions
) -> Iterator[dict[str, Any]]:
    """Compute the cumulative metrics up to each call: counts, scaffolds, #Circles, IntDiv."""
    chosen = sample(molecules, options.max_molecules, options.seed)
    chosen_calls = [molecule.call for molecule in chosen]
    moses, pairs = (  # at index n: the sum of T_ij over i < j among the first n molecules
        np.cumsum([0.0, *tanimoto_sums(bits, workers=options.workers or n_cores())[0][0]])
        for bits in (moses_bits(chosen), pairs_bits(chosen))
    )
    leaders = diversity.leaders(moses_bits(molecules), options.circles_distance)
    sizes: Counter[str] = Counter()
    generic: set[str] = set()
    n = n_with = largest = 0
    n_log_n = 0.0  # sum over the scaffold sizes
    for call, new in zip(points, _new_molecules(molecules, points), strict=True):
        n += len(new)
        generic.update(m.generic for m in new if m.generic)
        for scaffold in (m.scaffold for m in new if m.scaffold):
            before = sizes[scaffold]
            sizes[scaffold] = after = before + 1
            n_log_n += after * math.log(after) - (before * math.log(before) if before else 0)
            n_with, largest = n_with + 1, max(largest, after)
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
            # MOSES counts every pair twice, and each molecule paired with itself
            "int_div_moses_1": float(1 - (m + 2 * moses[m]) / m**2) if m else None,
            "int_div_pairs": float(1 - pairs[m] / (m * (m - 1) / 2)) if m > 1 else None,
        }


def _rewards(molecules: Sequence[Molecule], points: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Compute the mean reward of the new molecules, and of the best so far."""
    best: list[float] = []
    for group in _new_molecules(molecules, points):
        new = [r for m in group if (r := m.reward) is not None and not math.isnan(r)]
        best = sorted([*best, *new], reverse=True)[: max(metrics.AUC_SIZES)]
        yield {
            "mean_reward": float(np.mean(new)) if new else None,
            **{f"top_{k}": float(np.mean(best[:k])) if best else None for k in metrics.AUC_SIZES},
        }


def _new_molecules(
    molecules: Sequence[Molecule], points: Sequence[int]
) -> Iterator[Sequence[Molecule]]:
    """Split the molecules at the calls: those first scored after one call, up to the next."""
    ends = np.searchsorted([molecule.call for molecule in molecules], points, side="right")
    return (molecules[start:end] for start, end in pairwise([0, *ends.tolist()]))


# ---- by scaffold family


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
    """Compute the share of each family under the prior and under the final policy.

    The last `late_samples` valid samples of the run represent the policy. There is a row for every
    family of the prior or the run, largest share first.
    """

    def group(source: Samples, last: int) -> tuple[Counter[str], dict[str, list[Molecule]]]:
        """Count the last valid samples by family, and list the molecules of each family."""
        by_family: dict[str, list[Molecule]] = {}
        for molecule in source.molecules:
            if molecule.generic:
                by_family.setdefault(molecule.generic, []).append(molecule)
        sampled = (source.molecule_of[smiles].generic for smiles in source.valid[-last:])
        return Counter(filter(None, sampled)), by_family

    def best_reward(molecules: Sequence[Molecule]) -> float | None:
        """Return the largest reward; None if nothing is scored or every score failed."""
        rewards = [m.reward for m in molecules if m.reward is not None and not math.isnan(m.reward)]
        return max(rewards, default=None)

    before, prior_molecules = group(prior, len(prior.valid))
    after, run_molecules = group(samples, late_samples)
    rows: list[dict[str, Any]] = []
    for family in {*before, *prior_molecules, *after, *run_molecules}:
        prior_share = before[family] / max(before.total(), 1)
        policy_share = after[family] / max(after.total(), 1)
        molecules = run_molecules.get(family, [])
        rows.append(
            {
                "run": samples.name,
                "family": family,
                "prior_samples": before[family],
                "prior_share": prior_share,
                "policy_samples": after[family],
                "policy_share": policy_share,
                "share_change": policy_share - prior_share,
                "prior_reward": best_reward(prior_molecules.get(family, [])),
                "n_molecules": len(molecules),
                "best_reward": best_reward(molecules),
                "first_call": molecules[0].call if molecules else None,
            }
        )
    rows.sort(key=lambda row: (-max(row["prior_share"], row["policy_share"]), row["family"]))
    return rows


# ---- by prompt

PROMPT_COLUMNS = ("group", "prompt")
"""Columns of a trace that identify the prompt of a row."""

_PROMPT_ONLY = columns_of("""
n_calls int64: Oracle calls that the run spent on rows of this prompt; over all prompts they add up
  to those of the run. n_molecules of the row without a threshold is larger by the molecules that
  another prompt had brought before.
n_late int64: How many of the last {late_samples} valid samples of the run are this prompt's: late_*
  is about them.
""")
_INSERT_BEFORE = {"n_pairwise": "n_calls", "late_uniqueness": "n_late"}
"""Where the columns of `_PROMPT_ONLY` go: column of the table of runs to the new one before it."""
_MEANINGS = {
    "threshold": "Hits are molecules with raw reward R >= this, R being what this prompt was paid "
    "when it first made the molecule. Null: all molecules.",
    "n_sampled": "Completions of this prompt, valid or not; rows from a replay buffer left out.",
    "n_valid": "Those of them with a SMILES that RDKit parses, repeats included.",
    "n_molecules": "Distinct canonical SMILES of the set (all that this prompt made, whichever "
    "prompt was first, or its hits at the threshold), in the order in which it first made them.",
    "late_uniqueness": "Distinct canonical SMILES among the n_late samples / n_late. Null: none.",
    "late_scaffolds": "Distinct non-empty Bemis-Murcko scaffolds among the n_late samples.",
    "late_effective_scaffolds": "exp of the entropy over the scaffolds of the n_late samples, "
    "repeats included, acyclic ones left out.",
    "late_top_share": "Share of the largest scaffold among the n_late samples, repeats included, "
    "acyclic ones left out.",
    **{
        f"ob{n}": f"Number (1-based) of hit number {n} among the distinct molecules of this "
        "prompt: the oracle calls that it alone would have needed. Null: fewer hits."
        for n in metrics.OB_SIZES
    },
    **{
        f"ob{n}_scaffolds": f"The same of the hit that brings scaffold number {n}. Null: fewer "
        "scaffolds."
        for n in metrics.OB_SIZES
    },
}
"""Definitions of columns that differ from those in the table of runs."""


def require_prompts(folders: Iterable[Path]) -> None:
    """Check that the traces of the runs have the columns of prompts, without reading a row."""
    without = [
        str(folder)
        for folder in folders
        if not {*PROMPT_COLUMNS} <= {*read_part_schema(list_parts(folder)[0].path).names}
    ]
    if without:
        raise InputError(
            f"by_prompt: true, but the trace of {', '.join(without)} has no prompts (columns "
            f"{' and '.join(PROMPT_COLUMNS)}); runs of posttrain_llm have them. Remove by_prompt, "
            "or evaluate these runs separately."
        )


def by_prompt_schema(options: MetricOptions) -> pa.Schema:
    """Schema of `by_prompt.parquet`, a description in every field."""
    columns = columns_of("""
run string: Name of the run.
group int64: Number of the prompt in the run, from 0.
prompt string: The prompt.
""")
    for field in metrics.metrics_schema(options):
        if new := _INSERT_BEFORE.get(field.name):
            kind, text = _PROMPT_ONLY[new]
            columns[new] = kind, text.format(**options.model_dump())
        metric = metrics.metric_of(field.name)
        run_only = metric and metric.needs in ("prior", "reference", "calls")
        if not run_only and field.name not in columns:
            columns[field.name] = field.type, _MEANINGS.get(field.name, description_of(field))
    return described_schema(columns)


def prompt_rows(
    samples: Samples,
    trace: pd.DataFrame,
    thresholds: Sequence[float],
    options: MetricOptions,
    corpus: AbstractSet[str] | None = None,
) -> list[dict[str, Any]]:
    """Compute the rows of one run: for each prompt all its molecules, then its hits.

    `trace` is the trace of `samples`, ordered by step and row, with `PROMPT_COLUMNS`. The late
    metrics of a prompt cover its rows among the last `late_samples` valid samples of the run. A
    prompt without samples has no rows.
    """
    names = by_prompt_schema(options).names
    whole = valid_rows(trace)
    whole = whole[~whole["canonical_smiles"].isin(samples.skipped)]
    late = whole["group"].tail(options.late_samples).value_counts()
    run_molecules = {molecule.smiles for molecule in samples.molecules}
    rows = []
    for group, sampled in sampled_rows(trace).groupby("group", sort=True):
        valid = whole[whole["group"] == group]
        first = valid[valid["canonical_smiles"].isin(run_molecules)]
        first = first.drop_duplicates("canonical_smiles")
        scored = zip(first["canonical_smiles"], first["reward"].astype(float), strict=True)
        molecules = [
            replace(samples.molecule_of[smiles], call=call, reward=reward)
            for call, (smiles, reward) in enumerate(scored, start=1)
        ]
        smiles = valid["canonical_smiles"].tolist()
        part = Samples(samples.name, len(sampled), smiles, molecules, seeds=samples.seeds)
        n_late = int(late.get(group, 0))
        prompt_values = {
            "group": int(str(group)),
            "prompt": str(sampled["prompt"].iloc[0]),
            "n_calls": int(sampled["call"].notna().sum()),
            "n_late": n_late,
            **metrics.window_at(part, len(smiles), n_late),
        }
        for row in metrics.evaluate(part, thresholds, options, Comparisons(corpus=corpus)):
            values = row | prompt_values
            rows.append({name: values[name] for name in names})
    return rows
