"""Pretraining in two processes: the model of one, in a pipeline too, and resumed to the bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_runs import TAGGED as LM
from small_runs import TINY, manifest_of, same_run, weights_of, write_corpus

from chemkl.config import InputError
from chemkl.stages import pipeline
from chemkl.stages.registry import STAGES

TRAINER = {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False}
SMALL = TINY | {
    "valid_molecules": 30,
    "epochs": 1,
    "samples_per_epoch": 10,
    "checkpoint_every": 3,
    "trainer": TRAINER,
}
TAGGED = SMALL | {key: LM[key] for key in ("conditions", "model", "train_molecules", "batch_size")}
ONE = {"trainer": TRAINER | {"devices": 1}}


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
    one, two = (weights_of(tmp_path / name) for name in ("one", "prior"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


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
    same_run(out, tmp_path / "whole", but=("train/", "lr-"))


@pytest.fixture
def tuning(tmp_path):
    """Settings that fine-tune a model, by weights, until the validation NLL falls no more."""
    smiles = ["CCO", "CCN", "CCC", "CCCC", "NCCO", "CCCl", "c1ccncc1", "CCCN", "CCCO", "COC"] * 2
    weights = [1.0 + (i % 3) for i in range(len(smiles))]
    corpus = write_corpus(tmp_path / "few", smiles=smiles, split="train", weight=weights)
    short = SMALL | {"trainer": ONE["trainer"] | {"max_steps": 4}}
    prior = STAGES["pretrain"].run(short, tmp_path / "prior")
    own = {"corpus": corpus, "init": str(prior), "valid_split": None, "patience": 2}
    own |= {"batch_size": 6, "epochs": 40, "learning_rate": 0.03, "warmup_steps": 0}
    return {name: value for name, value in SMALL.items() if name != "model"} | own


@pytest.mark.parametrize("notebook", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fine_tuning_by_weights_with_patience_is_that_of_one(
    tuning, tmp_path, monkeypatch, notebook
):
    connector = "lightning.pytorch.trainer.connectors.accelerator_connector"
    monkeypatch.setattr(f"{connector}._IS_INTERACTIVE", notebook)  # there Lightning would fork
    folders = tmp_path / "two", tmp_path / "one"
    for folder, changes in zip(folders, ({}, ONE), strict=True):
        STAGES["pretrain"].run(tuning | changes, folder)
    two, one = map(manifest_of, folders)
    assert two["ended_by"] == one["ended_by"] == "patience"
    assert two["results"]["valid/nll"] == pytest.approx(one["results"]["valid/nll"], abs=1e-4)
    torch.testing.assert_close(*map(weights_of, folders), rtol=0, atol=1e-4)


def test_patience_does_not_go_with_processes_that_are_forked(tuning, tmp_path):
    forks = {"trainer": TRAINER | {"strategy": "ddp_fork"}}
    with pytest.raises(InputError, match=r"strategy: ddp_fork: .* leave out strategy or patience"):
        STAGES["pretrain"].run(tuning | forks, tmp_path / "run")
    assert not (tmp_path / "run").exists()
