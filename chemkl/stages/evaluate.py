"""The evaluate stage: the traces of runs, or files of samples, become the diversity table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.table import Table

from chemkl.config import InputError, complaints
from chemkl.config.base import utf8
from chemkl.config.evaluate import EvaluateConfig, MetricOptions, MosesReference
from chemkl.display import say
from chemkl.evaluation import by_prompt, metrics, samples
from chemkl.evaluation.by_prompt import PROMPT_COLUMNS, PromptSamples
from chemkl.evaluation.families import families_schema, family_rows
from chemkl.evaluation.metrics import metrics_schema
from chemkl.evaluation.over_time import over_time, over_time_schema
from chemkl.evaluation.reference import ChemNet, Comparisons, load_comparisons
from chemkl.evaluation.samples import Samples, read_samples
from chemkl.evaluation.tables import (
    HOW_TO_READ,
    comparison_tables,
    family_tables,
    legend,
    prompt_tables,
    window_table,
)
from chemkl.results import Manifest, find_trace, read_trace, write_json, write_parquet
from chemkl.results.trace import list_parts, read_part
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start

TABLE = "diversity.parquet"
JSON = "metrics.json"
OVER_TIME = "over_time.parquet"
FAMILIES = "families.parquet"
BY_PROMPT = "by_prompt.parquet"
IN_RUN = "evaluation"


@dataclass(frozen=True)
class _Evaluated:
    """What is evaluated: the samples of a run with its folder and, where wanted, its prompts."""

    samples: Samples
    folder: Path | None = None
    prompts: Sequence[PromptSamples] = ()


run = STAGES["evaluate"].run


def read(path: Path) -> pd.DataFrame:
    """The table: one row per run and threshold, a null threshold standing for all molecules."""
    return metrics.frame(read_part(path))


def work(config: EvaluateConfig, start: Start) -> None:
    """Evaluate runs and files of samples; write `diversity.parquet` and `metrics.json`.

    With `every`, `over_time.parquet` is written too, with `prior`, `families.parquet`, and with
    `by_prompt`, `by_prompt.parquet`.

    Raises:
        InputError: a trace or a file cannot be used; the message names each.
    """
    require_traces(config.runs)
    out_dir = start.out
    with start.claim(_inputs(config), seed=config.metrics.seed) as manifest:
        comparisons = load_comparisons(config)
        schemas = _schemas(config, comparisons)
        tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas}
        summaries: dict[str, dict[str, Any]] = {}
        beside: list[Path] = []
        for one in _everything(config):
            own = _rows(one, config, comparisons)
            name = one.samples.name
            if one.samples.note is not None:
                say(one.samples.note)
            run_manifest = None if one.folder is None else Manifest.load(one.folder)
            if run_manifest is not None and run_manifest.status != "complete":
                say(f"{name}: not finished ({run_manifest.status}); its numbers are those so far")
            summaries[name] = metrics.nested(own[TABLE])
            if one.folder is not None and config.into_runs:
                _write_tables(one.folder / IN_RUN, own, schemas)
                write_json(one.folder / IN_RUN / JSON, summaries[name])
                beside += [one.folder / IN_RUN / each for each in (*own, JSON)]
            for table, rows in own.items():
                tables[table] += rows
        written = _write_tables(out_dir, tables, schemas)
        write_json(out_dir / JSON, {"runs": summaries})
        manifest.finish(results={"runs": list(summaries)}, beside=beside)
    frames = {name: metrics.frame(table) for name, table in written.items()}
    for shown in _shown(frames, config.metrics):
        start.console.print(shown, highlight=False)


def _shown(frames: Mapping[str, pd.DataFrame], options: MetricOptions) -> Iterator[Table | str]:
    """What is printed: the comparison, what moved over time and between prior and policy."""
    yield from comparison_tables(frames[TABLE], options)
    if BY_PROMPT in frames:
        yield from prompt_tables(frames[BY_PROMPT])
    if OVER_TIME in frames:
        yield from window_table(frames[OVER_TIME], options)
    if FAMILIES in frames:
        yield from family_tables(frames[TABLE], frames[FAMILIES], options)
    notes = [legend(frames[TABLE], options), *([HOW_TO_READ] if BY_PROMPT in frames else [])]
    yield " ".join(notes)


def _schemas(settings: EvaluateConfig, comparisons: Comparisons) -> dict[str, pa.Schema]:
    """The tables that the settings ask for."""
    names = [ref.name for ref in comparisons.references]
    schemas = {TABLE: metrics_schema(settings.metrics, names)}
    if settings.every is not None:
        schemas[OVER_TIME] = over_time_schema(settings.metrics)
    if settings.prior is not None:
        schemas[FAMILIES] = families_schema(settings.metrics.late_samples)
    if settings.by_prompt:
        schemas[BY_PROMPT] = by_prompt.by_prompt_schema(settings.metrics)
    return schemas


def _rows(
    one: _Evaluated, settings: EvaluateConfig, comparisons: Comparisons
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one run or file, by table."""
    options, thresholds = settings.metrics, settings.thresholds
    rows = {TABLE: metrics.evaluate(one.samples, thresholds, options, comparisons)}
    if settings.every is not None:
        rows[OVER_TIME] = over_time(one.samples, thresholds, options, settings.every)
    if comparisons.prior is not None:
        rows[FAMILIES] = family_rows(one.samples, comparisons.prior, options.late_samples)
    if settings.by_prompt:
        corpus = comparisons.corpus
        rows[BY_PROMPT] = by_prompt.prompt_rows(one.prompts, thresholds, options, corpus)
    return rows


