import numpy as np
import pandas as pd
import pytest

from chemkl.reports.bands import band
from chemkl.reports.ranks import covered_by_rank, size_by_rank


def curve(**values):
    return pd.Series(list(values.values()), index=[int(k[1:]) for k in values], dtype=float)


def test_mean_and_band_by_hand():
    whole = band([curve(x0=0, x2=4), curve(x0=2, x1=2, x2=0)], 100)
    assert whole.x.tolist() == [0, 1, 2]
    assert whole.mean.tolist() == [1, 2, 2]  # the first curve is 2 at 1, halfway
    assert whole.low.tolist() == [0, 2, 0]
    assert whole.high.tolist() == [2, 2, 4]
    assert whole.n == 2
    assert not whole.tails


def test_past_the_shortest_run_the_longer_ones_go_on_alone():
    whole = band([curve(x0=1, x1=1), curve(x0=3, x1=3, x2=5, x3=9)], 100)
    assert whole.x.tolist() == [0, 1]
    assert whole.mean.tolist() == [2, 2]
    (tail,) = whole.tails
    assert tail.to_dict() == {1: 3, 2: 5, 3: 9}


def test_missing_values_and_empty_runs_are_left_out():
    whole = band([curve(x0=np.nan, x1=2, x2=4), pd.Series(dtype=float)], 100)
    assert whole.n == 1
    assert whole.x.tolist() == [1, 2]
    assert whole.mean.tolist() == whole.low.tolist() == whole.high.tolist() == [2, 4]


@pytest.mark.parametrize("curves", [[], [pd.Series(dtype=float)]])
def test_no_curve_is_no_band(curves):
    assert band(curves, 100).n == 0
    assert len(band(curves, 100).mean) == 0


def test_runs_without_a_common_stretch_stand_alone():
    whole = band([curve(x0=1, x1=2), curve(x5=1, x6=2)], 100)
    assert len(whole.x) == 0
    assert [tail.tolist() for tail in whole.tails] == [[1, 2], [1, 2]]


def test_many_points_are_thinned_to_their_ends():
    long = pd.Series(np.arange(1000.0))
    whole = band([long, long + 2], 50)
    assert len(whole.x) == 50
    assert (whole.x[0], whole.x[-1]) == (0, 999)
    assert whole.mean.tolist() == (whole.x + 1).tolist()


def test_sizes_by_rank():
    assert size_by_rank(pd.Series([9, 4, 1])).to_dict() == {1: 9, 2: 4, 3: 1}
    assert size_by_rank(pd.Series(dtype=int)).empty


def test_what_the_largest_scaffolds_hold():
    # 6 + 3 + 1 = 10 hits; a run with fewer scaffolds than another is at 1 from its last one on
    covered = covered_by_rank(pd.Series([6, 3, 1]), furthest=5)
    assert covered.to_dict() == {1: 0.6, 2: 0.9, 3: 1, 4: 1, 5: 1}
    assert covered_by_rank(pd.Series(dtype=int), furthest=5).empty
