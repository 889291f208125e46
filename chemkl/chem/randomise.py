"""Other spellings of the same molecule: randomised SMILES from a seeded generator."""

import numpy as np
from rdkit import Chem

from chemkl.chem.molecules import as_mol, step


@step("random spelling")
def randomise(molecule: Chem.Mol | str, generator: np.random.Generator) -> str:
    """Write a molecule as a SMILES from a random order of its atoms; stereochemistry is kept.

    The atoms are renumbered by a permutation from ``generator`` and written without
    canonicalisation (the restricted randomisation of Arus-Pous et al., J. Cheminform. 11, 71
    (2019)). RDKit's own ``doRandom`` draws from a state shared by the whole process and is
    therefore not used. Equal molecules and generator states give equal strings.

    Args:
        molecule: A molecule, or its SMILES (InputError when it is not one).
        generator: Where the permutation comes from; advanced by one call.

    Raises:
        MoleculeError: RDKit cannot write the molecule in this order.
    """
    mol = as_mol(molecule)
    order = generator.permutation(mol.GetNumAtoms()).tolist()
    return Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
