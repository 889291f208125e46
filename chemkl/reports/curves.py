"""Figures of runs: learning, yield, collapse and scaffold rank curves, entropies, likelihoods."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from scipy import stats

from chemkl.display import span
from chemkl.reports import figures, view
from chemkl.reports.figures import (
    INK,
    MAX_POINTS,
    SOFT,
    STYLE,
    WIDE,
    Panel,
    colour,
    dash,
    draw_panel,
)
from chemkl.reports.view import Methods, RunView
from chemkl.results.inspection import by_final_reward, first_scorings, sampled_rows, valid_rows
from chemkl.results.outcome import collapse_config
from chemkl.results.provenance import tau_of

MAX_RANKS = 120
"""Maximum ranks drawn, evenly spaced on the logarithmic axis."""
ENTROPY_SIZE = (8.6, 3.4)
"""Inches."""
DOTS = 1500
"""Maximum molecules of each kind in a panel, chosen at random; all anchors are drawn."""
OUTSIDE = 0.002
"""Share of the molecules, the least likely ones, that may lie left of a panel."""
HISTOGRAM_HEIGHT = 0.5
"""Inches of the histogram above a panel."""
_DASHED = (0, (4, 3))
Look = dict[str, Any]
Draw = Callable[[Axes, "Cloud", str, np.random.Generator], None]
Scale = Literal["", "counts", "percent", "log counts"]


def _band_panel(
    texts: tuple[str, str, str],
    curves: Sequence[pd.Series],
    methods: Methods,
    xlabel: str,
    *,
    faint: Sequence[pd.Series] = (),
    size: tuple[float, float] = WIDE,
    left: float | None = 0,
    ylim: tuple[float | None, float | None] = (None, None),
    y: Scale = "",
    log_x: bool = False,
    levels: Collection[float] = (),
    starts: Sequence[Sequence[float]] = (),
) -> Panel:
    """Draw one curve per run, aggregated by method; `texts` are name, title and note.

    `faint` are the curves before smoothing, drawn behind those of methods with a single run;
    `levels` are horizontal lines; `left` None starts the axis at the data; `starts` has the
    positions at which the stages of each run begin.
    """

    def draw(axes: Axes) -> None:
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

    name, title, note = texts
    note += "; dotted: a stage of the run begins" if any(starts) else ""
    return Panel(title, note, draw_panel(name, draw, size))


def _draw_bands(
    axes: Axes, curves: Sequence[pd.Series], methods: Methods, faint: Sequence[pd.Series]
) -> None:
    for number, members in enumerate(methods.values()):
        ink, style = colour(number), dash(number)
        band = figures.band([curves[member] for member in members], MAX_POINTS)
        if not band.n:
            continue
        if len(members) == 1 and faint:
            raw = figures.thinned(faint[members[0]].dropna(), MAX_POINTS)
            axes.plot(raw.index, raw, color=ink, alpha=0.22, linewidth=0.8)
        if band.n > 1:
            axes.fill_between(band.x, band.low, band.high, color=ink, alpha=0.16, linewidth=0)
        for tail in band.tails:
            axes.plot(tail.index, tail, color=ink, linewidth=0.7, alpha=0.6)
        axes.plot(band.x, band.mean, color=ink, linestyle=style)


def _log_counts(axis: Axis) -> None:
    axis.set_major_formatter(figures.write_count)
    axis.set_minor_locator(NullLocator())


def learning_panels(
    runs: Sequence[RunView], methods: Methods, threshold: float, smoothing: int
) -> list[Panel]:
    """Draw reward, hit rate, uniqueness, top scaffold and log-probabilities over the steps."""
    curves = [view.learning_curves(run.trace, threshold) for run in runs]
    kinds = (
        ("reward", "Mean reward", "raw R per sample, invalid as 0"),
        ("hit_rate", "Hit rate", f"share of samples with R ≥ {threshold:g}"),
        ("unique_rate", "Unique rate", "valid and new in the run, per sample"),
        ("top_scaffold", "Top scaffold", "share of the step's most frequent scaffold"),
        ("logp_policy", "log π of the policy", "mean per sample, nats"),
        ("logp_ref", "log π of the prior", "mean per sample, nats"),
    )
    panels = []
    for texts in kinds:
        name = texts[0]
        if name == "hit_rate" and not any_hit(runs, threshold):
            continue
        is_share = name in ("hit_rate", "unique_rate", "top_scaffold")
        raw = [curve[name].astype(float) for curve in curves]
        smooth = [curve.rolling(smoothing, center=True, min_periods=1).mean() for curve in raw]
        look: dict[str, Any] = {"ylim": (0, None), "y": "percent"} if is_share else {}
        look |= {"size": figures.NARROW, "left": None, "faint": raw if smoothing > 1 else ()}
        look["starts"] = [view.stage_starts(run.trace, "step") for run in runs]
        panels.append(_band_panel(texts, smooth, methods, "step", **look))
    return panels


def any_hit(runs: Sequence[RunView], threshold: float | None = None) -> bool:
    """Whether any run has a molecule with R >= threshold, or any molecule if that is None."""
    return any(len(first_scorings(run.trace, threshold)) for run in runs)


def yield_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """Draw hits, scaffolds among them and the best rewards so far over the oracle calls."""
    panels, calls = [], "oracle calls"
    starts = [view.stage_starts(run.trace, "call") for run in runs]
    if any_hit(runs, threshold):
        counts = [view.yield_curves(run.trace, threshold).groupby("call").last() for run in runs]
        # a run without a call would end the band at 0
        counts = [curve if curve.index.max() > 0 else curve.iloc[:0] for curve in counts]
        hits = "yield", "Yield", f"distinct molecules with R ≥ {threshold:g}"
        scaffolds = "scaffold-yield", "Scaffold yield", "distinct Bemis-Murcko scaffolds among them"
        for name, texts in (("molecules", hits), ("scaffolds", scaffolds)):
            series = [curve[name] for curve in counts]
            look: dict[str, Any] = {"ylim": (0, None), "y": "counts", "starts": starts}
            panels.append(_band_panel(texts, series, methods, calls, **look))
    best = [view.top_curves(run.trace) for run in runs]
    for k in view.TOP:
        note = f"mean of the {k} best rewards so far; AUC top-{k} is its mean over the calls"
        series = [curve[f"top_{k}"] for curve in best]
        texts = f"top-{k}", f"Top {k}", note
        panels.append(_band_panel(texts, series, methods, calls, starts=starts))
    return panels


def collapse_panels(runs: Sequence[RunView], methods: Methods) -> list[Panel]:
    """Draw uniqueness and top scaffold share in the window of each run's collapse alarm."""
    settings = [collapse_config(run.manifest) for run in runs]
    window = span(setting.window for setting in settings)
    distinct = {1 - s.duplicate_rate for s in settings if s.duplicate_rate is not None}
    share = {s.top_share for s in settings if s.top_share is not None}
    note = f"distinct molecules / the last {window} valid samples; a run with fewer has no line"
    share_note = "its share of those samples that have a scaffold"
    empty = pd.Series(dtype=float)
    look: dict[str, Any] = {"ylim": (0, 1.02), "y": "percent"}
    panels = []
    for name, title, text, levels in (
        ("late_uniqueness", "Distinct in the window", note, distinct),
        ("late_top_share", "Largest scaffold in the window", share_note, share),
    ):
        texts = name.replace("_", "-"), title, text
        series = [run.windows.get(name, empty) for run in runs]
        panels.append(
            _band_panel(texts, series, methods, "valid samples so far", levels=levels, **look)
        )
    return panels


