"""How molecules spread over scaffolds: counts, entropy, concentration.

The empty scaffold of acyclic molecules is no scaffold: it is counted apart and enters nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from chemkl.evaluation.samples import Molecule


def scaffold_counts(molecules: Iterable[Molecule]) -> Counter[str]:
    """Molecules per Bemis-Murcko scaffold, acyclic molecules left out."""
    return Counter(molecule.scaffold for molecule in molecules if molecule.scaffold)


def scaffold_diversity(molecules: Sequence[Molecule]) -> dict[str, int | float | None]:
    """The scaffold metrics of a set of molecules under their column names."""
    counts = scaffold_counts(molecules)
    sizes = np.array(sorted(counts.values()), dtype=float)
    entropy = float(stats.entropy(sizes)) if counts else None
    return {
        "murcko": len(counts),
        "generic": len({m.generic for m in molecules if m.generic}),
        "acyclic": sum(not m.scaffold for m in molecules),
        "scaffold_entropy": entropy,
        "scaffold_evenness": entropy / np.log(len(counts)) if entropy and len(counts) > 1 else None,
        "effective_scaffolds": float(np.exp(entropy)) if entropy is not None else None,
        "top_share": float(sizes[-1] / sizes.sum()) if counts else None,
        "gini": gini(sizes),
    }


def gini(sizes: np.ndarray) -> float | None:
    """Gini coefficient of the scaffold sizes: 0 where all are equal; None without scaffolds.

    Half the mean absolute difference of two sizes, relative to their mean; for sizes sorted
    upwards it equals sum_i (2i - n - 1) x_i / (n sum x).
    """
    n = len(sizes)
    if n == 0:
        return None
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ np.sort(sizes) / (n * sizes.sum()))
