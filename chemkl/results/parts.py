"""The files of a trace: which steps each covers, and whether they form one whole."""

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.results.atomic import sync

FOLDER = "trace"
ASIDE = ".tmp"
READY = "ready"
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
    """Write one file: floats by byte planes (smaller under zstd), the rest by dictionary."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.schema.names if name not in floats]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=others,
        use_byte_stream_split=floats,
    )
    sync(path)


def read_part(path: Path) -> pa.Table:
    """Read one file.

    Raises:
        InputError: it is empty, cut short or not Parquet.
    """
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise InputError(
            f"{path}: not a readable Parquet file ({size} bytes; {str(error).splitlines()[0]}). "
            "It was cut short or damaged: restore it from a copy, or run again with --fresh."
        ) from error


def config_of(schema: pa.Schema) -> str:
    """The config hash that a part was written under; empty where there is none."""
    return str((schema.metadata or {}).get(b"config_hash", b"").decode())


def check_config(path: Path, expected: str) -> None:
    """Refuse a part of another config.

    Raises:
        InputError: with both hashes.
    """
    try:
        found = config_of(pq.read_schema(path))
    except (pa.ArrowException, OSError):
        read_part(path)  # says what is wrong with the file
        raise
    if found != expected:
        raise InputError(
            f"{path}: written under config {found[:12] or '(none)'}, not {expected[:12]}. "
            "One folder holds one run: choose another with --out, or begin anew with --fresh."
        )


def check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file that is not a part of this trace.

    Raises:
        InputError: with the columns that are missing, unknown or of another type.
    """
    if found.equals(expected, check_metadata=False):
        return
    odd = sorted({*found.names} ^ {*expected.names}) or [
        f.name for f in expected if found.field(f.name).type != f.type
    ]
    raise InputError(
        f"{path}: not a part of this trace (columns missing, unknown or of another type or order: "
        f"{', '.join(odd) or 'order'}). Restore it from a copy, or run again with --fresh."
    )


def check_contiguous(parts: Sequence[Part]) -> None:
    """Refuse parts that overlap or leave steps out; every step of a run has rows.

    Raises:
        InputError: naming the file that is too many, or the steps that are missing.
    """
    if parts and parts[0].first > 1:  # a run counts its steps from 0 or from 1
        raise InputError(
            f"{parts[0].path.parent}: the part with the steps before {parts[0].first} is missing. "
            "Restore it from a copy, or run again with --fresh."
        )
    for before, after in itertools.pairwise(parts):
        if after.first <= before.last:
            raise InputError(
                f"{after.path}: overlaps {before.path.name}; rows would count twice. "
                "Remove the file that does not belong, or run again with --fresh."
            )
        if after.first > before.last + 1:
            raise InputError(
                f"{after.path.parent}: the part with steps {before.last + 1} to {after.first - 1} "
                f"is missing between {before.path.name} and {after.path.name}. "
                "Restore it from a copy, or run again with --fresh."
            )
