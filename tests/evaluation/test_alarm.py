"""The call at which a run collapsed, as its evaluation states it."""

import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseLimits
from chemkl.evaluation import evaluate, from_smiles, from_trace
from chemkl.evaluation.alarm import collapsed_at_call

DUPLICATES = CollapseLimits(top_share=None, duplicate_rate=0.5)
PHENOL = "Oc1ccccc1"


def test_the_call_is_that_of_the_newest_molecule_by_then():
    # windows of 4: C CC CCC CCCC | then three times C: CCC CCCC C C is 1/4, CCCC C C C 2/4
    samples = from_smiles("x", ["C", "CC", "CCC", "CCCC", "C", "C", "C", "CCCCC"])
    assert collapsed_at_call(samples, DUPLICATES, window=4) == 4
    assert collapsed_at_call(samples, DUPLICATES, window=8) is None  # 3 of 8
    assert collapsed_at_call(samples, DUPLICATES, window=9) is None  # never full


def test_repeats_of_one_scaffold_count_and_invalid_rows_do_not(make_trace):
    steps = [
        [("C1CC1", 0.1), ("not one", 0.0), ("C1CCC1", 0.1)],
        [(PHENOL, 0.9), ("C1CC", 0.0), ("Cc1ccccc1", 0.9), (PHENOL, 0.9)],
    ]
    samples = from_trace("x", make_trace(steps))
    # valid: two rings alone, then phenol (call 3), toluene (call 4), phenol: benzene has 3 of 4
    limits = CollapseLimits(top_share=0.75, duplicate_rate=None)
    assert collapsed_at_call(samples, limits, window=4) == 4
    assert collapsed_at_call(samples, limits, window=3) == 4
    assert collapsed_at_call(samples, limits, window=5) is None  # 3 of 5
    assert collapsed_at_call(samples, CollapseLimits(top_share=0.6), window=5) == 4


@pytest.mark.parametrize("limits", [CollapseLimits(), CollapseLimits(effective_scaffolds=3)])
def test_a_run_of_different_molecules_never_did(real_smiles, limits):
    samples = from_smiles("x", real_smiles)
    assert collapsed_at_call(samples, limits, window=100) is None


def test_the_late_metrics_have_the_effective_scaffolds_of_the_window():
    # the last four valid samples: benzene three times, pyridine once
    samples = from_smiles("x", ["C1CC1", "Cc1ccccc1", "CCc1ccccc1", "c1ccncc1", "Cc1ccccc1"])
    (row,) = evaluate(samples, [], MetricOptions(late_samples=4))
    assert row["late_effective_scaffolds"] == pytest.approx(4 / 27**0.25)  # H of 3/4 and 1/4
    assert (row["late_scaffolds"], row["late_top_share"]) == (2, 3 / 4)
    limits = CollapseLimits(top_share=None, duplicate_rate=None, effective_scaffolds=1.76)
    assert collapsed_at_call(samples, limits, window=4) == 4
    assert collapsed_at_call(samples, CollapseLimits(top_share=0.76), window=4) is None
