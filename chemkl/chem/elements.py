"""Elements and molecular formulas: what a molecule is made of."""

import re
from collections import Counter

from rdkit.Chem import GetPeriodicTable, Mol

from chemkl.config import InputError

_TABLE = GetPeriodicTable()
ELEMENTS = frozenset(_TABLE.GetElementSymbol(number) for number in range(1, 119))
"""Symbols of all elements, H to Og."""

LARGEST_COUNT = 1_000_000
"""No formula has more atoms of an element: a longer number is a slip."""


def element_counts(mol: Mol) -> Counter[str]:
    """Count the atoms of each element, hydrogens included; isotopes count as their element."""
    counts: Counter[str] = Counter()
    for atom in mol.GetAtoms():
        counts[atom.GetSymbol()] += 1
        counts["H"] += atom.GetTotalNumHs()  # those that are no atoms of their own
    return +counts


def parse_formula(formula: str) -> Counter[str]:
    """Read a molecular formula such as C7H8N2O2; an element that comes twice is added up.

    Raises:
        InputError: text that is no formula, or an element that does not exist.
    """
    if not re.fullmatch(r"([A-Z][a-z]?\d*)+", formula, flags=re.ASCII):
        raise InputError(
            f"{formula!r} is not a molecular formula: element symbols with numbers, for example "
            "C7H8N2O2; no charge, isotope, bracket or blank"
        )
    counts: Counter[str] = Counter()
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        if symbol not in ELEMENTS:
            raise InputError(f"{formula!r}: {symbol} is not the symbol of an element")
        n_atoms = int(number[:8] or 1)
        if not 1 <= n_atoms <= LARGEST_COUNT:
            raise InputError(f"{formula!r}: {symbol}{number} should be between 1 and a million")
        counts[symbol] += n_atoms
    return counts
