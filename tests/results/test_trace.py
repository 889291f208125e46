import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.results import TraceWriter, find_trace, read_orphans, read_trace, trace_schema
from chemkl.results import trace as trace_module
from chemkl.results.trace import list_parts, part_name, read_settled


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing after it runs in the writer."""


def step_rows(step, n=3, **changes):
    """Rows of one step; the first is invalid, the second a repeat, the third spends a call."""
    valid = np.array([i % 3 != 0 for i in range(n)])
    columns = {
        "step": step,
        "row": range(n),
        "call": [step * n + i if i % 3 == 2 else None for i in range(n)],
        "smiles": [f"C{'C' * i}" for i in range(n)],
        "canonical_smiles": [f"C{'C' * i}" if valid[i] else None for i in range(n)],
        "valid": valid,
        "reason": [None if valid[i] else "does not parse" for i in range(n)],
        "repeat": [i % 3 == 1 for i in range(n)],
        "scaffold": ["" if valid[i] else None for i in range(n)],
        "n_tokens": range(2, 2 + n),
        "logp_policy": -1.5,
        "logp_ref": -2.5,
        "raw_qed": [0.5 if valid[i] else np.nan for i in range(n)],
        "score_qed": [0.25 if valid[i] else np.nan for i in range(n)],
        "reward": [0.25 if valid[i] else 0.0 for i in range(n)],
        "reward_filtered": 0.0,
        "log_target": -3.0,
        "hit": False,
        "anchor": False,
        "is_replay": False,
    }
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


def test_rows_come_back_as_written(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(4))
    frame = read_trace(tmp_path)
    assert list(frame.columns) == trace_schema(["qed"]).names
    assert steps_of(tmp_path) == expected_rows(range(4))
    first = frame.iloc[0]
    assert not first["valid"]
    assert pd.isna(first["canonical_smiles"])
    assert np.isnan(first["raw_qed"])
    assert frame["call"].dropna().tolist() == [2, 5, 8, 11]
    assert frame["call"].dtype == "Int64"
    assert frame["logp_ref"].tolist() == [-2.5] * 12


def test_order_is_step_then_row_even_if_a_step_was_appended_shuffled(tmp_path):
    trace = writer(tmp_path)
    trace.append(step_rows(0).iloc[[2, 0, 1]])
    trace.cut()
    assert read_trace(tmp_path)["row"].tolist() == [0, 1, 2]


def test_pandas_and_pyarrow_read_the_folder_unaided(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(6))
    trace.append(step_rows(6))  # waiting in memory: not on disk yet
    own = read_trace(tmp_path)
    by_pandas = pd.read_parquet(tmp_path / "trace")
    by_arrow = ds.dataset(tmp_path / "trace").to_table().to_pandas()
    assert len(by_pandas) == len(by_arrow) == len(own) == 18
    assert by_pandas["step"].tolist() == own["step"].tolist()
    assert by_arrow["smiles"].tolist() == own["smiles"].tolist()


def test_every_part_says_its_run_its_config_and_its_columns(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(2))
    schema = pq.read_schema(next((tmp_path / "trace").iterdir()))
    assert schema.metadata[b"run_id"] == b"run-1"
    assert schema.metadata[b"config_hash"] == b"abc"
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.field("raw_qed").nullable
    assert not schema.field("reward").nullable


def test_parts_that_are_merged_while_they_are_read_are_read_anew(tmp_path, monkeypatch):
    trace = writer(tmp_path)
    write_steps(trace, range(6))
    (last,) = (part for part in list_parts(tmp_path) if part.last == 5)
    reading = trace_module.read_part

    def meanwhile(path, *columns):
        if path == last.path:
            monkeypatch.setattr(trace_module, "read_part", reading)
            trace.compact()
        return reading(path, *columns)

    monkeypatch.setattr(trace_module, "read_part", meanwhile)
    assert steps_of(tmp_path) == expected_rows(range(6))
    assert not last.path.exists()


def test_what_fails_for_another_reason_is_not_read_again(tmp_path):
    write_steps(writer(tmp_path), range(2))
    reads = []

    def read():
        reads.append(1)
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        read_settled(tmp_path, read)
    assert reads == [1]


def test_missing_and_unknown_columns_are_named(tmp_path):
    trace = writer(tmp_path)
    frame = step_rows(0).drop(columns="reward").assign(extra=1)
    with pytest.raises(ValueError, match=r"missing columns \['reward'\], unknown columns \['ext"):
        trace.append(frame)


def test_a_null_where_none_is_allowed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="reward"):
        writer(tmp_path).append(step_rows(0, reward=None))


def test_a_step_cannot_be_written_twice(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(2))
    with pytest.raises(ValueError, match=r"already reaches step 1; call resume\(at_step=1\)"):
        writer(tmp_path).append(step_rows(1))


def test_a_kill_between_writing_and_renaming_leaves_the_earlier_parts(tmp_path, monkeypatch):
    trace = writer(tmp_path)
    write_steps(trace, range(2))
    trace.append(step_rows(2))

    def killed(written, _final):
        shutil.copytree(Path(written).parent, tmp_path / "left")  # a kill cleans nothing up
        raise KilledError

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KilledError):
        trace.cut()
    monkeypatch.undo()
    (tmp_path / "left").rename(tmp_path / ".tmp")
    assert list((tmp_path / ".tmp").glob("part-*"))  # it was written, and never came in
    assert steps_of(tmp_path) == expected_rows(range(2))
    assert len(pd.read_parquet(tmp_path / "trace")) == 6
    again = writer(tmp_path)
    again.resume(at_step=2)
    write_steps(again, range(2, 4))
    assert steps_of(tmp_path) == expected_rows(range(4))


def test_resume_sets_later_parts_aside_and_overwrites_none(tmp_path):
    trace = writer(tmp_path)
    for _ in range(3):
        write_steps(trace, range(trace.last_step + 1 if trace.last_step else 0, 6))
        trace.resume(at_step=2)
    assert steps_of(tmp_path) == expected_rows(range(2))
    orphans = sorted(p.name for p in (tmp_path / ".orphan").iterdir())
    assert [name.split("-")[0] for name in orphans] == [
        "0001",
        "0002",
        "0003",
        "0004",
        "0005",
        "0006",
    ]
    assert sorted(set(read_orphans(tmp_path)["step"])) == [2, 3, 4, 5]
    assert read_orphans(tmp_path)["reward"].notna().all()


def test_no_orphans_is_none(tmp_path):
    assert read_orphans(tmp_path) is None


def test_resume_within_a_part_keeps_its_earlier_rows(tmp_path):
    trace = writer(tmp_path)
    write_steps(trace, range(6))
    trace.compact()
    trace.resume(at_step=3)
    assert steps_of(tmp_path) == expected_rows(range(3))
    assert sorted(set(read_orphans(tmp_path)["step"])) == [3, 4, 5]
    assert trace.last_step == 2


def test_resume_drops_waiting_rows(tmp_path):
    trace = writer(tmp_path)
    trace.append(step_rows(0))
    trace.resume(at_step=0)
    assert trace.cut() is None
    assert trace.last_step is None


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


@pytest.mark.parametrize("operation", ["compact", "resume"])
@pytest.mark.parametrize("at", range(8))
def test_a_kill_at_any_rename_neither_doubles_nor_loses_rows(tmp_path, monkeypatch, operation, at):
    trace = writer(tmp_path)
    write_steps(trace, range(6), per_part=4)
    trace.cut()
    calls = iter(range(100))
    real = os.replace

    def dies_at_one(*args):
        if next(calls) == at:
            raise KilledError
        real(*args)

    monkeypatch.setattr(os, "replace", dies_at_one)
    act = trace.compact if operation == "compact" else lambda: trace.resume(at_step=3)
    try:
        act()
    except KilledError:
        survived = False
    else:
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


def test_a_trace_of_another_config_is_refused(tmp_path):
    write_steps(writer(tmp_path), range(2))
    with pytest.raises(InputError, match=r"part-.*: written under config abc, not other.*--fresh"):
        writer(tmp_path, config_hash="other")


def test_parts_of_two_configs_are_refused_by_the_reader(tmp_path):
    write_steps(writer(tmp_path / "a"), range(2))
    write_steps(writer(tmp_path / "b", config_hash="other"), range(4))
    name = "part-00000002-00000003.parquet"
    os.replace(tmp_path / "b" / "trace" / name, tmp_path / "a" / "trace" / name)
    with pytest.raises(InputError, match=rf"{name}: written under config other, not abc"):
        read_trace(tmp_path / "a")


def test_parts_with_other_components_are_refused(tmp_path):
    write_steps(writer(tmp_path), range(2))
    other = TraceWriter(tmp_path, ["logp"], "run-1", "abc")
    other.append(step_rows(2).rename(columns={"raw_qed": "raw_logp", "score_qed": "score_logp"}))
    other.cut()
    with pytest.raises(InputError, match=r"components logp; that of the parts .* has qed\. "):
        read_trace(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_an_empty_or_truncated_part_is_named(tmp_path, keep):
    trace = writer(tmp_path)
    write_steps(trace, range(4))
    part = list_parts(tmp_path)[1].path
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"{part.name}: not a readable .*{keep} bytes.*restore"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match=rf"{part.name}: not a readable"):
        writer(tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [(0, "steps before 2 is missing"), (1, "steps 2 to 3 is missing between")],
)
def test_a_missing_part_is_named(tmp_path, gone, message):
    write_steps(writer(tmp_path), range(6))
    list_parts(tmp_path)[gone].path.unlink()
    with pytest.raises(InputError, match=message):
        read_trace(tmp_path)


def test_overlapping_parts_are_refused(tmp_path):
    write_steps(writer(tmp_path), range(4))
    folder = tmp_path / "trace"
    (folder / "part-00000001-00000001.parquet").write_bytes(
        list_parts(tmp_path)[0].path.read_bytes()
    )
    with pytest.raises(InputError, match=r"part-00000001.*overlaps"):
        read_trace(tmp_path)


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no parts .* no trace to read"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="no such run folder"):
        read_trace(tmp_path / "nowhere")


def test_columns_can_be_chosen(tmp_path):
    write_steps(writer(tmp_path), range(2))
    assert list(read_trace(tmp_path, ["smiles", "reward"]).columns) == ["smiles", "reward"]
    with pytest.raises(InputError, match=r"no column \['price'\]. Known: step, row"):
        read_trace(tmp_path, ["price"])


def rewrite(path, change):
    """What a user does: read a part by pandas, change it, write it back."""
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def test_a_column_of_yours_is_kept_and_harms_nothing(tmp_path):
    write_steps(writer(tmp_path), range(4))
    before = read_trace(tmp_path)
    for part in list_parts(tmp_path):
        rewrite(part.path, lambda frame: frame.assign(note=frame["row"] * 10)[["note", *frame]])
    after = read_trace(tmp_path)
    pd.testing.assert_frame_equal(after[list(before)], before)
    assert after.columns[-1] == "note"
    assert after["note"].tolist() == [0, 10, 20] * 4
    assert read_trace(tmp_path, ["note", "reward"]).columns.tolist() == ["note", "reward"]


def test_a_column_that_some_parts_have_is_empty_in_the_others(tmp_path):
    write_steps(writer(tmp_path), range(4))
    table = pq.read_table(list_parts(tmp_path)[1].path)
    table = table.append_column("note", [["good"] * len(table)])
    pq.write_table(table, list_parts(tmp_path)[1].path)
    assert read_trace(tmp_path)["note"].fillna("").tolist() == [""] * 6 + ["good"] * 6


def test_a_column_of_yours_has_one_type(tmp_path):
    write_steps(writer(tmp_path), range(4))
    for part, note in zip(list_parts(tmp_path), ("good", 1), strict=True):
        table = pq.read_table(part.path)
        pq.write_table(table.append_column("note", [[note] * len(table)]), part.path)
    with pytest.raises(InputError, match=r"trace: the parts do not fit .*note.*one type in all"):
        read_trace(tmp_path)
    assert len(read_trace(tmp_path, ["reward"])) == 12  # not asked for, not in the way


@pytest.mark.parametrize("gone", [["reward"], ["call", "score_qed"]])
def test_missing_columns_are_named_before_a_row_is_read(tmp_path, gone):
    write_steps(writer(tmp_path), range(4))
    part = list_parts(tmp_path)[1].path
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(gone), part)
    for read in (read_trace, find_trace):
        with pytest.raises(InputError, match=rf"{part.name}: .*missing columns: {', '.join(gone)}"):
            read(tmp_path)


def test_a_column_of_another_type_is_named(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    rewrite(part, lambda frame: frame.assign(reward=frame["reward"].astype(str)))
    with pytest.raises(InputError, match=r"reward holds large_string, expected double"):
        read_trace(tmp_path)


def test_a_number_that_does_not_fit_is_named(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    rewrite(part, lambda frame: frame.assign(call=frame["call"] + 0.5))
    with pytest.raises(InputError, match=r"part-.*: the column call does not hold int64 \(.*2\.5"):
        read_trace(tmp_path)


def test_empty_cells_where_none_may_be_are_counted(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    rewrite(part, lambda frame: frame.assign(reward=frame["reward"].where(frame["row"] == 0)))
    with pytest.raises(InputError, match=r"part-.*: 4 of 6 cells of the column reward are empty"):
        read_trace(tmp_path)


def test_a_damaged_page_is_found_though_the_end_of_the_file_is_whole(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    file = pq.ParquetFile(part)
    index = file.schema_arrow.names.index("logp_policy")
    column = file.metadata.row_group(0).column(index)
    last = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    content = bytearray(part.read_bytes())
    content[last - 2] ^= 0xFF  # within the data of a page
    part.write_bytes(content)
    assert len(find_trace(tmp_path)) == 1
    with pytest.raises(InputError, match=rf"{part.name}: not a readable .*restore it from a copy"):
        read_trace(tmp_path)


@pytest.mark.parametrize("stray", ["notes.txt", ".DS_Store", "part-0-1.parquet.bak"])
def test_a_stray_file_does_no_harm(tmp_path, stray):
    write_steps(writer(tmp_path), range(2))
    (tmp_path / "trace" / stray).write_text("?")
    (tmp_path / "trace" / "folder").mkdir()
    assert steps_of(tmp_path) == expected_rows(range(2))


@pytest.mark.parametrize("stray", ["mine.parquet", "part-00000000-00000001 (1).parquet"])
def test_stray_rows_are_refused(tmp_path, stray):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    part.with_name(stray).write_bytes(part.read_bytes())
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path)
    assert f"{tmp_path / 'trace'}: {stray}: not a part of a trace" in str(caught.value)
    assert "Move it to another folder." in str(caught.value)


def test_a_trace_without_rows_is_an_empty_table(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[0].path
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    frame = read_trace(tmp_path)
    assert (len(frame), list(frame.columns)) == (0, trace_schema(["qed"]).names)
    assert frame["call"].dtype == "Int64"


def test_a_copy_of_a_part_under_another_name_is_refused(tmp_path):
    write_steps(writer(tmp_path), range(4))
    part = list_parts(tmp_path)[-1]
    copy = part.path.with_name(part_name(part.last + 1, part.last + 4))
    copy.write_bytes(part.path.read_bytes())
    with pytest.raises(InputError, match=rf"{copy.name}: holds the steps {part.first} to"):
        find_trace(tmp_path)


def test_a_reward_that_is_no_number_is_refused(tmp_path):
    write_steps(writer(tmp_path), range(2))
    part = list_parts(tmp_path)[-1]
    table = pq.read_table(part.path)
    spoilt = pa.array([float("nan")] * len(table))
    table = table.set_column(table.column_names.index("reward"), "reward", spoilt)
    pq.write_table(table, part.path)
    with pytest.raises(InputError, match=r"cells of the column reward are empty or NaN"):
        read_trace(tmp_path)
