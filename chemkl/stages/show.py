"""`chemkl show`: print a run, a Parquet file, the answer to a query, or a table of choices.

Tables fit a terminal of 80 columns or more.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from chemkl import display
from chemkl.config import Config, InputError, did_you_mean
from chemkl.config.objective import FILTERS, Part, models_of
from chemkl.config.paths import model_file, shipped_names, shipped_priors, shipped_root
from chemkl.config.pipeline import PipelineConfig
from chemkl.config.reward import RewardConfig
from chemkl.config.schema import Key, keys_of
from chemkl.results import Manifest, description_of, inspection, trace_components
from chemkl.results.columns import RAW_PREFIX, has_prompts
from chemkl.results.manifest import read_log
from chemkl.results.outcome import outcome_of
from chemkl.results.provenance import at_the_end
from chemkl.results.trace import list_parts, read_part_schema
from chemkl.rewards.registry import reward_tables, transform_tables
from chemkl.stages.export import check_outputs, select, write_csv, written_out
from chemkl.stages.registry import MODELS, STAGES
from chemkl.stages.status import KILLED, is_locked

N_BEST = 10
N_EVENTS = 10
N_ROWS_OF_FILE = 5
N_ROWS_OF_ANSWER = 30
MOST_PROMPTS = 10
"""Maximum number of prompts whose answers are shown."""
SHOWN_HASH = 12
SMILES_WIDTH = 34
"""Width that a SMILES needs next to the components."""
PROMPT_WIDTH = 20
"""Longer prompts are cut in the middle."""
CELL_WIDTH = 28
"""Longer cells of a table of rows are folded."""
ANSWERS = (
    display.Column("prompt", "prompt"),
    display.Column("answer", "answer"),
    display.Column("valid", "valid"),
    display.Column("share", "share", ".2%"),
    display.Column("mean_reward", "mean R", ".4g"),
)
ENDINGS = {"--csv": (".csv", ".csv.gz"), "--parquet": (".parquet",)}
"""Allowed endings of each option's file."""


def configs(name: str | None = None) -> Iterator[RenderableType]:
    """Yield a table of the shipped configs and pipelines whose path contains a name."""
    files = [file for file in shipped_names() if file.endswith(".yaml")]
    chosen = [file for file in files if name is None or name in file.removesuffix(".yaml")]
    if not chosen:
        _check_known("config", str(name), files)
    table = Table("file", "what it is", box=box.SIMPLE)
    for file in chosen:
        first = (shipped_root() / file).read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(Text(file, overflow="fold"), Text(first.lstrip("# ")))
    yield table
    yield Text(f"In {shipped_root()}. Commands accept these names in any folder.")


def config(name: str | None = None) -> Iterator[RenderableType]:
    """Yield a table of the stages, or of the keys of a stage, a reward or a pipeline."""
    if name is None:
        table = Table("stage", "what it does", "what it writes", box=box.SIMPLE)
        for stage in STAGES.values():
            table.add_row(stage.name, stage.help, ", ".join(stage.outputs))
        yield table
        yield "For the keys of a stage: chemkl show config STAGE"
        return
    models: dict[str, type[Config]] = {"pipeline": PipelineConfig, "reward": RewardConfig}
    _check_known("config", name, [*STAGES, *models])
    yield _keys(keys_of(models.get(name) or STAGES[name].model, inside=True))
    yield (
        "0 stands for any position in a list, NAME for a name of your choice. More keys: chemkl "
        "show targets, estimators, shapers, filters, transforms; of components: rewards."
    )


