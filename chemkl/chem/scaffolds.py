"""Scaffolds of molecules: Bemis-Murcko, generic (no elements, no bonds), and with decorations."""

import re
from collections.abc import Callable
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem.fingerprints import packed_morgan
from chemkl.chem.molecules import MoleculeError, as_mol, parse, sketch, step
from chemkl.config import InputError

_murcko: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.GetScaffoldForMol
_make_generic: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.MakeScaffoldGeneric


@step("scaffold")
def murcko_scaffold(molecule: Chem.Mol | str) -> str:
    """The canonical SMILES of the Bemis-Murcko scaffold: rings, linkers, exocyclic C=X.

    Bemis and Murcko, J. Med. Chem. 39, 2887 (1996), as RDKit implements it. Stereochemistry
    plays no part, so enantiomers share one scaffold. Empty for an acyclic molecule.
    """
    return Chem.MolToSmiles(_murcko(as_mol(molecule)), isomericSmiles=False)


def generic_scaffold(molecule: Chem.Mol | str) -> str | None:
    """The generic scaffold: every atom a carbon, every bond single, side atoms cut again.

    RDKit's ``MakeScaffoldGeneric`` turns an exocyclic C=O into a methyl group; taking the Murcko
    scaffold a second time removes it. Empty for an acyclic molecule; None where RDKit makes none
    (a ring atom with five or more bonds cannot become a carbon).
    """
    try:
        with step("generic scaffold"):
            generic = _murcko(_make_generic(_murcko(as_mol(molecule))))
            return Chem.MolToSmiles(generic, isomericSmiles=False)
    except MoleculeError:
        return None


# ---- a scaffold with attachment points


Bonds = tuple[tuple[int, int], ...]
"""For each attachment point, the scaffold's atom and the decoration's atom in the molecule."""


class DecoratedScaffold:
    """Recognises molecules that are one scaffold, decorated at its attachment points only.

    The scaffold is a SMILES with ``*`` at its attachment points, in the order in which they stand
    there, or numbered ``[*:0]``, ``[*:1]``, ... by reinvent-chemistry's convention; isotopes that
    mark them, as in ``[1*]`` of BRICS, say nothing. With `one_point_an_atom` two of them on one
    atom are refused. Messages call it `what`.
    """

    def __init__(
        self, scaffold: str, *, one_point_an_atom: bool = False, what: str = "scaffold"
    ) -> None:
        from reinvent_chemistry.library_design.attachment_points import AttachmentPoints

        mol = as_mol(scaffold, what)
        points = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]
        for atom in points:
            atom.SetIsotope(0)
        if not any(atom.GetAtomMapNum() for atom in points):  # in the order of the SMILES
            AttachmentPoints().add_attachment_point_numbers(mol, canonicalize=False)
        points.sort(key=Chem.Atom.GetAtomMapNum)
        problem = _problem(points, one_point_an_atom=one_point_an_atom)
        if problem:
            raise InputError(f"{what} {scaffold!r} {problem}")
        self.n_points = len(points)
        self._ends = [(atom.GetNeighbors()[0].GetIdx(), atom.GetIdx()) for atom in points]
        self._core = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 0]
        plain = Chem.Mol(mol)
        for atom in plain.GetAtoms():
            atom.SetAtomMapNum(0)
        settings = Chem.AdjustQueryParameters.NoAdjustments()
        # any atom at a point, no further neighbours anywhere else; RDKit's stubs are wrong
        settings.makeDummiesQueries = True  # type: ignore[assignment]
        settings.adjustDegree = True  # type: ignore[assignment]
        settings.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
        self._query = Chem.AdjustQueryProperties(plain, settings)

    def bonds(self, mol: Chem.Mol) -> list[Bonds]:
        """All ways in which the molecule is the decorated scaffold; none: it is not.

        Cut at the attachment points, the scaffold and one decoration a point must be left.
        """
        ways: dict[Bonds, None] = {}
        for match in mol.GetSubstructMatches(self._query, uniquify=False):
            bonds = tuple((match[core], match[point]) for core, point in self._ends)
            cuts = [mol.GetBondBetweenAtoms(*ends).GetIdx() for ends in bonds]
            cut = Chem.FragmentOnBonds(mol, cuts, addDummies=False)
            parts = [frozenset(part) for part in Chem.GetMolFrags(cut)]
            decorations = {part for part in parts for _, atom in bonds if atom in part}
            core = frozenset(match[atom] for atom in self._core)
            if core in parts and len(decorations) == self.n_points == len(parts) - 1:
                ways[bonds] = None
        return list(ways)


