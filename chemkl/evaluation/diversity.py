"""Diversity of a set of molecules by fingerprints: IntDiv, #Circles, sphere exclusion."""

from collections.abc import Sequence

import numpy as np
from rdkit.SimDivFilters.rdSimDivPickers import LeaderPicker

from chemkl.chem.fingerprints import Fingerprints, pack, tanimoto_sums, unpacked

SEDIV_SIZE = 1000
SEDIV_DISTANCE = 0.65
SEDIV_SEED = 123


def int_div_moses(
    fingerprints: Fingerprints, powers: Sequence[int] = (1, 2), *, workers: int = 1
) -> dict[int, float | None]:
    """IntDiv_p of MOSES (arXiv 1811.12823): 1 - mean_i (mean_j T_ij^p)^(1/p), j includes i.

    The paper's formula takes the root of the mean over all pairs; the released molsets takes it per
    molecule, and published numbers come from molsets, so that is what is computed here.

    Args:
        fingerprints: Morgan, radius 2, 1024 bits.
        powers: the p to compute, all in one pass over the pairs.
        workers: threads; the values do not depend on them.

    Returns:
        The value for each p; None for an empty set.
    """
    n = len(fingerprints)
    if n == 0:
        return dict.fromkeys(powers)
    below, above = tanimoto_sums(fingerprints, powers, workers=workers)
    sums = 1 + below + above  # 1: T_ii^p
    return {p: float(1 - np.mean((sums[row] / n) ** (1 / p))) for row, p in enumerate(powers)}


def int_div_pairs(fingerprints: Fingerprints, *, workers: int = 1) -> float | None:
    """IntDiv1 of PyTDC: the mean over pairs i < j of 1 - T_ij; None below two molecules.

    Args:
        fingerprints: Morgan, radius 2, 2048 bits.
        workers: threads; the value does not depend on them.
    """
    n = len(fingerprints)
    if n < 2:
        return None
    below, _ = tanimoto_sums(fingerprints, workers=workers)
    return float(1 - below.sum() / (n * (n - 1) / 2))


def similarity_sums(fingerprints: Fingerprints, *, workers: int = 1) -> np.ndarray:
    """For each n from 0 on, the sum of T_ij over the pairs i < j among the first n."""
    below, _ = tanimoto_sums(fingerprints, workers=workers)
    return np.concatenate([[0.0], np.cumsum(below[0])])


def circles(fingerprints: Fingerprints, distance: float = 0.75) -> int:
    """#Circles (Xie et al., ICLR 2023, greedy): molecules all further apart than a distance.

    RDKit's LeaderPicker takes the first molecule that is further than `distance` from all taken
    before, and so on: the number depends on the order, which is that of the first scoring.

    Args:
        fingerprints: Morgan, radius 2, 1024 bits, in the order first scored.
        distance: Tanimoto distance that every pair must exceed.
    """
    return len(leaders(fingerprints, distance))


def leaders(fingerprints: Fingerprints, distance: float) -> list[int]:
    """Indices of the molecules that LeaderPicker takes, in the given order."""
    if len(fingerprints) == 0:
        return []
    vectors = (
        [unpacked(row.tobytes()) for row in fingerprints]
        if isinstance(fingerprints, np.ndarray)
        else fingerprints
    )
    return list(LeaderPicker().LazyBitVectorPick(vectors, len(vectors), distance))


def sphere_exclusion(fingerprints: Fingerprints) -> float | None:
    """SEDiv@1k of MolScore: leaders at distance 0.65 among 1,000 random molecules, per 1,000.

    Args:
        fingerprints: Morgan, radius 2, 1024 bits.

    Returns:
        The share; None below 1,000 molecules.
    """
    n = len(fingerprints)
    if n < SEDIV_SIZE:
        return None
    generator = np.random.RandomState(SEDIV_SEED)  # the stream that MolScore draws from
    chosen = generator.choice(n, SEDIV_SIZE, replace=False)
    return len(leaders(pack(fingerprints)[chosen], SEDIV_DISTANCE)) / SEDIV_SIZE
