"""Files of rows: delimited text, JSON lines, SD files and Parquet, read row by row."""

import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean
from chemkl.config.base import say_once
from chemkl.config.paths import label_of, local
from chemkl.files.streams import (
    LONGEST_LINE,
    PACKINGS,
    Source,
    lines,
    opened,
    text_of_head,
)
from chemkl.results.seal import check_seal

BLANKS, LINES = " ", "lines"
"""Stand for any run of blanks and tabs as the delimiter, and for none: a line is one cell."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": "jsonl", ".parquet": "parquet"}
"""How the rows of a file are told apart, by its ending; all but Parquet may be compressed."""

SAMPLE = 50
"""So many lines are looked at to find the delimiter and the header."""

MOST_QUOTED_LINES = 1000
"""A quoted cell may run over so many lines; one that is open for longer costs its own line."""

TOO_LONG = f"too long: the line has more than {LONGEST_LINE:,} characters"


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: its line, from 1; in Parquet and SD files the number of the row or record.
        cells: its cells in order; in files that name them by name.
        reason: why nothing can be read from it; None where something can.
    """

    number: int
    cells: Any
    reason: str | None = None


@dataclass(frozen=True)
class Table:
    """An open file of rows.

    Attributes:
        place: its name in messages.
        form: its delimiter, or sdf, jsonl, parquet.
        sample: its first rows; of delimited text also the header; empty for Parquet.
        bare: whether files of its kind mostly have no header.
        types: of a Parquet file, the types of its columns.
        read: gives all rows, of a Parquet file with the columns that are named.
    """

    place: str
    form: str
    sample: Sequence[Row]
    read: Callable[[Sequence[str]], Iterator[Row]]
    bare: bool = False
    types: pa.Schema | None = None

    @property
    def is_delimited(self) -> bool:
        """Whether rows are lists of cells, perhaps behind a header, instead of named ones."""
        return self.form in DELIMITERS or self.form in (BLANKS, LINES)


@dataclass(frozen=True)
class Rules:
    """What a file holds, and how it is told.

    Attributes:
        endings: how rows are told apart, by the ending of the file; .txt also stands for text of
            which the name says nothing.
        judge: says of rows of cells how well they can be used, from 0; the delimiter that gives the
            best is taken.
        comment: given a line above the rows that begins with #, gives what it is as a row; None for
            a comment.
        tidy: whether blanks around cells are no part of them.
    """

    endings: Mapping[str, str]
    judge: Callable[[Sequence[Sequence[str]]], float]
    comment: Callable[[str], str | None]
    tidy: bool


@contextmanager
def open_table(path: Path, rules: Rules) -> Iterator[Table]:
    """Open a file of rows by its name and content.

    Args:
        path: the file; - is standard input.
        rules: what it holds.

    Raises:
        InputError: it cannot be read; also raised while it is read.
    """
    real = local(path)
    if _is_parquet(path, real):
        with _parquet(real, label_of(path)) as table:
            yield table
        return
    with opened(path) as source:
        yield text_table(source, rules)


def text_table(source: Source, rules: Rules) -> Table:
    """Make a table of an open text or SD file, see `open_table`."""
    form = _form(source, rules)
    if form == "sdf":
        table = _table(source.place, form, _records(lines(source)))
    elif form == "jsonl":
        table = _table(source.place, form, _objects(lines(source)))
    else:
        table = _delimited(source, form, rules)
    if form == rules.endings.get(source.ending):
        return table
    cells = [list(row.cells) for row in table.sample if row.cells]
    if source.ending and form != "sdf" and not (cells and rules.judge(cells)):
        raise InputError(
            f"{source.place}: neither its name nor its content tells the format. Allowed "
            f"endings: {', '.join(rules.endings)}, all but .parquet also with "
            f"{', '.join(PACKINGS)}"
        )
    what = {"sdf": "an SD file", "jsonl": "JSON lines"}.get(form, "lines of text")
    say_once(f"{source.place}: taken for {what}, by its content")
    return table


def _delimited(source: Source, form: str, rules: Rules) -> Table:
    below, given = _below_comments(lines(source), source.place, rules.comment)
    head = list(islice(below, SAMPLE))
    delimiter = given or form
    if given is None and not (form == LINES and source.ending in rules.endings):
        delimiter = _delimiter([text or "" for _, text in head], form, rules)
    usual = ("\t", BLANKS) if form == BLANKS else (form,)
    if given is None and delimiter not in usual:
        say_once(
            f"{source.place}: its columns are taken to be separated by {DELIMITERS[delimiter]}"
        )
    rows = _rows(source.place, chain(head, below), delimiter, tidy=rules.tidy)
    return _table(source.place, delimiter, rows, bare=form in (BLANKS, LINES))


