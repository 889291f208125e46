"""Evaluations as tables for the terminal, and the table of metrics itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table

from chemkl.config import InputError, did_you_mean
from chemkl.config.evaluate import MetricOptions, TextOptions
from chemkl.display import Column, counted, is_missing, plain_table, short, table
from chemkl.evaluation.metrics import (
    METRICS,
    RUN,
    Metric,
    key_of,
    metrics_of,
    shown_in,
    threshold_key,
)
from chemkl.evaluation.text import TEXT_METRICS

SHOWN_SCAFFOLD = 40
"""Longer SMILES are cut in tables and sentences; the files hold them whole."""
POINTS = 5
"""Calls shown of each run at most; the last one always is."""
MOVED = 3
"""Families shown that grew most, and as many that shrank most."""
MOST_PROMPTS = 10
"""Prompts shown of each run at most."""
PROMPT_WIDTH = 24
"""A longer prompt is cut in the middle."""
HOW_TO_READ = (
    "By prompt: a molecule counts for each prompt that made it, and OB counts the prompt's own "
    "distinct molecules."
)

Rows = Sequence[Mapping[str, Any]]


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table by column name."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def comparison_tables(frame: pd.DataFrame, options: MetricOptions) -> Iterator[Table | str]:
    """One table for all molecules, one for the hits at each threshold, and others between them.

    Where no run has a hit, a sentence stands for the table.
    """
    whole, by_threshold = _sets(frame)
    yield table("All distinct molecules", [RUN, *_screen("whole", options)], whole)
    title = f"The last {options.late_samples:,} valid samples"
    yield table(title, [RUN, *_screen("late", options)], whole)
    calls = sorted({row["auc_calls"] for row in whole if not is_missing(row["auc_calls"])})
    if calls:
        title, columns = "AUC top-k, over the calls of each run", [METRICS["auc_calls"].on_screen]
        if len(calls) == 1:
            title, columns = f"AUC top-k over {counted(calls[0], 'call')}", []
        yield table(title, [RUN, *columns, *_screen("auc", options)], whole)
    for name in [key.removeprefix("snn") for key in frame.columns if key.startswith("snn")]:
        columns = [replace(m, key=m.key + name) for m in shown_in("reference", options)]
        if frame[f"snn{name}"].notna().any():
            title = f"Likeness to the reference {name.removeprefix('_')}".strip()
            yield table(title, [RUN, Column("n_pairwise", "n", ",d"), *columns], whole)
    for threshold, rows in by_threshold.items():
        title = f"Hits: R >= {threshold_key(threshold)}"
        if any(row["yield"] for row in rows):
            yield table(title, [RUN, *_screen("hits", options)], rows)
        else:
            yield f"{title}: no run has one.\n"


def legend(frame: pd.DataFrame, options: MetricOptions) -> str:
    """What the columns of the tables are."""
    whole, _ = _sets(frame)
    texts = ["OB: oracle calls until the first, 10th, 100th hit."]
    if any(not is_missing(row["auc_calls"]) for row in whole):
        texts.append("AUC top-k: area under the mean of the k best rewards so far, as in PMO.")
    return " ".join([*texts, key_of(_screen("whole", options), whole)])


def window_table(over_time: pd.DataFrame, options: MetricOptions) -> Iterator[Table]:
    """How the last samples looked at a few calls of each run; nothing without a molecule."""
    rows: list[dict[str, Any]] = []
    for _, of_run in over_time[over_time["threshold"].isna()].groupby("run", sort=False):
        points = min(len(of_run), POINTS)  # evenly from the end on
        places = [(k * len(of_run)) // points - 1 for k in range(1, points + 1)]
        rows += rows_of(of_run.iloc[places])
    if rows:
        title = f"The last {options.late_samples:,} valid samples at several calls"
        late = [m for m in _screen("late", options) if m.key in over_time]
        columns = [
            RUN,
            Column("call", "calls", ",d"),
            *late,
            Column("mean_reward", "mean R", ".3f"),
        ]
        yield table(title, columns, rows, group=True)


def family_tables(
    frame: pd.DataFrame, families: pd.DataFrame, options: MetricOptions
) -> Iterator[Table]:
    """Which families grew and shrank most, and how many of the prior's each run made again."""
    moved: list[pd.DataFrame] = []
    for _, of_run in families.groupby("run", sort=False):
        by_change = of_run.sort_values("share_change", ascending=False, kind="stable")
        change = by_change["share_change"]
        moved += [by_change[change > 0].head(MOVED), by_change[change < 0].tail(MOVED)]
    if moved:
        title = (
            "Scaffold families that grew and shrank most: shares of the prior's samples and of the "
            f"last {options.late_samples:,} valid ones"
        )
        columns = [
            RUN,
            Column("family", "generic scaffold"),
            Column("prior_share", "prior", ".1%"),
            Column("policy_share", "policy", ".1%"),
            Column("share_change", "change", "+.1%"),
        ]
        rows = rows_of(pd.concat(moved))
        shown = [row | {"family": short(row["family"], SHOWN_SCAFFOLD)} for row in rows]
        yield table(title, columns, shown, group=True)
    covered = frame[frame["prior_families"].notna()]
    if covered.empty:
        return
    whole, by_threshold = _sets(covered)  # of all molecules, then of the hits at each threshold
    sets = {"all": whole, **{f"R >= {threshold_key(t)}": rows for t, rows in by_threshold.items()}}
    columns, lines = [RUN], {run: {"run": run} for run in covered["run"].unique()}
    for name, rows in sets.items():
        ground, again = f"{name} families", f"{name} again"
        columns += [Column(ground, f"{name}: prior", ",d"), Column(again, "made again", ".1%")]
        for row in rows:
            lines[row["run"]][ground] = row["prior_families"]
            lines[row["run"]][again] = row["prior_coverage"]
    title = "Scaffold families of the prior's sample, and how many of them a run made again"
    yield table(title, columns, lines.values(), keep_empty=True)


