"""Reference molecules of a component: written in the config, in a file, or both."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from rdkit.Chem import Mol

from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BLANK_SEPARATED = (".smi", ".smiles", ".txt")

MOST_PROBLEMS = 10
"""So many bad references are named; of the rest the message says how many they are."""


def read_references(references: Sequence[str] | None = None, file: Path | None = None) -> list[Mol]:
    """Read every reference: those in the config first, then those of the file, in order.

    A .smi, .smiles or .txt file has a SMILES as the first word of each line; a .csv or .tsv file
    has a header with a column called smiles (or one column only). Empty lines are passed over.

    Raises:
        InputError: none given, a file that cannot be read, or references that are no molecules;
            each is named.
    """
    if references is None and file is None:
        raise InputError("references: required, and not given: give references or references_file")
    texts = [(f"references[{index}]", text) for index, text in enumerate(references or ())]
    if file is not None:
        texts += _read_file(file)
    read = [(place, read_molecule(text)) for place, text in texts]
    refuse(
        [
            f"{place} = {molecule.smiles!r} is not a molecule: {molecule.reason}"
            for place, molecule in read
            if molecule.mol is None
        ]
    )
    return [molecule.mol for _, molecule in read if molecule.mol is not None]


def refuse(problems: Sequence[str]) -> None:
    """Raise an InputError with one line for each problem, the first ones in full; none: pass."""
    if not problems:
        return
    lines = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more like these")
    raise InputError("\n".join(lines))


def _read_file(file: Path) -> list[tuple[str, str]]:
    """Give every SMILES of a file with its place, ``file:line``."""
    ending = file.suffix.lower()
    if ending not in (*_BLANK_SEPARATED, *_DELIMITERS):
        raise InputError(
            f"references_file: {file}: cannot tell the format from the name. Allowed endings: "
            f"{', '.join((*_BLANK_SEPARATED, *_DELIMITERS))}"
        )
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            delimiter = _DELIMITERS.get(ending)
            numbered = _first_words(lines) if delimiter is None else _cells(lines, delimiter, file)
            found = [(f"{file}:{number}", text) for number, text in numbered]
    except (OSError, csv.Error) as error:
        raise InputError(f"references_file: {file}: cannot be read: {error}") from None
    if not found:
        raise InputError(f"references_file: {file}: no reference in it; expected one a line")
    return found


def _first_words(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            yield number, words[0]


def _cells(lines: Iterator[str], delimiter: str, file: Path) -> Iterator[tuple[int, str]]:
    rows = csv.reader(lines, delimiter=delimiter)
    header = [cell.strip() for cell in next(rows, [])]
    named = [index for index, cell in enumerate(header) if cell.lower() == "smiles"]
    if not named and len(header) != 1:
        raise InputError(
            f"references_file: {file}: no column is called smiles. Known: {', '.join(header)}"
        )
    column = named[0] if named else 0
    for row in rows:
        if any(cell.strip() for cell in row):
            yield rows.line_num, row[column].strip() if column < len(row) else ""
