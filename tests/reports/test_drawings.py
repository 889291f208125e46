import re
import xml.etree.ElementTree as ET

import pytest

from chemkl.reports.molecules import SCALE, SMALL, draw_thumbnail


def letters(drawing):
    return "".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))


def lines(drawing):
    """Straight strokes of the drawing: each `l` of a path is one."""
    return sum(path.count("l") for path in re.findall(r' d="([^"]*)"', drawing))


def test_a_drawing_of_a_drug_takes_less_than_two_kilobytes(real_smiles):
    sizes = [len(draw_thumbnail(smiles)) for smiles in real_smiles[:100]]
    assert max(sizes) < 2_000
    assert sum(sizes) / len(sizes) < 1_500


def test_every_bond_and_hetero_atom_is_drawn():
    # propane: two single bonds, no label; butadiene: two double bonds of two lines, one single bond
    assert (lines(draw_thumbnail("CCC")), letters(draw_thumbnail("CCC"))) == (2, "")
    assert lines(draw_thumbnail("C=CC=C")) == 5
    assert sorted(letters(draw_thumbnail("OC(=O)c1ccncc1Cl"))) == sorted("OHONCl")


@pytest.mark.parametrize(
    "smiles",
    ["C", "[Na+].[Cl-]", "C[C@H](O)[13CH3]", "[H][H]", "*c1ccccc1", "N=[N+]=[N-]", "C" * 80],
)
def test_odd_molecules_are_drawn_inside_the_frame(smiles):
    drawing = ET.fromstring(draw_thumbnail(smiles))
    assert {each.tag for each in drawing.iter()} <= {"svg", "path", "g", "text"}
    texts = [each for each in drawing.iter() if each.tag == "text"]
    points = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in texts]
    for path in drawing.iter("path"):
        points += ends(path.attrib["d"])
    assert points
    assert all(0 <= x <= SMALL[0] * SCALE and 0 <= y <= SMALL[1] * SCALE for x, y in points)


def ends(path):
    """The points that a path of M and l commands goes through, added up from its start."""
    here, points = (0.0, 0.0), []
    for command, x, y in re.findall(r"([Ml])(-?\d+)[ ]?(-?\d+)", path):
        at = (float(x), float(y))
        here = at if command == "M" else (here[0] + at[0], here[1] + at[1])
        points.append(here)
    return points


def test_a_wedge_is_filled_and_points_from_its_stereocentre():
    drawing = draw_thumbnail("C[C@H](O)F")
    assert re.search(r'z" fill="#', drawing) or 'stroke-width="5"' in drawing  # solid or dashed
    assert 'z" fill' not in draw_thumbnail("CC(O)F")


def test_stable_and_empty_where_there_is_no_molecule():
    assert draw_thumbnail("CCO") == draw_thumbnail("CCO")
    assert draw_thumbnail("nonsense") == ""
