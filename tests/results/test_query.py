"""SQL over the tables of a run: it reads them, and cannot do anything else."""

import builtins
import sys

import pyarrow as pa
import pytest

from chemkl.config import InputError
from chemkl.results.inspection import run_sql

TRACE = pa.table(
    {
        "call": pa.array([1, None, 2], pa.int64()),
        "scaffold": ["c1ccccc1", None, ""],
        "reward": [0.5, 0.0, 0.9],
    }
)
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


def test_types_survive():
    assert run_sql(TABLES, "select * from trace").schema.types == TRACE.schema.types


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "select rewrad from trace",
            r'(?s)"rewrad" not found.*Columns of trace: call, scaffold, r',
        ),
        ("select * from trase", r"(?s)trase does not exist.*Columns of trace: call"),
        ("selec 1", r"syntax error"),
        (
            "select nope from diversity",
            r"(?s)Columns of diversity: run, yield\nOther tables: trace",
        ),
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
        "create table a as select 1",
        "drop view trace",
        "delete from trace",
        "update trace set reward = 1",
        "insert into trace values (1, '', 1)",
        "set threads = 1",
        "set enable_external_access = true",
        "attach '{there}' as other",
        "copy trace to '{there}'",
        "export database '{there}'",
        "install httpfs",
        "select * from '{there}'",
        "select * from read_csv('{there}')",
        "select * from read_text('{there}')",
        "select * from glob('/*')",
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
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "duckdb":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "duckdb", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs DuckDB, .*pip install 'duckdb>=1.1'"):
        ask("select 1")
