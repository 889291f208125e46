"""Executors: equal values and failures, no molecule scored twice, no process left."""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import oracle
import pandas as pd
import pytest
import slurm
import yaml
from building import alive, part, soon

from chemkl.config import InputError
from chemkl.results import read_trace
from chemkl.rewards import RewardModel, TransientError, registry
from chemkl.rewards import model as engine

LOCAL = {"kind": "parsl", "provider": "local", "lost_after": 5}
FATES = {
    "bad": "component own failed: ValueError: cannot be docked (oracle.py:30)",
    "hang": "component own failed: timeout after 1 s",
    "crash": "component own failed: the worker died (SIGSEGV)",
}


def reward_of(folder, executor, seconds=0.0, **settings):
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    given = {"seconds": seconds, "notes": str(notes)}
    own = part("python_function", 0, 10, function=f"{oracle.__file__}:score", parameters=given)
    if executor != "process":
        executor = {**executor, "folder": str(folder / "parsl")}
    components = [{"kind": "qed"}, {**own, "name": "own"}]
    rest = {"executor": executor, "workers": 2, "timeout": 1.0}
    return {"components": components, **rest, **settings}


def calls(folder):
    """The number of the oracle's calls by molecule."""
    notes = (line for file in (folder / "notes").iterdir() for line in file.open())
    return Counter(line.strip() for line in notes)


def started_with(mark):
    """The living processes with a variable in their environment, whatever their parents."""
    pids = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}".encode() in file.read_bytes().split(b"\0"):
                pids.add(int(file.parent.name))
    return set(filter(alive, pids))


@pytest.fixture(scope="module")
def molecules(real_smiles):
    """Two of each rare fate, and twelve that are fine."""
    chosen, missing = [], dict.fromkeys(oracle.FATES, 2) | {"fine": 12}
    for smiles in real_smiles:
        if missing[oracle.fate(smiles)]:
            missing[oracle.fate(smiles)] -= 1
            chosen.append(smiles)
    assert not any(missing.values())
    return chosen


@pytest.mark.parametrize(
    ("executor", "workers"),
    [("process", 1), ("process", 2), pytest.param(LOCAL, 2, marks=pytest.mark.slow)],
)
def test_every_executor_meets_the_same_failures(tmp_path, molecules, executor, workers):
    # quicker molecules would be sent together, and scored again if one of them kills the worker
    reward = reward_of(tmp_path, executor, seconds=0.05, workers=workers)
    with RewardModel.from_config(reward) as model:
        rows = model.score(molecules)
        again = model.score(molecules[::-1])
        counts = model.failures["own"]
    fates = [oracle.fate(smiles) for smiles in molecules]
    assert rows["smiles"].tolist() == molecules
    assert rows["reason"].fillna("").tolist() == [FATES.get(fate, "") for fate in fates]
    fine = rows["reason"].isna()
    assert rows["raw_own"].equals((rows["smiles"].str.len() / 7).where(fine))
    assert (rows["reward"] > 0).equals(fine)
    lost = [fate in ("hang", "crash") for fate in fates]
    assert rows["raw_qed"].isna().tolist() == lost
    expected = RewardModel.from_config({"components": [{"kind": "qed"}]}).score(molecules)
    assert rows["raw_qed"].equals(expected["raw_qed"].mask(lost))
    assert calls(tmp_path) == {
        smiles: 2 if fate == "unlucky" else 1 for smiles, fate in zip(molecules, fates, strict=True)
    }
    pd.testing.assert_frame_equal(again[::-1].reset_index(drop=True), rows)
    assert (counts.attempts, counts.failed) == (20, 6)
    assert counts.reasons["timeout after 1 s"] == 2
    assert list((tmp_path / "parsl").glob("*")) == []


