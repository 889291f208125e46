"""Molecules as records of an SD file: 2D coordinates, a title, and properties."""

from collections.abc import Mapping

from rdkit import Chem
from rdkit.Chem import rdDepictor

from chemkl.chem.molecules import as_mol, step


@step("SD record")
def sdf_record(molecule: Chem.Mol | str, title: str, properties: Mapping[str, str]) -> str:
    """Write one molecule with 2D coordinates, in V2000, or in V3000 where that cannot hold it.

    Stereochemistry that the SMILES leaves open stays open (a crossed double bond).

    Args:
        molecule: a molecule, which is left as it is, or its SMILES.
        title: first line of the record; further lines are joined to it.
        properties: name -> text; line breaks become blanks, for a blank line would end the value.

    Returns:
        The record, `$$$$` included.

    Raises:
        InputError: the SMILES is not one of a molecule.
        MoleculeError: RDKit cannot lay it out, or write it.
    """
    mol = Chem.Mol(as_mol(molecule))
    rdDepictor.Compute2DCoords(mol)
    mol.SetProp("_Name", _one_line(title))
    for name, value in properties.items():
        mol.SetProp(name, _one_line(value))
    record: str = Chem.SDWriter.GetText(mol)
    return record


def _one_line(text: str) -> str:
    return " ".join(text.split())
