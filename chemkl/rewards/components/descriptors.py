"""Properties of whole molecules, and counts of atoms, bonds, functional groups and rings."""

import math
from collections.abc import Callable
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from rdkit import Chem, RDConfig
from rdkit.Chem import (
    QED,
    Descriptors,
    Fragments,
    GraphDescriptors,
    HybridizationType,
    Mol,
    rdMolDescriptors,
)

from chemkl.chem.molecules import ELEMENTS, element_counts, parse_formula
from chemkl.rewards.registry import (
    MANY,
    ONE_FOR_MANY,
    REAL,
    Score,
    component,
    one_of,
    register_table,
)

ELEMENT_WIDTH = 1.0
TOTAL_WIDTH = 2.0
"""Standard deviations of GuacaMol's Gaussians, in atoms: for one element, and for the total."""
MOST_MATCHES = 1_000_000  # by default RDKit silently stops at 1,000 matches

WILDMAN = "Wildman and Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999)"
DESCRIPTORS = dict(Descriptors.descList)  # RDKit's descriptors by name
Formula = Annotated[str, Field(description="Molecular formula with hydrogens, e.g. C7H8N2O2.")]

FUNCTIONAL_GROUPS = {
    name: function for name, function in vars(Fragments).items() if name.startswith("fr_")
}
"""RDKit's counters of functional groups, by name."""

Sizes = Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]

_ROTATABLE = Chem.MolFromSmarts("[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]")
_STIFF = Chem.MolFromSmarts("[#7,#8]-&!@[CX3]=[OX1]")


@cache
def sascorer() -> Callable[[Mol], float]:
    """Load the SA scorer from RDKit's contributed programs, which are not a package."""
    file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = spec_from_file_location("rdkit_contrib_sascorer", file)
    if spec is None or spec.loader is None or not file.exists():
        raise RuntimeError(f"this RDKit comes without its SA score: no file {file}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.readFragmentScores()  # 0.2 s; the file belongs to the RDKit installation
    score: Callable[[Mol], float] = module.calculateScore
    return score


@component(
    "sa_score",
    range=(1, 10),
    source="Ertl and Schuffenhauer, J. Cheminform. 1, 8 (2009); RDKit contrib SA_Score",
)
def sa_score() -> Score:
    """Synthetic accessibility, from 1 (easy) to 10 (hard)."""
    return sascorer()


@component("rdkit_descriptor", range=REAL, source="RDKit Descriptors.descList")
def rdkit_descriptor(
    descriptor: Annotated[
        str,
        one_of(DESCRIPTORS, "a descriptor of RDKit"),
        Field(description="Its name in RDKit, for example MaxEStateIndex."),
    ],
) -> Score:
    """Any descriptor of RDKit by its name; unit and meaning are RDKit's."""
    score: Score = DESCRIPTORS[descriptor]
    return score


@component(
    "isomer_score",
    range=(0, 1),
    source="Brown et al., J. Chem. Inf. Model. 59, 1096 (2019), GuacaMol's isomer score",
)
def isomer_score(
    formula: Formula,
    *,
    mean: Annotated[
        Literal["geometric", "arithmetic"],
        Field(description="How the parts are averaged; GuacaMol's tasks use the geometric mean."),
    ] = "geometric",
) -> Score:
    """Closeness to a molecular formula; 1 for its isomers.

    The mean of exp(-((n - target) / width)^2 / 2) over the elements of the formula (width 1 atom)
    and over the number of all atoms, hydrogens included (width 2). An element that the formula
    lacks counts only in the number of all atoms, as in GuacaMol.
    """
    target = parse_formula(formula)

    def score(mol: Mol) -> float:
        counts = element_counts(mol)
        exponents = [((counts[name] - n) / ELEMENT_WIDTH) ** 2 / 2 for name, n in target.items()]
        exponents.append(((counts.total() - target.total()) / TOTAL_WIDTH) ** 2 / 2)
        if mean == "geometric":
            return math.exp(-sum(exponents) / len(exponents))
        return sum(math.exp(-exponent) for exponent in exponents) / len(exponents)

    return score


@component("formula_match", range=(0, 1), source="RDKit atoms and hydrogens")
def formula_match(formula: Formula) -> Score:
    """1 when the molecule has exactly this molecular formula, else 0; charges are ignored."""
    target = parse_formula(formula)
    return lambda mol: float(element_counts(mol) == target)


def _heavy_graph(mol: Mol) -> Mol:
    """Remove explicit hydrogen atoms (isotopes), which distort every index."""
    if all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()):
        return mol
    parameters = Chem.RemoveHsParameters()
    parameters.removeIsotopes = True  # type: ignore[assignment] # RDKit's stubs
    return Chem.RemoveHs(mol, parameters)


