"""Runs of language models that are killed, told to end, or made by two processes."""

import json
import os
import signal
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
import yaml
from kills import Forks, Moment, check_kill, moments
from runs import KilledError, assert_same_run
from safetensors.torch import load_file

from chemkl.results import read_trace
from chemkl.stages import posttrain_llm
from chemkl.training import trainer as training_trainer
from chemkl.training.posttrain import Posttrain
from chemkl.training.pretrain import Pretrain

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
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
def whole(forks, tracked_run, tmp_path_factory):
    """A config, and an undisturbed run of it."""
    config, out = tracked_run(max_steps=7, track={"every": 3}), tmp_path_factory.mktemp("whole")
    assert forks.run("posttrain_llm", config, out / "run") == 0
    return config, out / "run"


def results_of(out):
    manifest = json.loads((out / "manifest.json").read_text())
    return [manifest[key] for key in ("status", "ended_by", "results")]


def same(first, second):
    """Bit for bit: trace, answers, adapter, checkpoint, counts."""
    assert_same_run(first, second)
    saved = [
        torch.load(out / "checkpoints" / "last.ckpt", weights_only=True) for out in (first, second)
    ]
    states = [[state["state_dict"], state["optimizer_states"]] for state in saved]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert results_of(first) == results_of(second)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(map(str, moment)))
def test_a_killed_run_ends_as_the_undisturbed_one(forks, whole, tmp_path, moment):
    config, undisturbed = whole
    check_kill(forks, "posttrain_llm", config, tmp_path / "run", moment, undisturbed, same)


def posttrain_config(tracked_run):
    callbacks = {"checkpoint_every": 100, "progress_bar": False}
    return tracked_run(max_steps=6, track={"every": 2}, callbacks=callbacks)


def pretrain_config(_tracked_run):
    return {
        "corpus": str(SAMPLE),
        "conditions": [{"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}],
        "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
        "train_molecules": 320, "valid_molecules": 30, "epochs": 1, "batch_size": 64,
        "warmup_steps": 2, "samples_per_epoch": 6, "checkpoint_every": 100,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "module", "config_of", "name", "code"),
    [
        ("posttrain_llm", Posttrain, posttrain_config, "SIGTERM", 143),
        ("pretrain_llm", Pretrain, pretrain_config, "SIGUSR1", 138),
    ],
)
def test_a_signal_ends_a_run_after_its_step_and_the_run_resumes_there(
    tracked_run, tmp_path, chemkl, capsys, monkeypatch, stage, module, config_of, name, code
):
    config, stopped, whole = tmp_path / "config.yaml", tmp_path / "stopped", tmp_path / "whole"
    config.write_text(yaml.safe_dump(config_of(tracked_run)))
    steps, original = [], module.training_step

    def training_step(self, *arguments):
        steps.append(None)
        if len(steps) == 3:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", training_step)
        assert chemkl(stage, config, "--out", stopped) == code
    assert f"interrupted: {stopped} keeps everything up to" in capsys.readouterr().err
    assert results_of(stopped)[:2] == ["interrupted", f"StoppedBySignal: {name}"]
    saved = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert chemkl(stage, config, "--out", stopped) == 0
    assert chemkl(stage, config, "--out", whole) == 0
    assert results_of(stopped) == results_of(whole)
    if stage == "posttrain_llm":
        assert_same_run(stopped, whole)
    else:
        weights = [next((out / "checkpoints").rglob("*.safetensors")) for out in (stopped, whole)]
        torch.testing.assert_close(*map(load_file, weights), rtol=0, atol=0)


LENGTH = '''
import json, os


def length(prompt: str, completion: str) -> float:
    """Pay for length."""
    with open({path!r}, "a") as file:
        file.write(json.dumps([os.getpid(), prompt, completion]) + "\\n")
    return min(1.0, len(completion) / 20)
'''


@pytest.fixture
def shared(tracked_run):
    """Settings of a run by two processes."""
    return tracked_run(
        prompts=["pick", "C"], target={"kind": "mara", "beta": 0.1, "tau": 0.3}, max_steps=7,
        seed=3, trainer={"accelerator": "cpu", "devices": 2},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"kind": "lora", "r": 4, "alpha": 8}, "full"])
def test_two_processes_make_the_run_of_one(shared, tmp_path, adapter):
    posttrain_llm.run(shared | {"adapter": adapter}, tmp_path / "two")
    alone = {"adapter": adapter, "trainer": {"accelerator": "cpu"}}
    posttrain_llm.run(shared | alone, tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two", exactly=False)
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert (manifest["status"], manifest["precision"]["devices"]) == ("complete", 2)
    assert manifest["results"]["steps"] == 7


@pytest.mark.slow
def test_each_process_calls_the_function_for_a_share(shared, tmp_path):
    calls = tmp_path / "calls.jsonl"
    (tmp_path / "own.py").write_text(LENGTH.format(path=str(calls)))
    reward = {"kind": "function", "function": f"{tmp_path / 'own.py'}:length", "failed": 0}
    posttrain_llm.run(shared | {"reward": reward, "track": None}, tmp_path / "run")
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    trace = read_trace(tmp_path / "run")
    scored = trace[trace["answer"].notna()][["prompt", "completion"]].drop_duplicates()
    assert sorted(text for _, *text in lines) == sorted(scored.to_numpy().tolist())
    shares = pd.Series([pid for pid, *_ in lines]).value_counts()
    assert len(shares) == 2
    assert shares.max() - shares.min() <= trace["step"].nunique()
    assert os.getpid() in shares.index


@pytest.mark.slow
def test_a_killed_run_by_two_processes_resumes_to_the_bit(shared, tmp_path, monkeypatch):
    class Kill(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise KilledError

    posttrain_llm.run(shared, tmp_path / "whole")
    build = training_trainer.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            training_trainer, "build_trainer",
            lambda out, settings, callbacks, **fixed: build(
                out, settings, [*callbacks, Kill()], **fixed
            ),
        )  # fmt: skip
        with pytest.raises(KilledError):
            posttrain_llm.run(shared, tmp_path / "run")
    posttrain_llm.run(shared, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
