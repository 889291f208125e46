"""Molecules on the page: scaffolds, families, the table of top molecules, and drawings."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from chemkl.display import MISSING
from chemkl.reports.molecules import DUMBBELL_MARGIN as MARGIN
from chemkl.reports.molecules import DUMBBELL_WIDTH as WIDTH
from chemkl.reports.molecules import (
    SCALE,
    SMALL,
    distinct_molecules,
    draw_molecule,
    draw_thumbnail,
    family_blocks,
    largest_scaffolds,
    mean_shares,
    render_top_table,
    scaffold_blocks,
)
from chemkl.reports.page import different_settings
from chemkl.reports.view import PageOptions, RunView

# ---- families and scaffolds


@pytest.fixture
def families(make_trace):
    names = "family", "prior_share", "policy_share", "n_molecules", "best_reward"
    runs = {
        "a": [("C1CCCCC1", 0.5, 0.8, 3, 0.7), ("C1CCCC1", 0.5, 0.0, 0, float("nan"))],
        "b": [("C1CCCCC1", 0.5, 0.4, 2, 0.9), ("C1CC1", 0.0, 0.6, 1, None)],
        "c": [],
    }
    rows = {name: [dict(zip(names, r, strict=True)) for r in rows] for name, rows in runs.items()}
    return [RunView(name, make_trace([]), families=rows[name]) for name in runs]


def test_shares_are_means_over_the_runs_with_families(families):
    assert [tuple(row.values()) for row in mean_shares(families)] == [
        ("C1CCCCC1", 0.5, pytest.approx(0.6), 5, 0.9),
        ("C1CC1", 0, pytest.approx(0.3), 1, None),
        ("C1CCCC1", 0.25, 0, 0, None),
    ]


def test_dumbbells_are_to_scale(families):
    both, none = family_blocks(families, {"both": [0, 1], "none": [2]}, n=2)
    assert (both["name"], both["before"], both["after"]) == ("both", "2", "2")
    shown = [tuple(r[key] for key in ("family", "before", "after", "best")) for r in both["rows"]]
    assert shown == [("C1CCCCC1", "50.0%", "60.0%", "0.900"), ("C1CC1", "0.0%", "30.0%", "")]
    # the scale ends at the largest share, 60 %
    for row, ends in zip(both["rows"], [(0.5, 0.6), (0.0, 0.3)], strict=True):
        circles = [float(x) for x in re.findall(r'cx="([\d.]+)"', row["dumbbell"])]
        expected = [MARGIN + (WIDTH - 2 * MARGIN) * share / 0.6 for share in ends]
        assert circles == pytest.approx(expected, abs=0.06)  # written with one decimal
    assert none["rows"] == []


@pytest.fixture
def runs(make_trace):
    first = [("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("CCO", 0.99)]
    second = [("Cc1ccccc1", 0.9), ("CCC1CCCCC1", 0.2), ("CCC1CCCCC1", 0.2), ("C1CC", 0.0)]
    configs = [{"seed": 0, "target": {"kind": "mara"}}, {"seed": 1, "target": {"kind": "mara"}}]
    return [
        RunView(name, make_trace([steps]), {"config": config})
        for name, steps, config in zip("ab", (first, second), configs, strict=True)
    ]


def test_scaffolds_of_both_runs_by_hand(runs):
    # distinct: toluene (in both), ethylbenzene, two cyclohexanes; ethanol has no scaffold
    benzene, cyclohexane = largest_scaffolds(runs, 0.8, window=2)
    assert benzene == {"scaffold": "c1ccccc1", "hits": 2, "molecules": 2, "late": 0}
    # the last two valid samples: cyclohexane and ethanol of a, two cyclohexanes of b
    assert cyclohexane == {"scaffold": "C1CCCCC1", "hits": 1, "molecules": 2, "late": 3 / 4}
    # without hits the largest by molecules come first
    no_hits = [row["scaffold"] for row in largest_scaffolds(runs, 2.0, window=2)]
    assert no_hits == ["C1CCCCC1", "c1ccccc1"]
    assert largest_scaffolds([RunView("empty", runs[0].trace[:0])], 0.8, window=2) == []


def test_scaffold_blocks_have_the_best_molecules_first(runs):
    options = PageOptions("t", 0.8, window=2, n_scaffolds=1, n_molecules=1)
    (block,) = scaffold_blocks(runs, {"both": [0, 1]}, options)
    (scaffold,) = block["scaffolds"]
    assert scaffold["late"] == "0.0%"
    (card,) = scaffold["cards"]
    assert (card["smiles"], card["reward"], card["call"]) == ("CCc1ccccc1", "0.950", "2")
    assert card["components"] == [("qed", "0.95")]
    assert card["svg"].startswith("<svg")


def test_different_settings_are_grouped_by_method(runs, make_trace):
    gibbs = RunView("c", make_trace([]), {"config": {"seed": 0, "target": {"kind": "gibbs"}}})
    bare = RunView("d", make_trace([]))
    methods = {"mara": [0, 1], "gibbs": [2], "bare": [3]}
    assert different_settings([*runs, gibbs, bare], methods) == [
        ("seed", ["0, 1", "0", MISSING]),
        ("target.kind", ["mara", "gibbs", MISSING]),
    ]
    assert different_settings(runs[:1], {"mara": [0]}) == []


# ---- the table of top molecules


class TableParser(HTMLParser):
    """The headings, and the cells of the body as (text, exact value)."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.heads, self.in_body, self.cell = [], [], False, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "tbody":
            self.in_body = True
        elif tag == "tr" and self.in_body:
            self.rows.append([])
        elif tag == "th":
            self.heads.append(attributes["data-name"])
        elif tag == "td":
            self.cell = ["", attributes.get("data-v")]

    def handle_data(self, data):
        if self.cell is not None:
            self.cell[0] += data

    def handle_endtag(self, tag):
        if tag == "td":
            self.rows[-1].append(tuple(self.cell))
            self.cell = None


