"""How diverse a set is: molecules by fingerprints, distances and scaffolds; texts by words."""

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
SHORTER = 1e-12
"""A swap must shorten the tour by more than this, so that rounding cannot make it run forever."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")  # noqa: RUF001 - the typographer's apostrophe is meant
_butina: Callable[..., Iterable[tuple[int, ...]]] = Butina.ClusterData


def int_div_moses(fingerprints: Fingerprints, *, workers: int = 1) -> dict[int, float | None]:
    """IntDiv_p of MOSES (arXiv 1811.12823): 1 - mean_i (mean_j T_ij^p)^(1/p), j includes i.

    The paper's formula takes the root of the mean over all pairs; the released molsets takes it per
    molecule, and published numbers come from molsets, so that is what is computed here. Of Morgan
    fingerprints, radius 2, 1024 bits, for p = 1 and 2; None for an empty set. The values do not
    depend on `workers`, the threads.
    """
    powers, n = (1, 2), len(fingerprints)
    if n == 0:
        return dict.fromkeys(powers)
    below, above = tanimoto_sums(fingerprints, powers, workers=workers)
    sums = 1 + below + above  # 1: T_ii^p
    return {p: float(1 - np.mean((sums[row] / n) ** (1 / p))) for row, p in enumerate(powers)}


def int_div_pairs(fingerprints: Fingerprints, *, workers: int = 1) -> float | None:
    """IntDiv1 of PyTDC, of 2048 bits: the mean over i < j of 1 - T_ij; None below two molecules."""
    n = len(fingerprints)
    if n < 2:
        return None
    below, _ = tanimoto_sums(fingerprints, workers=workers)
    return float(1 - below.sum() / (n * (n - 1) / 2))


def leaders(fingerprints: Fingerprints, distance: float) -> list[int]:
    """Indices of the molecules all further apart than a distance (Tanimoto), by #Circles.

    Xie et al., ICLR 2023, greedy: RDKit's LeaderPicker takes the first molecule further than
    `distance` from all taken before, so their number depends on the order, which is that of the
    first scoring.
    """
    vectors = [unpacked(row.tobytes()) for row in pack(fingerprints)]
    n = len(vectors)
    return list(LeaderPicker().LazyBitVectorPick(vectors, n, distance)) if n else []


def sphere_exclusion(fingerprints: Fingerprints) -> float | None:
    """SEDiv@1k of MolScore: leaders at distance 0.65 among 1,000 random molecules, per 1,000.

    Of Morgan fingerprints, radius 2, 1024 bits; None below 1,000 molecules.
    """
    n = len(fingerprints)
    if n < SEDIV_SIZE:
        return None
    generator = np.random.RandomState(SEDIV_SEED)  # the stream that MolScore draws from
    chosen = generator.choice(n, SEDIV_SIZE, replace=False)
    return len(leaders(pack(fingerprints)[chosen], SEDIV_DISTANCE)) / SEDIV_SIZE


# ---- from the matrix of all distances


def vendi_score(similarities: np.ndarray) -> float | None:
    """Vendi score (arXiv 2210.02410, eq. 2): exp of the entropy of the eigenvalues of K / n.

    The effective number of different molecules, from 1 to n; None for an empty set.
    """
    n = len(similarities)
    if n == 0:
        return None
    weights = np.linalg.eigvalsh(similarities / n)
    weights = weights[weights > 0]  # rounding leaves some a little below; 0 ln 0 is 0
    return float(np.exp(-(weights * np.log(weights)).sum()))


def hamiltonian_diversity(distances: np.ndarray) -> float | None:
    """Length of a short closed tour through all molecules; None for an empty set.

    Hu et al., J. Cheminform. 16, 94 (2024) ask for the shortest one, which cannot be had for many
    molecules: this one goes from the first molecule always to the nearest that is left, and then
    swaps pairs of steps (2-opt) until no swap makes it shorter. It is never below the shortest.
    The authors' program stops before the swaps, so its numbers are larger.
    """
    n = len(distances)
    if n == 0:
        return None
    tour, left = np.zeros(n + 1, dtype=int), np.ones(n, dtype=bool)  # back to the first at its end
    for place in range(1, n):
        left[tour[place - 1]] = False
        tour[place] = np.where(left, distances[tour[place - 1]], np.inf).argmin()
    swapped = True
    while swapped:  # (a, b) and (c, d) become (a, c) and (b, d): all from b to c is turned round
        swapped = False
        for i in range(n - 2):
            a, b = tour[i], tour[i + 1]
            c, d = tour[i + 2 : -1], tour[i + 3 :]
            gain = distances[a, b] + distances[c, d] - distances[a, c] - distances[b, d]
            best = int(gain.argmax())
            if gain[best] > SHORTER:
                end = i + 2 + best
                tour[i + 1 : end + 1] = tour[i + 1 : end + 1][::-1].copy()
                swapped = True
    return float(distances[tour[:-1], tour[1:]].sum())


def butina_clusters(distances: np.ndarray, distance: float) -> list[tuple[int, ...]]:
    """Clusters of Butina (JCICS 39, 747 (1999)) as RDKit makes them, the centre of each first.

    `distance` is the largest one of a member from the centre of its cluster.
    """
    n = len(distances)
    if n == 0:
        return []
    lower = distances[np.tril_indices(n, -1)].tolist()  # row by row, as RDKit expects them
    return list(_butina(lower, n, distance, isDistData=True))


# ---- from the molecules per scaffold


def gini(sizes: np.ndarray) -> float | None:
    """Gini coefficient of the scaffold sizes, rising: sum_i (2i - n - 1) x_i / (n sum x).

    Half the mean absolute difference of two sizes over their mean: 0 where all are equal.
    """
    n = len(sizes)
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ np.sort(sizes) / (n * sizes.sum())) if n else None


# ---- of texts: n-grams and embeddings


def tokens_of(text: str, convention: str = "blanks") -> list[str]:
    """Split a text for n-grams.

    `blanks`: full stops and line ends removed, split at blanks, case kept, as the code of arXiv
    2310.06452 does (the words around a line end grow together there, and here); `words`: runs of
    letters, digits and apostrophes in lower case.
    """
    if convention == "words":
        return _WORD.findall(text.lower())
    plain = text.replace(".", "").replace("\n", "")
    return [token for token in plain.split(" ") if token]


@dataclass(frozen=True)
class NgramCounts:
    """The n-grams of a set of texts; none reaches from one text into the next."""

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

        distinct / (V (1 - ((V - 1) / V)^C)): by the number of distinct ones among C draws, all V
        equally likely, so that longer texts are not punished. It can exceed 1, the more so for
        n > 1, where V is still the number of tokens, as in the code of arXiv 2310.06452. None
        without an n-gram.
        """
        if not self.total:
            return None
        expected = -vocabulary * math.expm1(self.total * math.log1p(-1 / vocabulary))
        return self.distinct / expected


def semantic_diversity(vectors: np.ndarray) -> float | None:
    """Mean cosine distance over all pairs of rows of length 1; None below two texts.

    The sum of the cosines is |sum of rows|^2 - n, which needs no matrix.
    """
    n = len(vectors)
    if n < 2:
        return None
    rows = vectors.astype(np.float64)
    total = rows.sum(axis=0)
    return max(0.0, 1 - (float(total @ total) - float((rows * rows).sum())) / (n * (n - 1)))


def text_clusters(vectors: np.ndarray, distance: float, linkage: str = "average") -> np.ndarray:
    """The cluster of each text, numbered from 0, by agglomerative clustering of rows of length 1.

    Clusters are joined up to a cosine `distance`: of the mean, largest or smallest over their pairs
    (`linkage`: `average`, `complete` or `single`).
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=int)
    rows = vectors.astype(np.float64)
    distances = np.clip(1 - rows @ rows.T, 0, 2)
    tree = hierarchy.linkage(squareform(distances, checks=False), method=linkage)
    numbers: np.ndarray = hierarchy.fcluster(tree, t=distance, criterion="distance") - 1
    return numbers
