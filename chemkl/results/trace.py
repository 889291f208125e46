"""The trace of a run: a folder of zstd Parquet parts, each written atomically.

Readers do not need this module: `pandas.read_parquet(run / "trace")` works at any time.
"""

import itertools
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemkl import __version__
from chemkl.config import InputError
from chemkl.results.atomic import atomic_file, disk_errors, remove, sync
from chemkl.results.columns import (
    FOR_PANDAS,
    TRACE_FORMAT,
    optional_columns,
    trace_components,
    trace_schema,
)
from chemkl.results.seal import is_whole, seal

FOLDER, DRAFTS, READY, ORPHANS = "trace", ".tmp", "ready", ".orphan"
T = TypeVar("T")
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
_ORDER = ["step", "row"]
_FIX = "Restore it from a copy, or run again with --fresh."


# ---- parts


class Part(NamedTuple):
    """One file of a trace and the steps that it covers, both ends included."""

    first: int
    last: int
    path: Path


def list_parts(run_dir: Path) -> list[Part]:
    """List the parts of a trace in the order of their steps.

    If a kill interrupted a swap between its two renames, the parts are read in the ready folder.
    """
    folder = run_dir / FOLDER
    if not folder.is_dir():
        folder = run_dir / DRAFTS / READY
    if not folder.is_dir():
        return []
    matches = ((path, _PART.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(Part(int(match[1]), int(match[2]), path) for path, match in matches if match)


def write_part(table: pa.Table, path: Path) -> None:
    """Write one file: floats by byte planes (smaller under zstd), the rest by dictionary.

    The seal covers the footer, which the checksums of the pages do not.
    """
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=[name for name in table.schema.names if name not in floats],
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )
    seal(path, path.suffix)
    sync(path)


_RESTORE = "It was cut short or damaged: restore it from a copy, or run again with --fresh."


@contextmanager
def open_part(path: Path, place: str = "", fix: str = _RESTORE) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and check its seal."""
    with parquet_errors(path, place, fix):
        if not is_whole(path):
            raise OSError("its checksum is wrong")
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file


def read_part(
    path: Path, columns: Sequence[str] | None = None, place: str = "", fix: str = _RESTORE
) -> pa.Table:
    """Read one file, or some of its columns; a damaged one is an `InputError`."""
    with open_part(path, place, fix) as file:
        return file.read(columns=columns)


def read_part_schema(path: Path, place: str = "", fix: str = _RESTORE) -> pa.Schema:
    """Read the schema of one file."""
    with parquet_errors(path, place, fix):
        return pq.read_schema(path)


@contextmanager
def parquet_errors(path: Path, place: str = "", fix: str = _RESTORE) -> Iterator[None]:
    """Turn errors of reading a Parquet file in this scope into an `InputError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{place or path}: not a readable Parquet file ({size} bytes; {why}). {fix}"
        ) from error


def read_settled(run_dir: Path, read: Callable[[], T]) -> T:
    """Read a trace; read it again if that failed because the run replaced its parts.

    A running run merges its parts at the end, so that parts listed earlier no longer exist.
    """
    before = list_parts(run_dir)
    try:
        return read()
    except (InputError, FileNotFoundError):
        if list_parts(run_dir) == before:
            raise
    return read()


# ---- whether the parts form one whole


def find_trace(run_dir: Path) -> list[Part]:
    """List the parts of a trace after checking their names, columns and footers, but no rows.

    Raises:
        InputError: no run folder, no part in it, a part that is missing, damaged or of another
            trace, or another Parquet file in the folder.
    """
    folder, parts = run_dir / FOLDER, list_parts(run_dir)
    strays = sorted(p.name for p in folder.glob("*.parquet") if not _PART.fullmatch(p.name))
    if not run_dir.is_dir():
        problem = f"{run_dir}: no such run folder. Give the folder that holds '{FOLDER}/'."
    elif strays:  # files of other kinds do no harm
        problem = (
            f"{folder}: {', '.join(strays)}: not a part of a trace (parts are called "
            "part-FIRST-LAST.parquet, by their steps), but a reader of the whole folder would "
            "count its rows. Move it to another folder."
        )
    elif not parts:
        problem = no_trace(run_dir)
    else:
        problem = next((f"{p} {_FIX}" for p in _problems(parts)), "")
    if problem:
        raise InputError(problem)
    return parts


def no_trace(run_dir: Path, contents: str = "") -> str:
    """Return the message for a folder without a trace."""
    return (
        f"{run_dir}: no parts (part-*.parquet) in '{FOLDER}/', so there is no trace to read."
        f"{contents} Give the folder of a posttrain run; a run that ended before its first "
        "checkpoint has no molecules yet: repeat its command."
    )


def _problems(parts: Sequence[Part]) -> Iterator[str]:
    """Describe what is wrong with the names, columns and footers of parts."""
    folder = parts[0].path.parent
    if parts[0].first > 1:  # a run counts its steps from 0 or from 1
        yield f"{folder}: the part with the steps before {parts[0].first} is missing."
    for before, after in itertools.pairwise(parts):
        if after.first <= before.last:
            yield f"{after.path}: overlaps {before.path.name}; rows would count twice."
        if after.first > before.last + 1:
            yield (
                f"{folder}: the part with steps {before.last + 1} to {after.first - 1} is missing "
                f"between {before.path.name} and {after.path.name}."
            )
    first = read_part_schema(parts[0].path)
    components = trace_components(first.names)
    for part in parts:
        schema = read_part_schema(part.path)
        names = trace_components(schema.names)
        if _config_of(schema) != _config_of(first):
            yield _other_config(part.path, _config_of(schema), _config_of(first))
        if {*names} != {*components}:
            yield (
                f"{part.path}: not a part of this trace: its reward has the components "
                f"{', '.join(names) or 'none'}; that of the parts before it has "
                f"{', '.join(components) or 'none'}."
            )
        if wrong := _wrong_columns(schema, trace_schema(components)):
            yield f"{part.path}: not a part of a trace ({'; '.join(wrong)})."
        yield from _other_steps(part, schema.get_field_index("step"))


def _config_of(schema: pa.Schema) -> str:
    return str((schema.metadata or {}).get(b"config_hash", b"").decode())


def _other_steps(part: Part, column: int) -> Iterator[str]:
    """Say where a part's footer has other steps than its name; `column` is that of the steps."""
    with parquet_errors(part.path):
        footer = pq.read_metadata(part.path)
    groups = [footer.row_group(i).column(column).statistics for i in range(footer.num_row_groups)]
    if groups and all(group is not None and group.has_min_max for group in groups):
        low, high = min(group.min for group in groups), max(group.max for group in groups)
        if (low, high) != (part.first, part.last):
            yield (
                f"{part.path}: holds the steps {low} to {high}, not those of its name; rows would "
                "count twice, or are missing."
            )


def _other_config(path: Path, config: str, expected: str) -> str:
    both = f"config {config[:12] or '(none)'}, not {expected[:12]}"
    return f"{path}: written under {both}; one folder holds one run."


def _wrong_columns(schema: pa.Schema, expected: pa.Schema) -> list[str]:
    """Which columns a trace lacks; further ones, in any order, do no harm.

    Text may come as any type of text, a number as any type of number: pandas writes a trace back
    with others.
    """

    def family(kind: pa.DataType) -> object:
        if kind in (pa.string(), pa.large_string(), pa.string_view()):
            return "text"
        return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else kind

    missing = [name for name in expected.names if name not in schema.names]
    wrong = [f"missing columns: {', '.join(missing)}"] if missing else []
    for field in expected:
        if field.name not in missing:
            kind = schema.field(field.name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if family(kind) != family(field.type):
                wrong.append(f"{field.name} holds {kind}, expected {field.type}")
    return wrong


# ---- reading


def read_trace(run_dir: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the trace of a run.

    Args:
        run_dir: folder of the run (the one that holds `trace/`).
        columns: names to read; None for all. Optional columns (stage, final_reward, tau, beta,
            origin) that the trace does not have are left out.

    Returns:
        One row per sampled sequence in the order of step and row; `call` is a nullable Int64.
        Columns that chemkl does not know (yours, or a newer version's) come last; they are empty
        for a part without them.

    Raises:
        InputError: no trace, a damaged or missing part, or parts of different configs or rewards;
            the message names the file and the fix.
    """
    run_dir = Path(run_dir)

    def read() -> pd.DataFrame:
        parts = find_trace(run_dir)
        names = [read_part_schema(part.path).names for part in parts]
        further = optional_columns(names[0])
        expected = trace_schema(trace_components(names[0]), further=further)
        available = list(dict.fromkeys([*expected.names, *itertools.chain(*names)]))
        selected = available if columns is None else list(columns)
        selected = [n for n in selected if n in available or not optional_columns([n])]
        if unknown := [name for name in selected if name not in available]:
            raise InputError(
                f"{run_dir}: the trace has no column {unknown}. Known: {', '.join(available)}"
            )
        tables = [
            _conform(part.path, [n for n in own if n in {*selected, *_ORDER}], expected)
            for part, own in zip(parts, names, strict=True)
        ]
        try:
            table = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            raise InputError(
                f"{run_dir / FOLDER}: the parts do not fit together ({str(error).splitlines()[0]})."
                " A column that you added must have one type in all parts."
            ) from error
        return _to_pandas(table).sort_values(_ORDER, kind="stable", ignore_index=True)[selected]

    return read_settled(run_dir, read)


def _conform(path: Path, names: Sequence[str], expected: pa.Schema) -> pa.Table:
    """Read columns of a part and cast those of a trace to their types.

    Raises:
        InputError: a column that is not nullable has empty cells, or a value cannot be cast.
    """
    table = read_part(path, names)
    for field in expected:
        if field.name not in names:
            continue
        column = table[field.name]
        empty = column.null_count
        if pa.types.is_floating(column.type):
            empty += pc.sum(pc.is_nan(column)).as_py() or 0
        problem = ""
        if empty and not field.nullable:
            problem = (
                f"{empty} of {len(column)} cells of the column {field.name} are empty or NaN; "
                "expected a value in each"
            )
        try:
            column = column.cast(field.type)
        except pa.ArrowException as error:
            why = str(error).splitlines()[0]
            problem = f"the column {field.name} does not hold {field.type} ({why})"
        if problem:
            raise InputError(f"{path}: {problem}. {_FIX}")
        table = table.set_column(table.column_names.index(field.name), field, column)
    return table.replace_schema_metadata()


def read_orphans(run_dir: str | Path) -> pd.DataFrame | None:
    """Read the rows that a resumed run set aside, oldest first: their calls are spent; or None."""
    files = sorted((Path(run_dir) / ORPHANS).rglob("*.parquet"))
    return _to_pandas(pa.concat_tables(map(read_part, files))) if files else None


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    if "call" in frame.columns:
        frame["call"] = frame["call"].astype("Int64")
    return frame


# ---- writing


class TraceWriter:
    """Writes the trace of one run, part by part.

    Rows stay in memory until `cut`; a kill loses only those, never a part. The caller cuts
    regularly and with every checkpoint, so that a resumed run finds the rows up to it.

    Args:
        run_dir: folder of the run.
        component_names: names of the reward's components, in order.
        run_id: identity of the run, stored in every part.
        config_hash: hash of the resolved config, stored in every part.
        earlier: hashes of the run before its limits were raised; its parts get the new hash.
        text: whether a language model writes the rows; see `trace_schema`.
        further: the optional columns of this trace.

    Raises:
        InputError: the folder holds the trace of another config.
    """

    def __init__(
        self,
        run_dir: str | Path,
        component_names: Sequence[str],
        run_id: str,
        config_hash: str,
        *,
        earlier: Collection[str] = (),
        text: bool = False,
        further: Sequence[str] = (),
    ) -> None:
        self.run_dir = Path(run_dir)
        metadata = {"format": TRACE_FORMAT, "run_id": run_id, "config_hash": config_hash}
        metadata |= {"chemkl_version": __version__, "pandas": FOR_PANDAS}
        schema = trace_schema(component_names, text=text, further=further)
        self.schema = schema.with_metadata(metadata)
        self._buffer: list[pa.Table] = []
        self._folder, self._drafts = self.run_dir / FOLDER, self.run_dir / DRAFTS
        ready = self._drafts / READY
        if ready.is_dir() and not self._folder.exists():
            os.replace(ready, self._folder)  # a kill interrupted a swap between its two renames
        shutil.rmtree(self._drafts, ignore_errors=True)  # left from a kill, never part of the trace
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = list_parts(self.run_dir)
        configs = {part.path: _config_of(read_part_schema(part.path)) for part in parts}
        if not {*configs.values()}.isdisjoint(earlier):
            self._merge()
            return
        for path, config in configs.items():
            if config != config_hash:
                raise InputError(f"{_other_config(path, config, config_hash)} {_FIX}")

    @property
    def last_step(self) -> int | None:
        """The last step that was appended or is on disk; None for an empty trace."""
        if self._buffer:
            return int(self._buffer[-1]["step"][-1].as_py())
        parts = list_parts(self.run_dir)
        return parts[-1].last if parts else None

    def append(self, frame: pd.DataFrame) -> None:
        """Add the rows of one step, or of several in order.

        Raises:
            ValueError: the columns differ from the schema, a value does not fit its column, or the
                step is already in the trace.
        """
        missing = [name for name in self.schema.names if name not in frame.columns]
        unknown = [name for name in frame.columns if name not in self.schema.names]
        if missing or unknown:
            raise ValueError(f"trace rows: missing columns {missing}, unknown columns {unknown}")
        if frame.empty:
            return
        first, last = int(frame["step"].min()), self.last_step
        if last is not None and first <= last:
            raise ValueError(
                f"trace rows: step {first}: the trace already reaches step {last}; call "
                f"resume(at_step={first}) before running a step again"
            )
        table = pa.Table.from_pandas(frame, schema=self.schema, preserve_index=False)
        self._buffer.append(table.replace_schema_metadata(self.schema.metadata))

    def cut(self) -> Path | None:
        """Write the rows in memory as one part and return its path; None without rows."""
        if not self._buffer:
            return None
        table = pa.concat_tables(self._buffer)
        final = self._folder / _name_of(table)
        with self._drafting(), atomic_file(final, folder=self._drafts) as draft:
            write_part(table, draft)
        self._buffer = []
        return final

    @contextmanager
    def _drafting(self) -> Iterator[None]:
        """Create the folder of drafts and remove it afterwards unless a swap is in it."""
        self._drafts.mkdir(exist_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):
                self._drafts.rmdir()

    def resume(self, at_step: int) -> None:
        """Make the trace end before a step; rows of this step and later go to `.orphan/`.

        Rows in memory are dropped. A part across the step keeps its earlier rows.
        """
        self._buffer = []
        parts = list_parts(self.run_dir)
        for part in reversed(parts):  # latest first, so that the rest is a prefix at any moment
            if part.first >= at_step:
                os.replace(part.path, self._orphan_path(part.path.name))
        earlier = [part for part in parts if part.first < at_step]
        if earlier and earlier[-1].last >= at_step:
            table = read_part(earlier[-1].path)
            late = table.filter(pc.field("step") >= at_step)
            if len(late):  # none if the name of the part covers more steps than it contains
                write_part(late, self._orphan_path(_name_of(late)))
            self._swap(earlier[:-1], table.filter(pc.field("step") < at_step))

    def compact(self) -> None:
        """Merge all parts into one; a kill leaves either all parts or the merged one."""
        self.cut()
        if len(list_parts(self.run_dir)) > 1:
            self._merge()

    def _merge(self) -> None:
        parts = list_parts(self.run_dir)
        self._swap([], pa.concat_tables([read_part(part.path) for part in parts]))

    def _orphan_path(self, name: str) -> Path:
        """Return a new path in `.orphan/`, numbered so that nothing is overwritten."""
        folder = self.run_dir / ORPHANS
        folder.mkdir(exist_ok=True)
        numbers = [int(p.name.split("-")[0]) for p in folder.iterdir()]
        return folder / f"{max(numbers, default=0) + 1:04d}-{name}"

    def _swap(self, parts: Sequence[Part], table: pa.Table) -> None:
        """Replace the trace folder by one with some of its parts and a new one.

        The new folder is completed first and then swapped by two renames. Between them the trace is
        absent, never wrong, and the next start completes the swap.
        """
        draft, ready, old = (self._drafts / name for name in ("draft", READY, "superseded"))
        table = table.replace_schema_metadata(self.schema.metadata)
        with self._drafting():
            try:
                with disk_errors(self._folder):
                    draft.mkdir()
                    for part in parts:
                        shutil.copy2(part.path, draft / part.path.name)
                        sync(draft / part.path.name)
                    if len(table):
                        write_part(table, draft / _name_of(table))
                    os.replace(draft, ready)
            finally:
                remove(draft)
            os.replace(self._folder, old)
            os.replace(ready, self._folder)
            sync(self.run_dir)
            shutil.rmtree(old)


def _name_of(table: pa.Table) -> str:
    """Name the part with these rows; padded numbers sort by step."""
    steps = table["step"]
    return f"part-{steps[0].as_py():08d}-{steps[-1].as_py():08d}.parquet"
