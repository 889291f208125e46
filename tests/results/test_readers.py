"""pandas, polars and DuckDB read the parts of a trace unaided, while it grows and afterwards."""

import math

import duckdb
import pandas as pd
import polars
import pytest

from chemkl.results import TraceWriter, read_trace, trace_schema

STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("OCC", 0.3), ("CC1CCCCC1", 0.8), ("xx", 0.0)],
    [("C1CC", 0.0), ("OCC", 0.3), ("CCO", 0.3)],  # no call in the whole part
]
WORDS = {
    "int32": ("Int32", "INTEGER"),
    "int64": ("Int64", "BIGINT"),
    "float": ("Float32", "FLOAT"),
    "double": ("Float64", "DOUBLE"),
    "string": ("String", "VARCHAR"),
    "bool": ("Boolean", "BOOLEAN"),
}
"""Types of Arrow as polars and DuckDB call them."""


@pytest.fixture(params=["several parts", "compacted"])
def run(request, tmp_path, make_trace):
    writer = TraceWriter(tmp_path, ["qed"], run_id="run-1", config_hash="abc")
    trace = make_trace(STEPS)
    for step in range(len(STEPS)):
        writer.append(trace[trace["step"] == step])
        writer.cut()
    if request.param == "compacted":
        writer.compact()
    n_parts = len(list((tmp_path / "trace").glob("part-*.parquet")))
    assert n_parts == (1 if request.param == "compacted" else 3)
    return tmp_path


def plain(cell):
    return None if cell is None or cell is pd.NA or cell != cell else cell


def expected(run):
    """The rows by chemkl's own reader, a missing cell being None."""
    return [[plain(cell) for cell in row] for row in read_trace(run).to_numpy(dtype=object)]


def same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for cell, value in zip(one, other, strict=True):
            close = isinstance(value, float) and cell is not None and math.isclose(cell, value)
            assert close or (cell == value and type(cell) is type(value))


def test_polars(run):
    frame = polars.read_parquet(run / "trace" / "*.parquet").sort("step", "row")
    types = {field.name: WORDS[str(field.type)][0] for field in trace_schema(["qed"])}
    assert {name: str(kind) for name, kind in frame.schema.items()} == types
    same(frame.rows(), expected(run))
    assert polars.read_parquet(run / "trace").shape == frame.shape


def test_duckdb(run):
    glob = str(run / "trace" / "*.parquet")
    connection = duckdb.connect()
    answer = connection.execute("select * from read_parquet(?) order by step, row", [glob])
    same(answer.fetchall(), expected(run))
    described = connection.execute("describe select * from read_parquet(?)", [glob]).fetchall()
    types = {field.name: WORDS[str(field.type)][1] for field in trace_schema(["qed"])}
    assert {name: kind for name, kind, *_ in described} == types


def test_pandas(run):
    frame = pd.read_parquet(run / "trace", dtype_backend="numpy_nullable")
    kinds = {"call": "Int64", "step": "Int32", "reward": "Float64", "valid": "boolean"}
    assert {name: str(frame.dtypes[name]) for name in kinds} == kinds
    rows = [[plain(cell) for cell in row] for row in frame.to_numpy(dtype=object)]
    same(rows, expected(run))


def test_pandas_by_default_gives_equal_values(run):
    by_default, own = pd.read_parquet(run / "trace"), read_trace(run)
    assert by_default["call"].dtype == "Int64"  # not float64, though cells are missing
    pd.testing.assert_frame_equal(by_default, own)
    assert str(pd.read_parquet(run / "trace", columns=["call"]).dtypes["call"]) == "Int64"
    assert list(pd.read_parquet(run / "trace", columns=["smiles"]).columns) == ["smiles"]


def test_calls_are_null_where_none_was_spent(run):
    glob = str(run / "trace" / "*.parquet")
    calls = [1, 2, None, None, 3, None, None, None, None]
    by_polars = polars.read_parquet(glob).sort("step", "row")["call"].to_list()
    by_duckdb = duckdb.execute(
        "select call from read_parquet(?) order by step, row", [glob]
    ).fetchall()
    assert by_polars == calls
    assert [call for (call,) in by_duckdb] == calls
    assert [plain(call) for call in read_trace(run)["call"]] == calls
