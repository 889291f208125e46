"""The figure of a text run: exact entropy over the valid answers, and their mass, over steps."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from chemkl.reports.figures import INK, STYLE, colour, dash

SIZE = (8.6, 3.4)
"""Inches."""
REFERENCE = "#9aa3ae"
SHADE = 0.18
"""Opacity of a band."""


def draw_entropy(curves: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Draw each method's or run's mean over its seeds, with a band from the lowest to the highest.

    Args:
        curves: for each name that is to stand in the legend, a table for each seed: step, ln_k,
            entropy, entropy_ref, mass, mass_ref. A mean is drawn at the steps that all seeds have.

    Returns:
        Left the entropies, with ln K and the reference's as lines across; right the mass.
    """
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (name, seeds) in enumerate(curves.items()):
            label = name if len(seeds) == 1 else f"{name} (n = {len(seeds)})"
            for axes, column in ((left, "entropy"), (right, "mass")):
                _line(axes, seeds, column, number, label)
        everything = pd.concat([each for seeds in curves.values() for each in seeds])
        _across(left, everything["ln_k"], "ln K, uniform", ":")
        _across(left, everything["entropy_ref"], "reference", "--")
        _across(right, everything["mass_ref"], "reference", "--")
        _finish(left, "Entropy over the valid answers, nats")
        _finish(right, "Probability of a valid answer")
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _line(axes: Axes, seeds: Sequence[pd.DataFrame], column: str, number: int, label: str) -> None:
    by_seed = [each.set_index("step")[column].rename(i) for i, each in enumerate(seeds)]
    table = pd.concat(by_seed, axis=1, join="inner").dropna().sort_index()
    own = colour(number)
    if len(seeds) > 1:
        low, high = table.min(axis=1), table.max(axis=1)
        axes.fill_between(table.index, low, high, color=own, alpha=SHADE, linewidth=0)
    axes.plot(table.index, table.mean(axis=1), color=own, linestyle=dash(number), label=label)


def _across(axes: Axes, values: pd.Series, label: str, style: str) -> None:
    """A line across for every different value; runs with one task share one."""
    for i, value in enumerate(sorted(set(values.dropna().round(3)))):
        axes.axhline(
            value,
            color=INK if style == ":" else REFERENCE,
            linestyle=style,
            linewidth=1.2,
            label=label if i == 0 else None,
        )


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
