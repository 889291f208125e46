"""A scaffold with attachment points, and how a molecule can be that scaffold with decorations."""

from collections.abc import Sequence

from rdkit import Chem
from reinvent_chemistry.library_design.attachment_points import AttachmentPoints

from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError

Bonds = tuple[tuple[int, int], ...]
"""For each attachment point, the scaffold's atom and the decoration's atom in the molecule."""


class DecoratedScaffold:
    """Recognises molecules that are one scaffold, decorated at its attachment points only.

    Args:
        scaffold: SMILES with ``*`` at its attachment points, in the order in which they stand
            there, or numbered ``[*:0]``, ``[*:1]``, ... by reinvent-chemistry's convention.
        one_point_an_atom: Refuse two attachment points on one atom.

    Raises:
        InputError: not a molecule, no attachment point, or ill-placed or ill-numbered ones.
    """

    def __init__(self, scaffold: str, *, one_point_an_atom: bool = False) -> None:
        read = read_molecule(scaffold)
        mol = read.mol
        if mol is None:
            raise InputError(f"scaffold {scaffold!r} is not a molecule: {read.reason}")
        points = sorted(_points(_numbered(mol)), key=Chem.Atom.GetAtomMapNum)
        _check(scaffold, points, one_point_an_atom=one_point_an_atom)
        self.n_points = len(points)
        self._ends = [(atom.GetNeighbors()[0].GetIdx(), atom.GetIdx()) for atom in points]
        self._core = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 0]
        self._query = _query(mol)

    def bonds(self, mol: Chem.Mol) -> list[Bonds]:
        """Give each way in which the molecule is the decorated scaffold; none: it is not."""
        found: dict[Bonds, None] = {}
        for match in mol.GetSubstructMatches(self._query, uniquify=False):
            bonds = tuple((match[core], match[point]) for core, point in self._ends)
            if bonds not in found and self._is_whole(mol, match, bonds):
                found[bonds] = None
        return list(found)

    def _is_whole(self, mol: Chem.Mol, match: Sequence[int], bonds: Bonds) -> bool:
        """Cut at the attachment points: the scaffold and one decoration a point must be left."""
        cuts = [mol.GetBondBetweenAtoms(*ends).GetIdx() for ends in bonds]
        cut = Chem.FragmentOnBonds(mol, cuts, addDummies=False)
        parts = [frozenset(part) for part in Chem.GetMolFrags(cut)]
        decorations = {part for part in parts for _, atom in bonds if atom in part}
        core = frozenset(match[atom] for atom in self._core)
        return (
            core in parts and len(decorations) == self.n_points and len(parts) == self.n_points + 1
        )


def _numbered(mol: Chem.Mol) -> Chem.Mol:
    """Number attachment points that have no number, in the order of the SMILES."""
    if not any(atom.GetAtomMapNum() for atom in _points(mol)):
        AttachmentPoints().add_attachment_point_numbers(mol, canonicalize=False)
    return mol


def _points(mol: Chem.Mol) -> list[Chem.Atom]:
    return [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]


def _check(scaffold: str, points: list[Chem.Atom], *, one_point_an_atom: bool) -> None:
    problem = None
    numbers = [atom.GetAtomMapNum() for atom in points]
    if not points:
        problem = "has no attachment point; write * where decorations sit, as in *c1ccccc1"
    elif numbers != list(range(len(points))):
        problem = f"has attachment points numbered {numbers}; number them 0, 1, ... or not at all"
    elif any(atom.GetDegree() != 1 for atom in points):
        problem = "has an attachment point that is not at the end of one bond"
    elif any(atom.GetNeighbors()[0].GetAtomicNum() == 0 for atom in points):
        problem = "has two attachment points bound to one another"
    elif one_point_an_atom and len({atom.GetNeighbors()[0].GetIdx() for atom in points}) != len(
        points
    ):
        problem = "has an atom with two attachment points; reaction filters take one an atom"
    if problem:
        raise InputError(f"scaffold {scaffold!r} {problem}")


def _query(mol: Chem.Mol) -> Chem.Mol:
    """Make the scaffold a pattern: any atom at a point, no further neighbours anywhere else."""
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetAtomMapNum(0)
    settings = Chem.AdjustQueryParameters.NoAdjustments()
    settings.makeDummiesQueries = True  # type: ignore[assignment] # RDKit's stubs
    settings.adjustDegree = True  # type: ignore[assignment] # RDKit's stubs
    settings.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
    return Chem.AdjustQueryProperties(plain, settings)
