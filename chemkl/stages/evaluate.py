"""Evaluation: tables of the diversity of molecules or texts of runs and files.

One module for molecules (evaluate) and for texts and answers of language models (evaluate_text).
`run` returns the table. For molecules it has a row per run and threshold, where a null threshold
means all molecules. For texts it has, per run or file, a row for all texts, one for the mean over
the prompts, and one per prompt.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.table import Table

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import (
    EvaluateConfig,
    EvaluateTextConfig,
    MetricOptions,
    MosesReference,
)
from chemkl.display import say
from chemkl.evaluation import breakdown, metrics, samples, tables, text, text_samples
from chemkl.evaluation.metrics import metrics_schema
from chemkl.evaluation.reference import ChemNet, Comparisons, load_comparisons
from chemkl.evaluation.samples import Samples, read_samples
from chemkl.evaluation.text_samples import ANSWER, ANSWERS_FILE, TextSamples
from chemkl.results import Manifest, read_trace, write_json, write_parquet
from chemkl.results.trace import list_parts, read_part
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.stages.runs import mixed, require_traces, run_names, trace_inputs

TABLE, JSON = "diversity.parquet", "metrics.json"
OVER_TIME, FAMILIES = "over_time.parquet", "families.parquet"
BY_PROMPT = "by_prompt.parquet"
IN_RUN = "evaluation"
"""Folder inside a run for its own numbers."""
TEXT_TABLE, TEXT_JSON = "text_diversity.parquet", "text_metrics.json"
STEPS, METHODS = "entropy_over_steps.parquet", "methods.parquet"
FIGURE = "entropy"

F = TypeVar("F", bound=Any)

run = STAGES["evaluate"].run


def read(path: Path) -> pd.DataFrame:
    """Read the table that was written."""
    table = read_part(path)
    frame: pd.DataFrame = table.to_pandas() if path.name == TEXT_TABLE else metrics.frame(table)
    return frame


def work(config: Any, start: Start) -> None:
    """Evaluate runs and files; write the tables and print them."""
    if isinstance(config, EvaluateTextConfig):
        _evaluate_texts(config, start)
    else:
        _evaluate_molecules(config, start)


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check packages and existing runs.

    FCD and embeddings need packages, numbers by prompt need runs with prompts, and the runs of a
    method of texts need different seeds.
    """
    if issubclass(view.model, EvaluateTextConfig):
        runs, methods = view.get("runs") or [], view.get("methods") or {}
        existing = view.existing([*runs, *(run for group in methods.values() for run in group)])
        yield "runs", complaints(*((text_samples.check_text_run, run) for run in existing))
        if "embedding" in (view.get("measures") or ()):
            from chemkl.llm import embedding  # it imports torch

            lines = complaints((embedding.require,))
            yield "measures", [f"{line}, or leave embedding out of measures" for line in lines]
        for method, group in methods.items():
            yield "methods", [*_unlike([run for run in group if run in existing], method)]
        return
    yield "fcd", complaints((ChemNet.require,)) if view.get("fcd") else []
    if view.get("by_prompt"):
        runs = [run for run in view.existing(view.get("runs")) if list_parts(run)]
        yield "by_prompt", complaints((breakdown.require_prompts, runs))


def _with_names(
    runs: Sequence[Path], files: Sequence[F]
) -> tuple[list[tuple[str, Path]], list[tuple[str, F]]]:
    """Pair runs and files with their names."""
    names = run_names([*runs, *(file.path for file in files)])
    return [*zip(names, runs, strict=False)], [*zip(names[len(runs) :], files, strict=True)]


# ---- molecules

MakeRows = Callable[[Samples, pd.DataFrame], list[dict[str, Any]]]
"""Makes the rows for samples and their trace, which is empty for a file."""
Tables = dict[str, tuple[pa.Schema, MakeRows]]
"""The schema of each table, by file name, and the function for its rows."""


def _evaluate_molecules(config: EvaluateConfig, start: Start) -> None:
    """Write `diversity.parquet` and `metrics.json`.

    With `every` write `over_time.parquet` too, with `prior` `families.parquet`, and with
    `by_prompt` `by_prompt.parquet`.
    """
    require_traces(config.runs)
    with start.claim(_inputs(config), seed=config.metrics.seed) as manifest:
        to_make = _tables_of(config, load_comparisons(config))
        rows_of: dict[str, list[dict[str, Any]]] = {name: [] for name in to_make}
        summaries: dict[str, dict[str, Any]] = {}
        written: list[Path] = []
        for run, folder, trace in _samples(config):
            run_rows = {name: make(run, trace) for name, (_, make) in to_make.items()}
            if run.note is not None:
                say(run.note)
            source = None if folder is None else Manifest.load(folder)
            if source is not None and source.status != "complete":
                say(f"{run.name}: not complete; its numbers are those so far")
            summaries[run.name] = metrics.nested(run_rows[TABLE])
            if folder is not None and config.into_runs:
                _write_tables(folder / IN_RUN, run_rows, to_make)
                write_json(folder / IN_RUN / JSON, summaries[run.name])
                written += [folder / IN_RUN / file for file in (*run_rows, JSON)]
            for table, rows in run_rows.items():
                rows_of[table] += rows
        frames = _write_tables(start.out, rows_of, to_make)
        write_json(start.out / JSON, {"runs": summaries})
        manifest.finish(results={"runs": list(summaries)}, beside=written)
    for part in _summary(frames, config.metrics):
        start.console.print(part, highlight=False)


