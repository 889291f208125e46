"""Figures of runs: aggregation by hand, and positions read off the drawings."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from chemkl.reports import curves as curves_module
from chemkl.reports.curves import (
    axis_limits,
    cloud,
    collapse_panels,
    covered_by_rank,
    draw_entropy,
    learning_panels,
    likelihood_panels,
    rank_panels,
    size_by_rank,
    yield_panels,
)
from chemkl.reports.figures import INK, SOFT, band, colour, dash, inline_svg, write_count
from chemkl.reports.view import RunView

METHODS = {"first": [0], "second": [1]}


@pytest.fixture(scope="module")
def runs(make_trace, real_smiles):
    first = [[(s, 0.9), (s, 0.9)] for s in real_smiles[:20]]
    second = [[("CCO", 0.1), ("nonsense", 0.0)] for _ in range(20)]
    return [RunView("first", make_trace(first)), RunView("second", make_trace(second))]


def all_panels(runs, methods=METHODS):
    return [
        *learning_panels(runs, methods, 0.8, smoothing=5),
        *yield_panels(runs, methods, 0.8),
        *collapse_panels(runs, methods),
        *rank_panels(runs, methods, 0.8),
        *likelihood_panels(runs, methods, 0.8, window=10, seed=0),
    ]


# ---- panels


def test_panels_are_well_formed_and_reproducible(runs, make_trace):
    panels = all_panels(runs)
    assert len(panels) == 6 + 4 + 2 + 2 + 3  # the second run has no hit
    assert all(ET.fromstring(panel.svg).tag.endswith("svg") for panel in panels)
    assert [p.svg for p in panels] == [p.svg for p in all_panels(runs)]
    # styles stay inside, and ids are unique
    text = "".join(panel.svg for panel in panels)
    assert "<style" not in text
    assert "<metadata" not in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    empty = all_panels([RunView("empty", make_trace([]))], {"empty": [0]})
    assert all(panel.svg.startswith("<svg") for panel in empty)


def test_colours_and_bands_of_methods(runs):
    for panel in learning_panels(runs, METHODS, 0.8, smoothing=1):
        strokes = {c.lower() for c in re.findall(r"stroke: (#[0-9a-fA-F]{6})", panel.svg)}
        expected = {colour(0)} if panel.title == "Top scaffold" else {colour(0), colour(1)}
        assert {c.lower() for c in expected} <= strokes
        assert "fill-opacity" not in panel.svg
    (panel, *_) = learning_panels(runs, {"both": [0, 1]}, 0.8, smoothing=1)
    assert len(re.findall(r"fill-opacity: 0.16", panel.svg)) == 1
    assert len({(colour(n), dash(n)) for n in range(28)}) == 28


def test_inline_svg():
    # ids without a reference are dropped, and others are renamed
    document = '<?xml?><svg><g id="a"/><path id="b"/><use xlink:href="#b" fill="url(#b)"/></svg>'
    element = '<svg><g/><path id="p-b"/><use xlink:href="#p-b" fill="url(#p-b)"/></svg>'
    assert inline_svg(document, "p") == element
    # coordinates are hundredths of a point
    style = 'style="stroke-width: 1.8765"/></svg>'
    document = f'<svg><path d="M 1.23456 7.1 \nL 2 3.999999 \nz" {style}'
    assert inline_svg(document, "p") == f'<svg><path d="M1.23 7.1L2 3.99z" {style}'


def line_of(panel, shade):
    """Points of the line in a colour, scaled to 0..1 from its first point to its last."""
    (path,) = re.findall(rf'<path d="([^"]*)"[^>]*fill: none; stroke: {shade};', panel.svg)
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float)
    return (points - points[0]) / (points[-1] - points[0])


def test_yield_and_collapse_are_drawn_to_scale(runs):
    # the first run finds its hits 1, 2, ..., 20 at the calls 1, 2, ..., 20
    molecules, *_ = yield_panels(runs, METHODS, 0.8)
    points = line_of(molecules, colour(0).lower())  # in hundredths of a point
    assert points == pytest.approx(np.stack([np.arange(21) / 20] * 2, axis=1), abs=1e-3)
    windows = pd.DataFrame({"late_uniqueness": [1.0, 0.8, 0.9, 0.5]}, index=[10, 20, 30, 40])
    run = RunView("first", runs[0].trace, windows=windows)
    distinct, top = collapse_panels([run], {"first": [0]})
    points = line_of(distinct, colour(0).lower())
    assert points[:, 0] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)
    assert points[:, 1] == pytest.approx([0, 0.4, 0.2, 1], abs=1e-3)
    assert colour(0).lower() not in top.svg  # no such column


def test_count_axes_have_whole_numbers_and_need_hits(runs, make_trace):
    assert [p.title for p in yield_panels(runs, METHODS, 0.95)] == ["Top 10", "Top 100"]
    assert "Hit rate" not in [p.title for p in learning_panels(runs, METHODS, 0.95, 5)]
    run = RunView("one", make_trace([[("CCO", 0.9)] for _ in range(2)]))
    for panel in yield_panels([run], {"one": [0]}, 0.8)[:2]:
        ticks = re.findall(r"<text[^>]*>([^<]*)</text>", panel.svg)
        assert set(ticks) <= {"0", "1", "oracle calls"}
    assert [write_count(value) for value in (0.2, 0.0201, 3.0, 1500)] == ["", "", "3", "1.5k"]


@pytest.mark.parametrize(
    ("curves", "x", "mean", "low", "high", "tails"),
    [
        # the first curve is 2 at 1, halfway
        ([{0: 0, 2: 4}, {0: 2, 1: 2, 2: 0}], [0, 1, 2], [1, 2, 2], [0, 2, 0], [2, 2, 4], []),
        # beyond the shortest run the longer ones are tails
        (
            *([{0: 1, 1: 1}, {0: 3, 1: 3, 2: 5, 3: 9}], [0, 1], [2, 2], [1, 1], [3, 3]),
            [{1: 3, 2: 5, 3: 9}],
        ),
        # missing values and empty runs are ignored
        ([{0: np.nan, 1: 2, 2: 4}, {}], [1, 2], [2, 4], [2, 4], [2, 4], []),
        # runs without a common range are tails
        ([{0: 1, 1: 2}, {5: 1, 6: 2}], [], [], [], [], [{0: 1, 1: 2}, {5: 1, 6: 2}]),
        ([], [], [], [], [], []),
        ([{}], [], [], [], [], []),
    ],
)
def test_mean_and_band_by_hand(curves, x, mean, low, high, tails):
    result = band([pd.Series(curve, dtype=float) for curve in curves], 100)
    values = [side.tolist() for side in (result.x, result.mean, result.low, result.high)]
    assert values == [x, mean, low, high]
    assert [tail.to_dict() for tail in result.tails] == tails
    assert result.n == sum(bool(curve) for curve in curves)


def test_thinned_bands_and_ranks_of_scaffolds():
    long = pd.Series(np.arange(1000.0))
    result = band([long, long + 2], 50)
    assert (len(result.x), result.x[0], result.x[-1]) == (50, 0, 999)
    assert result.mean.tolist() == (result.x + 1).tolist()
    assert size_by_rank(pd.Series([9, 4, 1])).to_dict() == {1: 9, 2: 4, 3: 1}
    # 6 + 3 + 1 = 10 hits; beyond its last scaffold a run stays at 1
    covered = covered_by_rank(pd.Series([6, 3, 1]), furthest=5)
    assert covered.to_dict() == {1: 0.6, 2: 0.9, 3: 1, 4: 1, 5: 1}
    empty = pd.Series(dtype=int)
    assert size_by_rank(empty).empty
    assert covered_by_rank(empty, furthest=5).empty


# ---- entropies of text runs

NAN = float("nan")


def seed(steps, entropy, mass, *, k=2, entropy_ref=0.325, mass_ref=0.8):
    columns = {"step": steps, "ln_k": math.log(k), "entropy": entropy, "mass": mass}
    return pd.DataFrame(columns | {"entropy_ref": entropy_ref, "mass_ref": mass_ref})


@pytest.fixture
def curves():
    """Three seeds of one method, out of order and with different steps; one run of another."""
    return {
        "mara": [
            seed([0, 20, 10, 30], [0.3, 0.6, 0.5, 0.9], [0.8, 0.9, 0.7, 0.1]),
            seed([0, 10, 20, 40], [0.5, 0.3, 0.7, 0.9], [0.6, 0.7, 1.0, 0.1]),
            seed([0, 10, 20], [1.0, 0.1, 0.2], [0.1, 0.7, 0.8]),
        ],
        "rloo": [seed([0, 10], [0.3, 0.2], [0.8, 0.9])],
    }


def lines_of(axes):
    """The lines of the methods by label as (x, y, line), and the horizontal ones as (y, line)."""
    methods, horizontal = {}, []
    for line in axes.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if len(x) == 2 and (x == [0, 1]).all() and y[0] == y[1]:  # from edge to edge
            horizontal.append((y[0], line))
        else:
            methods[line.get_label()] = (x.tolist(), y.tolist(), line)
    return methods, horizontal


def test_entropy_lines_are_means_at_the_steps_of_all_seeds_with_bands(curves):
    left, right = draw_entropy(curves).axes
    # steps 0, 10, 20 are of all three seeds
    means = {
        left: {"mara (n = 3)": ([0, 10, 20], [0.6, 0.3, 0.5]), "rloo": ([0, 10], [0.3, 0.2])},
        right: {"mara (n = 3)": ([0, 10, 20], [0.5, 0.7, 0.9]), "rloo": ([0, 10], [0.8, 0.9])},
    }
    limits = {
        left: {0: [0.3, 1.0], 10: [0.1, 0.5], 20: [0.2, 0.7]},
        right: {0: [0.1, 0.8], 10: [0.7, 0.7], 20: [0.8, 1.0]},
    }
    for axes, expected in means.items():
        methods, _ = lines_of(axes)
        assert methods.keys() == expected.keys()
        for number, (name, (x, y, line)) in enumerate(methods.items()):
            assert (x, y) == (expected[name][0], pytest.approx(expected[name][1]))
            assert (line.get_color(), line.get_linestyle()) == (colour(number), dash(number))
        (area,) = axes.collections  # the run without a second seed has none
        vertices = area.get_paths()[0].vertices
        assert set(vertices[:, 0]) == set(limits[axes])
        for x, (low, high) in limits[axes].items():
            y = vertices[vertices[:, 0] == x][:, 1]
            assert (y.min(), y.max()) == pytest.approx((low, high))
        assert tuple(area.get_facecolor()[0]) == pytest.approx(to_rgba(colour(0), 0.18))
        assert axes.get_ylim()[0] == 0
    assert right.yaxis.get_major_formatter()(0.5) == "50%"


def test_horizontal_lines_are_ln_k_and_the_reference_of_each_task(curves):
    entropies, masses = (
        [(y, line.get_label(), line.get_linestyle(), line.get_color()) for y, line in horizontal]
        for _, horizontal in map(lines_of, draw_entropy(curves).axes)
    )
    reference = "reference", "--", SOFT
    ln_2 = pytest.approx(math.log(2), abs=5e-4)
    assert entropies == [(ln_2, "ln K, uniform", ":", INK), (0.325, *reference)]
    assert masses == [(0.8, *reference)]
    # tasks of different size have a line each, and one entry in the legend
    two = seed([0, 10], [0.3, 0.6], [0.8, 0.9])
    many = seed([0, 10], [0.9, 2.0], [0.8, 0.9], k=16, entropy_ref=1.2, mass_ref=0.5)
    figure = draw_entropy({"two": [two], "sixteen": [many]})
    entropies, masses = (lines_of(axes)[1] for axes in figure.axes)
    expected = [math.log(2), math.log(16), 0.325, 1.2]
    assert [y for y, _ in entropies] == pytest.approx(expected, abs=5e-4)
    assert [y for y, _ in masses] == [0.5, 0.8]
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["two", "sixteen", "ln K, uniform", "reference"]


def test_steps_without_a_value_and_unknown_references_are_omitted():
    seeds = [
        seed([0, 10, 20], [0.3, NAN, 0.5], [0.8, 0.8, 0.8], entropy_ref=NAN),
        seed([0, 10, 20], [0.1, 0.4, 0.5], [0.8, 0.8, 0.8], entropy_ref=NAN),
    ]
    (entropies, horizontal), (masses, _) = map(lines_of, draw_entropy({"mara": seeds}).axes)
    assert entropies["mara (n = 2)"][:2] == ([0, 20], pytest.approx([0.2, 0.5]))
    assert [line.get_label() for _, line in horizontal] == ["ln K, uniform"]
    assert masses["mara (n = 2)"][0] == [0, 10, 20]


# ---- likelihoods


@pytest.fixture
def run(make_trace, real_smiles):
    """40 molecules: log pi_ref -1, -2, ..., log pi half of it; every tenth an anchor."""
    trace = make_trace([[(s, 0.9 if n % 2 else 0.1)] for n, s in enumerate(real_smiles[:40])])
    trace["logp_ref"] = -1.0 - np.arange(40)
    trace["logp_policy"] = trace["logp_ref"] / 2
    trace["anchor"] = np.arange(40) % 10 == 1
    return RunView("one", trace, {"config": {"target": {"kind": "mara", "tau": 0.7}}})


def test_cloud_by_hand(run):
    data = cloud([run], 0.8, window=12)
    assert len(data.hits) == len(data.misses) == 20
    assert data.anchors["logp_ref"].tolist() == [-2, -12, -22, -32]
    assert data.early.tolist() == [-1.0 - n for n in range(12)]
    assert data.late.tolist() == [-1.0 - n for n in range(28, 40)]
    assert data.late_hits["logp_ref"].tolist() == [-30, -32, -34, -36, -38, -40]
    assert data.slope == pytest.approx(0.5)
    assert data.taus == [0.7]
    # a molecule of two runs is one dot, but their samples all count
    both = cloud([run, RunView("two", run.trace.copy(), run.manifest)], 0.8, window=12)
    assert len(both.hits) == len(both.misses) == 20
    assert len(both.early) == len(both.late) == 24
    # early and late samples do not overlap
    halves = cloud([run], 0.8, window=1000)
    assert len(halves.early) == len(halves.late) == 20
    assert not set(halves.early) & set(halves.late)
    # replayed rows are neither samples nor anchors
    run.trace.loc[[1, 3], "is_replay"] = True
    data = cloud([run], 0.8, window=10)
    assert len(data.hits) == 18
    assert data.anchors["logp_ref"].tolist() == [-12, -22, -32]


def dots_of(panel):
    """The points of each path of dots."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke-linecap: round', panel.svg)
    dots = [np.array(re.findall(r"M([\d.]+) ([\d.]+)", path), dtype=float) for path in paths]
    return sorted(dots, key=len)[-2:]


