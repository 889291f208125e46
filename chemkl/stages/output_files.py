"""Files that commands write where they are told: checked first, and there when they are whole."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv

from chemkl.config import InputError, StorageError
from chemkl.files.tables import TEXT_TYPES, cells_of
from chemkl.results.atomic import atomic_file, refuse_other_names
from chemkl.results.trace import FOLDER, list_parts


def check_outputs(
    outputs: Mapping[str, Path], endings: Mapping[str, Sequence[str]], *, force: bool
) -> None:
    """Refuse what cannot be written, before anything is computed."""
    problems = [
        problem
        for option, path in outputs.items()
        for problem in _problems(path, option, endings[option], force=force)
    ]
    places = [path.resolve() for path in outputs.values()]
    problems += [
        f"{path}: given twice; each output needs a file of its own"
        for path in dict.fromkeys(places)
        if places.count(path) > 1
    ]
    InputError.refuse(problems)


@contextmanager
def written_out(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, and rename it in when all went well; .gz is compressed."""
    refuse_other_names(path)
    try:
        with atomic_file(path, parents=True, shared=True) as aside, aside.open("wb") as raw:
            if path.suffix.lower() != ".gz":
                yield raw
                return
            # without a name and a time in it, equal content is equal bytes; 6 is gzip's own level
            with gzip.GzipFile("", "wb", 6, fileobj=raw, mtime=0) as packed:
                yield cast(IO[bytes], packed)
    except StorageError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def with_good_text(table: pa.Table) -> pa.Table:
    """A table whose texts are UTF-8: bytes of other programs need not be."""
    for place, field in enumerate(table.schema):
        if field.type in TEXT_TYPES:
            cells = pa.array(cells_of(table.column(place)), pa.string())
            table = table.set_column(place, field.with_type(pa.string()), cells)
    return table


def write_csv(table: pa.Table, stream: IO[bytes]) -> None:
    """Write a table as plain CSV: a header, then one line a row; null is an empty cell."""
    columns = [_plain(column) for column in with_good_text(table).columns]
    plain = pa.Table.from_arrays(columns, names=table.schema.names)
    pa.csv.write_csv(plain, stream, pa.csv.WriteOptions(quoting_style="needed"))


def _problems(path: Path, option: str, endings: Sequence[str], *, force: bool) -> Iterable[str]:
    if path.is_dir():
        yield f"{option} {path}: this is a folder; give a file"
        return
    if not path.name.lower().endswith(tuple(endings)):
        yield f"{option} {path}: unknown ending. Allowed: {', '.join(endings)}"
    if path.exists() and not force:
        yield f"{option} {path}: exists. Give another file, or replace it with --force"
    folder = path.resolve().parent
    if folder.name == FOLDER and list_parts(folder.parent):
        yield f"{option} {path}: lies inside a trace, where readers take every file for a part"


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column that CSV can hold: lists and records become JSON, other odd types text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_nested(kind):
        return pa.array(map(as_text, column.to_pylist()), pa.string())
    if pa.types.is_interval(kind) or pa.types.is_decimal(kind) or pa.types.is_duration(kind):
        return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()])
    return column


def as_text(cell: Any) -> str | None:
    """A value that is no text as JSON; None stays None."""
    return None if cell is None else json.dumps(cell, default=str, ensure_ascii=False)
