"""How runs, files and answers look in a terminal of 80 columns or more."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chemkl.config import InputError, did_you_mean, shipped
from chemkl.display import MISSING, is_missing, short
from chemkl.results import Manifest, description_of, trace_components
from chemkl.results.columns import RAW_PREFIX, has_prompts
from chemkl.results.inspection import Counts, RunTrace
from chemkl.results.outcome import outcome_of

SHOWN_HASH = 12
SMILES_WIDTH = 34
"""Room that a SMILES must have beside the components; what is longer is folded."""

PROMPT_WIDTH = 20
"""A longer prompt is cut in the middle."""

NO_TAU = "no fixed tau is known: give --threshold"
"""What stands where hits cannot be counted."""


def no_tau(run: RunTrace) -> str:
    """Why the hits of a run are not counted by a tau."""
    target = (run.manifest.config.get("target") if run.manifest else None) or {}
    quantile = target.get("tau_quantile")
    if quantile is None:
        return NO_TAU
    floor = f", never below {target['tau_floor']:g}" if target.get("tau_floor") is not None else ""
    return (
        f"tau moves: the quantile {quantile:g} of each batch's rewards{floor}; --threshold R counts"
    )


CELL_WIDTH = 28
"""Cells up to this length are not folded in a table of rows."""


def configs(name: str | None = None) -> Iterator[RenderableType]:
    """The configs and pipelines that come with chemkl; or those of one folder, or one of them."""
    files = [each for each in shipped.names() if each.endswith(".yaml")]
    chosen = [each for each in files if name is None or name in each.removesuffix(".yaml")]
    if not chosen:
        raise InputError(f"no config is called {name!r}{did_you_mean(str(name), files)}")
    table = Table("file", "what it is", box=box.SIMPLE)
    for each in chosen:
        first = (shipped.root() / each).read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(Text(each, overflow="fold"), Text(first.lstrip("# ")))
    yield table
    yield Text(f"In {shipped.root()}. A command takes them by this name, from any folder.")


def heading(run: RunTrace) -> Iterator[RenderableType]:
    """What the run is, and how it ended."""
    yield Text(str(run.folder), style="bold")
    facts = table_of_facts()
    manifest = run.manifest
    if manifest is None:
        facts.add_row("ended", "not known: the folder has no manifest.json")
    else:
        facts.add_row("ended", _how_it_ended(manifest))
        facts.add_row("started", _times(manifest))
        if manifest.extended:
            facts.add_row("extended", Text("; ".join(_extensions(manifest))))
        facts.add_row("what", Text(_settings(manifest)))
    facts.add_row("run", Text(run.identity["run_id"] or MISSING))
    facts.add_row("config", Text(run.identity["config_hash"][:SHOWN_HASH] or MISSING))
    steps = run.frame["step"]
    parts = "1 part" if run.n_parts == 1 else f"{run.n_parts} parts"
    facts.add_row("trace", f"{parts}, steps {steps.min():,} to {steps.max():,}")
    found = outcome_of(run.frame, manifest.model_dump(mode="json") if manifest else {})
    if found.hits and run.threshold is None:  # a tau that moves, by which none are counted below
        facts.add_row("hits", Text(found.hits))
    if found.collapse:
        facts.add_row("collapse", Text(found.collapse))
    if found.idle:
        facts.add_row("target", Text(found.idle))
    yield facts


def columns_table(schema: pa.Schema) -> RenderableType:
    """Columns with types and meanings."""
    table = plain_table()
    table.add_column("column", overflow="fold", min_width=10)
    table.add_column("type", overflow="fold")
    table.add_column("meaning", ratio=1)
    for field in schema:
        table.add_row(Text(field.name), str(field.type), Text(description_of(field) or MISSING))
    return titled("Columns", table)


def counts_table(counts: Counts, run: RunTrace, threshold: float | None) -> RenderableType:
    """How much was sampled, scored and found."""
    table = table_of_counts()
    table.add_row("rows", f"{counts.rows:,}", "sampled sequences")
    table.add_row("valid", f"{counts.valid:,}", f"{counts.valid / max(counts.rows, 1):.1%} of them")
    table.add_row("distinct", f"{counts.distinct:,}", f"with {_scaffolds(counts.scaffolds)}")
    table.add_row("calls", f"{counts.calls:,}", of_budget(run))
    if counts.failed:
        table.add_row("failed", f"{counts.failed:,}", "valid rows without a component's value")
    if threshold is None:
        table.add_row("hits", MISSING, no_tau(run))
    else:
        found = f"R >= {threshold:g}, with {_scaffolds(counts.hit_scaffolds or 0)}"
        table.add_row("hits", f"{counts.hits or 0:,}", found)
    if counts.best is not None:
        table.add_row("best R", f"{counts.best:.4g}", "the largest raw reward")
    return titled("Counts", table)


def best_table(best: pd.DataFrame, of_each: int | None, width: int) -> RenderableType:
    """The best molecules; with their prompts, where these fit, and their components, where all do.

    Components stand there by their raw values.
    """
    which = {None: "", 1: ", one of each scaffold"}.get(of_each, f", {of_each} of each scaffold")
    room = width - 16 - SMILES_WIDTH
    prompts = _fitting_prompts(best, room)
    room -= max(map(len, ("prompt", *prompts))) + 1 if prompts else 0
    components = trace_components(best.columns)
    needed = sum(max(len(name), 8) + 1 for name in components)
    shown = components if needed <= room else []
    table = plain_table()
    for name in ("reward", "call"):
        table.add_column(name, justify="right", no_wrap=True)
    if prompts:
        table.add_column("prompt", no_wrap=True)
    for name in shown:
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("SMILES", overflow="fold", min_width=SMILES_WIDTH // 2)
    for number, (_, row) in enumerate(best.iterrows()):
        table.add_row(
            _cell(row["reward"]),
            f"{row['call']:,}",
            *map(Text, prompts[number : number + 1]),
            *(_cell(row[RAW_PREFIX + name]) for name in shown),
            Text(row["canonical_smiles"]),
        )
    before = "; components before their transform" if shown else ""
    return titled(f"Best molecules{which}{before}", table)


def _fitting_prompts(best: pd.DataFrame, room: int) -> list[str]:
    """The prompts of a language model's molecules; none where there are none, or no room."""
    if not has_prompts(best.columns):
        return []
    prompts = [prompt_cell(prompt) for prompt in best["prompt"]]
    return prompts if max(map(len, ("prompt", *prompts))) + 1 <= room else []


