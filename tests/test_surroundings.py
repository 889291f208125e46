"""Environments of the command line: encodings, closed streams, odd names, no home."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chemkl import __version__
from chemkl.cli import main
from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.results import Manifest
from chemkl.results.external import MOLSETS, fetch_wheel

NAMES = ["a b", "a\nb", "[x]", "[/x", "[red]", "%s%d", "é", "a'b\"c", "*", "-x", "x" * 150]
SMILES = ["CCO", "c1ccccc1", "CC(=O)O"]


def output_of(monkeypatch, encoding, *arguments):
    """Run the command line with that output encoding; return the exit code and the output."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "argv", ["chemkl", *arguments])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as end:
        main()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return end.value.code or 0, *texts


@pytest.mark.parametrize(
    ("encoding", "bound"),
    [("ascii", "whole number ? 0"), ("cp1252", "whole number ? 0"), ("utf-8", "whole number ≥ 0")],
)
def test_output_replaces_what_its_encoding_lacks(monkeypatch, encoding, bound):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = output_of(monkeypatch, encoding, "show", "rewards", "tanimoto")
    assert (code, err) == (0, "")
    assert bound in out


def test_a_file_name_that_is_not_utf8_can_be_printed(monkeypatch):
    code, _, err = output_of(monkeypatch, "utf-8", "check", "\udcff.yaml")
    assert code == 2
    assert err.startswith("\\udcff.yaml: no such file")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["check", "nowhere"], 2)])
def test_closed_output_is_not_an_error(monkeypatch, stream, arguments, code):
    monkeypatch.setattr(sys, "argv", ["chemkl", *arguments])
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_a_full_disk_does_not_take_is_one_line_and_code_1():
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "chemkl", "--version"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (
        1, "not all output could be written (No space left on device)\n"
    )  # fmt: skip


