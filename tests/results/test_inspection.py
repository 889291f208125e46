"""Runs read back: counts by hand, messages that list what a folder has instead, and SQL."""

import json
import shutil
import sys
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.results import (
    Manifest,
    TraceWriter,
    described_schema,
    description_of,
    inspection,
    trace_schema,
)
from chemkl.results.inspection import (
    Counts,
    count,
    first_scorings,
    frequent_answers,
    open_run,
    read_head,
    run_sql,
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


def only_part(run):
    (part,) = (run / "trace").iterdir()
    return part


def test_counts(tmp_path, run, write_run):
    # hits at .8: toluene (twice), ethylbenzene, methylcyclohexane, ethylamine; two rings
    expected = Counts(
        rows=8, valid=7, distinct=5, calls=5, failed=0, scaffolds=2, hits=4, hit_rows=5,
        hit_scaffolds=2, best=0.95,
    )  # fmt: skip
    frame = open_run(run).frame
    assert count(frame, 0.8) == expected
    assert (count(frame, 0.9).hits, count(frame, 0.9).hit_scaffolds) == (2, 1)
    assert count(frame) == replace(expected, hits=None, hit_rows=None, hit_scaffolds=None)
    frame.loc[frame["smiles"] == "CCN", "is_replay"] = True
    frame.loc[frame["smiles"] == "CCO", "reason"] = "qed: failed"
    counts = count(frame, 0.8)
    assert (counts.rows, counts.valid, counts.distinct, counts.calls) == (7, 6, 4, 4)
    assert (counts.hits, counts.failed) == (3, 1)
    bad = open_run(write_run(tmp_path / "bad", [[("C1CC", 0.0), ("xx", 0.0)]])).frame
    assert count(bad, 0.8) == Counts(2, 0, 0, 0, 0, 0, 0, None, hit_scaffolds=0)
    assert first_scorings(bad).empty


def test_first_scorings_are_in_the_order_of_their_calls(run):
    shuffled = open_run(run).frame.sample(frac=1, random_state=1)
    rows = first_scorings(shuffled)
    assert rows["call"].tolist() == [1, 2, 3, 4, 5]
    assert rows["smiles"].tolist() == ["Cc1ccccc1", "CCO", "CCc1ccccc1", "CC1CCCCC1", "CCN"]
    assert first_scorings(shuffled, 0.85)["call"].tolist() == [1, 3, 5]


def test_an_open_run_has_identity_threshold_and_meanings(tmp_path, run, write_run):
    opened, manifest = open_run(run), json.loads((run / "manifest.json").read_text())
    for key in ("run_id", "config_hash"):
        assert opened.identity[key] == manifest[key]
    assert (opened.threshold, opened.n_parts) == (0.8, 1)
    assert all(description_of(field) for field in opened.schema)
    (run / "manifest.json").unlink()
    opened = open_run(run)
    assert (opened.manifest, opened.threshold) == (None, None)
    assert opened.identity["run_id"] == manifest["run_id"]
    targets = [{"kind": "gibbs"}, {"kind": "mara", "tau": None, "tau_quantile": 0.9}, "gibbs", None]
    for number, target in enumerate(targets):  # without a fixed tau
        other = write_run(tmp_path / str(number), STEPS, {"target": target})
        assert open_run(other).threshold is None


def test_additional_columns_keep_their_meaning(run):
    part = only_part(run)
    table = pq.read_table(part)
    notes = pa.array([f"note {i}" for i in range(len(table))])
    field = pa.field("note", pa.string(), metadata={"description": "Yours."})
    pq.write_table(table.append_column(field, notes), part)
    schema = open_run(run).schema
    assert (schema.names[-1], description_of(schema.field("note"))) == ("note", "Yours.")
    assert tables_of(run)["trace"]["note"].to_pylist() == notes.to_pylist()


def test_a_run_whose_parts_are_merged_during_reading_is_read_again(
    tmp_path, make_trace, monkeypatch
):
    writer = TraceWriter(tmp_path, ["qed"], run_id="run-1", config_hash="abc")
    trace = make_trace(STEPS)
    for step in range(len(STEPS)):
        writer.append(trace[trace["step"] == step])
        writer.cut()
    read_schema = inspection.read_part_schema

    def merge_and_read(path):
        monkeypatch.setattr(inspection, "read_part_schema", read_schema)
        writer.compact()
        return read_schema(path)

    monkeypatch.setattr(inspection, "read_part_schema", merge_and_read)
    opened = open_run(tmp_path)
    assert (opened.n_parts, len(opened.frame)) == (1, 8)  # not the two parts listed first


def test_the_tables_of_a_run_are_the_trace_and_those_of_its_evaluation(run):
    schema = described_schema({"run": (pa.string(), "Name."), "yield": (pa.int64(), "Hits.")})
    (run / "evaluation").mkdir()
    table = pa.table({"run": ["a"], "yield": [3]}, schema=schema)
    for name in ("diversity", ".half"):
        pq.write_table(table, run / "evaluation" / f"{name}.parquet")
    tables = tables_of(run)
    assert list(tables) == ["trace", "diversity"]
    assert tables["trace"]["call"].to_pylist() == [1, 2, None, None, 3, 4, None, 5]
    assert tables["diversity"].to_pylist() == [{"run": "a", "yield": 3}]
    shutil.rmtree(run / "trace")
    for place in (run, run / "evaluation" / "diversity.parquet"):
        assert list(tables_of(place)) == ["diversity"]


@pytest.mark.parametrize(
    ("n_rows", "n", "head"), [(10, 2, [0, 1]), (10, 0, []), (0, 5, []), (10, 5, [0, 1, 2, 3, 4])]
)
def test_the_head_of_a_file(tmp_path, n_rows, n, head):
    schema = described_schema({"n": (pa.int64(), "A number.")})
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(n_rows)}, schema=schema), path, row_group_size=3)
    table, total = read_head(path, n)
    assert (table["n"].to_pylist(), total) == (head, n_rows)
    assert description_of(table.schema.field("n")) == "A number."


