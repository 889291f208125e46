"""Components that compare a molecule with reference molecules."""

from typing import Annotated, Literal

from pydantic import Field
from rdkit.Chem import Mol

from chemkl.chem.fingerprints import morgan_fingerprints, morgan_generator
from chemkl.chem.fingerprints import tanimoto as similarities
from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError
from chemkl.rewards.parameters import OneOrMore
from chemkl.rewards.registry import Score, component


@component(
    "tanimoto",
    range=(0, 1),
    source="Rogers and Hahn, J. Chem. Inf. Model. 50, 742 (2010); RDKit Morgan bits",
)
def tanimoto(
    references: OneOrMore,
    *,
    radius: Annotated[int, Field(ge=0)] = 2,
    n_bits: Annotated[int, Field(ge=1)] = 2048,
    combine: Literal["max", "mean"] = "max",
) -> Score:
    """Tanimoto similarity to one or more references; all of them count.

    Args:
        references: SMILES of the reference molecules.
        radius: Of the Morgan fingerprint, in bonds (2 is ECFP4).
        n_bits: Length of the folded fingerprint.
        combine: The nearest reference (max), or the average over all (mean).

    Raises:
        InputError: a reference that is not a molecule.
    """
    read = [read_molecule(smiles) for smiles in references]
    problems = [
        f"references[{index}] = {molecule.smiles!r} is not a molecule: {molecule.reason}"
        for index, molecule in enumerate(read)
        if not molecule.valid
    ]
    if problems:
        raise InputError("\n".join(problems))
    generator = morgan_generator(radius, n_bits)
    fingerprints = morgan_fingerprints(
        [molecule.mol for molecule in read if molecule.mol is not None],
        radius=radius,
        n_bits=n_bits,
    )

    def score(mol: Mol) -> float:
        to_each = similarities(generator.GetFingerprint(mol), fingerprints)
        return float(to_each.max() if combine == "max" else to_each.mean())

    return score
