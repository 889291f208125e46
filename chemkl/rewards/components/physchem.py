"""Properties of the molecule as a whole: drug-likeness, size, polarity, formula, graph."""

import math
from collections.abc import Callable
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Descriptors, GraphDescriptors, Mol, rdMolDescriptors

from chemkl.chem.molecules import element_counts, parse_formula
from chemkl.rewards.components.counts import largest_ring
from chemkl.rewards.registry import MANY, REAL, Score, component, one_of, register_table

ELEMENT_WIDTH = 1.0
TOTAL_WIDTH = 2.0
"""Standard deviations of GuacaMol's Gaussians, in atoms: for one element, and for all together."""
MOST_MATCHES = 1_000_000  # RDKit stops at 1,000 matches unless told otherwise, and says nothing

WILDMAN = "Wildman and Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999)"
DESCRIPTORS = dict(Descriptors.descList)  # every descriptor that RDKit lists, by name
Formula = Annotated[str, Field(description="Molecular formula with hydrogens, e.g. C7H8N2O2.")]

_ROTATABLE = Chem.MolFromSmarts("[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]")
_STIFF = Chem.MolFromSmarts("[#7,#8]-&!@[CX3]=[OX1]")


@cache
def sascorer() -> Callable[[Mol], float]:
    """Load the scorer among RDKit's contributed programs, which are no package."""
    file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = spec_from_file_location("rdkit_contrib_sascorer", file)
    if spec is None or spec.loader is None or not file.exists():
        raise RuntimeError(f"this RDKit comes without its SA score: no file {file}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.readFragmentScores()  # 0.2 s; a file of the RDKit installation itself
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
        Field(description="How the parts are joined; GuacaMol's tasks use the geometric mean."),
    ] = "geometric",
) -> Score:
    """Closeness to a molecular formula; 1 for its isomers.

    The mean of exp(-((n - wanted) / width)^2 / 2) over the elements of the formula (width 1 atom)
    and over the number of all atoms, hydrogens included (width 2). An element that the formula
    lacks counts in the number of all atoms only, as in GuacaMol.
    """
    wanted = parse_formula(formula)
    total = wanted.total()

    def score(mol: Mol) -> float:
        counts = element_counts(mol)
        halves = [((counts[one] - n) / ELEMENT_WIDTH) ** 2 / 2 for one, n in wanted.items()]
        halves.append(((counts.total() - total) / TOTAL_WIDTH) ** 2 / 2)
        if mean == "geometric":
            return math.exp(-sum(halves) / len(halves))
        return sum(math.exp(-half) for half in halves) / len(halves)

    return score


@component("formula_match", range=(0, 1), source="RDKit atoms and hydrogens")
def formula_match(formula: Formula) -> Score:
    """1 when the molecule has exactly this molecular formula, else 0; charge is not looked at."""
    wanted = parse_formula(formula)
    return lambda mol: float(element_counts(mol) == wanted)


def _heavy_graph(mol: Mol) -> Mol:
    """Leave out hydrogens that are atoms of their own (isotopes): they distort every index."""
    if all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()):
        return mol
    parameters = Chem.RemoveHsParameters()
    parameters.removeIsotopes = True  # type: ignore[assignment] # RDKit's stubs
    return Chem.RemoveHs(mol, parameters)


def _balaban_j(mol: Mol) -> float:
    """Give Balaban's J; RDKit makes a number up where it is not defined."""
    graph = _heavy_graph(mol)
    n_fragments = len(Chem.GetMolFrags(graph))
    if n_fragments > 1:
        raise ValueError(f"Balaban's J needs one connected molecule, not {n_fragments} fragments")
    index: float = GraphDescriptors.BalabanJ(graph)  # type: ignore[no-untyped-call]  # RDKit's own is untyped
    return index


def _longest_path(mol: Mol) -> float:
    """Give the longest of the shortest paths between two atoms, in bonds, within one fragment."""
    distances = Chem.GetDistanceMatrix(mol, force=True)  # a copy of a molecule has the old one's
    return float(distances[distances < mol.GetNumAtoms()].max())  # 1e8 stands for: not connected


def _rotatable_chain(mol: Mol) -> int:
    """Give the most rotatable bonds in a row: the longest path made of them alone."""
    matches = partial(mol.GetSubstructMatches, maxMatches=MOST_MATCHES)
    stiff = {frozenset(match[:2]) for match in matches(_STIFF)}
    kept = {frozenset(match) for match in matches(_ROTATABLE)} - stiff
    chains = Chem.RWMol(mol)  # these close no ring: the shortest path between two is the only one
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if frozenset(ends) not in kept:
            chains.RemoveBond(*ends)
    return int(_longest_path(chains))


# fmt: off
register_table(__name__, [
    ("qed", QED.qed, "", (0, 1), "Bickerton et al., Nat. Chem. 4, 90 (2012); RDKit QED",
     "Quantitative estimate of drug-likeness, with the average weights."),
    # the function behind RDKit's Descriptors.MolWt
    ("mol_wt", rdMolDescriptors._CalcMolWt, "g/mol", MANY, "RDKit MolWt",
     "Average molecular weight, hydrogens included."),
    ("exact_mass", rdMolDescriptors.CalcExactMolWt, "Da", MANY, "",
     "Mass of the molecule of the commonest isotopes, or of those that the SMILES names."),
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
     "logP less the SA score, less the atoms beyond six of the largest ring."),
    ("tpsa", rdMolDescriptors.CalcTPSA, "Å²", MANY,
     "Ertl et al., J. Med. Chem. 43, 3714 (2000); RDKit CalcTPSA (without S and P)",
     "Topological polar surface area of N and O."),
    ("labute_asa", rdMolDescriptors.CalcLabuteASA, "Å²", MANY,
     "Labute, J. Mol. Graph. Model. 18, 464 (2000); RDKit CalcLabuteASA",
     "Approximate surface area, from the graph alone."),
    ("hbd", rdMolDescriptors.CalcNumHBD, "groups", MANY, "",
     "Number of hydrogen-bond donors."),
    ("hba", rdMolDescriptors.CalcNumHBA, "groups", MANY, "",
     "Number of hydrogen-bond acceptors."),
    ("rotatable_bonds", rdMolDescriptors.CalcNumRotatableBonds, "bonds", MANY,
     "RDKit CalcNumRotatableBonds (strict: amides and the like do not count)",
     "Number of rotatable bonds."),
    ("csp3_fraction", rdMolDescriptors.CalcFractionCSP3, "", (0, 1),
     "Lovering et al., J. Med. Chem. 52, 6752 (2009); RDKit CalcFractionCSP3",
     "Share of the carbon atoms that are sp3; 0 without carbon. High: far from flat."),
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
])
# fmt: on