def _check_known(kind: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise InputError(f"no {kind} is called {name!r}{did_you_mean(name, names)}")


def _keys(keys: Iterable[Key]) -> Table:
    table = Table("key", "type and range", "default", "meaning", box=box.SIMPLE, expand=True)
    for key in keys:
        row = (key.name, key.type, key.default or "required", key.meaning)
        table.add_row(*(Text(text, overflow="fold") for text in row))
    return table


def parts(sort: Part | Literal["diversity filter"], name: str | None) -> Iterator[RenderableType]:
    """Yield one or all targets, estimators, shapers or diversity filters with their keys."""
    kinds: Mapping[str, Any] = FILTERS if sort == "diversity filter" else models_of(sort)
    if name is not None:
        _check_known(sort, name, kinds)
    for kind in kinds if name is None else [name]:
        model = kinds[kind] if sort == "diversity filter" else kinds[kind]()
        yield Text(kind, style="bold")
        yield Text((model.__doc__ or "").strip())
        keys = [key for key in keys_of(model) if key.name != "kind"]
        yield _keys(keys) if keys else ""


def metrics(name: str | None = None) -> Iterator[RenderableType]:
    """Yield the metrics of evaluate, compare and report, or one of them."""
    from chemkl.evaluation.tables import metric_catalogue  # it imports scipy, which takes a second

    yield from metric_catalogue(name)


CATALOGUES: dict[str, Callable[[str | None], Iterable[RenderableType]]] = {
    "rewards": reward_tables,
    "transforms": transform_tables,
    "metrics": metrics,
    "targets": partial(parts, "target"),
    "estimators": partial(parts, "estimator"),
    "shapers": partial(parts, "shaper"),
    "filters": partial(parts, "diversity filter"),
    "stages": config,
    "config": config,
    "configs": configs,
}
"""What can be shown by name, as a whole or one entry in detail."""


@dataclass(frozen=True)
class Options:
    """The options of `chemkl show` for a run, a file or a query.

    None is the default: the run's tau as threshold, one molecule of each scaffold.
    """

    threshold: float | None = None
    top: int | None = None
    per_scaffold: int | None = None  # 0: no limit
    rows: int | None = None
    sql: str | None = None
    csv: Path | None = None
    parquet: Path | None = None
    force: bool = False

    def refuse(self, what: str, *names: str) -> None:
        """Refuse options without a meaning for this output."""
        options = [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if field.name in names and getattr(self, field.name) is not field.default
        ]
        if options:
            raise InputError(f"{', '.join(options)}: has no meaning for {what}")


def show(
    what: str,
    name: str | None = None,
    options: Options | None = None,
    *,
    console: Console | None = None,
) -> None:
    """Print a run, a Parquet file, a model, the answer to a query, or one of `CATALOGUES`."""
    console = console or display.standard_output()
    for part in _parts(what, name, options or Options(), console.width):
        console.print(part, highlight=False)


def _parts(what: str, name: str | None, options: Options, width: int) -> Iterable[RenderableType]:
    path = model_file(what)
    if what in CATALOGUES and (name is not None or not list_parts(path)):  # not a run of this name
        options.refuse(f"chemkl show {what}", *(field.name for field in fields(options)))
        return CATALOGUES[what](name)
    exists = os.path.exists(path)  # False also for a name that is too long
    ending, problem = path.suffix.lower() if exists and path.is_file() else "", ""
    if not exists:
        hint = did_you_mean(what, [*CATALOGUES, *shipped_priors()])
        problem = f"cannot show {what!r}: no such run folder or Parquet file{hint}"
    elif name is not None:
        problem = f"chemkl show {what} {name}: a path takes no name after it"
    elif path.is_file() and ending not in (".parquet", *MODELS):
        problem = (
            f"{path}: expected a run folder or a file that ends in .parquet, or a model file "
            f"({', '.join(MODELS)})"
        )
    if problem:
        raise InputError(problem)
    if ending in MODELS:
        options.refuse("a model file", *(field.name for field in fields(options)))
        from chemkl.stages.convert import describe_model  # it imports torch

        return describe_model(path)
    for_runs = ("threshold", "top", "per_scaffold")
    if options.sql is not None:
        options.refuse("a query (--sql)", *for_runs)
        return _answer(path, options.sql, options, width)
    options.refuse("a table without a query (--sql)", "csv", "parquet", "force")
    if path.is_file():
        options.refuse("one file", *for_runs)
        return _file(path, options, width)
    options.refuse("a run", "rows")
    return _run(path, options, width)


# ---- a run


def _run(folder: Path, options: Options, width: int) -> Iterator[RenderableType]:
    manifest = None if list_parts(folder) else Manifest.load(folder)
    if manifest is not None and manifest.stage in ("pretrain", "pretrain_llm"):
        options.refuse("a run without a trace", "threshold", "top", "per_scaffold")
        yield from _pretraining(folder, manifest)
        return
    run = inspection.open_run(folder)
    threshold = run.threshold if options.threshold is None else options.threshold
    top = options.top or N_BEST
    if run.is_text:
        options.refuse("a run of a language model without a molecule", "per_scaffold")
    yield Text(str(run.folder), style="bold")
    yield _facts(_about(run))
    yield from _log(folder)
    yield ""
    yield _columns(run.schema)
    counts = _facts(_counts(run, threshold))
    counts.columns[1].justify = "right"
    if run.is_text:
        yield _titled("Counts", counts)
        yield ""
        yield from _answers(inspection.frequent_answers(run.frame, top), width)
        return
    per_scaffold = (1 if options.per_scaffold is None else options.per_scaffold) or None
    best = select(run.frame, top=top, per_scaffold=per_scaffold)
    yield _titled("Counts", counts)
    yield ""
    yield _best(best, per_scaffold, width)


def _pretraining(folder: Path, manifest: Manifest) -> Iterator[RenderableType]:
    """A run of maximum likelihood: how it ended, its metrics, and how far its model moved."""
    yield Text(str(folder), style="bold")
    yield _facts([*_of_manifest(manifest, folder), ("run", manifest.run_id), *_inputs(manifest)])
    yield from _log(folder)
    numbers = {k: v for k, v in manifest.results.items() if isinstance(v, float)}
    if numbers:
        yield ""
        yield _titled("At the end", _facts((k, f"{v:.5g}") for k, v in numbers.items()))
    if "before" in manifest.results:
        from chemkl.evaluation.fine_tuning import movement_table  # it brings torch

        yield movement_table(manifest.results)


def _inputs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the role of each input of a run, and its path and checksum."""
    for role, file in manifest.inputs.items():
        digest = (file.kept_sha256 or "")[:SHOWN_HASH]
        copy = f"; kept as {file.kept} ({digest})" if file.kept else ""
        yield role, f"{file.path} (sha256 {file.sha256[:SHOWN_HASH]}){copy}"


def _titled(title: str, table: RenderableType) -> Group:
    """Put a title above a table; inside it would be folded to the table's width."""
    return Group(Text(title, style="bold"), table)


def _facts(rows: Iterable[Sequence[str]]) -> Table:
    table = display.facts(rows)
    table.columns[0].no_wrap = True
    return table


def _about(run: inspection.RunTrace) -> Iterator[tuple[str, str]]:
    """Yield facts about a run and its end."""
    manifest = run.manifest
    if manifest is None:
        yield "ended", "unknown: the folder has no manifest.json"
    else:
        yield from _of_manifest(manifest, run.folder)
    yield "run", run.identity["run_id"] or display.MISSING
    yield "config", run.identity["config_hash"][:SHOWN_HASH] or display.MISSING
    if manifest is not None:
        yield from _inputs(manifest)
    steps = run.frame["step"]
    yield (
        "trace",
        f"{display.counted(run.n_parts, 'part')}, steps {steps.min():,} to {steps.max():,}",
    )
    outcome = outcome_of(run.frame, manifest.model_dump(mode="json") if manifest else {})
    if outcome.hits and run.threshold is None:  # tau moves: `_counts` counts none
        yield "hits", outcome.hits
    findings = {
        "collapse": outcome.collapse,
        "target": outcome.idle,
        "parts": outcome.lost,
        "exploration": outcome.unexplored,
    }
    yield from ((name, text) for name, text in findings.items() if text)


def _of_manifest(manifest: Manifest, folder: Path) -> Iterator[tuple[str, str]]:
    ended = f"{manifest.status}: {manifest.ended_by}" if manifest.ended_by else manifest.status
    if manifest.status == "running":
        ended = "not yet: it is running" if is_locked(folder) else KILLED
    yield "ended", ended
    began, n_resumed = datetime.fromisoformat(manifest.started), len(manifest.resumed)
    times = f"{began:%Y-%m-%d %H:%M} UTC"
    if manifest.finished:
        took = datetime.fromisoformat(manifest.finished) - began
        times += f", took {timedelta(seconds=round(took.total_seconds()))}"
    times += f", resumed {display.counted(n_resumed, 'time')}" if n_resumed else ""
    yield "started", times
    extended = []  # earlier limits of the run
    later = [*manifest.extended, manifest.config][1:]
    for before, after in zip(manifest.extended, later, strict=True):
        for key, limit in before.items():
            if key in manifest.config and limit != after.get(key):
                was, now = ("none" if n is None else f"{n:,}" for n in (limit, after.get(key)))
                extended.append(f"{key} {was} to {now}")
    if extended:
        yield "extended", "; ".join(extended)
    settings = [manifest.stage]  # what differs between runs of a pipeline
    for key in ("target", "estimator", "diversity_filter", "shaper"):
        part = at_the_end(manifest.config).get(key)
        if isinstance(part, dict) and part.get("kind"):
            settings.append(f"{key.replace('_', ' ')} {part['kind']}")
    settings += [] if manifest.seed is None else [f"seed {manifest.seed}"]
    yield "what", ", ".join(settings)
    for stage in manifest.results.get("stages", ()):
        counts = ", ".join(f"{stage[key]:,} {key}" for key in ("steps", "calls", "hits"))
        text = f"ended by {stage['ended_by']} after {counts} of its own target"
        yield f"stage {stage['name']}", text


def _log(folder: Path) -> Iterator[RenderableType]:
    """Yield the last events of a run; of consecutive checkpoints only the last."""
    events = read_log(folder)
    names = [event["event"] for event in events]
    chosen = [n for n in range(len(names)) if names[n : n + 2] != ["checkpoint", "checkpoint"]]
    columns = [
        display.Column("time", "time (UTC)"),
        display.Column("event", "event"),
        *(display.Column(key, key, ",d") for key in ("steps", "calls", "samples")),
        display.Column("what", "what"),
    ]
    rows = [
        event
        | {"time": str(event.get("time"))[:19].replace("T", " ")}
        | {"what": event.get("text") or event.get("ended_by")}
        for event in (events[n] for n in chosen[-N_EVENTS:])
    ]
    if rows:
        yield ""
        yield _titled(f"Log: the last of {len(events):,} events", display.table("", columns, rows))


def _columns(schema: pa.Schema) -> RenderableType:
    """Return a table of columns with types and meanings."""
    table = display.plain_table()
    table.add_column("column", overflow="fold", min_width=10)
    table.add_column("type", overflow="fold")
    table.add_column("meaning", ratio=1)
    for field in schema:
        table.add_row(
            Text(field.name), str(field.type), Text(description_of(field) or display.MISSING)
        )
    return _titled("Columns", table)


def _counts(run: inspection.RunTrace, threshold: float | None) -> Iterator[Sequence[str]]:
    """Yield the counts of samples, calls and hits."""
    counts = inspection.count(run.frame, threshold)
    if run.is_text:
        n = max(counts.rows, 1)
        to_prompts = f"sampled, to {display.counted(counts.prompts, 'prompt')}"
        yield "completions", f"{counts.rows:,}", to_prompts
        yield "valid", f"{counts.valid:,}", f"{counts.valid / n:.1%} of them have an answer"
        if counts.truncated:
            share = f"{counts.truncated / n:.1%} of them had no end, and failed"
            yield "truncated", f"{counts.truncated:,}", share
        answers = "answers" if counts.prompts == 1 else "answers, each counted for each prompt"
        failed = "valid completions that could not be scored"
        hits = f"answers with R >= {threshold or 0:g}, in {counts.hit_rows or 0:,}"
        hits += " completions"
    else:
        yield "rows", f"{counts.rows:,}", "sampled sequences"
        yield "valid", f"{counts.valid:,}", f"{counts.valid / max(counts.rows, 1):.1%} of them"
        answers = f"with {display.counted(counts.scaffolds, 'scaffold')}"
        failed = "valid rows without a component's value"
        scaffolds = display.counted(counts.hit_scaffolds or 0, "scaffold")
        hits = f"R >= {threshold or 0:g}, with {scaffolds}"
    budget = run.manifest.config.get("budget") if run.manifest else None
    n_calls = int(run.frame["call"].count())  # seeds have calls in rows that are not sampled
    notes = [f"of a budget of {budget:,}"] if isinstance(budget, int) else []
    if n_calls > counts.calls:
        notes.append(f"{n_calls - counts.calls:,} of them for seeds of the memory")
    if counts.explored:
        yield (
            "explored",
            f"{counts.explored:,}",
            "proposals in addition to the samples: the column origin",
        )
    yield "distinct", f"{counts.distinct:,}", answers
    yield "calls", f"{n_calls:,}", ", ".join(notes)
    if counts.failed:
        yield "failed", f"{counts.failed:,}", failed
    if threshold is None:
        yield "hits", display.MISSING, _no_tau(run)
    else:
        yield "hits", f"{counts.hits or 0:,}", hits
    if counts.best is not None:
        yield "best R", f"{counts.best:.4g}", "the largest raw reward"


def _no_tau(run: inspection.RunTrace) -> str:
    """Say why a run has no fixed tau to count hits by."""
    config = at_the_end(run.manifest.config) if run.manifest else {}
    target: Mapping[str, Any] = config.get("target") or {}
    quantile, floor = target.get("tau_quantile"), target.get("tau_floor")
    if (target.get("schedule") or {}).get("tau"):
        return "tau moves along the run: see the column tau; --threshold R counts"
    if quantile is None:
        return "there is no fixed tau: give --threshold"
    least = f", never below {floor:g}" if floor is not None else ""
    return (
        f"tau moves: the quantile {quantile:g} of each batch's rewards{least}; --threshold R counts"
    )


def _best(best: pd.DataFrame, per_scaffold: int | None, width: int) -> RenderableType:
    """Return the best molecules, with prompts and raw components if these fit."""
    which = {None: "", 1: ", one of each scaffold"}.get(
        per_scaffold, f", {per_scaffold} of each scaffold"
    )
    room = width - 16 - SMILES_WIDTH
    prompts: list[str] = []
    if has_prompts(best.columns):
        prompts = [_prompt(prompt) for prompt in best["prompt"]]
        prompt_width = max(map(len, ("prompt", *prompts))) + 1
        prompts = prompts if prompt_width <= room else []
        room -= prompt_width if prompts else 0
    components = trace_components(best.columns)
    if sum(max(len(name), 8) + 1 for name in components) > room:
        components = []
    columns = [
        display.Column("reward", "reward", _cell),
        display.Column("call", "call", ",d"),
        *([display.Column("prompt", "prompt")] if prompts else []),
        *(display.Column(RAW_PREFIX + name, name, _cell) for name in components),
        display.Column("canonical_smiles", "SMILES"),
    ]
    frame = best.assign(prompt=prompts) if prompts else best
    rows = cast(list[dict[str, Any]], frame.to_dict("records"))
    table = display.table("", columns, rows, keep_empty=True)
    note = "; components before their transform" if components else ""
    return _titled(f"Best molecules{which}{note}", table)


def _prompt(prompt: str) -> str:
    """Put a prompt on one line and cut it in the middle if it is long."""
    return display.short(" ".join(prompt.split()), PROMPT_WIDTH)


def _answers(answers: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    """Yield the most frequent answers, and the number of prompts if not all are shown."""
    groups = answers["group"].unique()
    answers = answers[answers["group"].isin(groups[:MOST_PROMPTS])]
    prompts = [_prompt(prompt) for prompt in answers["prompt"]]
    room = max(8, width - 29 - max(map(len, ("prompt", *prompts))))  # beside the other columns
    is_first = answers["group"].ne(answers["group"].shift())
    rows = []
    for prompt, first, row in zip(prompts, is_first, answers.to_dict("records"), strict=True):
        text = row["text"]  # quoted if it has invisible characters
        text = text if text.isprintable() and text and text == text.strip() else repr(text)
        answer = text if len(text) <= room else f"{text[: room - 1]}…"
        valid = "yes" if row["valid"] else "no"
        rows.append(row | {"prompt": prompt * first, "answer": answer, "valid": valid})
    yield _titled(
        "Most frequent answers to each prompt; where none is valid, the completion",
        display.table("", ANSWERS, rows, keep_empty=True),
    )
    if len(groups) > MOST_PROMPTS:
        yield f"{MOST_PROMPTS} of {len(groups):,} prompts; --sql shows the others"


# ---- a file, an answer


def _file(path: Path, options: Options, width: int) -> Iterator[RenderableType]:
    schema = read_part_schema(path)
    head, n_rows = inspection.read_head(
        path, N_ROWS_OF_FILE if options.rows is None else options.rows
    )
    about = [("rows", f"{n_rows:,}"), ("columns", f"{len(schema.names):,}")]
    about += [
        (key.decode(), value.decode(errors="replace"))
        for key, value in (schema.metadata or {}).items()
        if key not in (b"pandas", b"ARROW:schema")
    ]
    yield Text(str(path), style="bold")
    yield _facts(about)
    yield ""
    yield _columns(schema)
    if len(head):
        yield _titled("First rows", _rows(head, width))


def _answer(place: Path, sql: str, options: Options, width: int) -> Iterator[RenderableType]:
    paths = {"--csv": options.csv, "--parquet": options.parquet}
    outputs = {option: path for option, path in paths.items() if path is not None}
    check_outputs(outputs, ENDINGS, force=options.force)
    answer = inspection.run_sql(inspection.tables_of(place), sql)
    names = answer.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if outputs and repeated:
        raise InputError(
            f"--sql: several columns are called {', '.join(repeated)}: a file needs unique names; "
            "rename them with AS"
        )
    for option, path in outputs.items():
        with written_out(path) as stream:
            if option == "--csv":
                write_csv(answer, stream)
            else:
                described = answer.replace_schema_metadata({"from": str(place), "sql": sql})
                pq.write_table(described, pa.PythonFile(stream), compression="zstd")
        yield Text(f"output: {path} ({len(answer):,} rows)")
    if outputs:
        return
    n_rows = N_ROWS_OF_ANSWER if options.rows is None else options.rows
    yield _rows(answer.slice(0, n_rows), width)
    if not len(answer):
        yield "0 rows"
    if len(answer) > n_rows:
        how = "--rows N shows more, or --csv FILE writes all"
        yield f"{n_rows:,} of {len(answer):,} rows; {how}"


def _rows(rows: pa.Table, width: int) -> RenderableType:
    """Return a table of rows, or of rows as columns if the columns do not fit."""
    cells = [[_cell(value) for value in column.to_pylist()] for column in rows.columns]
    names = rows.schema.names
    widths = [
        max(len(name), *(min(len(text), CELL_WIDTH) for text in column), 1)
        for name, column in zip(names, cells, strict=True)
    ]
    table = display.plain_table()
    if sum(widths) + len(widths) + 1 <= width:
        numbers = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
        for field, min_width in zip(rows.schema, widths, strict=True):
            side: Any = "right" if any(test(field.type) for test in numbers) else "left"
            table.add_column(Text(field.name), justify=side, overflow="fold", min_width=min_width)
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
    return Group(table, "More rows do not fit: choose fewer columns with --sql.")


def _cell(value: Any) -> str:
    """Format a value with few digits; a missing one is a dash."""
    if display.is_missing(value):
        return display.MISSING
    return f"{value:.5g}" if isinstance(value, float) else str(value)
