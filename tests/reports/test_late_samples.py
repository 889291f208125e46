import numpy as np
import pytest

from chemkl.config.collapse import CollapseLimits
from chemkl.reports.late_samples import LARGEST_SCAFFOLD, LEAST_DISTINCT, LIMITS, late_samples

RINGS = ["c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCNCC1", "C1CC1"]


def late(make_trace, smiles, window=4):
    return late_samples(make_trace([[(each, 0.5)] for each in smiles]), window, enough=2)


def test_shares_by_hand(make_trace):
    # the last four valid samples: toluene twice, ethylbenzene, acetone (acyclic)
    smiles = ["CCO", "Cc1ccccc1", "C1CC", "Cc1ccccc1", "CCc1ccccc1", "CC(C)=O"]
    found = late(make_trace, smiles)
    assert (found.n, found.distinct, found.top_share) == (4, 3 / 4, 3 / 3)
    assert found.scaffold == "c1ccccc1"
    assert found.collapsed is True  # one scaffold has them all


def test_at_the_limits_it_has_collapsed(make_trace):
    half = late(make_trace, ["CCO", "CCO", "CCN", "CCN"])
    assert (half.distinct, half.collapsed, half.scaffold, half.top_share) == (0.5, True, None, None)
    assert late(make_trace, ["CCO", "CCO", "CCN", "CCC"]).collapsed is False  # 3 of 4 distinct


def test_a_few_rings_among_acyclic_molecules_are_no_collapse(make_trace):
    found = late(make_trace, ["CCO", "CCN", "CCC", "Cc1ccccc1"])
    assert (found.top_share, found.collapsed) == (1.0, False)


def test_since_is_the_call_of_the_window_that_begins_the_last_stretch(make_trace):
    # windows of 4 end at samples 4 to 10; distinct in them: 4 3 2 2 2 2 2, and 2 is the limit;
    # sample 6 is the second repeat of call 4, so that 4 calls are spent when the collapse begins
    smiles = ["CCO", "CCN", "CCC", "CCCC", "CCCC", "CCCC", "CCC", "CCCC", "CCCC", "CCCC"]
    found = late(make_trace, smiles)
    assert found.collapsed is True
    assert found.since == 4


def test_a_collapse_that_passed_is_none(make_trace):
    found = late(make_trace, ["CCO"] * 6 + ["CCN", "CCC", "CCCC", "CCCCC"])
    assert (found.collapsed, found.since) == (False, None)


def test_since_agrees_with_looking_at_every_window(make_trace):
    rng = np.random.default_rng(3)
    checked = 0
    for _ in range(20):
        smiles = rng.choice([f"{'C' * k}{ring}" for k in range(3) for ring in RINGS], 40).tolist()
        smiles[25:] = rng.choice(smiles[25:28], 15).tolist()
        trace = make_trace([[(each, 0.5)] for each in smiles])
        first_bad = None
        for end in range(8, 41):
            part = trace.iloc[end - 8 : end]
            top = part["scaffold"].value_counts(normalize=True).iloc[0]
            bad = (
                part["canonical_smiles"].nunique() / 8 <= LEAST_DISTINCT or top >= LARGEST_SCAFFOLD
            )
            calls = trace["canonical_smiles"].iloc[:end].nunique()
            first_bad = (first_bad or calls) if bad else None
        assert late_samples(trace, 8, enough=8).since == first_bad
        checked += first_bad is not None
    assert checked > 10


def test_a_run_shorter_than_the_window_is_taken_whole_and_has_no_since(make_trace):
    found = late(make_trace, ["CCO", "CCO"], window=50)
    assert (found.n, found.distinct, found.collapsed, found.since) == (2, 0.5, True, None)


def test_too_few_samples_are_not_judged(make_trace):
    assert late_samples(make_trace([[("CCO", 0.5)] * 99])).collapsed is None
    assert late_samples(make_trace([[("CCO", 0.5)] * 100])).collapsed is True


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_without_valid_samples_nothing_is_known(make_trace, steps):
    found = late_samples(make_trace(steps))
    assert (found.n, found.distinct, found.scaffold, found.collapsed) == (0, None, None, None)


def test_replayed_rows_are_left_out(make_trace):
    trace = make_trace([[(each, 0.5)] for each in ["CCO", "CCN", "CCN", "CCN"]])
    trace.loc[2:, "is_replay"] = True
    assert late_samples(trace, 4, enough=2).distinct == 1


def test_the_limits_are_those_of_the_alarm_of_a_run():
    assert CollapseLimits() == LIMITS
    assert LIMITS.duplicate_rate == 1 - LEAST_DISTINCT
    assert LIMITS.top_share == LARGEST_SCAFFOLD