def _tables_of(config: EvaluateConfig, comparisons: Comparisons) -> Tables:
    """Return the tables that the settings ask for."""
    options, taus, every = config.metrics, config.thresholds, config.every
    prior, late, corpus = comparisons.prior, options.late_samples, comparisons.corpus
    columns = metrics_schema(options, [ref.name for ref in comparisons.references])
    to_make: Tables = {
        TABLE: (columns, lambda s, _: metrics.evaluate(s, taus, options, comparisons))
    }
    if every is not None:
        columns = breakdown.over_time_schema(options)
        to_make[OVER_TIME] = columns, lambda s, _: breakdown.over_time(s, taus, options, every)
    if prior is not None:
        to_make[FAMILIES] = (
            breakdown.families_schema(late),
            lambda s, _: breakdown.family_rows(s, prior, late),
        )
    if config.by_prompt:
        columns = breakdown.by_prompt_schema(options)
        rows_of = partial(breakdown.prompt_rows, thresholds=taus, options=options, corpus=corpus)
        to_make[BY_PROMPT] = columns, rows_of
    return to_make


def _summary(frames: Mapping[str, pd.DataFrame], options: MetricOptions) -> Iterator[Table | str]:
    """Yield what is printed: the comparison, and changes over time and from prior to policy."""
    yield from tables.comparison_tables(frames[TABLE], options)
    if BY_PROMPT in frames:
        yield from tables.prompt_tables(frames[BY_PROMPT])
    if OVER_TIME in frames:
        yield from tables.window_table(frames[OVER_TIME], options)
    if FAMILIES in frames:
        yield from tables.family_tables(frames[TABLE], frames[FAMILIES], options)
    how = f" {tables.HOW_TO_READ}" if BY_PROMPT in frames else ""
    yield tables.legend(frames[TABLE], options) + how


def _write_tables(
    folder: Path, rows_of: Mapping[str, Sequence[dict[str, Any]]], to_make: Tables
) -> dict[str, pd.DataFrame]:
    folder.mkdir(exist_ok=True)
    frames = {}
    for name, (schema, _) in to_make.items():
        table = pa.Table.from_pylist(rows_of[name], schema=schema)
        write_parquet(folder / name, table)
        frames[name] = metrics.frame(table)
    return frames


def _samples(config: EvaluateConfig) -> Iterator[tuple[Samples, Path | None, pd.DataFrame]]:
    """Yield the samples, folder and trace of every run; then the samples of files."""
    columns = (*samples.TRACE_COLUMNS, *(breakdown.PROMPT_COLUMNS if config.by_prompt else ()))
    workers = config.metrics.workers
    runs, files = _with_names(config.runs, config.samples)
    for name, folder in runs:
        trace = read_trace(folder, columns)
        yield samples.from_trace(name, trace, workers, Manifest.load(folder)), folder, trace
    for name, file in files:
        yield read_samples(name, file, workers), None, pd.DataFrame()


def _inputs(config: EvaluateConfig) -> dict[str, Path]:
    files = trace_inputs(config.runs)
    sample_files = _with_names(config.runs, config.samples)[1]
    files |= {f"samples {name}": file.path for name, file in sample_files}
    sources: dict[str, Any] = {"corpus": config.corpus, "prior": config.prior}
    sources |= {f"reference {name}": source for name, source in config.reference.items()}
    return files | {
        role: source.path
        for role, source in sources.items()
        if source and not isinstance(source, MosesReference)
    }


# ---- texts


