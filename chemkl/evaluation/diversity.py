"""Diversity measures: of molecules by fingerprints, distances and scaffolds; of texts by words."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit.ML.Cluster import Butina
from rdkit.SimDivFilters.rdSimDivPickers import LeaderPicker
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from chemkl.chem.fingerprints import Fingerprints, pack, tanimoto_sums, unpacked

SEDIV_SIZE = 1000
SEDIV_DISTANCE = 0.65
SEDIV_SEED = 123
MIN_GAIN = 1e-12
"""A swap must shorten the tour by more than this, so that rounding errors cannot loop forever."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")  # noqa: RUF001 - the typographer's apostrophe is meant
_butina: Callable[..., Iterable[tuple[int, ...]]] = Butina.ClusterData


def int_div_moses(fingerprints: Fingerprints, *, workers: int = 1) -> dict[int, float | None]:
    """IntDiv_p of MOSES (arXiv 1811.12823): 1 - mean_i (mean_j T_ij^p)^(1/p), j includes i.

    The paper's formula takes the root of the mean over all pairs; molsets takes it per molecule,
    and so does this function, because the published numbers come from molsets. Fingerprints:
    Morgan, radius 2, 1024 bits; p = 1 and 2; None for an empty set. The values do not depend on
    `workers`, the number of threads.
    """
    powers, n = (1, 2), len(fingerprints)
    if n == 0:
        return dict.fromkeys(powers)
    below, above = tanimoto_sums(fingerprints, powers, workers=workers)
    sums = 1 + below + above  # 1: T_ii^p
    return {p: float(1 - np.mean((sums[row] / n) ** (1 / p))) for row, p in enumerate(powers)}


def int_div_pairs(fingerprints: Fingerprints, *, workers: int = 1) -> float | None:
    """IntDiv1 of PyTDC, 2048 bits: the mean over i < j of 1 - T_ij; None below two molecules."""
    n = len(fingerprints)
    if n < 2:
        return None
    below, _ = tanimoto_sums(fingerprints, workers=workers)
    return float(1 - below.sum() / (n * (n - 1) / 2))


def leaders(fingerprints: Fingerprints, distance: float) -> list[int]:
    """Pick molecules that are pairwise more than a Tanimoto distance apart; return their indices.

    The greedy version of #Circles (Xie et al., ICLR 2023): RDKit's LeaderPicker takes each molecule
    further than `distance` from all picked before, so the count depends on the order: that of the
    first scoring.
    """
    vectors = [unpacked(row.tobytes()) for row in pack(fingerprints)]
    n = len(vectors)
    return list(LeaderPicker().LazyBitVectorPick(vectors, n, distance)) if n else []


def sphere_exclusion(fingerprints: Fingerprints) -> float | None:
    """SEDiv@1k of MolScore: leaders at distance 0.65 among 1,000 random molecules, per 1,000.

    Fingerprints: Morgan, radius 2, 1024 bits. None below 1,000 molecules.
    """
    n = len(fingerprints)
    if n < SEDIV_SIZE:
        return None
    generator = np.random.RandomState(SEDIV_SEED)  # same stream as MolScore
    chosen = generator.choice(n, SEDIV_SIZE, replace=False)
    return len(leaders(pack(fingerprints)[chosen], SEDIV_DISTANCE)) / SEDIV_SIZE


# ---- from the distance matrix


def vendi_score(similarities: np.ndarray) -> float | None:
    """Vendi score (arXiv 2210.02410, eq. 2): exp of the entropy of the eigenvalues of K / n.

    The effective number of different molecules, from 1 to n; None for an empty set.
    """
    n = len(similarities)
    if n == 0:
        return None
    weights = np.linalg.eigvalsh(similarities / n)
    weights = weights[weights > 0]  # rounding can make some slightly negative; 0 ln 0 = 0
    return float(np.exp(-(weights * np.log(weights)).sum()))