def _problem(points: list[Chem.Atom], *, one_point_an_atom: bool) -> str:
    """What is wrong with the attachment points of a scaffold; empty: nothing."""
    numbers = [atom.GetAtomMapNum() for atom in points]
    if not points:
        return "has no attachment point; write * where one is, as in *c1ccccc1"
    if numbers != list(range(len(points))):
        return f"has attachment points numbered {numbers}; number them 0, 1, ... or not at all"
    if any(atom.GetDegree() != 1 for atom in points):
        return "has an attachment point that is not at the end of one bond"
    ends = [atom.GetNeighbors()[0] for atom in points]
    if any(atom.GetAtomicNum() == 0 for atom in ends):
        return "has two attachment points bound to one another"
    if one_point_an_atom and len({atom.GetIdx() for atom in ends}) != len(points):
        return "has an atom with two attachment points; reaction filters take one an atom"
    return ""


# ---- the structure of very many molecules


RADIUS = 2
N_BITS = 2048

_PLAIN = re.compile(r"(?:[BCNOPSFIbcnops]|Cl|Br|\[nH\]|[-=#:/\\().%0-9])+")
_ATOM = re.compile(r"\[nH\]|Cl|Br|[A-Za-z]")
_BOND = re.compile(r"[-=#:/\\]")


class Structure(NamedTuple):
    """Bemis-Murcko scaffold (empty: acyclic), generic scaffold (None: none), Morgan fingerprint."""

    scaffold: str
    generic: str | None
    packed: bytes


class StructureReader:
    """Reads molecules one after the other.

    The generic scaffold is a function of the scaffold, so every scaffold's is kept; and scaffolds
    that differ in elements and bonds alone, about one in four that are new, have the same.
    """

    def __init__(self) -> None:
        self._generic: dict[str, str | None] = {"": ""}

    def __call__(
        self, smiles: str, scaffold: str | None = None, *, is_canonical: bool = False
    ) -> Structure | None:
        """Read a molecule, whose scaffold may be given; None where RDKit refuses it, or a step.

        Canonical: this RDKit wrote the SMILES, which with its scaffold is read in less time.
        """
        mol = sketch(smiles) if is_canonical and scaffold is not None else None
        mol = mol or parse(smiles)
        if mol is None:
            return None
        try:
            if scaffold is None:
                scaffold = murcko_scaffold(mol)
            if scaffold not in self._generic:
                drawn = skeleton(scaffold)
                if drawn is None:
                    self._generic[scaffold] = generic_scaffold(parse(smiles) or mol)
                elif drawn not in self._generic:
                    carbons = parse(drawn)  # None where an atom cannot be one
                    self._generic[drawn] = None if carbons is None else murcko_scaffold(carbons)
                if drawn is not None:
                    self._generic[scaffold] = self._generic[drawn]
            packed = packed_morgan(mol, radius=RADIUS, n_bits=N_BITS)
        except MoleculeError:
            return None
        return Structure(scaffold, self._generic[scaffold], packed)


def skeleton(scaffold: str) -> str | None:
    """A scaffold with carbons and single bonds alone, atoms in the same order.

    That is what `generic_scaffold` makes of it before it cuts side atoms a second time; not its
    canonical SMILES. None for a scaffold with charges, dative bonds, explicit hydrogens or whatever
    else is not a plain atom or a plain bond: left to RDKit.
    """
    if not _PLAIN.fullmatch(scaffold):
        return None
    return _BOND.sub("", _ATOM.sub("C", scaffold))
