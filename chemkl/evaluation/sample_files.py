"""Samples out of files: SMILES as a sampler wrote them, with rewards where they were scored."""

import math
from collections.abc import Sequence
from typing import Any

from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.config.evaluate import SampledFile
from chemkl.config.paths import label_of
from chemkl.evaluation.samples import Samples, from_smiles
from chemkl.files.molecules import Line, MoleculeFile
from chemkl.files.tables import find_column

TRUNCATED, VALID, REPLAY = "truncated", "valid", "is_replay"
REWARDS = ("reward", "score", "total_score")
"""What columns with rewards are called, in any case; the first one that a file has is taken."""
NAMED = 5
"""So many of the cells that are no rewards are named in a message."""


def read_samples(name: str, file: SampledFile, workers: int | None = None) -> Samples:
    """Take the samples of a file, with rewards where it has a column of them.

    The rows count as sampled in their order, so that the first row of each valid molecule is one
    call, and its reward that of the molecule. A reward that is missing makes no hit.

    Raises:
        InputError: the column of rewards is not there, or holds something other than rewards.
    """
    known = MoleculeFile(file.path, file.column).columns
    reward = _reward_column(file, known)
    columns = [each for each in (TRUNCATED, VALID, REPLAY, reward) if each in known]
    lines = list(MoleculeFile(file.path, file.column, [each for each in columns if each]))
    lines = [line for line in lines if not _is(line, REPLAY, "true")]  # nobody sampled those
    rewards = None if reward is None else _rewards(file, reward, lines)
    return from_smiles(name, [_text(line) for line in lines], rewards, workers)


def _reward_column(file: SampledFile, known: Sequence[str]) -> str | None:
    """The column with the rewards; None: there is none, or none is wanted."""
    if file.reward_column is False:
        return None
    place = label_of(file.path)
    if file.reward_column is not None:
        return find_column(known, file.reward_column, place)
    words = {name.strip().casefold(): name for name in reversed(known)}
    found = next((words[each] for each in REWARDS if each in words), None)
    if found is not None:
        say_once(
            f"{place}: takes column {found!r} for the rewards, and the order of the rows for that "
            "of the calls (reward_column: another name, or false for no rewards)"
        )
    return found


def _text(line: Line) -> str | None:
    """The string of a sample; None where the file says that it is none.

    A sampler marks what it had to cut off `truncated`, and a scorer what it refused not `valid`:
    such a string is invalid, even where it can be read.
    """
    invalid = _is(line, TRUNCATED, "true") or _is(line, VALID, "false")
    return None if invalid else line.smiles


def _is(line: Line, column: str, word: str) -> bool:
    return str(line.values.get(column)).strip().lower() == word


def _rewards(file: SampledFile, column: str, lines: Sequence[Line]) -> list[float]:
    """The cells of a column as rewards; an empty one is a reward that is missing.

    Raises:
        InputError: naming the lines that hold something else.
    """
    numbers = [_number(line.values.get(column)) for line in lines]
    wrong = [
        f"line {line.number} holds {line.values.get(column)!r}"
        for line, number in zip(lines, numbers, strict=True)
        if number is None or not (math.isnan(number) or 0 <= number <= 1)
    ]
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"{label_of(file.path)}: the column {column!r} must hold rewards, numbers from 0 to 1 "
            f"written as 0.5, or empty cells; {', '.join(wrong[:NAMED])}{more}. Correct them, name "
            "another column as reward_column, or set it to false to use the file without rewards."
        )
    return [math.nan if number is None else number for number in numbers]


def _number(cell: Any) -> float | None:
    """A cell as a number, NaN where it is empty; None where it is something else."""
    if cell is None or cell == "":
        return math.nan
    try:
        return None if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return None
