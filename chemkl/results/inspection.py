"""Looking into what was written: a run's trace with its counts, and any Parquet file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.results.columns import has_prompts, trace_components, trace_schema
from chemkl.results.manifest import Manifest
from chemkl.results.parts import FOLDER, list_parts, read_part, read_part_schema, read_settled
from chemkl.results.seal import is_whole
from chemkl.results.trace import find_trace, read_trace

TRACE = "trace"
"""What the table of a trace is called in queries."""

_SHOWN_NAMES = 10


@dataclass(frozen=True)
class RunTrace:
    """The trace of a run and what is known about the run.

    Attributes:
        folder: of the run.
        frame: one row for each sampled sequence, as `read_trace` gives it.
        schema: its columns, with their meanings.
        identity: `run_id`, `config_hash` and `chemkl_version`, as the parts carry them.
        n_parts: how many files the trace has.
        manifest: None where the folder has none.
    """

    folder: Path
    frame: pd.DataFrame
    schema: pa.Schema
    identity: Mapping[str, str]
    n_parts: int
    manifest: Manifest | None

    @property
    def threshold(self) -> float | None:
        """The tau of the run, see `Manifest.tau`."""
        return self.manifest.tau if self.manifest else None

    @property
    def is_text(self) -> bool:
        """Whether a language model wrote the rows, and no valid molecule is among them.

        So it always is where answers or a function of the user's are paid for.
        """
        without = bool(self.frame["canonical_smiles"].isna().all())
        return without and has_prompts(self.frame.columns)


@dataclass(frozen=True)
class Counts:
    """How much a run sampled, scored and found; rows from a replay buffer are left out.

    Attributes:
        rows: sampled sequences.
        valid: those that are molecules, repeats included.
        distinct: distinct canonical SMILES among them.
        calls: oracle calls spent.
        failed: valid rows for which a component gave no value.
        scaffolds: distinct non-empty scaffolds of the distinct molecules.
        hits: distinct molecules with R >= threshold; None without a threshold.
        hit_scaffolds: distinct non-empty scaffolds of these.
        best: the largest raw reward R of a molecule; None without one.
    """

    rows: int
    valid: int
    distinct: int
    calls: int
    failed: int
    scaffolds: int
    hits: int | None
    hit_scaffolds: int | None
    best: float | None


def open_run(folder: str | Path) -> RunTrace:
    """Read the trace of a run and its manifest.

    Raises:
        InputError: no such folder, no trace in it (the message says what there is instead), an
            empty or damaged one, or a damaged manifest.
    """
    return read_settled(Path(folder), lambda: _open_run(Path(folder)))


def _open_run(folder: Path) -> RunTrace:
    if folder.is_dir() and not list_parts(folder):
        raise InputError("\n".join([_no_trace(folder), *_what_there_is(folder)]))
    frame = read_trace(folder)
    if frame.empty:
        raise InputError(f"{folder / FOLDER}: the trace is empty: its parts have no rows")
    schemas = [read_part_schema(part.path) for part in find_trace(folder)]
    metadata = schemas[0].metadata or {}
    return RunTrace(
        folder=folder,
        frame=frame,
        schema=_schema_of(frame, schemas),
        identity={
            key: metadata.get(key.encode(), b"").decode()
            for key in ("run_id", "config_hash", "chemkl_version")
        },
        n_parts=len(schemas),
        manifest=Manifest.load(folder),
    )


def count(frame: pd.DataFrame, threshold: float | None = None) -> Counts:
    """Count what a trace holds.

    Args:
        frame: as `read_trace` gives it.
        threshold: molecules with a raw reward R of at least this are hits.
    """
    sampled = sampled_rows(frame)
    valid = sampled[sampled["valid"].astype(bool)]
    scored = first_scorings(frame)
    hits = None if threshold is None else first_scorings(frame, threshold)
    return Counts(
        rows=len(sampled),
        valid=len(valid),
        distinct=valid["canonical_smiles"].nunique(),
        calls=len(scored),
        failed=int(valid["reason"].notna().sum()),
        scaffolds=_scaffolds(scored),
        hits=None if hits is None else len(hits),
        hit_scaffolds=None if hits is None else _scaffolds(hits),
        best=float(scored["reward"].max()) if len(scored) else None,
    )


def sampled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that the policy sampled; those drawn from a replay buffer are left out."""
    return frame[~frame["is_replay"].astype(bool)]