def rank_panels(runs: Sequence[RunView], methods: Methods, threshold: float) -> list[Panel]:
    """Draw the distribution of hits over scaffolds: sizes by rank, and cumulative shares."""
    scaffolds = [first_scorings(run.trace, threshold)["scaffold"] for run in runs]
    sizes = [of_hits[of_hits != ""].value_counts() for of_hits in scaffolds]  # "": acyclic
    furthest = max((len(size) for size in sizes), default=0)
    by_rank = [size_by_rank(size) for size in sizes]
    covered = [covered_by_rank(size, furthest) for size in sizes]
    first = "rank", "Scaffold rank curve", "hits per scaffold, largest scaffold first"
    second = "covered", "Concentration", "share of the hits on the largest scaffolds"
    look: dict[str, Any] = {"ylim": (0, 1.02), "y": "percent", "log_x": True}
    return [
        _band_panel(first, by_rank, methods, "rank of the scaffold", y="log counts", log_x=True),
        _band_panel(second, covered, methods, "largest scaffolds", **look),
    ]


def size_by_rank(sizes: pd.Series) -> pd.Series:
    """Return the hits per scaffold by rank, at ranks evenly spaced on a logarithmic axis."""
    ranks = _ranks(len(sizes))
    return pd.Series(sizes.to_numpy()[ranks - 1], index=ranks, dtype=float)


