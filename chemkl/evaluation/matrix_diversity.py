"""Diversity from all distances of a set at once: Vendi score, Hamiltonian diversity, Butina."""

from collections.abc import Callable, Iterable

import numpy as np
from rdkit.ML.Cluster import Butina

_butina: Callable[..., Iterable[tuple[int, ...]]] = Butina.ClusterData
SHORTER = 1e-12
"""A swap must shorten the tour by more than this, so that rounding cannot make it run forever."""


def vendi_score(similarities: np.ndarray) -> float | None:
    """Vendi score (arXiv 2210.02410, eq. 2): exp of the entropy of the eigenvalues of K / n.

    It is the effective number of different molecules: n where all similarities are 0, 1 where all
    are the same molecule. None for an empty set.

    Args:
        similarities: symmetric, ones on the diagonal, positive semi-definite as Tanimoto is.
    """
    n = len(similarities)
    if n == 0:
        return None
    weights = np.linalg.eigvalsh(similarities / n)
    weights = weights[weights > 0]  # rounding leaves some a little below; 0 ln 0 is 0
    return float(np.exp(-(weights * np.log(weights)).sum()))


def hamiltonian_diversity(distances: np.ndarray) -> float | None:
    """Length of a short closed tour through all molecules.

    Hu et al., J. Cheminform. 16, 94 (2024) ask for the shortest one, which cannot be had for many
    molecules: this one goes from the first molecule always to the nearest that is left, and then
    swaps pairs of steps (2-opt) until no swap makes it shorter. It is never below the shortest.
    The authors' program stops before the swaps, so its numbers are larger. None for an empty set.
    """
    if len(distances) == 0:
        return None
    return tour_length(distances, short_tour(distances))


def tour_length(distances: np.ndarray, tour: np.ndarray) -> float:
    """Length of a closed tour: back to the first from the last."""
    return float(distances[tour, np.roll(tour, -1)].sum())


def short_tour(distances: np.ndarray) -> np.ndarray:
    """Order of the molecules on the tour: nearest neighbour, then 2-opt."""
    tour = _nearest_neighbour(distances)
    while _shorten(tour, distances):
        pass
    return tour


def _nearest_neighbour(distances: np.ndarray) -> np.ndarray:
    n = len(distances)
    tour = np.zeros(n, dtype=int)
    left = np.ones(n, dtype=bool)
    for place in range(1, n):
        left[tour[place - 1]] = False
        tour[place] = np.where(left, distances[tour[place - 1]], np.inf).argmin()
    return tour


def _shorten(tour: np.ndarray, distances: np.ndarray) -> bool:
    """Look once at every step of the tour, and make the best swap of each; whether any was made.

    Replacing the steps (a, b) and (c, d) by (a, c) and (b, d) is turning round all from b to c.
    """
    swapped = False
    for i in range(len(tour) - 2):
        a, b = tour[i], tour[i + 1]
        c, d = tour[i + 2 :], np.roll(tour, -1)[i + 2 :]
        gain = distances[a, b] + distances[c, d] - distances[a, c] - distances[b, d]
        best = int(gain.argmax())
        if gain[best] > SHORTER:
            end = i + 2 + best
            tour[i + 1 : end + 1] = tour[i + 1 : end + 1][::-1].copy()
            swapped = True
    return swapped


def butina_clusters(distances: np.ndarray, distance: float) -> list[tuple[int, ...]]:
    """Clusters of Butina (JCICS 39, 747 (1999)) as RDKit makes them, the centre of each first.

    Args:
        distances: symmetric distances.
        distance: largest distance of a member from the centre of its cluster.
    """
    n = len(distances)
    if n == 0:
        return []
    lower = distances[np.tril_indices(n, -1)].tolist()  # row by row, as RDKit expects them
    return list(_butina(lower, n, distance, isDistData=True))