def first_scorings(frame: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Take the rows at which each distinct molecule was first scored, in the order of their calls.

    Args:
        frame: as `read_trace` gives it.
        threshold: only molecules with a raw reward R of at least this.
    """
    sampled = sampled_rows(frame)
    scored = sampled[sampled["call"].notna()]
    if threshold is not None:
        scored = scored[scored["reward"] >= threshold]
    return scored.sort_values("call", kind="stable")


def read_head(path: Path, n: int) -> tuple[pa.Table, int]:
    """Read the first rows of a Parquet file.

    Returns:
        At most n rows, their schema with its metadata, and how many rows the file has.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if not is_whole(path):
            raise OSError("its checksum does not fit")  # noqa: TRY301 - read_part says it in words
        with pq.ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
            batch = next(file.iter_batches(batch_size=n), None) if n and n_rows else None
    except (pa.ArrowException, OSError):
        read_part(path)  # says what is wrong with the file
        raise
    batches = [] if batch is None else [batch]
    return pa.Table.from_batches(batches, schema=None if batches else schema), n_rows


def tables_of(place: str | Path) -> dict[str, pa.Table]:
    """Everything in a run folder that can be queried: the trace, and the tables beside it.

    Args:
        place: a run folder, the folder of another stage, or one Parquet file.

    Returns:
        By name: `trace`, and each Parquet file by the name of the file, without its ending.

    Raises:
        InputError: there is nothing, or a file is damaged.
    """
    place = Path(place)
    if place.is_file():
        return {place.stem: read_part(place)}
    files = {path.stem: path for path in _tables_beside(place)}
    tables = {name: read_part(path) for name, path in files.items() if name != TRACE}
    if files and not list_parts(place):
        return tables
    run = open_run(place)
    trace = pa.Table.from_pandas(run.frame, schema=run.schema, preserve_index=False)
    return {TRACE: trace, **tables}


def _schema_of(frame: pd.DataFrame, found: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of a frame: those of a trace, and the further ones that the parts have."""
    own = trace_schema(trace_components(frame.columns), text=has_prompts(frame.columns))
    further = [name for name in frame.columns if name not in own.names]
    meant = {field.name: field.metadata for schema in found for field in schema}
    inferred = pa.Schema.from_pandas(frame[further], preserve_index=False)
    return pa.schema([*own, *(field.with_metadata(meant.get(field.name)) for field in inferred)])


def _scaffolds(rows: pd.DataFrame) -> int:
    return len(set(rows["scaffold"].dropna()) - {""})


def _tables_beside(folder: Path) -> Iterator[Path]:
    """The Parquet files of the stages: in the folder itself and under evaluation/."""
    for place in (folder, folder / "evaluation"):
        yield from sorted(p for p in place.glob("*.parquet") if not p.name.startswith("."))


def _no_trace(folder: Path) -> str:
    manifest = Manifest.load(folder)
    how = ""
    if manifest is not None:
        why = f": {manifest.ended_by}" if manifest.ended_by else ""
        how = f" It holds {manifest.stage}, {manifest.status}{why}."
    return (
        f"{folder}: no parts (part-*.parquet) in '{FOLDER}/', so there is no trace to read.{how} "
        "Give the folder of a posttrain run that has written its first part."
    )


def _what_there_is(folder: Path) -> Iterator[str]:
    """Say what stands in a folder that is no run: the next thing to try."""
    if list_parts(folder.parent) and folder.name == FOLDER:
        yield f"Fix: this is the trace itself; give {folder.parent}"
        return
    runs = sorted(p.parent for p in folder.glob(f"*/{FOLDER}") if p.is_dir())
    if runs:
        yield f"Runs in it: {_listed(runs)}"
    tables = list(_tables_beside(folder))
    if tables:
        yield f"Tables in it, which can be shown one by one: {_listed(tables)}"


def _listed(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