# ---- mistakes


def without_rows(run):
    pq.write_table(pq.read_table(only_part(run)).slice(0, 0), only_part(run))
    return run


def with_many_runs(run):
    for number in range(12):
        (run / f"run-{number:02d}" / "trace").mkdir(parents=True)
    shutil.rmtree(run / "trace")
    return run


def interrupted(run):
    with Manifest.start(run / "b", stage="posttrain", config={}) as manifest:
        manifest.finish("interrupted", ended_by="KeyboardInterrupt")
    return run / "b"


def with_a_table(run):
    (run / "b").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(run / "b" / "diversity.parquet")
    return run / "b"


@pytest.mark.parametrize(
    ("make_folder", "why"),
    [
        (lambda run: run / "nowhere", r"nowhere: no such run folder\. Give the folder"),
        (with_many_runs, r"\nRuns in it: .*run-00, .* and 2 more$"),
        (lambda run: run.parent, r"no parts [^\n]*\nRuns in it: \S*a, \S*run$"),
        (lambda run: run / "trace", r"no trace to read.*\nFix: .*give \S*run$"),
        (lambda run: run.parent / "a" / "empty", r"^\S*empty: no parts [^\n]*$"),
        (with_a_table, r"\nTables in it, .*diversity.parquet"),
        (interrupted, r"It holds posttrain, interrupted: KeyboardInterrupt\."),
        (without_rows, r"run/trace: the trace is empty"),
    ],
)
def test_the_message_for_a_folder_without_a_trace_lists_its_contents(run, make_folder, why):
    (run.parent / "a" / "empty").mkdir(parents=True)
    (run.parent / "a" / "trace").mkdir()
    folder = make_folder(run)
    with pytest.raises(InputError, match=why):
        open_run(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all" * 100])
def test_a_damaged_file_is_named(run, content):
    part = only_part(run)
    part.write_bytes(content)
    for read in (lambda: open_run(run), lambda: tables_of(run), lambda: read_head(part, 3)):
        with pytest.raises(InputError, match=rf"{part.name}: not a readable Parquet file"):
            read()


# ---- SQL over the tables of a run: it reads them, and cannot do anything else

CALL = pa.array([1, None, 2], pa.int64())
TRACE = pa.table({"call": CALL, "scaffold": ["c1ccccc1", None, ""], "reward": [0.5, 0.0, 0.9]})
TABLES = {"trace": TRACE, "diversity": pa.table({"run": ["a"], "yield": [1]})}


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select count(*) n, count(call) calls, max(reward) best from trace",
         [{"n": 3, "calls": 2, "best": 0.9}]),
        ("from trace where scaffold is null", [{"call": None, "scaffold": None, "reward": 0.0}]),
        ("with a as (select 1 x) select x, run from a, diversity;", [{"x": 1, "run": "a"}]),
        ("select column_name c from (describe trace)",
         [{"c": name} for name in TRACE.column_names]),
        ("from (show tables) order by name desc", [{"name": "trace"}, {"name": "diversity"}]),
        ("select * from trace where reward > 5", []),
    ],
)  # fmt: skip
def test_answers(sql, rows):
    assert run_sql(TABLES, sql).to_pylist() == rows
    assert run_sql(TABLES, "select * from trace").schema.types == TRACE.schema.types


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("select rewrad from trace", r'"rewrad" not found.*Columns of trace: call, scaffold'),
        ("select * from trase", r"trase does not exist.*Columns of trace: call"),
        ("selec 1", r"syntax error"),
        ("select nope from diversity", r"Columns of diversity: run, yield\nOther tables: trace"),
        ("select scaffold::int from trace", r"Conversion Error.*c1ccccc1"),
        ("", r"expected one statement, found 0"),
        ("-- nothing", r"expected one statement, found 0"),
        ("select 1; select 2", r"expected one statement, found 2"),
    ],
)
def test_mistakes_are_reported_in_duckdbs_words_with_the_columns(sql, why):
    with pytest.raises(InputError, match=f"(?s)^--sql: .*{why}"):
        run_sql(TABLES, sql)


