"""Runs of posttrain_llm killed by SIGKILL end, to the bit, as undisturbed ones do."""

import json

import pytest
import torch
from kills import Forks, Moment, check_kill, moments
from runs import assert_same_run

MOMENTS = [
    *moments("chemkl.llm.policy:HfPolicy.complete", [2, 5]),  # sampling
    *moments("chemkl.llm.ledger:TextLedger.score", [3, 5], ["before", "after"]),
    Moment("torch:Tensor.backward", 5),
    *moments("pyarrow.parquet:write_table", [2], ["before", "half", "after"]),
    *moments("lightning:Trainer.save_checkpoint", [1, 2], ["before", "half", "after"]),
    *moments("os:replace", [3, 6, 9, *range(11, 18)], ["before", "after"]),
    *moments("chemkl.results.atomic:write_sums", [1], ["before", "after"]),
    *moments("chemkl.llm.models:save_weights", [1], ["before", "after"]),
]


@pytest.fixture(scope="module")
def forks():
    with Forks("posttrain_llm") as forks:
        yield forks


@pytest.fixture(scope="module")
def config(tracked_run):
    return tracked_run(max_steps=7, track={"every": 3})


@pytest.fixture(scope="module")
def whole(forks, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("llm") / "whole"
    assert forks.run("posttrain_llm", config, out) == 0
    return out


def same(one, other):
    """Bit for bit: trace, answers, adapter, checkpoint, counts."""
    assert_same_run(one, other)
    states, results = [], []
    for out in (one, other):
        saved = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        states.append([saved["state_dict"], saved["optimizer_states"]])
        manifest = json.loads((out / "manifest.json").read_text())
        results.append([manifest[key] for key in ("status", "ended_by", "results")])
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(map(str, moment)))
def test_a_run(forks, config, whole, tmp_path, moment):
    check_kill(forks, "posttrain_llm", config, tmp_path / "run", moment, whole, same)
