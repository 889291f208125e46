"""The evaluate_text stage: how diverse the texts and answers of language-model runs are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import EvaluateTextConfig
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
from chemkl.llm import embedding
from chemkl.reports.curves import draw_entropy
from chemkl.reports.figures import to_png, to_svg
from chemkl.results import Manifest, write_bytes, write_json, write_parquet
from chemkl.results.provenance import method_settings, mixed_settings
from chemkl.stages.evaluate import run_names
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.stages.runner import read_table as read

TABLE, JSON = "text_diversity.parquet", "text_metrics.json"
STEPS, METHODS = "entropy_over_steps.parquet", "methods.parquet"
FIGURE = "entropy"


__all__ = ["problems", "read", "run", "work"]

run = STAGES["evaluate_text"].run


def work(config: EvaluateTextConfig, start: Start) -> None:
    """Evaluate the texts of runs and files; write the tables and the figure, and print them.

    `text_diversity.parquet` and `text_metrics.json` always; with exact answers
    `entropy_over_steps.parquet`, `entropy.svg` and `entropy.png`; with methods `methods.parquet`.
    `run` returns the first table: for each run or file a row for all texts, one for the mean over
    the prompts, and one for each prompt.

    Raises:
        InputError: a run or a file cannot be used; the message names each.
    """
    out_dir = start.out
    # what can go wrong with the inputs does so before the folder is claimed
    everything = _all_samples(config)
    _require_answers(config, everything)
    embed = _embedder(config, everything)
    with start.claim(_inputs(config), seed=config.options.seed) as manifest:
        by_run = {
            one.name: text_rows(one, config.measures, config.options, embed) for one in everything
        }
        rows = [row for own in by_run.values() for row in own]
        means = method_rows(rows, list(config.methods), config.options)
        table = pa.Table.from_pylist(rows, schema=text_schema(config.options))
        write_parquet(out_dir / TABLE, table)
        _write_summary(out_dir, by_run, means if config.methods else None)
        if "answers" in config.measures:
            _write_entropies(out_dir, everything)
        manifest.finish(results={"runs": list(by_run)})
    for shown in (*text_tables(rows, means, config), *_notes(config, everything)):
        start.console.print(shown, highlight=False, markup=False)


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look for what the settings need of this machine, and at the runs that are there.

    Runs need texts, a method's runs need seeds of their own, and embeddings need their package.
    """
    wanted = "embedding" if "embedding" in (view.get("measures") or ()) else None
    runs, methods = view.get("runs") or [], view.get("methods") or {}
    there = view.there([*runs, *(run for group in methods.values() for run in group)])
    yield "runs", complaints(*((check_text_run, run) for run in there))
    yield "measures", complaints((_require_embedding, wanted))
    for method, group in methods.items():
        yield "methods", [*_unlike([run for run in group if run in there], method)]


def _require_embedding(_measure: str) -> None:
    try:
        embedding.require()
    except InputError as error:
        raise InputError(f"{error}, or leave embedding out of measures") from error


def _unlike(folders: Sequence[Path], method: str) -> Iterator[str]:
    """Say where runs of one method have the same seed, or differ in another setting."""
    manifests = [(folder, Manifest.load(folder)) for folder in folders]
    known = [(str(folder), found) for folder, found in manifests if found is not None]
    first_of: dict[int | None, str] = {}
    for folder, manifest in known:
        if manifest.seed is not None and manifest.seed in first_of:
            yield (
                f"methods.{method}: {first_of[manifest.seed]} and {folder} both have seed "
                f"{manifest.seed}. Keep one of them."
            )
        first_of.setdefault(manifest.seed, folder)
    yield from mixed_settings(
        method, {name: method_settings(m.config, m.inputs) for name, m in known}
    )


def _all_samples(settings: EvaluateTextConfig) -> list[TextSamples]:
    """Read all runs and files.

    Raises:
        InputError: with the problems of every one that cannot be used.
    """
    found: list[TextSamples] = []
    problems = complaints(
        *((lambda read: found.append(read()), read) for read in _readings(settings))
    )
    if problems:
        raise InputError("\n".join(problems))
    return found


