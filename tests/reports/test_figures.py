import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from chemkl.reports.curves import (
    collapse_panels,
    covered_by_rank,
    learning_panels,
    rank_panels,
    size_by_rank,
    yield_panels,
)
from chemkl.reports.figures import band, colour, dash, inline_svg, write_count
from chemkl.reports.likelihoods import likelihood_panels
from chemkl.reports.molecules import draw_molecule
from chemkl.reports.view import RunView

EACH = {"first": [0], "second": [1]}


@pytest.fixture
def runs(make_trace, real_smiles):
    first = [[(s, 0.9), (s, 0.9)] for s in real_smiles[:20]]
    second = [[("CCO", 0.1), ("nonsense", 0.0)] for _ in range(20)]
    return [RunView("first", make_trace(first)), RunView("second", make_trace(second))]


def all_panels(runs, methods=EACH):
    return [
        *learning_panels(runs, methods, 0.8, smoothing=5),
        *yield_panels(runs, methods, 0.8),
        *collapse_panels(runs, methods),
        *rank_panels(runs, methods, 0.8),
        *likelihood_panels(runs, methods, 0.8, window=10, seed=0),
    ]


def test_panels_are_well_formed_and_stable(runs):
    panels = all_panels(runs)
    assert len(panels) == 6 + 4 + 2 + 2 + 3  # the second run has no hit
    for panel in panels:
        assert ET.fromstring(panel.svg).tag.endswith("svg")
    assert [p.svg for p in panels] == [p.svg for p in all_panels(runs)]
    # no style leaks, and no id occurs twice
    text = "".join(panel.svg for panel in panels)
    assert "<style" not in text
    assert "<metadata" not in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_every_run_has_its_colour_in_every_learning_panel(runs):
    for panel in learning_panels(runs, EACH, 0.8, smoothing=1):
        shown = set(re.findall(r"stroke: (#[0-9a-fA-F]{6})", panel.svg))
        expected = {colour(0)} if panel.title == "Top scaffold" else {colour(0), colour(1)}
        assert {c.lower() for c in expected} <= {c.lower() for c in shown}


@pytest.mark.parametrize(
    ("document", "element"),
    [
        # ids without a reference go, and others are renamed
        (
            '<?xml?><svg><g id="a"/><path id="b"/><use xlink:href="#b" fill="url(#b)"/></svg>',
            '<svg><g/><path id="p-b"/><use xlink:href="#p-b" fill="url(#p-b)"/></svg>',
        ),
        # coordinates are hundredths of a point
        (
            '<svg><path d="M 1.23456 7.1 \nL 2 3.999999 \nz" style="stroke-width: 1.8765"/></svg>',
            '<svg><path d="M1.23 7.1L2 3.99z" style="stroke-width: 1.8765"/></svg>',
        ),
    ],
)
def test_a_drawing_on_a_page(document, element):
    assert inline_svg(document, "p") == element


def test_an_empty_run_is_drawn_as_nothing(make_trace):
    for panel in all_panels([RunView("empty", make_trace([]))], {"empty": [0]}):
        assert panel.svg.startswith("<svg")


def test_methods_of_several_runs_are_drawn_with_a_band(runs):
    (panel, *_) = learning_panels(runs, {"both": [0, 1]}, 0.8, smoothing=1)
    assert len(re.findall(r"fill-opacity: 0.16", panel.svg)) == 1
    (alone, *_) = learning_panels(runs, EACH, 0.8, smoothing=1)
    assert "fill-opacity" not in alone.svg


def line_of(panel, shade):
    """Points of the line in a colour, brought to 0..1 from its first point to its last."""
    (path,) = re.findall(rf'<path d="([^"]*)"[^>]*fill: none; stroke: {shade};', panel.svg)
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float)
    return (points - points[0]) / (points[-1] - points[0])


def test_the_yield_is_drawn_to_scale(runs):
    # the first run finds its hits 1, 2, ..., 20 at the calls 1, 2, ..., 20
    molecules, *_ = yield_panels(runs, EACH, 0.8)
    expected = np.arange(21) / 20
    points = line_of(molecules, colour(0).lower())
    assert points[:, 0] == pytest.approx(expected, abs=1e-3)  # of hundredths of a point
    assert points[:, 1] == pytest.approx(expected, abs=1e-3)


