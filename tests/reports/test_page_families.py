import re

import pytest

from chemkl.reports.families import MARGIN, WIDTH, family_blocks, mean_shares
from chemkl.reports.view import RunView


def row(family, before, after, molecules=1, best=None):
    return {
        "family": family,
        "prior_share": before,
        "policy_share": after,
        "n_molecules": molecules,
        "best_reward": best,
    }


@pytest.fixture
def runs(make_trace):
    trace = make_trace([])
    of_runs = [
        [row("C1CCCCC1", 0.5, 0.8, 3, 0.7), row("C1CCCC1", 0.5, 0.0, 0, float("nan"))],
        [row("C1CCCCC1", 0.5, 0.4, 2, 0.9), row("C1CC1", 0.0, 0.6, 1, None)],
        [],
    ]
    return [RunView(str(n), trace, families=rows) for n, rows in enumerate(of_runs)]


def test_shares_are_means_over_the_runs_that_have_families(runs):
    shares = mean_shares(runs)
    found = {r["family"]: (r["before"], r["after"], r["molecules"], r["best"]) for r in shares}
    assert found["C1CCCCC1"] == pytest.approx((0.5, 0.6, 5, 0.9))
    assert found["C1CC1"] == (0, pytest.approx(0.3), 1, None)
    assert found["C1CCCC1"] == (0.25, 0, 0, None)
    assert [r["family"] for r in shares] == ["C1CCCCC1", "C1CC1", "C1CCCC1"]


def test_dumbbells_are_to_scale(runs):
    methods = {"both": [0, 1], "none": [2]}
    both, none = family_blocks(runs, methods, n=2)
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


def test_without_any_family_there_are_no_rows(runs):
    (block,) = family_blocks(runs, {"none": [2]}, n=5)
    assert block["rows"] == []
