import pytest

from chemkl.reports.page_options import PageOptions
from chemkl.reports.provenance import different_settings
from chemkl.reports.scaffold_grid import largest_scaffolds, scaffold_blocks
from chemkl.reports.view import RunView


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
    assert benzene == {
        "scaffold": "c1ccccc1",
        "hits": 2,
        "molecules": 2,
        "late": 0,
    }
    # the last two valid samples: cyclohexane and ethanol of a, two cyclohexanes of b
    assert cyclohexane == {"scaffold": "C1CCCCC1", "hits": 1, "molecules": 2, "late": 3 / 4}


def test_without_hits_the_largest_by_molecules_come_first(runs):
    assert [r["scaffold"] for r in largest_scaffolds(runs, 2.0, window=2)] == [
        "C1CCCCC1",
        "c1ccccc1",
    ]


def test_blocks_have_the_best_molecules_first(runs):
    options = PageOptions("t", 0.8, window=2, n_scaffolds=1, n_molecules=1)
    (block,) = scaffold_blocks(runs, {"both": [0, 1]}, options)
    (scaffold,) = block["scaffolds"]
    assert scaffold["late"] == "0.0%"
    (card,) = scaffold["cards"]
    assert (card["smiles"], card["reward"], card["call"]) == ("CCc1ccccc1", "0.950", "2")
    assert card["components"] == [("qed", "0.95")]
    assert card["svg"].startswith("<svg")


def test_a_run_without_a_molecule_has_no_scaffold(make_trace):
    views = [RunView("empty", make_trace([]))]
    assert largest_scaffolds(views, 0.8, window=2) == []


def test_differences_are_gathered_by_method(runs, make_trace):
    other = RunView("c", make_trace([]), {"config": {"seed": 0, "target": {"kind": "gibbs"}}})
    bare = RunView("d", make_trace([]))
    found = different_settings([*runs, other, bare], {"mara": [0, 1], "gibbs": [2], "bare": [3]})
    assert found == [("seed", ["0, 1", "0", "–"]), ("target.kind", ["mara", "gibbs", "–"])]  # noqa: RUF001 - the sign of an empty cell
    assert different_settings(runs[:1], {"mara": [0]}) == []
