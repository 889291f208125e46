"""Scaffolds of molecules: Bemis-Murcko, and its generic form that forgets elements and bonds."""

from collections.abc import Callable

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem.molecules import MoleculeError, as_mol, step

_murcko: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.GetScaffoldForMol
_make_generic: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.MakeScaffoldGeneric


@step("scaffold")
def murcko_scaffold(molecule: Chem.Mol | str) -> str:
    """Give the canonical SMILES of the Bemis-Murcko scaffold: rings, linkers, exocyclic C=X.

    Bemis and Murcko, J. Med. Chem. 39, 2887 (1996), as RDKit implements it. Stereochemistry
    plays no part, so enantiomers share one scaffold.

    Args:
        molecule: A molecule, or its SMILES (InputError when it is not one).

    Returns:
        The scaffold's SMILES; ``""`` for an acyclic molecule.

    Raises:
        MoleculeError: RDKit cannot make or write it.
    """
    return _smiles(_murcko(as_mol(molecule)))


def generic_scaffold(molecule: Chem.Mol | str) -> str | None:
    """Give the generic scaffold: every atom a carbon, every bond single, side atoms cut again.

    RDKit's ``MakeScaffoldGeneric`` turns an exocyclic C=O into a methyl group; taking the Murcko
    scaffold a second time removes it.

    Args:
        molecule: A molecule, or its SMILES (InputError when it is not one).

    Returns:
        The scaffold's SMILES; ``""`` for an acyclic molecule; None where RDKit makes none (a ring
        atom with five or more bonds cannot become a carbon).
    """
    try:
        with step("generic scaffold"):
            return _smiles(_murcko(_make_generic(_murcko(as_mol(molecule)))))
    except MoleculeError:
        return None


def _smiles(scaffold: Chem.Mol) -> str:
    return Chem.MolToSmiles(scaffold, isomericSmiles=False)
