"""Components that compare a molecule, or its scaffold, with reference molecules.

References come from the config, from a file, or from both. High values mean similar. In RDKit two
fingerprints without features are dissimilar (methane has no atom pair, so its similarity by atom
pairs is 0 even to itself).

A scaffold is the Bemis-Murcko scaffold (rings, linkers, exocyclic double bonds) or its generic form
(every atom a carbon, every bond single). References are molecules or scaffolds, because the
scaffold of a scaffold is itself. Stereochemistry is ignored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from rdkit import Chem, DataStructs
from rdkit.Chem import Mol

from chemkl.chem.fingerprints import Fingerprinter, FingerprintKind, build_fingerprint
from chemkl.chem.molecules import as_mol, parse, read_molecule
from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold
from chemkl.config import InputError, InputPath
from chemkl.files.molecules import CHOOSE_COLUMN, MoleculeFile
from chemkl.rewards.registry import OneOrMore, Score, component, refuse


class References(NamedTuple):
    """The reference molecules: settings shared by the components.

    Args:
        references: SMILES of the reference molecules
        references_file: file of further references: .smi, .smiles, .txt, .csv, .tsv or .sdf, also
            compressed, or .parquet
    """

    references: OneOrMore | None = None
    references_file: InputPath | None = None


class Fingerprint(NamedTuple):
    """The fingerprint to compare: settings shared by several components.

    Args:
        fingerprint: kind of fingerprint; morgan is ECFP
        radius: bonds; morgan, feature_morgan: 2 is ECFP4, FCFP4
        n_bits: length after folding; null: unfolded, no collisions
        counts: use the number of occurrences of each feature instead of its presence
        max_distance: bonds; atom_pairs only
    """

    fingerprint: FingerprintKind = "morgan"
    radius: Annotated[int, Field(ge=0)] = 2
    n_bits: Annotated[int | None, Field(ge=1)] = 2048
    counts: bool = False
    max_distance: Annotated[int, Field(ge=1)] = 30

    def build(self, *, chirality: bool = False) -> Fingerprinter:
        """Return the function that computes the fingerprint."""
        settings = self._asdict()
        return build_fingerprint(settings.pop("fingerprint"), chirality=chirality, **settings)


NO_REFERENCES, FINGERPRINT = References(), Fingerprint()
Combine = Annotated[
    Literal["max", "mean", "min"],
    Field(description="the most similar reference, the mean over all, or the least similar"),
]
Chirality = Annotated[bool, Field(description="distinguish R and S")]

_COMBINE: dict[str, Callable[[np.ndarray], Any]] = {"max": np.max, "mean": np.mean, "min": np.min}


def read_references(references: Sequence[str] | None = None, file: Path | None = None) -> list[Mol]:
    """Read the references of the config, then those of the file, in order."""
    texts = [(f"references[{index}]", text) for index, text in enumerate(references or ())]
    from_file: list[tuple[str, str]] = []
    try:
        if file is not None:
            lines = [(line.number, line.smiles or line.reason) for line in MoleculeFile(file)]
            from_file = [(f"{file}:{number}", text) for number, text in lines if text]
    except InputError as error:
        fix = "rename that with the SMILES to smiles"  # there is no setting for the column
        text = str(error).replace(CHOOSE_COLUMN, fix)
        raise InputError(f"references_file: {text}") from None
    molecules = [(place, read_molecule(text)) for place, text in texts + from_file]
    problems = [
        f"{place} = {molecule.smiles!r} is not a molecule: {molecule.reason}"
        for place, molecule in molecules
        if molecule.mol is None
    ]
    if file is not None and not from_file:
        problems.append(f"references_file: {file}: no reference in it; expected one per line")
    elif not molecules:
        problems.append("references: required: give references or references_file")
    refuse(problems)
    return [molecule.mol for _, molecule in molecules if molecule.mol is not None]


def _compared(
    references: Sequence[Mol],
    fingerprint: Fingerprinter,
    combine: str,
    bulk: Callable[[Any, Sequence[Any]], Sequence[float]] = DataStructs.BulkTanimotoSimilarity,
) -> Score:
    """Return a score that combines a molecule's similarities to the references."""
    fingerprints = [fingerprint(mol) for mol in references]
    reduce = _COMBINE[combine]
    return lambda mol: float(reduce(np.asarray(bulk(fingerprint(mol), fingerprints), dtype=float)))


@component(
    "tanimoto",
    range=(0, 1),
    source="Rogers and Hahn, J. Chem. Inf. Model. 50, 742 (2010); RDKit fingerprints",
)
def tanimoto(
    references: References = NO_REFERENCES,
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    chirality: Chirality = False,
    combine: Combine = "max",
) -> Score:
    """Tanimoto similarity to the references: shared features over features of either molecule.

    With counts it is the sum of the smaller counts over the sum of the larger ones. The default is
    folded ECFP4 bits. GuacaMol's fingerprints (Brown et al., J. Chem. Inf. Model. 59, 1096 (2019))
    all have ``n_bits: null, counts: true``: ECFP4 and ECFP6 are morgan of radius 2 and 3, FCFP4 is
    feature_morgan of radius 2, AP is atom_pairs with ``max_distance: 10``. Its PHCO is
    pharmacophore, which has no settings. A molecule costs 0.1 ms (maccs and rdkit_path 1 ms;
    pharmacophore 7 ms, and seconds beyond 100 atoms: set a timeout).
    """
    mols, make = read_references(*references), fingerprint.build(chirality=chirality)
    return _compared(mols, make, combine)


