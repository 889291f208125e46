"""Counts of atoms, bonds, functional groups and rings."""

from typing import Annotated, Any, Literal

from pydantic import Field
from rdkit import Chem
from rdkit.Chem import Descriptors, Fragments, HybridizationType, Mol, rdMolDescriptors

from chemkl.chem.molecules import ELEMENTS, element_counts
from chemkl.rewards.registry import MANY, ONE_FOR_MANY, Score, component, one_of, register_table

FUNCTIONAL_GROUPS = {
    name: function for name, function in vars(Fragments).items() if name.startswith("fr_")
}
"""RDKit's counters of functional groups, by name."""

Sizes = Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]


def _stereo_double_bonds(mol: Mol, *, unspecified: bool = False) -> int:
    """Count double bonds that can be E or Z; those whose form is not given, if asked."""
    return sum(
        bond.type == Chem.StereoType.Bond_Double
        and not (unspecified and bond.specified == Chem.StereoSpecified.Specified)
        for bond in Chem.FindPotentialStereo(mol)
    )


@component("element_count", unit="atoms", range=MANY, source="RDKit")
def element_count(
    elements: Annotated[
        list[Annotated[str, one_of(ELEMENTS, "an element; give symbols")]],
        ONE_FOR_MANY,
        Field(
            min_length=1,
            description="Symbols of the elements to count together, for example [F, Cl].",
        ),
    ],
) -> Score:
    """Number of atoms of one or several elements, isotopes included; H counts every hydrogen."""
    counted = frozenset(elements)
    return lambda mol: sum(n for one, n in element_counts(mol).items() if one in counted)


@component("bond_count", unit="bonds", range=MANY, source="RDKit")
def bond_count(
    order: Annotated[
        Literal["any", "single", "double", "triple", "aromatic"],
        Field(description="Which bonds count; an aromatic bond is neither single nor double."),
    ] = "any",
) -> Score:
    """Number of bonds between heavy atoms, of one order or of any."""
    wanted = None if order == "any" else getattr(Chem.BondType, order.upper())

    def counts(bond: Any) -> bool:
        heavy = bond.GetBeginAtom().GetAtomicNum() != 1 and bond.GetEndAtom().GetAtomicNum() != 1
        return heavy and wanted in (None, bond.GetBondType())

    return lambda mol: sum(map(counts, mol.GetBonds()))


@component("functional_group_count", unit="groups", range=MANY, source="RDKit Chem.Fragments")
def functional_group_count(
    groups: Annotated[
        list[Annotated[str, one_of(FUNCTIONAL_GROUPS, "a counter of rdkit.Chem.Fragments")]],
        ONE_FOR_MANY,
        Field(
            min_length=1,
            description="Names in rdkit.Chem.Fragments, for example fr_ester; added up.",
        ),
    ],
) -> Score:
    """Number of functional groups, by the names of RDKit's fragment counters."""
    counters = [FUNCTIONAL_GROUPS[name] for name in groups]
    return lambda mol: sum(counter(mol) for counter in counters)


# ---- rings


def ring_sizes(mol: Mol) -> list[int]:
    """Give the number of atoms of every ring (RDKit's symmetrised smallest set of rings)."""
    return [len(ring) for ring in mol.GetRingInfo().AtomRings()]


def largest_ring(mol: Mol) -> int:
    """Give the size of the largest ring; 0 without one."""
    return max(ring_sizes(mol), default=0)


def _ring_systems(mol: Mol) -> list[int]:
    """Count the rings of each system: those that share an atom (fused, bridged, spiro) are one."""
    systems: list[tuple[set[int], int]] = []
    for ring in map(set, mol.GetRingInfo().AtomRings()):
        joined = [(atoms, n) for atoms, n in systems if atoms & ring]
        systems = [(atoms, n) for atoms, n in systems if not atoms & ring]
        systems.append((ring.union(*(atoms for atoms, _ in joined)), 1 + sum(n for _, n in joined)))
    return [n for _, n in systems]


@component(
    "macrocycles",
    unit="rings",
    range=MANY,
    source="Driggers et al., Nat. Rev. Drug Discov. 7, 608 (2008)",
)
def macrocycles(
    smallest: Annotated[
        int, Field(ge=3, description="Fewest atoms of a ring that counts as a macrocycle.")
    ] = 12,
) -> Score:
    """Number of macrocycles: rings of twelve atoms or more, or of another smallest size.

    Rings that differ by the side on which they pass a bridged ring all count: a paracyclophane
    has two.
    """
    return lambda mol: sum(size >= smallest for size in ring_sizes(mol))


@component("rings_of_size", unit="rings", range=MANY, source="RDKit ring perception")
def rings_of_size(
    sizes: Annotated[Sizes, Field(description="The sizes that count, in atoms, 3 or more each.")],
) -> Score:
    """Number of rings of certain sizes."""
    return lambda mol: sum(size in sizes for size in ring_sizes(mol))


@component("rings_outside_sizes", unit="rings", range=MANY, source="RDKit ring perception")
def rings_outside_sizes(
    allowed: Annotated[
        Sizes, Field(description="The sizes that do not count, in atoms, 3 or more each.")
    ],
) -> Score:
    """Number of rings that break a rule of sizes: 0 keeps it, each further ring breaks it more."""
    return lambda mol: sum(size not in allowed for size in ring_sizes(mol))


