"""What is submitted to Slurm, and how jobs stand: with programs that stand in for Slurm's."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from small_runs import QED, held

from chemkl.config import InputError
from chemkl.results import Manifest
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


def test_what_is_queued_is_left_and_what_has_left_is_submitted_again(pipeline, chemkl, capsys):
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
    ("arguments", "told"),
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
def test_what_cannot_be_submitted_is_one_line(pipeline, chemkl, capsys, arguments, told):
    assert chemkl("submit", "p.yaml", *arguments) == 2
    assert re.search(told, capsys.readouterr().err)
    assert not Path("runs/demo/_logs/slurm.json").exists()
    assert Path("gone").exists() == ("cancelled" in told)


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
    assert re.search(r"^\S+slurm.json: damaged, .*; remove it once", capsys.readouterr().err)
    assert [*Path().glob("call*")] == submitted


def test_two_submissions_at_once(pipeline):
    with (
        held(Path("runs/demo/_logs")),
        pytest.raises(InputError, match="_logs: another process is running in this folder"),
    ):
        submit("p.yaml")
    assert not Path("call0.args").exists()


def test_what_slurm_says_beside_its_answer_is_no_job(pipeline, chemkl, capsys):
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
        "some.smi: a file, not a folder for runs; choose another with --out\n"
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
    assert rows["corpus-seed=2"].why.startswith("killed, or its lock is not visible here")
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
    damaged, other = status(["runs/demo"])
    assert (damaged.state, damaged.calls) == ("failed", "")
    assert "not a readable Parquet file (9 bytes" in damaged.why
    assert other.calls == "1 / 50"


def test_a_failure_before_the_folder_was_claimed_is_kept_for_the_table(pipeline, chemkl):
    Path("some.smi").write_text("C1\n")
    assert chemkl("run", "p.yaml", "--only", "corpus") != 0
    row = status(["p.yaml"])[0]
    assert row.state == "failed"
    assert row.why