def prompt_cell(prompt: str) -> str:
    """A prompt on one line, cut in the middle where it is long."""
    return short(" ".join(prompt.split()), PROMPT_WIDTH)


def rows_table(rows: pa.Table, width: int) -> RenderableType:
    """Rows as rows; where the columns do not fit, as columns: as many of the rows as do."""
    cells = [[_cell(value) for value in column.to_pylist()] for column in rows.columns]
    names = rows.schema.names
    widths = [
        max(len(name), *(min(len(cell), CELL_WIDTH) for cell in column), 1)
        for name, column in zip(names, cells, strict=True)
    ]
    table = plain_table()
    if sum(widths) + len(widths) + 1 <= width:
        for field, least in zip(rows.schema, widths, strict=True):
            side = "right" if _is_number(field.type) else "left"
            table.add_column(Text(field.name), justify=side, overflow="fold", min_width=least)  # type: ignore[arg-type] # a str is one of the literals
        for row in zip(*cells, strict=True):
            table.add_row(*map(Text, row))
        return table
    n_fit = max(1, (width - max(map(len, names)) - 2) // (CELL_WIDTH + 1))
    n_shown = min(n_fit, len(rows))
    table.add_column("column", no_wrap=True)
    for number in range(1, n_shown + 1):
        table.add_column(f"row {number}", overflow="fold", ratio=1)
    for name, column in zip(names, cells, strict=True):
        table.add_row(Text(name), *map(Text, column[:n_shown]))
    if n_shown == len(rows):
        return table
    return Group(table, "More rows do not fit beside these: choose fewer columns with --sql.")


def table_of_facts() -> Table:
    """Two columns, a name and what there is of it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    return table


def table_of_counts() -> Table:
    """Three columns: a name, a number, and what it is a number of."""
    table = table_of_facts()
    table.columns[1].justify = "right"
    table.add_column()
    return table


def of_budget(run: RunTrace) -> str:
    """What the oracle calls of a run are to be compared with; nothing without a budget."""
    budget = run.manifest.config.get("budget") if run.manifest else None
    return f"of a budget of {budget:,}" if isinstance(budget, int) else ""


def plain_table() -> Table:
    """A table with a line under its head."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def titled(title: str, table: Table) -> RenderableType:
    """A title beside the table, not in it, where it would be folded to the table's width."""
    return Group(Text(title, style="bold"), table)


def _scaffolds(n: int) -> str:
    return f"{n:,} scaffold{'' if n == 1 else 's'}"


def _how_it_ended(manifest: Manifest) -> Text:
    if manifest.status == "running":
        return Text("not yet: it is running, or was killed without a word")
    why = f": {manifest.ended_by}" if manifest.ended_by else ""
    return Text(f"{manifest.status}{why}")


def _times(manifest: Manifest) -> str:
    began = datetime.fromisoformat(manifest.started)
    text = f"{began:%Y-%m-%d %H:%M} UTC"
    if manifest.finished:
        took = datetime.fromisoformat(manifest.finished) - began
        text += f", took {timedelta(seconds=round(took.total_seconds()))}"
    n = len(manifest.resumed)
    return text + (f", resumed {n} time{'s' if n > 1 else ''}" if n else "")


def _extensions(manifest: Manifest) -> Iterator[str]:
    """The limits that a run had before it was given others, and those that it was given."""
    later = [*manifest.extended[1:], manifest.config]
    for before, after in zip(manifest.extended, later, strict=True):
        for key, limit in before.items():
            if key in manifest.config and limit != after.get(key):
                yield f"{key} {_limit(limit)} to {_limit(after.get(key))}"


def _limit(limit: int | None) -> str:
    return "none" if limit is None else f"{limit:,}"


def _settings(manifest: Manifest) -> str:
    """What tells runs of one pipeline apart: target, estimator, filter, seed."""
    config = manifest.config
    kinds = {
        key: config[key].get("kind")
        for key in ("target", "estimator", "diversity_filter", "shaper")
        if isinstance(config.get(key), dict)
    }
    named = [f"{key.replace('_', ' ')} {kind}" for key, kind in kinds.items() if kind]
    seed = [] if manifest.seed is None else [f"seed {manifest.seed}"]
    return ", ".join([manifest.stage, *named, *seed])


def _cell(value: Any) -> str:
    """A value in few digits; a dash where there is none."""
    if is_missing(value):
        return MISSING
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def _is_number(kind: pa.DataType) -> bool:
    return any(
        is_one(kind) for is_one in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )


def more(shown: int, there_are: int, how: Sequence[str]) -> str:
    """A line that says that not all rows are shown, and how to have them."""
    return f"{shown:,} of {there_are:,} rows; {', or '.join(how)}"
