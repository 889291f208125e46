import numpy as np
import pytest

from chemkl.evaluation import from_trace
from chemkl.evaluation.yields import oracle_burden, scaffold_yield, yields

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
