"""Pretraining in two processes: the model of one, in a pipeline too, and resumed to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chemkl.stages import pipeline
from chemkl.stages.registry import STAGES

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
TRAINER = {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False}
SMALL = {
    "corpus": str(SAMPLE),
    "model": {"embedding_size": 8, "hidden_size": 32, "n_layers": 1, "max_length": 60},
    "valid_molecules": 30,
    "epochs": 1,
    "precision": "32-true",
    "batch_size": 512,
    "learning_rate": 1e-2,
    "samples_per_epoch": 10,
    "checkpoint_every": 3,
    "trainer": TRAINER,
}
TAGGED = SMALL | {
    "conditions": [{"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}],
    "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
    "train_molecules": 640,
    "batch_size": 64,
    "samples_per_epoch": 6,
}
ONE = {"trainer": TRAINER | {"devices": 1}}


def weights_of(folder):
    return load_file(next((folder / "checkpoints").rglob("*.safetensors")))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_in_a_pipeline_it_runs_once_and_what_follows_takes_its_model(tmp_path, capfd):
    short = SMALL | {"trainer": TRAINER | {"max_steps": 4}}
    model = "${prior}/checkpoints/policy.safetensors"
    stages = [
        {"stage": "pretrain", "name": "prior", "config": short},
        {"stage": "sample", "name": "new", "config": {"policy": model, "n": 5}},
    ]
    outcomes = pipeline.run({"name": "two", "stages": stages}, tmp_path)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    told = "".join(capfd.readouterr())
    assert told.count("sample starts in") == told.count("pretrain starts in") == 1
    assert told.count("precision 32-true") == 1
    manifest = manifest_of(tmp_path / "prior")
    assert (manifest["status"], manifest["resumed"]) == ("complete", [])
    assert manifest["ended_by"] == "max_steps"
    assert manifest["precision"]["devices"] == 2
    starts = [json.loads(line) for line in (tmp_path / "prior/log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in starts].count("start") == 1
    STAGES["pretrain"].run(short | {"trainer": ONE["trainer"] | {"max_steps": 4}}, tmp_path / "one")
    for name, value in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(value, weights_of(tmp_path / "prior")[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings", "number"),
    [("pretrain", SMALL, signal.SIGTERM), ("pretrain", SMALL | {"randomise": True}, signal.SIGKILL),
     ("pretrain_llm", TAGGED, signal.SIGTERM)],
)  # fmt: skip
def test_a_run_that_is_ended_goes_on_to_the_same_model(tmp_path, stage, settings, number):
    settings = settings | {"epochs": 3}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(settings))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "chemkl", stage, str(file), "--out", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not (out / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.02)
    os.kill(process.pid, number)
    told = process.communicate()[1].decode()
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert "Traceback" not in told
    STAGES[stage].run(settings, out)
    STAGES[stage].run(settings, tmp_path / "whole")
    assert (manifest_of(out)["status"], len(manifest_of(out)["resumed"])) == ("complete", 1)
    one, other = weights_of(out), weights_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)
    results = [manifest_of(folder)["results"] for folder in (out, tmp_path / "whole")]
    assert results[0]["valid/nll"] == results[1]["valid/nll"]
