"""The trace of a run: a folder of zstd Parquet parts, each written aside and renamed in.

Readers need nothing from here: `pandas.read_parquet(run / "trace")` works at any time.
"""

import itertools
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemkl import __version__
from chemkl.config import InputError
from chemkl.results.atomic import remove, sync, written_aside
from chemkl.results.columns import FOR_PANDAS, TRACE_FORMAT, trace_components, trace_schema
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


# ---- part_checks

_KINDS = (
    (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    (pa.types.is_integer, pa.types.is_floating),
)
"""Types that stand for one another: text, and numbers."""


def check_parts(parts: Sequence[Part]) -> None:
    """Look at the names and columns of all parts, and at no row.

    Raises:
        InputError: a part is missing between two others, cannot be read, lacks a column, or is of
            another config or reward.
    """
    check_contiguous(parts)
    first = read_part_schema(parts[0].path)
    components = trace_components(first.names)
    expected = trace_schema(components)
    for part in parts:
        check_config(part.path, config_of(first))
        found = read_part_schema(part.path)
        check_components(part.path, trace_components(found.names), components)
        check_columns(part.path, found, expected)
        check_steps(part)


def config_of(schema: pa.Schema) -> str:
    """The config hash that a part was written under; empty where there is none."""
    return str((schema.metadata or {}).get(b"config_hash", b"").decode())


def check_steps(part: Part) -> None:
    """Refuse a file whose rows are of other steps than its name says: a copy of another part.

    Raises:
        InputError: with both.
    """
    within = steps_within(part.path)
    if within is not None and within != (part.first, part.last):
        raise InputError(
            f"{part.path}: holds the steps {within[0]} to {within[1]}, not those of its name; rows "
            "would count twice, or are missing. Restore it from a copy, or run again with --fresh."
        )


def check_config(path: Path, expected: str) -> None:
    """Refuse a part of another config.

    Raises:
        InputError: with both hashes.
    """
    found = config_of(read_part_schema(path))
    if found != expected:
        raise InputError(
            f"{path}: written under config {found[:12] or '(none)'}, not {expected[:12]}. "
            "One folder holds one run: choose another with --out, or begin anew with --fresh."
        )


def check_components(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse a part whose reward has other components than the parts before it.

    Raises:
        InputError: with both.
    """
    if set(found) != set(expected):
        mine, theirs = (", ".join(names) or "none" for names in (found, expected))
        raise InputError(
            f"{path}: not a part of this trace: its reward has the components {mine}; that of the "
            f"parts before it has {theirs}. Restore it from a copy, or run again with --fresh."
        )


def check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file that lacks a column of a trace; further columns, in any order, do no harm.

    Text may come as any type of text, a number as any type of number: pandas writes a trace back
    with others.

    Raises:
        InputError: with the columns that are missing, and those of another type.
    """
    missing = [name for name in expected.names if name not in found.names]
    wrong = [
        f"{field.name} holds {found.field(field.name).type}, expected {field.type}"
        for field in expected
        if field.name in found.names and not _fits(found.field(field.name).type, field.type)
    ]
    problems = [f"missing columns: {', '.join(missing)}"] if missing else []
    if problems or wrong:
        raise InputError(
            f"{path}: not a part of a trace ({'; '.join([*problems, *wrong])}). "
            "Restore it from a copy, or run again with --fresh."
        )


def _fits(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return found == expected or any(
        is_a(expected) and any(is_it(found) for is_it in kind) for kind in _KINDS for is_a in kind
    )


def conform(path: Path, table: pa.Table, expected: pa.Schema) -> pa.Table:
    """Give the columns of a trace their types, and leave further ones as they are.

    Raises:
        InputError: a column has empty cells that may have none, or numbers that do not fit.
    """
    for field in expected:
        if field.name not in table.column_names:
            continue
        column = table[field.name]
        empty = column.null_count
        if pa.types.is_floating(column.type):
            empty += pc.sum(pc.is_nan(column)).as_py() or 0
        if empty and not field.nullable:
            raise InputError(
                f"{path}: {empty} of {len(column)} cells of the column {field.name} are empty or "
                "NaN; expected a value in each. Restore it from a copy, or run again with --fresh."
            )
        try:
            cast = column.cast(field.type)
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: the column {field.name} does not hold {field.type} "
                f"({str(error).splitlines()[0]}). Restore it from a copy, or run again with "
                "--fresh."
            ) from error
        table = table.set_column(table.column_names.index(field.name), field, cast)
    return table


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


def join(parts: Sequence[Part], tables: Sequence[pa.Table]) -> pa.Table:
    """All rows of the parts; a column that only some of them have is empty in the others.

    Raises:
        InputError: a column that no trace has to have is of one type here, of another there.
    """
    try:
        return pa.concat_tables(
            [table.replace_schema_metadata() for table in tables], promote_options="default"
        )
    except pa.ArrowException as error:
        raise InputError(
            f"{parts[0].path.parent}: the parts do not fit together "
            f"({str(error).splitlines()[0]}). A column that you added must have one type in all "
            "parts."
        ) from error


# ---- the rest


ORPHANS = ".orphan"
_ORDER = ("step", "row")


class TraceWriter:
    """Writes the trace of one run, part by part.

    Rows wait in memory until `cut`; a kill loses those alone, never a part. The caller decides when
    to cut: regularly, and with every checkpoint, so that a resumed run finds its own past.

    Args:
        run_dir: folder of the run.
        component_names: names of the reward's components, in order.
        run_id: identity of the run, kept in every part.
        config_hash: hash of the resolved config, kept in every part.
        earlier: hashes that the run had before it was made longer; its parts get the new one.
        text: whether a language model writes the rows; see `trace_schema`.

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
    ) -> None:
        self.run_dir = Path(run_dir)
        self.schema = trace_schema(component_names, text=text).with_metadata(
            {
                "format": TRACE_FORMAT,
                "run_id": run_id,
                "config_hash": config_hash,
                "chemkl_version": __version__,
                "pandas": FOR_PANDAS,
            }
        )
        self._buffer: list[pa.Table] = []
        finish_swap(self.run_dir)
        shutil.rmtree(self._aside, ignore_errors=True)  # what a kill left: never part of the trace
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = list_parts(self.run_dir)
        if any(config_of(read_part_schema(part.path)) in earlier for part in parts):
            self._swap([], pa.concat_tables([read_part(part.path) for part in parts]))
            parts = list_parts(self.run_dir)
        for part in parts:
            check_config(part.path, config_hash)

    @property
    def _folder(self) -> Path:
        return self.run_dir / FOLDER

    @property
    def _aside(self) -> Path:
        return self.run_dir / ASIDE

    @property
    def last_step(self) -> int | None:
        """The last step that was appended or stands on disk; None for an empty trace."""
        if self._buffer:
            return int(self._buffer[-1]["step"][-1].as_py())
        parts = list_parts(self.run_dir)
        return parts[-1].last if parts else None

    def append(self, frame: pd.DataFrame) -> None:
        """Add the rows of one step, or of several in order.

        Raises:
            ValueError: the columns are not the schema's, a value does not fit its column, or the
                step was written before.
        """
        missing = [name for name in self.schema.names if name not in frame.columns]
        unknown = [name for name in frame.columns if name not in self.schema.names]
        if missing or unknown:
            raise ValueError(f"trace rows: missing columns {missing}, unknown columns {unknown}")
        if frame.empty:
            return
        table = pa.Table.from_pandas(frame, schema=self.schema, preserve_index=False)
        first, last = int(frame["step"].min()), self.last_step
        if last is not None and first <= last:
            raise ValueError(
                f"trace rows of step {first}: the trace already reaches step {last}; "
                f"call resume(at_step={first}) before running a step again"
            )
        self._buffer.append(table.replace_schema_metadata(self.schema.metadata))

    def cut(self) -> Path | None:
        """Write the waiting rows as one part; without rows, do nothing.

        Returns:
            The new part's path, or None.
        """
        if not self._buffer:
            return None
        table = pa.concat_tables(self._buffer)
        name = part_name(int(table["step"][0].as_py()), int(table["step"][-1].as_py()))
        final = self._folder / name
        with self._drafting(), written_aside(final, folder=self._aside) as aside:
            write_part(table, aside)
        self._buffer = []
        return final

    @contextmanager
    def _drafting(self) -> Iterator[None]:
        """Have the folder for what is written aside; it goes again unless a swap stands in it."""
        self._aside.mkdir(exist_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):
                self._aside.rmdir()

    def resume(self, at_step: int) -> None:
        """Make the trace end before a step: what lies at or after it goes to `.orphan/`.

        Waiting rows are dropped. A part that reaches across the step keeps its earlier rows.
        """
        self._buffer = []
        parts = list_parts(self.run_dir)
        for part in reversed(parts):  # latest first: what remains is a prefix at any moment
            if part.first >= at_step:
                os.replace(part.path, self._orphan_path(part.path.name))
        kept = [part for part in parts if part.first < at_step]
        if kept and kept[-1].last >= at_step:
            table, last = read_part(kept[-1].path), kept[-1].last
            late = table.filter(pc.field("step") >= at_step)
            write_part(late, self._orphan_path(part_name(at_step, last)))
            self._swap(kept[:-1], table.filter(pc.field("step") < at_step))

    def compact(self) -> None:
        """Merge all parts into one; a kill on the way leaves either all parts or the one."""
        self.cut()
        parts = list_parts(self.run_dir)
        if len(parts) > 1:
            whole = pa.concat_tables([read_part(part.path) for part in parts])
            self._swap([], whole)

    def _orphan_path(self, name: str) -> Path:
        """A free path in `.orphan/`: numbered, so nothing there is ever overwritten."""
        folder = self.run_dir / ORPHANS
        folder.mkdir(exist_ok=True)
        numbers = [int(p.name.split("-")[0]) for p in folder.iterdir()]
        return folder / f"{max(numbers, default=0) + 1:04d}-{name}"

    def _swap(self, kept: Sequence[Part], table: pa.Table) -> None:
        """Replace the trace folder by one with the kept parts and a new one.

        A rename of one file cannot stand for several, so the new folder is finished aside first.
        Between the two renames the trace is absent, never wrong: `finish_swap` completes it.
        """
        draft, ready, old = (self._aside / name for name in ("draft", READY, "superseded"))
        steps, table = table["step"], table.replace_schema_metadata(self.schema.metadata)
        name = part_name(int(steps[0].as_py()), int(steps[-1].as_py()))
        with self._drafting():
            try:
                draft.mkdir()
                for part in kept:
                    shutil.copy2(part.path, draft / part.path.name)
                    sync(draft / part.path.name)
                write_part(table, draft / name)
                os.replace(draft, ready)
            finally:
                remove(draft)
            os.replace(self._folder, old)
            os.replace(ready, self._folder)
            sync(self.run_dir)
            shutil.rmtree(old)


def read_trace(run_dir: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the trace of a run.

    Args:
        run_dir: folder of the run (the one that holds `trace/`).
        columns: names to read; all when not given.

    Returns:
        One row per sampled sequence in the order of step and row; `call` is a nullable Int64.
        Columns that a trace need not have (yours, or a newer version's) come last; where a part
        lacks one, its cells are empty.

    Raises:
        InputError: no trace, a damaged or missing part, or parts of different configs or rewards;
            the message names the file and the fix.
    """
    return read_settled(Path(run_dir), lambda: _read_trace(Path(run_dir), columns))


def _read_trace(run_dir: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    parts = find_trace(run_dir)
    found = [read_part_schema(part.path).names for part in parts]
    expected = trace_schema(trace_components(found[0]))
    known = list(dict.fromkeys([*expected.names, *(name for names in found for name in names)]))
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise InputError(f"{run_dir}: the trace has no column {unknown}. Known: {', '.join(known)}")
    wanted = known if columns is None else list(columns)
    needed = {*wanted, *_ORDER}
    tables = [
        conform(part.path, read_part(part.path, [n for n in names if n in needed]), expected)
        for part, names in zip(parts, found, strict=True)
    ]
    return _to_pandas(join(parts, tables))[wanted]


def find_trace(run_dir: Path) -> list[Part]:
    """The parts of a trace, whole by their names and columns; no row is read yet.

    Raises:
        InputError: no run folder, no part in it, a part that is missing, damaged or of another
            trace, or a Parquet file beside them that is none.
    """
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run folder. Give the folder that holds '{FOLDER}/'.")
    check_strays(run_dir)
    parts = list_parts(run_dir)
    if not parts:
        raise InputError(
            f"{run_dir}: no parts (part-*.parquet) in '{FOLDER}/', so there is no trace to read. "
            "Give the folder of a posttrain run that has written its first part."
        )
    check_parts(parts)
    return parts


def read_orphans(run_dir: str | Path) -> pd.DataFrame | None:
    """Rows that a resumed run set aside, oldest first: their rewards are paid for; None if none."""
    files = sorted((Path(run_dir) / ORPHANS).rglob("*.parquet"))
    if not files:
        return None
    return _to_pandas(pa.concat_tables([read_part(path) for path in files]), in_order=False)


def _to_pandas(table: pa.Table, *, in_order: bool = True) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    if "call" in frame.columns:
        frame["call"] = frame["call"].astype("Int64")
    if in_order:
        frame = frame.sort_values(["step", "row"], kind="stable", ignore_index=True)
    return frame
