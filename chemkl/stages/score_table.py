"""The table that the score stage writes: Parquet or CSV, there as soon as it is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.files.tables import is_text
from chemkl.results.atomic import atomic_file


class Table:
    """A table on the disk that grows row by row."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema

    @classmethod
    @contextmanager
    def open(cls, path: Path, form: str, schema: pa.Schema) -> Iterator[Self]:
        """Write aside, and rename when all went well.

        Raises:
            InputError: nothing can be written there.
            StorageError: the disk is full, or fails otherwise.
        """
        is_parquet = form == "parquet"
        with atomic_file(path, sealed=is_parquet) as aside:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                aside.touch()
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from error
            with (
                pq.ParquetWriter(aside, schema, compression="zstd")
                if is_parquet
                else pa.csv.CSVWriter(
                    aside, schema, write_options=pa.csv.WriteOptions(quoting_style="needed")
                )
            ) as writer:
                yield cls(writer, schema)

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows; NaN becomes null."""
        self._writer.write_table(pa.Table.from_pandas(rows, self._schema, preserve_index=False))


def written_type(kind: pa.DataType, form: str) -> pa.DataType:
    """The type in which a column of the user's is written; CSV has none for lists and the like."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("integer", "floating", "boolean", "date", "timestamp")
    simple = any(getattr(pa.types, f"is_{each}")(kind) for each in tests)
    return kind if simple or (form == "parquet" and not is_text(kind)) else pa.string()


def as_written(cell: Any, kind: pa.DataType) -> Any:
    """A cell in its written type."""
    if cell is None or isinstance(cell, str) or not pa.types.is_string(kind):
        return cell
    return json.dumps(cell, default=str, ensure_ascii=False)