def test_a_transient_failure_keeps_other_values(register, monkeypatch):
    monkeypatch.setattr(engine, "PAUSE", 0.0)
    luck = iter([False, True, False, False, False])

    def score(mol):
        if not next(luck):
            raise TransientError("the server does not answer")
        return 0.5

    moody, steady = register("moody", score), register("steady", lambda _: 0.25)
    reward = {"components": [{"kind": "moody"}, {"kind": "steady"}]}
    with RewardModel.from_config(reward) as model:
        rows = model.score(["C", "CC"])
        counts = model.failures["moody"]
    assert moody == ["C", "CC", "C", "C"]  # CC succeeds at once, C is tried 1 + retries times
    assert steady == ["C", "CC"]
    assert rows["raw_moody"].fillna(-1).tolist() == [-1, 0.5]
    assert rows["raw_steady"].tolist() == [0.25, 0.25]
    assert rows["reason"][0] == "component moody failed: the server does not answer"
    assert (counts.attempts, counts.failed) == (2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "parsl", "provider": "local", "cores": 4}, "executor.cores: is for provider"),
        (
            {"kind": "parsl", "walltime": "2 h"},
            "executor.walltime: does not have the",
        ),
        ({"kind": "parsl", "walltime": "00:10:00"}, "executor.walltime: should be longer by 60 s"),
        ({"kind": "parsl", "options": ["mem=1G"]}, "executor.options.0: "),
        ({"kind": "parsl", "lost_after": 1}, "executor.lost_after: .* greater than or equal to 5"),
        ({"kind": "parsl", "bloks": 2}, "executor.bloks: not a known key; did you mean 'blocks'"),
        ("parsel", "executor: 'parsel' is not known; did you mean 'parsl'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    reward = {"components": [{"kind": "qed"}], "executor": settings, "timeout": 600}
    with pytest.raises(InputError, match=message):
        RewardModel.from_config(reward)


def test_missing_programs_packages_and_folders_are_named(tmp_path, monkeypatch):
    (tmp_path / "parsl").touch()
    with RewardModel.from_config(reward_of(tmp_path, LOCAL)) as model:
        with pytest.raises(InputError, match=r"Parsl cannot be started: .*File exists: .*parsl"):
            model.score(["C"])
        assert model._engine.pool._held == []
    monkeypatch.setenv("PATH", "/nowhere")
    model = RewardModel.from_config({"components": [{"kind": "qed"}], "executor": "parsl"})
    with pytest.raises(InputError, match="executor: there is no sbatch on this machine's PATH"):
        model.score(["C"])
    monkeypatch.setattr(registry, "package_folder", lambda _name: None)
    with pytest.raises(InputError, match=r"executor parsl needs the package parsl: .* pip install"):
        RewardModel.from_config({"components": [{"kind": "qed"}], "executor": LOCAL})


RUN = """
import signal, sys
import yaml
from chemkl.rewards import RewardModel
signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    model = RewardModel.from_config(yaml.safe_load(open(sys.argv[1])))
    model.score(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_survives_the_run(tmp_path, molecules, sent):
    config, script = tmp_path / "reward.yaml", tmp_path / "run.py"
    config.write_text(yaml.safe_dump(reward_of(tmp_path, LOCAL, seconds=1000, timeout=None)))
    script.write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, str(script), str(config), *molecules],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "MARK": str(tmp_path)},
    )  # fmt: skip
    try:
        assert soon(lambda: len(calls(tmp_path)) == 2, 120)
        assert len(started_with(tmp_path)) > 8  # broker, interchange, manager, workers, their own
        run.send_signal(getattr(signal, sent))
        run.wait(30)
        assert soon(lambda: not started_with(tmp_path), 30)
    finally:
        run.kill()
    assert ("KeyboardInterrupt" in run.stderr.read()) == (sent == "SIGINT")
    assert list((tmp_path / "parsl").glob("*")) == []
    assert len(calls(tmp_path)) == 2


@pytest.mark.slow
def test_workers_that_cannot_start_are_an_error(tmp_path, molecules):
    reward = reward_of(tmp_path, LOCAL)
    with RewardModel.from_config(reward) as model:
        Path(tmp_path, "notes").rmdir()
        broken = dict(reward, components=[{"kind": "nonsense"}])
        model._engine.pool._arguments = (
            partial(engine._jobs_of_worker, data=broken, folder=None, modules=[]),
            *model._engine.pool._arguments[1:],
        )
        with pytest.raises(InputError, match="unknown component 'nonsense'"):
            model.score(molecules)


# ---- on a Slurm of this machine


@pytest.fixture(scope="module")
def cluster():
    if slurm.lacking():
        pytest.skip(slurm.lacking())
    with slurm.one_machine() as folder:
        yield folder


SLURM = {"kind": "parsl", "blocks": 2, "cores": 4, "walltime": "00:20:00", "lost_after": 10}
SLURM["options"] = ["--mem=0"]


@pytest.fixture
def posttrain(tmp_path, tiny_prior):
    """Write the config of a run with an executor, and start it."""

    def start(name, executor, **settings):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = {
            "prior": str(tiny_prior),
            "reward": reward_of(folder, executor, seconds=0.1, timeout=3.0, **settings),
            "target": {"kind": "mara", "beta": 0.05, "tau": 0.45},
            "estimator": "log_variance",
            "batch_size": 32,
            "learning_rate": 2e-3,
            "max_samples": 192,
            "seed": 3,
            "trainer": {"accelerator": "cpu"},
            "callbacks": {"checkpoint_every": 1, "progress_bar": False},
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = ["posttrain", str(path), "--out", str(folder / "run")]
        return subprocess.Popen([sys.executable, "-m", "chemkl", *command], **out)

    return start


def jobs():
    """The states of the active blocks by number."""
    words = slurm.ask("squeue", "-h", "-o", "%i %T").split()
    return dict(zip(map(int, words[::2]), words[1::2], strict=True))


@pytest.mark.slow
def test_a_run_on_two_blocks_of_which_one_is_lost_is_the_serial_run(cluster, posttrain, tmp_path):
    """15 % of the calls fail, hang or crash and 5 % fail once; a block is cancelled meanwhile."""
    serial = posttrain("serial", "process", workers=1)
    assert serial.wait(600) == 0, serial.stdout.read()
    run = posttrain("blocks", SLURM)
    assert soon(lambda: len(calls(tmp_path / "blocks")) > 30, 300)
    first = jobs()
    assert [*first.values()] == ["RUNNING"] * 2
    slurm.ask("scancel", str(min(first)))
    assert soon(lambda: len(jobs().keys() - first.keys()) == 1, 120)  # replaced
    assert run.wait(600) == 0, run.stdout.read()
    assert soon(lambda: not jobs() and not started_with(tmp_path / "blocks"), 60)
    traces = [read_trace(tmp_path / name / "run") for name in ("serial", "blocks")]
    pd.testing.assert_frame_equal(*traces, check_exact=True)
    paid = traces[1][traces[1]["call"].notna()]
    fates = paid["canonical_smiles"].map(oracle.fate).value_counts(normalize=True)
    assert fates.drop("fine").sum() > 0.1
    reasons = paid["canonical_smiles"].map(lambda smiles: FATES.get(oracle.fate(smiles), ""))
    assert (paid["reason"].fillna("") == reasons.str.replace("1 s", "3 s")).all()
    counts, once = calls(tmp_path / "blocks"), calls(tmp_path / "serial")
    assert counts.keys() == set(paid["canonical_smiles"])
    assert sum((counts - once).values()) <= 2  # the molecules of the lost block's two workers
    assert not once - counts


@pytest.mark.slow
def test_an_interrupted_run_on_blocks_continues_bit_exactly(cluster, posttrain, tmp_path):
    whole = posttrain("whole", "process", workers=2)
    run = posttrain("blocks", SLURM)
    assert soon(lambda: len(calls(tmp_path / "blocks")) > 50, 300)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 143
    assert soon(lambda: not jobs() and not started_with(tmp_path / "blocks"), 60)
    run = posttrain("blocks", SLURM)
    assert run.wait(600) == 0, run.stdout.read()
    assert whole.wait(600) == 0, whole.stdout.read()
    traces = [read_trace(tmp_path / name / "run") for name in ("whole", "blocks")]
    pd.testing.assert_frame_equal(*traces, check_exact=True)
    assert not calls(tmp_path / "blocks") - calls(tmp_path / "whole")


NODE = """
import os, time


def number(smiles: str) -> float:
    time.sleep(0.2)
    return float(os.environ["SLURM_NODEID"])
"""


@pytest.mark.slow
def test_a_block_of_two_nodes_scores_on_both(cluster, tmp_path):
    (tmp_path / "node.py").write_text(NODE)
    own = part("python_function", 0, 1, function=f"{tmp_path}/node.py:number")
    executor = {**SLURM, "blocks": 1, "nodes": 2, "folder": str(tmp_path / "parsl")}
    with RewardModel.from_config({"components": [own], "executor": executor}) as model:
        rows = model.score(["C" * n for n in range(1, 60)])
        assert len(jobs()) == 1
    assert set(rows["raw_python_function"]) == {0.0, 1.0}
    assert soon(lambda: not jobs(), 60)


@pytest.mark.slow
def test_an_unknown_partition_is_reported_in_slurms_words(cluster, posttrain):
    run = posttrain("nowhere", {**SLURM, "partition": "nowhere"})
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 2
    assert "invalid partition specified: nowhere" in output.splitlines()[-1]
    assert not jobs()
