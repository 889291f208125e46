import re
from html.parser import HTMLParser

import pytest

from chemkl.reports.molecules import DUMBBELL_MARGIN as MARGIN
from chemkl.reports.molecules import DUMBBELL_WIDTH as WIDTH
from chemkl.reports.molecules import (
    distinct_molecules,
    family_blocks,
    largest_scaffolds,
    mean_shares,
    render_top_table,
    scaffold_blocks,
)
from chemkl.reports.page import different_settings
from chemkl.reports.view import PageOptions, RunView


def row(family, before, after, molecules=1, best=None):
    return {
        "family": family,
        "prior_share": before,
        "policy_share": after,
        "n_molecules": molecules,
        "best_reward": best,
    }


@pytest.fixture
def families(make_trace):
    trace = make_trace([])
    of_runs = [
        [row("C1CCCCC1", 0.5, 0.8, 3, 0.7), row("C1CCCC1", 0.5, 0.0, 0, float("nan"))],
        [row("C1CCCCC1", 0.5, 0.4, 2, 0.9), row("C1CC1", 0.0, 0.6, 1, None)],
        [],
    ]
    return [RunView(str(n), trace, families=rows) for n, rows in enumerate(of_runs)]


def test_shares_are_means_over_the_runs_that_have_families(families):
    shares = mean_shares(families)
    found = {r["family"]: (r["before"], r["after"], r["molecules"], r["best"]) for r in shares}
    assert found["C1CCCCC1"] == pytest.approx((0.5, 0.6, 5, 0.9))
    assert found["C1CC1"] == (0, pytest.approx(0.3), 1, None)
    assert found["C1CCCC1"] == (0.25, 0, 0, None)
    assert [r["family"] for r in shares] == ["C1CCCCC1", "C1CC1", "C1CCCC1"]


def test_dumbbells_are_to_scale(families):
    methods = {"both": [0, 1], "none": [2]}
    both, none = family_blocks(families, methods, n=2)
    assert (both["name"], both["before"], both["after"]) == ("both", "2", "2")
    assert [r["family"] for r in both["rows"]] == ["C1CCCCC1", "C1CC1"]
    assert (both["rows"][0]["before"], both["rows"][0]["after"]) == ("50.0%", "60.0%")
    assert both["rows"][0]["best"] == "0.900"
    assert both["rows"][1]["best"] == ""
    # the scale ends at the largest share, 60 %
    inner = WIDTH - 2 * MARGIN
    for shown, ends in zip(both["rows"], [(0.5, 0.6), (0.0, 0.3)], strict=True):
        circles = [float(x) for x in re.findall(r'cx="([\d.]+)"', shown["dumbbell"])]
        expected = [MARGIN + inner * share / 0.6 for share in ends]
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


def test_counts_over_both_runs_by_hand(runs):
    # distinct: toluene (in both), ethylbenzene, two cyclohexanes; ethanol has no scaffold
    benzene, cyclohexane = largest_scaffolds(runs, 0.8, window=2)
    assert benzene == {"scaffold": "c1ccccc1", "hits": 2, "molecules": 2, "late": 0}
    # the last two valid samples: cyclohexane and ethanol of a, two cyclohexanes of b
    assert cyclohexane == {"scaffold": "C1CCCCC1", "hits": 1, "molecules": 2, "late": 3 / 4}
    # without hits the largest by molecules come first
    no_hits = [row["scaffold"] for row in largest_scaffolds(runs, 2.0, window=2)]
    assert no_hits == ["C1CCCCC1", "c1ccccc1"]
    assert largest_scaffolds([RunView("empty", runs[0].trace[:0])], 0.8, window=2) == []


def test_blocks_have_the_best_molecules_first(runs):
    options = PageOptions("t", 0.8, window=2, n_scaffolds=1, n_molecules=1)
    (block,) = scaffold_blocks(runs, {"both": [0, 1]}, options)
    (scaffold,) = block["scaffolds"]
    assert scaffold["late"] == "0.0%"
    (card,) = scaffold["cards"]
    assert (card["smiles"], card["reward"], card["call"]) == ("CCc1ccccc1", "0.950", "2")
    assert card["components"] == [("qed", "0.95")]
    assert card["svg"].startswith("<svg")


def test_differences_are_gathered_by_method(runs, make_trace):
    other = RunView("c", make_trace([]), {"config": {"seed": 0, "target": {"kind": "gibbs"}}})
    bare = RunView("d", make_trace([]))
    found = different_settings([*runs, other, bare], {"mara": [0, 1], "gibbs": [2], "bare": [3]})
    assert found == [("seed", ["0, 1", "0", "–"]), ("target.kind", ["mara", "gibbs", "–"])]  # noqa: RUF001 - the sign of an empty cell
    assert different_settings(runs[:1], {"mara": [0]}) == []


STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("CCc1ccccc1", 0.95), ("CC1CC1", 0.85)],
]


class Rows(HTMLParser):
    """The cells of the body, each as (text, exact value), and the headings."""

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


def table(runs, threshold=0.8, n=100):
    """The rows of the table, each from the name of a column to its text."""
    read = Rows(str(render_top_table(runs, threshold, n)))
    return [
        {head: text for head, (text, _) in zip(read.heads, row, strict=True) if head}
        for row in read.rows
    ]