# fmt: off
_HETERO = "with an atom that is not carbon"
_RINGS = [
    ("aromatic_ring", rdMolDescriptors.CalcNumAromaticRings, "all bonds aromatic"),
    ("aromatic_heterocycle", rdMolDescriptors.CalcNumAromaticHeterocycles,
     f"aromatic rings {_HETERO}"),
    ("aromatic_carbocycle", rdMolDescriptors.CalcNumAromaticCarbocycles,
     "aromatic rings of carbon alone"),
    ("aliphatic_ring", rdMolDescriptors.CalcNumAliphaticRings, "at least one bond not aromatic"),
    ("aliphatic_heterocycle", rdMolDescriptors.CalcNumAliphaticHeterocycles,
     f"aliphatic rings {_HETERO}"),
    ("aliphatic_carbocycle", rdMolDescriptors.CalcNumAliphaticCarbocycles,
     "aliphatic rings of carbon alone"),
    ("saturated_ring", rdMolDescriptors.CalcNumSaturatedRings, "single bonds alone"),
    ("saturated_heterocycle", rdMolDescriptors.CalcNumSaturatedHeterocycles,
     f"saturated rings {_HETERO}"),
    ("saturated_carbocycle", rdMolDescriptors.CalcNumSaturatedCarbocycles,
     "saturated rings of carbon alone"),
    ("heterocycle", rdMolDescriptors.CalcNumHeterocycles, f"rings of any sort {_HETERO}"),
]
_SSSR = "RDKit ring perception (symmetrised SSSR)"
_HYBRIDS = [
    ("sp", HybridizationType.SP), ("sp2", HybridizationType.SP2), ("sp3", HybridizationType.SP3)
]

register_table(__name__, [
    ("heavy_atoms", rdMolDescriptors.CalcNumHeavyAtoms, "atoms", MANY, "",
     "Number of atoms other than hydrogen."),
    ("hetero_atoms", rdMolDescriptors.CalcNumHeteroatoms, "atoms", MANY, "",
     "Number of atoms other than carbon and hydrogen."),
    *((f"{name}_atoms",
       lambda mol, kind=kind: sum(atom.GetHybridization() == kind for atom in mol.GetAtoms()),
       "atoms", MANY,
       "RDKit hybridisation (N and O next to a pi system are sp2)",
       f"Number of {name}-hybridised atoms of any element, hydrogen aside.")
      for name, kind in _HYBRIDS),
    ("stereo_centres", rdMolDescriptors.CalcNumAtomStereoCenters, "atoms", MANY, "",
     "Number of tetrahedral stereo centres, whether or not their form is given."),
    ("unspecified_stereo_centres", rdMolDescriptors.CalcNumUnspecifiedAtomStereoCenters, "atoms",
     MANY, "", "Number of stereo centres whose form the SMILES leaves open."),
    ("stereo_double_bonds", _stereo_double_bonds, "bonds", MANY, "RDKit FindPotentialStereo",
     "Number of double bonds that are E or Z, whether or not the SMILES says which."),
    ("unspecified_stereo_double_bonds", lambda mol: _stereo_double_bonds(mol, unspecified=True),
     "bonds", MANY, "RDKit FindPotentialStereo",
     "Number of double bonds of which the SMILES does not say whether they are E or Z."),
    ("amide_bonds", rdMolDescriptors.CalcNumAmideBonds, "bonds", MANY, "",
     "Number of amide bonds."),
    ("radical_electrons", Descriptors.NumRadicalElectrons, "electrons", MANY, "",
     "Number of unpaired electrons; 0 for nearly every molecule that is wanted."),
    ("fragments", lambda mol: len(Chem.GetMolFrags(mol)), "fragments", MANY, "RDKit GetMolFrags",
     "Number of parts that no bond joins; more than 1 is a salt or a mixture."),
    ("rings", rdMolDescriptors.CalcNumRings, "rings", MANY,
     "RDKit CalcNumRings (symmetrised SSSR)", "Number of rings."),
    *((f"{name}s", function, "rings", MANY, "",
       f"Number of {name.replace('_', ' ')}s: {meaning}.") for name, function, meaning in _RINGS),
    ("spiro_atoms", rdMolDescriptors.CalcNumSpiroAtoms, "atoms", MANY, "",
     "Number of spiro atoms: shared by two rings that have nothing else in common."),
    ("bridgehead_atoms", rdMolDescriptors.CalcNumBridgeheadAtoms, "atoms", MANY, "",
     "Number of bridgehead atoms: ends of a path of two or more bonds that rings share."),
    ("largest_ring", largest_ring, "atoms", MANY, _SSSR,
     "Number of atoms of the largest ring; 0 without rings."),
    ("ring_systems", lambda mol: len(_ring_systems(mol)), "systems", MANY, _SSSR,
     "Number of ring systems: rings that share an atom (fused, bridged, spiro) are one."),
    ("largest_ring_system", lambda mol: max(_ring_systems(mol), default=0), "rings", MANY, _SSSR,
     "Number of rings of the ring system that has most of them; 0 without rings."),
])
# fmt: on
