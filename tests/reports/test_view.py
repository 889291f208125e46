import pandas as pd
import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseConfig
from chemkl.evaluation import evaluate, from_trace
from chemkl.reports.summary import gather
from chemkl.reports.view import (
    RunView,
    best_first,
    component_names,
    learning_curves,
    top_curves,
    yield_curves,
)
from chemkl.results import Manifest, TraceWriter
from chemkl.results.inspection import valid_rows
from chemkl.results.outcome import Watch, collapse_config, judge, read_outcome
from chemkl.training.collapse import CollapseAlarm

STEPS = [
    # calls:    1                   2             -
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("OCC", 0.3)],
    #            3                     4                     5
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("CCCc1ccccc1", 0.2), ("Cc1ccccc1", 0.9)],
]


@pytest.fixture
def trace(make_trace):
    return make_trace(STEPS)


def test_learning_curves_by_hand(trace):
    curves = learning_curves(trace, 0.8)
    assert curves.loc[0, "reward"] == pytest.approx((0.9 + 0.3 + 0 + 0.3) / 4)
    assert curves["hit_rate"].tolist() == [1 / 4, 3 / 4]
    assert curves["unique_rate"].tolist() == [2 / 4, 3 / 4]
    assert curves["top_scaffold"].tolist() == [1, 3 / 4]  # benzene
    assert curves["logp_policy"].tolist() == [-20, -19]


def test_replayed_rows_do_not_count(trace):
    trace.loc[4, "is_replay"] = True
    assert learning_curves(trace, 0.8).loc[1, "hit_rate"] == pytest.approx(2 / 3)
    assert 3 not in yield_curves(trace, 0.8)["call"].tolist()


def test_yield_curves_begin_at_zero_and_end_at_the_last_call(trace):
    curve = yield_curves(trace, 0.8)
    assert curve["call"].tolist() == [0, 1, 3, 4, 5]
    assert curve["molecules"].tolist() == [0, 1, 2, 3, 3]
    assert curve["scaffolds"].tolist() == [0, 1, 1, 2, 2]


def test_means_of_the_best_rewards_by_hand(make_trace, real_smiles):
    # 12 molecules with R = 0.01, 0.02, ...: the ten best after call c are c - 9 to c hundredths
    trace = make_trace([[(s, (n + 1) / 100)] for n, s in enumerate(real_smiles[:12])])
    tops = top_curves(trace)
    assert tops.index.tolist() == list(range(1, 13))
    assert tops["top_10"].iloc[:9].isna().all()  # fewer than ten
    assert tops["top_10"].iloc[9:].tolist() == pytest.approx([0.055, 0.065, 0.075])
    assert tops["top_100"].iloc[:-1].isna().all()
    assert tops["top_100"].iloc[-1] == pytest.approx(0.065)  # of all twelve: 0.78 / 12
    few = top_curves(trace, n_points=7)
    assert (few.index[-1], len(few)) == (12, 7)


def test_molecules_are_sorted_by_reward_then_call_then_run(trace, make_trace):
    runs = [RunView("a", trace), RunView("none", make_trace([])), RunView("b", trace[:2])]
    rows = best_first(runs)
    # calls 3, 1, 4, 2, 5 of run a by their rewards; b has its first two, after the same ones of a
    assert list(zip(rows["run"], rows["call"], strict=True)) == [
        *(("a", 3), ("a", 1), ("b", 1), ("a", 4), ("a", 2), ("b", 2), ("a", 5))
    ]
    assert best_first(runs[1:2]).empty


@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]])
def test_a_trace_without_molecules_has_empty_views(make_trace, steps):
    trace = make_trace(steps)
    assert len(learning_curves(trace, 0.8)) == len(steps)
    assert yield_curves(trace, 0.8)["molecules"].tolist() == [0, 0]
    assert top_curves(trace).empty
    assert best_first([RunView("a", trace)]).empty


def test_components_are_distinct_and_valid_rows_include_repeats(trace):
    assert valid_rows(trace)["smiles"].tolist().count("OCC") == 1
    assert len(valid_rows(trace)) == 7  # C1CC is invalid
    other = trace.rename(columns={"raw_qed": "raw_logp"}).assign(raw_qed=0.5)
    assert component_names([RunView("a", trace), RunView("b", other)]) == ["qed", "logp"]


PHENOL = "Oc1ccccc1"
RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1"]


@pytest.mark.parametrize(
    ("stored", "window"),
    [
        ({}, 1000),
        ({"beside": {"collapse": {"window": 7}}}, 7),
        ({"config": {"callbacks": {"collapse": {"action": "stop", "window": 8}}}}, 8),
        ({"results": {"collapse": {"window": 9, "limits": {"top_share": 0.2}}}}, 9),
    ],
)
def test_collapse_settings_are_found_in_every_place_of_a_manifest(stored, window):
    assert collapse_config(stored).window == window
    if window == 1000:
        assert collapse_config(stored) == CollapseConfig()


def test_alarm_metrics_report_and_show_agree_on_a_collapse(make_trace, tmp_path):
    """All have the same step and call.

    Windows of 4 samples, one a step, limit 3 in 4 of one scaffold: rings 1 to 4, then benzene at
    calls 5, 6 and, repeated, at step 6.
    """
    trace = make_trace([[(smiles, 0.5)] for smiles in [*RINGS, PHENOL, "Cc1ccccc1", PHENOL]])
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
    first = gather(RunView("x", trace, plain), 0.8).watch.events[0]
    assert (first.step, first.call) == of_alarm
    assert (
        "collapsed at step 6, call 6; still so at the end" in read_outcome(tmp_path, stored).lines()
    )
    assert judge(pd.concat([trace]), plain).summary == alarm.watch.summary