def _balaban_j(mol: Mol) -> float:
    """Return Balaban's J; RDKit returns a number even where it is undefined."""
    graph = _heavy_graph(mol)
    n_fragments = len(Chem.GetMolFrags(graph))
    if n_fragments > 1:
        raise ValueError(f"Balaban's J needs one connected molecule, not {n_fragments} fragments")
    index: float = GraphDescriptors.BalabanJ(graph)  # type: ignore[no-untyped-call]  # RDKit's own is untyped
    return index


def _longest_path(mol: Mol) -> float:
    """Return the longest shortest path between two atoms of one fragment, in bonds."""
    distances = Chem.GetDistanceMatrix(mol, force=True)  # a copied molecule has a stale matrix
    return float(distances[distances < mol.GetNumAtoms()].max())  # 1e8 means not connected


def _rotatable_chain(mol: Mol) -> int:
    """Return the length of the longest path of rotatable bonds."""
    matches = partial(mol.GetSubstructMatches, maxMatches=MOST_MATCHES)
    stiff = {frozenset(match[:2]) for match in matches(_STIFF)}
    rotatable = {frozenset(match) for match in matches(_ROTATABLE)} - stiff
    chains = Chem.RWMol(mol)  # without rings, so the shortest path between two atoms is unique
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if frozenset(ends) not in rotatable:
            chains.RemoveBond(*ends)
    return int(_longest_path(chains))


# ---- counts of atoms, bonds, groups and rings


def _stereo_double_bonds(mol: Mol, *, unspecified: bool = False) -> int:
    """Count double bonds that can be E or Z, all of them or the unspecified ones."""
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
    names = frozenset(elements)
    return lambda mol: sum(n for name, n in element_counts(mol).items() if name in names)


@component("bond_count", unit="bonds", range=MANY, source="RDKit")
def bond_count(
    order: Annotated[
        Literal["any", "single", "double", "triple", "aromatic"],
        Field(description="Which bonds count; an aromatic bond is neither single nor double."),
    ] = "any",
) -> Score:
    """Number of bonds between heavy atoms, of one order or of any."""
    kind = None if order == "any" else getattr(Chem.BondType, order.upper())

    def counts(bond: Any) -> bool:
        heavy = bond.GetBeginAtom().GetAtomicNum() != 1 and bond.GetEndAtom().GetAtomicNum() != 1
        return heavy and kind in (None, bond.GetBondType())

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
    """Number of functional groups, counted by RDKit's fragment counters of these names."""
    counters = [FUNCTIONAL_GROUPS[name] for name in groups]
    return lambda mol: sum(counter(mol) for counter in counters)


def ring_sizes(mol: Mol) -> list[int]:
    """Return the number of atoms of every ring (RDKit's symmetrised smallest set of rings)."""
    return [len(ring) for ring in mol.GetRingInfo().AtomRings()]


def largest_ring(mol: Mol) -> int:
    """Return the size of the largest ring; 0 without rings."""
    return max(ring_sizes(mol), default=0)


def _ring_systems(mol: Mol) -> list[int]:
    """Return the number of rings of each system; rings that share an atom are in one system."""
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

    Rings that differ only in the side of a bridged ring all count: a paracyclophane has two.
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
    """Number of rings whose size is not allowed."""
    return lambda mol: sum(size not in allowed for size in ring_sizes(mol))


# ---- components without parameters

