"""Panels of how the hits spread over scaffolds: rank-abundance, and what the largest ones hold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from chemkl.reports.curves import Methods, draw_bands
from chemkl.reports.figures import WIDE, Counts, Panel, draw_panel, percent_axis
from chemkl.reports.view import RunView, scaffold_sizes

DRAWN_RANKS = 120
"""Ranks are drawn at so many places at most, evenly spread on the logarithmic axis."""


def rank_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """How the hits spread over scaffolds: sizes by rank, and the share that the largest cover."""
    sizes = [scaffold_sizes(run.trace, threshold) for run in runs]
    furthest = max((len(size) for size in sizes), default=0)
    ranked = [size_by_rank(size) for size in sizes]
    covered = [covered_by_rank(size, furthest) for size in sizes]

    def sizes_on(axes: Axes) -> None:
        draw_bands(axes, ranked, methods)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(Counts())
        axes.yaxis.set_minor_locator(NullLocator())
        _log_ranks(axes, "rank of the scaffold")

    def shares_on(axes: Axes) -> None:
        draw_bands(axes, covered, methods)
        axes.set_ylim(0, 1.02)
        percent_axis(axes)
        _log_ranks(axes, "largest scaffolds")

    return [
        Panel(
            "Scaffold rank curve",
            "hits per scaffold, largest scaffold first",
            draw_panel("rank", sizes_on, WIDE),
        ),
        Panel(
            "Concentration",
            "share of the hits that the largest scaffolds hold",
            draw_panel("covered", shares_on, WIDE),
        ),
    ]


def size_by_rank(sizes: pd.Series) -> pd.Series:
    """Hits of the scaffold of each rank, at ranks evenly spread on a logarithmic axis."""
    ranks = _ranks(len(sizes))
    return pd.Series(sizes.to_numpy()[ranks - 1], index=ranks, dtype=float)


def covered_by_rank(sizes: pd.Series, furthest: int) -> pd.Series:
    """Share of the hits that the scaffolds up to each rank hold; 1 beyond the last of them."""
    if not len(sizes):
        return pd.Series(dtype=float)
    ranks = _ranks(furthest)
    share = (sizes.cumsum() / sizes.sum()).to_numpy()
    return pd.Series(share[np.minimum(ranks, len(sizes)) - 1], index=ranks, dtype=float)


def _ranks(n: int) -> np.ndarray:
    """Ranks from 1 to n, each once."""
    return np.unique(np.geomspace(1, n, DRAWN_RANKS).round().astype(int)) if n else np.empty(0, int)


def _log_ranks(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(Counts())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
