"""How many good molecules, how many scaffolds among them, and after how many oracle calls.

A hit is a distinct molecule with raw reward R >= threshold; a call is one first-time scoring.
"""

from collections.abc import Sequence

from chemkl.evaluation.samples import Molecule

OB_SIZES = (1, 10, 100)


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
    calls = sorted(hit.call for hit in hits)
    if distinct_scaffolds:
        first_calls: dict[str, int] = {}
        for hit in sorted(hits, key=lambda hit: hit.call):
            if hit.scaffold:
                first_calls.setdefault(hit.scaffold, hit.call)
        calls = sorted(first_calls.values())
    return calls[n - 1] if len(calls) >= n else None


def yields(hits: Sequence[Molecule]) -> dict[str, int | None]:
    """Yield, scaffold yield and oracle burdens of the hits under their column names."""
    burdens = {f"ob{n}": oracle_burden(hits, n) for n in OB_SIZES}
    by_scaffold = {
        f"ob{n}_scaffolds": oracle_burden(hits, n, distinct_scaffolds=True) for n in OB_SIZES
    }
    return {"yield": len(hits), "scaffold_yield": scaffold_yield(hits), **burdens, **by_scaffold}
