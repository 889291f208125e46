"""Collapse over the calls, and the families of prior and policy, as tables for the terminal."""

from collections.abc import Iterator, Mapping

import pandas as pd
from rich.table import Table
from rich.text import Text

from chemkl.config.evaluate import MetricOptions
from chemkl.display import cell, short
from chemkl.evaluation.display import empty_table
from chemkl.evaluation.forecast_words import SHOWN_SCAFFOLD
from chemkl.evaluation.metrics import threshold_key

POINTS = 5
"""Calls shown of each run at most; the last one always is."""
MOVED = 3
"""Families shown that grew most, and as many that shrank most."""

_WINDOW = {
    "late_uniqueness": ("unique", ".1%"),
    "late_scaffolds": ("scaf.", ",d"),
    "late_effective_scaffolds": ("eff.", ",.0f"),
    "late_top_share": ("top", ".1%"),
    "mean_reward": ("mean R", ".3f"),
}
_SHARES = {
    "prior_share": ("prior", ".1%"),
    "policy_share": ("policy", ".1%"),
    "share_change": ("change", "+.1%"),
}


def window_table(over_time: pd.DataFrame, options: MetricOptions) -> Iterator[Table]:
    """How the last samples looked at a few calls of each run; nothing without a molecule.

    Args:
        over_time: the rows of `over_time.parquet`.
        options: how the metrics were computed.
    """
    rows = over_time[over_time["threshold"].isna()]
    if rows.empty:
        return
    shown = {name: how for name, how in _WINDOW.items() if rows[name].notna().any()}
    title = f"The last {options.late_samples:,} valid samples at several calls"
    table = empty_table(title, rows["run"], ["calls", *(label for label, _ in shown.values())])
    for run, own in rows.groupby("run", sort=False):
        for number, (_, row) in enumerate(own.iloc[_spread(len(own))].iterrows()):
            cells = [cell(row[name], how) for name, (_, how) in shown.items()]
            table.add_row(Text(str(run) if number == 0 else ""), cell(row["call"], ",d"), *cells)
    yield table


def _spread(n: int) -> list[int]:
    """Places of at most POINTS rows of n, evenly from the end on."""
    points = min(n, POINTS)
    return [(k * n) // points - 1 for k in range(1, points + 1)]


def family_tables(
    table: pd.DataFrame, families: pd.DataFrame, options: MetricOptions
) -> Iterator[Table]:
    """Which families grew and shrank most, and how many of the prior's each run made again.

    Args:
        table: the rows of `diversity.parquet`.
        families: those of `families.parquet`.
        options: how the metrics were computed.
    """
    if not families.empty:
        yield _moved(families, options)
    if table["prior_families"].notna().any():
        yield _covered(table)


def _moved(families: pd.DataFrame, options: MetricOptions) -> Table:
    title = (
        "Scaffold families that grew and shrank most: shares of the prior's samples and of the "
        f"last {options.late_samples:,} valid ones"
    )
    labels = [label for label, _ in _SHARES.values()]
    table = empty_table(title, families["run"], ["generic scaffold", *labels])
    table.columns[1].justify = "left"
    for run, own in families.groupby("run", sort=False):
        by_change = own.sort_values("share_change", ascending=False, kind="stable")
        change = by_change["share_change"]
        grown, shrunk = by_change[change > 0].head(MOVED), by_change[change < 0].tail(MOVED)
        for number, (_, row) in enumerate(pd.concat([grown, shrunk]).iterrows()):
            cells = [cell(row[name], how) for name, (_, how) in _SHARES.items()]
            table.add_row(
                Text(str(run) if number == 0 else ""),
                Text(short(row["family"], SHOWN_SCAFFOLD)),
                *cells,
            )
    return table


def _covered(table: pd.DataFrame) -> Table:
    """A line for each run: families of all molecules, then of the hits at each threshold."""
    known = table[table["prior_families"].notna()]
    sets: Mapping[str, pd.DataFrame] = {
        "all": known[known["threshold"].isna()],
        **{
            f"R >= {threshold_key(threshold)}": known[known["threshold"] == threshold]
            for threshold in known["threshold"].dropna().unique()
        },
    }
    labels = [label for name in sets for label in (f"{name}: prior", "made again")]
    title = "Scaffold families of the prior's sample, and how many of them a run made again"
    shown = empty_table(title, known["run"], labels)
    for run in known["run"].unique():
        cells = []
        for rows in sets.values():
            own = rows[rows["run"] == run].to_dict("records")
            row = own[0] if own else dict.fromkeys(["prior_families", "prior_coverage"])
            cells += [cell(row["prior_families"], ",d"), cell(row["prior_coverage"], ".1%")]
        shown.add_row(Text(str(run)), *cells)
    return shown
