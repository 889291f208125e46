"""The metrics of each prompt of a language model's run: its rows taken as if they were all.

A molecule belongs to every prompt that made it, so it may count for several. Its call is the number
among the prompt's own distinct molecules, in the order in which the prompt first made them: the
calls of the run are shared by all prompts, and a molecule that another prompt brought before has
none in this prompt's rows. Its reward is the one that this prompt was paid, for each prompt may
have a reward of its own.

Left out is what belongs to a run alone: AUC top-k (its budget is the run's), the call of a
collapse, and the likeness to references and to the prior, which are no samples of one prompt.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from chemkl.config import InputError
from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation.metrics import OB_SIZES, evaluate, metric_of, metrics_schema, window_at
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.samples import Samples
from chemkl.results import described_schema, description_of
from chemkl.results.columns import columns_of
from chemkl.results.inspection import sampled_rows, valid_rows
from chemkl.results.trace import list_parts, read_part_schema

PROMPT_COLUMNS = ("group", "prompt")
"""Columns of a trace that say to what a row is an answer."""

_NEW = columns_of("""
n_calls int64: Oracle calls that the run spent on rows of this prompt; over all prompts they add up
  to those of the run. n_molecules of the row without a threshold is larger by the molecules that
  another prompt had brought before.
n_late int64: How many of the last {late_samples} valid samples of the run are this prompt's: late_*
  is about them.
""")
_BEFORE = {"n_pairwise": "n_calls", "late_uniqueness": "n_late"}
"""Columns that the table of runs has not, by the one of it that they stand before."""
_MEANT = {
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
        for n in OB_SIZES
    },
    **{
        f"ob{n}_scaffolds": f"The same of the hit that brings scaffold number {n}. Null: fewer "
        "scaffolds."
        for n in OB_SIZES
    },
}
"""What columns mean here, where that is something else than in the table of runs."""


def require_prompts(folders: Iterable[Path]) -> None:
    """Look for prompts in the traces of runs, without reading a row."""
    lacking = [
        str(folder)
        for folder in folders
        if not {*PROMPT_COLUMNS} <= {*read_part_schema(list_parts(folder)[0].path).names}
    ]
    if lacking:
        raise InputError(
            f"by_prompt: true, but no prompts (columns {' and '.join(PROMPT_COLUMNS)}) are in "
            f"the trace of {', '.join(lacking)}; runs of posttrain_llm have them. Leave by_prompt "
            "out, or evaluate such runs apart."
        )


def by_prompt_schema(options: MetricOptions) -> pa.Schema:
    """Schema of `by_prompt.parquet`, a description in every field."""
    columns = columns_of("""
run string: Name of the run.
group int64: Number of the prompt in the run, from 0.
prompt string: The prompt.
""")
    for field in metrics_schema(options):
        if new := _BEFORE.get(field.name):
            kind, text = _NEW[new]
            columns[new] = kind, text.format(**options.model_dump())
        metric = metric_of(field.name)
        of_run_alone = metric and metric.needs in ("prior", "reference", "calls")
        if not of_run_alone and field.name not in columns:
            columns[field.name] = field.type, _MEANT.get(field.name, description_of(field))
    return described_schema(columns)


def prompt_rows(
    samples: Samples,
    trace: pd.DataFrame,
    thresholds: Sequence[float],
    options: MetricOptions,
    corpus: AbstractSet[str] | None = None,
) -> list[dict[str, Any]]:
    """Compute all rows of one run: for each prompt all its molecules, then its hits.

    The trace is that of the samples, in the order of step and row, with `PROMPT_COLUMNS`; of the
    last `late_samples` valid samples of the run each prompt has its part. A prompt of which nothing
    was sampled is left out.
    """
    names = by_prompt_schema(options).names
    whole = valid_rows(trace)
    whole = whole[~whole["canonical_smiles"].isin(samples.skipped)]
    late = whole["group"].tail(options.late_samples).value_counts()
    found = {molecule.smiles for molecule in samples.molecules}
    table = []
    for group, sampled in sampled_rows(trace).groupby("group", sort=True):
        valid = whole[whole["group"] == group]
        first = valid[valid["canonical_smiles"].isin(found)].drop_duplicates("canonical_smiles")
        paid = zip(first["canonical_smiles"], first["reward"].astype(float), strict=True)
        molecules = [
            replace(samples.molecule_of[smiles], call=call, reward=reward)
            for call, (smiles, reward) in enumerate(paid, start=1)
        ]
        smiles = valid["canonical_smiles"].tolist()
        part = Samples(samples.name, len(sampled), smiles, molecules, given=samples.given)
        n_late = int(late.get(group, 0))
        about = {
            "group": int(str(group)),
            "prompt": str(sampled["prompt"].iloc[0]),
            "n_calls": int(sampled["call"].notna().sum()),
            "n_late": n_late,
            **window_at(part, len(smiles), n_late),
        }
        for row in evaluate(part, thresholds, options, Comparisons(corpus=corpus)):
            values = row | about
            table.append({name: values[name] for name in names})
    return table
