"""The picture of what a target does: reward, and the policy, against log pi_ref of the prior."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from scipy import stats

from chemkl.reports.figures import INK, SOFT, WIDE, Panel, colour, draw_panel
from chemkl.reports.view import Methods, RunView
from chemkl.results.inspection import by_final_reward, first_scorings, sampled_rows, valid_rows
from chemkl.results.provenance import tau_of

DOTS = 1500
"""A panel shows at most so many molecules of each kind, drawn at random; anchors are all shown."""
OUTSIDE = 0.002
"""So large a share of the molecules, the least likely ones, may lie left of a panel."""
ABOVE = 0.5
"""Inches of the histogram above a panel."""
_DASHED = (0, (4, 3))
Look = dict[str, Any]
Draw = Callable[[Axes, "Cloud", str, np.random.Generator], None]


@dataclass(frozen=True)
class Cloud:
    """What a panel shows of one method; distinct molecules, by log pi_ref."""

    misses: pd.DataFrame
    hits: pd.DataFrame
    anchors: pd.DataFrame  # molecules that were the anchor of a batch
    early: np.ndarray  # log pi_ref of the first valid samples of each run, repeats included
    late: np.ndarray  # of the last ones
    late_hits: pd.DataFrame  # the hits among these, each once; columns logp_ref, logp_policy
    taus: Sequence[float]  # tau of the target, of each run that has one

    @property
    def slope(self) -> float | None:
        """Least-squares slope of log pi_policy over log pi_ref of the late hits, if they vary."""
        x, y = self.late_hits["logp_ref"], self.late_hits["logp_policy"]
        return float(stats.linregress(x, y).slope) if x.nunique() > 1 else None


def cloud(runs: Sequence[RunView], threshold: float, window: int) -> Cloud:
    """Put together what the runs of one method sampled."""

    def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """Rows of several runs in one table; a table without rows would decide its types."""
        frames = list(frames)
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    scored = joined(first_scorings(run.trace) for run in runs)
    scored = scored.drop_duplicates("canonical_smiles")  # several runs may have found it
    sampled = [sampled_rows(run.trace) for run in runs]
    marked = joined(rows[rows["anchor"].astype(bool)] for rows in sampled)
    # no sample may count as early and late
    valid = [(rows, min(window, len(rows) // 2)) for rows in (valid_rows(r.trace) for r in runs)]
    starts, ends = joined(r.head(n) for r, n in valid), joined(r.tail(n) for r, n in valid)
    late = by_final_reward(ends)
    late_hits = late[late["reward"] >= threshold].drop_duplicates("canonical_smiles", keep="last")
    taus = {tau_of(run.manifest.get("config", {})) for run in runs}
    return Cloud(
        misses=scored[scored["reward"] < threshold],
        hits=scored[scored["reward"] >= threshold],
        anchors=marked.drop_duplicates("canonical_smiles"),
        early=starts["logp_ref"].to_numpy(dtype=float),
        late=ends["logp_ref"].to_numpy(dtype=float),
        late_hits=late_hits,
        taus=sorted(tau for tau in taus if tau),
    )


def likelihood_panels(
    runs: Sequence[RunView], methods: Methods, threshold: float, window: int, seed: int
) -> list[Panel]:
    """For each method two panels over log pi_ref: the reward, and the policy's own log pi.

    The second one is of the hits among the last samples, and is left out where there is none. So
    many valid samples as `window` stand for the beginning and for the end of a run. All panels have
    the same axes.
    """
    clouds = [cloud([runs[m] for m in members], threshold, window) for members in methods.values()]
    x, rewards = (
        span_of(frame[column] for c in clouds for frame in (c.misses, c.hits))
        for column in ("logp_ref", "reward")
    )
    policies = span_of(c.late_hits["logp_policy"] for c in clouds)

    def of_method(number: int, name: str, data: Cloud) -> Iterator[Panel]:
        rng = np.random.default_rng(seed)

        def panel(kind: str, y: tuple[float, float], draw: Draw, note: str, above: float) -> Panel:
            def on(axes: Axes) -> None:
                axes.set_xlim(*x)
                axes.set_ylim(*y)
                axes.set_xlabel("log π of the prior, nats")
                axes.yaxis.set_major_locator(MaxNLocator(5))
                draw(axes, data, colour(number), rng)

            size = WIDE[0], WIDE[1] + ABOVE
            svg = draw_panel(f"{kind}-{number + 1}", on, size, above=above)
            return Panel(f"{name}: {kind}", note, svg)

        n_hits, n_anchors = len(data.hits), len(data.anchors)
        anchors = f"{n_anchors:,} anchors (rings)" if n_anchors else "no anchors"
        note = (
            f"R of {n_hits + len(data.misses):,} distinct molecules, {n_hits:,} of them hits (in "
            f"colour); {anchors}"
        )
        yield panel("reward", rewards, partial(_draw_rewards, threshold), note, ABOVE)
        if len(data.late_hits):
            slope = "too few to say" if data.slope is None else f"slope {data.slope:.2f}"
            hits = f"{len(data.late_hits):,} hits among the last samples"
            note = f"log π of the policy for the {hits}; {slope}"
            yield panel("policy", policies, _draw_policy, note, 0)

    numbered = enumerate(zip(methods, clouds, strict=True))
    return [panel for number, method in numbered for panel in of_method(number, *method)]


def _draw_rewards(
    threshold: float, axes: Axes, data: Cloud, shade: str, rng: np.random.Generator
) -> None:
    levels = [(threshold, "hit"), *((tau, "τ") for tau in data.taus if tau != threshold)]
    for value, label in levels:
        axes.axhline(value, color=INK, linewidth=0.8, linestyle=_DASHED)
        place: Look = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
        words = f"{label} {value:g} "
        axes.text(1.0, value, words, ha="right", fontsize=7.5, color=INK, **place)
    _dots(axes, data.misses, "reward", SOFT, 0.5, rng)
    _dots(axes, data.hits, "reward", shade, 0.65, rng)
    look: Look = {"markersize": 4, "markeredgewidth": 0.7, "alpha": 0.75}
    rings = data.anchors["logp_ref"], data.anchors["reward"]
    axes.plot(*rings, "o", color=INK, markerfacecolor="none", **look)
    _histogram(axes, data, shade)


def _draw_policy(axes: Axes, data: Cloud, shade: str, rng: np.random.Generator) -> None:
    _dots(axes, data.late_hits, "logp_policy", shade, 0.65, rng)
    if data.slope is not None:
        middle = data.late_hits["logp_ref"].mean(), data.late_hits["logp_policy"].mean()
        axes.axline(middle, slope=1, color=SOFT, linewidth=1, linestyle=_DASHED)
        axes.axline(middle, slope=data.slope, color=INK, linewidth=1.4)


def span_of(values: Iterable[pd.Series]) -> tuple[float, float]:
    """Where almost all of the values are, with a little room: the least ones may lie outside."""
    columns = [column.dropna().to_numpy(dtype=float) for column in values]
    numbers = np.concatenate([np.empty(0), *columns])
    if not len(numbers):
        return 0.0, 1.0
    low, high = float(np.quantile(numbers, OUTSIDE)), float(numbers.max())
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _dots(
    axes: Axes, frame: pd.DataFrame, y: str, shade: str, opacity: float, rng: np.random.Generator
) -> None:
    """Round dots as one path of strokes without length: a fifth of the bytes of markers."""
    if len(frame) > DOTS:
        frame = frame.iloc[np.sort(rng.choice(len(frame), DOTS, replace=False))]
    places = frame[["logp_ref", y]].to_numpy(dtype=float)
    places = places[np.isfinite(places).all(axis=1)]
    if not len(places):
        return
    codes = np.tile([Path.MOVETO, Path.LINETO], len(places)).astype(Path.code_type)
    path = Path(places.repeat(2, axis=0), codes)
    look: Look = {"linewidth": 2.7, "alpha": opacity}
    axes.add_patch(PathPatch(path, fill=False, color=shade, capstyle="round", **look))


def _histogram(axes: Axes, data: Cloud, shade: str) -> None:
    """Above the panel, where the samples were at the beginning (grey) and are at the end."""
    place = axes.get_position()
    height = ABOVE / (WIDE[1] + ABOVE) * 0.86
    top = axes.figure.add_axes((place.x0, place.y1 + 0.012, place.width, height), sharex=axes)
    top.set_axis_off()
    edges = np.linspace(*axes.get_xlim(), 60)
    early: Look = {"color": SOFT, "fill": True, "alpha": 0.45}
    late: Look = {"color": shade, "alpha": 1}
    for values, look in ((data.early, early), (data.late, late)):
        if len(values):
            counts, _ = np.histogram(values, edges)
            top.stairs(counts / len(values), edges, linewidth=1.3, **look)
    top.set_ylim(bottom=0)
