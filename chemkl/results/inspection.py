"""Looking into what was written: a run's trace with its counts, any Parquet file, and SQL."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.base import install
from chemkl.results.columns import (
    has_prompts,
    is_cut_off,
    is_text,
    trace_components,
    trace_schema,
)
from chemkl.results.manifest import Manifest
from chemkl.results.seal import is_whole
from chemkl.results.trace import (
    FOLDER,
    find_trace,
    list_parts,
    no_trace,
    read_part,
    read_part_schema,
    read_settled,
    read_trace,
    readable,
)

TRACE = "trace"
"""What the table of a trace is called in queries."""

_SHOWN_NAMES = 10


@dataclass(frozen=True)
class RunTrace:
    """The trace of a run and what is known about the run."""

    folder: Path  # of the run
    frame: pd.DataFrame  # one row for each sampled sequence, as `read_trace` gives it
    schema: pa.Schema  # its columns, with their meanings
    # `run_id`, `config_hash` and `chemkl_version`, as the parts carry them
    identity: Mapping[str, str]
    n_parts: int  # how many files the trace has
    manifest: Manifest | None  # None where the folder has none

    @property
    def threshold(self) -> float | None:
        """The tau of the run, see `Manifest.tau`."""
        return self.manifest.tau if self.manifest else None

    @property
    def is_text(self) -> bool:
        """Whether a language model wrote the rows, and no valid molecule is among them."""
        return is_text(self.frame)


def open_run(folder: str | Path) -> RunTrace:
    """Read the trace of a run and its manifest.

    Raises:
        InputError: no such folder, no trace in it (the message says what there is instead), an
            empty or damaged one, or a damaged manifest.
    """
    return read_settled(Path(folder), lambda: _open_run(Path(folder)))


def _open_run(folder: Path) -> RunTrace:
    if folder.is_dir() and not list_parts(folder):
        raise InputError("\n".join(_what_there_is(folder)))
    frame = read_trace(folder)
    if frame.empty:
        raise InputError(f"{folder / FOLDER}: the trace is empty: its parts have no rows")
    schemas = [read_part_schema(part.path) for part in find_trace(folder)]
    schema = trace_schema(trace_components(frame.columns), text=has_prompts(frame.columns))
    meant = {field.name: field.metadata for schema in schemas for field in schema}
    further = frame[[name for name in frame.columns if name not in schema.names]]
    inferred = pa.Schema.from_pandas(further, preserve_index=False)
    metadata = schemas[0].metadata or {}
    return RunTrace(
        folder=folder,
        frame=frame,
        schema=pa.schema([*schema, *(f.with_metadata(meant.get(f.name)) for f in inferred)]),
        identity={
            key: metadata.get(key.encode(), b"").decode()
            for key in ("run_id", "config_hash", "chemkl_version")
        },
        n_parts=len(schemas),
        manifest=Manifest.load(folder),
    )


def _what_there_is(folder: Path) -> Iterator[str]:
    """Say of a folder that it has no trace, and what stands in it: the next thing to try."""
    manifest = Manifest.load(folder)
    how = ""
    if manifest is not None:
        why = f": {manifest.ended_by}" if manifest.ended_by else ""
        how = f" It holds {manifest.stage}, {manifest.status}{why}."
    yield no_trace(folder, how)
    if list_parts(folder.parent) and folder.name == FOLDER:
        yield f"Fix: this is the trace itself; give {folder.parent}"
        return
    runs = sorted(p.parent for p in folder.glob(f"*/{FOLDER}") if p.is_dir())
    for what, paths in (
        ("Runs in it", runs),
        ("Tables in it, which can be shown one by one", _tables_beside(folder)),
    ):
        if paths:
            more = f" and {len(paths) - _SHOWN_NAMES} more" if len(paths) > _SHOWN_NAMES else ""
            yield f"{what}: {', '.join(map(str, paths[:_SHOWN_NAMES]))}{more}"


def _tables_beside(folder: Path) -> list[Path]:
    """The Parquet files of the stages: in the folder itself and under evaluation/."""
    places = (folder, folder / "evaluation")
    files = [sorted(place.glob("*.parquet")) for place in places]
    return [path for inside in files for path in inside if not path.name.startswith(".")]


def read_head(path: Path, n: int) -> tuple[pa.Table, int]:
    """Read the first rows of a Parquet file.

    Returns:
        At most n rows, their schema with its metadata, and how many rows the file has.

    Raises:
        InputError: the file cannot be read.
    """
    with readable(path):
        if not is_whole(path):
            raise OSError("its checksum does not fit")
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=max(n, 1))
            first = [batch[:n] for batch in (next(batches, None),) if batch is not None]
            return pa.Table.from_batches(first, schema=file.schema_arrow), file.metadata.num_rows


def tables_of(place: str | Path) -> dict[str, pa.Table]:
    """Everything in a run folder that can be queried: the trace, and the tables beside it.

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


# ---- counts


@dataclass(frozen=True)
class Counts:
    """How much a run sampled, scored and found; rows from a replay buffer are left out."""

    rows: int  # sampled sequences
    valid: int  # those that are molecules, repeats included
    distinct: int  # distinct canonical SMILES among them
    calls: int  # oracle calls spent
    failed: int  # valid rows for which a component gave no value
    scaffolds: int  # distinct non-empty scaffolds of the distinct molecules
    hits: int | None  # distinct molecules with R >= threshold; None without a threshold
    hit_scaffolds: int | None  # distinct non-empty scaffolds of these
    best: float | None  # the largest raw reward R of a molecule; None without one