def _write_tables(
    folder: Path, tables: Mapping[str, Sequence[dict[str, Any]]], schemas: Mapping[str, pa.Schema]
) -> dict[str, pa.Table]:
    folder.mkdir(exist_ok=True)
    made = {name: metrics.metrics_table(tables[name], schema) for name, schema in schemas.items()}
    for name, table in made.items():
        write_parquet(folder / name, table)
    return made


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look for what the settings need of this machine and of the runs that are there.

    FCD needs its package, and numbers by prompt need runs that have prompts.
    """
    yield "fcd", complaints((ChemNet.require,)) if view.get("fcd") else []
    if view.get("by_prompt"):
        runs = [run for run in view.there(view.get("runs")) if list_parts(run)]
        yield "by_prompt", complaints((by_prompt.require_prompts, runs))


def require_traces(folders: Iterable[Path]) -> None:
    """Look for the traces of all runs before anything is computed or written.

    Raises:
        InputError: with a line for every run without a whole trace.
    """
    problems = []
    for folder in folders:
        try:
            find_trace(folder)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of runs: the folders' own, with as much of the path before as tells them apart."""
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = [utf8("/".join(folder.parts[-depth:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{utf8(folder)}#{number}" for number, folder in enumerate(folders, start=1)]


def _everything(settings: EvaluateConfig) -> Iterator[_Evaluated]:
    """The samples of every run with its folder, then those of every file."""
    columns = (*samples.TRACE_COLUMNS, *(PROMPT_COLUMNS if settings.by_prompt else ()))
    paths = [*settings.runs, *(file.path for file in settings.samples)]
    names = run_names(paths)
    for name, folder in zip(names, settings.runs, strict=False):
        trace = read_trace(folder, columns)
        one = samples.from_trace(name, trace, settings.metrics.workers, Manifest.load(folder))
        late = settings.metrics.late_samples
        prompts = by_prompt.split_by_prompt(one, trace, late) if settings.by_prompt else ()
        yield _Evaluated(one, folder, prompts)
    for name, file in zip(names[len(settings.runs) :], settings.samples, strict=True):
        yield _Evaluated(read_samples(name, file, settings.metrics.workers))


def _inputs(settings: EvaluateConfig) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, folder in zip(run_names(settings.runs), settings.runs, strict=True):
        files[f"run {name}"] = folder / "trace"
    names = run_names([*settings.runs, *(file.path for file in settings.samples)])
    for name, file in zip(names[len(settings.runs) :], settings.samples, strict=True):
        files[f"samples {name}"] = file.path
    if settings.corpus:
        files["corpus"] = settings.corpus.path
    if settings.prior:
        files["prior"] = settings.prior.path
    for name, source in settings.reference.items():
        if not isinstance(source, MosesReference):
            files[f"reference {name}"] = source.path
    return files
