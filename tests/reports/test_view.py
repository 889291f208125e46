import numpy as np
import pytest

from chemkl.reports.view import (
    best_molecules,
    component_names,
    learning_curves,
    scaffold_sizes,
    yield_curves,
)

STEPS = [
    # calls:    1                   2             -
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("OCC", 0.3)],
    #            3                     4                     5
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("CCCc1ccccc1", 0.2), ("Cc1ccccc1", 0.9)],
]


@pytest.fixture
def trace(make_trace):
    return make_trace(STEPS)


def test_learning_curves_by_hand(trace):
    curves = learning_curves(trace, 0.8)
    assert curves.loc[0, "reward"] == pytest.approx((0.9 + 0.3 + 0 + 0.3) / 4)
    assert curves["hit_rate"].tolist() == [1 / 4, 3 / 4]
    assert curves["unique_rate"].tolist() == [2 / 4, 3 / 4]
    assert curves["top_scaffold"].tolist() == [1, 3 / 4]  # benzene
    assert curves["logp_policy"].tolist() == [-20, -19]


def test_replayed_rows_are_left_out(trace):
    trace.loc[4, "is_replay"] = True
    assert learning_curves(trace, 0.8).loc[1, "hit_rate"] == pytest.approx(2 / 3)
    assert 3 not in yield_curves(trace, 0.8)["call"].tolist()


def test_yield_curves_begin_at_zero_and_end_at_the_last_call(trace):
    curve = yield_curves(trace, 0.8)
    assert curve["call"].tolist() == [0, 1, 3, 4, 5]
    assert curve["molecules"].tolist() == [0, 1, 2, 3, 3]
    assert curve["scaffolds"].tolist() == [0, 1, 1, 2, 2]


def test_scaffold_sizes_are_largest_first_without_acyclic_molecules(make_trace):
    trace = make_trace([*STEPS, [("CCN", 0.99)]])
    assert scaffold_sizes(trace, 0.8).to_dict() == {"c1ccccc1": 2, "C1CCCCC1": 1}
    assert scaffold_sizes(trace, 2.0).empty


def test_best_molecules_are_one_per_scaffold_best_first(trace):
    best = best_molecules(trace, 0.8, 10)
    assert best["canonical_smiles"].tolist() == ["CCc1ccccc1", "CC1CCCCC1", "CCO"]
    assert best["of_scaffold"].tolist() == [3, 1, 1]
    assert best["hits_of_scaffold"].tolist() == [2, 1, 0]
    assert len(best_molecules(trace, 0.8, 1)) == 1


def test_of_equal_rewards_the_earlier_molecule_is_shown(make_trace):
    trace = make_trace([[("CCc1ccccc1", 0.9)], [("Cc1ccccc1", 0.9)]])
    assert best_molecules(trace, 0.8, 5)["call"].tolist() == [1]


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_a_trace_without_molecules_has_empty_views(make_trace, steps):
    trace = make_trace(steps)
    assert len(learning_curves(trace, 0.8)) == len(steps)
    assert yield_curves(trace, 0.8)["molecules"].tolist() == [0, 0]
    assert scaffold_sizes(trace, 0.8).empty
    assert best_molecules(trace, 0.8, 5).empty


def test_yield_never_falls(make_trace, real_smiles):
    rewards = np.random.default_rng(0).random(60)
    trace = make_trace([[(s, r)] for s, r in zip(real_smiles[:60], rewards, strict=True)])
    curve = yield_curves(trace, 0.5)
    assert curve["molecules"].is_monotonic_increasing
    assert curve["molecules"].iloc[-1] == (rewards >= 0.5).sum()


def test_components_come_from_the_columns(trace):
    assert component_names(trace) == ["qed"]
