"""Style shared by all figures: colours, bands over runs, and panels as reproducible SVG."""

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
"""Colours of Okabe and Ito, distinct for colour-blind readers; dark grey replaces black."""
DASHES: tuple[str, ...] = ("-", "--", ":", "-.")
"""Methods beyond the palette reuse its colours with the next line style."""

MAX_POINTS = 300
"""Maximum points of a line: more are not visible, and each adds 15 bytes to the page."""
NARROW, WIDE = (3.7, 2.35), (5.7, 2.9)
"""Sizes in inches of panels with three and two per row, which gives equal text sizes."""

DPI = 150
"""Resolution of PNG files."""

HOW_TO_READ_BANDS = (
    "Line: mean over the runs of a method; band: from the lowest run to the highest. Both end "
    "with the shortest run; thin lines continue the longer runs."
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
    """A drawn panel: title, explanation and SVG."""

    title: str
    note: str
    svg: str


def colour(number: int) -> str:
    """Return the colour of a method by its position."""
    return PALETTE[number % len(PALETTE)]


def dash(number: int) -> str:
    """Return the line style of a method by its position."""
    return DASHES[number // len(PALETTE) % len(DASHES)]


def write_count(value: float, _place: float = 0) -> str:
    """Format a tick that is a whole number, thousands as k; other ticks are empty."""
    return EngFormatter(sep="")(round(value)) if abs(value - round(value)) < 1e-6 else ""


def count_axis(axis: Axis) -> None:
    """Set whole-number ticks on an axis, with a range of at least 1."""
    low, high = axis.get_view_interval()
    if high - low < 1:
        axis.set_view_interval(low, low + 1, ignore=True)
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(write_count)


@dataclass(frozen=True)
class Band:
    """Curves of n runs of one method, aggregated up to the end of the shortest run.

    `tails` are the remaining parts of the longer runs.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int
    tails: Sequence[pd.Series]


def band(curves: Sequence[pd.Series], points: int) -> Band:
    """Aggregate the curves of a method's runs, with linear interpolation between their points.

    Missing values and empty runs are ignored. At most `points` positions are used, including the
    first and the last.
    """
    lines = [curve.dropna().astype(float) for curve in curves]
    lines = [curve for curve in lines if len(curve)]
    if not lines:
        empty = np.empty(0)
        return Band(empty, empty, empty, empty, 0, ())
    start = max(curve.index[0] for curve in lines)
    end = min(curve.index[-1] for curve in lines)
    x = np.unique(np.concatenate([curve.index.to_numpy(dtype=float) for curve in lines]))
    x = thinned(pd.Series(x[(x >= start) & (x <= end)]), points).to_numpy()
    if not len(x):  # no common range: every run is a tail
        return Band(x, x, x, x, len(lines), [thinned(curve, points) for curve in lines])
    values = np.array([np.interp(x, curve.index, curve.to_numpy()) for curve in lines])
    rest = [curve[curve.index >= end] for curve in lines if curve.index[-1] > end]
    tails = [thinned(curve, points // 2) for curve in rest]
    low, high = values.min(axis=0), values.max(axis=0)
    return Band(x, values.mean(axis=0), low, high, len(lines), tails)


def thinned(curve: pd.Series, points: int) -> pd.Series:
    """Select at most `points` points of a curve, evenly spaced, including both ends."""
    return curve.iloc[np.linspace(0, len(curve) - 1, min(len(curve), points)).astype(int)]


def draw_panel(
    name: str, draw: Callable[[Axes], None], size: tuple[float, float] = NARROW, *, above: float = 0
) -> str:
    """Draw on new axes and return the SVG element, without prolog and date.

    `name` must be unique on the page, as it is the prefix of the ids. `size` is in inches, and
    `above` is the height left free above the axes, for further axes.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        width, height = size
        left, bottom = 0.52 / width, 0.44 / height
        right, top = 0.1 / width, (0.08 + above) / height
        axes = figure.add_axes((left, bottom, 1 - left - right, 1 - bottom - top))
        draw(axes)
    return inline_svg(_file_of(figure, "svg", transparent=True).decode(), name)


def write_figure(folder: Path, name: str, figure: Figure) -> None:
    """Write a figure as NAME.png and NAME.svg."""
    write_bytes(folder / f"{name}.png", _file_of(figure, "png", dpi=DPI))
    write_bytes(folder / f"{name}.svg", _file_of(figure, "svg"))


def _file_of(figure: Figure, form: str, **look: Any) -> bytes:
    """Save a figure without date and program version, so that equal figures have equal bytes."""
    stream = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[form]
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format=form, metadata=metadata, **look)
    return stream.getvalue()


def inline_svg(document: str, prefix: str) -> str:
    """Extract the svg element of a document; drop unused ids and prefix the others.

    An id must be unique among all drawings of a page. Coordinates are rounded to hundredths of a
    point.
    """
    element = document[document.index("<svg") :]
    for tag in ("metadata", "style"):  # a style element would apply to the whole page
        element = re.sub(rf"<{tag}\b.*?</{tag}>\s*", "", element, flags=re.DOTALL)
    reference = re.compile(r'(url\(#|href="#)([\w.-]+)')
    used = {name for _, name in reference.findall(element)}
    element = re.sub(
        r'\s+id="([^"]*)"',
        lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "",
        element,
    )
    element = reference.sub(rf"\g<1>{prefix}-\g<2>", element)

    def shorter(attribute: re.Match[str]) -> str:
        """Round coordinates to two decimals, and drop blanks around commands."""
        rounded = re.sub(r"(\d+\.\d{2})\d+", r"\1", attribute[0])
        return re.sub(r"\s*([MLQCHVZz])\s*", r"\1", rounded)

    return re.sub(r' (?:d|points|x|y)="[^"]*"', shorter, element).strip()
