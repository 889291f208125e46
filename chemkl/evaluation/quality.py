"""Quality of samples as MOSES defines it (arXiv 1811.12823): validity, uniqueness, novelty."""

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet


def validity(n_valid: int, n_sampled: int) -> float | None:
    """Valid samples per sample; None without samples."""
    return n_valid / n_sampled if n_sampled else None


def uniqueness(valid: Sequence[str], k: int | None = None) -> float | None:
    """Distinct canonical SMILES among the first k valid samples, per k.

    Args:
        valid: canonical SMILES of the valid samples, in order, repeats included.
        k: how many to look at; all when not given.

    Returns:
        The share, or None with fewer than k valid samples (or none at all).
    """
    k = len(valid) if k is None else k
    if not valid or len(valid) < k:
        return None
    return len(set(valid[:k])) / k


def novelty(molecules: Collection[str], corpus: AbstractSet[str]) -> float | None:
    """Share of the distinct canonical SMILES that are not in the corpus; None without molecules."""
    distinct = set(molecules)
    return len(distinct - corpus) / len(distinct) if distinct else None
