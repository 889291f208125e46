"""How all figures look: style, colours, bands over runs, and panels as SVG of the same bytes."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from chemkl.results.atomic import write_bytes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, which people with colour-blindness tell apart; black as dark grey."""
DASHES: tuple[str, ...] = ("-", "--", ":", "-.")
"""Beyond the palette, the next methods get the same colours dashed."""

MAX_POINTS = 300
"""A line is drawn through at most so many of its points: more cannot be seen, and each costs 15
bytes of the page."""
NARROW, WIDE = (3.7, 2.35), (5.7, 2.9)
"""Sizes in inches of panels that stand three and two in a row, so that their text is alike."""

DPI = 150
"""Of figures as PNG."""

HOW_TO_READ_BANDS = (
    "Line: mean over the runs of a method; band: from the lowest run to the highest. Both end "
    "where the shortest run does; thin lines are the longer runs alone."
)
INK, SOFT, GRID = "#3f4650", "#9aa3ae", "#e6e9ee"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chemkl",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#b8bec8",
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "path.simplify"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
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
    """Colour of a method by its position."""
    return PALETTE[number % len(PALETTE)]


def dash(number: int) -> str:
    """Line style of a method by its position."""
    return DASHES[number // len(PALETTE) % len(DASHES)]


def write_count(value: float, _place: float = 0) -> str:
    """Write a tick that is a whole number, thousands as k; what lies between them is left out."""
    return EngFormatter(sep="")(round(value)) if abs(value - round(value)) < 1e-6 else ""


def count_axis(axis: Axis) -> None:
    """Write an axis as counts, as far as 1 at least."""
    low, high = axis.get_view_interval()
    if high - low < 1:
        axis.set_view_interval(low, low + 1, ignore=True)
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(write_count)


@dataclass(frozen=True)
class Band:
    """Curves of n runs of one method, put together as far as the shortest reaches.

    `tails` are what the longer runs do after that, each alone.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int
    tails: Sequence[pd.Series]


def band(curves: Sequence[pd.Series], points: int) -> Band:
    """Put the curves of a method's runs together; straight lines join their points.

    Missing values and runs without any are left out; at most `points` of a method's points are
    kept, the first and last among them.
    """
    lines = [curve.dropna().astype(float) for curve in curves]
    lines = [curve for curve in lines if len(curve)]
    if not lines:
        none = np.empty(0)
        return Band(none, none, none, none, 0, ())
    start = max(curve.index[0] for curve in lines)
    end = min(curve.index[-1] for curve in lines)
    x = np.unique(np.concatenate([curve.index.to_numpy(dtype=float) for curve in lines]))
    x = thinned(pd.Series(x[(x >= start) & (x <= end)]), points).to_numpy()
    if not len(x):  # no place that all have: each stands for itself
        return Band(x, x, x, x, len(lines), [thinned(curve, points) for curve in lines])
    values = np.array([np.interp(x, curve.index, curve.to_numpy()) for curve in lines])
    longer = [curve[curve.index >= end] for curve in lines if curve.index[-1] > end]
    tails = [thinned(curve, points // 2) for curve in longer]
    edges = values.min(axis=0), values.max(axis=0)
    return Band(x, values.mean(axis=0), *edges, len(lines), tails)


def thinned(curve: pd.Series, points: int) -> pd.Series:
    """At most so many points of a curve, evenly spread, the first and last among them."""
    return curve.iloc[np.linspace(0, len(curve) - 1, min(len(curve), points)).astype(int)]


def draw_panel(
    name: str, draw: Callable[[Axes], None], size: tuple[float, float] = NARROW, *, above: float = 0
) -> str:
    """Draw on fresh axes and give the SVG element, without prolog and date.

    The name, unique on the page, is the prefix of its ids; sizes are in inches, `above` what is
    left free above the axes, for further axes.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        width, height = size
        left, bottom = 0.52 / width, 0.44 / height
        right, top = 0.1 / width, (0.08 + above) / height
        axes = figure.add_axes((left, bottom, 1 - left - right, 1 - bottom - top))
        draw(axes)
    return inline_svg(_saved(figure, "svg", transparent=True).decode(), name)


def write_figure(folder: Path, name: str, figure: Figure) -> None:
    """Write a figure as NAME.png and NAME.svg."""
    write_bytes(folder / f"{name}.png", _saved(figure, "png", dpi=DPI))
    write_bytes(folder / f"{name}.svg", _saved(figure, "svg"))


def _saved(figure: Figure, form: str, **look: Any) -> bytes:
    """The file of a figure, without a date or the version of a program in it."""
    stream = io.BytesIO()
    about = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[form]
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format=form, metadata=about, **look)
    return stream.getvalue()


def inline_svg(document: str, prefix: str) -> str:
    """The svg element of a document; ids that nothing refers to go, the others get a prefix.

    Several drawings share one page, where an id may occur once only. Coordinates are rounded to
    hundredths of a point.
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
    element = reference.sub(rf"\g<1>{prefix}-\g<2>", element)

    def shorter(attribute: re.Match[str]) -> str:
        """Coordinates to two decimals, a command and its numbers without blanks in between."""
        rounded = re.sub(r"(\d+\.\d{2})\d+", r"\1", attribute[0])
        return re.sub(r"\s*([MLQCHVZz])\s*", r"\1", rounded)

    return re.sub(r' (?:d|points|x|y)="[^"]*"', shorter, element).strip()
