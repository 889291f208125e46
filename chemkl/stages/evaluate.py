"""The evaluate stage: the traces of runs, or files of samples, become the diversity table."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from chemkl.config import InputError, complaints
from chemkl.config.draft import Draft
from chemkl.config.evaluate import EvaluateConfig, MetricOptions, MosesReference
from chemkl.config.loading import load_config
from chemkl.evaluation import metrics, samples
from chemkl.evaluation.chemnet import ChemNet
from chemkl.evaluation.columns import metrics_schema
from chemkl.evaluation.display import comparison_tables, legend
from chemkl.evaluation.display_modes import family_tables, window_table
from chemkl.evaluation.metrics import Comparisons
from chemkl.evaluation.modes import families_schema, family_rows
from chemkl.evaluation.over_time import over_time, over_time_schema
from chemkl.evaluation.reference_files import load_comparisons
from chemkl.evaluation.sample_files import read_samples
from chemkl.evaluation.samples import Samples
from chemkl.results import Manifest, find_trace, read_trace, write_json, write_parquet
from chemkl.stages.terminal import standard_output

TABLE = "diversity.parquet"
JSON = "metrics.json"
OVER_TIME = "over_time.parquet"
FAMILIES = "families.parquet"
IN_RUN = "evaluation"


def run(
    config: Mapping[str, Any] | str | Path | EvaluateConfig,
    out_dir: str | Path,
    *,
    console: Console | None = None,
) -> pd.DataFrame:
    """Evaluate runs and files of samples; write `diversity.parquet` and `metrics.json`.

    With `every`, `over_time.parquet` is written too, and with `prior`, `families.parquet`.

    Args:
        config: the settings, as a mapping, a YAML file or a config.
        out_dir: the output folder.
        console: where the comparison is printed; standard output when not given.

    Returns:
        The table: one row per run and threshold, a null threshold standing for all molecules.

    Raises:
        InputError: a setting, a trace or a file cannot be used; the message names each.
    """
    settings = load_config(EvaluateConfig, config, beside=problems_beside)
    require_traces(settings.runs)
    check(settings)
    out = Path(out_dir)
    with Manifest.start(
        out,
        stage="evaluate",
        config=settings.model_dump(mode="json"),
        seed=settings.metrics.seed,
        inputs=_inputs(settings),
    ) as manifest:
        comparisons = load_comparisons(settings)
        schemas = _schemas(settings, comparisons)
        tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas}
        summaries: dict[str, dict[str, Any]] = {}
        for one, folder in _all_samples(settings):
            own = _rows(one, settings, comparisons)
            summaries[one.name] = metrics.nested(own[TABLE])
            if folder is not None and settings.into_runs:
                _write_tables(folder / IN_RUN, own, schemas)
                write_json(folder / IN_RUN / JSON, summaries[one.name])
            for name, rows in own.items():
                tables[name] += rows
        written = _write_tables(out, tables, schemas)
        write_json(out / JSON, {"runs": summaries})
        manifest.finish(results={"runs": list(summaries)})
    frames = {name: metrics.frame(table) for name, table in written.items()}
    console = console or standard_output()
    for shown in _shown(frames, settings.metrics):
        console.print(shown, highlight=False)
    return frames[TABLE]


def _shown(frames: Mapping[str, pd.DataFrame], options: MetricOptions) -> Iterator[Table | str]:
    """What is printed: the comparison, what moved over time and between prior and policy."""
    yield from comparison_tables(frames[TABLE], options)
    if OVER_TIME in frames:
        yield from window_table(frames[OVER_TIME], options)
    if FAMILIES in frames:
        yield from family_tables(frames[TABLE], frames[FAMILIES], options)
    yield legend(frames[TABLE], options)


def _schemas(settings: EvaluateConfig, comparisons: Comparisons) -> dict[str, pa.Schema]:
    """The tables that the settings ask for."""
    names = [ref.name for ref in comparisons.references]
    schemas = {TABLE: metrics_schema(settings.metrics, names)}
    if settings.every is not None:
        schemas[OVER_TIME] = over_time_schema(settings.metrics)
    if settings.prior is not None:
        schemas[FAMILIES] = families_schema(settings.metrics.late_samples)
    return schemas


def _rows(
    one: Samples, settings: EvaluateConfig, comparisons: Comparisons
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one run or file, by table."""
    options = settings.metrics
    rows = {TABLE: metrics.evaluate(one, settings.thresholds, options, comparisons)}
    if settings.every is not None:
        rows[OVER_TIME] = over_time(one, settings.thresholds, options, settings.every)
    if comparisons.prior is not None:
        rows[FAMILIES] = family_rows(one, comparisons.prior, options.late_samples)
    return rows


def _write_tables(
    folder: Path, tables: Mapping[str, Sequence[dict[str, Any]]], schemas: Mapping[str, pa.Schema]
) -> dict[str, pa.Table]:
    made = {name: metrics.metrics_table(tables[name], schema) for name, schema in schemas.items()}
    for name, table in made.items():
        write_parquet(folder / name, table)
    return made


def check(config: EvaluateConfig, _awaited: Collection[Path] = ()) -> None:
    """Look for what the settings need of this machine, whatever is yet to be made.

    Raises:
        InputError: FCD is wanted, and its package is missing.
    """
    if config.fcd:
        ChemNet.require()


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it."""
    return draft.placed("fcd", complaints((ChemNet.require,)) if draft.get("fcd") else [])


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
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder}#{number}" for number, folder in enumerate(folders, start=1)]


def _all_samples(settings: EvaluateConfig) -> Iterator[tuple[Samples, Path | None]]:
    """The samples of every run with its folder, then those of every file."""
    paths = [*settings.runs, *(file.path for file in settings.samples)]
    names = run_names(paths)
    for name, folder in zip(names, settings.runs, strict=False):
        trace = read_trace(folder, samples.TRACE_COLUMNS)
        yield samples.from_trace(name, trace, settings.metrics.workers), folder
    for name, file in zip(names[len(settings.runs) :], settings.samples, strict=True):
        yield read_samples(name, file, settings.metrics.workers), None


def _inputs(settings: EvaluateConfig) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, folder in zip(run_names(settings.runs), settings.runs, strict=True):
        files[f"run {name}"] = folder / "trace"
    files |= {f"samples {file.path.name}": file.path for file in settings.samples}
    if settings.corpus:
        files["corpus"] = settings.corpus.path
    if settings.prior:
        files["prior"] = settings.prior.path
    for name, source in settings.reference.items():
        if not isinstance(source, MosesReference):
            files[f"reference {name}"] = source.path
    return files
