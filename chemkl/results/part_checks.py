"""Whether the files of a trace form one whole: their steps, settings, rewards, columns, cells."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chemkl.config import InputError
from chemkl.results.columns import trace_components, trace_schema
from chemkl.results.parts import Part, read_part_schema, steps_within

_KINDS = (
    (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    (pa.types.is_integer, pa.types.is_floating),
)
"""Types that stand for one another: text, and numbers."""


def check_parts(parts: Sequence[Part]) -> None:
    """Look at the names and columns of all parts, and at no row.

    Raises:
        InputError: a part is missing between two others, cannot be read, lacks a column, or is of
            another config or reward.
    """
    check_contiguous(parts)
    first = read_part_schema(parts[0].path)
    components = trace_components(first.names)
    expected = trace_schema(components)
    for part in parts:
        check_config(part.path, config_of(first))
        found = read_part_schema(part.path)
        check_components(part.path, trace_components(found.names), components)
        check_columns(part.path, found, expected)
        check_steps(part)


def config_of(schema: pa.Schema) -> str:
    """The config hash that a part was written under; empty where there is none."""
    return str((schema.metadata or {}).get(b"config_hash", b"").decode())


def check_steps(part: Part) -> None:
    """Refuse a file whose rows are of other steps than its name says: a copy of another part.

    Raises:
        InputError: with both.
    """
    within = steps_within(part.path)
    if within is not None and within != (part.first, part.last):
        raise InputError(
            f"{part.path}: holds the steps {within[0]} to {within[1]}, not those of its name; rows "
            "would count twice, or are missing. Restore it from a copy, or run again with --fresh."
        )


def check_config(path: Path, expected: str) -> None:
    """Refuse a part of another config.

    Raises:
        InputError: with both hashes.
    """
    found = config_of(read_part_schema(path))
    if found != expected:
        raise InputError(
            f"{path}: written under config {found[:12] or '(none)'}, not {expected[:12]}. "
            "One folder holds one run: choose another with --out, or begin anew with --fresh."
        )


def check_components(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse a part whose reward has other components than the parts before it.

    Raises:
        InputError: with both.
    """
    if set(found) != set(expected):
        mine, theirs = (", ".join(names) or "none" for names in (found, expected))
        raise InputError(
            f"{path}: not a part of this trace: its reward has the components {mine}; that of the "
            f"parts before it has {theirs}. Restore it from a copy, or run again with --fresh."
        )


def check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file that lacks a column of a trace; further columns, in any order, do no harm.

    Text may come as any type of text, a number as any type of number: pandas writes a trace back
    with others.

    Raises:
        InputError: with the columns that are missing, and those of another type.
    """
    missing = [name for name in expected.names if name not in found.names]
    wrong = [
        f"{field.name} holds {found.field(field.name).type}, expected {field.type}"
        for field in expected
        if field.name in found.names and not _fits(found.field(field.name).type, field.type)
    ]
    problems = [f"missing columns: {', '.join(missing)}"] if missing else []
    if problems or wrong:
        raise InputError(
            f"{path}: not a part of a trace ({'; '.join([*problems, *wrong])}). "
            "Restore it from a copy, or run again with --fresh."
        )


def _fits(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return found == expected or any(
        is_a(expected) and any(is_it(found) for is_it in kind) for kind in _KINDS for is_a in kind
    )


def conform(path: Path, table: pa.Table, expected: pa.Schema) -> pa.Table:
    """Give the columns of a trace their types, and leave further ones as they are.

    Raises:
        InputError: a column has empty cells that may have none, or numbers that do not fit.
    """
    for field in expected:
        if field.name not in table.column_names:
            continue
        column = table[field.name]
        empty = column.null_count
        if pa.types.is_floating(column.type):
            empty += pc.sum(pc.is_nan(column)).as_py() or 0
        if empty and not field.nullable:
            raise InputError(
                f"{path}: {empty} of {len(column)} cells of the column {field.name} are empty or "
                "NaN; expected a value in each. Restore it from a copy, or run again with --fresh."
            )
        try:
            cast = column.cast(field.type)
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: the column {field.name} does not hold {field.type} "
                f"({str(error).splitlines()[0]}). Restore it from a copy, or run again with "
                "--fresh."
            ) from error
        table = table.set_column(table.column_names.index(field.name), field, cast)
    return table


def check_contiguous(parts: Sequence[Part]) -> None:
    """Refuse parts that overlap or leave steps out; every step of a run has rows.

    Raises:
        InputError: naming the file that is too many, or the steps that are missing.
    """
    if parts and parts[0].first > 1:  # a run counts its steps from 0 or from 1
        raise InputError(
            f"{parts[0].path.parent}: the part with the steps before {parts[0].first} is missing. "
            "Restore it from a copy, or run again with --fresh."
        )
    for before, after in itertools.pairwise(parts):
        if after.first <= before.last:
            raise InputError(
                f"{after.path}: overlaps {before.path.name}; rows would count twice. "
                "Remove the file that does not belong, or run again with --fresh."
            )
        if after.first > before.last + 1:
            raise InputError(
                f"{after.path.parent}: the part with steps {before.last + 1} to {after.first - 1} "
                f"is missing between {before.path.name} and {after.path.name}. "
                "Restore it from a copy, or run again with --fresh."
            )


def join(parts: Sequence[Part], tables: Sequence[pa.Table]) -> pa.Table:
    """All rows of the parts; a column that only some of them have is empty in the others.

    Raises:
        InputError: a column that no trace has to have is of one type here, of another there.
    """
    try:
        return pa.concat_tables(
            [table.replace_schema_metadata() for table in tables], promote_options="default"
        )
    except pa.ArrowException as error:
        raise InputError(
            f"{parts[0].path.parent}: the parts do not fit together "
            f"({str(error).splitlines()[0]}). A column that you added must have one type in all "
            "parts."
        ) from error
