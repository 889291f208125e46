"""`chemkl export` and `chemkl convert` of tables: molecules as SDF, CSV or SMILES.

Output files are checked before anything is computed, and appear when they are complete.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from rdkit import Chem

from chemkl.chem.molecules import MoleculeError, parse, read_molecule, sdf_record
from chemkl.config import InputError, StorageError
from chemkl.display import say
from chemkl.files.molecules import SMILES_NAMES, first_named
from chemkl.files.tables import TEXT_TYPES, cells_of, check_column_names, find_column
from chemkl.results.atomic import atomic_file, check_utf8_name
from chemkl.results.inspection import RunTrace, first_scorings, open_run
from chemkl.results.trace import FOLDER, list_parts, read_part

ENDINGS = {
    "--sdf": (".sdf", ".sdf.gz"),
    "--csv": (".csv", ".csv.gz"),
    "--smi": (".smi", ".smi.gz", ".smiles", ".smiles.gz"),
}
"""Allowed endings per option of `chemkl export`; `chemkl convert` chooses the format by them."""

SAME_FOR_ALL = ("valid", "repeat", "is_replay")
"""Columns of a trace that are equal for every distinct molecule; only --all-rows has them."""

SMILES_COLUMNS = ("canonical_smiles", *SMILES_NAMES)
"""Names of the SMILES column for `convert`, in order, in any case."""


# ---- the molecules of a run


def export(
    run_dir: str | Path,
    *,
    sdf: str | Path | None = None,
    csv: str | Path | None = None,
    smi: str | Path | None = None,
    threshold: float | None = None,
    top: int | None = None,
    per_scaffold: int | None = None,
    all_rows: bool = False,
    force: bool = False,
) -> int:
    """Write the distinct molecules of a run, in the order of their first scoring.

    Args:
        run_dir: folder of the run.
        sdf: SD file with 2D coordinates and the columns of the trace as properties.
        csv: table with the columns of the trace.
        smi: canonical SMILES and a name, separated by a blank.
        threshold: only molecules with a raw reward R of at least this.
        top: at most this many molecules, the best first.
        per_scaffold: at most this many molecules of each scaffold, the best first; acyclic
            molecules share one.
        all_rows: write every row of the trace into the CSV, with invalid ones and repeats.
        force: replace existing files.

    Returns:
        The number of molecules (with all_rows: rows). A molecule that RDKit cannot read, as in a
        trace of another version, is left out of every file, and one without a 2D layout is left out
        of the SD file; a line says how many.

    Raises:
        InputError: an output, an option or the trace cannot be used, or no molecule matches; then
            nothing was written.
    """
    options = {"--sdf": sdf, "--csv": csv, "--smi": smi}
    outputs = {option: Path(path) for option, path in options.items() if path is not None}
    filters = {"--threshold": threshold, "--top": top, "--per-scaffold": per_scaffold}
    problems = []
    if not outputs:
        problems.append(f"nothing to write: give one or more of {', '.join(ENDINGS)}")
    if all_rows and (not_csv := outputs.keys() - {"--csv"}):
        problems.append(
            f"--all-rows is for --csv only, not for {', '.join(sorted(not_csv))}: most rows "
            "are repeats, or no molecules at all"
        )
    if all_rows and (chosen := [name for name, value in filters.items() if value is not None]):
        problems.append(
            f"--all-rows and {', '.join(chosen)} contradict each other: give one of them"
        )
    InputError.refuse(problems)
    check_outputs(outputs, ENDINGS, force=force)
    run = open_run(run_dir)
    if run.is_text and not all_rows:
        raise InputError(
            f"{run.folder}: no completion in this run of a language model names a molecule, and "
            "only molecules are exported; nothing was written. Its texts become a table with: "
            f"chemkl show {quote(str(run.folder))} --sql "
            '"SELECT prompt, completion, answer, reward FROM trace" --csv texts.csv'
        )
    rows = run.frame if all_rows else _molecules(run, threshold, top, per_scaffold)
    table = pa.Table.from_pandas(rows, schema=run.schema, preserve_index=False)
    if not all_rows:
        table = table.drop_columns(list(SAME_FOR_ALL))
    origin = {name: text for name, text in run.identity.items() if text}
    # a molecule without a name gets a unique one: the run's id and the oracle call
    run_id = run.identity["run_id"] or run.folder.resolve().name
    for option, path in outputs.items():
        with written_out(path) as stream:
            if option == "--csv":
                write_csv(table, stream)
                continue
            records = (_record(row, run_id) for _, row in _rows(table))
            n = write_molecules(records, option, table.schema, origin, stream)
        if n < len(table):
            left_out = len(table) - n
            say(f"{left_out:,} molecules left out of the SD file, which RDKit cannot lay out")
    return len(table)


def _molecules(
    run: RunTrace, threshold: float | None, top: int | None, per_scaffold: int | None
) -> pd.DataFrame:
    """Return the selected rows, without those that RDKit cannot read."""
    rows = select(run.frame, threshold, top=top, per_scaffold=per_scaffold)
    readable = [parse(smiles) is not None for smiles in rows["canonical_smiles"]]
    if not all(readable):
        left_out = readable.count(False)
        say(f"{run.folder}: {left_out:,} molecules left out, which RDKit cannot read")
    if any(readable):
        return rows[readable]
    best = select(run.frame)["reward"].max()
    problem = f"{run.folder}: the trace holds no valid molecule; nothing was written"
    if readable:
        problem = (
            f"{run.folder}: RDKit can read none of the selected molecules; nothing was written"
        )
    elif threshold is not None and not pd.isna(best):
        problem = (
            f"--threshold {threshold:g}: no hits: the largest reward in {run.folder} is {best:.6g};"
            " nothing was written. Give a lower threshold"
        )
    raise InputError(problem)


def select(
    trace: pd.DataFrame,
    threshold: float | None = None,
    *,
    top: int | None = None,
    per_scaffold: int | None = None,
) -> pd.DataFrame:
    """Select distinct molecules of a trace; the arguments are those of `export`."""
    numbers = {"--top": top, "--per-scaffold": per_scaffold}
    wrong = [f"{option} {n}" for option, n in numbers.items() if n is not None and n < 1]
    InputError.refuse(f"{text}: expected a whole number from 1" for text in wrong)
    rows = first_scorings(trace, threshold)
    if top is None and per_scaffold is None:
        return rows
    rows = rows.sort_values("reward", ascending=False, kind="stable")
    if per_scaffold is not None:
        rows = rows[rows.groupby("scaffold", dropna=False).cumcount() < per_scaffold]
    return rows if top is None else rows.head(top)


# ---- a Parquet file


def convert(
    source: str | Path, target: str | Path, *, column: str | None = None, force: bool = False
) -> str:
    """Write a Parquet file in another format with all its columns; return a description.

    Rows without a molecule are left out of SD and SMILES files. The default column with SMILES is
    the first of `SMILES_COLUMNS`.

    Raises:
        InputError: a file or the column cannot be used, or no row is a molecule; then nothing was
            written.
    """
    source, target = Path(source), Path(target)
    is_parquet = source.suffix.lower() == ".parquet"
    if not is_parquet or not source.is_file():
        problem = "no such file" if is_parquet else "expected a file that ends in .parquet"
        raise InputError(f"{source}: {problem}")
    endings = [ending for of_format in ENDINGS.values() for ending in of_format]
    check_outputs({"OUT": target}, {"OUT": endings}, force=force)
    table = with_good_text(read_part(source))
    form = next(form for form, end in ENDINGS.items() if target.name.lower().endswith(end))
    if form == "--csv":
        with written_out(target) as stream:
            write_csv(table, stream)
        return f"{len(table):,} rows"
    place = _smiles_column(source, table, column)
    records = (
        Record(_title(row, f"{source.stem}_{number}"), row[place], mol, row)
        for number, row in _rows(table)
        if (mol := read_molecule(row[place] or "").mol) is not None
    )
    with written_out(target) as stream:
        n = write_molecules(records, form, table.schema, {}, stream)
        if not n:  # raised here so that no empty file appears
            raise InputError(
                f"{source}: no row of the column {place!r} is a molecule; nothing was written"
            )
    left_out = len(table) - n
    note = f"; {left_out:,} rows without a molecule left out" if left_out else ""
    return f"{n:,} molecules{note}"


def _smiles_column(source: Path, table: pa.Table, column: str | None) -> str:
    names = table.schema.names
    check_column_names(names, str(source))
    if column is not None:
        column = find_column(names, column, str(source))
    column = column or first_named(SMILES_COLUMNS, names)
    problem = (
        "no column is called canonical_smiles or smiles; name the column with --column. "
        f"Columns: {', '.join(names)}"
    )
    if column is not None:
        kind = table.schema.field(column).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return column
        problem = f"the column {column!r} holds {kind}; expected SMILES as text"
    raise InputError(f"{source}: {problem}")


# ---- SD files and SMILES files


class Record(NamedTuple):
    """One molecule of a file and its row."""

    title: str
    smiles: str
    molecule: Chem.Mol | str  # to be drawn
    row: Mapping[str, Any]


def _rows(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number the rows of a table from 1, without a second copy of it in memory."""
    batches = table.to_batches(max_chunksize=1024)
    return enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _title(row: Mapping[str, Any], otherwise: str) -> str:
    """Return a row's `name`, or another title if it has none."""
    return str(row.get("name") or "").strip() or otherwise


