import pytest

from chemkl.reports.wording import counted, listed, p_value, percent, span, times


@pytest.mark.parametrize(
    ("share", "text"), [(0.279, "27.9"), (1.0, "100"), (0.5, "50"), (0.0, "0"), (0.9999, "100.0")]
)
def test_shares(share, text):
    assert percent(share) == f"{text}\N{NO-BREAK SPACE}%"


def test_counts_carry_their_noun_and_their_range():
    assert counted([1], "hit") == "1 hit"
    assert counted([0], "hit") == "0 hits"
    assert counted([1345], "hit") == "1,345 hits"
    assert counted([1000, 3000], "hit") == "2,000 hits (1,000 to 3,000)"
    assert counted([1, 2], "hit") == "1.5 hits (1 to 2)"
    assert counted([2, 2], "hit") == "2 hits"


def test_ranges_of_what_reads_alike_are_one_value():
    assert span([3, 1, 2], str) == "1 to 3"
    assert span([0.2791, 0.2793], percent) == percent(0.279)


def test_ratios_p_values_and_names():
    assert times(2446, 2397) == "1.02 times"
    assert times(12.6, 1) == "13 times"
    assert p_value(0.0004) == "below 0.001"
    assert p_value(0.05) == "0.050"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
