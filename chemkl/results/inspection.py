"""Looking into what was written: a run's trace with its counts, any Parquet file, and SQL."""

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
    further_columns,
    has_prompts,
    is_cut_off,
    is_text,
    trace_components,
    trace_schema,
)
from chemkl.results.manifest import Manifest
from chemkl.results.trace import (
    FOLDER,
    find_trace,
    list_parts,
    no_trace,
    opened_part,
    read_part,
    read_part_schema,
    read_settled,
    read_trace,
)

TRACE = "trace"
"""What the table of a trace is called in queries."""


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
    threshold: float | None  # the tau of the run, see `Manifest.tau`
    is_text: bool  # whether a language model wrote the rows, with no valid molecule among them


def open_run(folder: str | Path) -> RunTrace:
    """Read the trace of a run and its manifest.

    Raises:
        InputError: no such folder, no trace in it (the message says what there is instead), an
            empty or damaged one, or a damaged manifest.
    """
    folder = Path(folder)

    def read() -> RunTrace:
        problem, frame = "", pd.DataFrame()
        if folder.is_dir() and not list_parts(folder):
            problem = _what_there_is(folder)
        elif (frame := read_trace(folder)).empty:
            problem = f"{folder / FOLDER}: the trace is empty: its parts have no rows"
        if problem:
            raise InputError(problem)
        schemas = [read_part_schema(part.path) for part in find_trace(folder)]
        there, further = frame.columns, further_columns(frame.columns)
        schema = trace_schema(trace_components(there), text=has_prompts(there), further=further)
        meant = {field.name: field.metadata for schema in schemas for field in schema}
        others = frame[[name for name in frame.columns if name not in schema.names]]
        inferred = pa.Schema.from_pandas(others, preserve_index=False)
        kept, keys = schemas[0].metadata or {}, ("run_id", "config_hash", "chemkl_version")
        manifest = Manifest.load(folder)
        return RunTrace(
            folder=folder,
            frame=frame,
            schema=pa.schema([*schema, *(f.with_metadata(meant.get(f.name)) for f in inferred)]),
            identity={key: kept.get(key.encode(), b"").decode() for key in keys},
            n_parts=len(schemas),
            manifest=manifest,
            threshold=manifest.tau if manifest else None,
            is_text=is_text(frame),
        )

    return read_settled(folder, read)


def _what_there_is(folder: Path) -> str:
    """Say of a folder that it has no trace, and what stands in it: the next thing to try."""
    manifest = Manifest.load(folder)
    how = ""
    if manifest is not None:
        why = f": {manifest.ended_by}" if manifest.ended_by else ""
        how = f" It holds {manifest.stage}, {manifest.status}{why}."
    lines = [no_trace(folder, how)]
    if list_parts(folder.parent) and folder.name == FOLDER:
        return f"{lines[0]}\nFix: this is the trace itself; give {folder.parent}"
    runs = sorted(p.parent for p in folder.glob(f"*/{FOLDER}") if p.is_dir())
    tables = _tables_beside(folder)
    titles = {"Runs in it": runs, "Tables in it, which can be shown one by one": tables}
    for title, paths in titles.items():
        if paths:
            more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
            lines.append(f"{title}: {', '.join(map(str, paths[:10]))}{more}")
    return "\n".join(lines)


def _tables_beside(folder: Path) -> list[Path]:
    """The Parquet files of the stages: in the folder itself and under evaluation/."""
    files = [*sorted(folder.glob("*.parquet")), *sorted(folder.glob("evaluation/*.parquet"))]
    return [path for path in files if not path.name.startswith(".")]


def read_head(path: Path, n: int) -> tuple[pa.Table, int]:
    """Read the first n rows of a Parquet file; also say how many it has."""
    with opened_part(path) as file:
        first = islice(file.iter_batches(batch_size=max(n, 1)), 1)
        head = pa.Table.from_batches(first, schema=file.schema_arrow).slice(0, n)
        return head, file.metadata.num_rows


