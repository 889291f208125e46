"""How many good molecules, how many scaffolds among them, and after how many oracle calls.

A hit is a distinct molecule with raw reward R >= threshold; a call is one first-time scoring.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from chemkl.evaluation.samples import Molecule

OB_SIZES = (1, 10, 100)
AUC_SIZES = (1, 10, 100)


def scaffold_yield(hits: Sequence[Molecule]) -> int:
    """Distinct Bemis-Murcko scaffolds among the hits; the empty scaffold is none."""
    return len({hit.scaffold for hit in hits} - {""})


def oracle_burden(
    hits: Sequence[Molecule], n: int, *, distinct_scaffolds: bool = False
) -> int | None:
    """OB_N: the call index (1-based) of the N-th hit; None where there are fewer.

    Args:
        hits: the hits in any order.
        n: which hit.
        distinct_scaffolds: count a hit only if its scaffold is new and not empty.
    """
    return _nth(_first_calls(hits) if distinct_scaffolds else _calls(hits), n)


def yields(hits: Sequence[Molecule]) -> dict[str, int | None]:
    """Yield, scaffold yield and oracle burdens of the hits under their column names."""
    calls, first_calls = _calls(hits), _first_calls(hits)
    burdens = {f"ob{n}": _nth(calls, n) for n in OB_SIZES}
    by_scaffold = {f"ob{n}_scaffolds": _nth(first_calls, n) for n in OB_SIZES}
    return {"yield": len(hits), "scaffold_yield": scaffold_yield(hits), **burdens, **by_scaffold}


def _calls(hits: Sequence[Molecule]) -> list[int]:
    """The calls of the hits, the first one first."""
    return sorted(hit.call for hit in hits)


def _first_calls(hits: Sequence[Molecule]) -> list[int]:
    """The first call of each scaffold among the hits, the first one first."""
    first: dict[str, int] = {}
    for hit in hits:
        if hit.scaffold:
            first[hit.scaffold] = min(hit.call, first.get(hit.scaffold, hit.call))
    return sorted(first.values())


def _nth(calls: Sequence[int], n: int) -> int | None:
    return calls[n - 1] if len(calls) >= n else None


def top_auc(molecules: Sequence[Molecule], k: int, *, calls: int, every: int) -> float | None:
    """AUC top-k of PMO (arXiv 2206.12411), as `top_auc` of mol_opt computes it.

    The mean of the k best rewards so far (of all, while there are fewer) is taken every `every`
    calls and at the last one, joined by straight lines from 0 at call 0, and held from the last
    call on where the run ended early; the area is divided by `calls`. A molecule whose reward
    could not be computed counts as 0.

    Args:
        molecules: scored ones, in the order of their calls; those after call `calls` are left out.
        k: how many of the best.
        calls: the budget.
        every: calls between two points.

    Returns:
        The area, in units of the reward; None without a scored molecule.
    """
    within = [m for m in molecules if m.call <= calls and m.reward is not None]
    if not within:
        return None
    call = np.array([molecule.call for molecule in within])
    reward = np.nan_to_num(np.array([m.reward for m in within], dtype=float), nan=0.0)
    last = int(call[-1])
    points = [0, *range(every, last, every), last]
    tops = _mean_tops(reward, np.searchsorted(call, points, side="right").tolist(), k)
    area = np.trapezoid(tops, points) + (calls - last) * tops[-1]
    return float(area / calls)


def top_aucs(molecules: Sequence[Molecule], *, calls: int, every: int) -> dict[str, float | None]:
    """AUC top-1, top-10 and top-100 under their column names."""
    return {f"auc_top_{k}": top_auc(molecules, k, calls=calls, every=every) for k in AUC_SIZES}


def _mean_tops(rewards: np.ndarray, ends: Sequence[int], k: int) -> list[float]:
    """Mean of the k best among so many first rewards, for each of some rising numbers."""
    best = np.empty(0)
    tops = []
    for start, end in pairwise([0, *ends]):
        best = np.sort(np.concatenate([best, rewards[start:end]]))[-k:]
        tops.append(float(best.mean()) if len(best) else 0.0)
    return tops
