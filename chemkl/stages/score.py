"""The score stage: a file of SMILES becomes a table of scores, one row for each line."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chemkl.config import InputError, complaints, load_config, shipped
from chemkl.config.document import Document
from chemkl.config.draft import Draft
from chemkl.config.overrides import Override
from chemkl.config.score import ScoreConfig
from chemkl.files.molecules import NO_CELL, Line, read_molecules
from chemkl.files.streams import PACKINGS
from chemkl.files.tables import ENDINGS
from chemkl.results.columns import described_schema, trace_schema
from chemkl.results.manifest import Manifest
from chemkl.rewards import RewardModel
from chemkl.rewards.keys import reward_files
from chemkl.stages.aside import move_aside
from chemkl.stages.finished import once
from chemkl.stages.registry import STAGES
from chemkl.stages.score_summary import Summary
from chemkl.stages.score_table import Table
from chemkl.stages.terminal import standard_output

FILE_NAME = "scores"
FORMATS = {".parquet": "parquet", ".csv": "csv"}
"""Endings of the files that are written, and what they hold."""

FOREIGN = (*ENDINGS, *PACKINGS, ".json", ".xlsx")
"""Endings of files that are not written: a folder that is called so would be a mistake."""

_OWN = {
    "line": (pa.int64(), "Line of the file that was scored, from 1 (row of a Parquet file)."),
    "smiles": (pa.string(), "SMILES as it stands in the file. Null: the line has no such column."),
}


def check(config: ScoreConfig, awaited: Collection[Path] = ()) -> None:
    """Look into the reward and the beginning of the file, without scoring.

    Args:
        config: the settings.
        awaited: the file, if it is yet to be made.

    Raises:
        InputError: with every problem.
    """
    file = None if config.file in awaited else config.file
    problems = complaints(
        (RewardModel.from_config, config.reward), (_check_file, file, config.column)
    )
    if problems:
        raise InputError("\n".join(problems))


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it: the reward's components."""
    return complaints((RewardModel.from_config, draft.section("reward")))


def _table(config: ScoreConfig, out: Path) -> Path:
    return out / f"{FILE_NAME}.{config.format}"


@once("score", _table)
def run(config: ScoreConfig, out: Path) -> Path:
    """Write ``scores.parquet``, or ``scores.csv``, into a folder, and print a summary.

    Returns:
        The path of the table.

    Raises:
        InputError: the config, the file, a component that fails too often, or a folder that holds
            something else.
    """
    check(config)
    with Manifest.start(
        out,
        stage="score",
        config=config.model_dump(mode="json"),
        inputs={"file": config.file, **reward_files(config.reward)},
    ) as manifest:
        table = _table(config, out)
        manifest.finish(results=score_file(config, table))
    return table


def score_file(config: ScoreConfig, table: Path) -> dict[str, Any]:
    """Score a file into a table, which appears when it is whole, and print a summary.

    Args:
        config: the settings.
        table: what is written, as `config.format` says.

    Returns:
        The summary: lines, valid, mean reward, best molecules, and of each component how often it
        was asked, how often it failed, and the means of its values.

    Raises:
        InputError: the file, or a component that fails too often.
    """
    lines = list(read_molecules(config.file, config.column))
    if lines and all(line.smiles is None for line in lines):
        raise InputError(f"{config.file}: no line has the column {config.column}, counted from 0")
    with (
        RewardModel.from_config(config.reward) as reward,
        Table.open(table, config.format, _schema(reward)) as written,
    ):
        summary = Summary(reward.component_names)
        for chunk in _shown(lines, config, reward):
            rows = _rows(reward, chunk)
            written.append(rows)
            summary.add(rows)
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
    changes = [*overrides, *([] if form is None else [f"format={form}"])]
    checked = settings(file, config, changes)
    check(checked)
    if out.resolve() == checked.file:
        raise InputError(f"--out {out}: this is the file to be scored; choose another")
    if fresh:
        move_aside(out, checked, also=[Path(config)], tables=True)
    if form is None:
        return run(checked, out)
    if out.exists():
        raise InputError(f"{out}: exists. Choose another --out, or move it aside with --fresh")
    score_file(checked, out)
    return out


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
    place = Path(file).expanduser()
    ours = None if os.path.exists(place) else shipped.find(place)
    data["file"] = str(ours or place.absolute())
    given = replace(document, data=data)
    return load_config(ScoreConfig, given, overrides, beside=problems_beside)


def _stem(file: str) -> str:
    """The name of a file without the endings that say its format."""
    name = Path(file).name
    return Path(name.removesuffix(".gz")).stem or name


def _check_file(file: Path, column: str | int | None) -> None:
    next(read_molecules(file, column))


def _schema(reward: RewardModel) -> pa.Schema:
    """The columns of a trace that a reward decides, after those of the file."""
    own = described_schema(_OWN)
    trace = trace_schema(reward.component_names)
    return pa.schema([*own, *(trace.field(name) for name in reward.columns if name != "smiles")])


def _rows(reward: RewardModel, lines: Sequence[Line]) -> pd.DataFrame:
    """Score lines: one row each, in order."""
    rows = reward.score(line.smiles or "" for line in lines)
    without = [index for index, line in enumerate(lines) if line.smiles is None]
    rows.loc[without, "smiles"] = None
    rows.loc[without, "reason"] = NO_CELL
    rows.insert(0, "line", [line.number for line in lines])
    return rows


def _shown(
    lines: Sequence[Line], config: ScoreConfig, reward: RewardModel
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
        task = progress.add_task("scoring", total=len(lines))

        @contextmanager
        def within(n_new: int) -> Iterator[Callable[[int], None]]:
            part = progress.add_task("new molecules of this batch", total=n_new)
            yield lambda n: progress.advance(part, n)
            progress.remove_task(part)

        if config.progress_bar:
            reward.show_progress(within)
        for start in range(0, len(lines), config.batch_size):
            chunk = lines[start : start + config.batch_size]
            yield chunk
            progress.advance(task, len(chunk))