def test_the_collapse_is_drawn_to_scale(runs):
    counts, uniqueness = [10, 20, 30, 40], [1.0, 0.8, 0.9, 0.5]
    windows = pd.DataFrame({"late_uniqueness": uniqueness}, index=counts)
    run = RunView("first", runs[0].trace, windows=windows)
    distinct, top = collapse_panels([run], {"first": [0]})
    points = line_of(distinct, colour(0).lower())
    assert points[:, 0] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)
    assert points[:, 1] == pytest.approx([0, 0.4, 0.2, 1], abs=1e-3)
    assert colour(0).lower() not in top.svg  # no such column


def test_more_runs_than_colours_differ_by_their_dash():
    styles = {(colour(n), dash(n)) for n in range(28)}
    assert len(styles) == 28


def test_a_drawing_is_small_stable_and_has_every_bond():
    drawing = draw_molecule("CC(=O)Nc1ccc(O)cc1")
    assert drawing == draw_molecule("CC(=O)Nc1ccc(O)cc1")
    assert ET.fromstring(drawing).tag.endswith("svg")
    assert len(drawing) < 8_000
    assert drawing.count("<path") >= 11  # bonds, of which the double ones have two lines
    assert draw_molecule("nonsense") == ""


def test_without_a_hit_no_count_of_hits_is_drawn(runs):
    shown = [panel.title for panel in yield_panels(runs, EACH, 0.95)]
    assert shown == ["Top 10", "Top 100"]
    assert "Hit rate" not in [panel.title for panel in learning_panels(runs, EACH, 0.95, 5)]


def test_an_axis_of_counts_has_whole_numbers_only(make_trace):
    one = RunView("one", make_trace([[("CCO", 0.9)] for _ in range(2)]))
    for panel in yield_panels([one], {"one": [0]}, 0.8)[:2]:
        ticks = re.findall(r"<text[^>]*>([^<]*)</text>", panel.svg)
        assert set(ticks) <= {"0", "1", "oracle calls"}
    values = (0.2, 0.0201, 3.0, 1500)
    assert [write_count(value) for value in values] == ["", "", "3", "1.5k"]


@pytest.mark.parametrize(
    ("curves", "x", "mean", "low", "high", "tails"),
    [
        # the first curve is 2 at 1, halfway
        ([{0: 0, 2: 4}, {0: 2, 1: 2, 2: 0}], [0, 1, 2], [1, 2, 2], [0, 2, 0], [2, 2, 4], []),
        # past the shortest run the longer ones go on alone
        (
            *([{0: 1, 1: 1}, {0: 3, 1: 3, 2: 5, 3: 9}], [0, 1], [2, 2], [1, 1], [3, 3]),
            [{1: 3, 2: 5, 3: 9}],
        ),
        # missing values and empty runs are left out
        ([{0: np.nan, 1: 2, 2: 4}, {}], [1, 2], [2, 4], [2, 4], [2, 4], []),
        # runs without a common stretch stand alone
        ([{0: 1, 1: 2}, {5: 1, 6: 2}], [], [], [], [], [{0: 1, 1: 2}, {5: 1, 6: 2}]),
        ([], [], [], [], [], []),
        ([{}], [], [], [], [], []),
    ],
)
def test_mean_and_band_by_hand(curves, x, mean, low, high, tails):
    whole = band([pd.Series(curve, dtype=float) for curve in curves], 100)
    assert [side.tolist() for side in (whole.x, whole.mean, whole.low, whole.high)] == [
        *(x, mean, low, high)
    ]
    assert [tail.to_dict() for tail in whole.tails] == tails
    assert whole.n == sum(bool(curve) for curve in curves)


def test_many_points_are_thinned_to_their_ends():
    long = pd.Series(np.arange(1000.0))
    whole = band([long, long + 2], 50)
    assert len(whole.x) == 50
    assert (whole.x[0], whole.x[-1]) == (0, 999)
    assert whole.mean.tolist() == (whole.x + 1).tolist()


def test_sizes_by_rank_and_what_the_largest_scaffolds_hold():
    assert size_by_rank(pd.Series([9, 4, 1])).to_dict() == {1: 9, 2: 4, 3: 1}
    assert size_by_rank(pd.Series(dtype=int)).empty
    # 6 + 3 + 1 = 10 hits; a run with fewer scaffolds than another is at 1 from its last one on
    covered = covered_by_rank(pd.Series([6, 3, 1]), furthest=5)
    assert covered.to_dict() == {1: 0.6, 2: 0.9, 3: 1, 4: 1, 5: 1}
    assert covered_by_rank(pd.Series(dtype=int), furthest=5).empty