def render(runs, threshold=0.8, n=100):
    return str(render_top_table(runs, threshold, n))


def table(runs, n=100):
    """The rows of the table, each from the name of a column to its text."""
    parser = TableParser(render(runs, n=n))
    return [
        {head: text for head, (text, _) in zip(parser.heads, row, strict=True) if head}
        for row in parser.rows
    ]


@pytest.fixture
def run(make_trace):
    steps = [
        [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
        [("CCc1ccccc1", 0.95), ("CC1CC1", 0.85)],
    ]
    return RunView("first", make_trace(steps))


def test_best_first_with_every_column(run):
    rows = table([run])
    assert [row["smiles"] for row in rows] == ["CCc1ccccc1", "Cc1ccccc1", "CC1CC1", "CCO"]
    assert rows[0] == {
        **{"reward": "0.95", "qed": "0.95", "runs": "first", "call": "3"},
        **{"scaffold": "c1ccccc1", "hits_of_scaffold": "2", "smiles": "CCc1ccccc1"},
        **{"logp_ref": "-30.0", "logp_policy": "-19.0"},
    }
    assert (rows[3]["scaffold"], rows[3]["hits_of_scaffold"]) == ("acyclic", "0")


def test_molecule_of_several_runs_has_one_row_with_the_values_of_the_first(make_trace, run):
    later = [[("CCN", 0.1)], [("CCC", 0.1)], [("CCCC", 0.1)], [("CCc1ccccc1", 0.95)]]
    sooner = [[("c1ccccc1CC", 0.95)]]  # the same molecule, written otherwise
    rows = table([run, RunView("late", make_trace(later)), RunView("soon", make_trace(sooner))])
    assert [row["smiles"] for row in rows].count("CCc1ccccc1") == 1
    # logp_policy is -20 at step 0, where soon found it
    values = [rows[0][name] for name in ("runs", "call", "logp_policy")]
    assert values == ["soon, first, late", "1", "-20.0"]
    # if rewards differ the highest one is shown
    rows = table([run, RunView("other", make_trace([[("CCO", 0.99)]]))])
    values = [rows[0][name] for name in ("smiles", "reward", "runs")]
    assert values == ["CCO", "0.99", "other, first"]


def test_hits_of_a_scaffold_and_the_number_of_rows(make_trace, run):
    second = RunView("second", make_trace([[("CCCc1ccccc1", 0.9), ("Cc1ccccc1", 0.9)]]))
    molecules = distinct_molecules([run, second], 0.8).set_index("canonical_smiles")
    assert molecules.loc["Cc1ccccc1", "hits_of_scaffold"] == 3  # toluene, ethyl-, propylbenzene
    assert len(table([run], n=2)) == 2
    note = "The 2 best of 4 distinct molecules of 1 run, of which 3 are hits (R ≥ 0.8)."
    assert note in render([run], n=2)
    assert "All 4 distinct molecules" in render([run], n=4)


def test_missing_and_rounded_values(make_trace, run):
    run.trace.loc[0, "reward"] = float("nan")
    other = make_trace([[("CCN", 0.5)]]).rename(columns={"raw_qed": "raw_logp"})
    rows = table([run, RunView("other", other)])
    assert (rows[-1]["smiles"], rows[-1]["reward"]) == ("Cc1ccccc1", MISSING)  # comes last
    by_smiles = {row["smiles"]: row for row in rows}
    assert (by_smiles["CCN"]["qed"], by_smiles["CCN"]["logp"]) == (MISSING, "0.5")
    assert by_smiles["CCO"]["logp"] == MISSING
    # rounded numbers keep their exact values
    trace = make_trace([[("CCO", 0.1234567)]])
    trace["call"] = 12345
    parser = TableParser(render([RunView("a", trace)]))
    cells = dict(zip(parser.heads, parser.rows[0], strict=True))
    assert cells["reward"] == ("0.1235", "0.1234567")
    assert cells["call"] == ("12,345", "12345")


def test_names_break_after_underscores_and_are_escaped(make_trace, run):
    page = render([RunView("mara_rloo_seed1", run.trace)])
    assert '<td class="t r">mara_<wbr>rloo_<wbr>seed1</td>' in page
    assert "td.r { overflow-wrap: normal; }" in page
    view = RunView('<b>&"run"', make_trace([[("CCO", 0.5)]]))
    page = render([view])
    assert "<b>" not in page
    assert "<script>" in page
    assert "innerHTML" not in page  # the script writes text only
    assert table([view])[0]["runs"] == '<b>&"run"'


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_without_a_molecule_there_is_a_sentence_and_no_script(make_trace, steps):
    page = render([RunView("empty", make_trace(steps))])
    assert "No molecule was scored." in page
    assert "<table" not in page
    assert "<script" not in page


def test_hundreds_of_rows_are_small_and_reproducible(make_trace, real_smiles):
    view = RunView("a", make_trace([[(smiles, 0.9)] for smiles in real_smiles]))
    page = render([view], n=500)
    assert len(TableParser(page).rows) == len(set(view.trace["canonical_smiles"]))
    assert len(page) / len(real_smiles) * 500 < 1_000_000
    assert page == render([view], n=500)


# ---- drawings


def letters(drawing):
    return "".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))


