"""Components that compare a molecule with reference molecules by their fingerprints.

All of them take references in the config, in a file, or both, and every one counts. High means
similar. RDKit calls two fingerprints without any feature unlike (methane has no atom pair, so its
similarity by atom pairs is 0 even to itself).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from rdkit import DataStructs
from rdkit.Chem import Mol

from chemkl.chem.fingerprints import Fingerprinter, FingerprintKind, build_fingerprint
from chemkl.config import InputError, InputPath
from chemkl.rewards.parameters import OneOrMore
from chemkl.rewards.references import read_references
from chemkl.rewards.registry import Score, component

References = Annotated[OneOrMore | None, Field(description="SMILES of the reference molecules")]
ReferencesFile = Annotated[
    InputPath | None,
    Field(
        description="file of further references: .smi, .smiles, .txt, .csv, .tsv or .sdf, also "
        "compressed, or .parquet"
    ),
]
Combine = Annotated[
    Literal["max", "mean", "min"],
    Field(description="the nearest reference, the average over all, or the farthest"),
]
Kind = Annotated[FingerprintKind, Field(description="which fingerprint; morgan is ECFP")]
Radius = Annotated[int, Field(ge=0, description="bonds; morgan, feature_morgan: 2 is ECFP4, FCFP4")]
Bits = Annotated[
    int | None, Field(ge=1, description="length after folding; null: unfolded, no collisions")
]
Counts = Annotated[bool, Field(description="count the features instead of noting their presence")]
Chirality = Annotated[bool, Field(description="let R and S differ")]
MaxDistance = Annotated[int, Field(ge=1, description="bonds; atom_pairs only")]

_COMBINE: dict[str, Callable[[np.ndarray], Any]] = {"max": np.max, "mean": np.mean, "min": np.min}

_BulkSimilarity = Callable[[Any, Sequence[Any]], Sequence[float]]


def compared(
    references: Sequence[Mol], fingerprint: Fingerprinter, combine: str, bulk: _BulkSimilarity
) -> Score:
    """Give the function that compares a molecule with every one of several.

    Args:
        references: Their fingerprints are made once.
        fingerprint: Makes a fingerprint.
        combine: What becomes of the similarities: max, mean or min.
        bulk: One fingerprint against several, in RDKit's order.
    """
    fingerprints = [fingerprint(mol) for mol in references]
    joined = _COMBINE[combine]

    def score(mol: Mol) -> float:
        return float(joined(np.asarray(bulk(fingerprint(mol), fingerprints), dtype=float)))

    return score


@component(
    "tanimoto",
    range=(0, 1),
    source="Rogers and Hahn, J. Chem. Inf. Model. 50, 742 (2010); RDKit fingerprints",
)
def tanimoto(
    references: References = None,
    *,
    references_file: ReferencesFile = None,
    fingerprint: Kind = "morgan",
    radius: Radius = 2,
    n_bits: Bits = 2048,
    counts: Counts = False,
    chirality: Chirality = False,
    max_distance: MaxDistance = 30,
    combine: Combine = "max",
) -> Score:
    """Tanimoto similarity to the references: features shared over features that either has.

    With counts, a feature counts by its smaller count over its larger one. The defaults are folded
    ECFP4 bits. GuacaMol's fingerprints (Brown et al., J. Chem. Inf. Model. 59, 1096 (2019)) all
    have ``n_bits: null, counts: true``: ECFP4 and ECFP6 are morgan of radius 2 and 3, FCFP4 is
    feature_morgan of radius 2, AP is atom_pairs with ``max_distance: 10``. Its PHCO is
    pharmacophore, which has no settings. A molecule costs 0.1 ms (maccs and
    rdkit_path 1 ms; pharmacophore 7 ms, and seconds beyond 100 atoms: give it a timeout).

    Raises:
        InputError: no reference, one that is not a molecule, or a setting that the fingerprint
            does not have.
    """
    make = build_fingerprint(
        fingerprint,
        radius=radius,
        n_bits=n_bits,
        counts=counts,
        chirality=chirality,
        max_distance=max_distance,
    )
    mols = read_references(references, references_file)
    return compared(mols, make, combine, DataStructs.BulkTanimotoSimilarity)


@component("dice", range=(0, 1), source="Dice, Ecology 26, 297 (1945); RDKit fingerprints")
def dice(
    references: References = None,
    *,
    references_file: ReferencesFile = None,
    fingerprint: Kind = "morgan",
    radius: Radius = 2,
    n_bits: Bits = 2048,
    counts: Counts = False,
    chirality: Chirality = False,
    max_distance: MaxDistance = 30,
    combine: Combine = "max",
) -> Score:
    """Dice similarity to the references: features shared over the mean number of features.

    Settings as for tanimoto; never below it.

    Raises:
        InputError: as for tanimoto.
    """
    make = build_fingerprint(
        fingerprint,
        radius=radius,
        n_bits=n_bits,
        counts=counts,
        chirality=chirality,
        max_distance=max_distance,
    )
    mols = read_references(references, references_file)
    return compared(mols, make, combine, DataStructs.BulkDiceSimilarity)


@component("tversky", range=(0, 1), source="Tversky, Psychol. Rev. 84, 327 (1977); RDKit")
def tversky(
    references: References = None,
    *,
    alpha: Annotated[float, Field(ge=0, le=1000, description="weight of what only it has")],
    beta: Annotated[float, Field(ge=0, le=1000, description="weight of what it lacks")],
    references_file: ReferencesFile = None,
    fingerprint: Kind = "morgan",
    radius: Radius = 2,
    n_bits: Bits = 2048,
    counts: Counts = False,
    chirality: Chirality = False,
    max_distance: MaxDistance = 30,
    combine: Combine = "max",
) -> Score:
    """Tversky similarity: c / (alpha a + beta b + c), lopsided where alpha and beta differ.

    Here c counts the features that molecule and reference share, a those of the molecule alone, b
    those of the reference alone. alpha = 0, beta = 1 is the share of the reference that the
    molecule contains; both 1 is tanimoto, both 0.5 dice. Other settings as for tanimoto.

    Raises:
        InputError: alpha and beta both 0; otherwise as for tanimoto.
    """
    if alpha + beta == 0:
        raise InputError("alpha = beta = 0 makes every similarity 1; set one of them above 0")
    make = build_fingerprint(
        fingerprint,
        radius=radius,
        n_bits=n_bits,
        counts=counts,
        chirality=chirality,
        max_distance=max_distance,
    )
    mols = read_references(references, references_file)

    def bulk(one: Any, several: Sequence[Any]) -> Sequence[float]:
        similarities: Sequence[float] = DataStructs.BulkTverskySimilarity(one, several, alpha, beta)
        return similarities

    return compared(mols, make, combine, bulk)
