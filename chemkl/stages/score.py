"""The score stage: a file of SMILES becomes a table of scores, one row for each line."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chemkl.config import Config, InputError, complaints, load_config, shipped
from chemkl.config.document import Document
from chemkl.config.loading import Draft, Override
from chemkl.config.paths import STDIN, local
from chemkl.config.prepare import ScoreConfig
from chemkl.display import say, standard_output
from chemkl.files.molecules import ENDINGS, NO_CELL, Line, MoleculeFile
from chemkl.files.streams import PACKINGS
from chemkl.results.atomic import refuse_other_names, write_json
from chemkl.results.columns import described_schema, trace_schema
from chemkl.results.provenance import InputFile, config_hash, sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import AGAIN, Start, move_aside
from chemkl.stages.score_summary import Summary
from chemkl.stages.score_table import Table, as_written, written_type

FORMATS = {".parquet": "parquet", ".csv": "csv"}
"""Endings of the files that are written, and what they hold."""

FOREIGN = (*ENDINGS, *PACKINGS, ".json", ".xlsx")
"""Endings of files that are not written: a folder that is called so would be a mistake."""

_OWN = {
    "line": (pa.int64(), "Line of the file that was scored, from 1 (row of a Parquet file)."),
    "smiles": (pa.string(), "SMILES as it stands in the file. Null: there is none; see reason."),
}
_NAME = (pa.string(), "What the file calls the molecule. Null: it has no name.")


run = STAGES["score"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look into the reward and the beginning of the file, without scoring."""
    yield "", complaints((RewardModel.from_config, view.section("reward")))
    if view.config is not None:
        readable = None if view.get("file") is None else view.config
        yield "file", complaints((_check_file, readable))


def work(config: ScoreConfig, start: Start) -> None:
    """Write ``scores.parquet``, or ``scores.csv``, and print a summary.

    Raises:
        InputError: the file, a component that fails too often, or a folder that holds something
            else.
    """
    with start.claim(_inputs(config)) as manifest:
        manifest.finish(results=score_file(config, start.out / f"scores.{config.format}"))


def score_file(config: ScoreConfig, table: Path) -> dict[str, Any]:
    """Score a file into a table, which appears when it is whole, and print a summary.

    Args:
        config: the settings.
        table: what is written, as `config.format` says.

    Returns:
        The summary: lines, valid, mean reward, best molecules, and of each component how often it
        was asked, how often it failed, and the means of its values.

    Raises:
        InputError: the file, which may hold no valid molecule, or a component that fails too often.
    """
    file = _file(config)
    with RewardModel.from_config(config.reward) as reward:
        schema, kept = _schema(reward, file, config.format)
        summary = Summary(reward.component_names)
        with Table.open(table, config.format, schema) as written:
            has_cells = False
            for chunk in _shown(file, config, reward):
                rows = _rows(reward, chunk, kept)
                written.append(rows)
                summary.add(rows)
                has_cells |= any(line.reason != NO_CELL for line in chunk)
            if not has_cells and config.column is not None:
                raise InputError(
                    f"{config.file}: no line has the column {config.column}, counted from 0"
                )
            summary.require_valid(config.file)
        results = summary.results(reward.failures)
    summary.print(standard_output(), reward.failures)
    return results


def run_command(
    file: str,
    config: str,
    overrides: Iterable[str | Override] = (),
    out: Path | None = None,
    *,
    fresh: bool = False,
) -> Path:
    """Score a file as the command line asks for it.

    Args:
        file: the molecules.
        config: where the reward is, see `settings`.
        overrides: settings to change.
        out: a .parquet or .csv file, or a folder; None: runs/ and the name of the file.
        fresh: move what is there aside.

    Returns:
        The path of the table.

    Raises:
        InputError: a setting, the file, or output that is there already.
    """
    out = out or Path("runs", f"{_stem(file)}{STAGES['score'].suffix}")
    form = FORMATS.get(out.suffix.lower())
    if form is None and out.suffix.lower() in FOREIGN:
        raise InputError(
            f"--out {out}: no table is written in this format. Allowed: a file that ends in "
            f"{' or '.join(FORMATS)}, or a folder"
        )
    refuse_other_names(out)
    changes = [*overrides, *([] if form is None else [f"format={form}"])]
    checked = settings(file, config, changes)
    STAGES["score"].check(checked)
    if out.resolve() == checked.file:
        raise InputError(f"--out {out}: this is the file to be scored; choose another")
    if fresh:
        move_aside(out, checked, also=[Path(config)], tables=True)
    if form is None:
        table: Path = run(checked, out)
        return table
    if out.is_file() and has_record(checked, _inputs(checked), out):
        say(f"{out}: complete, skipped; {AGAIN}")
        return out
    if out.exists():
        raise InputError(
            f"{out}: exists, and was not made of this file with these settings, or has changed. "
            "Choose another --out, or move it aside with --fresh"
        )
    score_file(checked, out)
    keep_record(checked, _inputs(checked), out)
    return out


def _beside(draft: Draft) -> list[str]:
    return complaints((RewardModel.from_config, draft.section("reward")))


