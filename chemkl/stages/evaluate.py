"""Evaluation: runs and files become tables of how diverse their molecules, or their texts, are.

One stage for molecules (evaluate) and for texts and answers of language models (evaluate_text).
`run` returns the table. Of molecules it has one row per run and threshold, a null threshold
standing for all molecules; of texts, for each run or file a row for all texts, one for the mean
over the prompts, and one for each prompt.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.table import Table

from chemkl.config import InputError, complaints
from chemkl.config.base import utf8
from chemkl.config.evaluate import EvaluateConfig, EvaluateTextConfig, MetricOptions, MosesReference
from chemkl.display import say
from chemkl.evaluation import by_prompt, metrics, samples
from chemkl.evaluation.by_prompt import PROMPT_COLUMNS, PromptSamples
from chemkl.evaluation.metrics import metrics_schema
from chemkl.evaluation.over_time import families_schema, family_rows, over_time, over_time_schema
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
from chemkl.evaluation.text import (
    METHODS_SCHEMA,
    OF_TEXT,
    STEPS_SCHEMA,
    Embed,
    exact_entropies,
    method_rows,
    nested_text,
    over_prompts,
    text_rows,
    text_schema,
    text_tables,
)
from chemkl.evaluation.text_samples import (
    ANSWER,
    ANSWERS_FILE,
    TextSamples,
    check_text_run,
    left_out,
    read_text_file,
    read_text_run,
)
from chemkl.results import Manifest, find_trace, read_trace, write_bytes, write_json, write_parquet
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
        wanted = "embedding" if "embedding" in (view.get("measures") or ()) else None
        runs, methods = view.get("runs") or [], view.get("methods") or {}
        there = view.there([*runs, *(run for group in methods.values() for run in group)])
        yield "runs", complaints(*((check_text_run, run) for run in there))
        yield "measures", complaints((_require_embedding, wanted))
        for method, group in methods.items():
            yield "methods", [*_unlike([run for run in group if run in there], method)]
        return
    yield "fcd", complaints((ChemNet.require,)) if view.get("fcd") else []
    if view.get("by_prompt"):
        runs = [run for run in view.there(view.get("runs")) if list_parts(run)]
        yield "by_prompt", complaints((by_prompt.require_prompts, runs))


def require_traces(folders: Iterable[Path]) -> None:
    """Look for the traces of all runs before anything is computed or written."""
    problems = complaints(*((find_trace, folder) for folder in folders))
    InputError.refuse(problems)


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of runs: the folders' own, with as much of the path before as tells them apart."""
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = [utf8("/".join(folder.parts[-depth:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{utf8(folder)}#{number}" for number, folder in enumerate(folders, start=1)]


def _named(runs: Sequence[Path], files: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Names of runs, and of files given with them."""
    names = run_names([*runs, *(file.path for file in files)])
    return names[: len(runs)], names[len(runs) :]


# ---- molecules


def _evaluate_molecules(config: EvaluateConfig, start: Start) -> None:
    """Write `diversity.parquet` and `metrics.json`.

    With `every`, `over_time.parquet` is written too, with `prior`, `families.parquet`, and with
    `by_prompt`, `by_prompt.parquet`.
    """
    require_traces(config.runs)
    with start.claim(_inputs(config), seed=config.metrics.seed) as manifest:
        comparisons = load_comparisons(config)
        schemas = _schemas(config, comparisons)
        tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas}
        summaries: dict[str, dict[str, Any]] = {}
        beside: list[Path] = []
        for molecules, folder, prompts in _everything(config):
            rows_of = _rows(molecules, prompts, config, comparisons)
            name = molecules.name
            if molecules.note is not None:
                say(molecules.note)
            about = None if folder is None else Manifest.load(folder)
            if about is not None and about.status != "complete":
                say(f"{name}: not finished ({about.status}); its numbers are those so far")
            summaries[name] = metrics.nested(rows_of[TABLE])
            if folder is not None and config.into_runs:
                _write_tables(folder / IN_RUN, rows_of, schemas)
                write_json(folder / IN_RUN / JSON, summaries[name])
                beside += [folder / IN_RUN / file for file in (*rows_of, JSON)]
            for table, rows in rows_of.items():
                tables[table] += rows
        written = _write_tables(start.out, tables, schemas)
        write_json(start.out / JSON, {"runs": summaries})
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
    molecules: Samples,
    prompts: Sequence[PromptSamples],
    settings: EvaluateConfig,
    comparisons: Comparisons,
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one run or file, by table."""
    options, thresholds = settings.metrics, settings.thresholds
    rows = {TABLE: metrics.evaluate(molecules, thresholds, options, comparisons)}
    if settings.every is not None:
        rows[OVER_TIME] = over_time(molecules, thresholds, options, settings.every)
    if comparisons.prior is not None:
        rows[FAMILIES] = family_rows(molecules, comparisons.prior, options.late_samples)
    if settings.by_prompt:
        corpus = comparisons.corpus
        rows[BY_PROMPT] = by_prompt.prompt_rows(prompts, thresholds, options, corpus)
    return rows


def _write_tables(
    folder: Path, tables: Mapping[str, Sequence[dict[str, Any]]], schemas: Mapping[str, pa.Schema]
) -> dict[str, pa.Table]:
    folder.mkdir(exist_ok=True)
    made = {name: metrics.metrics_table(tables[name], schema) for name, schema in schemas.items()}
    for name, table in made.items():
        write_parquet(folder / name, table)
    return made


def _everything(
    settings: EvaluateConfig,
) -> Iterator[tuple[Samples, Path | None, Sequence[PromptSamples]]]:
    """The samples of every run with its folder and, where wanted, its prompts; then of files."""
    columns = (*samples.TRACE_COLUMNS, *(PROMPT_COLUMNS if settings.by_prompt else ()))
    late, workers = settings.metrics.late_samples, settings.metrics.workers
    names, names_of_files = _named(settings.runs, settings.samples)
    for name, folder in zip(names, settings.runs, strict=True):
        trace = read_trace(folder, columns)
        molecules = samples.from_trace(name, trace, workers, Manifest.load(folder))
        yield (
            molecules,
            folder,
            by_prompt.split_by_prompt(molecules, trace, late) if settings.by_prompt else (),
        )
    for name, file in zip(names_of_files, settings.samples, strict=True):
        yield read_samples(name, file, workers), None, ()


def _inputs(settings: EvaluateConfig) -> dict[str, Path]:
    runs = zip(run_names(settings.runs), settings.runs, strict=True)
    files = {f"run {name}": folder / "trace" for name, folder in runs}
    of_samples = zip(_named(settings.runs, settings.samples)[1], settings.samples, strict=True)
    files |= {f"samples {name}": file.path for name, file in of_samples}
    if settings.corpus:
        files["corpus"] = settings.corpus.path
    if settings.prior:
        files["prior"] = settings.prior.path
    for name, source in settings.reference.items():
        if not isinstance(source, MosesReference):
            files[f"reference {name}"] = source.path
    return files


# ---- texts


def _evaluate_texts(config: EvaluateTextConfig, start: Start) -> None:
    """Write `text_diversity.parquet` and `text_metrics.json`.

    With exact answers `entropy_over_steps.parquet`, `entropy.svg` and `entropy.png` are written
    too, and with methods `methods.parquet`.
    """
    # what can go wrong with the inputs does so before the folder is claimed
    everything: list[TextSamples] = []
    wrong = complaints(
        *((lambda read: everything.append(read()), read) for read in _readings(config))
    )
    InputError.refuse(wrong)
    has_answers = any(
        ANSWER in texts.texts.columns or texts.exact is not None for texts in everything
    )
    if not has_answers and set(config.measures) == {"answers"}:
        raise InputError(
            f"measures: only answers are wanted, and nothing here has any: no column {ANSWER!r} "
            f"in a trace or file, and no {ANSWERS_FILE}. Add ngrams or embedding to measures."
        )
    embed = _embedder(config, everything)
    out, options = start.out, config.options
    with start.claim(_text_inputs(config), seed=options.seed) as manifest:
        by_run = {
            texts.name: text_rows(texts, config.measures, options, embed) for texts in everything
        }
        rows = [row for rows_of_run in by_run.values() for row in rows_of_run]
        means = method_rows(rows, list(config.methods), options)
        write_parquet(out / TEXT_TABLE, pa.Table.from_pylist(rows, schema=text_schema(options)))
        summary = {"runs": {name: nested_text(rows_of_run) for name, rows_of_run in by_run.items()}}
        if config.methods:
            write_parquet(out / METHODS, pa.Table.from_pylist(means, schema=METHODS_SCHEMA))
            summary["methods"] = _nested_methods(means)
        write_json(out / TEXT_JSON, summary)
        if "answers" in config.measures:
            _write_entropies(out, everything)
        manifest.finish(results={"runs": list(by_run)})
    notes = []
    if set(OF_TEXT) & set(config.measures):  # what of each run is not in the measures of text
        notes = [line for texts in everything for line in left_out(texts, options.max_texts)]
    for shown in (*text_tables(rows, means, config), *notes):
        start.console.print(shown, highlight=False, markup=False)


def _require_embedding(_measure: str) -> None:
    from chemkl.llm import embedding  # it imports torch: not for molecules

    try:
        embedding.require()
    except InputError as error:
        raise InputError(f"{error}, or leave embedding out of measures") from error


def _unlike(folders: Sequence[Path], method: str) -> Iterator[str]:
    """Say where runs of one method have the same seed, or differ in another setting."""
    manifests = {str(folder): Manifest.load(folder) for folder in folders}
    there = {folder: manifest for folder, manifest in manifests.items() if manifest is not None}
    first_of: dict[int | None, str] = {}
    for folder, manifest in there.items():
        if manifest.seed is not None and manifest.seed in first_of:
            yield (
                f"methods.{method}: {first_of[manifest.seed]} and {folder} both have seed "
                f"{manifest.seed}. Keep one of them."
            )
        first_of.setdefault(manifest.seed, folder)
    settings = {name: method_settings(m.config, m.inputs) for name, m in there.items()}
    yield from mixed_settings(method, settings)


def _readings(settings: EvaluateTextConfig) -> Iterator[Callable[[], TextSamples]]:
    """What reads each run, then each file."""
    method_of = {folder: name for name, group in settings.methods.items() for folder in group}
    names, names_of_texts = _named(settings.folders, settings.texts)
    late = settings.options.late_samples
    for name, folder in zip(names, settings.folders, strict=True):
        yield partial(read_text_run, name, folder, late, method_of.get(folder))
    for name, file in zip(names_of_texts, settings.texts, strict=True):
        yield partial(read_text_file, name, file)


def _embedder(settings: EvaluateTextConfig, everything: Iterable[TextSamples]) -> Embed | None:
    if "embedding" not in settings.measures or all(texts.molecules for texts in everything):
        return None
    from chemkl.llm import embedding  # it imports torch: not for molecules

    model = embedding.SentenceEmbedder(settings.options.cache)
    known: dict[str, np.ndarray] = {}

    def embed(texts: Sequence[str]) -> list[np.ndarray]:
        """Embed the texts that no earlier run wrote."""
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, model.embed(new), strict=True))
        return [known[text] for text in texts]

    return embed


def _write_entropies(out: Path, everything: Iterable[TextSamples]) -> None:
    """Write the exact entropies over the steps, and draw them, where runs record them."""
    from chemkl.reports.curves import draw_entropy  # they import matplotlib
    from chemkl.reports.figures import to_png, to_svg

    rows: list[dict[Any, Any]] = []
    curves: dict[str, list[pd.DataFrame]] = {}
    for texts in everything:
        if texts.exact is None:
            continue
        steps = exact_entropies(texts.exact)
        who = {"run": texts.name, "method": texts.method, "seed": texts.seed}
        rows += [{**who, **row} for row in steps.to_dict("records")]
        curves.setdefault(texts.method or texts.name, []).append(over_prompts(steps))
    if rows:
        table = pa.Table.from_pandas(pd.DataFrame(rows), schema=STEPS_SCHEMA, preserve_index=False)
        write_parquet(out / STEPS, table)
        figure = draw_entropy(curves)
        write_bytes(out / f"{FIGURE}.svg", to_svg(figure))
        write_bytes(out / f"{FIGURE}.png", to_png(figure))


def _nested_methods(means: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for row in means:
        values = {key: row[key] for key in ("n", "mean", "sd", "low", "high")}
        place = nested.setdefault(row["method"], {}).setdefault(row["scope"], {})
        place[row["metric"]] = values
    return nested


def _text_inputs(settings: EvaluateTextConfig) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, folder in zip(run_names(settings.folders), settings.folders, strict=True):
        files[f"run {name}"] = folder / "trace"
        if "answers" in settings.measures and (folder / ANSWERS_FILE).exists():
            files[f"answers {name}"] = folder / ANSWERS_FILE
    names = _named(settings.folders, settings.texts)[1]
    of_texts = zip(names, settings.texts, strict=True)
    return files | {f"texts {name}": file.path for name, file in of_texts}
