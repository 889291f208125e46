"""Read and summarise output: a run's trace with counts, other Parquet files, and SQL queries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa

from chemkl.config import InputError
from chemkl.config.base import install_command
from chemkl.results.columns import (
    has_prompts,
    is_text,
    is_truncated,
    optional_columns,
    trace_components,
    trace_schema,
)
from chemkl.results.manifest import Manifest
from chemkl.results.trace import (
    FOLDER,
    find_trace,
    list_parts,
    no_trace,
    open_part,
    read_part,
    read_part_schema,
    read_settled,
    read_trace,
)

TRACE = "trace"
"""Name of the trace table in queries."""


@dataclass(frozen=True)
class RunTrace:
    """The trace of a run with its manifest."""

    folder: Path  # of the run
    frame: pd.DataFrame  # one row for each sampled sequence, from `read_trace`
    schema: pa.Schema  # its columns, with their meanings
    identity: Mapping[str, str]  # run_id, config_hash and chemkl_version, from the parts
    n_parts: int  # number of files of the trace
    manifest: Manifest | None  # None if the folder has none
    threshold: float | None  # the tau of the run, see `Manifest.tau`
    is_text: bool  # see `chemkl.results.columns.is_text`


def open_run(folder: str | Path) -> RunTrace:
    """Read the trace of a run and its manifest.

    Raises:
        InputError: no such folder, no trace in it (the message lists its contents), an empty or
            damaged trace, or a damaged manifest.
    """
    folder = Path(folder)

    def read() -> RunTrace:
        problem, frame = "", pd.DataFrame()
        if folder.is_dir() and not list_parts(folder):
            problem = _contents(folder)
        elif (frame := read_trace(folder)).empty:
            problem = f"{folder / FOLDER}: the trace is empty: its parts have no rows"
        if problem:
            raise InputError(problem)
        schemas = [read_part_schema(part.path) for part in find_trace(folder)]
        names = frame.columns
        schema = trace_schema(
            trace_components(names), text=has_prompts(names), further=optional_columns(names)
        )
        meanings = {field.name: field.metadata for schema in schemas for field in schema}
        added = frame[[name for name in names if name not in schema.names]]
        inferred = pa.Schema.from_pandas(added, preserve_index=False)
        metadata, keys = schemas[0].metadata or {}, ("run_id", "config_hash", "chemkl_version")
        manifest = Manifest.load(folder)
        return RunTrace(
            folder=folder,
            frame=frame,
            schema=pa.schema([*schema, *(f.with_metadata(meanings.get(f.name)) for f in inferred)]),
            identity={key: metadata.get(key.encode(), b"").decode() for key in keys},
            n_parts=len(schemas),
            manifest=manifest,
            threshold=manifest.tau if manifest else None,
            is_text=is_text(frame),
        )

    return read_settled(folder, read)


def _contents(folder: Path) -> str:
    """Return the message for a folder without a trace: it lists the contents to try next."""
    manifest = Manifest.load(folder)
    contents = ""
    if manifest is not None:
        why = f": {manifest.ended_by}" if manifest.ended_by else ""
        contents = f" It holds {manifest.stage}, {manifest.status}{why}."
    lines = [no_trace(folder, contents)]
    if list_parts(folder.parent) and folder.name == FOLDER:
        return f"{lines[0]}\nFix: this is the trace itself; give {folder.parent}"
    runs = sorted(p.parent for p in folder.glob(f"*/{FOLDER}") if p.is_dir())
    tables = _other_tables(folder)
    titles = {"Runs in it": runs, "Tables in it, which can be shown one by one": tables}
    for title, paths in titles.items():
        if paths:
            more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
            lines.append(f"{title}: {', '.join(map(str, paths[:10]))}{more}")
    return "\n".join(lines)


def _other_tables(folder: Path) -> list[Path]:
    """List the Parquet files of the stages, in the folder itself and in evaluation/."""
    files = [*sorted(folder.glob("*.parquet")), *sorted(folder.glob("evaluation/*.parquet"))]
    return [path for path in files if not path.name.startswith(".")]


def read_head(path: Path, n: int) -> tuple[pa.Table, int]:
    """Read the first n rows of a Parquet file; return them and the number of all rows."""
    with open_part(path) as file:
        first = islice(file.iter_batches(batch_size=max(n, 1)), 1)
        head = pa.Table.from_batches(first, schema=file.schema_arrow).slice(0, n)
        return head, file.metadata.num_rows


def tables_of(path: str | Path) -> dict[str, pa.Table]:
    """Read the tables of a file or of a run folder by name: `trace`, and those of other stages."""
    path = Path(path)
    if path.is_file():
        return {path.stem: read_part(path)}
    files = {file.stem: file for file in _other_tables(path)}
    tables = {name: read_part(file) for name, file in files.items() if name != TRACE}
    if files and not list_parts(path):
        return tables
    run = open_run(path)
    trace = pa.Table.from_pandas(run.frame, schema=run.schema, preserve_index=False)
    return {TRACE: trace, **tables}


# ---- counts


@dataclass(frozen=True)
class Counts:
    """Counts of a run without the rows that were replayed from memory.

    `rows`, `valid` and `hit_rows` count samples of the policy; the others include exploration.
    Molecules are distinct by canonical SMILES, answers by prompt and answer.
    """

    rows: int  # sampled sequences
    valid: int  # molecules, or rows with an answer, including repeats
    distinct: int  # different ones among them
    calls: int  # oracle calls spent
    failed: int  # valid rows that could not be scored
    hits: int | None  # distinct, R >= threshold when first scored; None without a threshold
    hit_rows: int | None  # valid rows with R >= threshold; None without a threshold
    best: float | None  # the largest raw reward R; None without one
    scaffolds: int = 0  # distinct non-empty scaffolds of the distinct molecules
    hit_scaffolds: int | None = None  # of the hits; None without a threshold
    prompts: int = 0  # in a run of texts
    truncated: int = 0  # completions without an end token
    explored: int = 0  # rows proposed by exploration


def count(frame: pd.DataFrame, threshold: float | None = None) -> Counts:
    """Count the contents of a trace; molecules, or answers, with R >= threshold are hits."""
    new, sampled, in_text = new_rows(frame), sampled_rows(frame), is_text(frame)
    valid, scored = sampled[sampled["valid"].astype(bool)], first_scorings(frame)
    hits = first_scorings(frame, math.inf if threshold is None else threshold)
    rewards = (valid if in_text else scored)["reward"]
    final, valid_new = by_final_reward(valid)["reward"], new[new["valid"].astype(bool)]
    counts = Counts(
        rows=len(sampled),
        valid=len(valid),
        distinct=len(valid_new[identity_columns(frame)].drop_duplicates()),
        calls=int(new["call"].count()),
        failed=int(valid_new["reason"].notna().sum()),
        hits=None if threshold is None else len(hits),
        hit_rows=None if threshold is None else int((final >= threshold).sum()),
        best=float(rewards.max()) if len(rewards) else None,
        explored=len(new) - len(sampled),
    )
    if in_text:
        prompts, truncated = sampled["group"].nunique(), sum(map(is_truncated, sampled["reason"]))
        return replace(counts, prompts=prompts, truncated=truncated)
    scaffolds, of_hits = (len({*rows["scaffold"].dropna()} - {""}) for rows in (scored, hits))
    return replace(
        counts, scaffolds=scaffolds, hit_scaffolds=None if threshold is None else of_hits
    )


def identity_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns by which two valid rows of a trace are the same."""
    return ["group", "answer"] if is_text(frame) else ["canonical_smiles"]


