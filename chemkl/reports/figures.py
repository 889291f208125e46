"""Curves as SVG text: one small panel each, without a legend, the same bytes every time."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from chemkl.reports.view import RunView, learning_curves, scaffold_sizes, yield_curves

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, which people with colour-blindness tell apart; black as dark grey."""
DASHES: tuple[str, ...] = ("-", "--", ":", "-.")
"""Beyond the palette, the next runs get the same colours dashed."""

MAX_POINTS = 400
"""A line is drawn through at most so many of its points: more cannot be seen, and each costs 20
bytes of the page."""
NARROW, WIDE = (3.7, 2.35), (5.7, 2.9)
"""Sizes in inches of panels that stand three and two in a row, so that their text is alike."""

INK, GRID = "#3f4650", "#e6e9ee"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chemkl",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#b8bec8",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Panel:
    """One drawn panel: what it shows, how to read it, and the SVG."""

    title: str
    note: str
    svg: str


def colour(number: int) -> str:
    """Colour of a run by its position."""
    return PALETTE[number % len(PALETTE)]


def dash(number: int) -> str:
    """Line style of a run by its position."""
    return DASHES[number // len(PALETTE) % len(DASHES)]


def learning_panels(runs: Sequence[RunView], threshold: float, smoothing: int) -> list[Panel]:
    """Reward, hits, novelty, collapse and log-probabilities over the steps."""
    curves = [learning_curves(run.trace, threshold) for run in runs]
    shown = [
        ("reward", "Mean reward", "raw R per sample, invalid as 0", False),
        ("hit_rate", "Hit rate", f"share of samples with R ≥ {threshold:g}", True),
        ("unique_rate", "Unique rate", "valid and new in the run, per sample", True),
        ("top_scaffold", "Top scaffold", "share of the step's most frequent scaffold", True),
        ("logp_policy", "log π of the policy", "mean per sample, nats", False),
        ("logp_ref", "log π of the prior", "mean per sample, nats", False),
    ]
    return [
        Panel(title, note, _panel(name, _steps_of(curves, name, smoothing, percent=percent)))
        for name, title, note, percent in shown
    ]


def yield_panels(runs: Sequence[RunView], threshold: float) -> list[Panel]:
    """Hits, and scaffolds among them, over the oracle calls."""
    curves = [yield_curves(run.trace, threshold) for run in runs]

    def draw(name: str) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            for number, whole in enumerate(curves):
                curve = whole.iloc[drawn_points(len(whole))]
                x, y = curve["call"], curve[name]
                axes.plot(x, y, color=colour(number), linestyle=dash(number))
            axes.set_xlabel("oracle calls")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            _count_axis(axes)

        return on

    return [
        Panel(
            "Yield",
            f"distinct molecules with R ≥ {threshold:g}",
            _panel("yield", draw("molecules"), WIDE),
        ),
        Panel(
            "Scaffold yield",
            "distinct scaffolds among them",
            _panel("scaffold-yield", draw("scaffolds"), WIDE),
        ),
    ]


def rank_panels(runs: Sequence[RunView], threshold: float) -> list[Panel]:
    """How the hits spread over scaffolds: sizes by rank, and the share that the largest cover."""
    sizes = [scaffold_sizes(run.trace, threshold) for run in runs]

    def ranked(axes: Axes) -> None:
        for number, size in enumerate(sizes):
            if len(size):
                ranks = range(1, len(size) + 1)
                axes.plot(ranks, size.to_numpy(), color=colour(number), linestyle=dash(number))
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_locator(mpl.ticker.NullLocator())
        axes.set_xlabel("rank of the scaffold")

    def covered(axes: Axes) -> None:
        for number, size in enumerate(sizes):
            if len(size):
                share = (size.cumsum() / size.sum()).to_numpy()
                ranks = range(1, len(size) + 1)
                axes.plot(ranks, share, color=colour(number), linestyle=dash(number))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("largest scaffolds")

    return [
        Panel(
            "Scaffold rank curve",
            "hits per scaffold, largest scaffold first",
            _panel("rank", ranked, WIDE),
        ),
        Panel(
            "Concentration",
            "share of hits that the largest scaffolds hold",
            _panel("covered", covered, WIDE),
        ),
    ]


def _steps_of(
    curves: Sequence[pd.DataFrame], name: str, smoothing: int, *, percent: bool
) -> Callable[[Axes], None]:
    """Draw one column of the learning curves: the raw values faintly, their running mean over."""

    def on(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            values = curve[name].astype(float)
            smooth = values.rolling(smoothing, center=True, min_periods=1).mean()
            drawn = drawn_points(len(values))
            raw, smooth = values.iloc[drawn], smooth.iloc[drawn]
            if smoothing > 1:
                axes.plot(raw.index, raw, color=colour(number), alpha=0.22, linewidth=0.8)
            axes.plot(smooth.index, smooth, color=colour(number), linestyle=dash(number))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_ylim(bottom=0)

    return on


def drawn_points(n: int) -> np.ndarray:
    """Positions of at most MAX_POINTS of n points, evenly spread, the first and last among them."""
    return np.linspace(0, n - 1, min(n, MAX_POINTS)).astype(int)


def _count_axis(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(EngFormatter(sep=""))


def _panel(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = NARROW) -> str:
    """Draw on fresh axes and give the SVG element, without prolog and date."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        width, height = size
        left, bottom, right, top = 0.52 / width, 0.44 / height, 0.1 / width, 0.08 / height
        axes = figure.add_axes((left, bottom, 1 - left - right, 1 - bottom - top))
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(stream.getvalue(), name)


def inline_svg(document: str, prefix: str) -> str:
    """The svg element of a document; ids that nothing refers to go, the others get a prefix.

    Several drawings share one page, where an id may occur once only.
    """
    element = document[document.index("<svg") :]
    for leaking in ("metadata", "style"):  # a style element would apply to the whole page
        element = re.sub(rf"<{leaking}\b.*?</{leaking}>\s*", "", element, flags=re.DOTALL)
    reference = re.compile(r'(url\(#|href="#)([\w.-]+)')
    used = {name for _, name in reference.findall(element)}
    element = re.sub(
        r'\s+id="([^"]*)"',
        lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "",
        element,
    )
    return reference.sub(rf"\g<1>{prefix}-\g<2>", element).strip()
