"""The files of a trace: which steps each covers, and whether they form one whole."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.results.atomic import sync
from chemkl.results.seal import is_whole, seal

FOLDER = "trace"
ASIDE = ".tmp"
READY = "ready"
T = TypeVar("T")
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")


@dataclass(frozen=True, order=True)
class Part:
    """One file of a trace and the steps that it covers, both ends included."""

    first: int
    last: int
    path: Path


def list_parts(run_dir: Path) -> list[Part]:
    """The parts of a trace in the order of their steps.

    A swap that a kill left between its two renames is read where it stands, ready and aside.
    """
    folder = run_dir / FOLDER
    if not folder.is_dir():
        folder = run_dir / ASIDE / READY
    return sorted(_parts_in(folder))


def _parts_in(folder: Path) -> Iterator[Part]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _PART.fullmatch(path.name)
        if match:
            yield Part(int(match[1]), int(match[2]), path)


def finish_swap(run_dir: Path) -> None:
    """Complete a swap that a kill left between its two renames."""
    ready = run_dir / ASIDE / READY
    if not ready.is_dir():
        return
    if (run_dir / FOLDER).exists():
        shutil.rmtree(ready)  # killed before the first rename: the trace stands as it was
    else:
        os.replace(ready, run_dir / FOLDER)


def part_name(first: int, last: int) -> str:
    """The file name of a part; padded, so that readers sort the parts by step."""
    return f"part-{first:08d}-{last:08d}.parquet"


def write_part(table: pa.Table, path: Path) -> None:
    """Write one file: floats by byte planes (smaller under zstd), the rest by dictionary.

    It has a checksum of its own beside those of its pages, which leave the footer out.
    """
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.schema.names if name not in floats]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=others,
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )
    seal(path, path.suffix)
    sync(path)


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one file, or some of its columns.

    Raises:
        InputError: it is empty, cut short, damaged or not Parquet.
    """
    with _readable(path):
        if not is_whole(path):
            raise OSError("its checksum does not fit")
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=columns)


def read_part_schema(path: Path) -> pa.Schema:
    """Read the columns of one file, and none of its rows.

    Raises:
        InputError: it is empty, cut short or not Parquet.
    """
    with _readable(path):
        return pq.read_schema(path)


def steps_within(path: Path) -> tuple[int, int] | None:
    """The first and the last step in one file, by its footer; None where that does not tell.

    Raises:
        InputError: it is empty, cut short or not Parquet.
    """
    with _readable(path):
        footer = pq.read_metadata(path)
    number = footer.schema.to_arrow_schema().get_field_index("step")
    groups = [footer.row_group(i).column(number).statistics for i in range(footer.num_row_groups)]
    if not groups or any(found is None or not found.has_min_max for found in groups):
        return None
    return min(found.min for found in groups), max(found.max for found in groups)


def read_settled(run_dir: Path, read: Callable[[], T]) -> T:
    """Read a trace, and once more if that failed while the run replaced its parts.

    A run that is still writing merges its parts at the end: those listed before are then gone.

    Raises:
        InputError: reading failed, and the parts are the same as before, or it failed again.
    """
    before: list[Part] | None = None
    try:
        before = list_parts(run_dir)
        return read()
    except (InputError, FileNotFoundError):
        if list_parts(run_dir) == before:
            raise
    return read()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read what is wrong and what to do."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise InputError(
            f"{path}: not a readable Parquet file ({size} bytes; {str(error).splitlines()[0]}). "
            "It was cut short or damaged: restore it from a copy, or run again with --fresh."
        ) from error


def check_strays(run_dir: Path) -> None:
    """Refuse Parquet files in the folder of a trace that are none of its parts.

    Other files do no harm; these would be read by whoever reads the folder as a whole.

    Raises:
        InputError: with their names.
    """
    folder = run_dir / FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    strays = [p.name for p in found if p.suffix == ".parquet" and not _PART.fullmatch(p.name)]
    if strays:
        raise InputError(
            f"{folder}: {', '.join(sorted(strays))}: not a part of a trace (those are called "
            "part-FIRST-LAST.parquet, by their steps), but whoever reads the folder as a whole "
            "would count its rows. Move it to another folder."
        )
