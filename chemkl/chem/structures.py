"""What is wanted of the structure of very many molecules, in one go: scaffolds and fingerprint."""

import re
from typing import NamedTuple

from rdkit import Chem

from chemkl.chem.fingerprints import packed_morgan
from chemkl.chem.molecules import MoleculeError, parse
from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold

RADIUS = 2
N_BITS = 2048

_PLAIN = re.compile(r"(?:[BCNOPSFIbcnops]|Cl|Br|\[nH\]|[-=#:/\\().%0-9])+")
_ATOM = re.compile(r"\[nH\]|Cl|Br|[A-Za-z]")
_BOND = re.compile(r"[-=#:/\\]")


class Structure(NamedTuple):
    """What is kept of a molecule's structure.

    Attributes:
        scaffold: Bemis-Murcko scaffold; empty for an acyclic molecule.
        generic: generic scaffold; None where there is none.
        packed: Morgan fingerprint, radius 2, 2048 bits, eight to a byte.
    """

    scaffold: str
    generic: str | None
    packed: bytes


class StructureReader:
    """Reads molecules one after the other.

    The generic scaffold is a function of the scaffold, so every scaffold's is kept; and scaffolds
    that differ in elements and bonds alone, about one in four that are new, have the same.
    """

    def __init__(self) -> None:
        self._of_scaffold: dict[str, str | None] = {"": ""}
        self._of_skeleton: dict[str, str | None] = {}

    def __call__(self, smiles: str, scaffold: str | None = None) -> Structure | None:
        """Read one molecule; None where RDKit refuses it, or one of the steps with it.

        Args:
            smiles: canonical, of the molecule.
            scaffold: its Bemis-Murcko scaffold, where that is known: most of the time goes there.
        """
        mol = parse(smiles)
        if mol is None:
            return None
        try:
            if scaffold is None:
                scaffold = murcko_scaffold(mol)
            if scaffold not in self._of_scaffold:
                self._of_scaffold[scaffold] = self._generic(mol, scaffold)
            packed = packed_morgan(mol, radius=RADIUS, n_bits=N_BITS)
        except MoleculeError:
            return None
        return Structure(scaffold, self._of_scaffold[scaffold], packed)

    def _generic(self, mol: Chem.Mol, scaffold: str) -> str | None:
        drawn = skeleton(scaffold)
        if drawn is None:
            return generic_scaffold(mol)
        if drawn not in self._of_skeleton:
            carbons = parse(drawn)  # None where an atom cannot be one
            self._of_skeleton[drawn] = None if carbons is None else murcko_scaffold(carbons)
        return self._of_skeleton[drawn]


def skeleton(scaffold: str) -> str | None:
    """Write a scaffold with carbons and single bonds alone, atoms in the same order.

    That is what `generic_scaffold` makes of it before it cuts side atoms a second time.

    Args:
        scaffold: its SMILES.

    Returns:
        A SMILES, not the canonical one. None for a scaffold with charges, dative bonds, explicit
        hydrogens or whatever else is not a plain atom or a plain bond: left to RDKit.
    """
    if not _PLAIN.fullmatch(scaffold):
        return None
    return _BOND.sub("", _ATOM.sub("C", scaffold))
