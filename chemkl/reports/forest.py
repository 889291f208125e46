"""The forest plot of a comparison: every difference to the baseline with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chemkl.reports.comparison_text import set_name
from chemkl.reports.figures import INK, STYLE, colour

COLUMNS = 3
PANEL_WIDTH, ROW_HEIGHT, MARGIN = 3.4, 0.3, 0.95
"""Inches: width of a panel, height of a method in it, and what title and axis take beside."""
TITLE_WIDTH = 5.5
"""Inches that the words above the panels need, in two lines."""


def draw_forest(rows: Sequence[Mapping[str, Any]], confidence: float) -> Figure:
    """Draw one panel for each metric and threshold, one line for each method.

    A filled marker: the method is better; a hollow one: not shown, or not resolved; a cross: no
    interval. A method without a difference (nowhere defined) has an empty line.

    Args:
        rows: of the comparison.
        confidence: level of the intervals.
    """
    panels: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["metric"], row["threshold"]), []).append(row)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    n_columns = min(COLUMNS, len(panels))
    n_lines = -(-len(panels) // n_columns)
    height = n_lines * (MARGIN + ROW_HEIGHT * len(methods)) + 0.55
    width = max(n_columns * PANEL_WIDTH + 0.6, TITLE_WIDTH)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False)
        for axes, ((metric, threshold), own) in zip(grid.flat, panels.items(), strict=False):
            _panel(axes, own, methods)
            axes.set_title(
                f"{metric}, {set_name(threshold)}",
                loc="left",
                fontsize=9,
                color=INK,
                parse_math=False,
            )
            axes.set_xlabel(f"difference ({own[0]['better']} is better)")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        title = (
            f"Difference to {rows[0]['baseline']}, {100 * confidence:.4g} % interval\n"
            "filled: better, hollow: not shown or not resolved"
        )
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=9, parse_math=False)
    return figure


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    labels = {row["method"]: f"{row['method']} (n = {row['n']})" for row in rows}
    for row in rows:
        place = methods.index(row["method"])
        if row["difference"] is None:
            continue
        own = colour(place)
        if row["low"] is None:
            axes.plot([row["difference"]], [place], "x", color=own)
            continue
        axes.plot([row["low"], row["high"]], [place, place], color=own)
        face = own if row["verdict"] == "better" else "white"
        axes.plot([row["difference"]], [place], "o", color=own, markerfacecolor=face)
    axes.set_yticks(range(len(methods)), [labels[method] for method in methods], parse_math=False)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="y")
