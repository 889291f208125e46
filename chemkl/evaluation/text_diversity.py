"""How diverse a set of texts is: distinct n-grams, spread of embeddings, clusters; no torch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from chemkl.evaluation.diversity import vendi_score

_WORD = re.compile(r"\w+(?:['’]\w+)*")  # noqa: RUF001 - the typographer's apostrophe is meant


def tokens_of(text: str, convention: str = "blanks") -> list[str]:
    """Split a text for n-grams.

    Args:
        text: any text.
        convention: `blanks`: full stops and line ends removed, split at blanks, case kept, as the
            code of arXiv 2310.06452 does (the words around a line end grow together there, and
            here); `words`: runs of letters, digits and apostrophes in lower case.
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
        seen: set[tuple[str, ...]] = set()
        total = 0
        for tokens in texts:
            grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
            seen.update(grams)
            total += len(grams)
        return cls(len(seen), total)

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
    """Mean cosine distance (1 - cosine) over all pairs of texts; None below two texts.

    Args:
        vectors: a row of length 1 for each text. The sum over pairs is that of the whole matrix
            without its diagonal, |sum of rows|^2 - n, which needs no matrix.
    """
    n = len(vectors)
    if n < 2:
        return None
    rows = vectors.astype(np.float64)
    own = float((rows * rows).sum())
    total = rows.sum(axis=0)
    return max(0.0, 1 - (float(total @ total) - own) / (n * (n - 1)))


def cosine_distances(vectors: np.ndarray) -> np.ndarray:
    """1 - cosine of every pair, 0 to 2, with zeros on the diagonal."""
    rows = vectors.astype(np.float64)
    distances = np.clip(1 - rows @ rows.T, 0, 2)
    np.fill_diagonal(distances, 0)
    return distances


def text_clusters(vectors: np.ndarray, distance: float, linkage: str = "average") -> np.ndarray:
    """The cluster of each text, numbered from 0, by agglomerative clustering.

    Args:
        vectors: a row of length 1 for each text.
        distance: cosine distance up to which two clusters are joined.
        linkage: how far two clusters are apart: `average`, `complete` or `single`.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=int)
    distances = cosine_distances(vectors)
    tree = hierarchy.linkage(squareform(distances, checks=False), method=linkage)
    numbers: np.ndarray = hierarchy.fcluster(tree, t=distance, criterion="distance") - 1
    return numbers


def text_vendi(vectors: np.ndarray) -> float | None:
    """Vendi score of the cosines: the effective number of different texts; None for no text."""
    rows = vectors.astype(np.float64)
    return vendi_score(rows @ rows.T)
