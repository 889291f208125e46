"""Jobs of a pipeline side by side: order, failures, environment, equal results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from small_runs import CONFIG, QED, SILENT, same_run

from chemkl.processes import n_cores
from chemkl.results import Manifest
from chemkl.results.manifest import read_log
from chemkl.stages import pipeline

RUN = [sys.executable, "-P", "-m", "chemkl", "run"]


def prepared(name, file):
    source = {"kind": "file", "path": file}
    split = {"kind": "random", "test": 0.3, "valid": 0}
    config = {"source": source, "split": split, "n_workers": 1}
    return {"stage": "prepare", "name": name, "config": config}


def scored(name, corpus):
    config = {"file": f"${{{corpus}}}/corpus.parquet", "reward": QED}
    return {"stage": "score", "name": name, "config": config}


@pytest.fixture
def mixed(tmp_path, monkeypatch, real_smiles):
    """A pipeline in which one of two corpora cannot be made."""
    monkeypatch.chdir(tmp_path)
    Path("good.smi").write_text("\n".join(real_smiles[:40]))
    Path("bad.smi").write_text("C1\nnothing\n")
    stages = [
        prepared("bad", "bad.smi"),
        scored("of_bad", "bad"),
        prepared("good", "good.smi"),
        scored("of_good", "good"),
    ]
    Path("p.yaml").write_text(yaml.safe_dump({"name": "mixed", "stages": stages}))


def test_a_failure_ends_those_alone_that_need_it(mixed, chemkl, capsys):
    assert chemkl("run", "p.yaml", "--jobs", 2) == 2
    lines = capsys.readouterr().out.splitlines()
    failed = next(line for line in lines if "bad: failed after" in line)
    assert "(see runs/mixed/_logs/bad.log)" in failed
    assert Path("runs/mixed/_logs/bad.log").read_text().splitlines()[-1] in failed
    assert "[2/4] of_bad: not run: it reads bad" in lines
    assert any(line.startswith("[4/4] of_good: done in") for line in lines)
    assert not Path("runs/mixed/of_bad").exists()
    assert len(pd.read_parquet("runs/mixed/of_good/scores.parquet")) > 20
    Path("bad.smi").write_text(Path("good.smi").read_text())
    assert chemkl("run", "p.yaml", "--jobs", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("complete, skipped" in line for line in lines) == 2


def test_a_pipeline_given_as_data_runs_side_by_side_too(mixed):
    data = yaml.safe_load(Path("p.yaml").read_text())
    outcomes = pipeline.run(data, "elsewhere", only="prepare", jobs=2)
    assert [(first.name, first.status, first.code) for first in outcomes] == [
        ("bad", "failed", 2),
        ("good", "done", 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", 0), "--jobs 0: should be 1 or more"),
        (("--job", "goood"), "--job goood: the pipeline has no such job; did you mean 'good'"),
    ],
)
def test_what_cannot_be_run(mixed, chemkl, capsys, arguments, message):
    assert chemkl("run", "p.yaml", *arguments) == 2
    assert message in capsys.readouterr().err


def test_one_job_alone_is_run_without_a_look_at_the_others(mixed, chemkl):
    data = yaml.safe_load(Path("p.yaml").read_text())
    data["stages"][0]["config"]["sourc"] = 1
    Path("p.yaml").write_text(yaml.safe_dump(data))
    assert chemkl("run", "p.yaml", "--job", "good") == 0
    assert Manifest.load("runs/mixed/good").status == "complete"


@pytest.mark.parametrize(
    ("threads", "n_jobs", "expected"),
    [("", 2, 4), ("3", 2, 3), ("", 3, 2), ("", 20, 1), ("0", 2, 1)],
)
def test_each_job_has_its_share_of_the_cores(monkeypatch, threads, n_jobs, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert pipeline.n_threads(n_jobs) == expected


def test_an_unguarded_script_is_not_run_again_by_its_jobs(mixed):
    Path("mine.py").write_text(
        "import os\n"
        "from chemkl.stages import pipeline\n"
        "print('begins')\n"
        "outcomes = pipeline.run('p.yaml', only='good', jobs=2)\n"
        "print(outcomes[0].status, os.environ.get('PYTHONSAFEPATH'))\n"
    )
    Path("rich.py").write_text("raise SystemExit('the folder is searched for modules')\n")
    ran = subprocess.run(
        [sys.executable, "-P", "mine.py"], capture_output=True, text=True, check=False
    )
    lines = ran.stdout.splitlines()
    assert (lines.count("begins"), lines[-1]) == (1, "done None"), ran.stderr
    assert "begins" not in Path("runs/mixed/_logs/good.out").read_text()


def test_workers_after_jobs_have_the_environment_of_their_parent(mixed):
    Path("both.py").write_text(
        "import os, sys\n"
        "from chemkl.rewards.pool import Pool\n"
        "from chemkl.stages import pipeline\n"
        "def tell(_):\n"
        "    threads = sys.modules['torch'].get_num_threads()\n"
        "    return os.environ.get('PYTHONSAFEPATH'), os.environ['OMP_NUM_THREADS'], threads\n"
        "def build(_):\n"
        "    return {'tell': tell}\n"
        "if __name__ == '__main__':\n"
        "    pipeline.start_server(['torch'], 64)\n"
        "    pipeline.run('p.yaml', only='good', jobs=64)\n"
        "    with Pool(build, 1) as pool:\n"
        "        print(*pool.run('tell', [0]))\n"
    )
    threads = os.environ | {"OMP_NUM_THREADS": "2"}
    ran = subprocess.run(
        [sys.executable, "-P", "both.py"], capture_output=True, text=True, check=False, env=threads
    )
    threads = min(2, n_cores())
    assert ran.stdout.splitlines()[-1] == f"(0, (None, '2', {threads}))", ran.stderr


# ---- kills


@pytest.fixture
def grid(tmp_path, monkeypatch, tiny_prior):
    """Four runs of a second or two, and a table of all of them."""
    monkeypatch.chdir(tmp_path)
    every = {"callbacks": SILENT | {"checkpoint_every": 7}}
    config = CONFIG | every | {"prior": str(tiny_prior), "budget": 10_000, "max_samples": 16 * 100}
    stages = [
        {"stage": "posttrain", "name": "run", "config": config, "grid": {"seed": [0, 1, 2, 3]}},
        {"stage": "evaluate", "config": {"runs": ["${run}"], "thresholds": [0.45]}},
    ]
    Path("p.yaml").write_text(yaml.safe_dump({"name": "grid", "stages": stages}))
    return [f"run-seed={seed}" for seed in range(4)]


def same(first, second, names):
    for name in names:
        same_run(first / name, second / name)
    tables = [pd.read_parquet(run / "evaluate/diversity.parquet") for run in (first, second)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_jobs_side_by_side_equal_one_job_at_a_time(grid, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = yaml.safe_load(Path("p.yaml").read_text())
    data["stages"][0]["config"]["max_samples"] = 40
    data["stages"][0]["grid"]["seed"] = [0, 1]
    for n_jobs in (1, 2):
        pipeline.run(data, tmp_path / str(n_jobs), jobs=n_jobs)
    same(tmp_path / "1", tmp_path / "2", grid[:2])
    assert Manifest.load(tmp_path / "2" / grid[0]).precision.threads == 1


@pytest.mark.slow
def test_ten_kills_of_jobs_side_by_side_leave_the_same_runs(grid, tmp_path):
    """In turn all jobs are killed, stopped and interrupted; at last one job is killed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*RUN, "p.yaml", "--out", "whole"], check=True, env=environment)
    out, log = tmp_path / "out", (tmp_path / "log").open("w")
    for kill in range(10):
        command = [*RUN, "p.yaml", "--jobs", "2", "--out", str(out)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        before = parts(out)
        while process.poll() is None and parts(out) < before + 1 + kill % 3:
            time.sleep(0.02)
        time.sleep(kill % 4 / 10)
        assert process.poll() is None, "it is over before ten kills: make the runs longer"
        if kill == 9:
            os.kill(pids_of_jobs(out)[0], signal.SIGKILL)
            assert process.wait() == 1  # the others have gone on to their end
        else:
            number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kill % 3]
            process.send_signal(number)
            assert process.wait() == {9: -9, 15: 143, 2: 130}[number]
        while pids_of_jobs(out):
            time.sleep(0.05)
    subprocess.run([*RUN, "p.yaml", "--jobs", "2", "--out", str(out)], check=True, env=environment)
    same(out, tmp_path / "whole", grid)


def parts(out):
    """Count the parts of traces."""
    return sum(1 for _ in out.glob("run-*/trace/part-*"))


def pids_of_jobs(out):
    """Return the live processes of all that the logs name."""
    events = (event for run in out.glob("run-*") for event in read_log(run))
    pids = [event["pid"] for event in events if event["event"] == "start"]
    return [pid for pid in pids if Path("/proc", str(pid)).exists()]
