"""Runs killed by SIGKILL in the middle of what matters end, to the bit, as undisturbed ones do."""

import json

import pandas as pd
import pytest
import torch
from kills import Forks, Moment, check_kill, moments
from safetensors.torch import load_file
from test_exploration_stage import EXPLORES
from test_memory_stage import ALL_ON
from test_posttrain_stage import CONFIG, RUNNING
from test_pretrain_stage import TINY

from chemkl.policies import read_header
from chemkl.results import read_trace
from chemkl.results.log import read_log

SAMPLING = moments("chemkl.policies.rnn:draw", [1, 20, 45, 70])
SCORING = moments("chemkl.rewards.scoring:_answers", [1, 41, 120, 190])
LEARNING = moments("torch:Tensor.backward", [1, 4, 6], ["before", "after"])
TRACE = [
    *moments("pyarrow.parquet:write_table", [1, 2, 3], ["before", "half", "after"]),
    *moments("chemkl.results.trace:seal", [2], ["before", "after"]),
]
CHECKPOINT = [
    *moments("lightning:Trainer.save_checkpoint", [1, 2, 3], ["before", "half", "after"]),
    *moments("chemkl.results.atomic:seal", [3], ["before", "after"]),
]
RENAMES = moments("os:replace", range(1, 9), ["before", "after"])
END = [
    *moments("pyarrow.parquet:write_table", [4], ["before", "half", "after"]),  # the merged trace
    *moments("os:replace", range(9, 14), ["before", "after"]),
    *moments("shutil:rmtree", [2], ["before", "after"]),
    *moments("chemkl.results.log:RunLog.add", [2, 4, 5], ["half"]),
]
POSTTRAIN = [*SAMPLING, *SCORING, *LEARNING, *TRACE, *CHECKPOINT, *RENAMES, *END]
PRETRAIN = [
    Moment("torch:Tensor.backward", 8),
    Moment("chemkl.policies.rnn:draw", 30),  # behind the first epoch
    *moments("lightning:Trainer.save_checkpoint", [1, 3], ["before", "half", "after"]),
    *moments("os:replace", [3, 7], ["before", "after"]),
]
STAGES = [
    {
        "reward": {"components": [{"kind": "csp3_fraction"}]},
        "target": {"kind": "gibbs", "sigma": 20},
        "estimator": "trajectory_balance",
        "learning_rate": 1e-3,
        "until": {"samples": 48},
    },
    {"estimator": "msc", "until": {"calls": 20}},
    {"keep_filter": True},
]
CHANGES = [
    # the first entry is at the start; 2 and 3 are at the changes
    *moments("chemkl.training.curriculum:Curriculum.begin", [2, 3], ["before", "after"]),
    *moments("chemkl.rewards.scoring:_answers", [60, 90]),
    *moments("torch:Tensor.backward", [5, 6]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2, 3], ["half", "after"]),
]
FURTHER = [  # of a run with a memory and three updates a batch, in other spellings
    *moments("chemkl.training.posttrain:Posttrain._again", [1, 4, 5, 9], ["before", "after"]),
    *moments("chemkl.training.memory:Memory.add", [2, 4], ["before", "after"]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2], ["before", "half", "after"]),
]
EXPLORING = [  # of a run that explores besides
    *moments("chemkl.training.exploration:explore", [2, 3], ["before", "after"]),
    *moments("chemkl.training.exploration:fitted", [1, 2], ["before", "after"]),
    *moments("chemkl.rewards.scoring:_answers", [40, 60]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2], ["before", "half", "after"]),
]
FAST = [
    EXPLORING[1],
    FURTHER[4],
    CHANGES[1],
    CHANGES[3],
    CHANGES[6],
    SAMPLING[2],
    SCORING[2],
    TRACE[4],
    CHECKPOINT[4],
    RENAMES[9],
]


@pytest.fixture(scope="module")
def forks():
    with Forks("posttrain", "pretrain") as forks:
        yield forks


@pytest.fixture(scope="module")
def whole(forks, tiny_prior, tmp_path_factory):
    """The config of a stage, and an undisturbed run of it, made when it is first asked for."""
    posttrain = CONFIG | RUNNING | {"prior": str(tiny_prior)}
    moving = {"schedule": {"tau": {"kind": "quantile", "quantile": 0.5, "steps": 2}}}
    staged = posttrain | {"stages": STAGES, "target": posttrain["target"] | moving}
    configs = {
        "posttrain": posttrain,
        "pretrain": TINY,
        "staged": staged,
        "all_on": posttrain | ALL_ON,
        "explores": posttrain | ALL_ON | EXPLORES,
    }
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "whole"
            stage = "pretrain" if name == "pretrain" else "posttrain"
            assert forks.run(stage, configs[name], made[name]) == 0
        return configs[name], made[name]

    return get


def header_of(out):
    """What the policy's file says of itself, but for the name of the run."""
    header = read_header(out / "checkpoints" / "policy.safetensors")
    return header | {"provenance": header["provenance"] | {"run_id": ""}}


def same(one, other):
    """Bit for bit: the trace, the policy's file, the checkpoint, the counts."""
    if (other / "trace").exists():
        pd.testing.assert_frame_equal(read_trace(one), read_trace(other), check_exact=True)
    assert header_of(one) == header_of(other)
    weights, states, results = [], [], []
    for out in (one, other):
        weights.append(load_file(out / "checkpoints" / "policy.safetensors"))
        saved = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        kept = ("global_step", "state_dict", "optimizer_states")
        states.append({key: saved[key] for key in kept})
        manifest = json.loads((out / "manifest.json").read_text())
        results.append([manifest[key] for key in ("status", "ended_by", "results", "config_hash")])
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert results[0] == results[1]
    assert read_log(one)[-1]["event"] == "end"


def named(kills):
    slow = pytest.mark.slow
    return [
        pytest.param(kill, id="-".join(map(str, kill)), marks=() if kill in FAST else slow)
        for kill in kills
    ]


@pytest.mark.parametrize("moment", named(POSTTRAIN))
def test_a_run_of_posttrain(forks, whole, tmp_path, moment):
    config, undisturbed = whole("posttrain")
    check_kill(forks, "posttrain", config, tmp_path / "run", moment, undisturbed, same)


@pytest.mark.parametrize("moment", named(FURTHER))
def test_a_run_with_a_memory_and_further_updates(forks, whole, tmp_path, moment):
    config, undisturbed = whole("all_on")
    check_kill(forks, "posttrain", config, tmp_path / "run", moment, undisturbed, same)


@pytest.mark.parametrize("moment", named(EXPLORING))
def test_a_run_that_explores(forks, whole, tmp_path, moment):
    config, undisturbed = whole("explores")
    check_kill(forks, "posttrain", config, tmp_path / "run", moment, undisturbed, same)


@pytest.mark.parametrize("moment", named(CHANGES))
def test_a_run_of_several_stages(forks, whole, tmp_path, moment):
    config, undisturbed = whole("staged")
    stages = json.loads((undisturbed / "manifest.json").read_text())["results"]["stages"]
    assert [stage["ended_by"] for stage in stages] == ["samples", "calls", "budget"]
    check_kill(forks, "posttrain", config, tmp_path / "run", moment, undisturbed, same)


@pytest.mark.parametrize("moment", named(PRETRAIN))
def test_a_run_of_pretrain(forks, whole, tmp_path, moment):
    config, undisturbed = whole("pretrain")
    check_kill(forks, "pretrain", config, tmp_path / "run", moment, undisturbed, same)
