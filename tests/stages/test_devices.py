"""Training in two processes gives the run of one, with exact calls, and resumes bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import CONFIG as PLAIN
from small_runs import FILTERED, QED, TINY, manifest_of, same_run, weights_of, write_corpus
from small_runs import TAGGED as LM

from chemkl.config import InputError
from chemkl.results import read_trace
from chemkl.stages import pipeline, posttrain
from chemkl.stages.registry import STAGES

CONFIG = PLAIN | FILTERED | {"reward": QED, "budget": 70}
CONFIG["trainer"] = {"accelerator": "cpu", "devices": 2}
ONE = {"trainer": {"accelerator": "cpu"}}


@pytest.fixture
def config(tiny_prior, monkeypatch):
    # also where there is one
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    return {"prior": str(tiny_prior), **CONFIG}


def nearly_same_run(single, second):
    """Every column of the trace and the weights, to rounding."""
    pd.testing.assert_frame_equal(read_trace(single), read_trace(second), rtol=0, atol=1e-3)
    torch.testing.assert_close(weights_of(single), weights_of(second), rtol=0, atol=1e-4)


@pytest.fixture
def as_one(config, tmp_path):
    """Make a run in two processes, and in one; they are the same. Give the trace."""

    def make(changes):
        posttrain.run(config | changes, tmp_path / "two")
        posttrain.run(config | changes | ONE, tmp_path / "one")
        nearly_same_run(tmp_path / "one", tmp_path / "two")
        return read_trace(tmp_path / "two")

    return make


def test_two_processes_have_one_memory(as_one):
    memory = {"memory": {"capacity": 60, "rows": 7}, "updates_per_batch": 2, "augment": True}
    assert as_one(memory)["is_replay"].sum() > 20


@pytest.mark.slow
@pytest.mark.parametrize("screen", ["prior", "surrogate"])
def test_two_processes_explore_as_one(as_one, screen):
    explores = {"calls": 5, "every": 2, "parents": 20, "refit": 2, "screen": screen}
    trace = as_one({"memory": {"capacity": 60, "rows": 7}, "exploration": explores})
    assert (trace["origin"].ne("policy") & ~trace["is_replay"]).any()
    assert trace["call"].dropna().tolist() == list(range(1, 71))


def test_two_processes_make_the_run_of_one(as_one, tmp_path, capfd):
    trace = as_one({})
    output = capfd.readouterr().err
    assert trace["call"].dropna().tolist() == list(range(1, 71))
    assert trace["canonical_smiles"][trace["call"].notna()].is_unique
    order = list(zip(trace["step"], trace["row"], strict=True))
    assert order == sorted(order)
    assert trace.groupby("step").size().tolist()[:-1] == [16] * trace["step"].max()
    manifest = manifest_of(tmp_path / "two")
    assert (manifest["status"], manifest["precision"]["devices"]) == ("complete", 2)
    of_two = [line for line in output.splitlines() if line.startswith(f"{tmp_path / 'two'}: ")]
    assert len([line for line in of_two if "ended by budget" in line]) == 1
    assert "Initializing" not in output


def test_a_run_keeps_its_number_of_devices(config, tmp_path):
    posttrain.run(config | ONE | {"budget": 20}, tmp_path)
    with pytest.raises(InputError, match=r"trainer\.devices: \(absent\) in the folder, 2 in the"):
        posttrain.run(config, tmp_path)
    with pytest.raises(InputError, match=r"began on 1 devices, not 4, and only as many"):
        posttrain._check_devices(1, SimpleNamespace(world_size=4), tmp_path)  # devices: auto


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 15}, "batch_size: 15 rows cannot be divided evenly among 2 devices"),
        ({"trainer": {"accelerator": "cpu", "devices": 3}}, "devices: 3: .* 2 processors"),
        ({"trainer": {"accelerator": "gpu", "devices": 2}}, "cannot be used on this machine"),
        ({"trainer": {"accelerator": "cpu", "num_nodes": 2}}, "num_nodes: 2: this process cannot"),
    ],
)
def test_impossible_devices_are_refused(config, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        posttrain.run(config | changes, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- slow: processes that end, and what else goes in parts


COUNTING = '''
import os
def chain(smiles: str) -> float:
    """Its length.

    Unit: letters
    Range: 0 to 100
    """
    with open({path!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{smiles}}\\n")
    if {fails!r} and os.environ.get("LOCAL_RANK") == "1":
        exec({fails!r})
    return len(smiles) / 100
'''


def counting(folder, fails=""):
    (folder / "own.py").write_text(COUNTING.format(path=str(folder / "asked.txt"), fails=fails))
    of_file = {"kind": "python_function", "parameters": {"function": f"{folder / 'own.py'}:chain"}}
    return {"components": [of_file | {"transform": {"kind": "sigmoid", "low": 0, "high": 1}}]}


@pytest.mark.slow
def test_each_process_scores_a_share_and_no_molecule_twice(config, tmp_path):
    posttrain.run(config | {"reward": counting(tmp_path)}, tmp_path / "run")
    scored = [line.split() for line in (tmp_path / "asked.txt").read_text().splitlines()]
    trace = read_trace(tmp_path / "run")
    assert sorted(smiles for _, smiles in scored) == sorted(
        trace["canonical_smiles"][trace["call"].notna()]
    )
    shares = pd.Series([pid for pid, _ in scored]).value_counts()
    assert len(shares) == 2
    assert shares.min() > 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "msc"},
        {"estimator": "trajectory_balance", "target": {"kind": "gibbs", "sigma": 20}},
        {"estimator": {"kind": "forward_kl", "reference": "prior"},
         "target": {"kind": "gibbs", "sigma": 20}},
        {"estimator": "f_dpg", "shaper": "set_diversity"},
        {"max_samples": 40},
        {"memory": {"draw": "hits"}},
        {"stages": [{"until": {"samples": 32}}, {"estimator": "rloo", "learning_rate": 1e-3}]},
        {"stages": [
            {"reward": {"components": [{"kind": "csp3_fraction"}]}, "estimator": "msc",
             "until": {"samples": 32}},
            {"until": {"calls": 15}},
            {"learning_rate": 1e-3},
         ],
         "target": {"kind": "mara", "beta": 0.05, "tau": 0.3,
                    "schedule": {"tau": {"kind": "quantile", "quantile": 0.5, "steps": 2}}}},
    ],
    ids=["msc", "trajectory_balance", "prior", "shaper", "cut", "memory", "stages", "curriculum"],
)  # fmt: skip
def test_other_kinds_of_run_equal_those_of_one_process(as_one, changes):
    as_one(changes)


@pytest.fixture
def start(config, tmp_path):
    """Start the command in another process."""

    def begin(out, **changes):
        file = tmp_path / "config.json.yaml"
        file.write_text(json.dumps(config | changes))
        command = [sys.executable, "-m", "chemkl", "posttrain", str(file), "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    return begin


def further(process):
    """The further process that a process has started; waited for."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        for pid in children.read_text().split():
            if b"chemkl.stages.registry" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        time.sleep(0.05)


