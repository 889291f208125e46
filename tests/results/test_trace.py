"""The trace: parts on disk through kills, resumes and damage, and what other readers see."""

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.results import TraceWriter, find_trace, read_orphans, read_trace, trace_schema
from chemkl.results import trace as trace_module
from chemkl.results.trace import list_parts, read_settled


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing after it runs in the writer."""


def step_rows(step, n=3, **changes):
    """Rows of one step; the first is invalid, the second a repeat, the third spends a call."""
    valid = np.array([i % 3 != 0 for i in range(n)])
    columns = {
        "step": step, "row": range(n),
        "call": [step * n + i if i % 3 == 2 else None for i in range(n)],
        "smiles": [f"C{'C' * i}" for i in range(n)],
        "canonical_smiles": [f"C{'C' * i}" if valid[i] else None for i in range(n)],
        "valid": valid, "reason": [None if ok else "does not parse" for ok in valid],
        "repeat": [i % 3 == 1 for i in range(n)], "scaffold": ["" if ok else None for ok in valid],
        "n_tokens": range(2, 2 + n), "logp_policy": -1.5, "logp_ref": -2.5,
        "raw_qed": [0.5 if ok else np.nan for ok in valid],
        "score_qed": [0.25 if ok else np.nan for ok in valid],
        "reward": [0.25 if ok else 0.0 for ok in valid], "reward_filtered": 0.0,
        "log_target": -3.0, "hit": False, "anchor": False, "is_replay": False,
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


def writer(run_dir, config_hash="abc"):
    return TraceWriter(run_dir, ["qed"], run_id="run-1", config_hash=config_hash)


def write_steps(trace, steps, per_part=2):
    for step in steps:
        trace.append(step_rows(step))
        if step % per_part == per_part - 1:
            trace.cut()


def steps_of(run_dir):
    frame = read_trace(run_dir)
    return sorted(zip(frame["step"], frame["row"], strict=True))


def expected_rows(steps):
    return [(s, r) for s in steps for r in range(3)]


def test_rows_are_read_as_written_in_the_order_of_their_steps(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(3))
    trace.append(step_rows(3).iloc[[2, 0, 1]])
    trace.cut()
    trace.append(step_rows(4))  # in memory, not on disk yet
    frame = read_trace(tmp_path)
    assert list(frame.columns) == trace_schema(["qed"]).names
    assert list(zip(frame["step"], frame["row"], strict=True)) == expected_rows(range(4))
    first = frame.iloc[0]
    assert not first["valid"]
    assert pd.isna(first["canonical_smiles"])
    assert np.isnan(first["raw_qed"])
    assert frame["call"].dropna().tolist() == [2, 5, 8, 11]
    assert frame["logp_ref"].tolist() == [-2.5] * 12
    schema = pq.read_schema(next((tmp_path / "trace").iterdir()))
    assert (schema.metadata[b"run_id"], schema.metadata[b"config_hash"]) == (b"run-1", b"abc")
    assert all(field.metadata[b"description"] for field in schema)
    assert (schema.field("raw_qed").nullable, schema.field("reward").nullable) == (True, False)
    with pytest.raises(InputError, match=r"part-.*: written under config abc, not other.*--fresh"):
        writer(tmp_path, config_hash="other")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (lambda: step_rows(2).drop(columns="reward").assign(extra=1),
         r"missing columns \['reward'\], unknown columns \['ext"),
        (lambda: step_rows(2, reward=None), "reward"),
        (lambda: step_rows(1), r"already reaches step 1; call resume\(at_step=1\)"),
    ],
)  # fmt: skip
def test_wrong_rows_are_refused(tmp_path, frame, why):
    write_steps(writer(tmp_path), range(2))
    with pytest.raises(ValueError, match=why):
        writer(tmp_path).append(frame())


def test_parts_that_are_merged_during_reading_are_read_again(tmp_path, monkeypatch):
    trace = writer(tmp_path)
    write_steps(trace, range(6))
    (last,) = (part for part in list_parts(tmp_path) if part.last == 5)
    read_part = trace_module.read_part

    def merge_and_read(path, *columns):
        if path == last.path:
            monkeypatch.setattr(trace_module, "read_part", read_part)
            trace.compact()
        return read_part(path, *columns)

    monkeypatch.setattr(trace_module, "read_part", merge_and_read)
    assert steps_of(tmp_path) == expected_rows(range(6))
    assert not last.path.exists()
    read = Mock(side_effect=InputError("damaged"))
    with pytest.raises(InputError, match="damaged"):
        read_settled(tmp_path, read)
    assert read.call_count == 1  # another failure is not read again


def test_a_kill_between_writing_and_renaming_leaves_the_earlier_parts(tmp_path, monkeypatch):
    trace = writer(tmp_path)
    write_steps(trace, range(2))
    trace.append(step_rows(2))

    def killed(draft, _final):
        shutil.copytree(Path(draft).parent, tmp_path / "left")  # a kill cleans nothing up
        raise KilledError

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KilledError):
        trace.cut()
    monkeypatch.undo()
    (tmp_path / "left").rename(tmp_path / ".tmp")
    assert list((tmp_path / ".tmp").glob("part-*"))  # it was written, and never moved into place
    assert steps_of(tmp_path) == expected_rows(range(2))
    assert len(pd.read_parquet(tmp_path / "trace")) == 6
    again = writer(tmp_path)
    again.resume(at_step=2)
    write_steps(again, range(2, 4))
    assert steps_of(tmp_path) == expected_rows(range(4))


def test_resume_sets_later_parts_aside_and_overwrites_none(tmp_path):
    trace = writer(tmp_path)
    trace.append(step_rows(0))
    trace.resume(at_step=0)  # drops rows in memory
    assert (trace.cut(), trace.last_step, read_orphans(tmp_path)) == (None, None, None)
    for _ in range(3):
        write_steps(trace, range(trace.last_step + 1 if trace.last_step else 0, 6))
        trace.resume(at_step=2)
    assert steps_of(tmp_path) == expected_rows(range(2))
    orphans = sorted(p.name for p in (tmp_path / ".orphan").iterdir())
    assert [name.split("-")[0] for name in orphans] == [f"{n:04d}" for n in range(1, 7)]
    assert sorted(set(read_orphans(tmp_path)["step"])) == [2, 3, 4, 5]
    assert read_orphans(tmp_path)["reward"].notna().all()


@pytest.mark.parametrize(
    ("steps", "at_step", "kept", "orphans"),
    [(range(4), 5, [0, 1, 2, 3], None), (range(4, 8), 3, [], [4, 5, 6, 7])],
    ids=["nothing comes after", "nothing comes before"],
)
def test_resume_repairs_a_part_whose_name_has_other_steps_than_its_rows(
    tmp_path, steps, at_step, kept, orphans
):
    write_steps(writer(tmp_path), steps, per_part=4)
    (part,) = list_parts(tmp_path)
    part.path.rename(part.path.with_name("part-00000001-00000009.parquet"))
    trace = writer(tmp_path)
    trace.resume(at_step)
    assert trace.last_step == (kept[-1] if kept else None)
    rows = read_orphans(tmp_path)
    assert (rows if orphans is None else sorted(set(rows["step"]))) == orphans
    write_steps(trace, range(len(kept), 8))
    assert steps_of(tmp_path) == expected_rows(range(8))


def test_compact_makes_one_part_with_the_same_rows(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(6))
    before = read_trace(tmp_path)
    trace.append(step_rows(6))
    trace.compact()
    assert [p.name for p in (tmp_path / "trace").iterdir()] == ["part-00000000-00000006.parquet"]
    pd.testing.assert_frame_equal(read_trace(tmp_path).iloc[:18], before)
    write_steps(trace, range(7, 8))
    assert steps_of(tmp_path) == expected_rows(range(8))
    trace.compact()
    trace.resume(at_step=3)  # within the part, which keeps its earlier rows
    assert steps_of(tmp_path) == expected_rows(range(3))
    assert sorted(set(read_orphans(tmp_path)["step"])) == [3, 4, 5, 6, 7]
    assert trace.last_step == 2


@pytest.mark.parametrize("operation", ["compact", "resume"])
@pytest.mark.parametrize("at", range(8))
def test_a_kill_at_any_rename_neither_doubles_nor_loses_rows(tmp_path, monkeypatch, operation, at):
    trace = writer(tmp_path)
    write_steps(trace, range(6), per_part=4)
    trace.cut()
    calls, real = iter(range(100)), os.replace

    def replace_or_die(*args):
        if next(calls) == at:
            raise KilledError
        real(*args)

    monkeypatch.setattr(os, "replace", replace_or_die)
    act = trace.compact if operation == "compact" else lambda: trace.resume(at_step=3)
    survived = False
    with suppress(KilledError):
        act()
        survived = True  # fewer renames than `at`
    monkeypatch.undo()
    kept = set(steps_of(tmp_path))
    assert len(kept) == len(read_trace(tmp_path))
    allowed = [6] if operation == "compact" else [6, 4, 3]
    assert kept in [set(expected_rows(range(n))) for n in allowed]
    again = writer(tmp_path)
    assert set(steps_of(tmp_path)) == kept
    assert len(pd.read_parquet(tmp_path / "trace")) == len(kept)
    if operation == "resume":
        again.resume(at_step=3)
        assert steps_of(tmp_path) == expected_rows(range(3))
    assert survived or at < 4


def test_columns_of_the_user_are_kept_and_harm_nothing(tmp_path):
    write_steps(writer(tmp_path), range(4))
    (tmp_path / "trace" / "part-0-1.parquet.bak").write_text("?")
    (tmp_path / "trace" / "folder").mkdir()
    before = read_trace(tmp_path)
    assert list(read_trace(tmp_path, ["smiles", "reward"]).columns) == ["smiles", "reward"]
    with pytest.raises(InputError, match=r"no column \['price'\]. Known: step, row"):
        read_trace(tmp_path, ["price"])
    first, second = [part.path for part in list_parts(tmp_path)]
    pd.read_parquet(first).to_parquet(first, index=False)
    frame = pd.read_parquet(second)
    frame.assign(note="good")[["note", *frame]].to_parquet(second, index=False)
    after = read_trace(tmp_path)  # the column is empty where a part lacks it
    pd.testing.assert_frame_equal(after[list(before)], before)
    assert after["note"].fillna("").tolist() == [""] * 6 + ["good"] * 6
    assert read_trace(tmp_path, ["note", "reward"]).columns.tolist() == ["note", "reward"]
    pd.read_parquet(first).assign(note=1).to_parquet(first, index=False)
    with pytest.raises(InputError, match=r"trace: the parts do not fit .*note.*one type in all"):
        read_trace(tmp_path)
    assert len(read_trace(tmp_path, ["reward"])) == 12  # the other column is not read


# ---- parts that do not form one whole


def last(run):
    return list_parts(run)[-1].path


def by_pandas(name, change):
    """Read each part with pandas, change it and write it back, as a user would."""

    def damage(run):
        for part in list_parts(run):
            frame = pd.read_parquet(part.path)
            frame.assign(**{name: change(frame)}).to_parquet(part.path, index=False)

    return damage


def by_arrow(change):
    return lambda run: pq.write_table(change(pq.read_table(last(run))), last(run))


def cut_to(n):
    return lambda run: last(run).write_bytes(last(run).read_bytes()[:n])


def copied(name):
    return lambda run: shutil.copy(last(run), last(run).with_name(name))


def of_another_config(run):
    write_steps(writer(run / "b", config_hash="other"), range(6))
    os.replace(last(run / "b"), last(run))


def of_another_reward(run):
    other = TraceWriter(run, ["logp"], "run-1", "abc")
    other.append(step_rows(6).rename(columns={"raw_qed": "raw_logp", "score_qed": "score_logp"}))
    other.cut()


def damaged_page(run):
    file = pq.ParquetFile(last(run))
    column = file.metadata.row_group(0).column(file.schema_arrow.names.index("logp_policy"))
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    content = bytearray(last(run).read_bytes())
    content[end - 2] ^= 0xFF  # within the data of a page
    last(run).write_bytes(content)


NAME = r"part-00000004-00000005\.parquet"
DAMAGES = {
    # damage to a trace of three parts, message, whether it is found before a row is read
    "another config": (of_another_config, rf"{NAME}: written under config other, not abc", True),
    "another reward": (of_another_reward, "components logp; that of the parts .* has qed", True),
    "nothing in it": (cut_to(0), rf"{NAME}: not a readable .*0 bytes.*restore", True),
    "cut short": (cut_to(7), rf"{NAME}: not a readable .*7 bytes.*restore", True),
    "cut later": (cut_to(1000), rf"{NAME}: not a readable .*1000 bytes.*restore", True),
    "a damaged page": (damaged_page, rf"{NAME}: not a readable .*restore it from a copy", False),
    "no first part": (lambda run: list_parts(run)[0].path.unlink(), "before 2 is missing", True),
    "no second part": (lambda run: list_parts(run)[1].path.unlink(), "2 to 3 is missing bet", True),
    "an overlap": (copied("part-00000005-00000005.parquet"), r"part-00000005.*overlaps", True),
    "a copy": (copied("part-00000006-00000009.parquet"), "holds the steps 4 to 5, not", True),
    "a stray": (copied("mine.parquet"), r"mine\.parquet: not a part .* Move it to another", True),
    "a numbered copy": (copied("part-00000004-00000005 (1).parquet"), r"\(1\).parquet: not", True),
    "a column less": (by_arrow(lambda t: t.drop_columns(["reward"])), "missing columns: rew", True),
    "two columns less": (
        by_arrow(lambda t: t.drop_columns(["call", "score_qed"])), "call, score_qed", True),
    "another type": (by_pandas("reward", lambda f: f["reward"].astype(str)),
        "reward holds large_string, expected double", True),
    "no whole number": (by_pandas("call", lambda f: f["call"] + 0.5),
        r"part-\S+: the column call does not hold int64 \(.*2\.5", False),
    "empty cells": (by_pandas("reward", lambda f: f["reward"].where(f["row"] == 0)),
        r"part-\S+: 4 of 6 cells of the column reward are empty", False),
    "no trace": (lambda run: shutil.rmtree(run / "trace"), "no parts .* no trace to read", True),
    "no folder": (shutil.rmtree, "no such run folder", True),
    "no number": (by_pandas("reward", lambda f: f["reward"] * np.nan), "6 of 6 cells of", False),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "why", "before"), DAMAGES.values(), ids=[*DAMAGES])
def test_a_trace_that_is_not_whole_is_refused(tmp_path, damage, why, before):
    write_steps(writer(tmp_path), range(6))
    damage(tmp_path)
    for read in (read_trace, find_trace) if before else (read_trace,):
        with pytest.raises(InputError, match=why):
            read(tmp_path)
    if not before:
        assert len(find_trace(tmp_path)) == 3
    if "not a readable" in why and before:
        with pytest.raises(InputError, match=why):
            writer(tmp_path)


# ---- pandas, polars, pyarrow and DuckDB read the parts of a trace directly

STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("OCC", 0.3), ("CC1CCCCC1", 0.8), ("xx", 0.0)],
    [("C1CC", 0.0), ("OCC", 0.3), ("CCO", 0.3)],  # a part without a call
]
CALLS = [1, 2, None, None, 3, None, None, None, None]
TYPES = {  # of Arrow, in polars and in DuckDB
    "int32": ("Int32", "INTEGER"), "int64": ("Int64", "BIGINT"), "float": ("Float32", "FLOAT"),
    "double": ("Float64", "DOUBLE"), "string": ("String", "VARCHAR"),
    "bool": ("Boolean", "BOOLEAN"),
}  # fmt: skip


def plain(cell):
    return None if cell is None or cell is pd.NA or cell != cell else cell


def assert_same(rows, run):
    """Compare rows with those of chemkl's reader; a missing cell is None."""
    expected = read_trace(run).to_numpy(dtype=object)
    for row, expected_row in zip(rows, expected, strict=True):
        for cell, value in zip(map(plain, row), map(plain, expected_row), strict=True):
            close = isinstance(value, float) and cell is not None and math.isclose(cell, value)
            assert close or (cell == value and type(cell) is type(value))


