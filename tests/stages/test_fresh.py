"""What --fresh moves aside, and what it leaves where it is."""

import os
from pathlib import Path

import pytest
from pydantic import Field
from small_runs import held

from chemkl.config import Config, InputError, InputPath
from chemkl.results import Manifest
from chemkl.stages.runner import check_movable, move_aside

RUNS = "another process is running in this folder"


class Settings(Config):
    model: InputPath | str | None = None
    runs: tuple[InputPath, ...] = ()
    folder: Path | None = Field(None, exclude=True)


def output_in(folder, **inputs):
    with Manifest.start(folder, stage="posttrain", config={}, inputs=inputs):
        (folder / "result").write_text("one")
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def running(tmp_path):
    """A folder in which another process is running."""
    manifest = Manifest.start(tmp_path / "out", stage="posttrain", config={})
    manifest._lock.close()
    with held(tmp_path / "out"):
        yield tmp_path / "out"


def test_output_is_moved_to_a_free_name_and_the_user_is_told(tmp_path, capsys):
    out = tmp_path / "out"
    for number in (1, 2):
        aside = tmp_path / f"out.old-{number}"
        assert move_aside(output_in(out)) == aside
        assert (aside / "result").read_text() == "one"
        assert not out.exists()
        assert capsys.readouterr().err == f"moved {out} aside, to {aside}\n"
    with Manifest.start(out, stage="evaluate", config={"another": 1}):
        pass


def test_where_there_is_nothing_nothing_is_said(tmp_path, capsys):
    assert move_aside(tmp_path / "out") is None
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    assert move_aside(tmp_path / "out") is None
    assert names(tmp_path) == ["out", "work"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_running_run_stays_where_it_is(running, monkeypatch, rank):
    monkeypatch.setenv("SLURM_PROCID", rank)  # a further process too moves what is at rest only
    for refuse in (check_movable, move_aside):
        with pytest.raises(InputError, match=RUNS):
            refuse(running)
    assert names(running.parent) == ["out", "work"]
    assert Manifest.load(running).status == "running"


def test_a_further_process_of_one_training_moves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert move_aside(output_in(tmp_path / "out")) is None
    assert names(tmp_path) == ["out", "work"]


def test_who_waited_for_the_lock_of_a_moved_folder_gets_the_new_one(tmp_path, monkeypatch):
    import fcntl

    out = output_in(tmp_path / "out")
    lock, waiting = fcntl.lockf, [True]

    def lock_late(file, how):
        """The folder is moved between opening the lock file and locking it."""
        if waiting:
            waiting.clear()
            out.rename(tmp_path / "out.old-1")
        lock(file, how)

    monkeypatch.setattr(fcntl, "lockf", lock_late)
    late = Manifest.start(out, stage="posttrain", config={})
    assert not late.was_resumed
    assert os.path.samestat(os.fstat(late._lock.fileno()), (out / ".lock").stat())


def test_inputs_stay_where_they_are(tmp_path):
    out = output_in(tmp_path / "out")
    inner = output_in(out / "checkpoints" / "model")
    (tmp_path / "link").symlink_to(out)
    for folder, config, message in [
        (out, Settings(model=out), f"{out}: is an input of this config; choose another --out"),
        (out, Settings(runs=[inner]), f"{out}: holds an input of this config, {inner}; choose"),
        (inner, Settings(runs=[out]), f"model: lies in an input of this config, {out}; choose"),
        (tmp_path / "link", Settings(model=out), "link: is an input of this config"),
    ]:
        with pytest.raises(InputError, match=message):
            move_aside(folder, config)
    assert names(tmp_path) == ["link", "out", "work"]
    # where a config looks things up is no input
    apart = Settings(model="a/b", runs=[tmp_path / "work"], folder=tmp_path)
    assert move_aside(out, apart) is not None


def test_files_that_are_read_stay_where_they_are(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    mine, other = out / "mine.yaml", out / "score.py"
    for file in (mine, other):
        file.touch()
    output_in(out, reward=other)
    with pytest.raises(InputError, match=r"contains .*out/mine\.yaml, which is read"):
        move_aside(out, also=[mine])
    with pytest.raises(InputError, match=r"contains .*out/score\.py, which is read"):
        move_aside(out)
    other.unlink()
    assert move_aside(out) == tmp_path / "out.old-1"


def test_the_folder_that_one_works_in_stays(tmp_path, monkeypatch):
    inner = output_in(tmp_path / "out") / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for out in (".", "..", tmp_path / "out"):
        with pytest.raises(InputError, match="cannot be moved aside: it is the working directory"):
            move_aside(Path(out))
    assert names(tmp_path) == ["out", "work"]


@pytest.mark.parametrize("content", [None, "{}", '{"stage": "x"}'])
def test_what_no_stage_has_written_stays_as_it_is(tmp_path, content):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("of years")
    if content is None:
        said = r"mine: not the output of chemkl: it holds notes\.txt, but no manifest\.json"
    else:
        (mine / "manifest.json").write_text(content)
        said = r"mine/manifest\.json: not a chemkl manifest"
    before = names(mine)
    with pytest.raises(InputError, match=said):
        move_aside(mine)
    assert names(mine) == before  # without a lock file, too
    assert names(tmp_path) == ["mine", "work"]


def test_a_file_is_no_folder_and_only_a_table_is_output(tmp_path):
    for name in ("notes", "notes.csv"):
        (tmp_path / name).write_text("of years")
        with pytest.raises(InputError, match=f"{name}: this is a file, not an output folder"):
            move_aside(tmp_path / name)
    with pytest.raises(InputError, match="notes: this is a file"):
        move_aside(tmp_path / "notes", tables=True)
    table = tmp_path / "notes.csv"
    with pytest.raises(InputError, match=r"notes\.csv: is an input of this config"):
        move_aside(table, Settings(model=table), tables=True)
    assert move_aside(table, tables=True) == tmp_path / "notes.csv.old-1"
    assert names(tmp_path) == ["notes", "notes.csv.old-1", "work"]