def keep_record(config: Config, inputs: Mapping[str, Path], table: Path) -> None:
    """Write down what a table was made of that stands alone, in a hidden file beside it."""
    write_json(_record(table), _made_of(config, inputs, table))


def has_record(config: Config, inputs: Mapping[str, Path], table: Path) -> bool:
    """Whether a table that stands alone was made of this config and these inputs, and is whole."""
    try:
        return bool(json.loads(_record(table).read_bytes()) == _made_of(config, inputs, table))
    except (OSError, ValueError):
        return False


def _record(table: Path) -> Path:
    return table.with_name(f".{table.name}.manifest.json")


def _made_of(config: Config, inputs: Mapping[str, Path], table: Path) -> dict[str, Any]:
    return {
        "config_hash": config_hash(config.model_dump(mode="json")),
        "inputs": {role: InputFile.of(path).sha256 for role, path in inputs.items()},
        "sha256": sha256_of(table),
    }


def _inputs(config: ScoreConfig) -> dict[str, Path]:
    return {"file": config.file, **reward_files(config.reward)}


def settings(file: str, config: str, overrides: Iterable[str | Override] = ()) -> ScoreConfig:
    """Read what the command line is given.

    Args:
        file: the molecules, from the working directory.
        config: a file with a reward, with the settings of this stage, or with those of any other
            stage that has a reward.
        overrides: settings of this stage to change, as ``key=value``.

    Raises:
        InputError: with every problem.
    """
    document = Document.read(config, kinds=["configs/rewards", "configs/score"])
    data = dict(document.data)
    if "components" in data:
        RewardModel.from_config(document)  # whose problems have the lines of this file
        data = {"reward": str(document.file)}
    elif "reward" not in data:
        raise InputError(
            f"{config}: holds no reward: expected its components, or the key reward of a config "
            "that has one"
        )
    elif not data.keys() <= ScoreConfig.model_fields.keys():  # of another stage
        data = {"reward": data["reward"]}
    place = Path(os.path.expanduser(file))
    if place != STDIN:
        ours = None if os.path.exists(place) else shipped.find(place)
        place = ours or place.absolute()
    local(place)  # so that a problem is not told as one of the config
    data["file"] = str(place)
    given = replace(document, data=data)
    return load_config(ScoreConfig, given, overrides, beside=_beside)


def _stem(file: str) -> str:
    """The name of a file without the endings that say its format."""
    path = Path("stdin" if Path(file) == STDIN else Path(file).name)
    return (path.with_suffix("") if path.suffix.lower() in PACKINGS else path).stem


def _file(config: ScoreConfig) -> MoleculeFile:
    kept = config.keep_columns
    return MoleculeFile(config.file, config.column, True if kept is True else kept or ())


def _check_file(config: ScoreConfig) -> None:
    next(iter(_file(config)))


def _schema(
    reward: RewardModel, file: MoleculeFile, form: str
) -> tuple[pa.Schema, dict[str, pa.Field]]:
    """The columns of a trace that a reward decides, behind and before those of the file.

    Returns:
        The schema, and for each kept column of the file what it is in the scores.
    """
    own = {**_OWN, **({"name": _NAME} if file.has_names else {})}
    trace = trace_schema(reward.component_names)
    fields = [*described_schema(own), *(trace.field(n) for n in reward.columns if n != "smiles")]
    taken = {field.name for field in fields}
    kept: dict[str, pa.Field] = {}
    for column, kind in file.types.items():
        name = column
        while name in taken:
            name += "_input"
        taken.add(name)
        text = f"Column {column} of the file that was scored, as it stands there."
        kept[column] = pa.field(name, written_type(kind, form), metadata={"description": text})
    return pa.schema([*fields, *kept.values()]), kept


def _rows(reward: RewardModel, lines: Sequence[Line], kept: Mapping[str, pa.Field]) -> pd.DataFrame:
    """Score lines: one row each, in order."""
    rows = reward.score(line.smiles or "" for line in lines)
    without = [index for index, line in enumerate(lines) if line.smiles is None]
    rows.loc[without, "smiles"] = None
    rows.loc[without, "reason"] = [lines[index].reason for index in without]
    rows.insert(0, "line", [line.number for line in lines])
    rows["name"] = pd.Series([line.name for line in lines], dtype=object)
    for column, field in kept.items():  # as objects: pandas makes floats of integers with gaps
        cells = [as_written(line.values.get(column), field.type) for line in lines]
        rows[field.name] = pd.Series(cells, dtype=object)
    return rows


def _shown(
    lines: Iterable[Line], config: ScoreConfig, reward: RewardModel
) -> Iterator[Sequence[Line]]:
    """Hand the lines out in batches, under a progress bar that also moves within a slow batch."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not config.progress_bar) as progress:
        task = progress.add_task("scoring", total=None)  # a file is read once, and never whole

        @contextmanager
        def within(n_new: int) -> Iterator[Callable[[int], None]]:
            part = progress.add_task("new molecules of this batch", total=n_new)
            yield lambda n: progress.advance(part, n)
            progress.remove_task(part)

        if config.progress_bar:
            reward.show_progress(within)
        remaining = iter(lines)
        while chunk := list(islice(remaining, config.batch_size)):
            yield chunk
            progress.advance(task, len(chunk))
