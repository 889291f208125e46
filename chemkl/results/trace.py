"""The trace of a run: a folder of zstd Parquet parts, each written aside and renamed in.

Readers need nothing from here: `pandas.read_parquet(run / "trace")` works at any time.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from chemkl import __version__
from chemkl.config import InputError
from chemkl.results.atomic import remove, sync, written_aside
from chemkl.results.columns import FOR_PANDAS, TRACE_FORMAT, trace_components, trace_schema
from chemkl.results.part_checks import check_config, check_parts, config_of, conform, join
from chemkl.results.parts import (
    ASIDE,
    FOLDER,
    READY,
    Part,
    check_strays,
    finish_swap,
    list_parts,
    part_name,
    read_part,
    read_part_schema,
    read_settled,
    write_part,
)

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