def _readings(settings: EvaluateTextConfig) -> Iterator[Callable[[], TextSamples]]:
    """What reads each run, then each file."""
    method_of = {folder: name for name, own in settings.methods.items() for folder in own}
    paths = [*settings.folders, *(file.path for file in settings.texts)]
    names = run_names(paths)
    late = settings.options.late_samples
    for name, folder in zip(names, settings.folders, strict=False):
        yield partial(read_text_run, name, folder, late, method_of.get(folder))
    for name, file in zip(names[len(settings.folders) :], settings.texts, strict=True):
        yield partial(read_text_file, name, file)


def _require_answers(settings: EvaluateTextConfig, everything: Sequence[TextSamples]) -> None:
    """Refuse to report nothing but answers where there are none.

    Raises:
        InputError: nothing that is evaluated has any.
    """
    has = any(ANSWER in one.texts.columns or one.exact is not None for one in everything)
    if not has and set(settings.measures) == {"answers"}:
        raise InputError(
            f"measures: only answers are wanted, and nothing here has any: no column {ANSWER!r} "
            f"in a trace or file, and no {ANSWERS_FILE}. Add ngrams or embedding to measures."
        )


def _notes(settings: EvaluateTextConfig, everything: Iterable[TextSamples]) -> Iterator[str]:
    """Say what of each run or file is not in the measures of text, where these are wanted."""
    if not set(OF_TEXT) & set(settings.measures):
        return
    for one in everything:
        yield from left_out(one, settings.options.max_texts)


def _embedder(settings: EvaluateTextConfig, everything: Iterable[TextSamples]) -> Embed | None:
    if "embedding" not in settings.measures or all(one.molecules for one in everything):
        return None
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
    rows: list[dict[Any, Any]] = []
    curves: dict[str, list[pd.DataFrame]] = {}
    for one in everything:
        if one.exact is None:
            continue
        steps = exact_entropies(one.exact)
        who = {"run": one.name, "method": one.method, "seed": one.seed}
        rows += [{**who, **row} for row in steps.to_dict("records")]
        curves.setdefault(one.method or one.name, []).append(over_prompts(steps))
    if rows:
        table = pa.Table.from_pandas(pd.DataFrame(rows), schema=STEPS_SCHEMA, preserve_index=False)
        write_parquet(out / STEPS, table)
        figure = draw_entropy(curves)
        write_bytes(out / f"{FIGURE}.svg", to_svg(figure))
        write_bytes(out / f"{FIGURE}.png", to_png(figure))


def _write_summary(
    out: Path,
    by_run: Mapping[str, Sequence[dict[str, Any]]],
    means: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Write all values as JSON, and those of the methods as a table; None: there are no methods."""
    summary = {"runs": {name: nested_text(own) for name, own in by_run.items()}}
    if means is not None:
        write_parquet(out / METHODS, pa.Table.from_pylist(means, schema=METHODS_SCHEMA))
        summary["methods"] = _nested_methods(means)
    write_json(out / JSON, summary)


def _nested_methods(means: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for row in means:
        values = {key: row[key] for key in ("n", "mean", "sd", "low", "high")}
        place = nested.setdefault(row["method"], {}).setdefault(row["scope"], {})
        place[row["metric"]] = values
    return nested


def _inputs(settings: EvaluateTextConfig) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, folder in zip(run_names(settings.folders), settings.folders, strict=True):
        files[f"run {name}"] = folder / "trace"
        if "answers" in settings.measures and (folder / ANSWERS_FILE).exists():
            files[f"answers {name}"] = folder / ANSWERS_FILE
    paths = [*settings.folders, *(file.path for file in settings.texts)]
    names = run_names(paths)[len(settings.folders) :]
    of_texts = zip(names, settings.texts, strict=True)
    files |= {f"texts {name}": file.path for name, file in of_texts}
    return files
