"""Files that appear whole or not at all: written aside, flushed to the disk, renamed in."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.errors import utf8


def refuse_other_names(path: Path) -> None:
    """Refuse output whose name is not UTF-8: Parquet and model files cannot be written there.

    Raises:
        InputError: it is not.
    """
    if utf8(path) != str(path):
        raise InputError(
            f"{path}: cannot write there, as the name is not UTF-8; choose another with --out"
        )


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename_in(aside: Path, final: Path) -> None:
    """Move a finished file to its place in one step, replacing what was there."""
    sync(aside)
    os.replace(aside, final)
    sync(final.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        rename_in(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as one zstd Parquet file, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON atomically; NaN and infinities become null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """Copy a nested value into plain JSON types, with null for numbers that JSON cannot hold.

    Raises:
        TypeError: a value is of a type with no JSON form.
    """
    if isinstance(value, Mapping):
        return {utf8(str(key)): finite(item) for key, item in value.items()}
    if isinstance(value, str | Path):
        return utf8(value)
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [finite(item) for item in items]
    if hasattr(value, "item"):  # a numpy scalar
        return finite(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"no JSON form for {value!r} of type {type(value).__name__}")
