import re
import xml.etree.ElementTree as ET

import pytest

from chemkl.reports.drawings import draw_molecule
from chemkl.reports.figures import (
    MAX_POINTS,
    colour,
    dash,
    drawn_points,
    inline_svg,
    learning_panels,
    rank_panels,
    yield_panels,
)
from chemkl.reports.view import RunView


@pytest.fixture
def runs(make_trace, real_smiles):
    first = [[(s, 0.9), (s, 0.9)] for s in real_smiles[:20]]
    second = [[("CCO", 0.1), ("nonsense", 0.0)] for _ in range(20)]
    return [RunView("first", make_trace(first)), RunView("second", make_trace(second))]


def all_panels(runs):
    return [
        *learning_panels(runs, 0.8, smoothing=5),
        *yield_panels(runs, 0.8),
        *rank_panels(runs, 0.8),
    ]


def test_panels_are_well_formed_and_stable(runs):
    panels = all_panels(runs)
    assert len(panels) == 10
    for panel in panels:
        assert ET.fromstring(panel.svg).tag.endswith("svg")
    assert [p.svg for p in panels] == [p.svg for p in all_panels(runs)]


def test_every_run_has_its_colour_in_every_learning_panel(runs):
    for panel in learning_panels(runs, 0.8, smoothing=1):
        shown = set(re.findall(r"stroke: (#[0-9a-fA-F]{6})", panel.svg))
        expected = {colour(0)} if panel.title == "Top scaffold" else {colour(0), colour(1)}
        assert {c.lower() for c in expected} <= {c.lower() for c in shown}


def test_no_style_leaks_and_no_id_occurs_twice(runs):
    text = "".join(panel.svg for panel in all_panels(runs))
    assert "<style" not in text
    assert "<metadata" not in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_ids_without_a_reference_go_and_others_are_renamed():
    document = '<?xml?><svg><g id="a"/><path id="b"/><use xlink:href="#b" fill="url(#b)"/></svg>'
    assert inline_svg(document, "p") == (
        '<svg><g/><path id="p-b"/><use xlink:href="#p-b" fill="url(#p-b)"/></svg>'
    )


def test_an_empty_run_is_drawn_as_nothing(make_trace):
    for panel in all_panels([RunView("empty", make_trace([]))]):
        assert panel.svg.startswith("<svg")


def test_more_runs_than_colours_differ_by_their_dash():
    styles = {(colour(n), dash(n)) for n in range(28)}
    assert len(styles) == 28


def test_long_lines_are_thinned_to_their_ends():
    points = drawn_points(10_000)
    assert len(points) == MAX_POINTS
    assert (points[0], points[-1]) == (0, 9_999)
    assert list(drawn_points(3)) == [0, 1, 2]
    assert len(drawn_points(0)) == 0


def test_a_drawing_is_small_stable_and_has_every_bond():
    drawing = draw_molecule("CC(=O)Nc1ccc(O)cc1")
    assert drawing == draw_molecule("CC(=O)Nc1ccc(O)cc1")
    assert ET.fromstring(drawing).tag.endswith("svg")
    assert len(drawing) < 8_000
    assert drawing.count("<path") >= 11  # bonds, of which the double ones have two lines
    assert draw_molecule("nonsense") == ""
