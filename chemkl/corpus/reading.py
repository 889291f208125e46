"""Files of SMILES, line by line: .smi, .txt, .csv, .tsv (plain or gzip) and Parquet."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean

_DELIMITED = {".csv": ",", ".tsv": "\t"}
_BLANK_SEPARATED = (".smi", ".smiles", ".txt")
ENDINGS = (*_BLANK_SEPARATED, *_DELIMITED, ".parquet")


class Line(NamedTuple):
    """One SMILES as it stands in its file.

    Attributes:
        number: 1-based line of the file (row of a Parquet file).
        smiles: the text, empty for an empty line or cell; None where the line has no such cell.
        split: the split that the source gives it.
    """

    number: int
    smiles: str | None
    split: str


def read_table(path: Path, column: str | int | None) -> Iterator[Line]:
    """Yield the lines of a local file; its ending decides how it is read.

    Raises:
        InputError: unknown ending, no such column, a file without lines, or one that cannot be
            read to its end.
    """
    endings = [e.lower() for e in path.suffixes if e.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; expected a file of SMILES")
    if ending not in ENDINGS:
        raise InputError(
            f"{path}: cannot tell the format from the name. Allowed endings: "
            f"{', '.join(ENDINGS)}, the text ones also with .gz"
        )
    lines = _read_parquet(path, column) if ending == ".parquet" else _read_text(path, column)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty; expected a line for each molecule")
    yield from chain([first], lines)


def read_lines(stream: BinaryIO, name: str, column: str | int | None, split: str) -> Iterator[Line]:
    """Yield the lines of an open text file, gzip-compressed if its name ends in .gz.

    Bytes that are not UTF-8 are kept as replacement characters, so that they cost only their line.

    Raises:
        InputError: no such column, or a damaged compressed file.
    """
    plain = Path(name)
    raw = stream
    if plain.suffix.lower() == ".gz":
        plain = plain.with_suffix("")
        raw = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment] # it reads like a BinaryIO
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
    try:
        delimiter = _DELIMITED.get(plain.suffix.lower())
        if delimiter is None:
            yield from _read_blank_separated(text, column, split, name)
        else:
            yield from _read_delimited(text, delimiter, column, split, name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: damaged gzip file ({error}). Copy it again.") from None


def _read_text(path: Path, column: str | int | None) -> Iterator[Line]:
    try:
        with path.open("rb") as stream:
            yield from read_lines(stream, str(path), column, "train")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_blank_separated(
    text: TextIO, column: str | int | None, split: str, name: str
) -> Iterator[Line]:
    if isinstance(column, str):
        raise InputError(
            f"{name}: column {column!r}: this format has no header; give a column number from 0"
        )
    for number, line in enumerate(text, start=1):
        yield Line(number, _cell(line.split(), column or 0), split)


def _read_delimited(
    text: TextIO, delimiter: str, column: str | int | None, split: str, name: str
) -> Iterator[Line]:
    """Read a table line by line: a quote that is left open costs its own line and no other.

    The price is that a quoted cell cannot run over several lines.
    """
    numbered = enumerate(text, start=1)
    if isinstance(column, int):
        index = column
    else:
        _, header = next(numbered, (0, ""))
        if header.strip():
            index = _column_index(_cells(header, delimiter), column, name)
        else:
            raise InputError(f"{name}: the first line is empty; expected the columns' names")
    for number, line in numbered:
        yield Line(number, _cell(_cells(line, delimiter), index), split)


def _cells(line: str, delimiter: str) -> list[str]:
    line = line.rstrip("\r\n")
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:  # a quoted cell beyond the reader's limit
            return [line]
    return line.split(delimiter) if line.strip() else []


def _cell(cells: Sequence[str], index: int) -> str | None:
    """Give a cell without blanks around it; "" on an empty line, None where there is none."""
    if not cells:
        return ""
    return cells[index].strip() if index < len(cells) else None


def _read_parquet(path: Path, column: str | int | None) -> Iterator[Line]:
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if isinstance(column, int):
            if column >= len(names):
                raise InputError(
                    f"{path}: no column {column}: there are {len(names)}, counted from 0. "
                    f"Known: {', '.join(names)}"
                )
            chosen = names[column]
        else:
            chosen = names[_column_index(names, column, str(path))]
        number = 0
        for batch in file.iter_batches(columns=[chosen]):
            for cell in _values(batch.column(0)):
                number += 1
                yield Line(number, cell, "train")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None


def _values(column: pa.Array) -> Iterator[str | None]:
    """Give the cells of a column as text, whatever their type; text need not be good UTF-8."""
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    for cell in column.to_pylist():
        yield _as_text(cell)


def _as_text(cell: Any) -> str | None:
    if cell is None:
        return None
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
    return text.strip()


def _column_index(header: Sequence[str], column: str | None, name: str) -> int:
    """Find the SMILES column of a table with a header."""
    if column is not None:
        if column not in header:
            raise InputError(f"{name}: no column {column!r}{did_you_mean(column, header)}")
        return list(header).index(column)
    by_name = [i for i, cell in enumerate(header) if cell.strip().lower() == "smiles"]
    if by_name:
        return by_name[0]
    if len(header) == 1:
        return 0
    raise InputError(
        f"{name}: no column is called smiles; say which one it is with `column`. "
        f"Known: {', '.join(header)}"
    )