@pytest.mark.parametrize(
    "sql",
    [
        *("create table a as select 1", "drop view trace", "delete from trace"),
        *("update trace set reward = 1", "insert into trace values (1, '', 1)"),
        *("set threads = 1", "set enable_external_access = true", "install httpfs"),
        *("attach '{file}' as other", "copy trace to '{file}'", "export database '{file}'"),
        *("select * from '{file}'", "select * from read_csv('{file}')"),
        *("select * from read_text('{file}')", "select * from glob('/*')"),
        "select * from caller_table",
    ],
)
def test_a_query_reads_its_tables_and_nothing_else(tmp_path, sql):
    caller_table = TRACE  # DuckDB would find it by its name
    file = tmp_path / "there.csv"
    file.write_text("secret\n1\n")
    with pytest.raises(InputError, match="--sql: "):
        run_sql({"trace": caller_table}, sql.format(file=file))
    assert file.read_text() == "secret\n1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_without_duckdb_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)  # its import fails
    with pytest.raises(InputError, match=r"needs DuckDB, .*pip install 'duckdb>=1.1'"):
        run_sql(TABLES, "select 1")


# ---- a run of a language model

CHOICE, MONTH = "1 or 2?", "A month?"
TEXT_STEPS = [
    [(CHOICE, "1", "1", 1.0), (CHOICE, "1.", "1", 1.0), (CHOICE, "3", None, 0.0),
     (MONTH, "May", "May", 0.5)],
    [(CHOICE, "2", "2", 0.9), (CHOICE, "1 and", None, 0.0), (MONTH, "1", "1", 0.1),
     (MONTH, "May", "May", 0.7)],
]  # fmt: skip
"""`1 and` has no end token."""


@pytest.fixture
def text_run(tmp_path, write_text_run):
    return write_text_run(tmp_path / "text_run", TEXT_STEPS, truncated=["1 and"])