def tables_of(place: str | Path) -> dict[str, pa.Table]:
    """Everything in a run folder that can be queried: `trace`, and the tables beside it by name."""
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
    """How much a run sampled, scored and found; rows from a replay buffer are left out.

    Rows, valid and hit_rows are of the policy's samples, all else is of exploration's too.

    What is distinct are canonical SMILES, or answers, counted for every prompt that they answer.
    """

    rows: int  # sampled sequences
    valid: int  # those that are molecules or have an answer, repeats included
    distinct: int  # different ones among them
    calls: int  # oracle calls spent
    failed: int  # valid rows that could not be scored
    hits: int | None  # distinct, R >= threshold when first scored; None without a threshold
    hit_rows: int | None  # valid rows with R >= threshold; None without a threshold
    best: float | None  # the largest raw reward R; None without one
    scaffolds: int = 0  # distinct non-empty scaffolds of the distinct molecules
    hit_scaffolds: int | None = None  # of the hits; None without a threshold
    prompts: int = 0  # in a run of texts, to which the completions are
    truncated: int = 0  # completions that failed because they had no end
    explored: int = 0  # rows that exploration has proposed, and the policy has not sampled


def count(frame: pd.DataFrame, threshold: float | None = None) -> Counts:
    """Count what a trace holds; molecules, or answers, with R >= threshold are hits."""
    new, sampled, in_text = new_rows(frame), sampled_rows(frame), is_text(frame)
    valid, scored = sampled[sampled["valid"].astype(bool)], first_scorings(frame)
    hits = first_scorings(frame, math.inf if threshold is None else threshold)
    rewards = (valid if in_text else scored)["reward"]
    paid, known = by_final_reward(valid)["reward"], new[new["valid"].astype(bool)]
    counts = Counts(
        rows=len(sampled),
        valid=len(valid),
        distinct=len(known[identity_columns(frame)].drop_duplicates()),
        calls=int(new["call"].count()),
        failed=int(known["reason"].notna().sum()),
        hits=None if threshold is None else len(hits),
        hit_rows=None if threshold is None else int((paid >= threshold).sum()),
        best=float(rewards.max()) if len(rewards) else None,
        explored=len(new) - len(sampled),
    )
    if in_text:
        prompts, cut_off = sampled["group"].nunique(), sum(map(is_cut_off, sampled["reason"]))
        return replace(counts, prompts=prompts, truncated=cut_off)
    scaffolds, of_hits = (len({*rows["scaffold"].dropna()} - {""}) for rows in (scored, hits))
    return replace(
        counts, scaffolds=scaffolds, hit_scaffolds=None if threshold is None else of_hits
    )


def identity_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a trace by which two valid rows are the same."""
    return ["group", "answer"] if is_text(frame) else ["canonical_smiles"]


def new_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that a step brought, sampled or explored, without the memory's."""
    return frame[~frame["is_replay"].astype(bool)]


def sampled_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that the policy sampled, without the memory's and exploration's."""
    new = new_rows(frame)
    return new[new["origin"] == "policy"] if "origin" in new else new


def valid_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the valid samples of the policy in order, repeats included."""
    rows = sampled_rows(frame)
    return rows[rows["valid"].astype(bool)]


def by_final_reward(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows that the reward of the last stage has scored; of a run without stages all."""
    return frame[frame["final_reward"].astype(bool)] if "final_reward" in frame else frame


def first_scorings(frame: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Take the rows at which each distinct molecule was first scored, by the order of calls.

    What only a reward of earlier stages has scored is left out.
    """
    new = by_final_reward(new_rows(frame))
    scored = new[new["call"].notna()]
    if threshold is not None:
        scored = scored[scored["reward"] >= threshold]
    return scored.sort_values("call", kind="stable")


def frequent_answers(frame: pd.DataFrame, top: int) -> pd.DataFrame:
    """Find what was answered most often to each prompt.

    Completions with the same valid answer are one; of the others the whole completion stands.

    Returns:
        Columns group, prompt, text, valid, n, share (of the prompt's completions) and mean_reward
        (of these n); prompts by number, the most frequent text first, at equal n the earlier one.
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
    """Answer one query by DuckDB, which sees these tables and nothing else.

    Raises:
        InputError: DuckDB is not installed, or refuses the query; with its own words and the
            columns that there are.
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
