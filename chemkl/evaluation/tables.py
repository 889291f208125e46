"""Tables of evaluations for the terminal, and the table of metrics itself."""

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

SCAFFOLD_WIDTH = 40
"""Maximum characters of a SMILES in tables and sentences; files contain it in full."""
MAX_CALLS = 5
"""Maximum calls shown per run; the last call is always shown."""
MAX_CHANGED = 3
"""Maximum families shown that grew most, and that shrank most."""
MAX_PROMPTS = 10
"""Maximum prompts shown per run."""
PROMPT_WIDTH = 24
"""Maximum characters of a prompt."""
HOW_TO_READ = (
    "By prompt: a molecule counts for each prompt that generated it, and OB counts the distinct "
    "molecules of that prompt."
)

Rows = Sequence[Mapping[str, Any]]


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert a table to rows by column name."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def comparison_tables(frame: pd.DataFrame, options: MetricOptions) -> Iterator[Table | str]:
    """Yield tables of all molecules, late samples, AUC, references, and hits at each threshold.

    A sentence replaces the table of a threshold at which no run has a hit.
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
            yield f"{title}: no run has hits.\n"


def legend(frame: pd.DataFrame, options: MetricOptions) -> str:
    """Explain the columns of the tables."""
    whole, _ = _sets(frame)
    texts = ["OB: oracle calls until the first, 10th, 100th hit."]
    if any(not is_missing(row["auc_calls"]) for row in whole):
        texts.append("AUC top-k: area under the mean of the k best rewards so far, as in PMO.")
    return " ".join([*texts, key_of(_screen("whole", options), whole)])


def window_table(over_time: pd.DataFrame, options: MetricOptions) -> Iterator[Table]:
    """Yield the table of the late metrics at a few calls of each run, if there are molecules."""
    rows: list[dict[str, Any]] = []
    for _, of_run in over_time[over_time["threshold"].isna()].groupby("run", sort=False):
        points = min(len(of_run), MAX_CALLS)  # evenly spaced, the last one included
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
    """Yield tables of the families that changed most, and of the prior's families recovered."""
    changed: list[pd.DataFrame] = []
    for _, of_run in families.groupby("run", sort=False):
        by_change = of_run.sort_values("share_change", ascending=False, kind="stable")
        change = by_change["share_change"]
        changed += [
            by_change[change > 0].head(MAX_CHANGED),
            by_change[change < 0].tail(MAX_CHANGED),
        ]
    if changed:
        title = (
            "Scaffold families that grew and shrank most: shares of the prior's samples and of the "
            f"last {options.late_samples:,} valid samples"
        )
        columns = [
            RUN,
            Column("family", "generic scaffold"),
            Column("prior_share", "prior", ".1%"),
            Column("policy_share", "policy", ".1%"),
            Column("share_change", "change", "+.1%"),
        ]
        rows = rows_of(pd.concat(changed))
        rows = [row | {"family": short(row["family"], SCAFFOLD_WIDTH)} for row in rows]
        yield table(title, columns, rows, group=True)
    covered = frame[frame["prior_families"].notna()]
    if covered.empty:
        return
    whole, by_threshold = _sets(covered)  # of all molecules, then of the hits at each threshold
    sets = {"all": whole, **{f"R >= {threshold_key(t)}": rows for t, rows in by_threshold.items()}}
    columns, lines = [RUN], {run: {"run": run} for run in covered["run"].unique()}
    for name, rows in sets.items():
        n_prior, coverage = f"{name} families", f"{name} coverage"
        columns += [Column(n_prior, f"{name}: prior", ",d"), Column(coverage, "recovered", ".1%")]
        for row in rows:
            lines[row["run"]][n_prior] = row["prior_families"]
            lines[row["run"]][coverage] = row["prior_coverage"]
    title = "Scaffold families of the prior's sample, and the share that each run recovered"
    yield table(title, columns, lines.values(), keep_empty=True)


def prompt_tables(by_prompt: pd.DataFrame) -> Iterator[Table]:
    """Yield a table per threshold, or one of all molecules: a line for each prompt of each run."""
    if by_prompt.empty:
        return
    whole, by_threshold = _sets(by_prompt)
    of_prompt = [METRICS[key].on_screen for key in ("n_molecules", "validity", "uniqueness")]
    hits = ["yield", "ob10"] if by_threshold else []
    of_set = [METRICS[key].on_screen for key in (*hits, "murcko", "top_share")]
    n_prompts = int(by_prompt.groupby("run")["group"].nunique().max())
    part = ""
    if n_prompts > MAX_PROMPTS:
        part = f" (the first {MAX_PROMPTS} of {n_prompts:,} prompts)"
    sets: list[tuple[float | None, Rows]] = [*by_threshold.items()]
    for threshold, rows in sets or [(None, whole)]:
        title = "By prompt"
        if threshold is not None:
            title += f": all molecules, and hits with R >= {threshold_key(threshold)}"
        set_rows = {(row["run"], row["group"]): row for row in rows}
        lines: list[dict[str, Any]] = []
        for row in whole:
            if sum(line["run"] == row["run"] for line in lines) < MAX_PROMPTS:
                prompt = short(" ".join(row["prompt"].split()), PROMPT_WIDTH)
                values = {m.key: row[m.key] for m in of_prompt}
                values |= {m.key: set_rows[row["run"], row["group"]][m.key] for m in of_set}
                lines.append({"run": row["run"], "prompt": prompt, **values})
        columns = [RUN, Column("prompt", "prompt"), *of_prompt, *of_set]
        yield table(f"{title}{part}", columns, lines, keep_empty=True, group=True)


def metric_catalogue(name: str | None = None) -> Iterator[RenderableType]:
    """Yield the tables that `chemkl show metrics` prints: all metrics, or those of one name."""
    names = [*METRICS, *TEXT_METRICS]
    if name is not None and name not in names:
        raise InputError(f"no metric is called {name!r}{did_you_mean(name, names)}")
    options = MetricOptions().model_dump()
    options |= {**TextOptions().model_dump(), "sizes": "1 to 5"}
    for title, metrics in {"Metrics": METRICS, "Measures of texts": TEXT_METRICS}.items():
        rows = plain_table(title)
        for label in ("metric", "unit", "better", "of"):
            rows.add_column(label, no_wrap=True)
        rows.add_column("meaning", ratio=1)
        for metric in metrics.values():
            if name in (None, metric.key):
                cells = (metric.key, metric.unit, metric.better or "", metric.scope)
                rows.add_row(*cells, metric.meaning.format(**options))
        if rows.row_count:
            yield rows


def _screen(name: str, options: MetricOptions) -> list[Metric]:
    """Return the metrics of a table in the terminal."""
    metrics = [metric.on_screen for metric in shown_in(name, options) if metric.short != ""]
    largest = max(options.uniqueness_at, default=0)
    if name == "whole" and largest:
        metrics += [m for m in metrics_of(options) if m.key == f"uniqueness_at_{largest}"]
    return metrics


def _sets(frame: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[float, list[dict[str, Any]]]]:
    """Split the rows into those of all molecules, and those of the hits by threshold."""
    rows = rows_of(frame)
    by_threshold: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if not is_missing(row["threshold"]):
            by_threshold.setdefault(row["threshold"], []).append(row)
    return [row for row in rows if is_missing(row["threshold"])], by_threshold
