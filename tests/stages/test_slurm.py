"""A pipeline in a real Slurm of two nodes: requeued, cancelled, submitted again, and the same."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from small_runs import CONFIG as PLAIN
from small_runs import QED, SILENT

from chemkl.results import Manifest, read_trace
from chemkl.stages.status import status

sys.path.append(str(Path(__file__).parents[1]))
import slurm

CHEMKL = [sys.executable, "-P", "-m", "chemkl"]
REWARD = '''\
"""A reward that takes its time in Slurm: job 0 until requeued, job 1 until cancelled."""
import os, time
from pathlib import Path
from rdkit.Chem import Mol

def slow(mols: list[Mol]) -> list[float]:
    task, here = os.environ.get("SLURM_ARRAY_TASK_ID"), Path(__file__).parent
    whole = os.environ.get("SLURM_ARRAY_TASK_COUNT") == "4"
    if whole and task == "0" and "SLURM_RESTART_COUNT" not in os.environ:
        time.sleep(3.5)
    if task == "1" and not (here / "cancelled").exists():
        (here / "hangs").touch()
        time.sleep(600)
    return [mol.GetNumAtoms() / 16 for mol in mols]
'''


CONFIG = PLAIN | {
    "target": {"kind": "mara", "beta": 0.05, "tau": 0.5},
    "budget": 10_000,
    "callbacks": SILENT | {"checkpoint_every": 100},
}


@pytest.fixture
def pipeline(tmp_path, monkeypatch, tiny_prior):
    """Two methods by two seeds, a table, a comparison and a page."""
    monkeypatch.chdir(tmp_path)
    Path("reward.py").write_text(REWARD)
    function = {"function": "reward.py:slow"}
    transform = {"kind": "sigmoid", "low": 0.2, "high": 0.8}
    component = {"kind": "python_function", "parameters": function, "transform": transform}
    reward = {"components": [component]}
    config = CONFIG | {"prior": str(tiny_prior), "reward": reward, "max_samples": 16 * 60}
    grid = {"target.beta": [0.05, 0.1], "seed": [0, 1]}
    methods = {f"b{b}": [f"${{run-beta={b}-seed={s}}}" for s in (0, 1)] for b in (0.05, 0.1)}
    stages = [
        {"stage": "posttrain", "name": "run", "config": config, "grid": grid},
        {"stage": "evaluate", "config": {"runs": ["${run}"], "thresholds": [0.5]}},
        {"stage": "compare", "config": {"methods": methods, "baseline": "b0.05",
            "table": "${evaluate}/diversity.parquet", "thresholds": [0.5]}},
        {"stage": "report", "config": {"runs": ["${run}"], "threshold": 0.5}},
    ]  # fmt: skip
    Path("p.yaml").write_text(yaml.safe_dump({"name": "grid", "stages": stages}, sort_keys=False))
    return tmp_path


def call(*arguments, code=0):
    done = subprocess.run([*CHEMKL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_for(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, slurm.ask("squeue", "--format=%i %j %T %r")
        time.sleep(1)


def states():
    return {row.name: row.state for row in status(["p.yaml"])}


@pytest.mark.slow
def test_a_grid_requeued_cancelled_and_submitted_again_ends_like_a_local_run(pipeline):
    if slurm.lacking():
        pytest.skip(slurm.lacking())
    arguments = ["submit", "p.yaml", "--set", "posttrain.time=5"]
    names = [f"run-beta={beta}-seed={seed}" for beta in (0.05, 0.1) for seed in (0, 1)]
    os.environ["OMP_NUM_THREADS"] = "1"
    with slurm.one_machine():
        told = call("submit", "p.yaml", "--set", "partition=nope", code=2)
        assert told.splitlines()[-1].startswith(
            "grid-run: Slurm refuses it: invalid partition spec"
        )
        assert slurm.ask("squeue", "-h") == ""
        told = call(*arguments).splitlines()
        assert told[0].startswith("grid-run: job ")
        number = told[0].split()[2].rstrip(",")
        assert "already submitted" in call(*arguments, code=2)

        wait_for((pipeline / "hangs").exists, 300)
        assert states()["evaluate"] == "waiting"
        subprocess.run(["scancel", f"{number}_1"], check=True)
        (pipeline / "cancelled").touch()
        left = ("waiting", "stopped", "failed")
        wait_for(lambda: states()[names[1]] in left and states()["report"] in left, 120)
        told = call(*arguments).splitlines()
        assert [line.split(": job")[0] for line in told] == [
            "grid-run", "grid-evaluate", "grid-compare", "grid-report",
        ]  # fmt: skip
        assert "1 task" in told[0]
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 1200)
        assert states() == dict.fromkeys([*names, "evaluate", "compare", "report"], "done")

    there = pipeline / "runs/grid"
    assert Manifest.load(there / names[0]).resumed, "the first job was not requeued"
    call("run", "p.yaml", "--jobs", "2", "--out", "here")
    for name in names:
        pd.testing.assert_frame_equal(
            read_trace(there / name), read_trace(pipeline / "here" / name), check_exact=True
        )
    for table in ("evaluate/diversity.parquet", "compare/comparison.parquet"):
        frames = [pd.read_parquet(out / table) for out in (there, pipeline / "here")]
        assert len(frames[0])
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    assert (there / "report/report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_on_two_nodes_is_told_to_end_and_goes_on_to_that_of_two_devices(
    tmp_path, monkeypatch, tiny_prior
):
    if slurm.lacking():
        pytest.skip(slurm.lacking())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # the nodes' names are none of this network
    config = CONFIG | {"prior": str(tiny_prior), "reward": QED, "max_samples": 16 * 200}
    for name, devices in {"nodes": {"num_nodes": 2}, "devices": {"devices": 2}}.items():
        trainer = {"trainer": CONFIG["trainer"] | devices}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config | trainer))
    training = [*CHEMKL, "posttrain", "nodes.yaml", "--out", "nodes"]
    step = shlex.join(["srun", "--kill-on-bad-exit=1", *training])
    asked = ["--parsable", "--nodes=2", "--ntasks-per-node=1", "--output=said", f"--wrap={step}"]
    with slurm.one_machine():
        number = slurm.ask("sbatch", *asked).strip()
        logs = tmp_path / "nodes" / "log.jsonl"
        wait_for(lambda: logs.exists() and '"start"' in logs.read_text(), 300)
        wait_for(lambda: list((tmp_path / "nodes/logs").glob("csv/*")), 300)
        subprocess.run(["scancel", "--signal=TERM", number], check=True)
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 120)
        stopped = Manifest.load("nodes")
        assert (stopped.status, stopped.ended_by) == ("interrupted", "StoppedBySignal: SIGTERM")
        assert Path("nodes/checkpoints/last.ckpt").exists()
        slurm.ask("sbatch", *asked)
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 600)
    assert Manifest.load("nodes").status == "complete", Path("said").read_text()
    assert "Traceback" not in Path("said").read_text()
    call("posttrain", "devices.yaml", "--out", "devices")
    pd.testing.assert_frame_equal(read_trace("nodes"), read_trace("devices"), check_exact=True)