def test_all_dots_and_anchors_are_drawn_or_a_sample_of_many(run, monkeypatch):
    reward, policy = likelihood_panels([run], {"one": [0]}, 0.8, window=10, seed=0)
    assert list(map(len, dots_of(reward))) == [20, 20]  # hits and misses
    pattern = r"stroke-width: 0.7[^\"]*\"/>\s*</defs>\s*<g[^>]*>(.*?)</g>"
    rings = re.search(pattern, reward.svg, re.S)
    assert rings is not None
    assert rings[1].count("<use") == 4
    assert "40 distinct molecules, 20 of them hits" in reward.note
    assert "4 anchors (rings)" in reward.note
    assert "slope 0.50" in policy.note
    assert "τ 0.7" in reward.svg
    assert "hit 0.8" in reward.svg
    dots = dots_of(reward)
    monkeypatch.setattr(curves_module, "DOTS", 7)
    reward, _ = likelihood_panels([run], {"one": [0]}, 0.8, window=10, seed=0)
    assert list(map(len, dots_of(reward))) == [7, 7]
    assert "4 anchors" in reward.note
    # dots are to scale
    misses, hits = dots
    # log pi_ref -1, -3, ... of the misses and -2, -4, ... of the hits, from right to left
    step = np.diff(misses[:, 0])
    assert step == pytest.approx(np.full(19, misses[1, 0] - misses[0, 0]), abs=0.02)
    assert hits[:, 0] == pytest.approx(misses[:, 0] + step.mean() / 2, abs=0.02)
    assert len(set(misses[:, 1])) == len(set(hits[:, 1])) == 1
    assert hits[0, 1] < misses[0, 1]  # SVG counts from the top


