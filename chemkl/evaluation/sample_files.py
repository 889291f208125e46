"""Samples out of files: SMILES as a sampler wrote them, with rewards where they were scored."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.evaluate import SmilesFile
from chemkl.corpus.reading import read_table
from chemkl.evaluation.samples import Samples, from_smiles

TRUNCATED = "truncated"
REWARD = "reward"


def read_samples(name: str, file: SmilesFile) -> Samples:
    """Take the samples of a file as they are, without a reward."""
    return from_smiles(name, _texts(file))


def read_scored_samples(name: str, file: SmilesFile) -> Samples:
    """The same with the rewards of a Parquet file that has a column `reward`.

    The score and forecast stages write one. A reward that is missing makes no hit.

    Raises:
        InputError: that column holds something other than numbers.
    """
    texts = _texts(file)
    rewards = _column(file.path, REWARD)
    if rewards is None:
        return from_smiles(name, texts)
    kind = pq.read_schema(file.path).field(REWARD).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(
            f"{file.path}: the column {REWARD!r} holds {kind}; expected numbers. Convert it, or "
            "rename it to use the file without rewards."
        )
    return from_smiles(name, texts, [math.nan if r is None else float(r) for r in rewards])


def _texts(file: SmilesFile) -> list[str | None]:
    """The strings of a file of samples; None for those that the sampler had to cut off.

    The sample stage marks them `truncated`: such a string is invalid, even where it can be read.
    """
    texts = [line.smiles for line in read_table(file.path, file.column)]
    cut_off = _column(file.path, TRUNCATED)
    if cut_off is None:
        return texts
    return [None if cut else text for text, cut in zip(texts, cut_off, strict=True)]


def _column(path: Path, name: str) -> list[float | None] | None:
    """A column of a Parquet file; None where there is no such column, or no Parquet."""
    if path.suffix != ".parquet" or name not in pq.read_schema(path).names:
        return None
    values: list[float | None] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values