def _table(place: str, form: str, rows: Iterator[Row], *, bare: bool = False) -> Table:
    sample = list(islice(rows, SAMPLE))
    return Table(place, form, sample, lambda _: chain(sample, rows), bare)


def _is_parquet(path: Path, real: Path) -> bool:
    try:
        with real.open("rb") as stream:
            magic = stream.read(4) == b"PAR1"
    except OSError as error:
        raise InputError(f"{label_of(path)}: cannot be read ({error.strerror or error})") from None
    named = path.suffix.lower() == ".parquet"
    if magic and not named:
        say_once(f"{label_of(path)}: a Parquet file by its content; read as one")
    return magic or named


def _form(source: Source, rules: Rules) -> str:
    """The format by the name, or by the content, where the name does not say it, or not rightly.

    Raises:
        InputError: the name says SD file, and the content does not.
    """
    text, named = text_of_head(source), rules.endings.get(source.ending)
    marks = ("M  END", "$$$$", "V2000", "V3000")
    may_be_sdf = any(each in text for each in marks)
    if named == "sdf" and text.strip() and not may_be_sdf:
        raise InputError(
            f"{source.place}: no SD file, for its first lines have none of {', '.join(marks)}; "
            "correct its ending"
        )
    fourth = "".join(text.splitlines()[3:4]).rstrip()
    if "sdf" in rules.endings.values() and (
        fourth.endswith(("V2000", "V3000")) or (named is None and may_be_sdf)
    ):
        return "sdf"
    return named or ("jsonl" if text.startswith("{") else rules.endings[".txt"])


# ---- delimited text


def _below_comments(
    numbered: Iterator[tuple[int, str | None]], place: str, comment: Callable[[str], str | None]
) -> tuple[Iterator[tuple[int, str | None]], str | None]:
    """Pass over what stands above the rows: Excel's `sep=;`, and comments.

    Returns:
        The lines from the first row on, and the delimiter where it is said.
    """
    delimiter, passed = None, 0
    for number, text in numbered:
        plain = (text or "").strip().strip('"').lower()
        if number == 1 and plain.startswith("sep=") and len(plain) < 6:
            delimiter = plain[4:] or "\t"  # which was stripped
            continue
        kept = text if text is None or not text.startswith("#") else comment(text)
        if text is not None and kept is None:
            passed += 1
            continue
        if passed:
            say_once(f"{place}: the first lines begin with # and are taken as comments ({passed})")
        return chain([(number, kept)], numbered), delimiter
    return iter(()), delimiter


def _delimiter(sample: Sequence[str], own: str, rules: Rules) -> str:
    """Choose the delimiter under which most lines have as many cells as the first one.

    Args:
        sample: the first lines.
        own: the one that the file's name stands for, which is taken where others are no better.
        rules: their judge chooses between several.
    """
    texts = [text for text in sample if text.strip()]
    found = {own: (0.0, 0, 0.0)}
    for each in dict.fromkeys((own, *DELIMITERS)) if texts else ():
        rows = [split(text, each) for text in texts]
        same = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        share = same if len(rows[0]) > 1 else 0.0
        if each == own or share == 1 or (share and own != BLANKS):
            use = rules.judge(rows)
            rank = 2 if own == BLANKS and each == "\t" else each == own and (use or share) > 0
            found[each] = (use, int(rank or own == each == LINES), share)
    return max(found, key=lambda each: found[each])


def split(text: str, delimiter: str, *, tidy: bool = True) -> list[str]:
    """Divide one line into cells; an empty line has none.

    Args:
        text: the line.
        delimiter: between cells.
        tidy: leave blanks around cells away.
    """
    if not text.strip():
        return []
    if delimiter in (BLANKS, LINES):
        return text.split() if delimiter == BLANKS else [text]
    cells = text.split(delimiter)
    if '"' in text:
        try:
            cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=tidy), [])
        except csv.Error:  # a quoted cell beyond the module's limit
            cells = [text]
    return [cell.strip() for cell in cells] if tidy else cells


