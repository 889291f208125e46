"""Files of rows: delimited text, JSON lines, SD files and Parquet, read row by row."""

import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean
from chemkl.config.base import say_once
from chemkl.config.paths import label_of, local
from chemkl.files.streams import LONGEST_LINE, PACKINGS, PARQUET, Source, lines, open_source
from chemkl.results.seal import check_seal
from chemkl.results.trace import parquet_errors

BLANKS, LINES = " ", "lines"
"""Special delimiters: any run of blanks and tabs; none, so that a line is one cell."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Format by file ending; all but Parquet may be compressed."""

SAMPLE = 50
"""Number of lines that decide the delimiter and the header."""

MOST_QUOTED_LINES = 1000
"""Maximum lines of a quoted cell; an opening quote without an end costs only its line."""

TOO_LONG = f"too long: the line has more than {LONGEST_LINE:,} characters"
SDF_MARKS = ("M  END", "$$$$", "V2000", "V3000")
TEXT_TYPES = {pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.large_binary(), pa.binary_view()}  # fmt: skip
"""Types of columns of text, or of bytes that may be text."""

Numbered = Iterator[tuple[int, str | None]]
"""Lines with their numbers; None for a line that is too long."""


class Row(NamedTuple):
    """One row of a file."""

    number: int  # its line, from 1; in Parquet and SD files the number of the row or record
    cells: Any  # in order; by name if the format has names; of an SD file the record
    reason: str | None = None  # why the row cannot be read; None if it can


@dataclass(frozen=True)
class Table:
    """An open file of rows."""

    place: str  # its name in messages
    form: str  # its delimiter, or sdf, jsonl, parquet
    sample: Sequence[Row]  # its first rows, including a header; empty for Parquet
    read: Callable[[Sequence[str]], Iterator[Row]]  # yields all rows; of Parquet, these columns
    bare: bool = False  # whether files of this format usually have no header
    types: pa.Schema | None = None  # of a Parquet file

    @property
    def is_delimited(self) -> bool:
        """Whether rows are lists of cells instead of named cells."""
        return self.form in (*DELIMITERS, BLANKS, LINES)


@dataclass(frozen=True)
class Rules:
    """How to recognise the content of a file."""

    endings: Mapping[str, str]  # format by ending; that of .txt is the default
    judge: Callable[[Sequence[Sequence[str]]], float]  # rates how useful cells are, from 0
    comment: Callable[[str], str | None]  # a line that starts with # as a row; None: a comment
    tidy: bool  # whether to strip blanks around cells


@contextmanager
def open_table(path: Path, rules: Rules) -> Iterator[Table]:
    """Open a file of rows, recognised by its name and content.

    Raises:
        InputError: the file cannot be read.
    """
    with open_source(path) as source:
        named = path.suffix.lower() == ".parquet"
        if not named and not source.head.startswith(PARQUET):
            yield text_table(source, rules)
            return
        if not named:
            say_once(f"{source.place}: read as a Parquet file, because of its content")
    file, place = local(path), label_of(path)
    check_seal(file)
    with (
        parquet_errors(file, place, "Copy it, or write it, again."),
        pq.ParquetFile(file) as parquet,
    ):
        check_column_names(parquet.schema_arrow.names, place)

        def read(names: Sequence[str]) -> Iterator[Row]:
            number = 0
            for batch in parquet.iter_batches(batch_size=4096, columns=list(names)):
                for cells in zip(*map(cells_of, batch.columns), strict=True):
                    number += 1
                    yield Row(number, dict(zip(batch.schema.names, cells, strict=True)))

        yield Table(place, "parquet", [], read, types=parquet.schema_arrow)


