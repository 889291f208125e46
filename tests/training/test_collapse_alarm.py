"""The collapse alarm: hand-made rows, then real runs that are warned, stopped, killed, resumed."""

import csv
import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chemkl.config import InputError, load_config
from chemkl.config.posttrain import CallbacksConfig, CollapseConfig, PosttrainConfig
from chemkl.evaluation import from_trace
from chemkl.evaluation.metrics import collapsed_at_call
from chemkl.policies import load_policy
from chemkl.results import Manifest, config_hash, read_trace
from chemkl.results.outcome import Watch
from chemkl.stages import posttrain
from chemkl.training.collapse import CollapseAlarm, advice

ROOT = Path(__file__).parents[2]
PHENOL = "Oc1ccccc1"
SPREAD = [("C1CC1", 0.1), ("C1CCC1", 0.1), ("C1CCCC1", 0.1), ("C1CCCCC1", 0.1)]
THERE_AND_BACK = [[(PHENOL, 1)] * 4, SPREAD, [("C1CC1", 1)] * 4]


def alarm_of(rows=None, columns=(), **settings):
    """An alarm that has watched the rows."""
    alarm = CollapseAlarm(Watch(CollapseConfig(**settings), *columns), ["a miracle"], str)
    if rows is not None:
        alarm.watch.add(rows)
    return alarm


def message_of(alarm):
    return alarm.describe(alarm.watch.events[-1])


# ---- hand-made rows


def test_a_collapse_by_hand(make_trace):
    # windows of 4, all valid rows have a scaffold: after step 0 the largest has 1/4; in step 1
    # phenol and toluene bring benzene to 2/4 (call 6), the repeat of phenol to 3/4
    steps = [SPREAD, [(PHENOL, 1), ("C1CC", 0), ("Cc1ccccc1", 1), (PHENOL, 1)]]
    alarm = alarm_of(make_trace(steps), window=4, top_share=0.7, duplicate_rate=None)
    limits = {"duplicate_rate": None, "effective_scaffolds": None, "with_scaffold": 0.5}
    assert alarm.results == {
        "collapse_step": 1,
        "collapse_call": 6,
        "collapse": {
            "reached": ["top_share"],
            "top_share": 3 / 4,
            "duplicate_rate": 1 / 4,
            "effective_scaffolds": pytest.approx(4 / 27**0.25),  # H of 3/4 and 1/4
            "most_frequent": "c1ccccc1",
            "still_so_at_the_end": True,
            "action": "warn",
            "window": 4,
            "limits": {"top_share": 0.7, "margin": 0.1, **limits},
        },
    }
    assert message_of(alarm) == (
        "step 1, call 6: the policy has collapsed: top_share 0.750 (limit 0.7 reached), "
        "duplicate_rate 0.250, effective_scaffolds 1.755, over the last 4 valid samples (4 with "
        "scaffold); most frequent: c1ccccc1. The first full window had top_share 0.250, "
        "duplicate_rate 0.000, effective_scaffolds 4.000. What may help: a miracle."
    )
    assert alarm.watch.summary == "collapsed at step 1, call 6; still so at the end"


def test_the_end_of_a_collapse_is_reported_and_the_first_one_is_kept(make_trace):
    alarm = alarm_of(make_trace(THERE_AND_BACK), window=4, duplicate_rate=0.5)
    events = [(event.raised, event.step, event.call) for event in alarm.watch.events]
    assert events == [(True, 0, 1), (False, 1, 4), (True, 2, 5)]
    assert alarm.describe(alarm.watch.events[1]) == (
        "step 1, call 4: the collapse is over: top_share 0.250, duplicate_rate 0.000, "
        "effective_scaffolds 4.000, over the last 4 valid samples (4 with scaffold)"
    )
    assert (alarm.results["collapse_step"], alarm.results["collapse_call"]) == (0, 1)
    assert "2 times in all; still so at the end" in alarm.watch.summary


def test_a_prior_that_is_that_narrow_is_named_as_the_cause(make_trace):
    alarm = alarm_of(make_trace([[("Cc1ccccc1", 1), (PHENOL, 1)]]), window=2)
    assert "the prior itself may be that narrow; then set callbacks.collapse" in message_of(alarm)


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_alarm_is_restored_from_its_rows_wherever_they_are_cut(make_trace, cut):
    rows = make_trace(THERE_AND_BACK)
    whole = alarm_of(rows, window=4, duplicate_rate=0.5)
    parts = alarm_of(window=4, duplicate_rate=0.5)
    parts.restore(rows.iloc[:cut])
    parts.watch.add(rows.iloc[cut:])
    assert parts.watch.events == whole.watch.events
    assert parts.results == whole.results


def test_replayed_rows_are_not_watched(make_trace):
    rows = make_trace(THERE_AND_BACK[:2])
    assert alarm_of(rows.assign(is_replay=rows["step"] == 0), window=4).watch.events == []


def test_any_column_may_name_the_outcome():
    rows = pd.DataFrame(
        {
            "step": [0, 0, 0, 1, 1],
            "text": ["It is 1", "1", "2", "1.", "so: 1"],
            "answer": ["1", "1", "2", "1", None],
            "valid": [True, True, True, True, False],
            "is_replay": False,
        }
    )
    columns = (["text"], "answer")
    alarm = alarm_of(rows, columns, window=4, top_share=0.75, duplicate_rate=None)
    (event,) = alarm.watch.events
    assert (event.step, event.call, event.most_frequent) == (1, 0, "1")
    assert alarm.results["collapse"]["effective_answers"] == pytest.approx(4 / 27**0.25)
    message = "effective_answers 1.755, over the last 4 valid samples (4 with answer)"
    assert message in message_of(alarm)


def test_the_defaults_find_a_collapse_and_ignore_a_diverse_run(make_trace, real_smiles):
    """As in the quickstart: the plain loss ends in repeats of one family, MARA does not."""
    diverse = [(smiles, 0.5) for smiles in real_smiles]
    family = [("C" * n + "c1ccccc1", 0.9) for n in range(1, 31)]
    steps = [diverse[:300], [(f"{s}.C", r) for s, r in diverse], diverse]
    assert alarm_of(make_trace(steps)).watch.events == []
    first = alarm_of(make_trace([diverse, diverse[:300], *[family] * 20])).watch.events[0]
    assert first.raised
    assert {"top_share", "duplicate_rate"} >= set(first.reached) != set()


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_share": None, "duplicate_rate": None}, "nothing would be watched.*collapse: null"),
        ({"top_share": 1.5}, "top_share.*less than or equal to 1"),
        ({"action": "shout"}, "'shout' is not allowed. Known: stop, warn"),
        ({"window": 1}, "window.*greater than or equal to 2"),
        ({"treshold": 1}, "treshold"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        load_config(CallbacksConfig, {"collapse": settings})


def test_only_a_stop_is_part_of_the_identity_of_a_run():
    before = {"checkpoint_every": 50}  # the manifest of a run without an alarm
    for warning in ({}, {"collapse": None}, {"collapse": {"window": 50, "top_share": 0.9}}):
        plain = load_config(CallbacksConfig, warning).model_dump(mode="json")
        assert plain == before
        assert config_hash(plain) == config_hash(before)
    stop = load_config(CallbacksConfig, {"collapse": {"action": "stop"}}).model_dump(mode="json")
    assert stop["collapse"]["action"] == "stop"
    assert config_hash(stop) != config_hash(before)
    config = CallbacksConfig(collapse={"window": 50})  # an override keeps the warning
    changed = load_config(CallbacksConfig, config, ["checkpoint_every=7"])
    assert (changed.checkpoint_every, changed.collapse.window) == (7, 50)


def test_the_example_stops_and_the_quickstart_warns_with_advice_that_fits():
    folder = ROOT / "configs/posttrain"
    example = load_config(PosttrainConfig, folder / "collapse_stop.yaml")
    quickstart = load_config(PosttrainConfig, folder / "quickstart.yaml")
    assert example.callbacks.collapse == CollapseConfig(action="stop")
    assert quickstart.callbacks.collapse == CollapseConfig()
    assert example.model_copy(update={"callbacks": quickstart.callbacks}) == quickstart
    plain = " ".join(advice(quickstart))
    for word in ("rloo", "kind mara", "diversity_filter: murcko", "below 0.002"):
        assert word in plain
    changes = ["target={kind: mara, sigma: 9, tau: 0.9}", "estimator=rloo"]
    better = [*changes, "diversity_filter=murcko"]
    done = load_config(PosttrainConfig, folder / "quickstart.yaml", better)
    assert advice(done) == ["a learning_rate below 0.002"]


# ---- real runs: a policy that learns to write chains at a rate that is far too high

WATCHED = {"window": 64, "top_share": None, "duplicate_rate": 0.4}


@pytest.fixture
def config(collapsing):
    return collapsing | {"trainer": {"accelerator": "cpu", "log_every_n_steps": 2}}


def callbacks(**collapse):
    collapse = {"collapse": {**WATCHED, **collapse} if collapse else None}
    return {"callbacks": {"checkpoint_every": 4, "progress_bar": False, **collapse}}


WARN, STOP = callbacks(action="warn"), callbacks(action="stop")
ALARMS = {"silent": callbacks(), "warn": WARN, "stop": STOP}


@pytest.fixture(scope="module")
def finished(tiny_prior, tmp_path_factory):
    """The folder of a finished run by its alarm, and what it printed; each is run once."""
    runs = {}

    def get(config, name):
        if name not in runs:
            out, printed = tmp_path_factory.mktemp(name), StringIO()
            with redirect_stderr(printed):
                posttrain.run(config | ALARMS[name], out)
            runs[name] = out, printed.getvalue()
        return runs[name]

    return get


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def first_collapse(trace, window=64, limit=0.4):
    """Step and call at which duplicates first reach the limit: counted anew for every row."""
    valid = trace[trace["valid"]].assign(call=trace["call"].ffill()[trace["valid"]])
    for end in range(window, len(valid) + 1):
        inside = valid["canonical_smiles"].iloc[end - window : end]
        if 1 - inside.nunique() / window >= limit:
            return int(valid["step"].iloc[end - 1]), int(valid["call"].iloc[end - 1])
    raise AssertionError("the run never collapsed: the test has nothing to look at")


def same_weights(one, other):
    left, right = (load_file(out / "checkpoints" / "policy.safetensors") for out in (one, other))
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_warned_run_is_the_run_without_an_alarm_and_reports_its_collapse(config, finished):
    (silent, _), (out, printed) = finished(config, "silent"), finished(config, "warn")
    trace = read_trace(out)
    pd.testing.assert_frame_equal(trace, read_trace(silent), check_exact=True)
    assert same_weights(out, silent)

    step, call = first_collapse(trace)
    manifest = manifest_of(out)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "max_samples")
    results = manifest["results"]
    assert (results["collapse_step"], results["collapse_call"]) == (step, call)
    assert results["collapse"]["reached"] == ["duplicate_rate"]
    assert collapsed_at_call(from_trace("x", trace), CollapseConfig(**WATCHED)) == call

    assert f"{out}: step {step}, call {call}: the policy has collapsed: " in printed
    assert printed.count("the policy has collapsed") == printed.count("is over") + 1
    assert f"collapsed at step {step}, call {call}" in printed.splitlines()[-1]
    assert manifest["config_hash"] == manifest_of(silent)["config_hash"]
    assert "collapse" not in manifest_of(silent)["results"]


