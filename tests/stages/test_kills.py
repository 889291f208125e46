"""Runs killed by SIGKILL in the middle of what matters end, to the bit, as undisturbed ones do."""

import pytest
import torch
from kills import Forks, Moment, check_kill, moments
from small_runs import ALL_ON, CONFIG, EXPLORES, RUNNING, TINY, checkpoint_of, manifest_of, same_run

from chemkl.policies import read_header
from chemkl.results.manifest import read_log

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
    *moments("chemkl.results.manifest:RunLog.add", [2, 4, 5], ["half"]),
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
    *moments(
        "chemkl.training.posttrain:Posttrain._further_update", [1, 4, 5, 9], ["before", "after"]
    ),
    *moments("chemkl.training.memory:Memory.add", [2, 4], ["before", "after"]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2], ["before", "half", "after"]),
]
EXPLORING = [  # of a run that explores besides
    *moments("chemkl.training.exploration:explore", [2, 3], ["before", "after"]),
    *moments("chemkl.training.exploration:fit_forest", [1, 2], ["before", "after"]),
    *moments("chemkl.rewards.scoring:_answers", [40, 60]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2], ["before", "half", "after"]),
]
FAST = [
    EXPLORING[1],
    FURTHER[4],
    CHANGES[1],
    CHANGES[3],
    CHANGES[6],
    SAMPLING[0],
    SAMPLING[1],  # before the first checkpoint
    SAMPLING[2],
    SCORING[2],
    TRACE[4],
    CHECKPOINT[0],  # behind the first cut of the trace
    CHECKPOINT[4],
    CHECKPOINT[5],
    RENAMES[9],
    END[0],
    END[1],  # in the middle of the merged trace
    END[9],  # before the policy has its name, and behind
    END[10],
    END[13],  # when both traces are there
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
    """Bit for bit: the run, what the policy's file says, the checkpoint."""
    same_run(one, other)
    assert header_of(one) == header_of(other)
    kept = ("global_step", "state_dict", "optimizer_states")
    states = [{key: saved[key] for key in kept} for saved in map(checkpoint_of, (one, other))]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert read_log(one)[-1]["event"] == "end"


def named(name, kills):
    slow = pytest.mark.slow
    return [
        pytest.param(
            name, kill, id="-".join(map(str, (name, *kill))), marks=() if kill in FAST else slow
        )
        for kill in kills
    ]


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *named("posttrain", POSTTRAIN),
        *named("all_on", FURTHER),
        *named("explores", EXPLORING),
        *named("staged", CHANGES),
        *named("pretrain", PRETRAIN),
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(forks, whole, tmp_path, name, moment):
    config, undisturbed = whole(name)
    stage = "pretrain" if name == "pretrain" else "posttrain"
    if name == "staged":
        stages = manifest_of(undisturbed)["results"]["stages"]
        assert [each["ended_by"] for each in stages] == ["samples", "calls", "budget"]
    check_kill(forks, stage, config, tmp_path / "run", moment, undisturbed, same)