def covered_by_rank(sizes: pd.Series, furthest: int) -> pd.Series:
    """Return the share of the hits on the scaffolds up to each rank; 1 beyond the last rank."""
    ranks = _ranks(furthest if len(sizes) else 0)
    share = (sizes.cumsum() / sizes.sum()).to_numpy()
    return pd.Series(share[np.minimum(ranks, len(sizes)) - 1], index=ranks, dtype=float)


def _ranks(n: int) -> np.ndarray:
    """Return distinct ranks from 1 to n."""
    return np.unique(np.geomspace(1, n, MAX_RANKS).round().astype(int)) if n else np.empty(0, int)


def draw_entropy(curves: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Draw exact entropies: each method's mean over its seeds, with a band from lowest to highest.

    The left panel has the entropies, with ln K and the reference's entropy as horizontal lines, the
    right one the mass. `curves` has for each method a table per seed, as made by `exact_entropies`;
    the mean is drawn at the steps that all seeds have. Runs with the same task share the lines.
    """
    all_tables = pd.concat([table for seeds in curves.values() for table in seeds])
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=ENTROPY_SIZE, layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, column, title, across in (
            (left, "entropy", "Entropy over the valid answers, nats", ("ln_k", "entropy_ref")),
            (right, "mass", "Probability of a valid answer", ("mass_ref",)),
        ):
            for number, (name, seeds) in enumerate(curves.items()):
                by_seed = [t.set_index("step")[column].rename(i) for i, t in enumerate(seeds)]
                table = pd.concat(by_seed, axis=1, join="inner").dropna().sort_index()
                shade, label = colour(number), name
                if len(seeds) > 1:
                    label = f"{name} (n = {len(seeds)})"
                    edges = table.min(axis=1), table.max(axis=1)
                    axes.fill_between(table.index, *edges, color=shade, alpha=0.18, linewidth=0)
                mean = table.mean(axis=1)
                axes.plot(table.index, mean, color=shade, linestyle=dash(number), label=label)
            for key in across:
                label = "ln K, uniform" if key == "ln_k" else "reference"
                ink, style = (INK, ":") if key == "ln_k" else (SOFT, "--")
                for value in sorted(set(all_tables[key].dropna().round(3))):
                    axes.axhline(value, color=ink, linestyle=style, linewidth=1.2, label=label)
                    label = ""  # one entry in the legend
            axes.set_title(title, loc="left", fontsize=9, color=INK)
            axes.set_xlabel("step")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


# ---- likelihoods under prior and policy


@dataclass(frozen=True)
class Cloud:
    """The data of one method's likelihood panels: distinct molecules and their log pi_ref."""

    misses: pd.DataFrame
    hits: pd.DataFrame
    anchors: pd.DataFrame  # molecules that were the anchor of a batch
    early: np.ndarray  # log pi_ref of the first valid samples of each run, repeats included
    late: np.ndarray  # log pi_ref of the last valid samples
    late_hits: pd.DataFrame  # distinct hits among these; columns logp_ref, logp_policy
    taus: Sequence[float]  # distinct tau of the runs' targets

    @property
    def slope(self) -> float | None:
        """Least-squares slope of log pi_policy over log pi_ref for the late hits, if these vary."""
        x, y = self.late_hits["logp_ref"], self.late_hits["logp_policy"]
        return float(stats.linregress(x, y).slope) if x.nunique() > 1 else None


def cloud(runs: Sequence[RunView], threshold: float, window: int) -> Cloud:
    """Collect the samples of the runs of one method."""

    def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """Concatenate tables, without empty ones, which would change the column types."""
        frames = list(frames)
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    scored = joined(first_scorings(run.trace) for run in runs)
    scored = scored.drop_duplicates("canonical_smiles")  # several runs may have the same molecule
    sampled = [sampled_rows(run.trace) for run in runs]
    anchors = joined(rows[rows["anchor"].astype(bool)] for rows in sampled)
    # at most half of the rows, so that early and late samples do not overlap
    valid = [(rows, min(window, len(rows) // 2)) for rows in (valid_rows(r.trace) for r in runs)]
    early, late = joined(r.head(n) for r, n in valid), joined(r.tail(n) for r, n in valid)
    late_scored = by_final_reward(late)
    late_hits = late_scored[late_scored["reward"] >= threshold]
    taus = {tau_of(run.manifest.get("config", {})) for run in runs}
    return Cloud(
        misses=scored[scored["reward"] < threshold],
        hits=scored[scored["reward"] >= threshold],
        anchors=anchors.drop_duplicates("canonical_smiles"),
        early=early["logp_ref"].to_numpy(dtype=float),
        late=late["logp_ref"].to_numpy(dtype=float),
        late_hits=late_hits.drop_duplicates("canonical_smiles", keep="last"),
        taus=sorted(tau for tau in taus if tau),
    )


def likelihood_panels(
    runs: Sequence[RunView], methods: Methods, threshold: float, window: int, seed: int
) -> list[Panel]:
    """Draw two panels per method over log pi_ref: the reward, and log pi of the policy.

    The second panel shows the hits among the last samples, and is omitted without one. The first
    and last `window` valid samples represent the beginning and the end of a run. All panels have
    the same axes.
    """
    clouds = [cloud([runs[m] for m in members], threshold, window) for members in methods.values()]
    x, rewards = (
        axis_limits(frame[column] for c in clouds for frame in (c.misses, c.hits))
        for column in ("logp_ref", "reward")
    )
    policies = axis_limits(c.late_hits["logp_policy"] for c in clouds)

    def of_method(number: int, name: str, data: Cloud) -> Iterator[Panel]:
        rng = np.random.default_rng(seed)

        def panel(kind: str, y: tuple[float, float], draw: Draw, note: str, above: float) -> Panel:
            def draw_all(axes: Axes) -> None:
                axes.set_xlim(*x)
                axes.set_ylim(*y)
                axes.set_xlabel("log π of the prior, nats")
                axes.yaxis.set_major_locator(MaxNLocator(5))
                draw(axes, data, colour(number), rng)

            size = WIDE[0], WIDE[1] + HISTOGRAM_HEIGHT
            svg = draw_panel(f"{kind}-{number + 1}", draw_all, size, above=above)
            return Panel(f"{name}: {kind}", note, svg)

        n_hits, n_anchors = len(data.hits), len(data.anchors)
        anchors = f"{n_anchors:,} anchors (rings)" if n_anchors else "no anchors"
        note = (
            f"R of {n_hits + len(data.misses):,} distinct molecules, {n_hits:,} of them hits (in "
            f"colour); {anchors}"
        )
        yield panel("reward", rewards, partial(_draw_rewards, threshold), note, HISTOGRAM_HEIGHT)
        if len(data.late_hits):
            slope = "too few for a slope" if data.slope is None else f"slope {data.slope:.2f}"
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
        axes.text(1.0, value, f"{label} {value:g} ", ha="right", fontsize=7.5, color=INK, **place)
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


def axis_limits(values: Iterable[pd.Series]) -> tuple[float, float]:
    """Return axis limits that contain all values but the lowest `OUTSIDE`, with a margin."""
    columns = [column.dropna().to_numpy(dtype=float) for column in values]
    numbers = np.concatenate([np.empty(0), *columns])
    if not len(numbers):
        return 0.0, 1.0
    low, high = float(np.quantile(numbers, OUTSIDE)), float(numbers.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _dots(
    axes: Axes, frame: pd.DataFrame, y: str, shade: str, opacity: float, rng: np.random.Generator
) -> None:
    """Draw dots as one path of zero-length strokes: a fifth of the bytes of markers."""
    if len(frame) > DOTS:
        frame = frame.iloc[np.sort(rng.choice(len(frame), DOTS, replace=False))]
    points = frame[["logp_ref", y]].to_numpy(dtype=float)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points)).astype(Path.code_type)
    path = Path(points.repeat(2, axis=0), codes)
    look: Look = {"linewidth": 2.7, "alpha": opacity}
    axes.add_patch(PathPatch(path, fill=False, color=shade, capstyle="round", **look))


def _histogram(axes: Axes, data: Cloud, shade: str) -> None:
    """Draw the distribution of the early (grey) and the late samples above the panel."""
    box = axes.get_position()
    height = HISTOGRAM_HEIGHT / (WIDE[1] + HISTOGRAM_HEIGHT) * 0.86
    top = axes.figure.add_axes((box.x0, box.y1 + 0.012, box.width, height), sharex=axes)
    top.set_axis_off()
    edges = np.linspace(*axes.get_xlim(), 60)
    early: Look = {"color": SOFT, "fill": True, "alpha": 0.45}
    late: Look = {"color": shade, "alpha": 1}
    for values, look in ((data.early, early), (data.late, late)):
        if len(values):
            counts, _ = np.histogram(values, edges)
            top.stairs(counts / len(values), edges, linewidth=1.3, **look)
    top.set_ylim(bottom=0)