def lines(drawing):
    """Straight strokes of the drawing: each `l` of a path is one."""
    return sum(path.count("l") for path in re.findall(r' d="([^"]*)"', drawing))


def test_drawings_are_small_reproducible_and_complete(real_smiles):
    for draw in (draw_molecule, draw_thumbnail):
        assert draw("CC(=O)Nc1ccc(O)cc1") == draw("CC(=O)Nc1ccc(O)cc1")
        assert draw("nonsense") == ""
    drawing = draw_molecule("CC(=O)Nc1ccc(O)cc1")
    assert ET.fromstring(drawing).tag.endswith("svg")
    assert len(drawing) < 8_000
    assert drawing.count("<path") >= 11  # bonds, of which the double ones have two lines
    sizes = [len(draw_thumbnail(smiles)) for smiles in real_smiles[:100]]
    assert max(sizes) < 2_000
    assert sum(sizes) / len(sizes) < 1_500


def test_thumbnail_has_every_bond_and_hetero_atom():
    # propane: two single bonds, no label; butadiene: two double bonds of two lines, one single bond
    propane = draw_thumbnail("CCC")
    assert (lines(propane), letters(propane)) == (2, "")
    assert lines(draw_thumbnail("C=CC=C")) == 5
    assert sorted(letters(draw_thumbnail("OC(=O)c1ccncc1Cl"))) == sorted("OHONCl")
    # wedges are filled or dashed
    assert re.search(r'z" fill="#|stroke-width="5"', draw_thumbnail("C[C@H](O)F"))
    assert 'z" fill' not in draw_thumbnail("CC(O)F")


def points_of(path):
    """The points of a path of M and l commands, as absolute coordinates."""
    x, y, points = 0.0, 0.0, []
    for command, dx, dy in re.findall(r"([Ml])(-?\d+)[ ]?(-?\d+)", path):
        origin = (0.0, 0.0) if command == "M" else (x, y)
        x, y = origin[0] + float(dx), origin[1] + float(dy)
        points.append((x, y))
    return points


@pytest.mark.parametrize(
    "smiles",
    ["C", "[Na+].[Cl-]", "C[C@H](O)[13CH3]", "[H][H]", "*c1ccccc1", "N=[N+]=[N-]", "C" * 80],
)
def test_unusual_molecules_are_drawn_inside_the_frame(smiles):
    elements = [*ET.fromstring(draw_thumbnail(smiles)).iter()]
    assert {element.tag for element in elements} <= {"svg", "path", "g", "text"}
    points = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in elements if e.tag == "text"]
    points += [point for e in elements if e.tag == "path" for point in points_of(e.attrib["d"])]
    assert points
    assert all(0 <= x <= SMALL[0] * SCALE and 0 <= y <= SMALL[1] * SCALE for x, y in points)
