"""What `chemkl convert` does: a Parquet file becomes CSV, an SD file or a SMILES file."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError
from chemkl.files.molecules import SMILES_NAMES, first_named
from chemkl.files.tables import find_column, refuse_same_names
from chemkl.results.trace import read_part
from chemkl.stages.molecule_files import ENDINGS, Record, title_of, write_sdf, write_smi
from chemkl.stages.output_files import check_outputs, with_good_text, write_csv, written_out

SMILES_COLUMNS = ("canonical_smiles", *SMILES_NAMES)
"""Where the SMILES are looked for: the first of these that a file has, in any case."""


def convert(
    source: str | Path, target: str | Path, *, column: str | None = None, force: bool = False
) -> str:
    """Write a Parquet file in another format, with all its columns.

    Rows without a molecule are left out of SD and SMILES files.

    Args:
        source: a Parquet file.
        target: a file whose ending says the format.
        column: the column with the SMILES; default: the first of `SMILES_COLUMNS`.
        force: replace the target if it is there.

    Returns:
        What was written, in words.

    Raises:
        InputError: one of the files or the column cannot be used, or no row is a molecule; then
            nothing was written.
    """
    source, target = Path(source), Path(target)
    _check_source(source)
    endings = [ending for of_format in ENDINGS.values() for ending in of_format]
    check_outputs({"OUT": target}, {"OUT": endings}, force=force)
    table = with_good_text(read_part(source))
    if target.name.lower().endswith(ENDINGS["csv"]):
        with written_out(target) as stream:
            write_csv(table, stream)
        return f"{len(table):,} rows"
    place = _smiles_column(source, table, column)
    records = _records(table, place, source.stem)
    with written_out(target) as stream:
        if target.name.lower().endswith(ENDINGS["sdf"]):
            written = write_sdf(records, table.schema, {}, stream)
        else:
            written = write_smi(records, stream)
        if not written:  # raised in here, so that no empty file appears
            raise InputError(
                f"{source}: no row of the column {place!r} is a molecule; nothing was written"
            )
    left_out = len(table) - written
    without = f"; {left_out:,} rows without a molecule left out" if left_out else ""
    return f"{written:,} molecules{without}"


def _records(table: pa.Table, column: str, name: str) -> Iterator[Record]:
    """The rows that are molecules, each by its own name or that of its file and row."""
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            number += 1
            mol = read_molecule(row[column] or "").mol
            if mol is not None:
                title = title_of(row, f"{name}_{number}")
                yield Record(title, row[column], mol, row)


def _check_source(source: Path) -> None:
    if source.suffix.lower() != ".parquet":
        raise InputError(f"{source}: expected a file that ends in .parquet")
    if not source.is_file():
        raise InputError(f"{source}: no such file")


def _smiles_column(source: Path, table: pa.Table, column: str | None) -> str:
    names = table.schema.names
    refuse_same_names(names, str(source))
    named = None if column is None else find_column(names, column, str(source))
    found = named or first_named(SMILES_COLUMNS, names)
    if found is None:
        raise InputError(
            f"{source}: no column is called canonical_smiles or smiles; say with --column where "
            f"the SMILES stand. Known: {', '.join(names)}"
        )
    kind = table.schema.field(found).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{source}: the column {found!r} holds {kind}; expected SMILES as text")
    return found
