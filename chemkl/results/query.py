"""SQL over the tables of a run: one SELECT, by DuckDB, which sees these tables and nothing else."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from chemkl.config import InputError
from chemkl.config.base import install

_LOCKS = (
    "SET enable_external_access = false",  # no file, no network, no extension
    "SET lock_configuration = true",  # and no way back
)


def run_sql(tables: Mapping[str, pa.Table], sql: str) -> pa.Table:
    """Answer one query.

    Args:
        tables: what it may read, by name.
        sql: one statement that reads (SELECT, WITH, FROM, DESCRIBE, SUMMARIZE).

    Returns:
        The rows of the answer.

    Raises:
        InputError: DuckDB is not installed, or refuses the query; with its own words and the
            columns that there are.
    """
    duckdb = _duckdb()
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    try:
        for name, table in tables.items():
            connection.register(name, table)
        for lock in _LOCKS:
            connection.execute(lock)
        _check_one_select(connection.extract_statements(sql), duckdb)
        answer: pa.Table = connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        message = str(error).strip()
        raise InputError(f"--sql: {message}\n{_known(tables, sql)}") from None
    finally:
        connection.close()
    return answer


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise InputError(f"--sql needs DuckDB, which is not installed: {install('sql')}") from None
    return duckdb


def _check_one_select(statements: list[Any], duckdb: Any) -> None:
    if len(statements) != 1:
        raise InputError(
            f"--sql: expected one statement, found {len(statements)}. Give one SELECT; what "
            "several would do step by step goes into one with WITH."
        )
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = str(statements[0].type).rpartition(".")[2]
        raise InputError(
            f"--sql: {kind} is not allowed: queries only read. Give a SELECT (also WITH, FROM, "
            "DESCRIBE or SUMMARIZE)."
        )


def _known(tables: Mapping[str, pa.Table], sql: str) -> str:
    """The tables, those that the query speaks of with their columns."""
    meant = [name for name in tables if name in sql] or list(tables)[:1]
    lines = [f"Columns of {name}: {', '.join(tables[name].schema.names)}" for name in meant]
    others = [name for name in tables if name not in meant]
    return "\n".join([*lines, *([f"Other tables: {', '.join(others)}"] if others else [])])
