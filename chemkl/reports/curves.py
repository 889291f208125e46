"""Panels of what happens along a run: learning curves, yields over calls, and collapse."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from chemkl.reports.bands import band
from chemkl.reports.figures import (
    MAX_POINTS,
    SOFT,
    WIDE,
    Panel,
    colour,
    count_axis,
    dash,
    draw_panel,
    drawn_points,
    percent_axis,
)
from chemkl.reports.view import TOP, RunView, learning_curves, top_curves, yield_curves
from chemkl.reports.wording import span
from chemkl.results.collapse import watched
from chemkl.results.inspection import first_scorings

Methods = Mapping[str, Sequence[int]]
"""Name of each method, and which of the runs are its."""


def draw_bands(
    axes: Axes, curves: Sequence[pd.Series], methods: Methods, faint: Sequence[pd.Series] = ()
) -> None:
    """Draw one curve a run, put together by method.

    Args:
        axes: to draw on.
        curves: of all runs, in their order.
        methods: which run is whose.
        faint: the same before smoothing; drawn behind where a method has one run alone.
    """
    for number, members in enumerate(methods.values()):
        own, style = colour(number), dash(number)
        whole = band([curves[member] for member in members], MAX_POINTS)
        if not whole.n:
            continue
        if len(members) == 1 and faint:
            raw = faint[members[0]].dropna()
            raw = raw.iloc[drawn_points(len(raw))]
            axes.plot(raw.index, raw, color=own, alpha=0.22, linewidth=0.8)
        if whole.n > 1:
            axes.fill_between(whole.x, whole.low, whole.high, color=own, alpha=0.16, linewidth=0)
        for tail in whole.tails:
            axes.plot(tail.index, tail, color=own, linewidth=0.7, alpha=0.6)
        axes.plot(whole.x, whole.mean, color=own, linestyle=style)


def learning_panels(
    runs: Sequence[RunView], methods: Methods, threshold: float, smoothing: int
) -> list[Panel]:
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

    def drawn(name: str, *, percent: bool) -> Callable[[Axes], None]:
        raw = [curve[name].astype(float) for curve in curves]
        smooth = [each.rolling(smoothing, center=True, min_periods=1).mean() for each in raw]

        def on(axes: Axes) -> None:
            draw_bands(axes, smooth, methods, raw if smoothing > 1 else ())
            axes.set_xlabel("step")
            count_axis(axes.xaxis)
            if percent:
                percent_axis(axes)
                axes.set_ylim(bottom=0)

        return on

    return [
        Panel(title, note, draw_panel(name, drawn(name, percent=percent)))
        for name, title, note, percent in shown
        if name != "hit_rate" or any_hit(runs, threshold)
    ]


def any_hit(runs: Sequence[RunView], threshold: float) -> bool:
    """Whether any run has a molecule with R >= threshold."""
    return any(len(first_scorings(run.trace, threshold)) for run in runs)


def yield_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """Hits, scaffolds among them, and the best rewards so far, over the oracle calls."""
    counts = [
        # a run without a single call has no end to which the others could be compared
        yield_curves(run.trace, threshold).groupby("call").last().pipe(_with_calls)
        for run in runs
    ]
    best = [top_curves(run.trace) for run in runs]

    def counted(name: str) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            draw_bands(axes, [curve[name] for curve in counts], methods)
            axes.set_xlabel("oracle calls")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            count_axis(axes.xaxis)
            count_axis(axes.yaxis)

        return on

    def topped(name: str) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            draw_bands(axes, [curve[name] for curve in best], methods)
            axes.set_xlabel("oracle calls")
            axes.set_xlim(left=0)
            count_axis(axes.xaxis)

        return on

    of_hits = [
        ("Yield", f"distinct molecules with R ≥ {threshold:g}", "yield", "molecules"),
        (
            "Scaffold yield",
            "distinct Bemis-Murcko scaffolds among them",
            "scaffold-yield",
            "scaffolds",
        ),
    ]
    shown = of_hits if any_hit(runs, threshold) else []
    return [
        *(Panel(title, note, draw_panel(i, counted(name), WIDE)) for title, note, i, name in shown),
        *(
            Panel(
                f"Top {k}",
                f"mean of the {k} best rewards so far; AUC top-{k} is its mean over the calls",
                draw_panel(f"top-{k}", topped(f"top_{k}"), WIDE),
            )
            for k in TOP
        ),
    ]


def collapse_panels(runs: Sequence[RunView], methods: Methods) -> list[Panel]:
    """How many different molecules and scaffolds the window of each run's alarm holds, and when."""
    settings = [watched(run.manifest) for run in runs]
    window = span([each.window for each in settings], "{:,}".format)
    distinct = {1 - s.duplicate_rate for s in settings if s.duplicate_rate is not None}
    share = {s.top_share for s in settings if s.top_share is not None}
    shown = [
        (
            "late_uniqueness",
            "Distinct in the window",
            f"distinct molecules / the last {window} valid samples; a run with fewer has no line",
            distinct,
        ),
        (
            "late_top_share",
            "Largest scaffold in the window",
            "its share of those samples that have a scaffold",
            share,
        ),
    ]

    def drawn(name: str, limits: set[float]) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            for limit in sorted(limits):
                axes.axhline(limit, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            draw_bands(axes, [_column(run.windows, name) for run in runs], methods)
            axes.set_ylim(0, 1.02)
            percent_axis(axes)
            axes.set_xlim(left=0)
            axes.set_xlabel("valid samples so far")
            count_axis(axes.xaxis)

        return on

    return [
        Panel(title, note, draw_panel(name.replace("_", "-"), drawn(name, limits), WIDE))
        for name, title, note, limits in shown
    ]


def _with_calls(curve: pd.DataFrame) -> pd.DataFrame:
    return curve if curve.index.max() > 0 else curve.iloc[:0]


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(dtype=float)