def text_table(source: Source, rules: Rules) -> Table:
    """Make a table of an open text or SD file, see `open_table`."""
    form = _form(source, rules)
    delimiter = form
    if form in ("sdf", "jsonl"):
        rows = (_records if form == "sdf" else _objects)(lines(source))
    else:
        rows_below, delimiter_line = _skip_comments(lines(source), source.place, rules.comment)
        head = list(islice(rows_below, SAMPLE))
        if delimiter_line is not None:
            delimiter = delimiter_line
        elif form != LINES or source.ending not in rules.endings:
            delimiter = _delimiter([text for _, text in head if text], form, rules)
            if delimiter != form and (form, delimiter) != (BLANKS, "\t"):
                name = DELIMITERS[delimiter]
                say_once(f"{source.place}: read with columns separated by {name}")
        rows = _rows(source.place, chain(head, rows_below), delimiter, tidy=rules.tidy)
    sample = list(islice(rows, SAMPLE))
    bare = form in (BLANKS, LINES)
    table = Table(source.place, delimiter, sample, lambda _: chain(sample, rows), bare)
    if form == rules.endings.get(source.ending):
        return table
    cells = [list(row.cells) for row in sample if row.cells]
    if source.ending and form != "sdf" and not (cells and rules.judge(cells)):
        raise InputError(
            f"{source.place}: neither its name nor its content shows the format. Allowed "
            f"endings: {', '.join(rules.endings)}, all but .parquet also with "
            f"{', '.join(PACKINGS)}"
        )
    what = {"sdf": "an SD file", "jsonl": "JSON lines"}.get(form, "lines of text")
    if sample:
        say_once(f"{source.place}: read as {what}, because of its content")
    return table


def _form(source: Source, rules: Rules) -> str:
    """Return the format by the name, or by the content if the name is missing or wrong."""
    text, named = source.head.decode(source.encoding, "replace"), rules.endings.get(source.ending)
    may_be_sdf = any(mark in text for mark in SDF_MARKS)
    if named == "sdf" and text.strip() and not may_be_sdf:
        raise InputError(
            f"{source.place}: not an SD file: its first lines have none of {', '.join(SDF_MARKS)}; "
            "correct its ending"
        )
    fourth = "".join(text.splitlines()[3:4]).rstrip()
    if "sdf" in rules.endings.values() and (
        fourth.endswith(("V2000", "V3000")) or (named is None and may_be_sdf)
    ):
        return "sdf"
    return named or ("jsonl" if text.startswith("{") else rules.endings[".txt"])


# ---- delimited text


def _skip_comments(
    numbered: Numbered, place: str, comment: Callable[[str], str | None]
) -> tuple[Numbered, str | None]:
    """Skip Excel's `sep=;` and comments above the rows; return the rest and that delimiter."""
    delimiter, n_comments = None, 0
    for number, text in numbered:
        plain = (text or "").strip().strip('"').lower()
        if number == 1 and plain.startswith("sep=") and len(plain) < 6:
            delimiter = plain[4:] or "\t"  # which was stripped
            continue
        row = text if text is None or not text.startswith("#") else comment(text)
        if text is not None and row is None:
            n_comments += 1
            continue
        if n_comments:
            say_once(
                f"{place}: the first lines start with # and are read as comments ({n_comments})"
            )
        return chain([(number, row)], numbered), delimiter
    return iter(()), delimiter


def _delimiter(sample: Sequence[str], usual: str, rules: Rules) -> str:
    """Choose the delimiter that gives most lines as many cells as the first one."""
    texts = [text for text in sample if text.strip()]
    ranks = {usual: (0.0, 0, 0.0)}
    for delimiter in dict.fromkeys((usual, *DELIMITERS)) if texts else ():
        rows = [_split(text, delimiter) for text in texts]
        share = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        share = share if len(rows[0]) > 1 else 0.0
        if delimiter == usual or share >= (0.5 if usual == BLANKS else 1 / len(rows)):
            use = rules.judge(rows)
            rank = int(delimiter == usual and (usual == LINES or bool(use or share)))
            if (usual, delimiter) == (BLANKS, "\t"):
                rank = 2
            ranks[delimiter] = (use, rank, share)
    return max(ranks, key=lambda delimiter: ranks[delimiter])


def _split(text: str, delimiter: str, *, tidy: bool = True) -> list[str]:
    """Split a line into cells; an empty line has none."""
    if not text.strip():
        return []
    if delimiter in (BLANKS, LINES):
        return text.split() if delimiter == BLANKS else [text]
    cells = text.split(delimiter)
    if '"' in text:
        try:
            cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=tidy), [])
        except csv.Error:  # a quoted cell longer than the limit of the module
            cells = [text]
    return [cell.strip() for cell in cells] if tidy else cells


