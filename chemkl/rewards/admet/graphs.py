"""Molecules as graphs of numbers, with the features that chemprop 2 gives atoms and bonds.

Legend: A atoms, E directed bonds (each bond twice, once each way), V features of an atom (72),
W features of a bond (14).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rdkit.Chem import Atom, Bond, BondType, HybridizationType, Mol

_KINDS = HybridizationType
_CHOICES: tuple[Sequence[Any], ...] = (
    [*range(1, 37), 53],  # atomic number
    range(6),  # degree, with hydrogens
    [-1, -2, 1, 2, 0],  # formal charge
    range(4),  # chiral tag
    range(5),  # hydrogens
    [_KINDS.S, _KINDS.SP, _KINDS.SP2, _KINDS.SP2D, _KINDS.SP3, _KINDS.SP3D, _KINDS.SP3D2],
)
"""Values that have a place of their own; each list has one more place, for all others."""

_BOND_TYPES = (BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
_STEREO = range(6)

N_ATOM_FEATURES = sum(len(choices) + 1 for choices in _CHOICES) + 2
N_BOND_FEATURES = 1 + len(_BOND_TYPES) + 2 + len(_STEREO) + 1


class Graph(NamedTuple):
    """One molecule.

    Attributes:
        atoms_AV: Features of its atoms.
        bonds_EW: Features of its directed bonds; 2k and 2k + 1 are one bond, each way.
        start_E: Atom at which each begins.
        end_E: Atom at which each ends.
    """

    atoms_AV: np.ndarray
    bonds_EW: np.ndarray
    start_E: np.ndarray
    end_E: np.ndarray


def graph_of(mol: Mol) -> Graph:
    """Give a molecule as a graph."""
    atoms_AV = np.zeros((mol.GetNumAtoms(), N_ATOM_FEATURES), dtype=np.float32)
    for row, atom in zip(atoms_AV, mol.GetAtoms(), strict=True):
        _fill_atom(row, atom)
    bonds_BW = np.zeros((mol.GetNumBonds(), N_BOND_FEATURES), dtype=np.float32)
    ends: list[int] = []
    for row, bond in zip(bonds_BW, mol.GetBonds(), strict=True):
        _fill_bond(row, bond)
        ends += [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
    start_E = np.array(ends, dtype=np.intp)
    end_E = start_E.reshape(-1, 2)[:, ::-1].reshape(-1)
    return Graph(atoms_AV, bonds_BW.repeat(2, axis=0), start_E, end_E)


def _fill_atom(row: np.ndarray, atom: Atom) -> None:
    values = (
        atom.GetAtomicNum(),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        int(atom.GetChiralTag()),
        atom.GetTotalNumHs(),
        atom.GetHybridization(),
    )
    at = 0
    for value, choices in zip(values, _CHOICES, strict=True):
        row[at + (choices.index(value) if value in choices else len(choices))] = 1
        at += len(choices) + 1
    row[at] = atom.GetIsAromatic()
    row[at + 1] = 0.01 * atom.GetMass()


def _fill_bond(row: np.ndarray, bond: Bond) -> None:
    kind, stereo = bond.GetBondType(), int(bond.GetStereo())
    if kind in _BOND_TYPES:  # place 0 is for no bond at all; another type has no place
        row[1 + _BOND_TYPES.index(kind)] = 1
    at = 1 + len(_BOND_TYPES)
    row[at], row[at + 1] = bond.GetIsConjugated(), bond.IsInRing()
    row[at + 2 + (stereo if stereo in _STEREO else len(_STEREO))] = 1
