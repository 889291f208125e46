"""Curves and intervals: learning, yields, collapse and scaffold ranks; comparisons; entropies."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from chemkl.display import span
from chemkl.reports import figures, view
from chemkl.reports.comparison import set_name
from chemkl.reports.figures import INK, MAX_POINTS, SOFT, STYLE, Panel, colour, dash
from chemkl.reports.view import Methods, RunView
from chemkl.results.inspection import first_scorings
from chemkl.results.outcome import collapse_config

DRAWN_RANKS = 120
"""Ranks are drawn at so many places at most, evenly spread on the logarithmic axis."""
FOREST_COLUMNS = 3
PANEL_WIDTH, ROW_HEIGHT, MARGIN = 3.4, 0.3, 0.95
"""Inches: width of a panel of a forest plot, height of a method in it, and what its title and axis
take beside."""
TITLE_WIDTH = 5.5
"""Inches that the words above the panels need, in two lines."""
ENTROPY_SIZE = (8.6, 3.4)
"""Inches."""
Scale = Literal["", "counts", "percent", "log counts"]


def _band_panel(
    words: tuple[str, str, str],
    curves: Sequence[pd.Series],
    methods: Methods,
    xlabel: str,
    *,
    faint: Sequence[pd.Series] = (),
    size: tuple[float, float] = figures.WIDE,
    left: float | None = 0,
    ylim: tuple[float | None, float | None] = (None, None),
    y: Scale = "",
    log_x: bool = False,
    levels: Collection[float] = (),
    starts: Sequence[Sequence[float]] = (),
) -> Panel:
    """One curve a run, put together by method; the words are name, title and note.

    The `faint` curves, before smoothing, stand behind where a method has one run alone; `levels`
    are lines across; `left` None: where the data begin; `starts` are those of each run's stages.
    """

    def on(axes: Axes) -> None:
        for level in sorted(levels):
            axes.axhline(level, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        _draw_bands(axes, curves, methods, faint)
        for number, members in enumerate(methods.values()):
            for start in sorted({x for member in members if starts for x in starts[member]}):
                axes.axvline(start, color=colour(number), linewidth=0.8, linestyle=":")
        if y == "log counts":
            axes.set_yscale("log")
            _log_counts(axes.yaxis)
        elif y == "percent":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(*ylim)
        axes.set_xlabel(xlabel)
        if log_x:
            axes.set_xscale("log")
            _log_counts(axes.xaxis)
        else:
            axes.set_xlim(left=left)
            figures.count_axis(axes.xaxis)
        if y == "counts":
            figures.count_axis(axes.yaxis)

    name, title, note = words
    note += "; dotted: a stage of the run begins" if any(starts) else ""
    return Panel(title, note, figures.draw_panel(name, on, size))


def _draw_bands(
    axes: Axes, curves: Sequence[pd.Series], methods: Methods, faint: Sequence[pd.Series]
) -> None:
    for number, members in enumerate(methods.values()):
        ink, style = colour(number), dash(number)
        whole = figures.band([curves[member] for member in members], MAX_POINTS)
        if not whole.n:
            continue
        if len(members) == 1 and faint:
            raw = figures.thinned(faint[members[0]].dropna(), MAX_POINTS)
            axes.plot(raw.index, raw, color=ink, alpha=0.22, linewidth=0.8)
        if whole.n > 1:
            edges = whole.low, whole.high
            axes.fill_between(whole.x, *edges, color=ink, alpha=0.16, linewidth=0)
        for tail in whole.tails:
            axes.plot(tail.index, tail, color=ink, linewidth=0.7, alpha=0.6)
        axes.plot(whole.x, whole.mean, color=ink, linestyle=style)


def _log_counts(axis: Axis) -> None:
    axis.set_major_formatter(figures.write_count)
    axis.set_minor_locator(NullLocator())


def learning_panels(
    runs: Sequence[RunView], methods: Methods, threshold: float, smoothing: int
) -> list[Panel]:
    """Reward, hits, novelty, collapse and log-probabilities over the steps."""
    curves = [view.learning_curves(run.trace, threshold) for run in runs]
    shown = (
        ("reward", "Mean reward", "raw R per sample, invalid as 0"),
        ("hit_rate", "Hit rate", f"share of samples with R ≥ {threshold:g}"),
        ("unique_rate", "Unique rate", "valid and new in the run, per sample"),
        ("top_scaffold", "Top scaffold", "share of the step's most frequent scaffold"),
        ("logp_policy", "log π of the policy", "mean per sample, nats"),
        ("logp_ref", "log π of the prior", "mean per sample, nats"),
    )
    panels = []
    for words in shown:
        if words[0] == "hit_rate" and not any_hit(runs, threshold):
            continue
        is_share = words[0] in ("hit_rate", "unique_rate", "top_scaffold")
        raw = [curve[words[0]].astype(float) for curve in curves]
        smooth = [curve.rolling(smoothing, center=True, min_periods=1).mean() for curve in raw]
        look: dict[str, Any] = {"ylim": (0, None), "y": "percent"} if is_share else {}
        look |= {"size": figures.NARROW, "left": None, "faint": raw if smoothing > 1 else ()}
        look["starts"] = [view.stage_starts(run.trace, "step") for run in runs]
        panels.append(_band_panel(words, smooth, methods, "step", **look))
    return panels


def any_hit(runs: Sequence[RunView], threshold: float | None = None) -> bool:
    """Whether any run has a molecule with R >= threshold; without one, any molecule."""
    return any(len(first_scorings(run.trace, threshold)) for run in runs)


def yield_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """Hits, scaffolds among them, and the best rewards so far, over the oracle calls."""
    panels, calls = [], "oracle calls"
    starts = [view.stage_starts(run.trace, "call") for run in runs]
    if any_hit(runs, threshold):
        counts = [view.yield_curves(run.trace, threshold).groupby("call").last() for run in runs]
        # a run without a single call has no end to which the others could be compared
        counts = [curve if curve.index.max() > 0 else curve.iloc[:0] for curve in counts]
        hits = "yield", "Yield", f"distinct molecules with R ≥ {threshold:g}"
        scaffolds = "scaffold-yield", "Scaffold yield", "distinct Bemis-Murcko scaffolds among them"
        for name, words in (("molecules", hits), ("scaffolds", scaffolds)):
            series = [curve[name] for curve in counts]
            look: dict[str, Any] = {"ylim": (0, None), "y": "counts", "starts": starts}
            panels.append(_band_panel(words, series, methods, calls, **look))
    best = [view.top_curves(run.trace) for run in runs]
    for k in view.TOP:
        note = f"mean of the {k} best rewards so far; AUC top-{k} is its mean over the calls"
        series = [curve[f"top_{k}"] for curve in best]
        words = f"top-{k}", f"Top {k}", note
        panels.append(_band_panel(words, series, methods, calls, starts=starts))
    return panels


def collapse_panels(runs: Sequence[RunView], methods: Methods) -> list[Panel]:
    """How many different molecules and scaffolds the window of each run's alarm holds, and when."""
    settings = [collapse_config(run.manifest) for run in runs]
    window = span(setting.window for setting in settings)
    distinct = {1 - s.duplicate_rate for s in settings if s.duplicate_rate is not None}
    share = {s.top_share for s in settings if s.top_share is not None}
    note = f"distinct molecules / the last {window} valid samples; a run with fewer has no line"
    of_share = "its share of those samples that have a scaffold"
    empty = pd.Series(dtype=float)
    look: dict[str, Any] = {"ylim": (0, 1.02), "y": "percent"}
    panels = []
    for name, title, told, levels in (
        ("late_uniqueness", "Distinct in the window", note, distinct),
        ("late_top_share", "Largest scaffold in the window", of_share, share),
    ):
        words = name.replace("_", "-"), title, told
        series = [run.windows.get(name, empty) for run in runs]
        panels.append(
            _band_panel(words, series, methods, "valid samples so far", levels=levels, **look)
        )
    return panels


