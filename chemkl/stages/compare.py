"""The compare stage: the runs of several methods, paired by seed, become differences and tests."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import CompareConfig
from chemkl.display import Bar, say
from chemkl.evaluation import evaluate, from_trace, metrics_schema
from chemkl.evaluation.comparison import (
    COMPARISON_SCHEMA,
    VALUES_SCHEMA,
    ComparedRun,
    Values,
    check_metrics,
    compare_rows,
    pair_seeds,
    places_of,
    read_methods,
    value_rows,
    what_differs,
)
from chemkl.evaluation.samples import TRACE_COLUMNS
from chemkl.reports import comparison as comparison_text
from chemkl.reports.curves import draw_forest
from chemkl.reports.figures import to_png, to_svg
from chemkl.results import Manifest, read_trace, write_bytes, write_parquet
from chemkl.results.outcome import read_never_acted
from chemkl.results.trace import read_part
from chemkl.stages.evaluate import require_traces, run_names
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.stages.runner import read_table as read

TABLE, VALUES = "comparison.parquet", "values.parquet"
MARKDOWN, LATEX = "comparison.md", "comparison.tex"
FOREST = "forest"


__all__ = ["problems", "read", "run", "work"]

run = STAGES["compare"].run


def work(config: CompareConfig, start: Start) -> None:
    """Compare methods; write the tables and the forest plot, and print the comparison.

    `run` returns the table: one row per metric, threshold and method but the baseline.
    """
    out_dir = start.out
    methods = read_methods(config.methods)
    pairs = pair_seeds(methods, config.baseline)
    budget = next(iter(methods[config.baseline].values())).budget
    with start.claim(_inputs(methods, config.table)) as manifest:
        used = _used(methods, pairs.seeds, config.baseline)
        evaluated = _from_table(used, config) if config.table else _evaluate(used, config)
        values = value_rows(evaluated, budget, config)
        rows = compare_rows(values, pairs.seeds, config)
        apart = [
            *what_differs(methods, config.baseline),
            *(
                f"{m}, seed {seed}: {told}"
                for (m, seed), told in _never_acted(used).items()
                if told
            ),
            *pairs.left_out,
        ]
        remarks = comparison_text.notes(rows, apart, budget=budget, alpha=config.alpha)
        table = pa.Table.from_pylist(rows, schema=COMPARISON_SCHEMA)
        write_parquet(out_dir / VALUES, pa.Table.from_pylist(values, schema=VALUES_SCHEMA))
        write_parquet(out_dir / TABLE, table)
        for name, form in {
            MARKDOWN: comparison_text.markdown,
            LATEX: comparison_text.latex,
        }.items():
            write_bytes(out_dir / name, form(rows, remarks, config.confidence).encode())
        figure = draw_forest(rows, config.confidence)
        write_bytes(out_dir / f"{FOREST}.png", to_png(figure))
        write_bytes(out_dir / f"{FOREST}.svg", to_svg(figure))
        manifest.finish(results={"pairs": pairs.seeds, "left_out": pairs.left_out})
    console = start.console
    console.print(comparison_text.terminal(rows, config.confidence), highlight=False)
    console.print("\n".join(remarks), highlight=False, markup=False)


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look for what the schema cannot see: the metrics, and the runs and the table that are there.

    A run that has not ended is one that is not made yet; `work` refuses it.
    """
    keys = ("metrics", "thresholds", "direction", "options")
    values = [view.get(key) for key in keys]
    config = view.config
    if not isinstance(config, CompareConfig):
        if view.draft and view.draft.data.get("table") is None and None not in values:
            metrics, thresholds, direction, options = values
            look = partial(check_metrics, from_table=False)
            columns = metrics_schema(options).names
            yield "metrics", complaints((look, metrics, columns, thresholds, direction))
        return
    there = {
        method: [run for run in view.there(runs) if view.starts or not _is_under_way(run)]
        for method, runs in config.methods.items()
    }
    table = None if config.table in view.awaited else config
    found = complaints((_check_metrics, table), (_check_runs, there))
    if not found and there == config.methods:
        found = complaints((pair_seeds, read_methods(there), config.baseline))
    yield "methods", found


def _is_under_way(folder: Path) -> bool:
    manifest = Manifest.load(folder)
    return manifest is not None and manifest.stage == "posttrain" and manifest.status != "complete"


