"""The compare stage: runs of several methods, paired by seed, give differences and tests."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import pyarrow as pa

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import TRACE_FOLDER, CompareConfig
from chemkl.display import Bar, say
from chemkl.evaluation import comparison, evaluate, from_trace, metrics_schema
from chemkl.evaluation.samples import TRACE_COLUMNS
from chemkl.reports import comparison as comparison_text
from chemkl.reports.figures import write_figure
from chemkl.results import Manifest, read_trace, write_bytes, write_parquet
from chemkl.results.outcome import read_idle_reason
from chemkl.results.trace import read_part, read_part_schema
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.stages.runs import require_traces, run_names

run = STAGES["compare"].run


def work(config: CompareConfig, start: Start) -> None:
    """Compare methods; write the tables and the forest plot, and print the comparison.

    `run` returns the table with a row per metric, threshold and method except the baseline.
    """
    methods = comparison.read_methods(config.methods)
    pairs, left_out = comparison.pair_seeds(methods, config.baseline)
    budget = next(iter(methods[config.baseline].values())).budget
    inputs = {
        f"{method} seed {seed}": run.folder / TRACE_FOLDER
        for method, runs in methods.items()
        for seed, run in runs.items()
    }
    inputs |= {"table": config.table} if config.table else {}
    with start.claim(inputs) as manifest:
        # folders of the paired runs, by method and seed
        seeds = {**pairs, config.baseline: sorted({*chain(*pairs.values())})}
        used = {(m, seed): methods[m][seed].folder for m in methods for seed in seeds[m]}
        evaluated = _from_table(used, config) if config.table else _evaluate(used, config)
        values = comparison.value_rows(evaluated, budget, config)
        rows = comparison.compare_rows(values, pairs, config)
        notes = [*comparison.what_differs(methods, config.baseline)]
        for (method, seed), folder in used.items():
            if idle := read_idle_reason(folder):
                notes.append(f"{method}, seed {seed}: {idle}")
        remarks = comparison_text.notes(
            rows, [*notes, *left_out], budget=budget, alpha=config.alpha
        )
        table = pa.Table.from_pylist(values, schema=comparison.VALUES_SCHEMA)
        write_parquet(start.out / "values.parquet", table)
        table = pa.Table.from_pylist(rows, schema=comparison.COMPARISON_SCHEMA)
        write_parquet(start.out / "comparison.parquet", table)
        for ending, form in (("md", comparison_text.markdown), ("tex", comparison_text.latex)):
            text = form(rows, remarks, config.confidence)
            write_bytes(start.out / f"comparison.{ending}", text.encode())
        write_figure(start.out, "forest", comparison_text.draw_forest(rows, config.confidence))
        manifest.finish(results={"pairs": pairs, "left_out": left_out})
    console = start.console
    console.print(comparison_text.terminal(rows, config.confidence), highlight=False)
    console.print("\n".join(remarks), highlight=False, markup=False)


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check the metrics and the existing runs and table.

    An unfinished run counts as not made yet; `work` refuses it.
    """
    config, draft = view.config, view.draft
    if not isinstance(config, CompareConfig):
        if draft is None:
            return
        metrics = draft.get("metrics", tuple[str, ...])  # a metric given twice hides no unknown one
        direction, options = draft.get("direction"), draft.get("options")
        if draft.data.get("table") is None and None not in (metrics, direction, options):
            thresholds = draft.get("thresholds") or (0.8,)  # wrong thresholds hide no other problem
            check = partial(comparison.check_metrics, from_table=False)
            columns = metrics_schema(options).names
            yield "metrics", complaints((check, metrics, columns, thresholds, direction))
        return

    def is_under_way(folder: Path) -> bool:
        manifest = None if view.starts else Manifest.load(folder)
        return bool(manifest and manifest.stage == "posttrain" and manifest.status != "complete")

    finished = {
        method: [run for run in view.existing(runs) if not is_under_way(run)]
        for method, runs in config.methods.items()
    }
    runs = [run for group in finished.values() for run in group]
    problems = complaints((_check_metrics, None if config.table in view.pending else config))
    problems += complaints((comparison.read_methods, finished)) or complaints(
        (require_traces, runs)
    )
    if not problems and finished == config.methods:
        problems = complaints(
            (comparison.pair_seeds, comparison.read_methods(finished), config.baseline)
        )
    yield "methods", problems


def _check_metrics(config: CompareConfig) -> None:
    table = config.table
    if table is None:
        schema = metrics_schema(config.options)
    else:
        fix = "Give the diversity.parquet of an evaluate stage."
        schema = read_part_schema(table, f"table: {table}", fix)
    comparison.check_metrics(
        config.metrics,
        schema.names,
        config.thresholds,
        config.direction,
        from_table=table is not None,
    )


def _evaluate(used: Mapping[tuple[str, int], Path], settings: CompareConfig) -> comparison.Values:
    """Evaluate the traces; this takes seconds for ten thousand molecules."""
    numbers = [threshold for threshold in settings.thresholds if threshold is not None]
    rows_of = {}
    with Bar("evaluating the runs", len(used)) as bar:
        for run, folder in used.items():
            trace, manifest = read_trace(folder, TRACE_COLUMNS), Manifest.load(folder)
            samples = from_trace(str(folder), trace, settings.options.workers, manifest)
            if samples.note is not None:
                say(samples.note)
            rows_of[run] = evaluate(samples, numbers, settings.options)
            bar.advance()
    return rows_of


def _from_table(used: Mapping[tuple[str, int], Path], settings: CompareConfig) -> comparison.Values:
    """Read the evaluations from the table of an evaluate stage."""
    path = cast(Path, settings.table)
    manifest, problem = Manifest.load(path.parent), ""
    if manifest is None or (manifest.stage, manifest.status) != ("evaluate", "complete"):
        problem = (
            f"{path} is not in the output folder of a finished evaluate stage, which says which "
            "run is which. Give the diversity.parquet where evaluate wrote it."
        )
    elif manifest.has_changed_inputs():
        problem = f"the inputs of {path} have changed since. Run that evaluate again with --fresh."
    if problem or manifest is None:
        raise InputError(f"table: {problem}")
    folders = [Path(folder) for folder in manifest.config["runs"]]
    files = [Path(file["path"]) for file in manifest.config["samples"]]
    names = dict(zip(folders, run_names([*folders, *files]), strict=False))
    rows = read_part(path).to_pylist()
    rows_of = {
        run: [row for row in rows if folder in names and row["run"] == names[folder]]
        for run, folder in used.items()
    }
    needed = {
        value
        for name in settings.metrics
        for value in comparison.places_of(name, settings.thresholds)
    }
    thresholds = [{row["threshold"] for row in rows} for rows in rows_of.values() if rows]
    absent = [str(used[run]) for run, rows in rows_of.items() if not rows]
    problems = [f"has no rows of {', '.join(absent)}; evaluate them too"] if absent else []
    problems += [
        f"has no threshold {value:g}; evaluate with it, or change thresholds"
        for value in sorted(value for value in needed if value is not None)
        if any(value not in some for some in thresholds)
    ]
    InputError.refuse(f"table: {path} {problem}." for problem in problems)
    return rows_of