LONG = {"budget": 100_000, "max_samples": 1200, "learning_rate": 5e-4}


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["first", "further", "signalled"])
def test_one_process_killed_ends_the_run_and_it_resumes_to_the_bit(start, tmp_path, whom):
    whole = start(tmp_path / "whole", **LONG)
    assert whole.wait() == 0
    out = tmp_path / "run"
    process = start(out, **LONG)
    second = further(process)
    while not (out / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    began = time.monotonic()
    pid = second if whom == "further" else process.pid
    os.kill(pid, signal.SIGTERM if whom == "signalled" else signal.SIGKILL)
    output = process.communicate()[1].decode()
    while Path(f"/proc/{second}").exists():
        time.sleep(0.05)
    assert time.monotonic() - began < 30
    assert process.returncode == {"first": -9, "further": 1, "signalled": 143}[whom]
    if whom == "further":
        assert re.search(
            "process 1 of this run was killed by SIGKILL, so this one ends too", output
        )
    assert "Traceback" not in output
    assert start(out, **LONG).wait() == 0
    same_run(tmp_path / "whole", out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("import torch; torch.Tensor.backward = None", 1, "'NoneType' object is not callable"),
        (
            "from chemkl.rewards.scoring import _Case; _Case.result = None",
            1,
            "process 1: TypeError",
        ),
        ("os._exit(7)", 1, "process 1 of this run ended with 7, so this one ends too"),
    ],
    ids=["learning", "scoring", "end"],
)
def test_an_error_in_one_process_ends_all(start, tmp_path, does, code, says):
    process = start(tmp_path / "run", reward=counting(tmp_path, does))
    second = further(process)
    output = process.communicate()[1].decode()
    assert process.returncode == code
    assert says in output
    assert not Path(f"/proc/{second}").exists()


@pytest.mark.slow
def test_a_process_killed_at_its_start_is_not_waited_for(start, tmp_path):
    began = time.monotonic()
    process = start(tmp_path / "run")
    os.kill(further(process), signal.SIGKILL)
    output = process.communicate()[1].decode()
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert "process 1 of this run was killed by SIGKILL, so this one ends too" in output


@pytest.mark.slow
def test_a_longer_run_on_two_devices_equals_one_as_long_from_the_start(config, tmp_path):
    posttrain.run(config | {"budget": 30}, tmp_path / "run")
    posttrain.run(config | {"budget": 90}, tmp_path / "run")
    posttrain.run(config | {"budget": 90}, tmp_path / "whole")
    same_run(tmp_path / "whole", tmp_path / "run")
    assert np.isfinite(read_trace(tmp_path / "run")["logp_policy"]).all()