def test_the_package_runs_as_the_command_does():
    ended = subprocess.run(
        [sys.executable, "-m", "chemkl", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"chemkl {__version__}\n"


# ---- names of files and folders


def molecules(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{smiles}\n" for smiles in SMILES))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_files_and_folders_of_any_name(chemkl, capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    file = molecules(Path(name, f"{name}.smi"))
    reward = shutil.copy(
        Path(__file__).parents[1] / "configs/rewards/qed_sa.yaml", f"{name}/r.yaml"
    )
    out = Path(name, f"out{name}")
    scoring = ("score", "--config", f"./{reward}", "--out", f"./{out}", f"./{file}")
    assert chemkl(*scoring) == 0
    assert pq.read_table(out / "scores.parquet")["smiles"].to_pylist() == SMILES
    assert Manifest.load(out).inputs["file"].path == str(file.absolute())
    capsys.readouterr()
    assert chemkl(*scoring) == 0
    assert f"{out}: complete" in capsys.readouterr().err
    assert chemkl("convert", f"./{out}/scores.parquet", f"./{name}/c.csv") == 0
    assert chemkl("show", f"./{out}/scores.parquet") == 0


@pytest.mark.parametrize("name", ["[x]", "*", "a?"])
def test_a_run_folder_with_a_wildcard_in_its_name(name, tmp_path, monkeypatch, write_run):
    monkeypatch.chdir(tmp_path)
    own = write_run(tmp_path / name / f"r{name}", [[("CCO", 0.9)]])
    other = write_run(tmp_path / name / "other", [[("CCO", 0.9)]])
    from chemkl.stages.registry import STAGES

    read = STAGES["evaluate"].load
    assert read({"runs": f"{name}/r{name}"}).runs == [own]
    assert read({"runs": f"{name}/o*"}).runs == [other]


RAW = os.fsdecode(b"a\xff")
"""A name that is not UTF-8."""
LONG = "x" * 300
"""A name that no file system accepts."""


def test_input_whose_name_is_not_utf8_is_read(chemkl, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = molecules(Path(RAW, f"{RAW}.smi"))
    assert chemkl("score", str(file), "--config", "qed_sa", "--out", "out") == 0
    assert pq.read_table("out/scores.parquet")["smiles"].to_pylist() == SMILES
    kept = json.loads(Path("out/manifest.json").read_bytes().decode())
    assert kept["inputs"]["file"]["path"] == f"{tmp_path}/a\\udcff/a\\udcff.smi"
    manifest = Manifest.load("out")
    assert manifest.inputs["file"].place == file.absolute()
    assert not manifest.has_changed_inputs()
    file.write_text("C\n")
    assert manifest.has_changed_inputs()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "a.smi", "--config", "qed_sa", "--out", RAW], "cannot write there: the name"),
        (["score", "a.smi", "--config", "qed_sa", "--out", f"{RAW}.csv"], "cannot write there"),
        (["convert", "a.parquet", f"{RAW}.csv"], "cannot write there"),
        (["posttrain", "quickstart", "budget=1", "--out", RAW], "cannot write there"),
        (["score", f"no{RAW}.smi", "--config", "qed_sa", "--out", "o"], "No such file"),
        (["posttrain", f"no{RAW}.yaml"], "no such file"),
        (["posttrain", "quickstart", f"prior={RAW}"], "is not allowed in YAML"),
        (["show", RAW], "no such run folder or Parquet file"),
        (["show", f"{RAW}.parquet"], "no such run folder"),
        (["check", f"{RAW}.yaml"], "no such file"),
        (["check", "~nobodyhere/x.yaml"], "~nobodyhere/x.yaml: no such file"),
        (["score", "~nobodyhere/x.smi", "--config", "qed_sa"], "No such file"),
        (["posttrain", "quickstart", "prior=~nobodyhere/x"], "no such file or folder"),
        (["evaluate", LONG], "cannot be read: File name too long"),
        (["evaluate", f"{LONG}*"], "cannot be used here (File name too long)"),
        (["posttrain", "quickstart", "--out", LONG], "cannot be used here (File name too long)"),
        (["export", LONG, "--csv", "o.csv"], "cannot be used here (File name too long)"),
        (["convert", f"{LONG}.parquet", "o.csv"], "cannot be used here (File name too long)"),
    ],
)
def test_an_unusable_path_is_one_line(chemkl, capsys, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    molecules(Path("a.smi"))
    pq.write_table(pq.read_table(table_file(tmp_path)), "a.parquet")
    before = sorted(tmp_path.iterdir())
    assert chemkl(*arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def table_file(folder):
    import pyarrow as pa

    pq.write_table(pa.table({"smiles": SMILES}), folder / "t.parquet")
    return folder / "t.parquet"


# ---- home, working directory, terminal


def test_the_cache_follows_xdg_cache_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert expand_home("~/.cache/chemkl") == Path("/home/me/.cache/chemkl")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert expand_home("~/.cache/chemkl") == Path("/big/cache/chemkl")
    assert expand_home("~/mine") == Path("/home/me/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to pass over
    assert expand_home("~/.cache/chemkl") == Path("/home/me/.cache/chemkl")


def test_an_impossible_cache_is_one_line(monkeypatch):
    with pytest.raises(InputError, match=r"~nobodyhere/x: there is no home directory.*set HOME"):
        expand_home("~nobodyhere/x")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/1/nowhere")
    with pytest.raises(InputError, match=r"cannot store the wheel there .*Set `cache`"):
        fetch_wheel(MOLSETS, Path("~/.cache/chemkl"))


def test_a_deleted_working_directory_is_one_line(chemkl, capsys, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert chemkl("show", "rewards", "qed") == 2
    assert capsys.readouterr().err == (
        "the working directory cannot be used (No such file or directory): change to another one\n"
    )


@pytest.mark.parametrize("columns", ["0", "1", "5", "abc", "100000"])
def test_a_terminal_of_any_width(chemkl, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    assert chemkl("show", "rewards", "tanimoto") == 0
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"HOME": None},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        {"HOME": "/proc/1", "XDG_CACHE_HOME": "/proc/1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252", "NO_COLOR": "1", "TZ": "Nowhere/Odd"},
    ],
    ids=str,
)
def test_a_run_and_its_report_in_any_environment(tmp_path, change):
    env = {k: v for k, v in {**os.environ, **change}.items() if v is not None}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    for command in (
        ["posttrain", "quickstart", "budget=20", "batch_size=16", "--out", "run"],
        ["report", "report/runs", "runs=[run]", "prior=null", "--out", "page"],
        ["prepare", "prepare/moses_sample", "--out", "corpus"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "chemkl", *command], cwd=tmp_path, env=env, capture_output=True
        )
        assert ended.returncode == 0, ended.stderr.decode(errors="replace")
    assert (tmp_path / "page/report.html").exists()
