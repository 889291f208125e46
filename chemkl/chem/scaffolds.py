"""Scaffolds: Bemis-Murcko, generic (without elements and bond orders), and decorated."""

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
    """Return the canonical SMILES of the Bemis-Murcko scaffold: rings, linkers, exocyclic C=X.

    Bemis and Murcko, J. Med. Chem. 39, 2887 (1996), as RDKit implements it. Stereochemistry is
    dropped, so enantiomers share one scaffold. Empty for an acyclic molecule.
    """
    return Chem.MolToSmiles(_murcko(as_mol(molecule)), isomericSmiles=False)


def generic_scaffold(molecule: Chem.Mol | str) -> str | None:
    """Return the generic scaffold: every atom a carbon, every bond single, side atoms removed.

    RDKit's ``MakeScaffoldGeneric`` turns an exocyclic C=O into a methyl group; taking the Murcko
    scaffold a second time removes it. Empty for an acyclic molecule; None if RDKit cannot make it
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
    """Recognises molecules that are a given scaffold, decorated at its attachment points only.

    The scaffold is a SMILES with ``*`` at its attachment points, numbered in their order or
    explicitly as ``[*:0]``, ``[*:1]``, ... (reinvent-chemistry's convention); isotope labels, as in
    ``[1*]`` of BRICS, are ignored. `one_point_an_atom` refuses two points on one atom. Messages
    call the scaffold `what`.
    """

    def __init__(
        self, scaffold: str, *, one_point_an_atom: bool = False, what: str = "scaffold"
    ) -> None:
        from reinvent_chemistry.library_design.attachment_points import AttachmentPoints

        mol = as_mol(scaffold, what)
        points = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]
        for atom in points:
            atom.SetIsotope(0)
        if not any(atom.GetAtomMapNum() for atom in points):  # number them in SMILES order
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
        # any atom at a point, no further neighbours elsewhere; RDKit's stubs are wrong
        settings.makeDummiesQueries = True  # type: ignore[assignment]
        settings.adjustDegree = True  # type: ignore[assignment]
        settings.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
        self._query = Chem.AdjustQueryProperties(plain, settings)

    def bonds(self, mol: Chem.Mol) -> list[Bonds]:
        """Return every way to read the molecule as the decorated scaffold; empty if there is none.

        Cutting the bonds at the attachment points must leave the scaffold and one decoration each.
        """
        matches: dict[Bonds, None] = {}
        for match in mol.GetSubstructMatches(self._query, uniquify=False):
            bonds = tuple((match[core], match[point]) for core, point in self._ends)
            cuts = [mol.GetBondBetweenAtoms(*ends).GetIdx() for ends in bonds]
            cut = Chem.FragmentOnBonds(mol, cuts, addDummies=False)
            parts = [frozenset(part) for part in Chem.GetMolFrags(cut)]
            decorations = {part for part in parts for _, atom in bonds if atom in part}
            core = frozenset(match[atom] for atom in self._core)
            if core in parts and len(decorations) == self.n_points == len(parts) - 1:
                matches[bonds] = None
        return list(matches)


def _problem(points: list[Chem.Atom], *, one_point_an_atom: bool) -> str:
    """Return what is wrong with the attachment points of a scaffold, or an empty string."""
    numbers = [atom.GetAtomMapNum() for atom in points]
    if not points:
        return "has no attachment point; write * where one is, as in *c1ccccc1"
    if numbers != list(range(len(points))):
        return f"has attachment points numbered {numbers}; number them 0, 1, ... or not at all"
    if any(atom.GetDegree() != 1 for atom in points):
        return "has an attachment point that is not at the end of one bond"
    ends = [atom.GetNeighbors()[0] for atom in points]
    if any(atom.GetAtomicNum() == 0 for atom in ends):
        return "has two attachment points bound to each other"
    if one_point_an_atom and len({atom.GetIdx() for atom in ends}) != len(points):
        return "has an atom with two attachment points; reaction filters allow one per atom"
    return ""


# ---- scaffolds and fingerprints of large sets


RADIUS = 2
N_BITS = 2048

_PLAIN = re.compile(r"(?:[BCNOPSFIbcnops]|Cl|Br|\[nH\]|[-=#:/\\().%0-9])+")
_ATOM = re.compile(r"\[nH\]|Cl|Br|[A-Za-z]")
_BOND = re.compile(r"[-=#:/\\]")


class Structure(NamedTuple):
    """Murcko scaffold (empty: acyclic), generic scaffold (None: impossible), Morgan fingerprint."""

    scaffold: str
    generic: str | None
    packed: bytes


class StructureReader:
    """Computes the structures of molecules, one after the other.

    The generic scaffold depends only on the scaffold, so it is cached by scaffold, and by the
    scaffold's skeleton: about one new scaffold in four differs only in elements and bond orders.
    """

    def __init__(self) -> None:
        self._generic: dict[str, str | None] = {"": ""}

    def __call__(
        self, smiles: str, scaffold: str | None = None, *, is_canonical: bool = False
    ) -> Structure | None:
        """Return the structure of a molecule; None if RDKit refuses it or cannot compute it.

        Args:
            smiles: The molecule.
            scaffold: Its Murcko scaffold, if known.
            is_canonical: The installed RDKit wrote the SMILES, which then takes less time to read.
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
                    carbons = parse(drawn)  # None if an atom has too many bonds for a carbon
                    self._generic[drawn] = None if carbons is None else murcko_scaffold(carbons)
                if drawn is not None:
                    self._generic[scaffold] = self._generic[drawn]
            packed = packed_morgan(mol, radius=RADIUS, n_bits=N_BITS)
        except MoleculeError:
            return None
        return Structure(scaffold, self._generic[scaffold], packed)


def skeleton(scaffold: str) -> str | None:
    """Rewrite a scaffold with carbons and single bonds only, atoms in the same order.

    The result is what `generic_scaffold` has before it removes side atoms a second time, not a
    canonical SMILES. None for a scaffold with anything but plain atoms and bonds (charges, dative
    bonds, explicit hydrogens), which is left to RDKit.
    """
    if not _PLAIN.fullmatch(scaffold):
        return None
    return _BOND.sub("", _ATOM.sub("C", scaffold))
