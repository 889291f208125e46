"""Components that need the molecule alone: drug-likeness, synthesisability, simple properties."""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rdkit import RDConfig
from rdkit.Chem import QED, Descriptors, GetFormalCharge, Mol, rdMolDescriptors

from chemkl.config import InputError, did_you_mean
from chemkl.rewards.components.rings import largest_ring
from chemkl.rewards.registry import Score, component
from chemkl.rewards.table import Row, register


@component("qed", range=(0, 1), source="Bickerton et al., Nat. Chem. 4, 90 (2012); RDKit QED")
def qed() -> Score:
    """Quantitative estimate of drug-likeness, with the average weights."""
    score: Score = QED.qed
    return score


@cache
def _sascorer() -> Callable[[Mol], float]:
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
    return _sascorer()


@component("mol_wt", unit="g/mol", range=(0, math.inf), source="RDKit MolWt")
def mol_wt() -> Score:
    """Average molecular weight, hydrogens included."""
    return rdMolDescriptors._CalcMolWt  # the function behind RDKit's Descriptors.MolWt


@component(
    "logp",
    range=(-math.inf, math.inf),
    source="Wildman and Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999); RDKit MolLogP",
)
def logp() -> Score:
    """Octanol-water partition coefficient, as a decimal logarithm."""
    return lambda mol: float(rdMolDescriptors.CalcCrippenDescriptors(mol)[0])


@component(
    "tpsa",
    unit="Å²",
    range=(0, math.inf),
    source="Ertl et al., J. Med. Chem. 43, 3714 (2000); RDKit CalcTPSA (without S and P)",
)
def tpsa() -> Score:
    """Topological polar surface area of N and O."""
    return rdMolDescriptors.CalcTPSA


@component("hbd", unit="groups", range=(0, math.inf), source="RDKit CalcNumHBD")
def hbd() -> Score:
    """Number of hydrogen-bond donors."""
    return rdMolDescriptors.CalcNumHBD


@component("hba", unit="groups", range=(0, math.inf), source="RDKit CalcNumHBA")
def hba() -> Score:
    """Number of hydrogen-bond acceptors."""
    return rdMolDescriptors.CalcNumHBA


@component(
    "rotatable_bonds",
    unit="bonds",
    range=(0, math.inf),
    source="RDKit CalcNumRotatableBonds (strict: amides and the like do not count)",
)
def rotatable_bonds() -> Score:
    """Number of rotatable bonds."""
    return rdMolDescriptors.CalcNumRotatableBonds


@component(
    "rings", unit="rings", range=(0, math.inf), source="RDKit CalcNumRings (symmetrised SSSR)"
)
def rings() -> Score:
    """Number of rings."""
    return rdMolDescriptors.CalcNumRings


def _penalized_logp(mol: Mol) -> float:
    crippen_logp: float = rdMolDescriptors.CalcCrippenDescriptors(mol)[0]
    return crippen_logp - _sascorer()(mol) - max(largest_ring(mol) - 6, 0)


REAL = (-math.inf, math.inf)
POSITIVE = (0, math.inf)

register(
    [
        Row(
            "exact_mass",
            rdMolDescriptors.CalcExactMolWt,
            "Da",
            POSITIVE,
            "RDKit CalcExactMolWt",
            "Mass of the molecule of the commonest isotopes, or of those that the SMILES names.",
        ),
        Row(
            "heavy_atom_mol_wt",
            Descriptors.HeavyAtomMolWt,
            "g/mol",
            POSITIVE,
            "RDKit HeavyAtomMolWt",
            "Average molecular weight without the hydrogens.",
        ),
        Row(
            "molar_refractivity",
            lambda mol: float(rdMolDescriptors.CalcCrippenDescriptors(mol)[1]),
            "cm³/mol",
            REAL,
            "Wildman and Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999); RDKit MolMR",
            "Molar refractivity: high for large and polarisable molecules.",
        ),
        Row(
            "labute_asa",
            rdMolDescriptors.CalcLabuteASA,
            "Å²",
            POSITIVE,
            "Labute, J. Mol. Graph. Model. 18, 464 (2000); RDKit CalcLabuteASA",
            "Approximate surface area, from the graph alone.",
        ),
        Row(
            "csp3_fraction",
            rdMolDescriptors.CalcFractionCSP3,
            "",
            (0, 1),
            "Lovering et al., J. Med. Chem. 52, 6752 (2009); RDKit CalcFractionCSP3",
            "Share of the carbon atoms that are sp3; 0 without carbon. High: far from flat.",
        ),
        Row(
            "formal_charge",
            GetFormalCharge,
            "e",
            REAL,
            "RDKit GetFormalCharge",
            "Sum of the formal charges of all atoms.",
        ),
        Row(
            "penalized_logp",
            _penalized_logp,
            "",
            REAL,
            "Jin et al., ICML 2018, arXiv:1802.04364, section 3.2, not normalised",
            "logP less the SA score, less the atoms beyond six of the largest ring.",
        ),
    ],
    __name__,
)

DESCRIPTORS = dict(Descriptors.descList)
"""Every descriptor that RDKit lists, by name."""


@component("rdkit_descriptor", range=REAL, source="RDKit Descriptors.descList")
def rdkit_descriptor(
    descriptor: Annotated[str, Field(description="Its name in RDKit, for example MaxEStateIndex.")],
) -> Score:
    """Any descriptor of RDKit by its name; unit and meaning are RDKit's."""
    if descriptor not in DESCRIPTORS:
        near = did_you_mean(descriptor, DESCRIPTORS)
        raise InputError(f"RDKit has no descriptor {descriptor!r}{near}")
    score: Score = DESCRIPTORS[descriptor]
    return score
