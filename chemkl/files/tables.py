"""Read files of rows: decompress and decode them in constant memory, and split them into rows.

Formats are delimited text, JSON lines, SD files and Parquet.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean
from chemkl.config.base import say_once
from chemkl.config.paths import STDIN, label_of, local
from chemkl.results.seal import check_seal
from chemkl.results.trace import parquet_errors

# ---- bytes and lines

PACKINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Compression by file ending."""

LONGEST_LINE = 2**20
"""Maximum characters of a line, or of a quoted cell over several lines; a longer line is one bad
row, whose text is dropped."""

LONGEST_SKIPPED = 2**26
"""A file with a line longer than this is refused: it is not a file of lines."""

HEAD = 4096
"""Number of first bytes that identify a file."""

PARQUET = b"PAR1"
_UNPACKERS: dict[str, tuple[bytes, Callable[[Any], Any]]] = {
    "gzip": (rb"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    "bzip2": (rb"BZh[1-9]", bz2.BZ2File),
    "xz": (rb"\xfd7zXZ\x00", lzma.LZMAFile),
    # the standard library has no zstd before Python 3.14
    "zstd": (rb"\x28\xb5\x2f\xfd", lambda raw: pa.CompressedInputStream(raw, "zstd")),
}
"""The first bytes of compressed files, and what decompresses them."""
_FOREIGN = {
    "a zip archive or an Excel workbook: unpack it, or save the sheet as .csv": rb"PK\x03\x04",
    "an archive: unpack it and give one of its files": rb"7z\xbc\xaf|Rar!|.{257}ustar",
    "compressed twice: unpack it once": rb"\x1f\x8b|BZh\d1AY|\xfd7zXZ|\x28\xb5\x2f\xfd",
    "an old Excel or Word file: save the sheet as .csv": rb"\xd0\xcf\x11\xe0",
    "a PDF: copy the molecules into a text file": rb"%PDF",
    "a table of another program (HDF5, Feather, pickle): write it as .parquet or .csv": (
        rb"\x89HDF|ARROW1|\x80[\x02-\x05]"
    ),
    "a web page, perhaps an error page of the server: download the file again": (
        rb"(?i:\s*<(!doctype html|html|head)\b)"
    ),
    "a Git LFS pointer instead of the file: run git lfs pull": rb"version https://git-lfs",
}
"""Files that cannot be read, with advice, by their first bytes."""
_ESCAPED = re.compile("[\udc80-\udcff]+")
"""Bytes that are not UTF-8, as decoded by surrogateescape."""
_CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1a\x1b"})
_MARKS = {  # UTF-32 first: its byte order mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def without_packing(path: Path) -> Path:
    """Return a path without the ending of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in PACKINGS else path


@dataclass(frozen=True)
class Source:
    """An open, decompressed file."""

    place: str  # its name in messages
    ending: str  # in lower case, without that of the compression; empty if it has none
    stream: BinaryIO
    head: bytes  # the first bytes of its content

    @property
    def encoding(self) -> str:
        """The encoding by the byte order mark, or UTF-8 without one.

        Raises:
            InputError: the content is not text.
        """
        for mark, name in _MARKS.items():
            if self.head.startswith(mark):
                return name
        zeros = [self.head[at::2].count(0) * 2 for at in (0, 1)]
        size = len(self.head)
        if size > 3 and max(zeros) > size * 0.6 and min(zeros) < size * 0.3:
            order = "BE" if zeros[0] > zeros[1] else "LE"
            problem = (
                "this looks like UTF-16 without a byte order mark. Save it as UTF-8, for example "
                f"with iconv -f UTF-16{order} -t UTF-8"
            )
        elif size - len(self.head.translate(None, _CONTROLS)) > max(16, size / 20):
            problem = "this is not text: it has bytes that text does not contain"
        else:
            return "utf-8-sig"
        raise InputError(f"{self.place}: {problem}")


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file, or standard input for `-`."""
    place, real = label_of(path), local(path)
    try:
        with (
            real.open("rb") as raw,
            decompressed(raw, place, "" if path == STDIN else path.name) as source,
        ):
            yield source
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error})") from None


@contextmanager
def decompressed(raw: IO[bytes], place: str, name: str) -> Iterator[Source]:
    """Decompress an open file by its content and name; refuse one that is damaged or foreign."""
    suffixes = ["", *(suffix.lower() for suffix in Path(name).suffixes)]
    named = PACKINGS.get(suffixes[-1])
    stream = io.BufferedReader(cast(Any, raw), 2 * HEAD)
    head = stream.peek(HEAD)[:HEAD]
    packing = next((key for key, (magic, _) in _UNPACKERS.items() if re.match(magic, head)), None)
    if named and head and packing != named:
        content = f"is {packing}" if packing else f"is not {named}"
        raise InputError(
            f"{place}: damaged {named} file (its content {content}). Copy it again, or correct its "
            "ending."
        )
    if packing and not named:
        say_once(f"{place}: decompressed with {packing}, although its name does not say so")
    try:
        if packing:
            stream = io.BufferedReader(_UNPACKERS[packing][1](stream), 2 * HEAD)
            head = stream.peek(HEAD)[:HEAD]
        what = next((key for key in _FOREIGN if re.match(_FOREIGN[key], head, re.DOTALL)), None)
        if packing and head.startswith(PARQUET):
            what = "a Parquet file: give it without the compression"
        if what is not None:
            raise InputError(f"{place}: this is {what}")
        yield Source(place, suffixes[-2 if named else -1], cast(BinaryIO, stream), head)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if packing is None:
            raise
        raise InputError(f"{place}: damaged {packing} file ({error}). Copy it again.") from None


def lines(source: Source) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a text file with their numbers from 1, without line ends.

    A line ends in LF, CRLF or CR. Bytes that are not UTF-8 are read as Windows-1252, which Excel
    uses for umlauts. A line longer than `LONGEST_LINE` is None.
    """
    encoding, place = source.encoding, source.place
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    text = io.TextIOWrapper(source.stream, encoding=encoding, errors=errors, newline="")
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) < LONGEST_LINE or line.endswith(("\n", "\r")):
            if not line.isascii() and _ESCAPED.search(line):
                say_once(f"{place}: not entirely UTF-8; the other bytes are read as Windows-1252")
                line = _ESCAPED.sub(
                    lambda m: m[0].encode("ascii", "surrogateescape").decode("cp1252", "replace"),
                    line,
                )
            yield number, line.rstrip("\r\n")
            continue
        for _ in range(LONGEST_SKIPPED // LONGEST_LINE):
            rest = text.readline(LONGEST_LINE)
            if not rest or rest.endswith(("\n", "\r")):
                break
        else:
            raise InputError(
                f"{place}:{number}: the line has more than {LONGEST_SKIPPED >> 20} million "
                "characters; this is not a file of lines"
            )
        yield number, None


# ---- tables

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