def count(frame: pd.DataFrame, threshold: float | None = None) -> Counts:
    """Count what a trace holds; molecules with R >= threshold are hits."""
    sampled = sampled_rows(frame)
    valid = sampled[sampled["valid"].astype(bool)]
    scored = first_scorings(frame)
    hits = None if threshold is None else first_scorings(frame, threshold)

    def scaffolds(rows: pd.DataFrame) -> int:
        return len(set(rows["scaffold"].dropna()) - {""})

    return Counts(
        rows=len(sampled),
        valid=len(valid),
        distinct=valid["canonical_smiles"].nunique(),
        calls=len(scored),
        failed=int(valid["reason"].notna().sum()),
        scaffolds=scaffolds(scored),
        hits=None if hits is None else len(hits),
        hit_scaffolds=None if hits is None else scaffolds(hits),
        best=float(scored["reward"].max()) if len(scored) else None,
    )


def sampled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that the policy sampled; those drawn from a replay buffer are left out."""
    return frame[~frame["is_replay"].astype(bool)]


def first_scorings(frame: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Take the rows at which each distinct molecule was first scored, by the order of calls."""
    sampled = sampled_rows(frame)
    scored = sampled[sampled["call"].notna()]
    if threshold is not None:
        scored = scored[scored["reward"] >= threshold]
    return scored.sort_values("call", kind="stable")


@dataclass(frozen=True)
class TextCounts:
    """How much a run wrote, scored and found; rows from a replay buffer are left out."""

    completions: int  # sampled
    prompts: int  # that they answer
    valid: int  # those of them with a valid answer, repeats included
    truncated: int  # those that failed because they had no end
    distinct: int  # distinct answers, each counted for every prompt that it answers
    calls: int  # oracle calls spent
    failed: int  # valid ones that could not be scored
    # distinct answers whose first scoring gave R >= threshold; None without a threshold
    hits: int | None
    hit_completions: int | None  # completions with R >= threshold; None without a threshold
    best: float | None  # the largest raw reward R of a valid completion; None without one


def count_text(frame: pd.DataFrame, threshold: float | None = None) -> TextCounts:
    """Count what the trace of a language model holds; answers with R >= threshold are hits."""
    sampled = sampled_rows(frame)
    valid = sampled[sampled["valid"].astype(bool)]
    scored = first_scorings(frame)
    above = None if threshold is None else valid["reward"] >= threshold
    return TextCounts(
        completions=len(sampled),
        prompts=sampled["group"].nunique(),
        valid=len(valid),
        truncated=sum(map(is_cut_off, sampled["reason"])),
        distinct=len(valid[["group", "answer"]].drop_duplicates()),
        calls=len(scored),
        failed=int(valid["reason"].notna().sum()),
        hits=None if threshold is None else len(first_scorings(frame, threshold)),
        hit_completions=None if above is None else int(above.sum()),
        best=float(valid["reward"].max()) if len(valid) else None,
    )


def frequent_answers(frame: pd.DataFrame, top: int) -> pd.DataFrame:
    """Find what was answered most often to each prompt.

    Completions with the same valid answer are one; of the others the whole completion stands.

    Returns:
        Columns group, prompt, text, valid, n, share (of the prompt's completions) and mean_reward
        (of these n); prompts by number, the most frequent text first, at equal n the earlier one.
    """
    sampled = sampled_rows(frame)
    rows = pd.DataFrame(
        {
            "group": sampled["group"],
            "prompt": sampled["prompt"],
            "text": sampled["answer"].fillna(sampled["completion"]),
            "valid": sampled["answer"].notna(),
            "reward": sampled["reward"],
        }
    )
    by_text = rows.groupby(["group", "prompt", "text", "valid"], sort=False)["reward"]
    answers = by_text.agg(n="size", mean_reward="mean").reset_index()
    answers["share"] = answers["n"] / answers.groupby("group")["n"].transform("sum")
    answers = answers.sort_values(
        ["group", "n"], ascending=[True, False], kind="stable", ignore_index=True
    )
    return answers.groupby("group").head(top).reset_index(drop=True)


# ---- SQL


def run_sql(tables: Mapping[str, pa.Table], sql: str) -> pa.Table:
    """Answer one query by DuckDB, which sees these tables and nothing else.

    Raises:
        InputError: DuckDB is not installed, or refuses the query; with its own words and the
            columns that there are.
    """
    try:
        import duckdb
    except ImportError:
        raise InputError(f"--sql needs DuckDB, which is not installed: {install('sql')}") from None
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    problem = ""
    try:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET enable_external_access = false")  # no file, network or extension
        connection.execute("SET lock_configuration = true")  # and no way back
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            problem = (
                f"expected one statement, found {len(statements)}. Give one SELECT; what several "
                "would do step by step goes into one with WITH."
            )
        elif statements[0].type != duckdb.StatementType.SELECT:
            problem = (
                f"{str(statements[0].type).rpartition('.')[2]} is not allowed: queries only read. "
                "Give a SELECT (also WITH, FROM, DESCRIBE or SUMMARIZE)."
            )
        else:
            answer: pa.Table = connection.sql(sql).to_arrow_table()
            return answer
    except duckdb.Error as error:  # with the columns of the tables that the query speaks of
        meant = [name for name in tables if name in sql] or list(tables)[:1]
        lines = [f"Columns of {name}: {', '.join(tables[name].schema.names)}" for name in meant]
        others = [name for name in tables if name not in meant]
        lines += [f"Other tables: {', '.join(others)}"] if others else []
        problem = "\n".join([str(error).strip(), *lines])
    finally:
        connection.close()
    raise InputError(f"--sql: {problem}")
