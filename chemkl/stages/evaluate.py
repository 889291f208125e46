"""The evaluate stage: the traces of runs, or files of samples, become the diversity table."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, complaints, did_you_mean
from chemkl.config.draft import Draft
from chemkl.config.evaluate import (
    Corpus,
    EvaluateConfig,
    MosesReference,
    ReferenceSource,
    StatisticsReference,
)
from chemkl.config.loading import load_config
from chemkl.corpus.reading import Line, read_table
from chemkl.evaluation import metrics, reference, samples
from chemkl.evaluation.chemnet import ChemNet
from chemkl.evaluation.columns import metrics_schema
from chemkl.evaluation.display import comparison_tables
from chemkl.evaluation.metrics import Comparisons
from chemkl.evaluation.modes import families_schema, family_rows
from chemkl.evaluation.over_time import over_time, over_time_schema
from chemkl.evaluation.sample_files import read_samples, read_scored_samples
from chemkl.evaluation.samples import Samples
from chemkl.evaluation.statistics_file import read_statistics
from chemkl.results import Manifest, find_trace, read_trace, write_json, write_parquet
from chemkl.results.wheels import MOLSETS, fetch_wheel, open_member

TABLE = "diversity.parquet"
JSON = "metrics.json"
OVER_TIME = "over_time.parquet"
FAMILIES = "families.parquet"
IN_RUN = "evaluation"
SPLIT = "split"
PIPED_WIDTH = 120
_MEMBERS = {
    "moses_test": "moses/dataset/data/test_stats.npz",
    "moses_test_scaffolds": "moses/dataset/data/test_scaffolds_stats.npz",
}


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
        comparisons = _comparisons(settings)
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
    frame = metrics.frame(written[TABLE])
    console = console or Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for shown in comparison_tables(frame, settings.metrics):
        console.print(shown, highlight=False)
    return frame


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
        yield samples.from_trace(name, read_trace(folder, samples.TRACE_COLUMNS)), folder
    for name, file in zip(names[len(settings.runs) :], settings.samples, strict=True):
        yield read_samples(name, file), None


def _comparisons(settings: EvaluateConfig) -> Comparisons:
    chemnet = ChemNet() if settings.fcd else None
    return Comparisons(
        corpus=frozenset(_corpus(settings.corpus)) if settings.corpus else None,
        references=[
            _reference(name, source, chemnet) for name, source in settings.reference.items()
        ],
        chemnet=chemnet,
        prior=read_scored_samples("prior", settings.prior) if settings.prior else None,
    )


def _corpus(corpus: Corpus) -> Iterable[str]:
    lines: Iterable[Line] = read_table(corpus.path, corpus.column)
    if corpus.split is not None:
        splits = _splits(corpus.path)
        if not splits:
            raise InputError(
                f"corpus: {corpus.path} has no splits; only the corpus.parquet of the prepare "
                f"stage does. Leave out split: {corpus.split}."
            )
        if corpus.split not in splits:
            raise InputError(
                f"corpus: {corpus.path} has no split {corpus.split!r}"
                f"{did_you_mean(corpus.split, set(splits))}"
            )
        pairs = zip(lines, splits, strict=True)
        lines = (line for line, split in pairs if split == corpus.split)
    texts = (line.smiles for line in lines if line.smiles)
    if corpus.canonical:
        return texts
    return (text for text in map(canonicalise, texts) if text is not None)


def _splits(path: Path) -> list[str]:
    """The split of every row of a prepared corpus; empty where the file has no such column."""
    if path.suffix != ".parquet" or SPLIT not in pq.read_schema(path).names:
        return []
    return [str(split) for split in pq.read_table(path, columns=[SPLIT])[SPLIT].to_pylist()]


def _reference(name: str, source: ReferenceSource, chemnet: ChemNet | None) -> reference.Reference:
    if isinstance(source, MosesReference):
        wheel = fetch_wheel(MOLSETS, source.cache)
        member = _MEMBERS[source.kind]
        with open_member(wheel, member) as stream:
            statistics = read_statistics(stream, f"{wheel.name}:{member}")
        return reference.from_statistics(name, statistics)
    if isinstance(source, StatisticsReference):
        statistics = read_statistics(source.path, str(source.path))
        return reference.from_statistics(name, statistics)
    lines = read_table(source.path, source.column)
    return reference.from_smiles(name, (line.smiles for line in lines if line.smiles), chemnet)


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