@component("dice", range=(0, 1), source="Dice, Ecology 26, 297 (1945); RDKit fingerprints")
def dice(
    references: References = NO_REFERENCES,
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    chirality: Chirality = False,
    combine: Combine = "max",
) -> Score:
    """Dice similarity to the references: features shared over the mean number of features.

    Settings as for tanimoto; the value is never smaller than tanimoto's.
    """
    mols, make = read_references(*references), fingerprint.build(chirality=chirality)
    return _compared(mols, make, combine, DataStructs.BulkDiceSimilarity)


@component("tversky", range=(0, 1), source="Tversky, Psychol. Rev. 84, 327 (1977); RDKit")
def tversky(
    references: References = NO_REFERENCES,
    *,
    alpha: Annotated[
        float, Field(ge=0, le=1000, description="weight of the molecule's other features")
    ],
    beta: Annotated[
        float, Field(ge=0, le=1000, description="weight of the reference's other features")
    ],
    fingerprint: Fingerprint = FINGERPRINT,
    chirality: Chirality = False,
    combine: Combine = "max",
) -> Score:
    """Tversky similarity: c / (alpha a + beta b + c), asymmetric if alpha and beta differ.

    Here c is the number of features that molecule and reference share, a those of the molecule
    only, b those of the reference only. alpha = 0, beta = 1 is the share of the reference that the
    molecule contains; both 1 is tanimoto, both 0.5 dice. Other settings as for tanimoto.
    """
    if alpha + beta == 0:
        raise InputError("alpha = beta = 0 makes every similarity 1; set one of them above 0")
    mols = read_references(*references)
    bulk = partial(DataStructs.BulkTverskySimilarity, a=alpha, b=beta)
    return _compared(mols, fingerprint.build(chirality=chirality), combine, bulk)


# ---- scaffolds

ScaffoldForm = Annotated[
    Literal["murcko", "generic"],
    Field(description="with elements and bond orders, or the bare graph of rings and linkers"),
]

_SCAFFOLD_SOURCE = "Bemis and Murcko, J. Med. Chem. 39, 2887 (1996); RDKit MurckoScaffold"
_SCAFFOLDS = {"murcko": murcko_scaffold, "generic": generic_scaffold}


def _scaffolds(references: References, form: str) -> list[str]:
    """Return the distinct scaffolds of the references; each reference must have one."""
    scaffolds: dict[str, None] = {}
    problems: list[str] = []
    for mol in read_references(*references):
        scaffold = _SCAFFOLDS[form](mol)
        if scaffold and read_molecule(scaffold).valid:
            scaffolds[scaffold] = None
        else:
            why = "it has no ring" if scaffold == "" else "its rings make no molecule of their own"
            problems.append(f"reference {Chem.MolToSmiles(mol)!r} has no {form} scaffold: {why}")
    refuse(problems)
    return list(scaffolds)


@component("scaffold_match", range=(0, 1), source=_SCAFFOLD_SOURCE)
def scaffold_match(
    references: References = NO_REFERENCES, *, form: ScaffoldForm = "murcko"
) -> Score:
    """1 when the molecule has the same scaffold as a reference, else 0 (0 without a ring).

    A molecule costs 0.2 ms, with generic scaffolds 0.5 ms.
    """
    scaffolds = frozenset(_scaffolds(references, form))
    scaffold_of = _SCAFFOLDS[form]
    return lambda mol: float(scaffold_of(mol) in scaffolds)


@component("contains_scaffold", range=(0, 1), source=_SCAFFOLD_SOURCE)
def contains_scaffold(
    references: References = NO_REFERENCES,
    *,
    form: ScaffoldForm = "murcko",
    combine: Annotated[
        Literal["any", "all"], Field(description="whether one scaffold suffices or all are needed")
    ] = "any",
) -> Score:
    """1 when the molecule contains the scaffold of a reference as a substructure, else 0.

    Additional rings, even fused ones, are allowed. The generic form matches any elements and bonds.
    A molecule costs 20 µs per reference.
    """
    queries = [as_mol(scaffold) for scaffold in _scaffolds(references, form)]
    if form == "generic":
        generic = Chem.AdjustQueryParameters.NoAdjustments()
        generic.makeAtomsGeneric = True  # type: ignore[assignment] # RDKit's stubs
        generic.makeBondsGeneric = True  # type: ignore[assignment] # RDKit's stubs
        queries = [Chem.AdjustQueryProperties(query, generic) for query in queries]
    enough = any if combine == "any" else all
    return lambda mol: float(enough(mol.HasSubstructMatch(query) for query in queries))


@component("scaffold_similarity", range=(0, 1), source=_SCAFFOLD_SOURCE + "; RDKit fingerprints")
def scaffold_similarity(
    references: References = NO_REFERENCES,
    *,
    form: ScaffoldForm = "murcko",
    fingerprint: Fingerprint = FINGERPRINT,
    combine: Combine = "max",
) -> Score:
    """Tanimoto similarity of the molecule's scaffold to those of the references; 0 without a ring.

    References with the same scaffold count once. Settings as for tanimoto. A molecule costs 0.5 ms,
    with generic scaffolds 0.8 ms.
    """
    mols = [as_mol(text) for text in _scaffolds(references, form)]
    to_references = _compared(mols, fingerprint.build(), combine)
    scaffold_of = _SCAFFOLDS[form]

    def score(mol: Mol) -> float:
        scaffold = scaffold_of(mol)
        if scaffold == "":
            return 0.0
        scaffold_mol = None if scaffold is None else parse(scaffold)
        if scaffold_mol is None:
            raise ValueError(f"its {form} scaffold is not a molecule")
        return to_references(scaffold_mol)

    return score
