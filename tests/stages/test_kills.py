"""Runs that are killed or stopped by a signal end, bit for bit, as undisturbed ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
import yaml
from kills import Forks, Moment, check_kill, moments
from small_runs import (
    ALL_ON,
    CONFIG,
    EXPLORES,
    RUNNING,
    SILENT,
    TAGGED,
    TINY,
    checkpoint_of,
    manifest_of,
    same_run,
)

from chemkl.policies import read_header
from chemkl.results import Manifest, read_trace
from chemkl.results.manifest import read_log
from chemkl.training.posttrain import Posttrain
from chemkl.training.pretrain import Pretrain

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
    Moment("chemkl.policies.rnn:draw", 30),  # after the first epoch
    *moments("lightning:Trainer.save_checkpoint", [1, 3], ["before", "half", "after"]),
    *moments("os:replace", [3, 7], ["before", "after"]),
]
CURRICULUM = [
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
EXPLORING = [  # of a run that explores too
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
    CHECKPOINT[0],  # after the first cut of the trace
    CHECKPOINT[4],
    CHECKPOINT[5],
    RENAMES[9],
    END[0],
    END[1],  # in the middle of the merged trace
    END[9],  # before and after the policy has its name
    END[10],
    END[13],  # when both traces are there
]


@pytest.fixture(scope="module")
def forks():
    with Forks("posttrain", "pretrain") as forks:
        yield forks


@pytest.fixture(scope="module")
def whole(forks, tiny_prior, tmp_path_factory):
    """Return a config and its undisturbed run, made once."""
    posttrain = CONFIG | RUNNING | {"prior": str(tiny_prior)}
    moving = {"schedule": {"tau": {"kind": "quantile", "quantile": 0.5, "steps": 2}}}
    staged = posttrain | {"stages": CURRICULUM, "target": posttrain["target"] | moving}
    configs = {
        "posttrain": posttrain,
        "pretrain": TINY,
        "staged": staged,
        "all_on": posttrain | ALL_ON,
        "explores": posttrain | ALL_ON | EXPLORES,
    }
    runs = {}

    def get(name):
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp(name) / "whole"
            stage = "pretrain" if name == "pretrain" else "posttrain"
            assert forks.run(stage, configs[name], runs[name]) == 0
        return configs[name], runs[name]

    return get


def header_of(out):
    """What the policy's file says of itself, but for the name of the run."""
    header = read_header(out / "checkpoints" / "policy.safetensors")
    return header | {"provenance": header["provenance"] | {"run_id": ""}}


def same(first, second):
    """Bit for bit: the run, what the policy's file says, the checkpoint."""
    same_run(first, second)
    assert header_of(first) == header_of(second)
    keys = ("global_step", "state_dict", "optimizer_states")
    states = [{key: saved[key] for key in keys} for saved in map(checkpoint_of, (first, second))]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert read_log(first)[-1]["event"] == "end"


def params_of(name, kills):
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
        *params_of("posttrain", POSTTRAIN),
        *params_of("all_on", FURTHER),
        *params_of("explores", EXPLORING),
        *params_of("staged", CHANGES),
        *params_of("pretrain", PRETRAIN),
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(forks, whole, tmp_path, name, moment):
    config, undisturbed = whole(name)
    stage = "pretrain" if name == "pretrain" else "posttrain"
    if name == "staged":
        stages = manifest_of(undisturbed)["results"]["stages"]
        assert [stage["ended_by"] for stage in stages] == ["samples", "calls", "budget"]
    check_kill(forks, stage, config, tmp_path / "run", moment, undisturbed, same)


