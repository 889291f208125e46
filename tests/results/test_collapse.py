"""The window of newest samples: against counts from scratch, and limits reached by hand."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from chemkl.config.posttrain import CollapseLimits
from chemkl.results.collapse import Alarm, Spread, Window, spread

PHENYL, PYRIDYL = "c1ccccc1", "c1ccncc1"


def test_a_spread_by_hand():
    # three of one scaffold, one of another, one without; the first molecule twice
    found = spread(["A", "A", "B", "C", "D"], [PHENYL, PHENYL, PHENYL, PYRIDYL, ""])
    assert (found.n, found.distinct, found.named, found.outcomes) == (5, 4, 4, 2)
    assert (found.uniqueness, found.duplicate_rate) == (4 / 5, 1 / 5)
    assert found.top_share == 3 / 4
    # H = -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.5623, exp(H) = 4 / 27^(1/4)
    assert found.effective_outcomes == pytest.approx(4 / 27**0.25, rel=1e-12)


def test_what_is_not_there_is_not_defined():
    assert spread([], []) == Spread(0, 0, 0, 0, None, None)
    assert spread([], []).uniqueness is spread([], []).duplicate_rate is None
    assert spread(["C", "C"], ["", ""]) == Spread(2, 1, 0, 0, None, None)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_window_is_at_any_moment_what_its_samples_are(size):
    rng = random.Random(size)
    samples = [(str(k), rng.choice(["", "a", "b", "c"][: 1 + k % 5])) for k in range(12)]
    drawn = [rng.choice(samples) for _ in range(300)]
    window = Window(size)
    for end, sample in enumerate(drawn, start=1):
        window.add(*sample)
        last = drawn[max(end - size, 0) : end]
        assert window.is_full == (end >= size)
        assert window.spread() == spread(*map(list, zip(*last, strict=True)))  # to the last bit
        counts = Counter(outcome for _, outcome in last if outcome)
        if counts:
            sizes = np.array(list(counts.values()))
            found = window.spread()
            assert found.distinct == len({identity for identity, _ in last})
            assert found.top_share == sizes.max() / sizes.sum()
            assert found.effective_outcomes == pytest.approx(np.exp(stats.entropy(sizes)))
            assert counts[window.most_frequent()] == sizes.max()
        else:
            assert window.most_frequent() == ""


def changes(alarm, samples):
    """The positions, from 1, at which the alarm was raised or called off."""
    return [n for n, sample in enumerate(samples, start=1) if alarm.add(*sample)]


def only(**limits):
    return CollapseLimits(**{"top_share": None, "duplicate_rate": None, **limits})


def test_there_is_no_alarm_before_the_window_is_full():
    alarm = Alarm(only(duplicate_rate=0.5), window=4)
    assert changes(alarm, [("A", "x")] * 3) == []
    assert alarm.at_first is None
    assert alarm.add("A", "x")
    assert alarm.at_first == spread(["A"] * 4, ["x"] * 4)


def test_a_value_that_hovers_about_its_limit_is_told_once():
    samples = [(str(n), "x" if n % 10 < 3 + n % 2 else str(n)) for n in range(40)]
    shares = [spread(*zip(*samples[n : n + 9], strict=True)).top_share for n in range(32)]
    assert sum((a >= 0.4) != (b >= 0.4) for a, b in pairwise(shares)) > 3
    assert min(shares) > 0.4 * 0.7
    assert len(changes(Alarm(only(top_share=0.4), 9, margin=0.3), samples)) == 1


def named(outcomes):
    """A sample for each outcome, all different; a blank is none."""
    return [(str(number), outcome.strip()) for number, outcome in enumerate(outcomes)]


FEW = {"top_share": 0.3, "effective_scaffolds": 2}


@pytest.mark.parametrize(
    ("limits", "margin", "samples", "expected"),
    [
        # duplicates after each sample from the fourth on:
        #   ABCD 0, BCDD 1/4, CDDD 2/4 raised, DDDE 2/4, DDEF 1/4 over
        ({"duplicate_rate": 0.5}, 0, [(name, "x") for name in "ABCDDDEFG"], [6, 8]),
        # with a margin of a half it must be below 1/4: DEFG 0
        ({"duplicate_rate": 0.5}, 0.5, [(name, "x") for name in "ABCDDDEFG"], [6, 9]),
        # 2 of the 3 with a scaffold share one; 2 of 4 would be one half
        ({"top_share": 0.6}, 0, named("xxy "), [4]),
        ({"top_share": 0.7}, 0, named("xxy "), []),
        # a few rings among acyclic molecules raise nothing
        (FEW, 0, named("x   "), []),
        (FEW | {"with_scaffold": 0.25}, 0, named("x   "), [4]),
        # exp(H): xxyz 2^1.5 = 2.83, xyzz the same, yzzz 4/27^(1/4) = 1.75 raised, zzza the same,
        #   zzab 2.83 over, unless more than 2.5 x 1.2 = 3 are asked for: zabc 4
        ({"effective_scaffolds": 2.5}, 0, named("xxyzzzabc"), [6, 8]),
        ({"effective_scaffolds": 2.5}, 0.2, named("xxyzzzabc"), [6, 9]),
    ],
)
def test_a_limit_raises_it_and_it_is_over_beyond_the_margin(limits, margin, samples, expected):
    assert changes(Alarm(only(**limits), window=4, margin=margin), samples) == expected


def test_every_limit_that_is_reached_is_named():
    alarm = Alarm(CollapseLimits(effective_scaffolds=2), window=4)
    assert alarm.reached(spread(["A"] * 4, ["x"] * 4)) == [
        "top_share", "duplicate_rate", "effective_scaffolds",
    ]  # fmt: skip
    assert alarm.reached(spread(["A"] * 4, [""] * 4)) == ["duplicate_rate"]
    assert alarm.reached(spread(list("ABCD"), list("wxyz"))) == []
    assert Alarm(only(top_share=1), 4).reached(spread(["A"] * 4, ["x"] * 4)) == ["top_share"]