def new_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the sampled and explored rows, without those from memory."""
    return frame[~frame["is_replay"].astype(bool)]


def sampled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the samples of the policy, without rows from memory and exploration."""
    new = new_rows(frame)
    return new[new["origin"] == "policy"] if "origin" in new else new


def valid_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the valid samples of the policy in order, including repeats."""
    rows = sampled_rows(frame)
    return rows[rows["valid"].astype(bool)]


def by_final_reward(frame: pd.DataFrame) -> pd.DataFrame:
    """Select the rows scored by the reward of the last stage; all rows of a run without stages."""
    return frame[frame["final_reward"].astype(bool)] if "final_reward" in frame else frame


def first_scorings(frame: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Select the row at which each distinct molecule was first scored, in the order of calls.

    Molecules that only the reward of an earlier stage has scored are left out.
    """
    new = by_final_reward(new_rows(frame))
    scored = new[new["call"].notna()]
    if threshold is not None:
        scored = scored[scored["reward"] >= threshold]
    return scored.sort_values("call", kind="stable")


def frequent_answers(frame: pd.DataFrame, top: int) -> pd.DataFrame:
    """Find the most frequent answers to each prompt.

    Completions with the same valid answer count as one; invalid ones count by their whole text.

    Returns:
        Columns group, prompt, text, valid, n, share (of the prompt's completions) and mean_reward
        (of these n); prompts by number, the most frequent text first, ties by first occurrence.
    """
    sampled = sampled_rows(frame)
    rows = sampled[["group", "prompt", "reward"]].assign(
        text=sampled["answer"].fillna(sampled["completion"]), valid=sampled["answer"].notna()
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
    """Answer one query with DuckDB, which can read these tables and nothing else.

    Raises:
        InputError: DuckDB is not installed, or refuses the query; with its message and the columns.
    """
    try:
        import duckdb
    except ImportError:
        raise InputError(
            f"--sql needs DuckDB, which is not installed: {install_command('sql')}"
        ) from None
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    problem = ""
    try:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET enable_external_access = false")  # files, network, extensions
        connection.execute("SET lock_configuration = true")  # a query cannot undo it
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            problem = (
                f"expected one statement, found {len(statements)}. Give one SELECT; use WITH for "
                "several steps."
            )
        elif statements[0].type != duckdb.StatementType.SELECT:
            problem = (
                f"{str(statements[0].type).rpartition('.')[2]} is not allowed: queries only read. "
                "Give a SELECT (also WITH, FROM, DESCRIBE or SUMMARIZE)."
            )
        else:
            answer: pa.Table = connection.sql(sql).to_arrow_table()
            return answer
    except duckdb.Error as error:  # with the columns of the tables that the query mentions
        mentioned = [name for name in tables if name in sql] or list(tables)[:1]
        lines = [f"Columns of {name}: {', '.join(tables[name].schema.names)}" for name in mentioned]
        rest = [name for name in tables if name not in mentioned]
        lines += [f"Other tables: {', '.join(rest)}"] if rest else []
        problem = "\n".join([str(error).strip(), *lines])
    finally:
        connection.close()
    raise InputError(f"--sql: {problem}")
