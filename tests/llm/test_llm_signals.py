"""A signal that tells a run of a language model to end: the step is finished, nothing is lost."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from runs import assert_same_run
from safetensors.torch import load_file

from chemkl.training.posttrain import Posttrain
from chemkl.training.pretrain import Pretrain

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"


def posttrain_config(tracked_run):
    callbacks = {"checkpoint_every": 100, "progress_bar": False}
    return tracked_run(max_steps=6, track={"every": 2}, callbacks=callbacks)


def pretrain_config(_tracked_run):
    return {
        "corpus": str(SAMPLE),
        "conditions": [{"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}],
        "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
        "train_molecules": 320,
        "valid_molecules": 30,
        "epochs": 1,
        "batch_size": 64,
        "warmup_steps": 2,
        "samples_per_epoch": 6,
        "checkpoint_every": 100,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }


def results_of(out):
    manifest = json.loads((out / "manifest.json").read_text())
    return [manifest[key] for key in ("status", "ended_by", "results")]


@pytest.mark.parametrize(
    ("stage", "module", "config_of", "name", "code"),
    [
        ("posttrain_llm", Posttrain, posttrain_config, "SIGTERM", 143),
        ("pretrain_llm", Pretrain, pretrain_config, "SIGUSR1", 138),
    ],
)
def test_a_run_finishes_its_step_and_goes_on_from_there(
    tracked_run, tmp_path, chemkl, capsys, monkeypatch, stage, module, config_of, name, code
):
    config, told, whole = tmp_path / "config.yaml", tmp_path / "told", tmp_path / "whole"
    config.write_text(yaml.safe_dump(config_of(tracked_run)))
    made, original = [], module.training_step

    def training_step(self, *arguments):
        made.append(None)
        if len(made) == 3:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", training_step)
        assert chemkl(stage, config, "--out", told) == code
    assert f"interrupted: {told} keeps everything up to" in capsys.readouterr().err
    assert results_of(told)[:2] == ["interrupted", f"StoppedBySignal: {name}"]
    saved = torch.load(told / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert chemkl(stage, config, "--out", told) == 0
    assert chemkl(stage, config, "--out", whole) == 0
    assert results_of(told) == results_of(whole)
    if stage == "posttrain_llm":
        assert_same_run(told, whole)
    else:
        weights = [next((out / "checkpoints").rglob("*.safetensors")) for out in (told, whole)]
        torch.testing.assert_close(*map(load_file, weights), rtol=0, atol=0)
