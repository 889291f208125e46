"""Statistics of a comparison: by hand, by enumeration, and against scipy."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from chemkl.evaluation.comparison import holm, judge, paired_difference

MARA = [12.0, 15.0, 11.0, 14.0, 18.0]
GIBBS = [10.0, 9.0, 11.0, 8.0, 12.0]


def test_difference_by_hand():
    # means 14 and 10; squared deviations 4+1+9+0+16 = 30 and 0+1+1+4+4 = 10, so the variances are
    # 7.5 and 2.5; t = 4 / sqrt(7.5/5 + 2.5/5) = 4 / sqrt(2); df = 2^2 / (1.5^2/4 + 0.5^2/4) = 6.4
    higher, lower = (paired_difference(MARA, GIBBS, better) for better in ("higher", "lower"))
    t = 4 / math.sqrt(2)
    expected = {"n": 5, "mean": 14, "baseline_mean": 10, "difference": 4}
    assert {name: higher[name] for name in expected} == expected
    expected = {"sd": math.sqrt(7.5), "baseline_sd": math.sqrt(2.5), "t": t, "df": 6.4}
    expected["p"] = stats.t.sf(t, 6.4)
    assert {name: higher[name] for name in expected} == pytest.approx(expected)
    assert lower["p"] == pytest.approx(stats.t.cdf(t, 6.4))


def test_interval_is_that_of_all_resamples_of_the_pairs():
    # 5 pairs can be redrawn in 5^5 = 3125 ways: the quantiles of all of them are the exact interval
    differences = np.array(MARA) - np.array(GIBBS)
    means = np.stack(np.meshgrid(*[differences] * 5), -1).reshape(-1, 5).mean(axis=1)
    result = paired_difference(MARA, GIBBS, "higher", n_resamples=20_000)
    # neighbouring resampled means are 1/5 apart, and a quantile may fall on the next one
    exact = np.quantile(means, [0.025, 0.975])
    assert (result["low"], result["high"]) == pytest.approx(exact, abs=0.21)
    # the seeds vary by 400, each pair differs by 1 or 2: only a paired interval is narrow
    seeds = [100.0, 200.0, 300.0, 400.0, 500.0]
    result = paired_difference([x + 1 + i % 2 for i, x in enumerate(seeds)], seeds, "higher")
    assert 1 <= result["low"] <= result["high"] <= 2


def test_few_pairs_have_the_values_that_are_defined():
    assert paired_difference([], [], "higher")["difference"] is None
    one = paired_difference([3.0], [1.0], "higher")
    assert (one["n"], one["mean"], one["difference"]) == (1, 3, 2)
    assert (one["sd"], one["low"], one["p"]) == (None, None, None)
    two = paired_difference([3.0, 5.0], [1.0, 2.0], "higher")
    test = stats.ttest_ind([3, 5], [1, 2], equal_var=False, alternative="greater")
    assert two["p"] == test.pvalue


def test_without_variance_there_is_no_test_and_one_constant_sample_gives_no_warning():
    result = paired_difference([2.0] * 5, [1.0] * 5, "higher")
    assert [result[name] for name in ("sd", "low", "high", "t", "p")] == [0, 1, 1, None, None]
    # t = (3 - 1) / sqrt(2.5 / 5 + 0) = 2 sqrt 2 on n - 1 = 4 degrees of freedom
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = paired_difference([1, 2, 3, 4, 5], [1] * 5, "higher")
    assert (result["t"], result["df"]) == pytest.approx((2 * math.sqrt(2), 4))


def test_holm_by_hand_and_by_the_step_down_rule():
    # sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04; none below a smaller one's: .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    # two tests, and one that was none: .6 * 2 is cut to 1, and .7 may not be less
    assert holm([0.6, None, 0.7]) == [1, None, 1]
    # Holm's own wording: reject the i-th smallest while p_(i) < alpha / (m - i), stop at the first
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(0, 0.1, size=6)
        rejected = set()
        for rank, place in enumerate(np.argsort(p)):
            if p[place] >= 0.05 / (6 - rank):
                break
            rejected.add(int(place))
        assert {i for i, adjusted in enumerate(holm(list(p))) if adjusted < 0.05} == rejected


def test_verdicts():
    verdicts = [judge(n, p, 0.05) for n, p in ((4, 0.0001), (5, 0.0001), (5, 0.05), (5, None))]
    assert verdicts == ["not resolved", "better", "not shown", "not resolved"]