def rank_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """How the hits spread over scaffolds: sizes by rank, and the share that the largest cover."""
    scaffolds = [first_scorings(run.trace, threshold)["scaffold"] for run in runs]
    sizes = [of_hits[of_hits != ""].value_counts() for of_hits in scaffolds]  # "": acyclic
    furthest = max((len(size) for size in sizes), default=0)
    by_rank = [size_by_rank(size) for size in sizes]
    covered = [covered_by_rank(size, furthest) for size in sizes]
    first = "rank", "Scaffold rank curve", "hits per scaffold, largest scaffold first"
    second = "covered", "Concentration", "share of the hits that the largest scaffolds hold"
    look: dict[str, Any] = {"ylim": (0, 1.02), "y": "percent", "log_x": True}
    return [
        _band_panel(first, by_rank, methods, "rank of the scaffold", y="log counts", log_x=True),
        _band_panel(second, covered, methods, "largest scaffolds", **look),
    ]


def size_by_rank(sizes: pd.Series) -> pd.Series:
    """Hits of the scaffold of each rank, at ranks evenly spread on a logarithmic axis."""
    ranks = _ranks(len(sizes))
    return pd.Series(sizes.to_numpy()[ranks - 1], index=ranks, dtype=float)


def covered_by_rank(sizes: pd.Series, furthest: int) -> pd.Series:
    """Share of the hits that the scaffolds up to each rank hold; 1 beyond the last of them."""
    ranks = _ranks(furthest if len(sizes) else 0)
    share = (sizes.cumsum() / sizes.sum()).to_numpy()
    return pd.Series(share[np.minimum(ranks, len(sizes)) - 1], index=ranks, dtype=float)


