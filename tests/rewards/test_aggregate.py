import math

import pytest

from chemkl.rewards.scoring import (
    AGGREGATES,
    arithmetic_mean,
    geometric_mean,
    minimum,
    product,
)


def test_geometric_mean_by_hand():
    assert geometric_mean([0.25, 1.0], [1, 1]) == pytest.approx(0.5, abs=1e-15)  # sqrt(1/4)
    # (0.5^3 * 0.008^1)^(1/4) = (0.001)^(1/4)
    assert geometric_mean([0.5, 0.008], [3, 1]) == pytest.approx(0.001**0.25, abs=1e-15)


def test_arithmetic_mean_by_hand():
    assert arithmetic_mean([0.25, 1.0], [1, 1]) == 0.625
    assert arithmetic_mean([0.5, 0.1], [3, 1]) == pytest.approx(0.4, abs=1e-15)  # 1.6 / 4


def test_product_by_hand():
    assert product([0.5, 0.4, 0.5], [1, 1, 1]) == pytest.approx(0.1, abs=1e-15)
    assert product([0.5, 0.4], [2, 1]) == pytest.approx(0.1, abs=1e-15)  # .25 * .4: exponents


def test_minimum_by_hand():
    assert minimum([0.7, 0.2, 0.9], [1, 1, 1]) == 0.2
    assert minimum([0.7, 0.2, 0.9], [1, 5, 1]) == 0.2


@pytest.mark.parametrize("mean", [geometric_mean, arithmetic_mean])
class TestMeans:
    def test_one_score_is_itself(self, mean):
        assert mean([0.3], [7]) == 0.3

    def test_only_the_ratio_of_weights_counts(self, mean):
        assert mean([0.2, 0.9], [1, 3]) == pytest.approx(mean([0.2, 0.9], [0.05, 0.15]), abs=1e-15)


@pytest.mark.parametrize("join", AGGREGATES.values())
class TestAny:
    def test_one_score_is_itself(self, join):
        assert join([0.3], [1]) == 0.3

    def test_ones_give_one_and_never_more(self, join):
        assert join([1.0] * 7, [0.1, 0.7, 1 / 3, 1e-9, 1e9, 2, 0.3]) == 1.0

    def test_nan_is_not_swallowed(self, join):
        assert math.isnan(join([0.0, math.nan], [1, 1]))
        assert math.isnan(join([math.nan, 0.0], [1, 1]))
        assert math.isnan(join([math.nan], [1]))

    def test_lists_must_fit(self, join):
        with pytest.raises(ValueError, match="zip"):
            join([0.1, 0.2], [1])


def test_a_zero_ends_all_but_the_arithmetic_mean():
    assert geometric_mean([0.0, 1.0], [1, 99]) == 0.0
    assert product([0.0, 1.0], [1, 99]) == 0.0
    assert minimum([0.0, 1.0], [1, 99]) == 0.0
    assert arithmetic_mean([0.0, 1.0], [1, 99]) == 0.99
