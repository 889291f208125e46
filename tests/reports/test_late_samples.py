import pandas as pd
import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseConfig
from chemkl.evaluation import evaluate, from_trace
from chemkl.reports.late_samples import late_samples
from chemkl.results import Manifest, TraceWriter
from chemkl.results.collapse import Watch, judge, watched
from chemkl.results.outcome import read_outcome
from chemkl.training.collapse import CollapseAlarm

PHENOL = "Oc1ccccc1"
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1"]


def manifest(**settings):
    return {"beside": {"collapse": {"window": 4} | settings}}


def late(make_trace, smiles, **settings):
    return late_samples(make_trace([[(each, 0.5)] for each in smiles]), manifest(**settings))


def test_shares_by_hand(make_trace):
    # the last four valid samples: toluene twice, ethylbenzene, acetone (acyclic)
    smiles = ["CCO", "Cc1ccccc1", "C1CC", "Cc1ccccc1", "CCc1ccccc1", "CC(C)=O"]
    found = late(make_trace, smiles)
    assert (found.n, found.distinct, found.top_share) == (4, 3 / 4, 3 / 3)
    assert (found.scaffold, found.collapsed, found.first.call) == ("c1ccccc1", True, 3)


def test_limits_and_window_are_those_of_the_run(make_trace):
    half = ["CCO", "CCO", "CCN", "CCN"]
    assert late(make_trace, half).collapsed is True
    assert late(make_trace, half, duplicate_rate=0.6).collapsed is False
    assert late(make_trace, half, window=5).collapsed is None  # never so many samples


def test_a_collapse_that_passed_is_told_as_over(make_trace):
    found = late(make_trace, ["CCO"] * 6 + ["CCN", "CCC", "CCCC", "CCCCC"])
    assert (found.collapsed, found.first.call, found.over) == (True, 1, True)


def test_replayed_rows_are_left_out(make_trace):
    trace = make_trace([[(each, 0.5)] for each in ["CCO", "CCN", "CCN", "CCN"]])
    trace.loc[2:, "is_replay"] = True
    assert (late_samples(trace, manifest()).n, late_samples(trace, manifest()).distinct) == (2, 1)


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_without_valid_samples_nothing_is_known(make_trace, steps):
    found = late_samples(make_trace(steps))
    assert (found.n, found.distinct, found.scaffold, found.collapsed) == (0, None, None, None)


@pytest.mark.parametrize(
    ("stored", "window"),
    [
        ({}, 1000),
        ({"beside": {"collapse": {"window": 7}}}, 7),
        ({"config": {"callbacks": {"collapse": {"action": "stop", "window": 8}}}}, 8),
        ({"results": {"collapse": {"window": 9, "limits": {"top_share": 0.2}}}}, 9),
    ],
)
def test_the_settings_are_found_wherever_a_run_has_them(stored, window):
    assert watched(stored).window == window
    if window == 1000:
        assert watched(stored) == CollapseConfig()


def test_one_trace_four_readers_one_verdict(make_trace, tmp_path):
    """The alarm, the metrics, the report and the line of `show`: the same step and call.

    Windows of 4 samples, one a step, limit 3 in 4 of one scaffold: rings 1 to 4, then benzene at
    calls 5, 6 and, repeated, at step 6.
    """
    trace = make_trace([[(each, 0.5)] for each in [*RINGS, PHENOL, "Cc1ccccc1", PHENOL]])
    settings = CollapseConfig(window=4, top_share=0.75, duplicate_rate=None)
    alarm = CollapseAlarm(Watch(settings), [], lambda _: None)
    alarm.watch.add(trace)
    with Manifest.start(tmp_path, stage="posttrain", config={"seed": 0}) as run:
        run.beside = {"collapse": alarm.settings}
        writer = TraceWriter(tmp_path, ["qed"], run.run_id, run.config_hash)
        writer.append(trace)
        writer.cut()
        run.finish()
    stored = Manifest.load(tmp_path)
    plain = stored.model_dump(mode="json")
    of_alarm = alarm.results["collapse_step"], alarm.results["collapse_call"]
    assert of_alarm == (6, 6)
    (row,) = evaluate(from_trace("x", trace, manifest=stored), [], MetricOptions(late_samples=2))
    assert row["collapsed_at_call"] == 6
    first = late_samples(trace, plain).first
    assert (first.step, first.call) == of_alarm
    assert (
        "collapsed at step 6, call 6; still so at the end" in read_outcome(tmp_path, stored).lines()
    )
    assert judge(pd.concat([trace]), plain).summary == alarm.watch.summary
