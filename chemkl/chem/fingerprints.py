"""Morgan fingerprints and the Tanimoto similarities between them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from rdkit import DataStructs
from rdkit.Chem import Mol, rdFingerprintGenerator

from chemkl.chem.molecules import read_molecule


@lru_cache(maxsize=32)
def morgan_generator(
    radius: int = 2, n_bits: int = 2048
) -> rdFingerprintGenerator.FingerprintGenerator64:
    """Give RDKit's Morgan generator of this radius (bonds) and length (bits), built once.

    Chirality and features play no part; bits, not counts.
    """
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)


def morgan_fingerprint(
    mol: Mol, *, radius: int = 2, n_bits: int = 2048
) -> DataStructs.ExplicitBitVect:
    """Give the folded Morgan bit fingerprint of one molecule."""
    fingerprint: DataStructs.ExplicitBitVect = morgan_generator(radius, n_bits).GetFingerprint(mol)
    return fingerprint


def morgan_fingerprints(
    mols: Iterable[Mol], *, radius: int = 2, n_bits: int = 2048
) -> list[DataStructs.ExplicitBitVect]:
    """Give the folded Morgan bit fingerprints of several molecules, in order."""
    generator = morgan_generator(radius, n_bits)
    return [generator.GetFingerprint(mol) for mol in mols]


def tanimoto(
    fingerprint: DataStructs.ExplicitBitVect,
    fingerprints: Sequence[DataStructs.ExplicitBitVect],
) -> np.ndarray:
    """Give the Tanimoto similarities of one fingerprint to each of several, float64, in order."""
    return np.asarray(DataStructs.BulkTanimotoSimilarity(fingerprint, fingerprints), dtype=float)


def tanimoto_matrix(fingerprints: Sequence[DataStructs.ExplicitBitVect]) -> np.ndarray:
    """Give the symmetric (n, n) matrix of Tanimoto similarities, ones on the diagonal."""
    n = len(fingerprints)
    matrix = np.ones((n, n))
    for row in range(1, n):
        matrix[row, :row] = tanimoto(fingerprints[row], fingerprints[:row])
        matrix[:row, row] = matrix[row, :row]
    return matrix


def tanimoto_kernel(
    smiles: Sequence[str | None], *, radius: int = 2, n_bits: int = 2048
) -> np.ndarray:
    """Give the symmetric (n, n) matrix of Tanimoto similarities between SMILES, float32, in order.

    A row without a molecule (None, or a string that is not valid) is similar to nothing but itself.
    """
    mols = [None if each is None else read_molecule(each).mol for each in smiles]
    rows = np.array([row for row, mol in enumerate(mols) if mol is not None], dtype=int)
    fingerprints = morgan_fingerprints(filter(None, mols), radius=radius, n_bits=n_bits)
    kernel = np.eye(len(mols), dtype=np.float32)
    kernel[np.ix_(rows, rows)] = tanimoto_matrix(fingerprints)
    return kernel
