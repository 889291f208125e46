"""Molecular fingerprints and the Tanimoto similarities between them."""

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
"""Bit fingerprints of equal length: RDKit bit vectors, or packed bits in an array, one row each."""

BLOCK = 8192
"""Rows and columns of a block of the similarity matrix. The bits of a block, one byte each, have to
fit into a core's cache."""

_BITS_ON = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


@lru_cache(maxsize=32)
def morgan_generator(
    radius: int = 2, n_bits: int = 2048
) -> rdFingerprintGenerator.FingerprintGenerator64:
    """Return RDKit's Morgan generator for a radius (in bonds) and a length, built once."""
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)


@step("fingerprint")
def morgan_fingerprint(
    mol: Mol, *, radius: int = 2, n_bits: int = 2048
) -> DataStructs.ExplicitBitVect:
    """Return the folded Morgan bit fingerprint of a molecule."""
    fingerprint: DataStructs.ExplicitBitVect = morgan_generator(radius, n_bits).GetFingerprint(mol)
    return fingerprint


def packed_morgan(mol: Mol, *, radius: int = 2, n_bits: int = 2048) -> bytes:
    """Return the same fingerprint as packed bits, in a quarter of the memory of RDKit's object."""
    fingerprint = morgan_fingerprint(mol, radius=radius, n_bits=n_bits)
    packed: bytes = DataStructs.BitVectToBinaryText(fingerprint)
    return packed


def unpacked(packed: bytes) -> DataStructs.ExplicitBitVect:
    """Return the RDKit bit vector of a packed fingerprint."""
    fingerprint: DataStructs.ExplicitBitVect = DataStructs.CreateFromBinaryText(
        packed  # type: ignore[arg-type] # its stub says str; a str of other than ASCII is refused
    )
    return fingerprint


def pack(fingerprints: Fingerprints | Sequence[bytes]) -> np.ndarray:
    """Return fingerprints as an array of bytes, one row each; an array is returned unchanged."""
    if isinstance(fingerprints, np.ndarray):
        return fingerprints
    n, pack_one = len(fingerprints), DataStructs.BitVectToBinaryText
    texts = (item if isinstance(item, bytes) else pack_one(item) for item in fingerprints)
    return np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(n, -1 if n else 0)


def folded(packed: np.ndarray) -> np.ndarray:
    """Fold packed fingerprints to half their length, as RDKit does (bit number modulo length)."""
    half = packed.shape[1] // 2
    halves: np.ndarray = packed[:, :half] | packed[:, half:]
    return halves


def tanimoto(
    fingerprint: DataStructs.ExplicitBitVect, fingerprints: Sequence[DataStructs.ExplicitBitVect]
) -> np.ndarray:
    """Return the Tanimoto similarities of one fingerprint to several, float64, in order."""
    return np.asarray(DataStructs.BulkTanimotoSimilarity(fingerprint, fingerprints), dtype=float)


def tanimoto_matrix(fingerprints: Sequence[DataStructs.ExplicitBitVect]) -> np.ndarray:
    """Return the symmetric (n, n) matrix of Tanimoto similarities, with ones on the diagonal."""
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

    The matrix is never held in memory as a whole. The cost is quadratic, about 10 ns a pair. The
    sums do not depend on the number of worker threads.

    Returns:
        Two arrays of shape (powers, n): the sum of T_ij^p over j for each i, and over i for each j.
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
    """Sum over the part of one block of the matrix that lies below the diagonal.

    The bits that a row shares with every column are counted by adding up the columns' bits at the
    positions of the row's set bits, about forty for a drug-like molecule of any length.
    """
    rows = range(corner[0], min(corner[0] + BLOCK, len(packed)))
    columns = slice(corner[1], corner[1] + BLOCK)
    bits = np.ascontiguousarray(np.unpackbits(packed[columns], axis=1).T)
    column_sizes = sizes[columns].astype(float)
    counts = np.uint8 if sizes.max() <= np.iinfo(np.uint8).max else np.uint16
    over_columns = np.zeros((len(powers), len(rows)))
    over_rows = np.zeros((len(powers), bits.shape[1]))
    for at, i in enumerate(rows):
        m = min(i - corner[1], bits.shape[1])  # columns before the diagonal
        if m == 0 or sizes[i] == 0:  # in RDKit nothing is similar to a fingerprint without bits
            continue
        on = np.flatnonzero(np.unpackbits(packed[i]))
        similarities = np.add.reduce(bits[on, :m], axis=0, dtype=counts).astype(float)
        similarities /= (column_sizes[:m] + sizes[i]) - similarities
        for number, p in enumerate(powers):
            powered = similarities if p == 1 else similarities**p
            over_columns[number, at] = powered.sum()
            over_rows[number, :m] += powered
    return over_columns, over_rows


