"""Molecules as other programs read them: SD files and SMILES files, record by record."""

from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from rdkit import Chem

from chemkl.chem.molecules import MoleculeError, sdf_record

ENDINGS = {
    "sdf": (".sdf", ".sdf.gz"),
    "csv": (".csv", ".csv.gz"),
    "smi": (".smi", ".smi.gz", ".smiles", ".smiles.gz"),
}
"""How the files of each format may end."""


class Record(NamedTuple):
    """One molecule of a file.

    Attributes:
        title: its name.
        smiles: its SMILES.
        molecule: what is drawn, the same as a molecule or as SMILES.
        row: what is known about it, by column; None where a value is missing.
    """

    title: str
    smiles: str
    molecule: Chem.Mol | str
    row: Mapping[str, Any]


def title_of(row: Mapping[str, Any], otherwise: str) -> str:
    """What a row calls its molecule, in its column `name`; another title where it does not."""
    return str(row.get("name") or "").strip() or otherwise


def write_sdf(
    records: Iterable[Record], schema: pa.Schema, origin: Mapping[str, str], stream: IO[bytes]
) -> int:
    """Write an SD file: 2D coordinates, and every value that there is as a property.

    A molecule that RDKit cannot lay out is left out.

    Args:
        records: the molecules.
        schema: the types of the values.
        origin: properties that are the same for all.
        stream: where it is written.

    Returns:
        How many molecules were written.
    """
    written = 0
    text_of = {field.name: _writer_of(field.type) for field in schema}
    for record in records:
        values = {name: text_of[name](v) for name, v in record.row.items() if v is not None}
        try:
            text = sdf_record(record.molecule, record.title, values | dict(origin))
        except MoleculeError:
            continue
        stream.write(text.encode())
        written += 1
    return written


def write_smi(records: Iterable[Record], stream: IO[bytes]) -> int:
    """Write a SMILES file: a line for each molecule, its SMILES, a blank, its name.

    Returns:
        How many molecules were written.
    """
    written = 0
    for record in records:
        stream.write(f"{record.smiles} {' '.join(record.title.split())}\n".encode())
        written += 1
    return written


def _writer_of(kind: pa.DataType) -> Callable[[Any], str]:
    """How the values of a column are written: as in the CSV, with no more digits than they have."""
    if pa.types.is_float32(kind):
        return lambda value: str(np.float32(value))
    if pa.types.is_boolean(kind):
        return lambda value: "true" if value else "false"
    return str
