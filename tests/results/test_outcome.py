"""Collapse by counts from scratch; targets without effect by the loss core itself."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from chemkl.config.posttrain import CollapseLimits
from chemkl.losses import Filtered, Gibbs, Mara
from chemkl.results import Manifest
from chemkl.results.outcome import Alarm, Spread, Window, never_acted, read_outcome, spread

PHENYL, PYRIDYL = "c1ccccc1", "c1ccncc1"


def test_a_spread_by_hand():
    # three with one scaffold, one with another, one without; the first molecule twice
    result = spread(["A", "A", "B", "C", "D"], [PHENYL, PHENYL, PHENYL, PYRIDYL, ""])
    assert (result.n, result.distinct, result.labelled, result.labels) == (5, 4, 4, 2)
    assert (result.uniqueness, result.duplicate_rate) == (4 / 5, 1 / 5)
    assert result.top_share == 3 / 4
    # H = -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.5623, exp(H) = 4 / 27^(1/4)
    assert result.effective_labels == pytest.approx(4 / 27**0.25, rel=1e-12)
    assert spread([], []) == Spread(0, 0, 0, 0, None, None)
    assert spread([], []).uniqueness is spread([], []).duplicate_rate is None
    assert spread(["C", "C"], ["", ""]) == Spread(2, 1, 0, 0, None, None)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_window_equals_a_count_from_scratch_at_any_moment(size):
    rng = random.Random(size)
    samples = [(str(k), rng.choice(["", "a", "b", "c"][: 1 + k % 5])) for k in range(12)]
    drawn = [rng.choice(samples) for _ in range(300)]
    window = Window(size)
    for end, sample in enumerate(drawn, start=1):
        window.add(*sample)
        last = drawn[max(end - size, 0) : end]
        assert window.is_full == (end >= size)
        result = window.spread()
        assert result == spread(*map(list, zip(*last, strict=True)))  # to the last bit
        counts = Counter(label for _, label in last if label)
        assert counts[window.most_frequent()] == max(counts.values(), default=0)
        if counts:
            sizes = np.array(list(counts.values()))
            assert result.distinct == len({identity for identity, _ in last})
            assert result.top_share == sizes.max() / sizes.sum()
            assert result.effective_labels == pytest.approx(np.exp(stats.entropy(sizes)))
        else:
            assert window.most_frequent() == ""


def changes(alarm, samples):
    """The positions, from 1, at which the alarm is raised or ends."""
    return [n for n, sample in enumerate(samples, start=1) if alarm.add(*sample)]


def only(**limits):
    return CollapseLimits(**{"top_share": None, "duplicate_rate": None, **limits})


def labelled(labels):
    """A sample for each label, all different; a blank is no label."""
    return [(str(number), label.strip()) for number, label in enumerate(labels)]


FEW = {"top_share": 0.3, "effective_scaffolds": 2}
REPEATS = [(name, "x") for name in "ABCDDDEFG"]


@pytest.mark.parametrize(
    ("limits", "margin", "samples", "expected"),
    [
        # duplicates after each sample from the fourth on:
        #   ABCD 0, BCDD 1/4, CDDD 2/4 raised, DDDE 2/4, DDEF 1/4 over
        ({"duplicate_rate": 0.5}, 0, REPEATS, [6, 8]),
        # with a margin of a half it must be below 1/4: DEFG 0
        ({"duplicate_rate": 0.5}, 0.5, REPEATS, [6, 9]),
        # 2 of the 3 with a scaffold share one; 2 of 4 would be one half
        ({"top_share": 0.6}, 0, labelled("xxy "), [4]),
        ({"top_share": 0.7}, 0, labelled("xxy "), []),
        # a few rings among acyclic molecules raise nothing
        (FEW, 0, labelled("x   "), []),
        (FEW | {"with_scaffold": 0.25}, 0, labelled("x   "), [4]),
        # exp(H): xxyz 2^1.5 = 2.83, xyzz the same, yzzz 4/27^(1/4) = 1.75 raised, zzza the same,
        #   zzab 2.83 over, unless more than 2.5 x 1.2 = 3 are needed: zabc 4
        ({"effective_scaffolds": 2.5}, 0, labelled("xxyzzzabc"), [6, 8]),
        ({"effective_scaffolds": 2.5}, 0.2, labelled("xxyzzzabc"), [6, 9]),
    ],
)
def test_a_limit_raises_the_alarm_and_a_margin_ends_it(limits, margin, samples, expected):
    assert changes(Alarm(only(**limits), window=4, margin=margin), samples) == expected


def test_an_alarm_waits_for_a_full_window_and_ignores_hovering_about_a_limit():
    alarm = Alarm(only(duplicate_rate=0.5), window=4)
    assert changes(alarm, [("A", "x")] * 3) == []
    assert alarm.at_first is None
    assert alarm.add("A", "x")
    assert alarm.at_first == spread(["A"] * 4, ["x"] * 4)
    samples = [(str(n), "x" if n % 10 < 3 + n % 2 else str(n)) for n in range(40)]
    shares = [spread(*zip(*samples[n : n + 9], strict=True)).top_share for n in range(32)]
    assert sum((a >= 0.4) != (b >= 0.4) for a, b in pairwise(shares)) > 3
    assert min(shares) > 0.4 * 0.7
    assert len(changes(Alarm(only(top_share=0.4), 9, margin=0.3), samples)) == 1


def test_every_reached_limit_is_named():
    reached = Alarm(CollapseLimits(effective_scaffolds=2), window=4).reached
    limits = ["top_share", "duplicate_rate", "effective_scaffolds"]
    assert reached(spread(["A"] * 4, ["x"] * 4)) == limits
    assert reached(spread(["A"] * 4, [""] * 4)) == ["duplicate_rate"]
    assert reached(spread(list("ABCD"), list("wxyz"))) == []
    assert Alarm(only(top_share=1), 4).reached(spread(["A"] * 4, ["x"] * 4)) == ["top_share"]


# ---- a target that never acted


BETA = 0.125
MARA = {"kind": "mara", "beta": BETA, "tau": 0.8}


def trace(batches, target, filtered=None):
    """Rows of batches of (log pi_ref, R) with the values of the loss core's target."""
    rows = []
    for step, batch in enumerate(batches):
        logp, reward = torch.tensor(batch, dtype=torch.float64).unbind(1)
        after = reward if filtered is None else torch.tensor(filtered[step], dtype=torch.float64)
        out = target(logp.float(), after)
        columns = {"logp_ref": logp.float(), "reward": reward, "reward_filtered": after}
        columns |= {"log_target": out.log_target, "hit": out.hit, "anchor": out.anchor}
        frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        rows.append(frame.assign(step=step, is_replay=False))
    return pd.concat(rows, ignore_index=True)


