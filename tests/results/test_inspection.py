"""Runs looked into: counts by hand, and messages that say what there is instead."""

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


def test_counts(tmp_path, run, write_run):
    # hits at .8: toluene (twice), ethylbenzene, methylcyclohexane, ethylamine; two rings
    expected = Counts(
        rows=8, valid=7, distinct=5, calls=5, failed=0, scaffolds=2, hits=4, hit_rows=5,
        hit_scaffolds=2, best=0.95,
    )  # fmt: skip
    frame = open_run(run).frame
    assert count(frame, 0.8) == expected
    assert (count(frame, 0.9).hits, count(frame, 0.9).hit_scaffolds) == (2, 1)
    none = {"hits": None, "hit_rows": None, "hit_scaffolds": None}
    assert count(frame) == replace(expected, **none)
    frame.loc[frame["smiles"] == "CCN", "is_replay"] = True
    frame.loc[frame["smiles"] == "CCO", "reason"] = "qed: failed"
    counts = count(frame, 0.8)
    assert (counts.rows, counts.valid, counts.distinct, counts.calls) == (7, 6, 4, 4)
    assert (counts.hits, counts.failed) == (3, 1)
    bad = open_run(write_run(tmp_path / "bad", [[("C1CC", 0.0), ("xx", 0.0)]])).frame
    assert count(bad, 0.8) == Counts(2, 0, 0, 0, 0, 0, 0, None, hit_scaffolds=0)
    assert first_scorings(bad).empty


def test_first_scorings_come_in_the_order_of_their_calls(run):
    shuffled = open_run(run).frame.sample(frac=1, random_state=1)
    rows = first_scorings(shuffled)
    assert rows["call"].tolist() == [1, 2, 3, 4, 5]
    assert rows["smiles"].tolist() == ["Cc1ccccc1", "CCO", "CCc1ccccc1", "CC1CCCCC1", "CCN"]
    assert first_scorings(shuffled, 0.85)["call"].tolist() == [1, 3, 5]


def test_what_is_known_of_a_run(tmp_path, run, write_run):
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
    targets = [{"kind": "gibbs"}, {"kind": "mara", "tau": None, "tau_quantile": 0.9}, "gibbs", None]
    for number, target in enumerate(targets):  # without a fixed tau there is no threshold
        other = write_run(tmp_path / str(number), STEPS, {"target": target})
        assert open_run(other).threshold is None


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


def no_rows(run):
    (part,) = (run / "trace").iterdir()
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    return run


def many(run):
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
    ("place", "why"),
    [
        (lambda run: run / "nowhere", r"nowhere: no such run folder\. Give the folder"),
        (many, r"\nRuns in it: .*run-00, .* and 2 more$"),
        (lambda run: run.parent, r"no parts [^\n]*\nRuns in it: \S*a, \S*run$"),
        (lambda run: run / "trace", r"no trace to read.*\nFix: .*give \S*run$"),
        (lambda run: run.parent / "a" / "empty", r"^\S*empty: no parts [^\n]*$"),
        (with_a_table, r"\nTables in it, .*diversity.parquet"),
        (interrupted, r"It holds posttrain, interrupted: KeyboardInterrupt\."),
        (no_rows, r"run/trace: the trace is empty"),
    ],
)
def test_a_folder_without_a_trace_says_what_there_is(run, place, why):
    (run.parent / "a" / "empty").mkdir(parents=True)
    (run.parent / "a" / "trace").mkdir()
    folder = place(run)
    with pytest.raises(InputError, match=why):
        open_run(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all" * 100])
def test_a_damaged_file_is_named(run, content):
    (part,) = (run / "trace").iterdir()
    part.write_bytes(content)
    for look, place in ((open_run, run), (tables_of, run), (lambda path: read_head(path, 3), part)):
        with pytest.raises(InputError, match=rf"{part.name}: not a readable Parquet file"):
            look(place)


# ---- SQL over the tables of a run: it reads them, and cannot do anything else

CALL = pa.array([1, None, 2], pa.int64())
TRACE = pa.table({"call": CALL, "scaffold": ["c1ccccc1", None, ""], "reward": [0.5, 0.0, 0.9]})
DIVERSITY = pa.table({"run": ["a"], "yield": [1]})
TABLES = {"trace": TRACE, "diversity": DIVERSITY}


def ask(sql):
    return run_sql(TABLES, sql).to_pylist()


def test_answers():
    assert ask("select count(*) n, count(call) calls, max(reward) best from trace") == [
        {"n": 3, "calls": 2, "best": 0.9}
    ]
    assert ask("from trace where scaffold is null") == [
        {"call": None, "scaffold": None, "reward": 0.0}
    ]
    assert ask("with a as (select 1 x) select x, run from a, diversity;") == [{"x": 1, "run": "a"}]
    assert [row["column_name"] for row in ask("describe trace")] == TRACE.column_names
    assert {row["name"] for row in ask("show tables")} == {"trace", "diversity"}
    assert ask("select * from trace where reward > 5") == []
    assert run_sql(TABLES, "select * from trace").schema.types == TRACE.schema.types


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select rewrad from trace", r'(?s)"rewrad" not found.*Columns of trace: call, scaffold'),
        ("select * from trase", r"(?s)trase does not exist.*Columns of trace: call"),
        ("selec 1", r"syntax error"),
        ("select nope from diversity", r"Columns of diversity: run, yield\nOther tables: trace"),
        ("select scaffold::int from trace", r"(?s)Conversion Error.*c1ccccc1"),
        ("", r"expected one statement, found 0"),
        ("-- nothing", r"expected one statement, found 0"),
        ("select 1; select 2", r"expected one statement, found 2"),
    ],
)
def test_mistakes_are_told_in_duckdbs_words_with_the_columns(sql, says):
    with pytest.raises(InputError, match=says) as caught:
        ask(sql)
    assert str(caught.value).startswith("--sql: ")


