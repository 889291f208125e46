"""The collapse alarm of language-model runs: what is watched, and a run that it ends."""

import shutil

import pandas as pd
import pytest

from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.posttrain import CollapseConfig
from chemkl.results import Manifest, read_trace
from chemkl.stages import posttrain_llm
from chemkl.training.collapse import build_alarm

MOLECULES = {"kind": "smiles", "reward": {"components": [{"kind": "qed"}]}}
TEXTS = {"kind": "function", "function": "math:pow"}
WINDOW, SHARE = 20, 0.8


@pytest.fixture
def config(short_run):
    callbacks = {"progress_bar": False, "checkpoint_every": 2}
    return short_run(learning_rate=3e-2, max_steps=12, seed=1, callbacks=callbacks)


def watching(config, **limits):
    return config | {"callbacks": config["callbacks"] | {"collapse": limits}}


def loaded(config, **changes):
    return load_config(LlmPosttrainConfig, config | changes)


def test_only_molecules_are_watched_without_being_asked_for(config):
    assert loaded(config).collapse is None
    assert loaded(config, reward=TEXTS).collapse is None
    assert loaded(config, reward=MOLECULES).collapse == CollapseConfig()
    nothing = {"callbacks": {"collapse": None}}
    assert loaded(config, reward=MOLECULES, **nothing).collapse is None
    some = {"callbacks": {"collapse": {"top_share": 0.9, "duplicate_rate": None}}}
    assert loaded(config, **some).collapse == CollapseConfig(top_share=0.9, duplicate_rate=None)

    # the message
    def alarm(**changes):
        watched = {"callbacks": {"collapse": {"duplicate_rate": None, "top_share": 0.9}}}
        lines = []
        return build_alarm(loaded(config, **watched, **changes), lines.append)

    row = {"valid": True, "is_replay": False, "call": 1}  # what it does not look at is not there
    answer = row | {"group": 0, "completion": "1.", "answer": "1"}
    watched = alarm()
    watched.watch.add(pd.DataFrame([answer | {"step": i} for i in range(1000)]))
    message = watched.describe(watched.watch.events[0])
    assert "top_share 1.000 (limit 0.9 reached)" in message
    assert "effective_answers 1.000" in message
    assert "1,000 with answer); most frequent: 1." in message
    assert "What may help: target kind mara" in message
    assert "diversity_filter" not in message  # it compares molecules
    molecule = row | {"step": 0, "canonical_smiles": "C1CC1", "scaffold": "C1CC1"}
    watched = alarm(reward=MOLECULES)
    watched.watch.add(pd.DataFrame([molecule] * 1000))
    message = watched.describe(watched.watch.events[0])
    assert "effective_scaffolds 1.000" in message
    assert "diversity_filter: murcko" in message


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, r"duplicate_rate: 1,000 completions with 3 valid answers always reach 0\.5"),
        ({"duplicate_rate": None}, r"top_share: .* 0\.3; set it to null or to another value"),
        ({"duplicate_rate": 0.98, "window": 100, "top_share": None}, None),  # 97 of 100 at least
        ({"duplicate_rate": 0.97, "window": 100, "top_share": None}, "duplicate_rate: .* 0.97;"),
        ({"duplicate_rate": None, "effective_scaffolds": 3, "top_share": None}, "effective_sca"),
        ({"duplicate_rate": None, "effective_scaffolds": 2.9, "top_share": 0.34}, None),
    ],
)
def test_a_limit_that_is_always_reached_is_refused(config, limits, message):
    if message is None:
        assert loaded(watching(config, **limits)).collapse == CollapseConfig(**limits)
        return
    with pytest.raises(InputError, match=message):
        loaded(watching(config, **limits))


def test_an_answer_to_another_prompt_is_another_one(config):
    two = {"prompts": ["pick", "pick 1"]}
    limits = {"duplicate_rate": 0.95, "window": 100, "top_share": None}
    with pytest.raises(InputError, match=r"with 3 valid answers to each of 2 prompts always"):
        loaded(watching(config, **limits | {"duplicate_rate": 0.94}), **two)
    alarm = build_alarm(loaded(watching(config, **limits), **two), str)
    rows = [
        {"step": 0, "group": g, "completion": c, "answer": c, "valid": True, "is_replay": False}
        for g in (0, 1)
        for c in "123"
    ]
    alarm.watch.add(pd.DataFrame(rows * 16 + rows[:4]))  # 100 rows, of which 6 are different
    assert alarm.watch.events == []
    alarm.watch.add(pd.DataFrame(rows[:5] * 20))  # 5 are
    assert alarm.watch.events[0].spread.duplicate_rate == 0.95


def first_reached(trace):
    """The step in which the newest completions first had so large a share of one answer."""
    valid = trace[trace["valid"]]
    for end in range(WINDOW, len(valid) + 1):
        newest = valid.iloc[end - WINDOW : end]
        if newest["answer"].value_counts(normalize=True).iloc[0] >= SHARE:
            return int(newest["step"].iloc[-1])
    return None


def test_a_run_is_warned_or_ended_at_the_step_that_the_trace_says(config, tmp_path, capsys):
    limits = {"top_share": SHARE, "duplicate_rate": None, "window": WINDOW}
    posttrain_llm.run(watching(config, **limits), tmp_path / "warned")
    trace = read_trace(tmp_path / "warned")
    step = first_reached(trace)
    assert 0 < step < 11  # the run is one that begins broad and does collapse
    warned = Manifest.load(tmp_path / "warned")
    assert (warned.ended_by, warned.results["collapse_step"]) == ("max_steps", step)
    assert f"collapsed at step {step}, call" in capsys.readouterr().err
    stopping = watching(config, **limits, action="stop")
    posttrain_llm.run(stopping, tmp_path / "stopped")
    stopped = Manifest.load(tmp_path / "stopped")
    assert (stopped.ended_by, stopped.results["steps"]) == ("collapse", step + 1)
    assert stopped.results["collapse"]["most_frequent"] in ("1", "2", "3")
    saved = read_trace(tmp_path / "stopped")
    assert saved.equals(trace[trace["step"] <= step])  # the same samples up to there
    assert "The run ends here" in capsys.readouterr().err
    # what was killed after its last checkpoint is brought to its end without another step
    shutil.copytree(tmp_path / "stopped", tmp_path / "killed")
    killed = Manifest.load(tmp_path / "killed")
    killed.status = "running"
    killed.save()
    posttrain_llm.run(stopping, tmp_path / "killed")
    again = Manifest.load(tmp_path / "killed")
    assert (again.ended_by, again.results) == ("collapse", stopped.results)
    assert "The run ends here" not in capsys.readouterr().err  # told once