def _record(row: dict[str, Any], run_id: str) -> Record:
    smiles = row["canonical_smiles"]
    return Record(_title(row, f"{run_id}_{row['call']}"), smiles, parse(smiles) or smiles, row)


def write_molecules(
    records: Iterable[Record],
    form: str,
    schema: pa.Schema,
    origin: Mapping[str, str],
    stream: IO[bytes],
) -> int:
    """Write an SD file, or a SMILES file with a SMILES, a blank and a name per line.

    An SD file has 2D coordinates and every value of the row as a property; it lacks molecules that
    RDKit cannot lay out. Return the number of molecules written.
    """
    n = 0
    text_of: dict[str, Callable[[Any], str]] = {}
    for field in schema:  # as in the CSV, without spurious digits
        text_of[field.name] = str
        if pa.types.is_float32(field.type):
            text_of[field.name] = lambda value: str(np.float32(value))
        if pa.types.is_boolean(field.type):
            text_of[field.name] = lambda value: "true" if value else "false"
    for record in records:
        if form == "--smi":
            text = f"{record.smiles} {' '.join(record.title.split())}\n"
        else:
            values = {name: text_of[name](v) for name, v in record.row.items() if v is not None}
            try:
                text = sdf_record(record.molecule, record.title, values | dict(origin))
            except MoleculeError:
                continue
        stream.write(text.encode())
        n += 1
    return n