def test_runs_of_few_samples_have_no_slope(make_trace):
    for steps, policy_notes in (
        ([], []),
        ([[("C1CC", 0.0)]], []),
        ([[("CCO", 0.9)]], []),  # its only sample is neither early nor late
        ([[("CCO", 0.9), ("CC", 0.9)]], ["too few for a slope"]),
    ):
        views = [RunView("run", make_trace(steps))]
        assert cloud(views, 0.8, window=10).slope is None
        reward, *policy = likelihood_panels(views, {"run": [0]}, 0.8, window=10, seed=0)
        assert "no anchors" in reward.note
        assert all(text in p.note for text, p in zip(policy_notes, policy, strict=True))


def test_panels_share_axes_that_exclude_only_the_lowest_values(run, make_trace):
    short = RunView("short", make_trace([[("CCO", 0.9)]]))
    panels = likelihood_panels([run, short], {"a": [0], "b": [1]}, 0.8, window=10, seed=0)
    ticks = [re.findall(r"<text[^>]*>([^<]*)</text>", panel.svg) for panel in panels]
    assert ticks[0][:5] == ticks[2][:5]
    low, high = axis_limits([pd.Series([*np.arange(10_000.0), -1e6])])
    assert -500 < low < 0
    assert high > 9_999
    assert axis_limits([pd.Series(dtype=float)]) == (0, 1)