# fmt: off
_HETERO = "with an atom that is not carbon"
_RINGS = [
    ("aromatic_ring", rdMolDescriptors.CalcNumAromaticRings, "all bonds aromatic"),
    ("aromatic_heterocycle", rdMolDescriptors.CalcNumAromaticHeterocycles,
     f"aromatic rings {_HETERO}"),
    ("aromatic_carbocycle", rdMolDescriptors.CalcNumAromaticCarbocycles,
     "aromatic rings of carbon atoms only"),
    ("aliphatic_ring", rdMolDescriptors.CalcNumAliphaticRings, "at least one bond not aromatic"),
    ("aliphatic_heterocycle", rdMolDescriptors.CalcNumAliphaticHeterocycles,
     f"aliphatic rings {_HETERO}"),
    ("aliphatic_carbocycle", rdMolDescriptors.CalcNumAliphaticCarbocycles,
     "aliphatic rings of carbon atoms only"),
    ("saturated_ring", rdMolDescriptors.CalcNumSaturatedRings, "single bonds alone"),
    ("saturated_heterocycle", rdMolDescriptors.CalcNumSaturatedHeterocycles,
     f"saturated rings {_HETERO}"),
    ("saturated_carbocycle", rdMolDescriptors.CalcNumSaturatedCarbocycles,
     "saturated rings of carbon atoms only"),
    ("heterocycle", rdMolDescriptors.CalcNumHeterocycles, f"rings of any sort {_HETERO}"),
]
_SSSR = "RDKit ring perception (symmetrised SSSR)"
_HYBRIDS = [
    ("sp", HybridizationType.SP), ("sp2", HybridizationType.SP2), ("sp3", HybridizationType.SP3)
]

