"""Morgan fingerprints and the Tanimoto similarities between them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from rdkit import DataStructs
from rdkit.Chem import Mol, rdFingerprintGenerator, rdMolDescriptors

from chemkl.chem.molecules import MoleculeError, read_molecule, step
from chemkl.config import InputError

Fingerprints = Sequence[DataStructs.ExplicitBitVect] | np.ndarray
"""Bit fingerprints of one length: RDKit's, or packed, a row of bytes for each."""

BLOCK = 8192
"""Rows and columns of the matrix of similarities that are computed at a time: what is looked at for
them, one byte a bit, must fit into a core's cache."""

_BITS_ON = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


@lru_cache(maxsize=32)
def morgan_generator(
    radius: int = 2, n_bits: int = 2048
) -> rdFingerprintGenerator.FingerprintGenerator64:
    """RDKit's Morgan generator of this radius (bonds) and length, built once: bits alone."""
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)


@step("fingerprint")
def morgan_fingerprint(
    mol: Mol, *, radius: int = 2, n_bits: int = 2048
) -> DataStructs.ExplicitBitVect:
    """The folded Morgan bit fingerprint of one molecule."""
    fingerprint: DataStructs.ExplicitBitVect = morgan_generator(radius, n_bits).GetFingerprint(mol)
    return fingerprint


def packed_morgan(mol: Mol, *, radius: int = 2, n_bits: int = 2048) -> bytes:
    """The same, eight bits to a byte: a quarter of the memory of RDKit's object."""
    fingerprint = morgan_fingerprint(mol, radius=radius, n_bits=n_bits)
    packed: bytes = DataStructs.BitVectToBinaryText(fingerprint)
    return packed


def unpacked(packed: bytes) -> DataStructs.ExplicitBitVect:
    """RDKit's object of a packed fingerprint."""
    fingerprint: DataStructs.ExplicitBitVect = DataStructs.CreateFromBinaryText(
        packed  # type: ignore[arg-type] # its stub says str; a str of other than ASCII is refused
    )
    return fingerprint


def pack(fingerprints: Fingerprints | Sequence[bytes]) -> np.ndarray:
    """Fingerprints as an array of bytes, a row for each; an array is handed back as it is."""
    if isinstance(fingerprints, np.ndarray):
        return fingerprints
    n, pack_one = len(fingerprints), DataStructs.BitVectToBinaryText
    texts = (item if isinstance(item, bytes) else pack_one(item) for item in fingerprints)
    return np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(n, -1 if n else 0)


def folded(packed: np.ndarray) -> np.ndarray:
    """Packed fingerprints of half the length, as RDKit makes them: a bit is a number modulo it."""
    half = packed.shape[1] // 2
    halves: np.ndarray = packed[:, :half] | packed[:, half:]
    return halves


def tanimoto(
    fingerprint: DataStructs.ExplicitBitVect, fingerprints: Sequence[DataStructs.ExplicitBitVect]
) -> np.ndarray:
    """The Tanimoto similarities of one fingerprint to several, float64, in order."""
    return np.asarray(DataStructs.BulkTanimotoSimilarity(fingerprint, fingerprints), dtype=float)


def tanimoto_matrix(fingerprints: Sequence[DataStructs.ExplicitBitVect]) -> np.ndarray:
    """The symmetric (n, n) matrix of Tanimoto similarities, ones on the diagonal."""
    n = len(fingerprints)
    matrix = np.ones((n, n))
    for row in range(1, n):
        matrix[row, :row] = tanimoto(fingerprints[row], fingerprints[:row])
        matrix[:row, row] = matrix[row, :row]
    return matrix


