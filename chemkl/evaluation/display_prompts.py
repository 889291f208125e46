"""The metrics by prompt as tables for the terminal: a line for each prompt of each run."""

from collections.abc import Iterator, Mapping

import pandas as pd
from rich.table import Table
from rich.text import Text

from chemkl.display import cell, short
from chemkl.evaluation.display import empty_table
from chemkl.evaluation.metrics import threshold_key

MOST_PROMPTS = 10
"""Prompts shown of each run at most."""
PROMPT_WIDTH = 24
"""A longer prompt is cut in the middle."""

HOW_TO_READ = (
    "By prompt: a molecule counts for each prompt that made it, and OB counts the prompt's own "
    "distinct molecules."
)

_ALL = {
    "n_molecules": ("distinct", ",d"),
    "validity": ("valid", ".1%"),
    "uniqueness": ("unique", ".1%"),
}
_SCAFFOLDS = {"murcko": ("scaf.", ",d"), "top_share": ("top", ".1%")}
_HITS = {"yield": ("Yield", ",d"), "ob10": ("OB10", ",d"), **_SCAFFOLDS}


def prompt_tables(by_prompt: pd.DataFrame) -> Iterator[Table]:
    """One table for each threshold, or one of all molecules where there is none.

    Args:
        by_prompt: the rows of `by_prompt.parquet`; without any there is no table.
    """
    if by_prompt.empty:
        return
    whole = by_prompt[by_prompt["threshold"].isna()]
    thresholds = by_prompt["threshold"].dropna().unique()
    if not len(thresholds):
        yield _table("By prompt", whole, whole, _SCAFFOLDS)
    for threshold in thresholds:
        hits = by_prompt[by_prompt["threshold"] == threshold]
        title = f"By prompt: all molecules, and hits with R >= {threshold_key(threshold)}"
        yield _table(title, whole, hits, _HITS)


def _table(
    title: str, whole: pd.DataFrame, chosen: pd.DataFrame, columns: Mapping[str, tuple[str, str]]
) -> Table:
    """A line for each prompt: what it is as a whole, then these columns of its chosen molecules."""
    labels = [label for label, _ in (*_ALL.values(), *columns.values())]
    most = int(whole.groupby("run")["group"].nunique().max())
    part = f" (the first {MOST_PROMPTS} of {most:,} prompts)" if most > MOST_PROMPTS else ""
    table = empty_table(f"{title}{part}", whole["run"], ["prompt", *labels])
    table.columns[1].justify = "left"
    for run, own in whole.groupby("run", sort=False):
        of_run = chosen[chosen["run"] == run].drop_duplicates("group").set_index("group")
        for number, (_, row) in enumerate(own.head(MOST_PROMPTS).iterrows()):
            prompt = short(" ".join(row["prompt"].split()), PROMPT_WIDTH)
            cells = [cell(row[name], how) for name, (_, how) in _ALL.items()]
            other = of_run.loc[row["group"]]
            cells += [cell(other[name], how) for name, (_, how) in columns.items()]
            table.add_row(Text(str(run) if number == 0 else ""), Text(prompt), *cells)
    return table
