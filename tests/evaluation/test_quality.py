import pytest

from chemkl.evaluation.quality import novelty, uniqueness, validity


def test_validity_is_a_share_of_all_samples():
    assert validity(3, 4) == 0.75
    assert validity(0, 4) == 0
    assert validity(0, 0) is None


def test_uniqueness_at_k_looks_at_the_first_k_valid_samples():
    valid = ["C", "C", "CC", "C", "CCC"]
    assert uniqueness(valid) == 3 / 5
    assert uniqueness(valid, 2) == 1 / 2
    assert uniqueness(valid, 4) == 2 / 4
    assert uniqueness(valid, 6) is None
    assert uniqueness([]) is None


@pytest.mark.parametrize(("corpus", "expected"), [(set(), 1), ({"C"}, 0.5), ({"C", "CC", "N"}, 0)])
def test_novelty_is_a_share_of_the_distinct_molecules(corpus, expected):
    assert novelty(["C", "C", "CC"], corpus) == expected
    assert novelty([], corpus) is None