def _rows(
    place: str, numbered: Iterator[tuple[int, str | None]], delimiter: str, *, tidy: bool
) -> Iterator[Row]:
    ahead: deque[tuple[int, str | None]] = deque()
    width, told = 0, delimiter not in DELIMITERS
    csv.field_size_limit(LONGEST_LINE)  # of this process; texts are longer than its own limit
    reader = partial(csv.reader, delimiter=delimiter, skipinitialspace=tidy, strict=True)
    while line := (ahead.popleft() if ahead else next(numbered, None)):
        number, text = line
        if text is None:
            yield Row(number, [], TOO_LONG)
            continue
        cells = None
        if delimiter in DELIMITERS and text.count('"') % 2:
            cells = _over_lines(text, reader, ahead, numbered, width)
            cells = [cell.strip() for cell in cells] if cells and tidy else cells
        if cells is None:
            cells = split(text, delimiter, tidy=tidy)
        width = width or len(cells)
        if not told and any(cells[width:]):
            told = True
            say_once(
                f"{place}:{number}: more cells than the first line has, so they may stand in wrong "
                f"columns; put quotes around cells that hold {DELIMITERS[delimiter]}"
            )
        yield Row(number, cells)


def _over_lines(
    text: str,
    reader: Callable[[Iterator[str]], Iterator[list[str]]],
    ahead: deque[tuple[int, str | None]],
    numbered: Iterator[tuple[int, str | None]],
    width: int,
) -> list[str] | None:
    """Read a row whose quoted cell goes on in the next lines.

    Args:
        text: its first line.
        reader: reads rows from lines.
        ahead: lines that were read in advance, which this fills, and from which it takes.
        numbered: the lines behind these.
        width: cells of the first row; 0 for that row itself.

    Returns:
        The cells; None where the quote is never closed, or would not close a row of this width:
        then no line is taken.
    """
    taken = 0

    def further() -> Iterator[str]:
        nonlocal taken
        size = len(text)
        yield text
        while taken < MOST_QUOTED_LINES:
            if taken == len(ahead):
                ahead.extend(islice(numbered, 1))
            if taken == len(ahead) or ahead[taken][1] is None:
                return
            size += len(ahead[taken][1] or "")
            if size > LONGEST_LINE:
                return
            taken += 1
            yield "\n" + (ahead[taken - 1][1] or "")

    try:
        cells = next(reader(further()))
    except csv.Error:  # something behind a closing quote, or the end within a quoted cell
        return None
    if not taken or (width and len(cells) != width):
        return None
    for _ in range(taken):
        ahead.popleft()
    return cells


# ---- named cells


def _objects(numbered: Iterable[tuple[int, str | None]]) -> Iterator[Row]:
    """Read JSON lines; blank ones are passed over."""
    for number, text in numbered:
        if text is None:
            yield Row(number, {}, TOO_LONG)
        elif text.strip():
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"not JSON ({error})")
                continue
            if isinstance(found, dict):
                yield Row(number, found)
            else:
                what = f"expected an object such as {{...}}, got a {type(found).__name__}"
                yield Row(number, {}, what)


def _records(numbered: Iterable[tuple[int, str | None]]) -> Iterator[Row]:
    """Divide an SD file into the texts of its records; a blank end of the file is none."""
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


@contextmanager
def _parquet(path: Path, place: str) -> Iterator[Table]:
    check_seal(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not schema.names:
                raise InputError(f"{place}: a Parquet file without columns")
            refuse_same_names(schema.names, place)
            yield Table(place, "parquet", [], lambda names: _batch_rows(file, names), types=schema)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{place}: not a readable Parquet file ({error})") from None


def _batch_rows(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(batch_size=4096, columns=list(names)):
        for cells in zip(*map(cells_of, batch.columns), strict=True):
            number += 1
            yield Row(number, dict(zip(batch.schema.names, cells, strict=True)))


def cells_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The cells of a column; text need not be good UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if is_text(kind):
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "replace") for cell in raw]
    cells: list[Any] = column.to_pylist()
    return cells


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, or bytes that may be text."""
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{each}")(kind) for each in tests)


def refuse_same_names(names: Sequence[str], place: str) -> None:
    """Refuse columns that their names do not tell apart.

    Raises:
        InputError: there are some.
    """
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"{place}: several columns are called {twice[0]!r}; rename all but one")


def find_column(names: Sequence[str], wanted: str, place: str) -> str:
    """Find a column by its name: as it stands, else without regard to case and blanks around it.

    Raises:
        InputError: there is none, or there are several.
    """
    if wanted in names:
        return wanted
    near = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    if len(near) == 1:
        return near[0]
    raise InputError(f"{place}: no column {wanted!r}{did_you_mean(wanted, names)}")
