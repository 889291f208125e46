"""Components that compare a molecule, or its ring scaffold, with reference molecules.

All of them take references in the config, in a file, or both, and every one counts. High means
similar. RDKit calls two fingerprints without any feature unlike (methane has no atom pair, so its
similarity by atom pairs is 0 even to itself).

A scaffold is Bemis and Murcko's (rings, linkers, exocyclic double bonds), or its generic form
(every atom a carbon, every bond single). References are whole molecules or scaffolds: the scaffold
of a scaffold is itself. Stereochemistry plays no part.
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
from chemkl.files.molecules import MoleculeFile
from chemkl.rewards.registry import OneOrMore, Score, component, refuse


class References(NamedTuple):
    """Where the reference molecules stand: settings that the components share.

    Args:
        references: SMILES of the reference molecules
        references_file: file of further references: .smi, .smiles, .txt, .csv, .tsv or .sdf, also
            compressed, or .parquet
    """

    references: OneOrMore | None = None
    references_file: InputPath | None = None


class Fingerprint(NamedTuple):
    """Which fingerprint is compared: settings that several components share.

    Args:
        fingerprint: which fingerprint; morgan is ECFP
        radius: bonds; morgan, feature_morgan: 2 is ECFP4, FCFP4
        n_bits: length after folding; null: unfolded, no collisions
        counts: count the features instead of noting their presence
        max_distance: bonds; atom_pairs only
    """

    fingerprint: FingerprintKind = "morgan"
    radius: Annotated[int, Field(ge=0)] = 2
    n_bits: Annotated[int | None, Field(ge=1)] = 2048
    counts: bool = False
    max_distance: Annotated[int, Field(ge=1)] = 30

    def build(self, *, chirality: bool = False) -> Fingerprinter:
        """Give the function that makes it; an InputError for a setting that it does not have."""
        settings = self._asdict()
        return build_fingerprint(settings.pop("fingerprint"), chirality=chirality, **settings)


NO_REFERENCES, FINGERPRINT = References(), Fingerprint()
Combine = Annotated[
    Literal["max", "mean", "min"],
    Field(description="the nearest reference, the average over all, or the farthest"),
]
Chirality = Annotated[bool, Field(description="let R and S differ")]

_COMBINE: dict[str, Callable[[np.ndarray], Any]] = {"max": np.max, "mean": np.mean, "min": np.min}


def read_references(references: Sequence[str] | None = None, file: Path | None = None) -> list[Mol]:
    """Read every reference: those in the config first, then those of the file, in order."""
    texts = [(f"references[{index}]", text) for index, text in enumerate(references or ())]
    from_file: list[tuple[str, str]] = []
    try:
        if file is not None:
            lines = [(line.number, line.smiles or line.reason) for line in MoleculeFile(file)]
            from_file = [(f"{file}:{number}", text) for number, text in lines if text]
    except InputError as error:
        fix = "rename that with the SMILES to smiles"  # there is no setting beside the file
        text = str(error).replace("say which one it is with `column`", fix)
        raise InputError(f"references_file: {text}") from None
    read = [(place, read_molecule(text)) for place, text in texts + from_file]
    problems = [
        f"{place} = {molecule.smiles!r} is not a molecule: {molecule.reason}"
        for place, molecule in read
        if molecule.mol is None
    ]
    if file is not None and not from_file:
        problems.append(f"references_file: {file}: no reference in it; expected one a line")
    elif not read:
        problems.append("references: required, and not given: give references or references_file")
    refuse(problems)
    return [molecule.mol for _, molecule in read if molecule.mol is not None]


def _compared(
    references: Sequence[Mol],
    fingerprint: Fingerprinter,
    combine: str,
    bulk: Callable[[Any, Sequence[Any]], Sequence[float]] = DataStructs.BulkTanimotoSimilarity,
) -> Score:
    """Compare a molecule with several; `bulk` does it with one fingerprint, in RDKit's order."""
    fingerprints = [fingerprint(mol) for mol in references]
    joined = _COMBINE[combine]
    return lambda mol: float(joined(np.asarray(bulk(fingerprint(mol), fingerprints), dtype=float)))


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
    """Tanimoto similarity to the references: features shared over features that either has.

    With counts, a feature counts by its smaller count over its larger one. The defaults are folded
    ECFP4 bits. GuacaMol's fingerprints (Brown et al., J. Chem. Inf. Model. 59, 1096 (2019)) all
    have ``n_bits: null, counts: true``: ECFP4 and ECFP6 are morgan of radius 2 and 3, FCFP4 is
    feature_morgan of radius 2, AP is atom_pairs with ``max_distance: 10``. Its PHCO is
    pharmacophore, which has no settings. A molecule costs 0.1 ms (maccs and
    rdkit_path 1 ms; pharmacophore 7 ms, and seconds beyond 100 atoms: give it a timeout).
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

    Settings as for tanimoto; never below it.
    """
    mols, make = read_references(*references), fingerprint.build(chirality=chirality)
    return _compared(mols, make, combine, DataStructs.BulkDiceSimilarity)


@component("tversky", range=(0, 1), source="Tversky, Psychol. Rev. 84, 327 (1977); RDKit")
def tversky(
    references: References = NO_REFERENCES,
    *,
    alpha: Annotated[float, Field(ge=0, le=1000, description="weight of what only it has")],
    beta: Annotated[float, Field(ge=0, le=1000, description="weight of what it lacks")],
    fingerprint: Fingerprint = FINGERPRINT,
    chirality: Chirality = False,
    combine: Combine = "max",
) -> Score:
    """Tversky similarity: c / (alpha a + beta b + c), lopsided where alpha and beta differ.

    Here c counts the features that molecule and reference share, a those of the molecule alone, b
    those of the reference alone. alpha = 0, beta = 1 is the share of the reference that the
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
    """Give the scaffold of every reference, each once; a reference without one is refused."""
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
    wanted = frozenset(_scaffolds(references, form))
    scaffold_of = _SCAFFOLDS[form]
    return lambda mol: float(scaffold_of(mol) in wanted)


@component("contains_scaffold", range=(0, 1), source=_SCAFFOLD_SOURCE)
def contains_scaffold(
    references: References = NO_REFERENCES,
    *,
    form: ScaffoldForm = "murcko",
    combine: Annotated[
        Literal["any", "all"], Field(description="whether one scaffold is enough, or all must be")
    ] = "any",
) -> Score:
    """1 when the molecule contains the scaffold of a reference as a substructure, else 0.

    Further rings, fused ones too, do no harm. The generic form matches whatever elements and bonds
    the molecule has there. A molecule costs 20 µs a reference.
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

    References that share a scaffold count once. Settings as for tanimoto. A molecule costs 0.5 ms,
    with generic scaffolds 0.8 ms.
    """
    mols = [as_mol(text) for text in _scaffolds(references, form)]
    to_references = _compared(mols, fingerprint.build(), combine)
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
