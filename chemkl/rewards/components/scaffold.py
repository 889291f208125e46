"""Components that compare the ring scaffold of a molecule with those of reference molecules.

A scaffold is Bemis and Murcko's (rings, linkers, exocyclic double bonds), or its generic form
(every atom a carbon, every bond single). References are whole molecules or scaffolds: the scaffold
of a scaffold is itself. Stereochemistry plays no part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rdkit import Chem, DataStructs
from rdkit.Chem import Mol

from chemkl.chem.fingerprints import build_fingerprint
from chemkl.chem.molecules import as_mol, parse, read_molecule
from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold
from chemkl.rewards.components.similarity import (
    Bits,
    Combine,
    Counts,
    Kind,
    MaxDistance,
    Radius,
    References,
    ReferencesFile,
    compared,
)
from chemkl.rewards.references import read_references, refuse
from chemkl.rewards.registry import Score, component

ScaffoldForm = Annotated[
    Literal["murcko", "generic"],
    Field(description="with elements and bond orders, or the bare graph of rings and linkers"),
]

_SOURCE = "Bemis and Murcko, J. Med. Chem. 39, 2887 (1996); RDKit MurckoScaffold"
_SCAFFOLDS = {"murcko": murcko_scaffold, "generic": generic_scaffold}


def _scaffolds(references: Sequence[str] | None, file: Path | None, form: str) -> list[str]:
    """Give the scaffold of every reference, each once.

    Raises:
        InputError: as `read_references`, or a reference that has no scaffold; each is named.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for mol in read_references(references, file):
        smiles = Chem.MolToSmiles(mol)
        scaffold = _SCAFFOLDS[form](mol)
        if scaffold and read_molecule(scaffold).valid:
            found[smiles] = scaffold
        else:
            why = "it has no ring" if scaffold == "" else "its rings make no molecule of their own"
            problems.append(f"reference {smiles!r} has no {form} scaffold: {why}")
    refuse(problems)
    return list(dict.fromkeys(found.values()))


@component("scaffold_match", range=(0, 1), source=_SOURCE)
def scaffold_match(
    references: References = None,
    *,
    references_file: ReferencesFile = None,
    form: ScaffoldForm = "murcko",
) -> Score:
    """1 when the molecule has the same scaffold as a reference, else 0 (0 without a ring).

    A molecule costs 0.2 ms, with
    generic scaffolds 0.5 ms.

    Raises:
        InputError: no reference, one that is not a molecule, or one without a scaffold.
    """
    wanted = frozenset(_scaffolds(references, references_file, form))
    scaffold_of = _SCAFFOLDS[form]
    return lambda mol: float(scaffold_of(mol) in wanted)


@component("contains_scaffold", range=(0, 1), source=_SOURCE)
def contains_scaffold(
    references: References = None,
    *,
    references_file: ReferencesFile = None,
    form: ScaffoldForm = "murcko",
    combine: Annotated[
        Literal["any", "all"], Field(description="whether one scaffold is enough, or all must be")
    ] = "any",
) -> Score:
    """1 when the molecule contains the scaffold of a reference as a substructure, else 0.

    Further rings, fused ones too, do no harm. The generic form matches whatever elements and bonds
    the molecule has there. A molecule costs 20 µs a reference.

    Raises:
        InputError: no reference, one that is not a molecule, or one without a scaffold.
    """
    queries = [_query(each, form) for each in _scaffolds(references, references_file, form)]
    enough = any if combine == "any" else all
    return lambda mol: float(enough(mol.HasSubstructMatch(query) for query in queries))


def _query(scaffold: str, form: str) -> Mol:
    mol = as_mol(scaffold)
    if form == "murcko":
        return mol
    generic = Chem.AdjustQueryParameters.NoAdjustments()
    generic.makeAtomsGeneric = True  # type: ignore[assignment] # RDKit's stubs
    generic.makeBondsGeneric = True  # type: ignore[assignment] # RDKit's stubs
    return Chem.AdjustQueryProperties(mol, generic)


@component("scaffold_similarity", range=(0, 1), source=_SOURCE + "; RDKit fingerprints")
def scaffold_similarity(
    references: References = None,
    *,
    references_file: ReferencesFile = None,
    form: ScaffoldForm = "murcko",
    fingerprint: Kind = "morgan",
    radius: Radius = 2,
    n_bits: Bits = 2048,
    counts: Counts = False,
    max_distance: MaxDistance = 30,
    combine: Combine = "max",
) -> Score:
    """Tanimoto similarity of the molecule's scaffold to those of the references; 0 without a ring.

    References that share a scaffold count once. Settings as for tanimoto. A molecule costs 0.5 ms,
    with generic scaffolds 0.8 ms.

    Raises:
        InputError: no reference, one that is not a molecule, one without a scaffold, or a setting
            that the fingerprint does not have.
    """
    make = build_fingerprint(
        fingerprint, radius=radius, n_bits=n_bits, counts=counts, max_distance=max_distance
    )
    mols = [as_mol(each) for each in _scaffolds(references, references_file, form)]
    to_references = compared(mols, make, combine, DataStructs.BulkTanimotoSimilarity)
    scaffold_of = _SCAFFOLDS[form]

    def score(mol: Mol) -> float:
        scaffold = scaffold_of(mol)
        if scaffold == "":
            return 0.0
        read = None if scaffold is None else parse(scaffold)
        if read is None:
            raise ValueError(f"its {form} scaffold is not a molecule")
        return to_references(read)

    return score
