"""Scaffold families of a method: their shares at the start and at the end, as small dumbbells."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from chemkl.display import cell
from chemkl.reports.curves import Methods
from chemkl.reports.figures import SOFT, colour
from chemkl.reports.thumbnails import draw_thumbnail
from chemkl.reports.view import RunView

WIDTH, MARGIN = 300, 8
"""Pixels of a dumbbell, and what stays free at both ends."""


def family_blocks(runs: Sequence[RunView], methods: Methods, n: int) -> list[dict[str, Any]]:
    """The largest families of every method, all on one scale.

    Args:
        runs: with their families.
        methods: which run is whose.
        n: families of each method, those with the largest share at either end first.

    Returns:
        For each method `name`, `before` and `after` (families with a share, mean over its runs),
        `whole` (the share at the right end of the scale) and `rows`, ready to be shown.
    """
    shown = {name: mean_shares([runs[m] for m in own]) for name, own in methods.items()}
    largest = {name: rows[:n] for name, rows in shown.items()}
    whole = max((_larger(row) for rows in largest.values() for row in rows), default=1.0) or 1.0
    return [
        {
            "name": name,
            "before": cell(_mean_count([runs[m] for m in methods[name]], "prior_share"), ",.0f"),
            "after": cell(_mean_count([runs[m] for m in methods[name]], "policy_share"), ",.0f"),
            "whole": f"{whole:.1%}",
            "rows": [
                {
                    "family": row["family"],
                    "before": f"{row['before']:.1%}",
                    "after": f"{row['after']:.1%}",
                    "molecules": f"{row['molecules']:,} molecules",
                    "best": cell(row["best"], ".3f") if row["best"] is not None else "",
                    "drawing": Markup(draw_thumbnail(row["family"])),
                    "dumbbell": Markup(_dumbbell(row, whole, colour(number))),
                }
                for row in largest[name]
            ],
        }
        for number, name in enumerate(methods)
    ]


def mean_shares(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """Shares of each family, mean over the runs; a run that does not have it counts as 0.

    Returns:
        Rows with `family`, `before`, `after` (shares), `molecules` (distinct, all runs together)
        and `best` (largest reward or None); that with the largest share first.
    """
    found: dict[str, dict[str, Any]] = {}
    counted = [run for run in runs if run.families]
    for run in counted:
        for row in run.families:
            own = found.setdefault(
                row["family"],
                {
                    "family": row["family"],
                    "before": 0.0,
                    "after": 0.0,
                    "molecules": 0,
                    "best": None,
                },
            )
            own["before"] += row["prior_share"] / len(counted)
            own["after"] += row["policy_share"] / len(counted)
            own["molecules"] += row["n_molecules"]
            best = row["best_reward"]
            if best is not None and not math.isnan(best):
                own["best"] = best if own["best"] is None else max(own["best"], best)
    return sorted(found.values(), key=lambda row: (-_larger(row), row["family"]))


def _larger(row: dict[str, Any]) -> float:
    return float(max(row["before"], row["after"]))


def _mean_count(runs: Sequence[RunView], key: str) -> float | None:
    """Families with a share above 0, mean over the runs that have any."""
    counts = [sum(row[key] > 0 for row in run.families) for run in runs if run.families]
    return sum(counts) / len(counts) if counts else None


def _dumbbell(row: dict[str, Any], whole: float, shade: str) -> str:
    """From a grey ring, the share at the start, to a dot, the share at the end."""
    before, after = (
        MARGIN + (WIDTH - 2 * MARGIN) * row[key] / whole for key in ("before", "after")
    )
    return (
        f'<svg class="dumbbell" viewBox="0 0 {WIDTH} 18" role="img" aria-label="from '
        f'{row["before"]:.1%} to {row["after"]:.1%}">'
        f'<line x1="{MARGIN}" y1="9" x2="{WIDTH - MARGIN}" y2="9" stroke="#e6e9ee"/>'
        f'<line x1="{before:.1f}" y1="9" x2="{after:.1f}" y2="9" stroke="{shade}" '
        'stroke-width="3" stroke-opacity=".45"/>'
        f'<circle cx="{before:.1f}" cy="9" r="4.5" fill="#fff" stroke="{SOFT}" stroke-width="2"/>'
        f'<circle cx="{after:.1f}" cy="9" r="5" fill="{shade}"/></svg>'
    )