@pytest.mark.slow
def test_a_notebook_makes_the_run_of_a_program(config, tmp_path):
    program = tmp_path / "run.py"
    ways = {"program": "", "notebook": "import sys; sys.ps1 = 'In: '\n"}  # by which it is known
    for name, line in ways.items():
        out = str(tmp_path / name)
        call = f"from chemkl.stages import posttrain\nposttrain.run({config!r}, {out!r})\n"
        program.write_text(line + call)
        subprocess.run([sys.executable, program], check=True)
    same_run(tmp_path / "program", tmp_path / "notebook")


def test_two_processes_hold_the_parts_that_one_holds(as_one):
    generator = {"kind": "decorate", "scaffolds": ["*C1CCCC1", "*CCCN*"], "choices": 3}
    assert as_one({"generator": generator, "budget": 40})["prompt"].nunique() == 2


# ---- pretraining

ON_TWO = {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False}
SMALL = TINY | {
    "valid_molecules": 30,
    "epochs": 1,
    "samples_per_epoch": 10,
    "checkpoint_every": 3,
    "trainer": ON_TWO,
}
SMALL_TAGGED = SMALL | {
    key: LM[key] for key in ("conditions", "model", "train_molecules", "batch_size")
}
ON_ONE = {"trainer": ON_TWO | {"devices": 1}}


def test_in_a_pipeline_it_runs_once_and_what_follows_takes_its_model(tmp_path, capfd):
    short = SMALL | {"trainer": ON_TWO | {"max_steps": 4}}
    model = "${prior}/checkpoints/policy.safetensors"
    stages = [
        {"stage": "pretrain", "name": "prior", "config": short},
        {"stage": "sample", "name": "new", "config": {"policy": model, "n": 5}},
    ]
    outcomes = pipeline.run({"name": "two", "stages": stages}, tmp_path)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    output = "".join(capfd.readouterr())
    assert output.count("sample starts in") == output.count("pretrain starts in") == 1
    assert output.count("precision 32-true") == 1
    manifest = manifest_of(tmp_path / "prior")
    assert (manifest["status"], manifest["resumed"]) == ("complete", [])
    assert manifest["ended_by"] == "max_steps"
    assert manifest["precision"]["devices"] == 2
    starts = [json.loads(line) for line in (tmp_path / "prior/log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in starts].count("start") == 1
    STAGES["pretrain"].run(
        short | {"trainer": ON_ONE["trainer"] | {"max_steps": 4}}, tmp_path / "one"
    )
    single, two = (weights_of(tmp_path / name) for name in ("one", "prior"))
    torch.testing.assert_close(single, two, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings", "number"),
    [("pretrain", SMALL, signal.SIGTERM), ("pretrain", SMALL | {"randomise": True}, signal.SIGKILL),
     ("pretrain_llm", SMALL_TAGGED, signal.SIGTERM)],
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
    output = process.communicate()[1].decode()
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert "Traceback" not in output
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
    short = SMALL | {"trainer": ON_ONE["trainer"] | {"max_steps": 4}}
    prior = STAGES["pretrain"].run(short, tmp_path / "prior")
    settings = {"corpus": corpus, "init": str(prior), "valid_split": None, "patience": 2}
    settings |= {"batch_size": 6, "epochs": 40, "learning_rate": 0.03, "warmup_steps": 0}
    return {name: value for name, value in SMALL.items() if name != "model"} | settings


@pytest.mark.parametrize("notebook", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fine_tuning_by_weights_with_patience_is_that_of_one(
    tuning, tmp_path, monkeypatch, notebook
):
    connector = "lightning.pytorch.trainer.connectors.accelerator_connector"
    monkeypatch.setattr(f"{connector}._IS_INTERACTIVE", notebook)  # there Lightning would fork
    folders = tmp_path / "two", tmp_path / "one"
    for folder, changes in zip(folders, ({}, ON_ONE), strict=True):
        STAGES["pretrain"].run(tuning | changes, folder)
    two, single = map(manifest_of, folders)
    assert two["ended_by"] == single["ended_by"] == "patience"
    assert two["results"]["valid/nll"] == pytest.approx(single["results"]["valid/nll"], abs=1e-4)
    torch.testing.assert_close(*map(weights_of, folders), rtol=0, atol=1e-4)


def test_patience_does_not_go_with_processes_that_are_forked(tuning, tmp_path):
    forks = {"trainer": ON_TWO | {"strategy": "ddp_fork"}}
    with pytest.raises(InputError, match=r"strategy: ddp_fork: .* leave out strategy or patience"):
        STAGES["pretrain"].run(tuning | forks, tmp_path / "run")
    assert not (tmp_path / "run").exists()
