"""Reference molecules of a component: written in the config, in a file, or both."""

from collections.abc import Sequence
from pathlib import Path

from rdkit.Chem import Mol

from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError
from chemkl.files.molecules import read_molecules

MOST_PROBLEMS = 10
"""So many bad references are named; of the rest the message says how many they are."""


def read_references(references: Sequence[str] | None = None, file: Path | None = None) -> list[Mol]:
    """Read every reference: those in the config first, then those of the file, in order.

    A file is read as `chemkl.files.molecules` says. Empty lines are passed over.

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
    try:
        lines = [(line, line.smiles or line.reason) for line in read_molecules(file)]
    except InputError as error:
        fix = "rename that with the SMILES to smiles"  # there is no setting beside the file
        raise InputError(
            f"references_file: {error}".replace("say which one it is with `column`", fix)
        ) from None
    found = [(f"{file}:{line.number}", text) for line, text in lines if text]
    if not found:
        raise InputError(f"references_file: {file}: no reference in it; expected one a line")
    return found
