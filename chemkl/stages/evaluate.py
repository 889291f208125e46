"""Evaluation: runs and files become tables of how diverse their molecules, or their texts, are.

One stage for molecules (evaluate) and for texts and answers of language models (evaluate_text).
`run` returns the table. Of molecules it has one row per run and threshold, a null threshold
standing for all molecules; of texts, for each run or file a row for all texts, one for the mean
over the prompts, and one for each prompt.
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
from chemkl.config.base import utf8
from chemkl.config.evaluate import (
    TRACE_FOLDER,
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
from chemkl.results import Manifest, find_trace, read_trace, write_json, write_parquet
from chemkl.results.provenance import method_settings, mixed_settings
from chemkl.results.trace import list_parts, read_part
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start

TABLE, JSON = "diversity.parquet", "metrics.json"
OVER_TIME, FAMILIES = "over_time.parquet", "families.parquet"
BY_PROMPT = "by_prompt.parquet"
IN_RUN = "evaluation"
"""The folder in that of a run into which its own numbers go."""
TEXT_TABLE, TEXT_JSON = "text_diversity.parquet", "text_metrics.json"
STEPS, METHODS = "entropy_over_steps.parquet", "methods.parquet"
FIGURE = "entropy"

F = TypeVar("F", bound=Any)

run = STAGES["evaluate"].run


def read(path: Path) -> pd.DataFrame:
    """The table that was written."""
    table = read_part(path)
    frame: pd.DataFrame = table.to_pandas() if path.name == TEXT_TABLE else metrics.frame(table)
    return frame


def work(config: Any, start: Start) -> None:
    """Evaluate runs and files: write the tables and print them."""
    if isinstance(config, EvaluateTextConfig):
        _evaluate_texts(config, start)
    else:
        _evaluate_molecules(config, start)


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look for what the settings need of this machine and of the runs that are there.

    FCD and embeddings need their packages, numbers by prompt need runs that have prompts, and the
    runs of a method of texts need seeds of their own.
    """
    if issubclass(view.model, EvaluateTextConfig):
        runs, methods = view.get("runs") or [], view.get("methods") or {}
        there = view.there([*runs, *(run for group in methods.values() for run in group)])
        yield "runs", complaints(*((text_samples.check_text_run, run) for run in there))
        if "embedding" in (view.get("measures") or ()):
            from chemkl.llm import embedding  # it imports torch: not for molecules

            lines = complaints((embedding.require,))
            yield "measures", [f"{line}, or leave embedding out of measures" for line in lines]
        for method, group in methods.items():
            yield "methods", [*_unlike([run for run in group if run in there], method)]
        return
    yield "fcd", complaints((ChemNet.require,)) if view.get("fcd") else []
    if view.get("by_prompt"):
        runs = [run for run in view.there(view.get("runs")) if list_parts(run)]
        yield "by_prompt", complaints((breakdown.require_prompts, runs))