def _evaluate_texts(config: EvaluateTextConfig, start: Start) -> None:
    """Write `text_diversity.parquet` and `text_metrics.json`.

    With exact answers write `entropy_over_steps.parquet`, `entropy.svg` and `entropy.png` too, and
    with methods `methods.parquet`.
    """
    # errors in the inputs are raised before the folder is claimed
    everything: list[TextSamples] = []
    runs, files = _with_names(config.folders, config.texts)
    method_of = {folder: name for name, group in config.methods.items() for folder in group}
    late = config.options.late_samples
    readings: list[Callable[[], TextSamples]] = [
        partial(text_samples.read_text_run, name, folder, late, method_of.get(folder))
        for name, folder in runs
    ]
    readings += [partial(text_samples.read_text_file, name, file) for name, file in files]
    InputError.refuse(complaints(*((lambda read: everything.append(read()), r) for r in readings)))
    has_answers = any(t.exact is not None or ANSWER in t.texts.columns for t in everything)
    if not has_answers and set(config.measures) == {"answers"}:
        raise InputError(
            f"measures: answers alone, but no run or file has any: no column {ANSWER!r} "
            f"in a trace or file, and no {ANSWERS_FILE}. Add ngrams or embedding to measures."
        )
    embed = _embedder(config, everything)
    out, options = start.out, config.options
    inputs = trace_inputs(config.folders) | {f"texts {name}": file.path for name, file in files}
    for name, folder in zip(run_names(config.folders), config.folders, strict=True):
        if "answers" in config.measures and (folder / ANSWERS_FILE).exists():
            inputs[f"answers {name}"] = folder / ANSWERS_FILE
    with start.claim(inputs, seed=options.seed) as manifest:
        rows_of = [text.text_rows(texts, config.measures, options, embed) for texts in everything]
        rows = [row for some in rows_of for row in some]
        names = [texts.name for texts in everything]
        means = text.method_rows(rows, list(config.methods), options)
        table = pa.Table.from_pylist(rows, schema=text.text_schema(options))
        write_parquet(out / TEXT_TABLE, table)
        summary = {"runs": dict(zip(names, map(text.nested_text, rows_of), strict=True))}
        if config.methods:
            write_parquet(out / METHODS, pa.Table.from_pylist(means, schema=text.METHODS_SCHEMA))
            summary["methods"] = {}
            for row in means:
                place = summary["methods"].setdefault(row["method"], {})
                values = {key: row[key] for key in ("n", "mean", "sd", "low", "high")}
                place.setdefault(row["scope"], {})[row["metric"]] = values
        write_json(out / TEXT_JSON, summary)
        if "answers" in config.measures:
            _write_entropies(out, everything)
        manifest.finish(results={"runs": names})
    notes = []
    if set(text.OF_TEXT) & set(config.measures):  # texts of each run that the measures leave out
        most = options.max_texts
        notes = [line for texts in everything for line in text_samples.left_out(texts, most)]
    for part in (*text.text_tables(rows, means, config), *notes):
        start.console.print(part, highlight=False, markup=False)


def _unlike(folders: Sequence[Path], method: str) -> Iterator[str]:
    """Yield a line where runs of one method have the same seed or differ in another setting."""
    first_of: dict[int, str] = {}
    for folder in folders:
        manifest = Manifest.load(folder)
        if manifest is None or manifest.seed is None:
            continue
        if manifest.seed in first_of:
            yield (
                f"methods.{method}: {first_of[manifest.seed]} and {folder} both have seed "
                f"{manifest.seed}. Keep one of them."
            )
        first_of.setdefault(manifest.seed, str(folder))
    yield from mixed(method, folders)


def _embedder(settings: EvaluateTextConfig, everything: Iterable[TextSamples]) -> text.Embed | None:
    if "embedding" not in settings.measures or all(texts.molecules for texts in everything):
        return None
    from chemkl.llm import embedding  # it imports torch

    model = embedding.SentenceEmbedder(settings.options.cache)
    vectors: dict[str, np.ndarray] = {}

    def embed(texts: Sequence[str]) -> list[np.ndarray]:
        """Embed texts, each distinct one once."""
        new = [each for each in dict.fromkeys(texts) if each not in vectors]
        vectors.update(zip(new, model.embed(new), strict=True))
        return [vectors[each] for each in texts]

    return embed


def _write_entropies(out: Path, everything: Iterable[TextSamples]) -> None:
    """Write and draw the exact entropies over the steps of runs that record them."""
    from chemkl.reports.curves import draw_entropy  # they import matplotlib
    from chemkl.reports.figures import write_figure

    rows: list[dict[Any, Any]] = []
    curves: dict[str, list[pd.DataFrame]] = {}
    for texts in everything:
        if texts.exact is None:
            continue
        steps = text.exact_entropies(texts.exact)
        identity = {"run": texts.name, "method": texts.method, "seed": texts.seed}
        rows += [{**identity, **row} for row in steps.to_dict("records")]
        curves.setdefault(texts.method or texts.name, []).append(text.over_prompts(steps))
    if rows:
        frame = pd.DataFrame(rows)
        table = pa.Table.from_pandas(frame, schema=text.STEPS_SCHEMA, preserve_index=False)
        write_parquet(out / STEPS, table)
        write_figure(out, FIGURE, draw_entropy(curves))
