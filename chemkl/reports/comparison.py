"""A comparison of methods as Markdown, as LaTeX, for the terminal, and as a forest plot."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from chemkl.display import MISSING, cell, counted, plain_table
from chemkl.reports.figures import INK, STYLE, colour

Row = Mapping[str, Any]

FOREST_COLUMNS = 3
PANEL_WIDTH, ROW_HEIGHT, MARGIN = 3.4, 0.3, 0.95
"""Inches: width of a panel, height per method, and height of the panel's title and axis."""
TITLE_WIDTH = 5.5
"""Inches needed by the title of the figure, in two lines."""

_LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    MISSING: "--",
}
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_LATEX)) + "]")


def header(confidence: float) -> list[str]:
    """Return the column names of the table."""
    spreads = ["mean ± sd", "baseline", f"difference [{100 * confidence:.4g} %]"]
    return ["metric", "of", "method", "n", *spreads, "p", "p (Holm)", "verdict"]


def cells(row: Row) -> list[str]:
    """Format one comparison, in the order of the header."""
    interval = "" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]"
    spreads = [
        number(row[mean]) + ("" if row[sd] is None else f" ± {number(row[sd])}")
        for mean, sd in (("mean", "sd"), ("baseline_mean", "baseline_sd"))
    ]
    p_values = [
        "<0.001" if row[p] is not None and row[p] < 0.001 else cell(row[p], ".3f")
        for p in ("p", "p_holm")
    ]
    head = [f"{row['metric']} ({row['better']})", set_name(row["threshold"]), row["method"]]
    difference = number(row["difference"]) + interval
    return [*head, str(row["n"]), *spreads, difference, *p_values, row["verdict"]]


def notes(rows: Sequence[Row], further: Sequence[str], *, budget: int, alpha: float) -> list[str]:
    """Explain the table, name censored and undefined pairs, and append further lines."""
    tests = f"all tests of this table ({sum(row['p'] is not None for row in rows)})"
    lines = [
        f"Baseline: {rows[0]['baseline']}; budget: {budget:,} oracle calls. Runs are paired by "
        "seed; n: pairs; sd: n - 1 in the denominator. (higher), (lower): which values are better.",
        "Interval: percentile bootstrap of the mean difference over pairs, not corrected; with few "
        "pairs it is too narrow (95 % nominal covers 84 % at 5, 91 % at 10).",
        f"p: one-sided Welch t-test that the method is better; Holm: corrected for {tests}. "
        f"better: corrected p < {alpha:g}; not shown: corrected p is larger, which proves neither "
        "equality nor worse values; not resolved: fewer than 5 pairs, or no variance.",
    ]
    censored, undefined = [], []
    for r in rows:
        place, method = f"{r['metric']}, {set_name(r['threshold'])}", r["method"]
        if r["n_not_reached"] or r["baseline_not_reached"]:
            censored.append(
                f"{place}: not reached in {r['n_not_reached']} of {r['n']} runs of {method} and "
                f"{r['baseline_not_reached']} of {r['baseline']}; these count as budget + "
                "1, a lower bound."
            )
        if r["n_undefined"]:
            undefined.append(
                f"{place}: {counted(r['n_undefined'], 'pair')} of {method} left out, where the "
                "metric is undefined (for example without a hit)."
            )
    return [*lines, *censored, *undefined, *(f"{line}." for line in further)]


def markdown(rows: Sequence[Row], remarks: Sequence[str], confidence: float) -> str:
    """Format the table and its notes as Markdown."""
    names = header(confidence)
    lines = []
    for texts in (names, ["---"] * len(names), *map(cells, rows)):
        escaped = [re.sub(r"([\\|<>_*`\[\]])", r"\\\1", text) for text in texts]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def latex(rows: Sequence[Row], remarks: Sequence[str], confidence: float) -> str:
    r"""Format the table as a LaTeX tabular for \usepackage{booktabs}, the notes as comments."""
    lines = []
    for texts in (header(confidence), *map(cells, rows)):
        escaped = [_LATEX_SPECIAL.sub(lambda mark: _LATEX[mark[0]], text) for text in texts]
        signed = [re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text) for text in escaped]
        lines.append(" & ".join(signed) + r" \\")
    lines.insert(1, r"\midrule")
    head = [*(f"% {remark}" for remark in remarks), r"\begin{tabular}{lllrrrrrrl}", r"\toprule"]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", ""])


def terminal(rows: Sequence[Row], confidence: float) -> Table:
    """Format the table for the terminal."""
    table = plain_table()
    for place, name in enumerate(header(confidence)):
        table.add_column(name, justify="right" if 3 <= place <= 8 else "left")
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    return table


def set_name(threshold: float | None) -> str:
    """Name the set of molecules of a metric."""
    return "all" if threshold is None else f"R ≥ {threshold:.12g}"


def number(value: float | None) -> str:
    """Format a number to four digits, without powers of ten for large values."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def draw_forest(rows: Sequence[Row], confidence: float) -> Figure:
    """Draw a comparison: one panel for each metric and threshold, one line for each method.

    Filled markers: the method is better; hollow: not shown or not resolved; crosses: no interval.
    A method without a defined difference has an empty line.
    """
    panels: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        panels.setdefault((row["metric"], row["threshold"]), []).append(row)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    n_columns = min(FOREST_COLUMNS, len(panels))
    n_lines = -(-len(panels) // n_columns)
    height = n_lines * (MARGIN + ROW_HEIGHT * len(methods)) + 0.55
    width = max(n_columns * PANEL_WIDTH + 0.6, TITLE_WIDTH)
    look: dict[str, Any] = {"fontsize": 9, "color": INK, "parse_math": False}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False)
        for axes, ((metric, threshold), members) in zip(grid.flat, panels.items(), strict=False):
            _draw_differences(axes, members, methods)
            axes.set_title(f"{metric}, {set_name(threshold)}", loc="left", **look)
            axes.set_xlabel(f"difference ({members[0]['better']} is better)")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        title = (
            f"Difference to {rows[0]['baseline']}, {100 * confidence:.4g} % interval\n"
            "filled: better, hollow: not shown or not resolved"
        )
        figure.suptitle(title, x=0.01, ha="left", **look)
    return figure


def _draw_differences(axes: Axes, rows: Sequence[Row], methods: Sequence[str]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    labels = {row["method"]: f"{row['method']} (n = {row['n']})" for row in rows}
    for row in rows:
        place, middle, low = methods.index(row["method"]), row["difference"], row["low"]
        ink = colour(place)
        if middle is not None and low is None:
            axes.plot([middle], [place], "x", color=ink)
        elif middle is not None:
            axes.plot([low, row["high"]], [place, place], color=ink)
            face = ink if row["verdict"] == "better" else "white"
            axes.plot([middle], [place], "o", color=ink, markerfacecolor=face)
    axes.set_yticks(range(len(methods)), [labels[method] for method in methods], parse_math=False)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="y")
