"""Diversity of a set of molecules by fingerprints: IntDiv, #Circles, sphere exclusion."""

from collections.abc import Sequence

import numpy as np
from rdkit import DataStructs
from rdkit.DataStructs import ExplicitBitVect
from rdkit.SimDivFilters.rdSimDivPickers import LeaderPicker

SEDIV_SIZE = 1000
SEDIV_DISTANCE = 0.65
SEDIV_SEED = 123


def int_div_moses(
    fingerprints: Sequence[ExplicitBitVect], powers: Sequence[int] = (1, 2)
) -> dict[int, float | None]:
    """IntDiv_p of MOSES (arXiv 1811.12823): 1 - mean_i (mean_j T_ij^p)^(1/p), j includes i.

    The paper's formula takes the root of the mean over all pairs; the released molsets takes it per
    molecule, and published numbers come from molsets, so that is what is computed here.

    Args:
        fingerprints: Morgan, radius 2, 1024 bits.
        powers: the p to compute, all in one pass over the pairs.

    Returns:
        The value for each p; None for an empty set.
    """
    n = len(fingerprints)
    if n == 0:
        return dict.fromkeys(powers)
    sums = np.ones((len(powers), n))  # T_ii^p
    for i in range(1, n):
        similarities = _bulk(fingerprints[i], fingerprints[:i])
        for row, p in enumerate(powers):
            powered = similarities**p
            sums[row, i] += powered.sum()
            sums[row, :i] += powered
    return {p: float(1 - np.mean((sums[row] / n) ** (1 / p))) for row, p in enumerate(powers)}


def int_div_pairs(fingerprints: Sequence[ExplicitBitVect]) -> float | None:
    """IntDiv1 of PyTDC: the mean over pairs i < j of 1 - T_ij; None below two molecules.

    Args:
        fingerprints: Morgan, radius 2, 2048 bits.
    """
    n = len(fingerprints)
    if n < 2:
        return None
    total = sum(_bulk(fingerprints[i], fingerprints[:i]).sum() for i in range(1, n))
    return float(1 - total / (n * (n - 1) / 2))


def similarity_sums(fingerprints: Sequence[ExplicitBitVect]) -> np.ndarray:
    """For each n from 0 on, the sum of T_ij over the pairs i < j among the first n."""
    new = [_bulk(fingerprints[i], fingerprints[:i]).sum() for i in range(1, len(fingerprints))]
    return np.concatenate([np.zeros(min(2, len(fingerprints) + 1)), np.cumsum(new)])


def circles(fingerprints: Sequence[ExplicitBitVect], distance: float = 0.75) -> int:
    """#Circles (Xie et al., ICLR 2023, greedy): molecules all further apart than a distance.

    RDKit's LeaderPicker takes the first molecule that is further than `distance` from all taken
    before, and so on: the number depends on the order, which is that of the first scoring.

    Args:
        fingerprints: Morgan, radius 2, 1024 bits, in the order first scored.
        distance: Tanimoto distance that every pair must exceed.
    """
    return len(leaders(fingerprints, distance))


def leaders(fingerprints: Sequence[ExplicitBitVect], distance: float) -> list[int]:
    """Indices of the molecules that LeaderPicker takes, in the given order."""
    if not fingerprints:
        return []
    return list(LeaderPicker().LazyBitVectorPick(fingerprints, len(fingerprints), distance))


def sphere_exclusion(fingerprints: Sequence[ExplicitBitVect]) -> float | None:
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
    return len(leaders([fingerprints[i] for i in chosen], SEDIV_DISTANCE)) / SEDIV_SIZE


def _bulk(one: ExplicitBitVect, others: Sequence[ExplicitBitVect]) -> np.ndarray:
    return np.asarray(DataStructs.BulkTanimotoSimilarity(one, others))