def tanimoto_sums(
    fingerprints: Fingerprints, powers: Sequence[int] = (1,), *, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the Tanimoto similarities T_ij of all pairs j < i, to several powers p, exactly.

    The matrix is never whole in memory; the work is quadratic, some 10 ns a pair. The sums do not
    depend on the number of workers, which are threads that NumPy lets run at the same time. Gives
    two arrays of shape (powers, n): the sum of T_ij^p over j for each i, and over i for each j.
    """
    packed = pack(fingerprints)
    n = len(packed)
    below, above = np.zeros((len(powers), n)), np.zeros((len(powers), n))
    corners = [(row, column) for column in range(0, n, BLOCK) for row in range(column, n, BLOCK)]
    block = partial(_block_sums, packed, _BITS_ON[packed].sum(axis=1), powers)
    with ThreadPoolExecutor(workers) as threads:
        for (row, column), (over_columns, over_rows) in zip(
            corners, threads.map(block, corners), strict=True
        ):
            below[:, row : row + BLOCK] += over_columns
            above[:, column : column + BLOCK] += over_rows
    return below, above


def _block_sums(
    packed: np.ndarray, sizes: np.ndarray, powers: Sequence[int], corner: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The sums over one block of the matrix, below the diagonal.

    The bits that a row has in common with all columns are those of the columns in the places of its
    own bits, added up: forty rows of small numbers for a drug-like molecule, whatever the length.
    """
    rows = range(corner[0], min(corner[0] + BLOCK, len(packed)))
    columns = slice(corner[1], corner[1] + BLOCK)
    bits = np.ascontiguousarray(np.unpackbits(packed[columns], axis=1).T)
    others = sizes[columns].astype(float)
    counts = np.uint8 if sizes.max() <= np.iinfo(np.uint8).max else np.uint16
    over_columns = np.zeros((len(powers), len(rows)))
    over_rows = np.zeros((len(powers), bits.shape[1]))
    for at, i in enumerate(rows):
        m = min(i - corner[1], bits.shape[1])  # columns before the diagonal
        if m == 0 or sizes[i] == 0:  # to RDKit, nothing is similar to a molecule without bits
            continue
        on = np.flatnonzero(np.unpackbits(packed[i]))
        similarities = np.add.reduce(bits[on, :m], axis=0, dtype=counts).astype(float)
        similarities /= (others[:m] + sizes[i]) - similarities
        for number, p in enumerate(powers):
            powered = similarities if p == 1 else similarities**p
            over_columns[number, at] = powered.sum()
            over_rows[number, :m] += powered
    return over_columns, over_rows


def tanimoto_kernel(smiles: Sequence[str | None]) -> np.ndarray:
    """The symmetric (n, n) matrix of Tanimoto similarities between SMILES, float32, in order.

    A row without a molecule (None, or a string that is not valid) or without a fingerprint is
    similar to nothing but itself.
    """
    fingerprints = _morgan_by_row(smiles)
    rows = list(fingerprints)
    kernel = np.eye(len(smiles), dtype=np.float32)
    kernel[np.ix_(rows, rows)] = tanimoto_matrix(list(fingerprints.values()))
    return kernel


def fingerprint_bits(smiles: Sequence[str | None]) -> np.ndarray:
    """The bits (n, 2048) of Morgan fingerprints of SMILES, float32, in order.

    A row without a molecule (None, or a string that is not valid) has none.
    """
    bits = np.zeros((len(smiles), 2048), dtype=np.float32)
    for row, fingerprint in _morgan_by_row(smiles).items():
        bits[row, list(fingerprint.GetOnBits())] = 1
    return bits


def _morgan_by_row(smiles: Sequence[str | None]) -> dict[int, DataStructs.ExplicitBitVect]:
    """The fingerprints, of radius 2, of the rows that have one."""
    fingerprints = {}
    for row, text in enumerate(smiles):
        mol = None if text is None else read_molecule(text).mol
        with suppress(MoleculeError):
            if mol is not None:
                fingerprints[row] = morgan_fingerprint(mol)
    return fingerprints


# ---- kinds of fingerprint


FingerprintKind = Literal[
    "morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path", "maccs", "pharmacophore"
]
"""The fingerprints there are, by the names that configs use."""

Fingerprinter = Callable[[Mol], Any]
"""A molecule to its fingerprint: an RDKit bit vector, or an RDKit sparse vector of counts."""

MOST_FEATURES = 100
"""Pharmacophore features that a molecule may have: three seconds (120: five, 500: minutes)."""

_DEFAULTS = {"radius": 2, "n_bits": 2048, "counts": False, "chirality": False, "max_distance": 30}
_RDKIT = {"radius": "radius", "chirality": "includeChirality", "max_distance": "maxDistance"}
"""What RDKit's generators call these settings; `counts` is one of their methods."""
_KINDS: dict[FingerprintKind, tuple[str, str]] = {
    "morgan": ("GetMorganGenerator", "radius n_bits counts chirality"),
    "feature_morgan": ("GetMorganGenerator", "radius n_bits counts chirality"),
    "atom_pairs": ("GetAtomPairGenerator", "max_distance n_bits counts chirality"),
    "torsions": ("GetTopologicalTorsionGenerator", "n_bits counts chirality"),
    "rdkit_path": ("GetRDKitFPGenerator", "n_bits counts"),
    "maccs": ("", ""),
    "pharmacophore": ("", ""),
}
"""RDKit's generator of each kind, and the settings that it takes."""


def build_fingerprint(
    kind: FingerprintKind = "morgan",
    *,
    radius: int = 2,
    n_bits: int | None = 2048,
    counts: bool = False,
    chirality: bool = False,
    max_distance: int = 30,
) -> Fingerprinter:
    """The function that makes one kind of fingerprint; a setting that it does not take is refused.

    Kinds: ``morgan`` (radius 2 is ECFP4), ``feature_morgan`` (radius 2 is FCFP4), ``atom_pairs``,
    ``torsions``, ``rdkit_path`` (Daylight-like), ``maccs`` (166 keys), ``pharmacophore`` (Gobbi and
    Poppinger's 2D pharmacophores, Biotechnol. Bioeng. 61, 47 (1998); 7 ms a drug-like molecule, but
    the time grows with the third power of its features: one with more than `MOST_FEATURES` raises
    a `MoleculeError`). Radius and distance are in bonds; without `n_bits` a fingerprint is not
    folded (2^32 or more positions, sparse).
    """
    given = {"radius": radius, "n_bits": n_bits, "counts": counts, "chirality": chirality}
    given["max_distance"] = max_distance
    generator, taken = _KINDS[kind][0], _KINDS[kind][1].split()
    InputError.refuse(
        f"{name} = {value}: the fingerprint {kind} has no such setting; it takes "
        f"{', '.join(taken) or 'none'}"
        for name, value in given.items()
        if name not in taken and value != _DEFAULTS[name]
    )
    if kind == "maccs":
        return rdMolDescriptors.GetMACCSKeysFingerprint
    if kind == "pharmacophore":
        from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D  # compiles its patterns on import

        factory: Any = Gobbi_Pharm2D.factory
        draw: Callable[[Mol, Any], Any] = Generate.Gen2DFingerprint

        def pharmacophores(mol: Mol) -> Any:
            n_features = sum(len(matches) for matches in factory.GetMolFeats(mol))
            if n_features > MOST_FEATURES:
                raise MoleculeError(
                    f"too many pharmacophore features: {n_features}, at most {MOST_FEATURES}"
                )
            return draw(mol, factory)

        return pharmacophores
    settings: dict[str, Any] = {_RDKIT[name]: given[name] for name in taken if name in _RDKIT}
    settings["fpSize"] = n_bits or 2048  # an unfolded fingerprint ignores it
    if kind == "feature_morgan":
        settings["atomInvariantsGenerator"] = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    method = f"Get{'' if n_bits else 'Sparse'}{'Count' if counts else ''}Fingerprint"
    make = getattr(rdFingerprintGenerator, generator)
    fingerprint: Fingerprinter = getattr(make(**settings), method)
    return fingerprint