register_table(__name__, [
    ("qed", QED.qed, "", (0, 1), "Bickerton et al., Nat. Chem. 4, 90 (2012); RDKit QED",
     "Quantitative estimate of drug-likeness, with the average weights."),
    # the function behind RDKit's Descriptors.MolWt
    ("mol_wt", rdMolDescriptors._CalcMolWt, "g/mol", MANY, "RDKit MolWt",
     "Average molecular weight, hydrogens included."),
    ("exact_mass", rdMolDescriptors.CalcExactMolWt, "Da", MANY, "",
     "Mass with the most common isotopes, or with those specified in the SMILES."),
    ("heavy_atom_mol_wt", Descriptors.HeavyAtomMolWt, "g/mol", MANY, "RDKit HeavyAtomMolWt",
     "Average molecular weight without the hydrogens."),
    ("logp", DESCRIPTORS["MolLogP"], "", REAL,
     f"{WILDMAN}; RDKit MolLogP", "Octanol-water partition coefficient, as a decimal logarithm."),
    ("molar_refractivity", DESCRIPTORS["MolMR"], "cm³/mol", REAL, f"{WILDMAN}; RDKit MolMR",
     "Molar refractivity: high for large and polarisable molecules."),
    ("penalized_logp",
     lambda mol: DESCRIPTORS["MolLogP"](mol) - sascorer()(mol) - max(largest_ring(mol) - 6, 0),
     "", REAL,
     "Jin et al., ICML 2018, arXiv:1802.04364, section 3.2, not normalised",
     "logP minus the SA score, minus the number of atoms beyond six in the largest ring."),
    ("tpsa", rdMolDescriptors.CalcTPSA, "Å²", MANY,
     "Ertl et al., J. Med. Chem. 43, 3714 (2000); RDKit CalcTPSA (without S and P)",
     "Topological polar surface area of N and O."),
    ("labute_asa", rdMolDescriptors.CalcLabuteASA, "Å²", MANY,
     "Labute, J. Mol. Graph. Model. 18, 464 (2000); RDKit CalcLabuteASA",
     "Approximate surface area, computed from the graph."),
    ("hbd", rdMolDescriptors.CalcNumHBD, "groups", MANY, "",
     "Number of hydrogen-bond donors."),
    ("hba", rdMolDescriptors.CalcNumHBA, "groups", MANY, "",
     "Number of hydrogen-bond acceptors."),
    ("rotatable_bonds", rdMolDescriptors.CalcNumRotatableBonds, "bonds", MANY,
     "RDKit CalcNumRotatableBonds (strict: amides and the like do not count)",
     "Number of rotatable bonds."),
    ("csp3_fraction", rdMolDescriptors.CalcFractionCSP3, "", (0, 1),
     "Lovering et al., J. Med. Chem. 52, 6752 (2009); RDKit CalcFractionCSP3",
     "Share of the carbon atoms that are sp3; 0 without carbon. High values: not flat."),
    ("formal_charge", Chem.GetFormalCharge, "e", REAL, "",
     "Sum of the formal charges of all atoms."),
    ("graph_length", lambda mol: _longest_path(_heavy_graph(mol)),
     "bonds", MANY, "RDKit GetDistanceMatrix",
     "Topological length: bonds between the two atoms farthest apart, within a fragment."),
    ("rotatable_chain", _rotatable_chain, "bonds", MANY, "RDKit substructure search",
     "Most rotatable bonds in a row (amides and esters stay rigid): high for floppy chains."),
    ("bertz_ct", lambda mol: GraphDescriptors.BertzCT(_heavy_graph(mol)),  # type: ignore[no-untyped-call]
     "bits", MANY,
     "Bertz, J. Am. Chem. Soc. 103, 3599 (1981); RDKit BertzCT",
     "Complexity of the graph: high for many kinds of atoms and bonds."),
    ("balaban_j", _balaban_j, "", MANY,
     "Balaban, Chem. Phys. Lett. 89, 399 (1982); RDKit BalabanJ",
     "Balaban's J: high for compact, branched graphs. A salt fails."),
    ("heavy_atoms", rdMolDescriptors.CalcNumHeavyAtoms, "atoms", MANY, "",
     "Number of atoms other than hydrogen."),
    ("hetero_atoms", rdMolDescriptors.CalcNumHeteroatoms, "atoms", MANY, "",
     "Number of atoms other than carbon and hydrogen."),
    *((f"{name}_atoms",
       lambda mol, kind=kind: sum(atom.GetHybridization() == kind for atom in mol.GetAtoms()),
       "atoms", MANY,
       "RDKit hybridisation (N and O next to a pi system are sp2)",
       f"Number of {name}-hybridised atoms of any element except hydrogen.")
      for name, kind in _HYBRIDS),
    ("stereo_centres", rdMolDescriptors.CalcNumAtomStereoCenters, "atoms", MANY, "",
     "Number of tetrahedral stereo centres, specified or not."),
    ("unspecified_stereo_centres", rdMolDescriptors.CalcNumUnspecifiedAtomStereoCenters, "atoms",
     MANY, "", "Number of stereo centres that the SMILES leaves unspecified."),
    ("stereo_double_bonds", _stereo_double_bonds, "bonds", MANY, "RDKit FindPotentialStereo",
     "Number of double bonds that can be E or Z, specified or not."),
    ("unspecified_stereo_double_bonds", lambda mol: _stereo_double_bonds(mol, unspecified=True),
     "bonds", MANY, "RDKit FindPotentialStereo",
     "Number of double bonds that can be E or Z and that the SMILES leaves unspecified."),
    ("amide_bonds", rdMolDescriptors.CalcNumAmideBonds, "bonds", MANY, "",
     "Number of amide bonds."),
    ("radical_electrons", Descriptors.NumRadicalElectrons, "electrons", MANY, "",
     "Number of unpaired electrons; 0 for almost every drug-like molecule."),
    ("fragments", lambda mol: len(Chem.GetMolFrags(mol)), "fragments", MANY, "RDKit GetMolFrags",
     "Number of parts not connected by bonds; more than 1 is a salt or a mixture."),
    ("rings", rdMolDescriptors.CalcNumRings, "rings", MANY,
     "RDKit CalcNumRings (symmetrised SSSR)", "Number of rings."),
    *((f"{name}s", function, "rings", MANY, "",
       f"Number of {name.replace('_', ' ')}s: {meaning}.") for name, function, meaning in _RINGS),
    ("spiro_atoms", rdMolDescriptors.CalcNumSpiroAtoms, "atoms", MANY, "",
     "Number of spiro atoms: the only atom that two rings share."),
    ("bridgehead_atoms", rdMolDescriptors.CalcNumBridgeheadAtoms, "atoms", MANY, "",
     "Number of bridgehead atoms: ends of a path of two or more bonds that rings share."),
    ("largest_ring", largest_ring, "atoms", MANY, _SSSR,
     "Number of atoms of the largest ring; 0 without rings."),
    ("ring_systems", lambda mol: len(_ring_systems(mol)), "systems", MANY, _SSSR,
     "Number of ring systems: rings that share an atom (fused, bridged, spiro) are one."),
    ("largest_ring_system", lambda mol: max(_ring_systems(mol), default=0), "rings", MANY, _SSSR,
     "Number of rings of the ring system with the most rings; 0 without rings."),
])
# fmt: on
