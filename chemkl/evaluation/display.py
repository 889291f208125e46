"""The comparison of runs as tables for the terminal: one row per run."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from chemkl.config.evaluate import MetricOptions
from chemkl.display import cell
from chemkl.evaluation.columns import UNIQUENESS_AT
from chemkl.evaluation.metrics import threshold_key
from chemkl.evaluation.yields import AUC_SIZES

_DIVERSITY = {
    "murcko": ("scaf.", ",d"),
    "effective_scaffolds": ("eff.", ",.0f"),
    "top_share": ("top", ".1%"),
    "int_div_moses_1": ("IntDiv", ".3f"),
    "circles": ("#Circles", ",d"),
    "prior_coverage": ("cover", ".1%"),
}
_ALL = {
    "n_sampled": ("sampled", ",d"),
    "n_molecules": ("distinct", ",d"),
    "validity": ("valid", ".1%"),
    "uniqueness": ("unique", ".1%"),
    "novelty": ("novel", ".1%"),
}
_LATE = {
    "late_uniqueness": ("unique", ".1%"),
    "late_scaffolds": ("scaf.", ",d"),
    "late_effective_scaffolds": ("eff.", ",.0f"),
    "late_top_share": ("top", ".1%"),
    "collapsed_at_call": ("collapsed at", ",d"),
}
_AUC = {f"auc_top_{k}": (f"top-{k}", ".3f") for k in AUC_SIZES}
_HITS = {
    "yield": ("Yield", ",d"),
    "ob1": ("OB1", ",d"),
    "ob10": ("OB10", ",d"),
    "ob100": ("OB100", ",d"),
    **_DIVERSITY,
}
_LIKENESS = {"fcd": "FCD", "snn": "SNN", "scaf": "Scaf", "frag": "Frag"}
COVER = "cover: share of the generic scaffolds of the prior's sample, or of its hits, made again."


def comparison_tables(table: pd.DataFrame, options: MetricOptions) -> Iterator[Table | str]:
    """One table for all molecules, one for the hits at each threshold, and others between them.

    Where no run has a hit, a sentence stands for the table.
    """
    whole = table[table["threshold"].isna()]
    k = max(options.uniqueness_at, default=0)
    at = {f"{UNIQUENESS_AT}{k}": (f"@{k:,}", ".2%")} if k else {}
    yield _table("All distinct molecules", whole, {**_ALL, **at, **_DIVERSITY})
    yield _table(f"The last {options.late_samples:,} valid samples", whole, _LATE)
    if whole[list(_AUC)].notna().any(axis=None):
        over = sorted(whole["auc_calls"].dropna().unique())
        of_one = f"AUC top-k over {over[0]:,} call{'' if over[0] == 1 else 's'}"
        same = of_one if len(over) == 1 else ""
        calls = {} if same else {"auc_calls": ("over calls", ",d")}
        yield _table(same or "AUC top-k, over the calls of each run", whole, {**calls, **_AUC})
    for last, title in _references(whole):
        columns = {f"{metric}{last}": (label, ".3f") for metric, label in _LIKENESS.items()}
        yield _table(title, whole, {"n_pairwise": ("n", ",d"), **columns})
    for threshold in table["threshold"].dropna().unique():
        title = f"Hits: R >= {threshold_key(threshold)}"
        rows = table[table["threshold"] == threshold]
        if rows["yield"].any():
            yield _table(title, rows, _HITS)
        else:
            yield f"{title}: no run has one.\n"


def legend(table: pd.DataFrame, options: MetricOptions) -> str:
    """How to read the tables."""
    at = f"{UNIQUENESS_AT}{max(options.uniqueness_at, default=0)}"
    has_at = at in table and table[at].notna().any()
    texts = [
        *(["@k: unique among the first k valid samples."] if has_at else []),
        "OB: oracle calls until the first, 10th, 100th "
        "hit. scaf.: Bemis-Murcko scaffolds; eff.: exp of the entropy over them; top: share of the "
        "largest. IntDiv: MOSES, p = 1; #Circles: LeaderPicker, Tanimoto distance > "
        f"{options.circles_distance:g}, in the order first scored; both on Morgan r2, 1024 bits.",
    ]
    if table[list(_AUC)].notna().any(axis=None):
        texts.append("AUC top-k: area under the mean of the k best rewards so far, as in PMO.")
    if table["prior_coverage"].notna().any():
        texts.append(COVER)
    return " ".join(texts)


def _references(whole: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """How the columns of each reference end, and the title of its table."""
    endings = [name.removeprefix("snn") for name in whole.columns if name.startswith("snn")]
    for last in endings:
        if whole[f"snn{last}"].notna().any():
            yield last, f"Likeness to the reference {last.removeprefix('_')}".strip()


def _table(title: str, rows: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> Table:
    """One row per run; columns that are empty for all runs are left out."""
    shown = {name: how for name, how in columns.items() if rows[name].notna().any()}
    table = empty_table(title, rows["run"], [label for label, _ in shown.values()])
    for _, row in rows.iterrows():
        table.add_row(Text(row["run"]), *_cells(row, shown))
    return table


def empty_table(title: str, runs: pd.Series, labels: Sequence[str]) -> Table:
    """A table without rows: the names of the runs, then numbers under these labels."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column("run", overflow="fold", min_width=min(24, runs.str.len().max()))
    for label in labels:
        table.add_column(label, justify="right", no_wrap=True)
    return table


def _cells(row: Any, columns: dict[str, tuple[str, str]]) -> Sequence[str]:
    return [cell(row[name], how) for name, (_, how) in columns.items()]