def hamiltonian_diversity(distances: np.ndarray) -> float | None:
    """Length of a short closed tour through all molecules; None for an empty set.

    Hu et al., J. Cheminform. 16, 94 (2024) define it by the shortest tour, which is infeasible for
    many molecules. This tour starts at the first molecule, always moves to the nearest unvisited
    one, and is then improved by 2-opt swaps until none shortens it; its length is an upper bound of
    the shortest. The authors' program omits the swaps, so its values are larger.
    """
    n = len(distances)
    if n == 0:
        return None
    tour = np.zeros(n + 1, dtype=int)  # returns to the first molecule at the end
    unvisited = np.ones(n, dtype=bool)
    for place in range(1, n):
        unvisited[tour[place - 1]] = False
        tour[place] = np.where(unvisited, distances[tour[place - 1]], np.inf).argmin()
    swapped = True
    while swapped:  # (a, b) and (c, d) become (a, c) and (b, d): the part from b to c is reversed
        swapped = False
        for i in range(n - 2):
            a, b = tour[i], tour[i + 1]
            c, d = tour[i + 2 : -1], tour[i + 3 :]
            gain = distances[a, b] + distances[c, d] - distances[a, c] - distances[b, d]
            best = int(gain.argmax())
            if gain[best] > MIN_GAIN:
                end = i + 2 + best
                tour[i + 1 : end + 1] = tour[i + 1 : end + 1][::-1].copy()
                swapped = True
    return float(distances[tour[:-1], tour[1:]].sum())


def butina_clusters(distances: np.ndarray, distance: float) -> list[tuple[int, ...]]:
    """Butina clusters (JCICS 39, 747 (1999)) by RDKit, each with its centre first.

    `distance` is the maximum distance of a member from the centre of its cluster.
    """
    n = len(distances)
    if n == 0:
        return []
    lower = distances[np.tril_indices(n, -1)].tolist()  # row by row, as RDKit expects them
    return list(_butina(lower, n, distance, isDistData=True))


# ---- from the scaffold sizes


def gini(sizes: np.ndarray) -> float | None:
    """Gini coefficient of the scaffold sizes: sum_i (2i - n - 1) x_i / (n sum x), x ascending.

    This is half the mean absolute difference of two sizes over their mean; 0 if all are equal.
    """
    n = len(sizes)
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ np.sort(sizes) / (n * sizes.sum())) if n else None


# ---- texts: n-grams and embeddings


def tokens_of(text: str, convention: str = "blanks") -> list[str]:
    """Split a text into tokens for n-grams.

    `blanks`: full stops and newlines removed, split at blanks, case-sensitive, as in the code of
    arXiv 2310.06452 (which also joins the words around a newline); `words`: runs of letters, digits
    and apostrophes in lower case.
    """
    if convention == "words":
        return _WORD.findall(text.lower())
    plain = text.replace(".", "").replace("\n", "")
    return [token for token in plain.split(" ") if token]


@dataclass(frozen=True)
class NgramCounts:
    """Counts of the n-grams in a set of texts; an n-gram never spans two texts."""

    distinct: int
    total: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], n: int) -> "NgramCounts":
        """Count the n-grams of tokenised texts; texts with fewer than n tokens have none."""
        grams = [tuple(tokens[i : i + n]) for tokens in texts for i in range(len(tokens) - n + 1)]
        return cls(len(set(grams)), len(grams))

    @property
    def share(self) -> float | None:
        """distinct-n (Li et al., arXiv 1510.03055): distinct / total; None without an n-gram."""
        return self.distinct / self.total if self.total else None

    def adjusted(self, vocabulary: int) -> float | None:
        """Expectation-adjusted distinct (Liu et al., arXiv 2202.13587, eq. 2).

        distinct / (V (1 - ((V - 1) / V)^C)): divided by the expected number of distinct values
        among C uniform draws from V, so that longer texts are not penalised. It can exceed 1,
        especially for n > 1, where V is still the number of tokens, as in the code of arXiv
        2310.06452. None without an n-gram.
        """
        if not self.total:
            return None
        expected = -vocabulary * math.expm1(self.total * math.log1p(-1 / vocabulary))
        return self.distinct / expected


def semantic_diversity(vectors: np.ndarray) -> float | None:
    """Mean cosine distance over all pairs of unit vectors (rows); None below two texts.

    The sum of the cosines is |sum of rows|^2 - n, which avoids the matrix of all pairs.
    """
    n = len(vectors)
    if n < 2:
        return None
    rows = vectors.astype(np.float64)
    total = rows.sum(axis=0)
    return max(0.0, 1 - (float(total @ total) - float((rows * rows).sum())) / (n * (n - 1)))


def text_clusters(vectors: np.ndarray, distance: float, linkage: str = "average") -> np.ndarray:
    """Cluster unit vectors (rows) agglomeratively; return the cluster of each, numbered from 0.

    Clusters are merged up to a cosine `distance`, which is the mean, largest or smallest over their
    pairs (`linkage`: `average`, `complete` or `single`).
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=int)
    rows = vectors.astype(np.float64)
    distances = np.clip(1 - rows @ rows.T, 0, 2)
    tree = hierarchy.linkage(squareform(distances, checks=False), method=linkage)
    numbers: np.ndarray = hierarchy.fcluster(tree, t=distance, criterion="distance") - 1
    return numbers