def test_text_counts(tmp_path, text_run, write_text_run):
    # answers: 1 and 2 to the first prompt, May and 1 to the second; two have R >= 0.8 when scored
    expected = Counts(
        rows=8, prompts=2, valid=6, truncated=1, distinct=4, calls=4, failed=0, hits=2, hit_rows=3,
        best=1.0,
    )  # fmt: skip
    frame = open_run(text_run).frame
    assert count(frame, 0.8) == expected
    assert count(frame) == replace(expected, hits=None, hit_rows=None)
    frame.loc[0, "reason"] = "grade: ValueError"
    frame.loc[frame["step"] == 1, "is_replay"] = True
    counts = count(frame, 0.8)
    assert (counts.rows, counts.valid, counts.failed, counts.truncated) == (4, 3, 1, 0)
    assert (counts.distinct, counts.calls, counts.hits) == (2, 2, 1)
    bad = open_run(write_text_run(tmp_path / "bad", [[(CHOICE, "", None, 0.0)]])).frame
    assert count(bad, 0.8) == Counts(1, 0, 0, 0, 0, 0, 0, None, prompts=1)
    (row,) = frequent_answers(bad, 3).to_dict("records")
    assert (row["text"], row["valid"], row["share"]) == ("", False, 1.0)


def test_frequent_answers(tmp_path, text_run, write_text_run):
    frame = open_run(text_run).frame
    answers = frequent_answers(frame, 10)
    assert answers[["prompt", "text", "valid", "n", "share"]].values.tolist() == [
        [CHOICE, "1", True, 2, 2 / 5], [CHOICE, "3", False, 1, 1 / 5],
        [CHOICE, "2", True, 1, 1 / 5], [CHOICE, "1 and", False, 1, 1 / 5],
        [MONTH, "May", True, 2, 2 / 3], [MONTH, "1", True, 1, 1 / 3],
    ]  # fmt: skip
    assert answers["mean_reward"].tolist() == pytest.approx([1, 0, 0.9, 0, 0.6, 0.1])
    first = frequent_answers(frame, 1)
    assert first["text"].tolist() == ["1", "May"]
    assert first["share"].tolist() == [2 / 5, 2 / 3]  # of all completions, not only of those shown
    # a completion without an answer is not mixed with the same text as an answer
    steps = [[("p", "1", "1", 1.0), ("p", "1", None, 0.0), ("p", "1", None, 0.0)]]
    answers = frequent_answers(open_run(write_text_run(tmp_path / "mixed", steps)).frame, 5)
    assert answers[["text", "valid", "n"]].values.tolist() == [["1", False, 2], ["1", True, 1]]


def test_columns_have_the_meanings_of_a_run_of_text(text_run, tmp_path, write_run, write_text_run):
    opened, schema = open_run(text_run), trace_schema(["qed"], text=True)
    assert opened.is_text
    assert opened.schema.equals(schema, check_metadata=True)
    assert "an answer to its prompt" in description_of(opened.schema.field("call"))
    assert tables_of(text_run)["trace"].schema.names == schema.names
    rows = [("p", "no", None, 0.0), ("p", "CCO", "CCO", 0.5)]
    for n, is_text in ((1, True), (2, False)):  # one molecule makes it a run of molecules
        run = write_text_run(tmp_path / str(n), [rows[:n]], molecules=True)
        assert open_run(run).is_text is is_text
    of_smiles = open_run(write_run(tmp_path / "smiles", [[("C1CC", 0.0)]]))
    assert not of_smiles.is_text  # no molecule, but no text either
    assert "canonical SMILES in the run" in description_of(of_smiles.schema.field("call"))


def test_a_trace_without_answers_that_pandas_rewrote_can_be_queried(tmp_path, write_text_run):
    text_run = write_text_run(tmp_path / "text_run", [[("p", "no", None, 0.0)]])
    part = only_part(text_run)
    pd.read_parquet(part).to_parquet(part, index=False)
    assert pq.read_schema(part).field("answer").type != "string"
    assert tables_of(text_run)["trace"]["answer"].to_pylist() == [None]
    assert count(open_run(text_run).frame).rows == 1