LOW, HIT, OTHER = (-30.25, 0.5), (-31.5, 0.9), (-40.125, 0.95)
FLOOR = {"tau_quantile": 0.9, "tau_floor": 0.8}


@pytest.mark.parametrize(
    ("batches", "options", "why"),
    [
        ([[LOW, LOW]], {"tau": 0.8}, "no reward reached tau = 0.8; the best reward is 0.5"),
        ([[HIT, LOW], [LOW, OTHER]], {"tau": 0.8}, "no batch had two different hits"),
        ([[HIT, HIT, LOW]], {"tau": 0.8}, "no batch had two different hits"),  # a copy
        ([[HIT, OTHER]], {"tau": 0.8, "alpha": 0.0, "reward_on_hits": "own"}, "with alpha = 0"),
        ([[HIT, LOW, LOW]], FLOOR, "no batch had two rewards of at least tau_floor = 0.8; the best "
         "reward is 0.9"),
        ([[HIT, OTHER]], {"tau": 0.8}, ""),
        ([[HIT, LOW]], {"tau": 0.8, "reward_on_hits": "tau"}, ""),  # 0.9 becomes 0.8
        ([[HIT, LOW], [LOW, OTHER]], {"tau": 0.8, "anchor": "running"}, "no batch had two"),
        ([[OTHER, LOW], [HIT, LOW]], {"tau": 0.8, "anchor": "running"}, ""),  # of OTHER
        ([[HIT, OTHER, LOW]], {"tau_quantile": 0.4, "tau_floor": 0.8}, ""),
    ],
)  # fmt: skip
def test_mara_without_effect_says_why(batches, options, why):
    rows = trace(batches, Mara(beta=BETA, **options))
    reason = never_acted(rows, {"kind": "mara", "beta": BETA} | options)
    if why:
        assert reason.startswith(f"the target mara never acted: {why}")
        assert reason.endswith("the samples are those of the target gibbs")
        same = trace(batches, Gibbs(beta=BETA))["log_target"]
        assert rows["log_target"].tolist() == pytest.approx(same.tolist())
    else:
        assert reason == ""


FILTER = {"kind": "filter", "tau": 0.8}


@pytest.mark.parametrize(
    ("rows", "target", "reason"),
    [
        (trace([[HIT, LOW]], Gibbs(beta=BETA)), {"kind": "gibbs", "beta": BETA}, ""),
        (trace([[HIT, LOW]], Filtered(tau=0.8)), FILTER, ""),
        (trace([[LOW, LOW]], Filtered(tau=0.8)), FILTER,
         "the target filter had no hits to train on: no reward reached tau = 0.8; the best reward "
         "is 0.5"),
        (trace([[HIT, OTHER]], Mara(beta=BETA, tau=0.8), [[0.0, 0.0]]), MARA,
         "the target mara never acted: the diversity filter withdrew every reward of at least tau "
         "= 0.8; before it the best reward is 0.95; the samples are those of the target gibbs"),
    ],
    ids=["gibbs", "filter", "filter without hits", "diversity filter"],
)  # fmt: skip
def test_other_targets_and_filters_say_why(rows, target, reason):
    assert never_acted(rows, target) == reason


NO = "did not collapse, in windows of 3 valid"


@pytest.mark.parametrize(
    ("target", "reward", "lines"),
    [
        ({"kind": "mara", "tau": 0.8}, 0.9, ["1 hit (R >= 0.8), best reward 0.9", NO]),
        ({"kind": "gibbs"}, 0.9, ["no tau to count hits by, best reward 0.9", NO]),
        ({"kind": "mara", "tau": 0.8}, 0.75,
         ["0 hits (R >= 0.8), best reward 0.75", NO, "the target mara never acted: no re"]),
        ({"kind": "mara", "tau_quantile": 0.5, "tau_floor": 0.4}, 0.9,
         ["1 hit (at or above the quantile 0.5 of their batch), best reward 0.9", NO]),
    ],
)  # fmt: skip
def test_the_lines_at_the_end_of_a_run(write_run, tmp_path, target, reward, lines):
    steps = [[("CCO", reward), ("CCN", 0.5), ("CC", 0.25)]]
    run = write_run(tmp_path, steps, {"target": target | {"sigma": 8}})
    manifest = Manifest.load(run)
    manifest.beside = {"collapse": {"window": 3}}
    summary = list(read_outcome(run, manifest).lines())
    assert len(summary) == len(lines)
    assert all(map(str.startswith, summary, lines))
