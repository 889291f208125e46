"""Components that count atoms, bonds and functional groups."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field
from rdkit.Chem import (
    BondType,
    Descriptors,
    FindPotentialStereo,
    Fragments,
    GetMolFrags,
    HybridizationType,
    Mol,
    StereoSpecified,
    StereoType,
    rdMolDescriptors,
)

from chemkl.chem.molecules import ELEMENTS, element_counts
from chemkl.config import InputError, did_you_mean
from chemkl.rewards.parameters import OneOrMore
from chemkl.rewards.registry import Score, component
from chemkl.rewards.table import Row, register

MANY = (0, math.inf)

FUNCTIONAL_GROUPS = {
    name: function for name, function in vars(Fragments).items() if name.startswith("fr_")
}
"""RDKit's counters of functional groups, by name."""


def _hybridised(kind: HybridizationType) -> Score:
    return lambda mol: sum(atom.GetHybridization() == kind for atom in mol.GetAtoms())


def _stereo_double_bonds(mol: Mol, *, unspecified: bool) -> int:
    """Count double bonds that can be E or Z; those whose form is not given, if asked."""
    return sum(
        each.type == StereoType.Bond_Double
        and not (unspecified and each.specified == StereoSpecified.Specified)
        for each in FindPotentialStereo(mol)
    )


register(
    [
        Row(
            "heavy_atoms",
            rdMolDescriptors.CalcNumHeavyAtoms,
            "atoms",
            MANY,
            "RDKit CalcNumHeavyAtoms",
            "Number of atoms other than hydrogen.",
        ),
        Row(
            "hetero_atoms",
            rdMolDescriptors.CalcNumHeteroatoms,
            "atoms",
            MANY,
            "RDKit CalcNumHeteroatoms",
            "Number of atoms other than carbon and hydrogen.",
        ),
        *(
            Row(
                f"{name}_atoms",
                _hybridised(kind),
                "atoms",
                MANY,
                "RDKit hybridisation (N and O next to a pi system are sp2)",
                f"Number of {name}-hybridised atoms of any element, hydrogen aside.",
            )
            for name, kind in [
                ("sp", HybridizationType.SP),
                ("sp2", HybridizationType.SP2),
                ("sp3", HybridizationType.SP3),
            ]
        ),
        Row(
            "stereo_centres",
            rdMolDescriptors.CalcNumAtomStereoCenters,
            "atoms",
            MANY,
            "RDKit CalcNumAtomStereoCenters",
            "Number of tetrahedral stereo centres, whether or not their form is given.",
        ),
        Row(
            "unspecified_stereo_centres",
            rdMolDescriptors.CalcNumUnspecifiedAtomStereoCenters,
            "atoms",
            MANY,
            "RDKit CalcNumUnspecifiedAtomStereoCenters",
            "Number of stereo centres whose form the SMILES leaves open.",
        ),
        Row(
            "stereo_double_bonds",
            lambda mol: _stereo_double_bonds(mol, unspecified=False),
            "bonds",
            MANY,
            "RDKit FindPotentialStereo",
            "Number of double bonds that are E or Z, whether or not the SMILES says which.",
        ),
        Row(
            "unspecified_stereo_double_bonds",
            lambda mol: _stereo_double_bonds(mol, unspecified=True),
            "bonds",
            MANY,
            "RDKit FindPotentialStereo",
            "Number of double bonds of which the SMILES does not say whether they are E or Z.",
        ),
        Row(
            "amide_bonds",
            rdMolDescriptors.CalcNumAmideBonds,
            "bonds",
            MANY,
            "RDKit CalcNumAmideBonds",
            "Number of amide bonds.",
        ),
        Row(
            "radical_electrons",
            Descriptors.NumRadicalElectrons,
            "electrons",
            MANY,
            "RDKit NumRadicalElectrons",
            "Number of unpaired electrons; 0 for nearly every molecule that is wanted.",
        ),
        Row(
            "fragments",
            lambda mol: len(GetMolFrags(mol)),
            "fragments",
            MANY,
            "RDKit GetMolFrags",
            "Number of parts that no bond joins; more than 1 is a salt or a mixture.",
        ),
    ],
    __name__,
)


@component("element_count", unit="atoms", range=MANY, source="RDKit")
def element_count(
    elements: Annotated[
        OneOrMore,
        Field(description="Symbols of the elements to count together, for example [F, Cl]."),
    ],
) -> Score:
    """Number of atoms of one or several elements, isotopes included; H counts every hydrogen."""
    problems = [
        f"elements[{index}] = {symbol!r} is not an element; give symbols such as C, Cl or Na"
        for index, symbol in enumerate(elements)
        if symbol not in ELEMENTS
    ]
    if problems:
        raise InputError("\n".join(problems))
    counted = frozenset(elements)

    def score(mol: Mol) -> float:
        return sum(n for symbol, n in element_counts(mol).items() if symbol in counted)

    return score


@component("bond_count", unit="bonds", range=MANY, source="RDKit")
def bond_count(
    order: Annotated[
        Literal["any", "single", "double", "triple", "aromatic"],
        Field(description="Which bonds count; an aromatic bond is neither single nor double."),
    ] = "any",
) -> Score:
    """Number of bonds between heavy atoms, of one order or of any."""
    wanted = None if order == "any" else getattr(BondType, order.upper())

    def counts(bond: Any) -> bool:
        heavy = bond.GetBeginAtom().GetAtomicNum() != 1 and bond.GetEndAtom().GetAtomicNum() != 1
        return heavy and wanted in (None, bond.GetBondType())

    return lambda mol: sum(map(counts, mol.GetBonds()))


@component("functional_group_count", unit="groups", range=MANY, source="RDKit Chem.Fragments")
def functional_group_count(
    groups: Annotated[
        OneOrMore,
        Field(description="Names in rdkit.Chem.Fragments, for example fr_ester; added up."),
    ],
) -> Score:
    """Number of functional groups, by the names of RDKit's fragment counters."""
    problems = [
        f"groups[{index}] = {name!r} is not a counter of rdkit.Chem.Fragments"
        f"{did_you_mean(name, FUNCTIONAL_GROUPS)}"
        for index, name in enumerate(groups)
        if name not in FUNCTIONAL_GROUPS
    ]
    if problems:
        raise InputError("\n".join(problems))
    counters = [FUNCTIONAL_GROUPS[name] for name in groups]
    return lambda mol: sum(counter(mol) for counter in counters)
