"""Decompress and decode files, and read their lines in constant memory."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa

from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.config.paths import STDIN, label_of, local

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


_ESCAPED = re.compile("[\udc80-\udcff]+")
"""Bytes that are not UTF-8, as decoded by surrogateescape."""