def tanimoto_kernel(smiles: Sequence[str | None]) -> np.ndarray:
    """Return the symmetric (n, n) matrix of Tanimoto similarities between SMILES, float32.

    A row without a molecule (None, or an invalid string) or without a fingerprint is similar only
    to itself.
    """
    fingerprints = _morgan_by_row(smiles)
    rows = list(fingerprints)
    kernel = np.eye(len(smiles), dtype=np.float32)
    kernel[np.ix_(rows, rows)] = tanimoto_matrix(list(fingerprints.values()))
    return kernel


def fingerprint_bits(smiles: Sequence[str | None]) -> np.ndarray:
    """Return the bits (n, 2048) of the Morgan fingerprints of SMILES, float32, in order.

    A row without a molecule (None, or an invalid string) is all zeros.
    """
    bits = np.zeros((len(smiles), 2048), dtype=np.float32)
    for row, fingerprint in _morgan_by_row(smiles).items():
        bits[row, list(fingerprint.GetOnBits())] = 1
    return bits


def _morgan_by_row(smiles: Sequence[str | None]) -> dict[int, DataStructs.ExplicitBitVect]:
    """Return Morgan fingerprints of radius 2 by row, for the rows that have one."""
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
"""Names of the fingerprints in configs."""

Fingerprinter = Callable[[Mol], Any]
"""Computes a molecule's fingerprint: an RDKit bit vector, or an RDKit sparse vector of counts."""

MOST_FEATURES = 100
"""Limit on a molecule's pharmacophore features: 100 take three seconds, 500 take minutes."""

_DEFAULTS = {"radius": 2, "n_bits": 2048, "counts": False, "chirality": False, "max_distance": 30}
_RDKIT = {"radius": "radius", "chirality": "includeChirality", "max_distance": "maxDistance"}
"""RDKit's names of these settings. `counts` selects a method, `n_bits` is always passed."""
_KINDS: dict[FingerprintKind, tuple[str, str]] = {
    "morgan": ("GetMorganGenerator", "radius n_bits counts chirality"),
    "feature_morgan": ("GetMorganGenerator", "radius n_bits counts chirality"),
    "atom_pairs": ("GetAtomPairGenerator", "max_distance n_bits counts chirality"),
    "torsions": ("GetTopologicalTorsionGenerator", "n_bits counts chirality"),
    "rdkit_path": ("GetRDKitFPGenerator", "n_bits counts"),
    "maccs": ("", ""),
    "pharmacophore": ("", ""),
}
"""RDKit's generator for each kind, and the settings it supports."""


def build_fingerprint(
    kind: FingerprintKind = "morgan",
    *,
    radius: int = 2,
    n_bits: int | None = 2048,
    counts: bool = False,
    chirality: bool = False,
    max_distance: int = 30,
) -> Fingerprinter:
    """Return the function that computes one kind of fingerprint.

    Kinds: ``morgan`` (radius 2 is ECFP4), ``feature_morgan`` (radius 2 is FCFP4), ``atom_pairs``,
    ``torsions``, ``rdkit_path`` (Daylight-like), ``maccs`` (166 keys), ``pharmacophore`` (Gobbi and
    Poppinger's 2D pharmacophores, Biotechnol. Bioeng. 61, 47 (1998); 7 ms for a drug-like molecule,
    growing with the third power of its features: more than `MOST_FEATURES` raise a
    `MoleculeError`). Radius and distance are in bonds. Without `n_bits` a fingerprint is not folded
    (2^32 or more positions, sparse).

    Raises:
        InputError: A setting differs from its default and the kind does not support it.
    """
    values = {"radius": radius, "n_bits": n_bits, "counts": counts, "chirality": chirality}
    values["max_distance"] = max_distance
    generator, supported = _KINDS[kind][0], _KINDS[kind][1].split()
    InputError.refuse(
        f"{name} = {value}: the fingerprint {kind} has no such setting; it takes "
        f"{', '.join(supported) or 'none'}"
        for name, value in values.items()
        if name not in supported and value != _DEFAULTS[name]
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
    settings: dict[str, Any] = {_RDKIT[name]: values[name] for name in supported if name in _RDKIT}
    settings["fpSize"] = n_bits or 2048  # ignored for an unfolded fingerprint
    if kind == "feature_morgan":
        settings["atomInvariantsGenerator"] = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    method = f"Get{'' if n_bits else 'Sparse'}{'Count' if counts else ''}Fingerprint"
    make = getattr(rdFingerprintGenerator, generator)
    fingerprint: Fingerprinter = getattr(make(**settings), method)
    return fingerprint
