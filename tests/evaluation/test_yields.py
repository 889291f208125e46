import numpy as np
import pytest

from chemkl.evaluation import from_smiles, from_trace
from chemkl.evaluation.yields import oracle_burden, scaffold_yield, top_auc, top_aucs, yields

# calls:            1               2              -  (repeat)     -  (invalid)
STEP_0 = [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("c1ccccc1C", 0.9), ("C1CC", 0.0)]
#            3 (same scaffold as 1)  4 (acyclic)     5                 6
STEP_1 = [("CCc1ccccc1", 0.8), ("CCN", 0.95), ("Cc1ccccn1", 0.79), ("CC1CCCCC1", 1.0)]


@pytest.fixture
def hits(make_trace):
    return from_trace("x", make_trace([STEP_0, STEP_1])).hits(0.8)


def test_hits_are_distinct_and_in_the_order_of_their_calls(hits):
    assert [(hit.smiles, hit.call) for hit in hits] == [
        ("Cc1ccccc1", 1),
        ("CCc1ccccc1", 3),
        ("CCN", 4),
        ("CC1CCCCC1", 6),
    ]


def test_yield_counts_distinct_molecules_and_scaffolds(hits):
    values = yields(hits)
    assert values["yield"] == 4
    assert values["scaffold_yield"] == scaffold_yield(hits) == 2  # benzene, cyclohexane
    assert values["ob1"] == 1
    assert values["ob10"] is values["ob100"] is None
    assert values["ob1_scaffolds"] == 1


def test_oracle_burden_is_the_call_of_the_nth_hit(hits):
    assert [oracle_burden(hits, n) for n in (1, 2, 3, 4, 5)] == [1, 3, 4, 6, None]
    by_scaffold = [oracle_burden(hits, n, distinct_scaffolds=True) for n in (1, 2, 3)]
    assert by_scaffold == [1, 6, None]  # calls 3 and 4 bring no new scaffold


def test_the_order_of_the_hits_does_not_matter(hits):
    shuffled = [hits[i] for i in np.random.default_rng(1).permutation(len(hits))]
    assert yields(shuffled) == yields(hits)


def test_the_threshold_is_included(make_trace):
    samples = from_trace("x", make_trace([[("CCO", 0.8), ("CCN", 0.8 - 1e-9)]]))
    assert [hit.smiles for hit in samples.hits(0.8)] == ["CCO"]


def test_no_hits_is_zero_and_nulls():
    values = yields([])
    assert values.pop("yield") == 0
    assert values.pop("scaffold_yield") == 0
    assert set(values.values()) == {None}


def test_the_hundredth_hit_of_a_long_run(make_trace, real_smiles):
    steps = [[(s, 0.9 if i % 3 == 0 else 0.1)] for i, s in enumerate(real_smiles)]
    hits = from_trace("x", make_trace(steps)).hits(0.8)
    # every third call from the first on: hit number n is call 3 (n - 1) + 1
    assert oracle_burden(hits, 100) == 298
    assert oracle_burden(hits, 10) == 28


def auc(molecules, k, calls=10_000, every=100):
    return top_auc(molecules, k, calls=calls, every=every)


def test_top_auc_by_hand(make_trace):
    rewards = [0.2, 0.6, 0.4, 0.8, 0.0]
    steps = [[("C" * n, reward)] for n, reward in enumerate(rewards, start=1)]
    molecules = from_trace("x", make_trace(steps)).molecules
    # top-1 at calls 0, 2, 4, 5: 0, 0.6, 0.8, 0.8, held to call 10
    # 2 (0 + 0.6) / 2 + 2 (0.6 + 0.8) / 2 + 1 (0.8 + 0.8) / 2 + 5 x 0.8 = 6.8
    assert auc(molecules, 1, calls=10, every=2) == pytest.approx(0.68)
    # top-2 there: 0, 0.4, 0.7, 0.7; 2 x 0.2 + 2 x 0.55 + 0.7 + 5 x 0.7 = 5.7
    assert auc(molecules, 2, calls=10, every=2) == pytest.approx(0.57)
    # top-10 is the mean of all: 0, 0.4, 0.5, 0.4; 2 x 0.2 + 2 x 0.45 + 0.45 + 5 x 0.4 = 3.75
    assert auc(molecules, 10, calls=10, every=2) == pytest.approx(0.375)
    # the budget cuts: top-2 at 0, 2, 3: 0, 0.4, 0.5; 2 x 0.2 + 0.45 = 0.85
    assert auc(molecules, 2, calls=3, every=2) == pytest.approx(0.85 / 3)
    # the one point is the last call: 5 (0 + 0.8) / 2 + 5 x 0.8 = 6
    assert auc(molecules, 1, calls=10, every=100) == pytest.approx(0.6)


def published_top_auc(rewards, k, every, calls):
    """The rule of mol_opt as published, over a list in the order of the calls."""
    total, before, called = 0.0, 0.0, 0
    for point in range(every, min(len(rewards), calls), every):
        now = np.mean(sorted(rewards[:point], reverse=True)[:k])
        total += every * (now + before) / 2
        before, called = now, point
    now = np.mean(sorted(rewards, reverse=True)[:k])
    total += (len(rewards) - called) * (now + before) / 2
    return (total + max(calls - len(rewards), 0) * now) / calls


@pytest.mark.parametrize("n", [1, 99, 100, 101, 200, 251])
def test_top_auc_against_the_rule_of_mol_opt(make_trace, real_smiles, n):
    drawn = np.random.default_rng(n).uniform(size=n).tolist()
    steps = [list(zip(real_smiles[:n], drawn, strict=True))]
    molecules = from_trace("x", make_trace(steps)).molecules
    rewards = [m.reward for m in molecules]
    assert len(rewards) == n
    for k in (1, 10, 100):
        expected = published_top_auc(rewards, k, 100, 10_000)
        assert auc(molecules, k) == pytest.approx(expected, rel=1e-12)
        assert top_aucs(molecules, calls=10_000, every=100)[f"auc_top_{k}"] == auc(molecules, k)


def test_top_auc_without_scores_is_none_and_a_failed_score_is_zero(make_trace):
    assert auc([], 1) is None
    assert auc(from_smiles("x", ["CCO"]).molecules, 1) is None
    failed = from_trace("x", make_trace([[("CCO", float("nan")), ("CCN", 0.5)]])).molecules
    assert auc(failed, 2, calls=2, every=1) == pytest.approx((0 / 2 + (0 + 0.25) / 2) / 2)