def _ranks(n: int) -> np.ndarray:
    """Ranks from 1 to n, each once."""
    return np.unique(np.geomspace(1, n, DRAWN_RANKS).round().astype(int)) if n else np.empty(0, int)


def draw_forest(rows: Sequence[Mapping[str, Any]], confidence: float) -> Figure:
    """Draw a comparison: one panel for each metric and threshold, one line for each method.

    A filled marker: the method is better; a hollow one: not shown, or not resolved; a cross: no
    interval. A method without a difference (nowhere defined) has an empty line.
    """
    panels: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["metric"], row["threshold"]), []).append(row)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    n_columns = min(FOREST_COLUMNS, len(panels))
    n_lines = -(-len(panels) // n_columns)
    height = n_lines * (MARGIN + ROW_HEIGHT * len(methods)) + 0.55
    width = max(n_columns * PANEL_WIDTH + 0.6, TITLE_WIDTH)
    words: dict[str, Any] = {"fontsize": 9, "color": INK, "parse_math": False}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False)
        for axes, ((metric, threshold), members) in zip(grid.flat, panels.items(), strict=False):
            _draw_differences(axes, members, methods)
            axes.set_title(f"{metric}, {set_name(threshold)}", loc="left", **words)
            axes.set_xlabel(f"difference ({members[0]['better']} is better)")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        title = (
            f"Difference to {rows[0]['baseline']}, {100 * confidence:.4g} % interval\n"
            "filled: better, hollow: not shown or not resolved"
        )
        figure.suptitle(title, x=0.01, ha="left", **words)
    return figure


def _draw_differences(
    axes: Axes, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]
) -> None:
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


def draw_entropy(curves: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Draw exact entropies: each method's mean over its seeds, with a band from lowest to highest.

    Left the entropies, with ln K and the reference's as lines across; right the mass. For each name
    of the legend there is a table a seed, as `exact_entropies` makes them; a mean is drawn at the
    steps that all seeds have. Runs with one task share one line across.
    """
    everything = pd.concat([table for seeds in curves.values() for table in seeds])
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=ENTROPY_SIZE, layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, column, title, across in (
            (left, "entropy", "Entropy over the valid answers, nats", ("ln_k", "entropy_ref")),
            (right, "mass", "Probability of a valid answer", ("mass_ref",)),
        ):
            for number, (name, seeds) in enumerate(curves.items()):
                by_seed = [one.set_index("step")[column].rename(i) for i, one in enumerate(seeds)]
                table = pd.concat(by_seed, axis=1, join="inner").dropna().sort_index()
                shade, label = colour(number), name
                if len(seeds) > 1:
                    label = f"{name} (n = {len(seeds)})"
                    edges = table.min(axis=1), table.max(axis=1)
                    axes.fill_between(table.index, *edges, color=shade, alpha=0.18, linewidth=0)
                mean = table.mean(axis=1)
                axes.plot(table.index, mean, color=shade, linestyle=dash(number), label=label)
            for key in across:
                first = "ln K, uniform" if key == "ln_k" else "reference"
                ink, style = (INK, ":") if key == "ln_k" else (SOFT, "--")
                for value in sorted(set(everything[key].dropna().round(3))):
                    axes.axhline(value, color=ink, linestyle=style, linewidth=1.2, label=first)
                    first = ""  # the legend says it once
            axes.set_title(title, loc="left", fontsize=9, color=INK)
            axes.set_xlabel("step")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure
