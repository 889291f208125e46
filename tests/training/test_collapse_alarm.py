"""The collapse alarm: hand-made rows, then real runs that are warned, stopped, killed, resumed."""

import csv
import json
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


@pytest.fixture
def watched():
    """An alarm, and the messages that it gives."""

    def build(**settings):
        told = []
        return CollapseAlarm(Watch(CollapseConfig(**settings)), ["a miracle"], told.append), told

    return build


def message_of(alarm):
    return alarm.describe(alarm.watch.events[-1])


# ---- hand-made rows


def test_a_collapse_by_hand(make_trace, watched):
    # windows of 4, all valid rows have a scaffold: after step 0 the largest has 1/4; in step 1
    # phenol and toluene bring benzene to 2/4 (call 6), the repeat of phenol to 3/4
    alarm, _ = watched(window=4, top_share=0.7, duplicate_rate=None)
    alarm.watch.add(make_trace([SPREAD, [(PHENOL, 1), ("C1CC", 0), ("Cc1ccccc1", 1), (PHENOL, 1)]]))
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
            "limits": {
                "top_share": 0.7,
                "duplicate_rate": None,
                "effective_scaffolds": None,
                "with_scaffold": 0.5,
                "margin": 0.1,
            },
        },
    }
    assert message_of(alarm) == (
        "step 1, call 6: the policy has collapsed: top_share 0.750 (limit 0.7 reached), "
        "duplicate_rate 0.250, effective_scaffolds 1.755, over the last 4 valid samples (4 with "
        "scaffold); most frequent: c1ccccc1. The first full window had top_share 0.250, "
        "duplicate_rate 0.000, effective_scaffolds 4.000. What may help: a miracle."
    )
    assert alarm.watch.summary == "collapsed at step 1, call 6; still so at the end"


def test_it_says_when_it_is_over_and_keeps_the_first_in_mind(make_trace, watched):
    alarm, _ = watched(window=4, duplicate_rate=0.5)
    steps = [[(PHENOL, 1)] * 4, SPREAD, [("C1CC1", 1)] * 4]
    alarm.watch.add(make_trace(steps))
    assert [(turn.raised, turn.step, turn.call) for turn in alarm.watch.events] == [
        *((True, 0, 1), (False, 1, 4), (True, 2, 5)),
    ]
    assert alarm.describe(alarm.watch.events[1]) == (
        "step 1, call 4: the collapse is over: top_share 0.250, duplicate_rate 0.000, "
        "effective_scaffolds 4.000, over the last 4 valid samples (4 with scaffold)"
    )
    assert (alarm.results["collapse_step"], alarm.results["collapse_call"]) == (0, 1)
    assert "2 times in all; still so at the end" in alarm.watch.summary


def test_a_prior_that_is_that_narrow_is_not_blamed_on_the_run(make_trace, watched):
    alarm, _ = watched(window=2)
    alarm.watch.add(make_trace([[("Cc1ccccc1", 1), (PHENOL, 1)]]))
    assert "the prior itself may be that narrow; then set callbacks.collapse" in message_of(alarm)


@pytest.mark.parametrize("cut", range(1, 12))
def test_it_is_rebuilt_from_its_rows_wherever_they_are_cut(make_trace, watched, cut):
    rows = make_trace([[(PHENOL, 1)] * 4, SPREAD, [("C1CC1", 1)] * 4])
    whole, _ = watched(window=4, duplicate_rate=0.5)
    whole.watch.add(rows)
    parts, _ = watched(window=4, duplicate_rate=0.5)
    parts.restore(rows.iloc[:cut])
    parts.watch.add(rows.iloc[cut:])
    assert parts.watch.events == whole.watch.events
    assert parts.results == whole.results


def test_rows_of_a_replay_buffer_were_not_sampled(make_trace, watched):
    rows = make_trace([[(PHENOL, 1)] * 4, SPREAD])
    rows["is_replay"] = rows["step"] == 0
    alarm, _ = watched(window=4)
    alarm.watch.add(rows)
    assert alarm.watch.events == []


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
    config = CollapseConfig(window=4, top_share=0.75, duplicate_rate=None)
    alarm = CollapseAlarm(Watch(config, ["text"], "answer"), [], str)
    alarm.watch.add(rows)
    (turn,) = alarm.watch.events
    assert (turn.step, turn.call, turn.most_frequent) == (1, 0, "1")
    assert alarm.results["collapse"]["effective_answers"] == pytest.approx(4 / 27**0.25)
    assert "effective_answers 1.755, over the last 4 valid samples (4 with answer)" in (
        message_of(alarm)
    )


def test_the_defaults_find_a_collapse_and_leave_a_spread_run_alone(
    make_trace, watched, real_smiles
):
    """As in the quickstart: the plain loss ends in repeats of one family, MARA does not."""
    different = [(smiles, 0.5) for smiles in real_smiles]
    family = [("C" * n + "c1ccccc1", 0.9) for n in range(1, 31)]
    spread_out, _ = watched()
    spread_out.watch.add(
        make_trace([different[:300], [(f"{s}.C", r) for s, r in different], different])
    )
    assert spread_out.watch.events == []
    collapsed, _ = watched()
    collapsed.watch.add(make_trace([different, different[:300], *[family] * 20]))
    assert collapsed.watch.events[0].raised
    assert {"top_share", "duplicate_rate"} >= set(collapsed.watch.events[0].reached) != set()


# ---- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_share": None, "duplicate_rate": None}, "nothing would be watched.*collapse: null"),
        ({"top_share": 1.5}, "top_share.*less than or equal to 1"),
        ({"action": "shout"}, "'shout' is not allowed. Known: stop, warn"),
        ({"window": 1}, "window.*greater than or equal to 2"),
        ({"treshold": 1}, "treshold"),
    ],
)
def test_what_cannot_be_watched_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        load_config(CallbacksConfig, {"collapse": settings})


def test_a_warning_is_no_part_of_the_identity_of_a_run_and_a_stop_is():
    before = {"checkpoint_every": 50}  # what a run without an alarm has in its manifest
    for mere in ({}, {"collapse": None}, {"collapse": {"window": 50, "top_share": 0.9}}):
        plain = load_config(CallbacksConfig, mere).model_dump(mode="json")
        assert plain == before
        assert config_hash(plain) == config_hash(before)
    stop = load_config(CallbacksConfig, {"collapse": {"action": "stop"}}).model_dump(mode="json")
    assert stop["collapse"]["action"] == "stop"
    assert config_hash(stop) != config_hash(before)


def test_a_warning_is_kept_where_a_config_is_changed():
    config = CallbacksConfig(collapse={"window": 50})
    changed = load_config(CallbacksConfig, config, ["checkpoint_every=7"])
    assert (changed.checkpoint_every, changed.collapse.window) == (7, 50)


def test_the_example_stops_and_the_quickstart_warns():
    example = load_config(PosttrainConfig, ROOT / "configs/posttrain/collapse_stop.yaml")
    quickstart = load_config(PosttrainConfig, ROOT / "configs/posttrain/quickstart.yaml")
    assert example.callbacks.collapse == CollapseConfig(action="stop")
    assert quickstart.callbacks.collapse == CollapseConfig()
    same = {"callbacks": quickstart.callbacks}
    assert example.model_copy(update=same) == quickstart


def test_the_advice_leaves_out_what_is_done_already():
    config = load_config(PosttrainConfig, ROOT / "configs/posttrain/quickstart.yaml")
    plain = " ".join(advice(config))
    for word in ("rloo", "kind mara", "diversity_filter: murcko", "below 0.002"):
        assert word in plain
    changes = ["target={kind: mara, sigma: 9, tau: 0.9}", "estimator=rloo"]
    file = ROOT / "configs/posttrain/quickstart.yaml"
    better = load_config(PosttrainConfig, file, [*changes, "diversity_filter=murcko"])
    assert advice(better) == ["a learning_rate below 0.002"]


# ---- real runs: an agent that learns to write chains at a rate that is far too high


@pytest.fixture
def config(collapsing):
    return collapsing | {"trainer": {"accelerator": "cpu", "log_every_n_steps": 2}}


WATCHED = {"window": 64, "top_share": None, "duplicate_rate": 0.4}


def callbacks(**collapse):
    own = {"collapse": {**WATCHED, **collapse}} if collapse else {"collapse": None}
    return {"callbacks": {"checkpoint_every": 4, "progress_bar": False, **own}}


WARN, STOP = callbacks(action="warn"), callbacks(action="stop")


@pytest.fixture(scope="module")
def made(tiny_prior, tmp_path_factory):
    """Finished runs by name, made when first asked for."""
    folders = {}

    def get(name, settings):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            posttrain.run(settings, folders[name])
        return folders[name]

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


def weights_differ(one, other):
    left, right = (load_file(out / "checkpoints" / "policy.safetensors") for out in (one, other))
    return [name for name in left if not torch.equal(left[name], right[name])]


def test_a_warned_run_is_the_run_without_an_alarm_and_says_when_it_collapsed(
    config, made, tmp_path, capsys
):
    silent = made("silent", config | callbacks())
    posttrain.run(config | WARN, tmp_path)
    told = capsys.readouterr().err
    trace = read_trace(tmp_path)
    pd.testing.assert_frame_equal(trace, read_trace(silent), check_exact=True)
    assert weights_differ(tmp_path, silent) == []

    step, call = first_collapse(trace)
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "max_samples")
    found = manifest["results"]
    assert (found["collapse_step"], found["collapse_call"]) == (step, call)
    assert found["collapse"]["reached"] == ["duplicate_rate"]
    limits = CollapseConfig(**WATCHED)
    assert collapsed_at_call(from_trace("x", trace), limits) == call

    assert f"{tmp_path}: step {step}, call {call}: the policy has collapsed: " in told
    assert told.count("the policy has collapsed") == told.count("is over") + 1
    assert f"collapsed at step {step}, call {call}" in told.splitlines()[-1]
    assert manifest["config_hash"] == manifest_of(silent)["config_hash"]
    assert "collapse" not in manifest_of(silent)["results"]


def test_the_window_is_logged_once_it_is_full(config, made):
    out = made("warned", config | WARN)
    trace = read_trace(out)
    with (out / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["collapse/duplicate_rate"]]
    full = [step for step in range(1, 20, 2) if trace["valid"][trace["step"] <= step].sum() >= 64]
    assert [int(row["step"]) for row in logged] == full
    for row in logged:
        so_far = trace[trace["valid"] & (trace["step"] <= int(row["step"]))].tail(64)
        assert float(row["collapse/duplicate_rate"]) == pytest.approx(
            1 - so_far["canonical_smiles"].nunique() / 64
        )
        counts = so_far["scaffold"][so_far["scaffold"] != ""].value_counts(normalize=True)
        top = float(row["collapse/top_share"])
        assert top == pytest.approx(counts.max(), nan_ok=True)
    assert {"collapse/top_share", "collapse/effective_scaffolds"} <= logged[0].keys()


def test_a_stopped_run_ends_complete_with_its_policy_and_its_reason(config, made, tmp_path, capsys):
    longer = read_trace(made("silent", config | callbacks()))
    policy = posttrain.run(config | STOP, tmp_path)
    told = capsys.readouterr().err
    trace, manifest = read_trace(tmp_path), manifest_of(tmp_path)
    step, call = first_collapse(longer)
    assert trace["step"].max() == step < longer["step"].max()  # the step itself is whole
    pd.testing.assert_frame_equal(trace, longer[: len(trace)], check_exact=True)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "collapse")
    found = manifest["results"]
    assert (found["collapse_step"], found["collapse_call"]) == (step, call)
    assert (found["steps"], found["samples"]) == (step + 1, len(trace))
    assert found["collapse"]["duplicate_rate"] >= 0.4
    assert len(load_policy(policy).sample(4).smiles) == 4
    assert "The run ends here, as callbacks.collapse asks." in told
    assert f"{tmp_path}: ended by collapse: {found['calls']} calls, {len(trace)} samples\n" in told

    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    posttrain.run(config | STOP, tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: complete, skipped; --fresh makes it anew\n"
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before


def test_another_way_to_end_comes_first(config, made, tmp_path):
    """The batch that spends the last sample also raises the alarm: nothing was cut short."""
    step, _ = first_collapse(read_trace(made("silent", config | callbacks())))
    posttrain.run(config | STOP | {"max_samples": 16 * (step + 1)}, tmp_path)
    manifest = manifest_of(tmp_path)
    assert manifest["ended_by"] == "max_samples"
    assert manifest["results"]["collapse_step"] == step


# ---- a killed run


KILLS = {"at a checkpoint": ["second checkpoint"], "three times": [6, 12, "policy"]}


@pytest.mark.parametrize("action", ["warn", "stop"])
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_run_alarms_where_an_uninterrupted_one_does(
    config, made, tmp_path, killed, kills, action
):
    settings = config | callbacks(action=action)
    whole = made("warned" if action == "warn" else "stopped", settings)
    step = manifest_of(whole)["results"]["collapse_step"]
    assert step == 12  # or the kills are not where their names say
    killed(settings, tmp_path, *KILLS[kills])
    posttrain.run(settings, tmp_path)
    one, other = manifest_of(tmp_path), manifest_of(whole)
    for key in ("status", "ended_by", "results", "config_hash"):
        assert one[key] == other[key]
    assert len(one["resumed"]) == len(KILLS[kills])
    pd.testing.assert_frame_equal(read_trace(tmp_path), read_trace(whole), check_exact=True)
    assert weights_differ(tmp_path, whole) == []


def test_what_was_told_before_the_kill_is_not_told_again(config, tmp_path, killed, capsys):
    # a checkpoint knows the steps up to 15, the collapse among them
    killed(config | WARN, tmp_path, 19)
    first = capsys.readouterr().err
    posttrain.run(config | WARN, tmp_path)
    second = capsys.readouterr().err
    assert "step 12, call" in first
    assert "has collapsed" in first
    assert "step 12, call" in second.splitlines()[-1]  # in the line about the whole run alone
    assert sum("step 12, call" in line for line in second.splitlines()) == 1


def test_the_limits_of_a_warning_may_change_in_a_run_that_goes_on(config, tmp_path, killed):
    killed(config | WARN, tmp_path, 9)
    posttrain.run(config | callbacks(duplicate_rate=0.2), tmp_path)
    step, call = first_collapse(read_trace(tmp_path), limit=0.2)
    found = manifest_of(tmp_path)["results"]
    assert (found["collapse_step"], found["collapse_call"]) == (step, call)
    manifest = Manifest.load(tmp_path)
    with pytest.raises(InputError, match=r"collapse: .absent. in the folder"):
        manifest.check_same(
            "posttrain", load_config(PosttrainConfig, config | STOP).model_dump(mode="json")
        )