RUN_IT = """
import json, sys
from chemkl.stages.registry import STAGES
if __name__ == "__main__":
    STAGES[sys.argv[1]].run(json.loads(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["posttrain", "pretrain", "pretrain_llm"])
def test_a_run_killed_at_random_again_and_again_ends_as_the_undisturbed_one(
    stage, tiny_prior, tmp_path
):
    longer = {"epochs": 4, "checkpoint_every": 3, "randomise": True}
    config = {
        "posttrain": CONFIG
        | RUNNING
        | {"prior": str(tiny_prior), "budget": 900, "max_samples": 4000, "learning_rate": 1e-3}
        | {"callbacks": SILENT | {"checkpoint_every": 4}},
        "pretrain": TINY | longer,
        "pretrain_llm": TAGGED | longer,
    }[stage]
    command = [sys.executable, "-c", RUN_IT, stage, json.dumps(config)]
    whole, out, kills = tmp_path / "whole", tmp_path / "killed", 0
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    for longest in (0.5, 1, 2, 3, 4, 5):
        n_starts = count_starts(out)
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL)
        while process.poll() is None and count_starts(out) == n_starts:
            time.sleep(0.01)  # until this process has claimed the folder
        time.sleep(random.uniform(0, longest))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills >= (3 if stage == "posttrain" else 1)  # the others are short
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    same_run(whole, out, but=() if stage == "posttrain" else ("train/", "lr-"))
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (whole, out)]
    assert names[0] == names[1]


def count_starts(out):
    """Count how often a run was started or resumed."""
    return 1 + len(Manifest.load(out).resumed) if (out / "manifest.json").exists() else 0


# ---- signals that stop a run

CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
KEPT = "interrupted: {} keeps everything up to the last checkpoint; the same command continues"
BARE = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 2}
SHORT_PRETRAIN = TINY | {
    "model": TINY["model"] | {"hidden_size": 16},
    "valid_molecules": 40,
    "batch_size": 1024,
    "samples_per_epoch": 8,
    "checkpoint_every": 100,
    "trainer": BARE,
}


@pytest.fixture
def posttrain_config(tiny_prior):
    every = {"callbacks": SILENT | {"checkpoint_every": 100}}
    return CONFIG | every | {"prior": str(tiny_prior), "budget": 10_000, "max_samples": 160}


def write_config(folder, config):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def ended(out):
    manifest = manifest_of(out)
    return manifest["status"], manifest["ended_by"]


same_but_logs = partial(same_run, but=("train/", "lr-"))  # logged since the last start


# ---- training: the step is finished


@pytest.mark.parametrize("name", CODES)
def test_posttrain_finishes_its_step_and_goes_on_from_there(
    posttrain_config, run_once, tmp_path, chemkl, capsys, monkeypatch, name
):
    config, out = write_config(tmp_path, posttrain_config), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        send_at(patch, Posttrain, 3, getattr(signal, name))
        assert chemkl("posttrain", config, "--out", out) == CODES[name]
    assert KEPT.format(out) in capsys.readouterr().err
    assert ended(out) == ("interrupted", f"StoppedBySignal: {name}")
    assert checkpoint_of(out)["next_step"] == 4
    assert read_trace(out)["step"].max() == 3
    assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL
    assert chemkl("posttrain", config, "--out", out) == 0
    same_but_logs(out, run_once("posttrain", posttrain_config))


def send_at(patch, module, step, *numbers):
    """Have signals sent in the middle of a step, counted from 0 in this process."""
    runs, original = [], module.training_step

    def training_step(self, *arguments):
        runs.append(None)
        if len(runs) == step + 1:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, *arguments)

    patch.setattr(module, "training_step", training_step)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("changes", "at", "step"),
    [
        ({}, 2, 3),
        ({}, 6, 7),  # the last batch of an epoch: the checkpoint is written after the validation
        slow({"batch_size": 8000, "epochs": 3}, 1, 2),  # every batch is the last of its epoch
        slow({"trainer": BARE | {"accumulate_grad_batches": 2}}, 2, 2),  # of the optimiser
        slow({"valid_molecules": 20, "trainer": BARE | {"val_check_interval": 2}}, 3, 4),
        slow({}, 13, 14),  # the last one of all
    ],
)
def test_pretrain_finishes_its_step_and_goes_on(
    run_once, tmp_path, chemkl, monkeypatch, changes, at, step
):
    config, out = write_config(tmp_path, SHORT_PRETRAIN | changes), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        send_at(patch, Pretrain, at, signal.SIGTERM)
        assert chemkl("pretrain", config, "--out", out) == 143
    assert ended(out) == ("interrupted", "StoppedBySignal: SIGTERM")
    assert checkpoint_of(out)["global_step"] == step
    assert chemkl("pretrain", config, "--out", out) == 0
    same_but_logs(out, run_once("pretrain", SHORT_PRETRAIN | changes))


# ---- a pipeline


@pytest.fixture
def pipeline(posttrain_config, tmp_path, monkeypatch):
    """Two seeds of a run, one after the other."""
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, posttrain_config)
    entry = {"stage": "posttrain", "config": str(config), "grid": {"seed": [0, 1]}}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({"name": "two", "stages": [entry]}))
    return path


def test_a_pipeline_stops_behind_its_job(pipeline, tmp_path, chemkl, capsys, monkeypatch):
    first, second = (tmp_path / "runs/two" / f"posttrain-seed={seed}" for seed in (0, 1))
    with monkeypatch.context() as patch:
        send_at(patch, Posttrain, 2, signal.SIGTERM)
        assert chemkl("run", pipeline) == 143
    out, err = capsys.readouterr()
    assert KEPT.format(first.relative_to(tmp_path)) in err
    assert "interrupted after" in out
    assert ended(first) == ("interrupted", "StoppedBySignal: SIGTERM")
    assert read_trace(first)["step"].max() == 2
    assert not second.exists()
    assert chemkl("run", pipeline) == 0
    assert chemkl("run", pipeline, "--out", "whole") == 0
    for job in (first, second):
        same_but_logs(job, tmp_path / "whole" / job.name)


def test_a_pipeline_is_stopped_before_its_first_job(
    pipeline, tmp_path, chemkl, capsys, monkeypatch
):
    from chemkl.stages import pipeline as stage

    def plan(*arguments, **options):
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(stage, "plan_pipeline", plan)
    assert chemkl("run", pipeline) == 129
    assert capsys.readouterr().err == (
        "interrupted: no job has begun; the same command starts again.\n"
    )
    assert not (tmp_path / "runs").exists()


# ---- real processes


def command_of(stage, config, out):
    code = "from chemkl.cli import main; main()"
    return [sys.executable, "-c", code, stage, str(config), "--out", str(out)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "name"), [("posttrain", "SIGTERM"), ("pretrain", "SIGUSR1"), ("run", "SIGHUP")]
)
def test_a_process_is_stopped_and_resumes(posttrain_config, pipeline, tmp_path, stage, name):
    out, srun = tmp_path / "stopped", tmp_path / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    long = posttrain_config | {"max_samples": 16 * 300, "reward": {
        "components": [{"kind": "qed"}], "workers": 2}}  # fmt: skip
    config = write_config(
        tmp_path, SHORT_PRETRAIN | {"epochs": 30} if stage == "pretrain" else long
    )
    argument, folder = (pipeline, out / "posttrain-seed=0") if stage == "run" else (config, out)
    process = subprocess.Popen(
        command_of(stage, argument, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    while not list(folder.glob("logs/csv/*")) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1.5)
    os.killpg(process.pid, getattr(signal, name))  # as a terminal or Slurm does
    assert process.wait() == CODES[name]
    err = process.stderr.read()
    assert "keeps everything up to the last checkpoint; the same command continues" in err
    assert "Traceback" not in err
    assert ended(folder) == ("interrupted", f"StoppedBySignal: {name}")
    steps = checkpoint_of(folder)["global_step"]
    assert 0 < steps < 300
    assert not list(out.rglob("hpc_ckpt*"))
    with pytest.raises(ProcessLookupError):  # no worker, no server of workers
        wait_for_group(process.pid)
    for target in (out, tmp_path / "whole"):
        subprocess.run(command_of(stage, argument, target), check=True, env=environment)
    whole = tmp_path / "whole" / (folder.name if stage == "run" else "")
    same_but_logs(folder, whole)


def wait_for_group(group):
    for _ in range(50):
        os.killpg(group, 0)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.3, 1.0, 2.0, 3.0, 4.0])
def test_a_signal_at_the_start_of_a_command_is_no_exit_code_0(posttrain_config, tmp_path, at):
    config = write_config(tmp_path, posttrain_config | {"max_samples": 16 * 300})
    process = subprocess.Popen(
        command_of("posttrain", config, tmp_path / "out"), stderr=subprocess.PIPE, text=True
    )
    time.sleep(at)
    process.send_signal(signal.SIGTERM)
    assert process.wait() in (143, -signal.SIGTERM)  # before Python's first line nothing is set
    assert "Traceback" not in process.stderr.read()
    manifest = Manifest.load(tmp_path / "out")
    assert manifest is None or manifest.status == "interrupted"
