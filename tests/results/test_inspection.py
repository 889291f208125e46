"""Runs looked into: counts by hand, and messages that say what there is instead."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.results import Manifest, TraceWriter, described_schema, description_of, inspection
from chemkl.results.inspection import (
    Counts,
    count,
    first_scorings,
    open_run,
    read_head,
    tables_of,
)

STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("c1ccccc1C", 0.9)],
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.8), ("OCC", 0.3), ("CCN", 0.85)],
]
"""One invalid string, two repeats in another spelling, five molecules, two scaffolds."""


@pytest.fixture
def run(tmp_path, write_run):
    return write_run(tmp_path / "run", STEPS)


def test_counts(run):
    # hits at .8: toluene, ethylbenzene, methylcyclohexane, ethylamine; benzene and cyclohexane
    expected = Counts(
        rows=8,
        valid=7,
        distinct=5,
        calls=5,
        failed=0,
        scaffolds=2,
        hits=4,
        hit_scaffolds=2,
        best=0.95,
    )
    assert count(open_run(run).frame, 0.8) == expected
    at_90 = count(open_run(run).frame, 0.9)
    assert (at_90.hits, at_90.hit_scaffolds) == (2, 1)
    without = count(open_run(run).frame)
    assert (without.hits, without.hit_scaffolds, without.rows) == (None, None, 8)


def test_replayed_rows_are_not_counted_and_failures_are(run):
    frame = open_run(run).frame
    frame.loc[frame["smiles"] == "CCN", "is_replay"] = True
    frame.loc[frame["smiles"] == "CCO", "reason"] = "qed: failed"
    counts = count(frame, 0.8)
    assert (counts.rows, counts.valid, counts.distinct, counts.calls) == (7, 6, 4, 4)
    assert (counts.hits, counts.failed) == (3, 1)


def test_a_trace_without_a_molecule_can_be_counted(tmp_path, write_run):
    run = open_run(write_run(tmp_path / "run", [[("C1CC", 0.0), ("xx", 0.0)]]))
    counts = count(run.frame, 0.8)
    assert (counts.rows, counts.valid, counts.calls, counts.hits) == (2, 0, 0, 0)
    assert counts.best is None
    assert first_scorings(run.frame).empty


def test_first_scorings_come_in_the_order_of_their_calls(run):
    shuffled = open_run(run).frame.sample(frac=1, random_state=1)
    rows = first_scorings(shuffled)
    assert rows["call"].tolist() == [1, 2, 3, 4, 5]
    assert rows["smiles"].tolist() == ["Cc1ccccc1", "CCO", "CCc1ccccc1", "CC1CCCCC1", "CCN"]
    assert first_scorings(shuffled, 0.85)["call"].tolist() == [1, 3, 5]


def test_what_is_known_of_a_run(run):
    opened = open_run(run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert opened.identity["run_id"] == manifest["run_id"]
    assert opened.identity["config_hash"] == manifest["config_hash"]
    assert opened.threshold == 0.8
    assert opened.n_parts == 1
    assert all(description_of(field) for field in opened.schema)
    (run / "manifest.json").unlink()
    assert open_run(run).manifest is None
    assert open_run(run).threshold is None
    assert open_run(run).identity["run_id"] == manifest["run_id"]


@pytest.mark.parametrize(
    "target", [{"kind": "gibbs"}, {"kind": "mara", "tau": None, "tau_quantile": 0.9}, "gibbs", None]
)
def test_a_target_without_a_fixed_tau_has_no_threshold(tmp_path, write_run, target):
    assert open_run(write_run(tmp_path / "run", STEPS, {"target": target})).threshold is None


def test_further_columns_of_a_trace_keep_their_meaning(run):
    (part,) = (run / "trace").iterdir()
    table = pq.read_table(part)
    notes = pa.array([f"note {i}" for i in range(len(table))])
    field = pa.field("note", pa.string(), metadata={"description": "Yours."})
    pq.write_table(table.append_column(field, notes), part)
    opened = open_run(run)
    assert opened.schema.names[-1] == "note"
    assert description_of(opened.schema.field("note")) == "Yours."
    assert tables_of(run)["trace"]["note"].to_pylist() == notes.to_pylist()


def test_a_run_whose_parts_are_merged_meanwhile_is_opened_anew(tmp_path, make_trace, monkeypatch):
    writer = TraceWriter(tmp_path, ["qed"], run_id="run-1", config_hash="abc")
    trace = make_trace(STEPS)
    for step in range(len(STEPS)):
        writer.append(trace[trace["step"] == step])
        writer.cut()
    reading = inspection.read_part_schema

    def meanwhile(path):
        monkeypatch.setattr(inspection, "read_part_schema", reading)
        writer.compact()
        return reading(path)

    monkeypatch.setattr(inspection, "read_part_schema", meanwhile)
    opened = open_run(tmp_path)
    assert opened.n_parts == 1  # not the two that were listed at first
    assert len(opened.frame) == 8


# ---- tables


def test_the_tables_of_a_run_are_the_trace_and_those_of_its_evaluation(run):
    schema = described_schema({"run": (pa.string(), "Name."), "yield": (pa.int64(), "Hits.")})
    (run / "evaluation").mkdir()
    table = pa.table({"run": ["a"], "yield": [3]}, schema=schema)
    pq.write_table(table, run / "evaluation" / "diversity.parquet")
    pq.write_table(table, run / "evaluation" / ".half.parquet")
    tables = tables_of(run)
    assert list(tables) == ["trace", "diversity"]
    assert tables["trace"].num_rows == 8
    assert tables["trace"]["call"].to_pylist() == [1, 2, None, None, 3, 4, None, 5]
    assert tables["diversity"].to_pylist() == [{"run": "a", "yield": 3}]
    shutil.rmtree(run / "trace")
    assert list(tables_of(run)) == ["diversity"]
    assert list(tables_of(run / "evaluation" / "diversity.parquet")) == ["diversity"]


def test_the_head_of_a_file(tmp_path):
    path = tmp_path / "a.parquet"
    schema = described_schema({"n": (pa.int64(), "A number.")})
    pq.write_table(pa.table({"n": range(10)}, schema=schema), path, row_group_size=3)
    head, n_rows = read_head(path, 2)
    assert head["n"].to_pylist() == [0, 1]
    assert n_rows == 10
    assert description_of(head.schema.field("n")) == "A number."
    head, n_rows = read_head(path, 0)
    assert (len(head), n_rows, head.schema.names) == (0, 10, ["n"])
    pq.write_table(pa.table({"n": []}, schema=schema), path)
    head, n_rows = read_head(path, 5)
    assert (len(head), n_rows) == (0, 0)


# ---- mistakes


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such run folder\. Give the folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere: no such run folder"):
        tables_of(tmp_path / "nowhere")


def test_a_folder_without_a_trace_says_what_there_is(tmp_path, write_run):
    for number in range(12):
        write_run(tmp_path / "many" / f"run-{number:02d}", [[("CCO", 0.1)]])
    with pytest.raises(InputError, match=r"many: no parts .*\nRuns in it: .*run-00, .* and 2 more"):
        open_run(tmp_path / "many")
    run = tmp_path / "many" / "run-00"
    with pytest.raises(InputError, match=rf"no trace to read.*\nFix: .*give {run}"):
        open_run(run / "trace")
    (tmp_path / "table").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "table" / "diversity.parquet")
    with pytest.raises(InputError, match=r"\nTables in it, .*diversity.parquet"):
        open_run(tmp_path / "table")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"^\S*empty: no parts [^\n]*$"):
        open_run(tmp_path / "empty")


def test_a_run_that_ended_before_its_first_part_says_how(tmp_path):
    with Manifest.start(tmp_path / "run", stage="posttrain", config={}) as manifest:
        manifest.finish("interrupted", ended_by="KeyboardInterrupt")
    with pytest.raises(InputError, match=r"It holds posttrain, interrupted: KeyboardInterrupt\."):
        inspection.open_run(tmp_path / "run")


def test_an_empty_trace(run):
    (part,) = (run / "trace").iterdir()
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    with pytest.raises(InputError, match=r"run/trace: the trace is empty"):
        open_run(run)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all" * 100])
def test_a_damaged_file_is_named(run, content):
    (part,) = (run / "trace").iterdir()
    part.write_bytes(content)
    for look in (open_run, tables_of):
        with pytest.raises(InputError, match=rf"{part.name}: not a readable Parquet file"):
            look(run)
    with pytest.raises(InputError, match=rf"{part.name}: not a readable Parquet file"):
        read_head(part, 3)