def prompt_tables(by_prompt: pd.DataFrame) -> Iterator[Table]:
    """A table for each threshold, or one of all molecules: a line for each prompt of each run."""
    if by_prompt.empty:
        return
    whole, by_threshold = _sets(by_prompt)
    ours = [METRICS[key].on_screen for key in ("n_molecules", "validity", "uniqueness")]
    of_hits = ["yield", "ob10"] if by_threshold else []
    theirs = [METRICS[key].on_screen for key in (*of_hits, "murcko", "top_share")]
    most = int(by_prompt.groupby("run")["group"].nunique().max())
    part = f" (the first {MOST_PROMPTS} of {most:,} prompts)" if most > MOST_PROMPTS else ""
    sets: list[tuple[float | None, Rows]] = [*by_threshold.items()]
    for threshold, rows in sets or [(None, whole)]:
        title = "By prompt"
        if threshold is not None:
            title += f": all molecules, and hits with R >= {threshold_key(threshold)}"
        of_set = {(row["run"], row["group"]): row for row in rows}
        shown: list[dict[str, Any]] = []
        for row in whole:
            if sum(one["run"] == row["run"] for one in shown) < MOST_PROMPTS:
                prompt = short(" ".join(row["prompt"].split()), PROMPT_WIDTH)
                values = {m.key: row[m.key] for m in ours}
                values |= {m.key: of_set[row["run"], row["group"]][m.key] for m in theirs}
                shown.append({"run": row["run"], "prompt": prompt, **values})
        columns = [RUN, Column("prompt", "prompt"), *ours, *theirs]
        yield table(f"{title}{part}", columns, shown, keep_empty=True, group=True)


def metric_catalogue(name: str | None = None) -> Iterator[RenderableType]:
    """What `chemkl show metrics` prints: all metrics, or those of one name."""
    names = [*METRICS, *TEXT_METRICS]
    if name is not None and name not in names:
        raise InputError(f"no metric is called {name!r}{did_you_mean(name, names)}")
    options = MetricOptions().model_dump()
    options |= {**TextOptions().model_dump(), "sizes": "1 to 5"}
    for title, metrics in {"Metrics": METRICS, "Measures of texts": TEXT_METRICS}.items():
        made = plain_table(title)
        for label in ("metric", "unit", "better", "of"):
            made.add_column(label, no_wrap=True)
        made.add_column("meaning", ratio=1)
        for metric in metrics.values():
            if name in (None, metric.key):
                cells = (metric.key, metric.unit, metric.better or "", metric.scope)
                made.add_row(*cells, metric.meaning.format(**options))
        if made.row_count:
            yield made


def _screen(name: str, options: MetricOptions) -> list[Metric]:
    """The metrics of a table on the screen."""
    shown = [metric.on_screen for metric in shown_in(name, options) if metric.short != ""]
    largest = max(options.uniqueness_at, default=0)
    if name == "whole" and largest:
        shown += [m for m in metrics_of(options) if m.key == f"uniqueness_at_{largest}"]
    return shown


def _sets(frame: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[float, list[dict[str, Any]]]]:
    """The rows of all molecules, and those of the hits by threshold."""
    rows = rows_of(frame)
    by_threshold: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if not is_missing(row["threshold"]):
            by_threshold.setdefault(row["threshold"], []).append(row)
    return [row for row in rows if is_missing(row["threshold"])], by_threshold