@pytest.mark.parametrize("n_parts", [3, 1])
def test_other_readers_read_the_same_rows_with_the_same_types(tmp_path, make_trace, n_parts):
    trace, rows = writer(tmp_path), make_trace(STEPS)
    for step in range(len(STEPS)):
        trace.append(rows[rows["step"] == step])
        trace.cut()
    if n_parts == 1:
        trace.compact()
    folder, glob = tmp_path / "trace", str(tmp_path / "trace" / "*.parquet")
    assert len(list(folder.iterdir())) == n_parts
    assert [plain(call) for call in read_trace(tmp_path)["call"]] == CALLS
    types = {field.name: TYPES[str(field.type)] for field in trace_schema(["qed"])}

    table = polars.read_parquet(glob).sort("step", "row")
    assert {n: str(kind) for n, kind in table.schema.items()} == {n: t[0] for n, t in types.items()}
    assert_same(table.rows(), tmp_path)
    assert polars.read_parquet(folder).shape == table.shape

    query = "select * from read_parquet(?)"
    assert_same(duckdb.execute(f"{query} order by step, row", [glob]).fetchall(), tmp_path)
    described = duckdb.execute(f"describe {query}", [glob]).fetchall()
    assert {n: kind for n, kind, *_ in described} == {n: t[1] for n, t in types.items()}

    nullable = pd.read_parquet(folder, dtype_backend="numpy_nullable")
    kinds = {"call": "Int64", "step": "Int32", "reward": "Float64", "valid": "boolean"}
    assert {name: str(nullable.dtypes[name]) for name in kinds} == kinds
    assert_same(nullable.to_numpy(dtype=object), tmp_path)
    for frame in (pd.read_parquet(folder), ds.dataset(folder).to_table().to_pandas()):
        pd.testing.assert_frame_equal(frame, read_trace(tmp_path))  # calls are Int64, not float64
    assert str(pd.read_parquet(folder, columns=["call"]).dtypes["call"]) == "Int64"
    assert list(pd.read_parquet(folder, columns=["smiles"]).columns) == ["smiles"]