@pytest.mark.parametrize(
    "sql",
    [
        *("create table a as select 1", "drop view trace", "delete from trace"),
        *("update trace set reward = 1", "insert into trace values (1, '', 1)"),
        *("set threads = 1", "set enable_external_access = true", "install httpfs"),
        *("attach '{there}' as other", "copy trace to '{there}'", "export database '{there}'"),
        *("select * from '{there}'", "select * from read_csv('{there}')"),
        *("select * from read_text('{there}')", "select * from glob('/*')"),
        "select * from caller_table",
    ],
)
def test_a_query_reads_its_tables_and_nothing_else(tmp_path, sql):
    caller_table = TRACE  # DuckDB would find it by its name
    there = tmp_path / "there.csv"
    there.write_text("secret\n1\n")
    with pytest.raises(InputError, match="--sql: "):
        run_sql({"trace": caller_table}, sql.format(there=there))
    assert there.read_text() == "secret\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_without_duckdb_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)  # its import fails
    with pytest.raises(InputError, match=r"needs DuckDB, .*pip install 'duckdb>=1.1'"):
        ask("select 1")


# ---- a run of a language model

TEXT_STEPS = [
    [
        ("1 or 2?", "1", "1", 1.0),
        ("1 or 2?", "1.", "1", 1.0),
        ("1 or 2?", "3", None, 0.0),
        ("A month?", "May", "May", 0.5),
    ],
    [
        ("1 or 2?", "2", "2", 0.9),
        ("1 or 2?", "1 and", None, 0.0),
        ("A month?", "1", "1", 0.1),
        ("A month?", "May", "May", 0.7),
    ],
]
"""Five valid of eight at the first prompt's and the second's; `1 and` was cut off."""


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
    bad = open_run(write_text_run(tmp_path / "bad", [[("1 or 2?", "", None, 0.0)]])).frame
    assert count(bad, 0.8) == Counts(1, 0, 0, 0, 0, 0, 0, None, prompts=1)
    (row,) = frequent_answers(bad, 3).to_dict("records")
    assert (row["text"], row["valid"], row["share"]) == ("", False, 1.0)


def test_frequent_answers(tmp_path, text_run, write_text_run):
    found = frequent_answers(open_run(text_run).frame, 10)
    assert found[["prompt", "text", "valid", "n", "share"]].values.tolist() == [
        ["1 or 2?", "1", True, 2, 2 / 5],
        ["1 or 2?", "3", False, 1, 1 / 5],
        ["1 or 2?", "2", True, 1, 1 / 5],
        ["1 or 2?", "1 and", False, 1, 1 / 5],
        ["A month?", "May", True, 2, 2 / 3],
        ["A month?", "1", True, 1, 1 / 3],
    ]
    assert found["mean_reward"].tolist() == pytest.approx([1, 0, 0.9, 0, 0.6, 0.1])
    first = frequent_answers(open_run(text_run).frame, 1)
    assert first["text"].tolist() == ["1", "May"]
    assert first["share"].tolist() == [2 / 5, 2 / 3]  # of all completions, not of those shown
    # a completion without an answer is not mixed with that answer
    steps = [[("p", "1", "1", 1.0), ("p", "1", None, 0.0), ("p", "1", None, 0.0)]]
    found = frequent_answers(open_run(write_text_run(tmp_path / "mixed", steps)).frame, 5)
    assert found[["text", "valid", "n"]].values.tolist() == [["1", False, 2], ["1", True, 1]]


def test_columns_mean_what_they_mean_in_a_run_of_text(
    text_run, tmp_path, write_run, write_text_run
):
    opened = open_run(text_run)
    assert opened.is_text
    written = trace_schema(["qed"], text=True)
    assert opened.schema.equals(written, check_metadata=True)
    assert "an answer to its prompt" in description_of(opened.schema.field("call"))
    assert tables_of(text_run)["trace"].schema.names == written.names
    steps = [[("p", "CCO", "CCO", 0.5), ("p", "no", None, 0.0)]]
    for n, valid in ((1, False), (0, True)):  # one molecule makes a run one of molecules
        written = write_text_run(tmp_path / str(n), [steps[0][1 - n :]], molecules=True)
        assert open_run(written).is_text is valid
    of_smiles = open_run(write_run(tmp_path / "smiles", [[("C1CC", 0.0)]]))
    assert not of_smiles.is_text  # no molecule, but no text either
    assert "canonical SMILES in the run" in description_of(of_smiles.schema.field("call"))


def test_a_trace_that_pandas_wrote_back_without_an_answer_can_be_queried(tmp_path, write_text_run):
    text_run = write_text_run(tmp_path / "text_run", [[("p", "no", None, 0.0)]])
    (part,) = (text_run / "trace").iterdir()
    pd.read_parquet(part).to_parquet(part, index=False)
    assert pq.read_schema(part).field("answer").type != "string"
    assert tables_of(text_run)["trace"]["answer"].to_pylist() == [None]
    assert count(open_run(text_run).frame).rows == 1
