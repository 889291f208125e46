"""`chemkl submit` and `chemkl status`: with stand-ins for Slurm's programs, and in a real Slurm."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slurm
import yaml
from small_runs import CONFIG as PLAIN
from small_runs import QED, SILENT, held

from chemkl.config import InputError
from chemkl.results import Manifest, read_trace
from chemkl.stages.status import status
from chemkl.stages.submit import submit

SBATCH = """\
#!/bin/sh
n=$(ls | grep -c 'args$')
cat > call$n.sbatch
echo "$@" > call$n.args
if grep -q partition=nope call$n.sbatch; then
  echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1
fi
echo $((100 + n))
"""


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """Four corpora, and one table for each of two of them; sbatch, squeue and scancel stand in."""
    monkeypatch.chdir(tmp_path)
    Path("some.smi").write_text("CCO\nCCN\nCCC\nc1ccccc1\n")
    source = {"kind": "file", "path": "some.smi"}
    config = {"source": source, "split": {"kind": "random", "test": 0.5, "valid": 0}}
    files = [f"${{corpus-seed={seed}}}/corpus.parquet" for seed in range(4)]
    entries = [
        {
            "stage": "prepare",
            "name": "corpus",
            "config": config,
            "grid": {"split.seed": [*range(4)]},
        },
        {"stage": "score", "name": "one", "config": {"reward": QED, "file": files[2]}},
        {"stage": "score", "config": {"reward": QED}, "grid": {"file": files}},
    ]
    Path("p.yaml").write_text(yaml.safe_dump({"name": "demo", "stages": entries}))
    programs = {
        "sbatch": SBATCH,
        "squeue": "#!/bin/sh\ncat queue\n",
        "scancel": "#!/bin/sh\necho $* > gone\n",
    }
    Path("bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    Path("queue").touch()
    return tmp_path


def test_an_array_for_each_stage_waits_for_what_it_reads(pipeline, capsys):
    submit("p.yaml", settings=["time=1:00:00", "score.partition=cpu", "one.exclusive="])
    scripts = [Path(f"call{n}.sbatch").read_text() for n in range(6)]
    assert [Path(f"call{n}.args").read_text().split()[1:] for n in range(6)] == [
        [],
        ["--dependency=afterok:100_2", "--kill-on-invalid-dep=yes"],
        *([f"--dependency=afterok:100_{seed}", "--kill-on-invalid-dep=yes"] for seed in range(4)),
    ]
    assert "#SBATCH --array=0-3\n" in scripts[0]
    assert "jobs=(corpus-seed=0 corpus-seed=1 corpus-seed=2 corpus-seed=3)\n" in scripts[0]
    assert "--partition" not in scripts[0]
    assert "#SBATCH --time=1:00:00\n#SBATCH --partition=cpu\n#SBATCH --exclusive\n" in scripts[1]
    assert capsys.readouterr().err.splitlines()[:2] == [
        "demo-corpus: job 100, 4 tasks",
        "demo-one: job 101, 1 task, after 1 job",
    ]


def test_a_dry_run_prints_a_script_that_submits_the_same(pipeline, capsys):
    submit("p.yaml", settings=["time=60"], dry_run=True)
    shell = capsys.readouterr().out
    assert not Path("runs").exists()
    submit("p.yaml", settings=["time=60"])
    calls = {path.name: path.read_text() for path in Path().glob("call*")}
    for path in calls:
        Path(path).unlink()
    subprocess.run(["sh", "-e", "-c", shell], check=True)
    assert {path.name: path.read_text() for path in Path().glob("call*")} == calls


def test_queued_jobs_are_left_and_lost_jobs_are_submitted_again(pipeline, chemkl, capsys):
    submit("p.yaml")
    numbers = [f"100_{n}" for n in range(4)] + [f"{n}_0" for n in range(101, 106)]
    Path("queue").write_text("".join(f"{n}|PENDING|Priority\n" for n in numbers))
    assert chemkl("submit", "p.yaml") == 2
    assert "demo: already submitted (corpus-seed=0 is 100_0, " in capsys.readouterr().err
    assert {row.why for row in status(["p.yaml"])} == {f"Slurm {n}: Priority" for n in numbers}
    queue = [
        "100_0|RUNNING|None",
        "100_1|PENDING|Resources",
        "103_0|PENDING|DependencyNeverSatisfied",
        "104_0|PENDING|Dependency",
    ]
    Path("queue").write_text("\n".join(queue))
    rows = {row.name: row for row in status(["p.yaml"])}
    assert (rows["corpus-seed=0"].state, rows["corpus-seed=1"].state) == ("running", "waiting")
    assert rows["corpus-seed=2"].why == "it has left Slurm's queue, where it was 100_2"
    assert (rows["one"].state, rows["one"].why) == ("waiting", "for corpus-seed=2")
    for path in Path().glob("call*"):
        path.unlink()
    submit("p.yaml")
    assert "jobs=(corpus-seed=2 corpus-seed=3)\n" in Path("call0.sbatch").read_text()
    after = [Path(f"call{n}.args").read_text().split()[1] for n in range(1, 6)]
    tasks = ["100_0", "100_0", "100_1", "100_0", "100_1"]
    assert after == [f"--dependency=afterok:{task}" for task in tasks]
    assert Path("gone").read_text() == "104_0\n"  # its corpus is submitted again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare.parition=x", "a b=c"], r"--set a b=c: should be an option of sbatch"),
        (["prepar.time=3"], r"--set prepar.time=3: no stage or entry 'prepar'; did you mean"),
        (["array=0-3"], r"--set array=0-3: chemkl sets array itself"),
        (["one.partition=nope"], r"demo-one: Slurm refuses it: invalid partition specified: nope \("
         r"cancelled: 100\)"),
        (["--cluster", "cloud"], r"--cluster cloud: should be slurm or local"),
        (["--cluster", "local", "time=3"], r"--cluster local: the one setting is jobs=N"),
        (["--template", "nowhere"], r"--template nowhere: .*No such file"),
        (["--template", "."], r"^--template \.: Is a directory\n$"),
        (["--template", "p.yaml"], r"^--template p\.yaml: lacks {{ jobs }}, so it would"),
    ],
)  # fmt: skip
def test_a_refused_submission_is_one_line(pipeline, chemkl, capsys, arguments, message):
    assert chemkl("submit", "p.yaml", *arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("runs/demo/_logs/slurm.json").exists()
    assert Path("gone").exists() == ("cancelled" in message)


@pytest.mark.parametrize("text", ["5", "[1, 2]", '{"one": 5}', "{", "\udcff"])
@pytest.mark.parametrize("command", ["submit", "status"])
def test_a_damaged_record_is_one_line_and_nothing_is_submitted(
    pipeline, chemkl, capsys, command, text
):
    submit("p.yaml")
    record = Path("runs/demo/_logs/slurm.json")
    record.write_bytes(text.encode(errors="surrogateescape"))
    submitted = [*Path().glob("call*")]
    capsys.readouterr()
    assert chemkl(command, "p.yaml") == 2
    assert re.fullmatch(
        r"\S+slurm.json: damaged, .*; remove it once the queue .*\n", capsys.readouterr().err
    )
    assert [*Path().glob("call*")] == submitted


def test_two_submissions_at_once(pipeline):
    with (
        held(Path("runs/demo/_logs")),
        pytest.raises(InputError, match="_logs: another process is running in this folder"),
    ):
        submit("p.yaml")
    assert not Path("call0.args").exists()


def test_messages_of_slurm_are_no_jobs(pipeline, chemkl, capsys):
    submit("p.yaml")
    Path("queue").write_text("slurm is tired\n100_0|RUNNING|None\n")
    assert status(["p.yaml"])[0].state == "running"
    lines = ("error: no network", "error: no configuration", "fatal: nowhere to go")
    for name in ("sbatch", "squeue"):
        echo = "".join(f"echo '{name}: {line}' >&2\n" for line in lines)
        Path("bin", name).write_text(f"#!/bin/sh\n{echo}exit 1\n")
    capsys.readouterr()
    assert chemkl("submit", "p.yaml") == 2
    assert capsys.readouterr().err.splitlines() == [
        "Slurm's queue cannot be read: nowhere to go",
        "demo-corpus: Slurm refuses it: nowhere to go",
    ]


@pytest.mark.parametrize("command", ["run", "submit", "status"])
@pytest.mark.parametrize("out", ["some.smi", "some.smi/runs"])
def test_a_file_is_no_folder_for_runs(pipeline, chemkl, capsys, command, out):
    dry = [] if command == "status" else ["--dry-run"]
    assert chemkl(command, "p.yaml", "--out", out, *dry) == 2
    assert capsys.readouterr().err == (
        "some.smi: a file, not a folder; choose another with --out\n"
    )


def test_without_slurm(pipeline, chemkl, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(pipeline))
    assert chemkl("submit", "p.yaml") == 2
    assert "sbatch is not found: submit on a machine of the cluster" in capsys.readouterr().err
    assert chemkl("submit", "p.yaml", "--dry-run") == 0


def test_the_table_of_a_pipeline(pipeline, chemkl, capsys, write_run):
    out = pipeline / "runs/demo"
    write_run(out / "corpus-seed=0", [[("CCO", 0.9)]], {"budget": 50})
    for seed, status_ in ((1, "failed"), (2, "running"), (3, "running")):
        manifest = Manifest.start(out / f"corpus-seed={seed}", stage="prepare", config={})
        if status_ == "failed":
            manifest.finish("failed", ended_by="ValueError: no molecule")
        manifest._lock.close()
    with held(out / "corpus-seed=3"):
        rows = {row.name: row for row in status(["p.yaml"])}
    assert (rows["corpus-seed=0"].state, rows["corpus-seed=0"].calls) == ("done", "3 / 50")
    assert (rows["corpus-seed=1"].state, rows["corpus-seed=1"].why) == (
        "failed", "ValueError: no molecule",
    )  # fmt: skip
    assert rows["corpus-seed=2"].why.startswith("stopped without an end (killed")
    assert (rows["corpus-seed=3"].state, rows["corpus-seed=3"].why) == ("running", "")
    assert rows["one"].why == "for corpus-seed=2"
    assert chemkl("status", "p.yaml", out / "corpus-seed=0", out) == 0
    assert "5 waiting" in capsys.readouterr().out
    assert chemkl("status", pipeline / "bin") == 2
    assert "neither a run nor a folder of runs" in capsys.readouterr().err


def test_a_damaged_trace_fails_the_run_alone(pipeline, write_run):
    for name in ("a", "b"):
        write_run(pipeline / "runs/demo" / name, [[("CCO", 0.9)]], {"budget": 50})
        manifest = Manifest.load(pipeline / "runs/demo" / name)
        manifest.status = "failed"  # else its calls stand among the results
        manifest.save()
    (part,) = (pipeline / "runs/demo/a/trace").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:9])
    damaged, intact = status(["runs/demo"])
    assert (damaged.state, damaged.calls) == ("failed", "")
    assert "not a readable Parquet file (9 bytes" in damaged.why
    assert intact.calls == "1 / 50"


def test_a_failure_before_the_folder_was_claimed_is_kept_for_the_table(pipeline, chemkl):
    Path("some.smi").write_text("C1\n")
    assert chemkl("run", "p.yaml", "--only", "corpus") != 0
    row = status(["p.yaml"])[0]
    assert row.state == "failed"
    assert row.why


# ---- a real Slurm of two nodes

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
def grid(tmp_path, monkeypatch, tiny_prior):
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
def test_a_grid_requeued_cancelled_and_submitted_again_ends_like_a_local_run(grid):
    if slurm.lacking():
        pytest.skip(slurm.lacking())
    arguments = ["submit", "p.yaml", "--set", "posttrain.time=5"]
    names = [f"run-beta={beta}-seed={seed}" for beta in (0.05, 0.1) for seed in (0, 1)]
    os.environ["OMP_NUM_THREADS"] = "1"
    with slurm.one_machine():
        message = call("submit", "p.yaml", "--set", "partition=nope", code=2)
        assert message.splitlines()[-1].startswith(
            "grid-run: Slurm refuses it: invalid partition spec"
        )
        assert slurm.ask("squeue", "-h") == ""
        message = call(*arguments).splitlines()
        assert message[0].startswith("grid-run: job ")
        number = message[0].split()[2].rstrip(",")
        assert "already submitted" in call(*arguments, code=2)
        wait_for((grid / "hangs").exists, 300)
        assert states()["evaluate"] == "waiting"
        subprocess.run(["scancel", f"{number}_1"], check=True)
        (grid / "cancelled").touch()
        ended = ("waiting", "stopped", "failed")
        wait_for(lambda: states()[names[1]] in ended and states()["report"] in ended, 120)
        message = call(*arguments).splitlines()
        assert [line.split(": job")[0] for line in message] == [
            "grid-run", "grid-evaluate", "grid-compare", "grid-report",
        ]  # fmt: skip
        assert "1 task" in message[0]
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 1200)
        assert states() == dict.fromkeys([*names, "evaluate", "compare", "report"], "done")
    results = grid / "runs/grid"
    assert Manifest.load(results / names[0]).resumed, "the first job was not requeued"
    call("run", "p.yaml", "--jobs", "2", "--out", "here")
    for name in names:
        pd.testing.assert_frame_equal(
            read_trace(results / name), read_trace(grid / "here" / name), check_exact=True
        )
    for table in ("evaluate/diversity.parquet", "compare/comparison.parquet"):
        frames = [pd.read_parquet(out / table) for out in (results, grid / "here")]
        assert len(frames[0])
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    assert (results / "report/report.html").stat().st_size > 10_000


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
    options = ["--parsable", "--nodes=2", "--ntasks-per-node=1", "--output=said", f"--wrap={step}"]
    with slurm.one_machine():
        number = slurm.ask("sbatch", *options).strip()
        logs = tmp_path / "nodes" / "log.jsonl"
        wait_for(lambda: logs.exists() and '"start"' in logs.read_text(), 300)
        wait_for(lambda: list((tmp_path / "nodes/logs").glob("csv/*")), 300)
        subprocess.run(["scancel", "--signal=TERM", number], check=True)
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 120)
        stopped = Manifest.load("nodes")
        assert (stopped.status, stopped.ended_by) == ("interrupted", "StoppedBySignal: SIGTERM")
        assert Path("nodes/checkpoints/last.ckpt").exists()
        slurm.ask("sbatch", *options)
        wait_for(lambda: slurm.ask("squeue", "-h") == "", 600)
    assert Manifest.load("nodes").status == "complete", Path("said").read_text()
    assert "Traceback" not in Path("said").read_text()
    call("posttrain", "devices.yaml", "--out", "devices")
    pd.testing.assert_frame_equal(read_trace("nodes"), read_trace("devices"), check_exact=True)