def require_traces(folders: Iterable[Path]) -> None:
    """Look for the traces of all runs before anything is computed or written."""
    InputError.refuse(complaints(*((find_trace, folder) for folder in folders)))


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of runs: the folders' own, with as much of the path before as tells them apart."""
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = [utf8("/".join(folder.parts[-depth:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{utf8(folder)}#{number}" for number, folder in enumerate(folders, start=1)]


def trace_inputs(folders: Sequence[Path]) -> dict[str, Path]:
    """The traces of runs as inputs of a stage, by role."""
    names = zip(run_names(folders), folders, strict=True)
    return {f"run {name}": folder / TRACE_FOLDER for name, folder in names}


def _named(
    runs: Sequence[Path], files: Sequence[F]
) -> tuple[list[tuple[str, Path]], list[tuple[str, F]]]:
    """Runs, and files given with them, with their names."""
    names = run_names([*runs, *(file.path for file in files)])
    return [*zip(names, runs, strict=False)], [*zip(names[len(runs) :], files, strict=True)]


# ---- molecules

MakeRows = Callable[[Samples, pd.DataFrame], list[dict[str, Any]]]
"""Makes the rows of samples and of the trace they are from, which is empty for a file."""
Wanted = dict[str, tuple[pa.Schema, MakeRows]]


def _evaluate_molecules(config: EvaluateConfig, start: Start) -> None:
    """Write `diversity.parquet` and `metrics.json`.

    With `every`, `over_time.parquet` is written too, with `prior`, `families.parquet`, and with
    `by_prompt`, `by_prompt.parquet`.
    """
    require_traces(config.runs)
    with start.claim(_inputs(config), seed=config.metrics.seed) as manifest:
        wanted = _tables_wanted(config, load_comparisons(config))
        rows_of: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
        summaries: dict[str, dict[str, Any]] = {}
        beside: list[Path] = []
        for run, folder, trace in _samples(config):
            of_run = {name: make(run, trace) for name, (_, make) in wanted.items()}
            if run.note is not None:
                say(run.note)
            about = None if folder is None else Manifest.load(folder)
            if about is not None and about.status != "complete":
                say(f"{run.name}: not finished ({about.status}); its numbers are those so far")
            summaries[run.name] = metrics.nested(of_run[TABLE])
            if folder is not None and config.into_runs:
                _write_tables(folder / IN_RUN, of_run, wanted)
                write_json(folder / IN_RUN / JSON, summaries[run.name])
                beside += [folder / IN_RUN / file for file in (*of_run, JSON)]
            for table, rows in of_run.items():
                rows_of[table] += rows
        frames = _write_tables(start.out, rows_of, wanted)
        write_json(start.out / JSON, {"runs": summaries})
        manifest.finish(results={"runs": list(summaries)}, beside=beside)
    for shown in _shown(frames, config.metrics):
        start.console.print(shown, highlight=False)


def _tables_wanted(config: EvaluateConfig, comparisons: Comparisons) -> Wanted:
    """The tables that the settings ask for: their columns, and what makes the rows of samples."""
    options, taus, every = config.metrics, config.thresholds, config.every
    prior, late, corpus = comparisons.prior, options.late_samples, comparisons.corpus
    columns = metrics_schema(options, [ref.name for ref in comparisons.references])
    wanted: Wanted = {
        TABLE: (columns, lambda s, _: metrics.evaluate(s, taus, options, comparisons))
    }
    if every is not None:
        columns = breakdown.over_time_schema(options)
        wanted[OVER_TIME] = columns, lambda s, _: breakdown.over_time(s, taus, options, every)
    if prior is not None:
        wanted[FAMILIES] = (
            breakdown.families_schema(late),
            lambda s, _: breakdown.family_rows(s, prior, late),
        )
    if config.by_prompt:
        columns = breakdown.by_prompt_schema(options)
        rows_of = partial(breakdown.prompt_rows, thresholds=taus, options=options, corpus=corpus)
        wanted[BY_PROMPT] = columns, rows_of
    return wanted


def _shown(frames: Mapping[str, pd.DataFrame], options: MetricOptions) -> Iterator[Table | str]:
    """What is printed: the comparison, what moved over time and between prior and policy."""
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
    folder: Path, rows_of: Mapping[str, Sequence[dict[str, Any]]], wanted: Wanted
) -> dict[str, pd.DataFrame]:
    folder.mkdir(exist_ok=True)
    made = {name: pa.Table.from_pylist(rows_of[name], schema=wanted[name][0]) for name in wanted}
    for name, table in made.items():
        write_parquet(folder / name, table)
    return {name: metrics.frame(table) for name, table in made.items()}


def _samples(config: EvaluateConfig) -> Iterator[tuple[Samples, Path | None, pd.DataFrame]]:
    """The samples of every run with its folder and its trace; then those of files."""
    columns = (*samples.TRACE_COLUMNS, *(breakdown.PROMPT_COLUMNS if config.by_prompt else ()))
    workers = config.metrics.workers
    runs, files = _named(config.runs, config.samples)
    for name, folder in runs:
        trace = read_trace(folder, columns)
        yield samples.from_trace(name, trace, workers, Manifest.load(folder)), folder, trace
    for name, file in files:
        yield read_samples(name, file, workers), None, pd.DataFrame()


def _inputs(config: EvaluateConfig) -> dict[str, Path]:
    files = trace_inputs(config.runs)
    of_samples = _named(config.runs, config.samples)[1]
    files |= {f"samples {name}": file.path for name, file in of_samples}
    beside: dict[str, Any] = {"corpus": config.corpus, "prior": config.prior}
    beside |= {f"reference {name}": source for name, source in config.reference.items()}
    return files | {
        role: source.path
        for role, source in beside.items()
        if source and not isinstance(source, MosesReference)
    }


# ---- texts


def _evaluate_texts(config: EvaluateTextConfig, start: Start) -> None:
    """Write `text_diversity.parquet` and `text_metrics.json`.

    With exact answers `entropy_over_steps.parquet`, `entropy.svg` and `entropy.png` are written
    too, and with methods `methods.parquet`.
    """
    # what can go wrong with the inputs does so before the folder is claimed
    everything: list[TextSamples] = []
    runs, files = _named(config.folders, config.texts)
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
            f"measures: only answers are wanted, and nothing here has any: no column {ANSWER!r} "
            f"in a trace or file, and no {ANSWERS_FILE}. Add ngrams or embedding to measures."
        )
    embed = _embedder(config, everything)
    out, options = start.out, config.options
    inputs = trace_inputs(config.folders) | {f"texts {name}": file.path for name, file in files}
    for name, folder in zip(run_names(config.folders), config.folders, strict=True):
        if "answers" in config.measures and (folder / ANSWERS_FILE).exists():
            inputs[f"answers {name}"] = folder / ANSWERS_FILE
    with start.claim(inputs, seed=options.seed) as manifest:
        made = [text.text_rows(texts, config.measures, options, embed) for texts in everything]
        names, rows = [texts.name for texts in everything], [row for some in made for row in some]
        means = text.method_rows(rows, list(config.methods), options)
        table = pa.Table.from_pylist(rows, schema=text.text_schema(options))
        write_parquet(out / TEXT_TABLE, table)
        summary = {"runs": dict(zip(names, map(text.nested_text, made), strict=True))}
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
    if set(text.OF_TEXT) & set(config.measures):  # what of each run is not in the measures of text
        most = options.max_texts
        notes = [line for texts in everything for line in text_samples.left_out(texts, most)]
    for shown in (*text.text_tables(rows, means, config), *notes):
        start.console.print(shown, highlight=False, markup=False)


def _unlike(folders: Sequence[Path], method: str) -> Iterator[str]:
    """Say where runs of one method have the same seed, or differ in another setting."""
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


def mixed(method: str, folders: Iterable[Path]) -> list[str]:
    """Every setting in which the runs of one method differ; runs without a manifest may be any."""
    manifests = {str(folder): Manifest.load(folder) for folder in folders}
    settings = {n: method_settings(m.config, m.inputs) for n, m in manifests.items() if m}
    return mixed_settings(method, settings)


def _embedder(settings: EvaluateTextConfig, everything: Iterable[TextSamples]) -> text.Embed | None:
    if "embedding" not in settings.measures or all(texts.molecules for texts in everything):
        return None
    from chemkl.llm import embedding  # it imports torch: not for molecules

    model = embedding.SentenceEmbedder(settings.options.cache)
    vectors: dict[str, np.ndarray] = {}

    def embed(texts: Sequence[str]) -> list[np.ndarray]:
        """Embed the texts that no earlier run wrote."""
        new = [one for one in dict.fromkeys(texts) if one not in vectors]
        vectors.update(zip(new, model.embed(new), strict=True))
        return [vectors[one] for one in texts]

    return embed


def _write_entropies(out: Path, everything: Iterable[TextSamples]) -> None:
    """Write the exact entropies over the steps, and draw them, where runs record them."""
    from chemkl.reports.curves import draw_entropy  # they import matplotlib
    from chemkl.reports.figures import write_figure

    rows: list[dict[Any, Any]] = []
    curves: dict[str, list[pd.DataFrame]] = {}
    for texts in everything:
        if texts.exact is None:
            continue
        steps = text.exact_entropies(texts.exact)
        who = {"run": texts.name, "method": texts.method, "seed": texts.seed}
        rows += [{**who, **row} for row in steps.to_dict("records")]
        curves.setdefault(texts.method or texts.name, []).append(text.over_prompts(steps))
    if rows:
        frame = pd.DataFrame(rows)
        table = pa.Table.from_pandas(frame, schema=text.STEPS_SCHEMA, preserve_index=False)
        write_parquet(out / STEPS, table)
        write_figure(out, FIGURE, draw_entropy(curves))
