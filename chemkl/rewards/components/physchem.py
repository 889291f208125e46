"""Components that need the molecule alone: drug-likeness, synthesisability, simple properties."""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from rdkit import RDConfig
from rdkit.Chem import QED, Mol, rdMolDescriptors

from chemkl.rewards.registry import Score, component


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


@component("rings", unit="rings", range=(0, math.inf), source="RDKit CalcNumRings (SSSR)")
def rings() -> Score:
    """Number of rings."""
    return rdMolDescriptors.CalcNumRings
