"""Samples out of files: SMILES as a sampler wrote them, with rewards where they were scored."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.evaluate import SmilesFile
from chemkl.corpus.reading import Line, read_table
from chemkl.evaluation.samples import Samples, from_smiles

TRUNCATED = "truncated"
REWARD = "reward"
NAMED = 5
"""So many of the cells that are no numbers are named in a message."""


def read_samples(name: str, file: SmilesFile, workers: int | None = None) -> Samples:
    """Take the samples of a file as they are, without a reward."""
    return from_smiles(name, _texts(file), workers=workers)


def read_scored_samples(name: str, file: SmilesFile, workers: int | None = None) -> Samples:
    """The same with the rewards of a file that has a column `reward`: Parquet, .csv or .tsv.

    The score and forecast stages write one. A reward that is missing makes no hit. A .csv whose
    SMILES are given by a column number has no header, and so no rewards.

    Raises:
        InputError: that column holds something other than numbers.
    """
    texts = _texts(file)
    if file.path.suffix == ".parquet":
        return from_smiles(name, texts, _parquet_rewards(file.path), workers)
    cells = None if isinstance(file.column, int) else _cells(file.path, REWARD)
    rewards = None if cells is None else _numbers(file.path, cells)
    return from_smiles(name, texts, rewards, workers)


def _texts(file: SmilesFile) -> list[str | None]:
    """The strings of a file of samples; None for those that the sampler had to cut off.

    The sample stage marks them `truncated`: such a string is invalid, even where it can be read.
    """
    texts = [line.smiles for line in read_table(file.path, file.column)]
    cut_off = _cut_off(file)
    if cut_off is None:
        return texts
    return [None if cut else text for text, cut in zip(texts, cut_off, strict=True)]


def _cut_off(file: SmilesFile) -> Sequence[bool | None] | None:
    if file.path.suffix == ".parquet":
        return _parquet_column(file.path, TRUNCATED)
    cells = None if isinstance(file.column, int) else _cells(file.path, TRUNCATED)
    return None if cells is None else [(cell.smiles or "").lower() == "true" for cell in cells]


def _parquet_rewards(path: Path) -> list[float] | None:
    rewards: Sequence[float | None] | None = _parquet_column(path, REWARD)
    if rewards is None:
        return None
    kind = pq.read_schema(path).field(REWARD).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(
            f"{path}: the column {REWARD!r} holds {kind}; expected numbers. Convert it, or "
            "rename it to use the file without rewards."
        )
    return [math.nan if reward is None else float(reward) for reward in rewards]


def _parquet_column(path: Path, name: str) -> list[Any] | None:
    """A column of a Parquet file; None where there is no such column."""
    if name not in pq.read_schema(path).names:
        return None
    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values


def _cells(path: Path, name: str) -> list[Line] | None:
    """A column of a text file that was read before; None where it has no such column."""
    try:
        return list(read_table(path, name))
    except InputError:  # its SMILES could be read to the end: only the column can be what is wrong
        return None


def _numbers(path: Path, cells: Sequence[Line]) -> list[float]:
    """The cells as numbers; an empty one is a reward that is missing.

    Raises:
        InputError: naming the lines that hold something else.
    """
    numbers, wrong = [], []
    for cell in cells:
        try:
            numbers.append(float(cell.smiles) if cell.smiles else math.nan)
        except ValueError:
            wrong.append(f"line {cell.number} holds {cell.smiles!r}")
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"{path}: the column {REWARD!r} must hold numbers, written as 0.5, or empty cells; "
            f"{', '.join(wrong[:NAMED])}{more}. Correct them, or rename the column to use the file "
            "without rewards."
        )
    return numbers