def _rows(place: str, numbered: Numbered, delimiter: str, *, tidy: bool) -> Iterator[Row]:
    ahead: deque[tuple[int, str | None]] = deque()
    width, warned = 0, delimiter not in DELIMITERS
    csv.field_size_limit(LONGEST_LINE)  # the default limit is too short for texts
    while line := (ahead.popleft() if ahead else next(numbered, None)):
        number, text = line
        if text is None:
            yield Row(number, [], TOO_LONG)
            continue
        cells = _split(text, delimiter, tidy=tidy)
        if delimiter in DELIMITERS and text.count('"') % 2:
            quoted = _quoted_row(text, ahead, numbered, delimiter, tidy=tidy)
            if quoted is not None and len(quoted[0]) == (width or len(quoted[0])):
                cells = quoted[0]
                for _ in range(quoted[1]):
                    ahead.popleft()
        width = width or len(cells)
        if not warned and any(cells[width:]):
            warned = True
            say_once(
                f"{place}:{number}: more cells than the first line, so they may be in the wrong "
                f"columns; put quotes around cells with {DELIMITERS[delimiter]}"
            )
        yield Row(number, cells)


def _quoted_row(
    text: str,
    ahead: deque[tuple[int, str | None]],
    numbered: Numbered,
    delimiter: str,
    *,
    tidy: bool,
) -> tuple[list[str], int] | None:
    """Read a row whose quoted cell continues in the next lines, which are read into `ahead`.

    Returns:
        The cells and how many of these lines they take; None if the quote is never closed.
    """

    def block() -> Iterator[str]:
        size = len(text)
        yield text
        for i in range(MOST_QUOTED_LINES):
            if i == len(ahead):
                ahead.extend(islice(numbered, 1))
            line = ahead[i][1] if i < len(ahead) else None
            size += len(line or "")
            if line is None or size > LONGEST_LINE:
                return
            yield f"\n{line}"

    reader = csv.reader(block(), delimiter=delimiter, skipinitialspace=tidy, strict=True)
    try:
        cells = next(reader)
    except csv.Error:  # text after a closing quote, or the end within a quoted cell
        return None
    cells = [cell.strip() for cell in cells] if tidy else cells
    return (cells, reader.line_num - 1) if reader.line_num > 1 else None


# ---- named cells


def _objects(numbered: Numbered) -> Iterator[Row]:
    """Read JSON lines and skip blank ones."""
    for number, text in numbered:
        if text is None:
            yield Row(number, {}, TOO_LONG)
        elif text.strip():
            try:
                cells = json.loads(text)
                reason = f"expected an object such as {{...}}, got a {type(cells).__name__}"
            except (ValueError, RecursionError) as error:
                cells, reason = None, f"not JSON ({error})"
            yield Row(number, cells) if isinstance(cells, dict) else Row(number, {}, reason)


def _records(numbered: Numbered) -> Iterator[Row]:
    """Split an SD file into the texts of its records, without a blank end of the file."""
    record: list[str] = []
    number, size, reason = 1, 0, None
    for _, text in numbered:
        size += len(text or "")
        if text is None or size > LONGEST_LINE:
            reason, text = reason or f"too long: more than {LONGEST_LINE:,} characters", text or ""
            record = []
        if text.startswith("$$$$"):
            yield Row(number, "\n".join([*record, ""]), reason)
            record, number, size, reason = [], number + 1, 0, None
        elif reason is None:
            record.append(text)
    if reason or any(text.strip() for text in record):
        yield Row(number, "\n".join([*record, ""]), reason)


def cells_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the cells of a column; text need not be valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type not in TEXT_TYPES:
        return list(column.to_pylist())
    cells = column.cast(pa.large_binary()).to_pylist()
    return [None if cell is None else cell.decode("utf-8", "replace") for cell in cells]


def check_column_names(names: Sequence[str], place: str) -> None:
    """Refuse a table without columns, or with two columns of the same name."""
    repeated = [name for name, n in Counter(names).items() if n > 1]
    problems = [f"several columns are called {name!r}; rename all but one" for name in repeated]
    if not names:
        problems = ["it has no columns"]
    InputError.refuse(f"{place}: {problem}" for problem in problems)


def find_column(names: Sequence[str], column: str | int, place: str) -> str:
    """Find a column by its number, or by its name: exactly, or else ignoring case."""
    if isinstance(column, int):
        matches = list(names[column : column + 1])
        choice = f": there are {len(names)}, counted from 0. Known: {', '.join(names)}"
    else:
        word = column.strip().casefold()
        near = [name for name in names if name.strip().casefold() == word]
        matches = [column] if column in names else near
        choice = did_you_mean(column, names)
    if len(matches) != 1:
        raise InputError(f"{place}: no column {column!r}{choice}")
    return matches[0]