@pytest.fixture
def run(make_trace):
    return RunView("first", make_trace(STEPS))


def test_best_first_with_every_column(run):
    rows = table([run])
    assert [row["smiles"] for row in rows] == ["CCc1ccccc1", "Cc1ccccc1", "CC1CC1", "CCO"]
    assert rows[0] == {
        "reward": "0.95",
        "qed": "0.95",
        "runs": "first",
        "call": "3",
        "scaffold": "c1ccccc1",
        "hits_of_scaffold": "2",
        "logp_ref": "-30.0",
        "logp_policy": "-19.0",
        "smiles": "CCc1ccccc1",
    }
    assert rows[3]["scaffold"] == "acyclic"
    assert rows[3]["hits_of_scaffold"] == "0"


def test_a_molecule_of_several_runs_has_one_row_with_the_values_of_the_first_to_find_it(
    make_trace, run
):
    later = [[("CCN", 0.1)], [("CCC", 0.1)], [("CCCC", 0.1)], [("CCc1ccccc1", 0.95)]]
    sooner = [[("c1ccccc1CC", 0.95)]]  # the same molecule, written otherwise
    runs = [run, RunView("late", make_trace(later)), RunView("soon", make_trace(sooner))]
    rows = table(runs)
    assert [row["smiles"] for row in rows].count("CCc1ccccc1") == 1
    assert (rows[0]["runs"], rows[0]["call"]) == ("soon, first, late", "1")
    assert rows[0]["logp_policy"] == "-20.0"  # of step 0, where soon found it


def test_hits_of_a_scaffold_are_counted_once_over_all_runs(make_trace, run):
    other = RunView("other", make_trace([[("CCCc1ccccc1", 0.9), ("Cc1ccccc1", 0.9)]]))
    found = distinct_molecules([run, other], 0.8).set_index("canonical_smiles")
    assert found.loc["Cc1ccccc1", "hits_of_scaffold"] == 3  # toluene, ethyl- and propylbenzene
    # where rewards differ the highest is shown
    rows = table([run, RunView("other", make_trace([[("CCO", 0.99)]]))])
    assert [rows[0][name] for name in ("smiles", "reward", "runs")] == [
        "CCO",
        "0.99",
        "other, first",
    ]


def test_n_limits_the_rows_and_the_note_says_so(run):
    assert len(table([run], n=2)) == 2
    page = str(render_top_table([run], 0.8, 2))
    assert "The 2 best of 4 distinct molecules of 1 run, of which 3 are hits (R ≥ 0.8)." in page
    assert "All 4 distinct molecules" in str(render_top_table([run], 0.8, 4))


def test_components_that_a_run_lacks_are_empty_cells(make_trace, run):
    other = make_trace([[("CCN", 0.5)]]).rename(columns={"raw_qed": "raw_logp"})
    rows = {row["smiles"]: row for row in table([run, RunView("other", other)])}
    assert (rows["CCN"]["qed"], rows["CCN"]["logp"]) == ("–", "0.5")  # noqa: RUF001 - empty cell
    assert rows["CCO"]["logp"] == "–"  # noqa: RUF001 - the sign of an empty cell


def test_shown_numbers_keep_their_exact_values(make_trace):
    trace = make_trace([[("CCO", 0.1234567)]])
    trace["call"] = 12345
    read = Rows(str(render_top_table([RunView("a", trace)], 0.8, 5)))
    cells = dict(zip(read.heads, read.rows[0], strict=True))
    assert cells["reward"] == ("0.1235", "0.1234567")
    assert cells["call"] == ("12,345", "12345")


def test_a_reward_that_is_not_known_comes_last(run):
    run.trace.loc[0, "reward"] = float("nan")
    rows = table([run])
    assert (rows[-1]["smiles"], rows[-1]["reward"]) == ("Cc1ccccc1", "–")  # noqa: RUF001


def test_a_long_name_of_a_run_breaks_behind_its_underscores_alone(make_trace):
    page = str(render_top_table([RunView("mara_rloo_seed1", make_trace(STEPS))], 0.8, 5))
    assert '<td class="t r">mara_<wbr>rloo_<wbr>seed1</td>' in page
    assert "td.r { overflow-wrap: normal; }" in page


def test_names_are_escaped(make_trace):
    view = RunView('<b>&"run"', make_trace([[("CCO", 0.5)]]))
    page = str(render_top_table([view], 0.8, 5))
    assert "<b>" not in page
    assert "<script>" in page
    assert "innerHTML" not in page  # it writes text only
    assert table([view])[0]["runs"] == '<b>&"run"'


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_without_a_molecule_there_is_a_sentence_and_no_script(make_trace, steps):
    page = str(render_top_table([RunView("empty", make_trace(steps))], 0.8, 5))
    assert "No molecule was scored." in page
    assert "<table" not in page
    assert "<script" not in page


def test_hundreds_of_rows_stay_small_and_the_same(make_trace, real_smiles):
    trace = make_trace([[(smiles, 0.9)] for smiles in real_smiles])
    page = str(render_top_table([RunView("a", trace)], 0.8, 500))
    assert len(table([RunView("a", trace)], n=500)) == len(set(trace["canonical_smiles"]))
    assert len(page) / len(real_smiles) * 500 < 1_000_000
    assert page == str(render_top_table([RunView("a", trace)], 0.8, 500))