def _check_metrics(config: CompareConfig) -> None:
    columns = metrics_schema(config.options).names
    if config.table is not None:
        try:
            columns = pq.read_schema(config.table).names
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"table: {config.table} cannot be read as Parquet ({error}). Give the "
                "diversity.parquet of an evaluate stage."
            ) from error
    check_metrics(
        config.metrics,
        columns,
        config.thresholds,
        config.direction,
        from_table=config.table is not None,
    )


def _check_runs(methods: Mapping[str, Sequence[Path]]) -> None:
    read_methods(methods)
    require_traces(folder for folders in methods.values() for folder in folders)


def _used(
    methods: Mapping[str, Mapping[int, ComparedRun]],
    pairs: Mapping[str, Sequence[int]],
    baseline: str,
) -> dict[tuple[str, int], Path]:
    """The folders of the runs that have a pair, by method and seed."""
    seeds = {**pairs, baseline: sorted({seed for some in pairs.values() for seed in some})}
    return {
        (method, seed): methods[method][seed].folder for method in methods for seed in seeds[method]
    }


def _never_acted(used: Mapping[tuple[str, int], Path]) -> dict[tuple[str, int], str]:
    """What is to be said of runs whose target changed nothing; empty where it did."""
    return {place: read_never_acted(folder) for place, folder in used.items()}


def _evaluate(used: Mapping[tuple[str, int], Path], settings: CompareConfig) -> Values:
    """Evaluate the traces, with a bar: some seconds for ten thousand molecules."""
    numbers = [threshold for threshold in settings.thresholds if threshold is not None]
    found = {}
    with Bar("evaluating the runs", len(used)) as bar:
        for place, folder in used.items():
            trace, manifest = read_trace(folder, TRACE_COLUMNS), Manifest.load(folder)
            samples = from_trace(str(folder), trace, settings.options.workers, manifest)
            if samples.note is not None:
                say(samples.note)
            found[place] = evaluate(samples, numbers, settings.options)
            bar.advance()
    return found


def _from_table(used: Mapping[tuple[str, int], Path], settings: CompareConfig) -> Values:
    """Take the evaluations out of the table of an evaluate stage."""
    path = settings.table
    if path is None:
        raise ValueError("no table to read")
    manifest = Manifest.load(path.parent)
    if manifest is None or manifest.stage != "evaluate" or manifest.status != "complete":
        raise InputError(
            f"table: {path} is not in the output folder of a finished evaluate stage, so it cannot "
            "be told which run is which. Give the diversity.parquet where evaluate wrote it."
        )
    if manifest.has_changed_inputs():
        raise InputError(
            f"table: what {path} was computed from has changed since. Run that evaluate again with "
            "--fresh."
        )
    folders = [Path(folder) for folder in manifest.config["runs"]]
    files = [Path(file["path"]) for file in manifest.config["samples"]]
    names = dict(zip(folders, run_names([*folders, *files]), strict=False))
    rows = read_part(path).to_pylist()
    found = {
        place: [row for row in rows if folder in names and row["run"] == names[folder]]
        for place, folder in used.items()
    }
    problems = list(_lacking(found, used, settings))
    InputError.refuse(problems)
    return found


def _lacking(
    found: Values, used: Mapping[tuple[str, int], Path], settings: CompareConfig
) -> Iterator[str]:
    """A line for every run that is not in the table, and for every threshold."""
    wanted = {place for name in settings.metrics for place in places_of(name, settings.thresholds)}
    absent = [str(used[place]) for place, rows in found.items() if not rows]
    if absent:
        yield f"table: {settings.table} has no rows of {', '.join(absent)}; evaluate them too."
    there = [{row["threshold"] for row in rows} for rows in found.values() if rows]
    for threshold in sorted(value for value in wanted if value is not None):
        if any(threshold not in thresholds for thresholds in there):
            yield (
                f"table: {settings.table} has no threshold {threshold:g}; evaluate with it, or "
                "change thresholds."
            )


def _inputs(
    methods: Mapping[str, Mapping[int, ComparedRun]], table: Path | None
) -> dict[str, Path]:
    """What is read, by role: the traces, and the table."""
    traces = {
        f"{method} seed {seed}": run.folder / "trace"
        for method, runs in methods.items()
        for seed, run in runs.items()
    }
    return traces if table is None else {**traces, "table": table}
