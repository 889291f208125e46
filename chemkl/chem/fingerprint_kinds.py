"""Fingerprints by name: one function from a molecule to RDKit's fingerprint, set up once."""

from collections.abc import Callable
from typing import Any, Literal

from rdkit.Chem import Mol, rdFingerprintGenerator, rdMolDescriptors

from chemkl.chem.molecules import MoleculeError
from chemkl.config import InputError

FingerprintKind = Literal[
    "morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path", "maccs", "pharmacophore"
]
"""The fingerprints there are, by the names that configs use."""

Fingerprinter = Callable[[Mol], Any]
"""A molecule to its fingerprint: an RDKit bit vector, or an RDKit sparse vector of counts."""

MOST_FEATURES = 100
"""Pharmacophore features that a molecule may have: three seconds (120: five, 500: minutes)."""

_DEFAULTS = {"radius": 2, "n_bits": 2048, "counts": False, "chirality": False, "max_distance": 30}

_TAKES: dict[FingerprintKind, tuple[str, ...]] = {
    "morgan": ("radius", "n_bits", "counts", "chirality"),
    "feature_morgan": ("radius", "n_bits", "counts", "chirality"),
    "atom_pairs": ("max_distance", "n_bits", "counts", "chirality"),
    "torsions": ("n_bits", "counts", "chirality"),
    "rdkit_path": ("n_bits", "counts"),
    "maccs": (),
    "pharmacophore": (),
}


def build_fingerprint(
    kind: FingerprintKind = "morgan",
    *,
    radius: int = 2,
    n_bits: int | None = 2048,
    counts: bool = False,
    chirality: bool = False,
    max_distance: int = 30,
) -> Fingerprinter:
    """Give the function that makes one kind of fingerprint.

    Kinds: ``morgan`` (radius 2 is ECFP4), ``feature_morgan`` (radius 2 is FCFP4), ``atom_pairs``,
    ``torsions``, ``rdkit_path`` (Daylight-like), ``maccs`` (166 keys), ``pharmacophore`` (Gobbi and
    Poppinger's 2D pharmacophores, Biotechnol. Bioeng. 61, 47 (1998); 7 ms a drug-like molecule, but
    the time grows with the third power of its features: one with more than `MOST_FEATURES` raises
    a `MoleculeError`).

    Args:
        kind: Which of them.
        radius: Of the Morgan fingerprints, in bonds.
        n_bits: Length after folding; None leaves it unfolded (2^32 or more positions, sparse).
        counts: How often each feature occurs rather than whether it does.
        chirality: Let R and S differ.
        max_distance: Of atom pairs, in bonds.

    Raises:
        InputError: a setting away from its default that this kind does not have.
    """
    given = {
        "radius": radius,
        "n_bits": n_bits,
        "counts": counts,
        "chirality": chirality,
        "max_distance": max_distance,
    }
    _refuse_unused(kind, given)
    if kind == "maccs":
        return rdMolDescriptors.GetMACCSKeysFingerprint
    if kind == "pharmacophore":
        return _pharmacophores()
    generator = _generator(kind, radius, n_bits, chirality, max_distance)
    folded = n_bits is not None
    if counts:
        return generator.GetCountFingerprint if folded else generator.GetSparseCountFingerprint
    return generator.GetFingerprint if folded else generator.GetSparseFingerprint


def _refuse_unused(kind: FingerprintKind, given: dict[str, Any]) -> None:
    taken = _TAKES[kind]
    problems = [
        f"{name} = {value}: the fingerprint {kind} has no such setting; it takes "
        f"{', '.join(taken) or 'none'}"
        for name, value in given.items()
        if name not in taken and value != _DEFAULTS[name]
    ]
    if problems:
        raise InputError("\n".join(problems))


def _generator(
    kind: FingerprintKind, radius: int, n_bits: int | None, chirality: bool, max_distance: int
) -> rdFingerprintGenerator.FingerprintGenerator64:
    size = n_bits or 2048  # an unfolded fingerprint ignores it
    if kind == "atom_pairs":
        return rdFingerprintGenerator.GetAtomPairGenerator(
            maxDistance=max_distance, includeChirality=chirality, fpSize=size
        )
    if kind == "torsions":
        return rdFingerprintGenerator.GetTopologicalTorsionGenerator(
            includeChirality=chirality, fpSize=size
        )
    if kind == "rdkit_path":
        return rdFingerprintGenerator.GetRDKitFPGenerator(fpSize=size)
    features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    return rdFingerprintGenerator.GetMorganGenerator(
        radius=radius,
        includeChirality=chirality,
        atomInvariantsGenerator=features if kind == "feature_morgan" else None,
        fpSize=size,
    )


def _pharmacophores() -> Fingerprinter:
    from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D  # compiles its patterns on import

    factory: Any = Gobbi_Pharm2D.factory
    make: Callable[[Mol, Any], Any] = Generate.Gen2DFingerprint

    def fingerprint(mol: Mol) -> Any:
        n_features = sum(len(matches) for matches in factory.GetMolFeats(mol))
        if n_features > MOST_FEATURES:
            raise MoleculeError(
                f"too many pharmacophore features: {n_features}, at most {MOST_FEATURES}"
            )
        return make(mol, factory)

    return fingerprint
