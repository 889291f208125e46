"""A run that ends by its mean reward: at which step, and at the same one after a kill."""

import json

import pandas as pd
import pytest

from chemkl.config import InputError, load_config
from chemkl.config.posttrain import CallbacksConfig, PosttrainConfig, TerminationConfig
from chemkl.results import read_trace
from chemkl.stages import posttrain
from chemkl.training.termination import Termination


@pytest.fixture
def config(collapsing):
    return collapsing | {"callbacks": {"checkpoint_every": 4, "progress_bar": False}}


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def rows_of(steps):
    """Rows of a trace whose steps are paid so; a reward of 0 is a repeat, of 1 a hit."""
    paid = [(number, reward) for number, step in enumerate(steps) for reward in step]
    rows = pd.DataFrame(paid, columns=["step", "reward_filtered"])
    rows["call"] = rows["reward_filtered"].gt(0).cumsum().where(rows["reward_filtered"] > 0)
    rows["canonical_smiles"] = ["C" * (i + 1) for i in range(len(rows))]
    rows.loc[rows["reward_filtered"] == 0, "canonical_smiles"] = "C"
    rows["hit"] = rows["reward_filtered"] == 1
    return rows.assign(valid=True, scaffold="", is_replay=False)


@pytest.mark.parametrize(
    ("mean_reward", "min_steps", "last"),
    [(0.5, 0, 1), (0.5, 2, 1), (0.5, 3, 3), (0.6, 0, 3), (0.8, 0, None), (0.5, 9, None)],
)
def test_the_first_step_that_is_high_enough_ends_it(mean_reward, min_steps, last):
    rows = rows_of([[0.1, 0.5], [0.5, 0.5], [0.4, 0.4], [1.0, 0.2], [0.0, 0.0]])  # .3 .5 .4 .6 0
    ends = Termination(TerminationConfig(mean_reward=mean_reward, min_steps=min_steps))
    reached = []
    for step in range(5):
        ends.restore(rows[rows["step"] == step])
        reached.append(ends.ends_the_run)
    assert reached == [last is not None and step >= last for step in range(5)]
    at_once = Termination(TerminationConfig(mean_reward=mean_reward, min_steps=min_steps))
    at_once.restore(rows)
    assert at_once.ended_by == ("mean_reward" if reached[-1] else "")


def test_molecules_that_a_memory_began_with_count_as_calls_only():
    rows = rows_of([[0.1, 0.2], [0.3, 0.4]])
    rows.loc[0, "is_replay"] = True
    ends = Termination(TerminationConfig(calls=4))
    ends.restore(rows)
    assert ends.ended_by == "calls"
    assert ends.counts == {"steps": 2, "calls": 4, "samples": 3, "hits": 0}


RISES = [[0.1, 0.2], [0.2, 0.4], [0.0, 0.4], [1.0, 0.0], [1.0, 0.4], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("limits", "last"),
    [
        ({"calls": 7}, 4),  # 2 4 5 6 8: the step that reaches it is made whole
        ({"samples": 6}, 2),
        ({"hits": 2}, 4),
        ({"hits": 3}, None),
        ({"plateau": {"steps": 1, "gain": 0.1}, "min_steps": 0}, 2),  # means .15 .3 .2 .5 .7 0 0
        ({"plateau": {"steps": 1, "gain": 0.1}, "min_steps": 4}, 5),
        ({"plateau": {"steps": 2, "gain": 0.1}, "min_steps": 0}, 5),  # .225 .25 .35 .6 .35 0
        ({"plateau": {"steps": 2, "gain": 0.0}, "min_steps": 0}, 5),
        ({"collapse": {"window": 4, "duplicate_rate": 0.5}}, 6),  # the newest: .4 0 0 0
        ({"calls": 7, "hits": 1}, 3),
    ],
)
def test_what_else_ends_it(limits, last):
    rows, config = rows_of(RISES), TerminationConfig(**limits)
    step_by_step, at_once = Termination(config), Termination(config)
    ended = []
    for step in range(len(RISES)):
        step_by_step.restore(rows[rows["step"] == step])
        ended.append(step_by_step.ends_the_run)
    assert ended == [last is not None and step >= last for step in range(len(RISES))]
    at_once.restore(rows)
    assert at_once.ended_by == step_by_step.ended_by
    assert at_once.counts == step_by_step.counts
    assert at_once.ended_by in {"", *limits} - {"min_steps"}
    assert at_once.counts["steps"] == (len(RISES) if last is None else last + 1)


def test_a_run_ends_there_is_complete_and_is_the_same_after_kills(config, tmp_path, killed):
    posttrain.run(config, tmp_path / "long")
    longer = read_trace(tmp_path / "long")
    means = longer.groupby("step")["reward_filtered"].mean()
    last = means.index[(means.index >= 6) & (means >= means[6:].median())][0]
    limit = {"terminate": {"mean_reward": float(means[last]), "min_steps": 7}}
    config = config | {"callbacks": config["callbacks"] | limit}
    posttrain.run(config, tmp_path / "whole")
    trace, manifest = read_trace(tmp_path / "whole"), manifest_of(tmp_path / "whole")
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "mean_reward")
    assert trace["step"].max() == last < 19
    pd.testing.assert_frame_equal(trace, longer[: len(trace)], check_exact=True)

    killed(config, tmp_path / "killed", 5, last, "policy")
    posttrain.run(config, tmp_path / "killed")
    again = manifest_of(tmp_path / "killed")
    for key in ("status", "ended_by", "results", "config_hash"):
        assert again[key] == manifest[key]
    pd.testing.assert_frame_equal(read_trace(tmp_path / "killed"), trace, check_exact=True)


def test_it_is_part_of_the_identity_where_it_is_given(config):
    assert "terminate" not in CallbacksConfig().model_dump(mode="json")
    given = CallbacksConfig(terminate=TerminationConfig(mean_reward=0.5))
    dumped = given.model_dump(mode="json")
    assert dumped["terminate"] == {"mean_reward": 0.5, "min_steps": 50}
    config["callbacks"] = {"terminate": {"mean_reward": 1.5}}
    with pytest.raises(InputError, match=r"terminate.mean_reward: should be less than or equal to"):
        load_config(PosttrainConfig, config)
    config["callbacks"] = {"terminate": {"min_steps": 5}}
    with pytest.raises(InputError, match=r"terminate: nothing ends it: give one or more of"):
        load_config(PosttrainConfig, config)