def test_the_window_is_logged_once_it_is_full(config, finished):
    out, _ = finished(config, "warn")
    trace = read_trace(out)
    with (out / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["collapse/duplicate_rate"]]
    full = [step for step in range(1, 20, 2) if trace["valid"][trace["step"] <= step].sum() >= 64]
    assert [int(row["step"]) for row in logged] == full
    for row in logged:
        window = trace[trace["valid"] & (trace["step"] <= int(row["step"]))].tail(64)
        duplicates = 1 - window["canonical_smiles"].nunique() / 64
        assert float(row["collapse/duplicate_rate"]) == pytest.approx(duplicates)
        counts = window["scaffold"][window["scaffold"] != ""].value_counts(normalize=True)
        assert float(row["collapse/top_share"]) == pytest.approx(counts.max(), nan_ok=True)
    assert "collapse/effective_scaffolds" in logged[0]


def test_a_stopped_run_is_complete_with_its_policy_and_its_reason(config, finished, capsys):
    longer = read_trace(finished(config, "silent")[0])
    out, printed = finished(config, "stop")
    trace, manifest = read_trace(out), manifest_of(out)
    step, call = first_collapse(longer)
    assert trace["step"].max() == step < longer["step"].max()  # the step itself is complete
    pd.testing.assert_frame_equal(trace, longer[: len(trace)], check_exact=True)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "collapse")
    results = manifest["results"]
    assert (results["collapse_step"], results["collapse_call"]) == (step, call)
    assert (results["steps"], results["samples"]) == (step + 1, len(trace))
    assert results["collapse"]["duplicate_rate"] >= 0.4
    assert len(load_policy(out / "checkpoints" / "policy.safetensors").sample(4).smiles) == 4
    assert "The run ends here, as callbacks.collapse asks." in printed
    assert f"{out}: ended by collapse: {results['calls']} calls, {len(trace)} samples\n" in printed

    before = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    posttrain.run(config | STOP, out)
    assert capsys.readouterr().err == f"{out}: complete, skipped; --fresh repeats it\n"
    assert {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()} == before


def test_another_limit_comes_first(config, finished, tmp_path):
    """The batch with the last sample also raises the alarm: the run was not cut short."""
    step, _ = first_collapse(read_trace(finished(config, "silent")[0]))
    posttrain.run(config | STOP | {"max_samples": 16 * (step + 1)}, tmp_path)
    manifest = manifest_of(tmp_path)
    assert manifest["ended_by"] == "max_samples"
    assert manifest["results"]["collapse_step"] == step


KILLS = {"at a checkpoint": ["second checkpoint"], "three times": [6, 12, "policy"]}


@pytest.mark.parametrize("action", ["warn", "stop"])
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_run_alarms_like_an_uninterrupted_one(
    config, finished, tmp_path, killed, capsys, kills, action
):
    settings = config | ALARMS[action]
    whole, _ = finished(config, action)
    assert manifest_of(whole)["results"]["collapse_step"] == 12  # or the kills are elsewhere
    killed(settings, tmp_path, *KILLS[kills])
    before = capsys.readouterr().err
    posttrain.run(settings, tmp_path)
    after = capsys.readouterr().err.splitlines()
    one, other = manifest_of(tmp_path), manifest_of(whole)
    for key in ("status", "ended_by", "results", "config_hash"):
        assert one[key] == other[key]
    assert len(one["resumed"]) == len(KILLS[kills])
    pd.testing.assert_frame_equal(read_trace(tmp_path), read_trace(whole), check_exact=True)
    assert same_weights(tmp_path, whole)
    if kills == "three times":  # the last start reports it in the summary only
        assert "the policy has collapsed" in before
        assert ["step 12, call" in line for line in after] == [False] * (len(after) - 1) + [True]


def test_the_limits_of_a_warning_may_change_in_a_resumed_run(config, tmp_path, killed):
    killed(config | WARN, tmp_path, 9)
    posttrain.run(config | callbacks(duplicate_rate=0.2), tmp_path)
    step, call = first_collapse(read_trace(tmp_path), limit=0.2)
    results = manifest_of(tmp_path)["results"]
    assert (results["collapse_step"], results["collapse_call"]) == (step, call)
    stop = load_config(PosttrainConfig, config | STOP).model_dump(mode="json")
    with pytest.raises(InputError, match=r"collapse: .absent. in the folder"):
        Manifest.load(tmp_path).check_same("posttrain", stop)
