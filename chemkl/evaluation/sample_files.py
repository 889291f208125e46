"""Samples out of files: SMILES as a sampler wrote them, with rewards where they were scored."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.evaluate import SmilesFile
from chemkl.evaluation.samples import Samples, from_smiles
from chemkl.files.molecules import Line, MoleculeFile

TRUNCATED = "truncated"
REWARD = "reward"
NAMED = 5
"""So many of the cells that are no numbers are named in a message."""


def read_samples(name: str, file: SmilesFile, workers: int | None = None) -> Samples:
    """Take the samples of a file as they are, without a reward."""
    return from_smiles(name, _texts(_lines(file, TRUNCATED)), workers=workers)


def read_scored_samples(name: str, file: SmilesFile, workers: int | None = None) -> Samples:
    """The same with the rewards of a file that has a column `reward`.

    The score and forecast stages write one. A reward that is missing makes no hit.

    Raises:
        InputError: that column holds something other than numbers.
    """
    lines = _lines(file, TRUNCATED, REWARD)
    rewards = _numbers(file.path, REWARD, lines) if REWARD in lines[0].values else None
    return from_smiles(name, _texts(lines), rewards, workers)


def _lines(file: SmilesFile, *columns: str) -> list[Line]:
    """The lines of a file, with those of some columns that it has."""
    known = MoleculeFile(file.path, file.column).columns
    return list(MoleculeFile(file.path, file.column, [each for each in columns if each in known]))


def _texts(lines: Sequence[Line]) -> list[str | None]:
    """The strings of a file of samples; None for those that the sampler had to cut off.

    The sample stage marks them `truncated`: such a string is invalid, even where it can be read.
    """
    return [
        None if str(line.values.get(TRUNCATED)).lower() == "true" else line.smiles for line in lines
    ]


def _numbers(path: Path, column: str, lines: Sequence[Line]) -> list[float]:
    """The cells of a column as numbers; an empty one is a reward that is missing.

    Raises:
        InputError: naming the lines that hold something else.
    """
    numbers, wrong = [], []
    for line in lines:
        cell = line.values.get(column)
        number = _number(cell)
        if number is None:
            wrong.append(f"line {line.number} holds {cell!r}")
        else:
            numbers.append(number)
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"{path}: the column {column!r} must hold numbers, written as 0.5, or empty cells; "
            f"{', '.join(wrong[:NAMED])}{more}. Correct them, or rename the column to use the file "
            "without rewards."
        )
    return numbers


def _number(cell: Any) -> float | None:
    """A cell as a number, NaN where it is empty; None where it is something else."""
    if cell is None or cell == "":
        return math.nan
    try:
        return None if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return None