# ---- output files


def check_outputs(
    outputs: Mapping[str, Path], endings: Mapping[str, Sequence[str]], *, force: bool
) -> None:
    """Refuse output files that cannot be written."""
    problems = []
    for option, path in outputs.items():
        allowed, folder = tuple(endings[option]), path.resolve().parent
        if path.is_dir():
            problems.append(f"{option} {path}: this is a folder; give a file")
            continue
        if not path.name.lower().endswith(allowed):
            problems.append(f"{option} {path}: unknown ending. Allowed: {', '.join(allowed)}")
        if path.exists() and not force:
            problems.append(
                f"{option} {path}: exists. Give another file, or replace it with --force"
            )
        if folder.name == FOLDER and list_parts(folder.parent):
            problems.append(
                f"{option} {path}: lies inside a trace, where every file is read as a part"
            )
    counts = Counter(path.resolve() for path in outputs.values())
    problems += [
        f"{path}: given twice; each output needs its own file"
        for path, n in counts.items()
        if n > 1
    ]
    InputError.refuse(problems)


@contextmanager
def written_out(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears when it is complete; .gz is compressed."""
    check_utf8_name(path)
    try:
        with atomic_file(path, parents=True, shared=True) as part, part.open("wb") as raw:
            if path.suffix.lower() != ".gz":
                yield raw
                return
            # without name and time, equal content gives equal bytes; 6 is gzip's default level
            with gzip.GzipFile("", "wb", 6, fileobj=raw, mtime=0) as packed:
                yield cast(IO[bytes], packed)
    except StorageError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def with_good_text(table: pa.Table) -> pa.Table:
    """Return a table with valid UTF-8; files of other programs may hold other bytes."""
    for place, field in enumerate(table.schema):
        if field.type in TEXT_TYPES:
            cells = pa.array(cells_of(table.column(place)), pa.string())
            table = table.set_column(place, field.with_type(pa.string()), cells)
    return table


def write_csv(table: pa.Table, stream: IO[bytes]) -> None:
    """Write a table as CSV with a header; null is an empty cell."""
    columns = [_plain(column) for column in with_good_text(table).columns]
    plain = pa.Table.from_arrays(columns, names=table.schema.names)
    pa.csv.write_csv(plain, stream, pa.csv.WriteOptions(quoting_style="needed"))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Convert a column to a type that CSV has: lists and records to JSON, others to text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_nested(kind):
        return pa.array(map(as_text, column.to_pylist()), pa.string())
    if pa.types.is_interval(kind) or pa.types.is_decimal(kind) or pa.types.is_duration(kind):
        return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()])
    return column


def as_text(cell: Any) -> str | None:
    """Return a value as JSON; None stays None."""
    return None if cell is None else json.dumps(cell, default=str, ensure_ascii=False)
