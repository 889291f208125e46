"""A disk that fails in mid-run: one message, nothing half-written, and the manifest says so."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from small_runs import CONFIG, QED, SAMPLE, SILENT, TINY

from chemkl import cli
from chemkl.config import InputError, StorageError
from chemkl.results import Manifest, write_bytes
from chemkl.results.atomic import atomic_file, atomic_folder, storage_problem
from chemkl.stages import evaluate, posttrain, prepare, pretrain, report, sample, score
from chemkl.training.trainer import Checkpoint

TRAINER = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 0}}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def aside_in(folder):
    return [name for name in names(folder) if name.endswith(".tmp") or "/." in name]


@pytest.fixture(scope="module")
def disk():
    """A file system of 2 MiB, which root alone can mount."""
    folder = Path("/tmp") / f"chemkl-disk-{os.getpid()}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        folder.rmdir()
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def place(disk):
    """An empty small disk."""
    yield disk
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk, but):
    """Leave so many kiB free."""
    with (disk / "filler").open("wb") as file:
        free = shutil.disk_usage(disk).free
        file.write(b"\0" * max(0, free - but * 1024))


@pytest.fixture(scope="module")
def smiles():
    return pd.read_parquet(SAMPLE / "corpus.parquet")["smiles"].tolist()[:3000]


@pytest.fixture(scope="module")
def run(tiny_prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    posttrain.run(posttrain_config(tiny_prior), out)
    return out


@pytest.fixture
def config_of(tmp_path, tiny_prior, run, smiles):
    """The settings of a stage, for so many molecules."""

    def get(name, n):
        file = tmp_path / "molecules.smi"
        file.write_text("\n".join(smiles[:n]))
        return {
            "prepare": {"source": {"kind": "file", "path": str(file)}},
            "pretrain": PRETRAIN,
            "posttrain": posttrain_config(tiny_prior),
            "sample": {"policy": str(tiny_prior), "n": n, "batch_size": 500},
            "score": {"file": str(file), "reward": QED, "progress_bar": False},
            "evaluate": {"runs": [str(run)]},
            "report": {"runs": [str(run)]},
        }[name]

    return get


def posttrain_config(prior):
    every = {"callbacks": SILENT | {"checkpoint_every": 2}}
    return CONFIG | TRAINER | every | {"prior": str(prior), "reward": QED, "budget": 150}


PRETRAIN = TINY | {
    "model": TINY["model"] | {"hidden_size": 64},
    "epochs": 1,
    "checkpoint_every": 2,
    "trainer": TINY["trainer"] | TRAINER["trainer"],
}


STAGES = {
    # stage: its module, kiB that are left for it, and the file that does not fit in
    "prepare": (prepare, 24, "corpus.parquet"),
    "pretrain": (pretrain, 64, "checkpoints/last.ckpt"),
    "posttrain": (posttrain, 40, "checkpoints/last.ckpt"),
    "sample": (sample, 24, "samples.parquet"),
    "score": (score, 24, "scores.parquet"),
    "evaluate": (evaluate, 12, "parquet"),
    "report": (report, 64, "report.html"),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk_is_one_message(place, config_of, name):
    config = config_of(name, 3000)
    stage, room, written = STAGES[name]
    fill(place, but=room)
    out = place / "out"
    with pytest.raises(StorageError) as caught:
        stage.run(config, out)
    message = str(caught.value)
    assert "\n" not in message
    assert written in message
    assert "No space left on device" in message
    assert "MiB free there" in message
    assert "run the same command again" in message or "continues from there" in message
    assert aside_in(out) == []
    manifest = Manifest.load(out)
    assert manifest.status == "failed"
    assert manifest.ended_by.startswith("StorageError: ")
    (place / "filler").unlink()
    if name != "report":  # a page does not fit into 2 MiB beside nothing
        stage.run(config, out)
        assert Manifest.load(out).status == "complete"


def test_a_disk_that_fills_up_later_names_the_safe_checkpoint(place, tiny_prior, monkeypatch):
    out = place / "out"
    save, saved = Checkpoint.save, []

    def counted(self, trainer):
        if saved:
            fill(place, but=40)
        save(self, trainer)
        saved.append(trainer.global_step)

    monkeypatch.setattr(Checkpoint, "save", counted)
    with pytest.raises(StorageError, match=r"Everything up to the checkpoint of step 2 is safe"):
        posttrain.run(posttrain_config(tiny_prior), out)
    assert saved == [2]
    assert aside_in(out) == []
    assert Manifest.load(out).status == "failed"
    monkeypatch.undo()
    (place / "filler").unlink()
    posttrain.run(posttrain_config(tiny_prior), out)
    assert Manifest.load(out).results["calls"] == 150


def test_where_not_even_the_manifest_can_be_written_the_message_comes_all_the_same(place, capsys):
    out = place / "out"

    def leave():
        with Manifest.start(out, stage="report", config={}):
            fill(place, but=0)
            write_bytes(out / "report.html", b"x" * 10_000)

    with pytest.raises(StorageError, match=r"report\.html: cannot be written: No space left"):
        leave()
    assert aside_in(out) == []
    assert Manifest.load(out).status == "running"  # what stands there stands whole


# ---- a folder that goes


VANISHES = {
    # stage: at whose function's n-th call
    "posttrain": (Checkpoint, "save", 2),
    "pretrain": (Checkpoint, "save", 2),
    "sample": (sample, "_columns", 1),
    "score": (score, "_rows", 1),
    "evaluate": (evaluate, "_write_tables", 1),
    "report": (report, "render_page", 1),
}


@pytest.mark.parametrize("name", VANISHES)
def test_a_folder_that_vanishes_is_one_message_and_does_not_come_back(
    tmp_path, config_of, monkeypatch, name
):
    out, calls = tmp_path / "out", []
    owner, function, nth = VANISHES[name]
    known = getattr(owner, function)

    def vanishing(*arguments, **more):
        calls.append(name)
        if len(calls) == nth:
            shutil.rmtree(out)
        return known(*arguments, **more)

    monkeypatch.setattr(owner, function, vanishing)
    with pytest.raises(StorageError) as caught:
        STAGES[name][0].run(config_of(name, 30), out)
    message = str(caught.value)
    assert "\n" not in message
    assert str(out) in message
    assert "removed or moved away" in message or "no longer exists" in message
    assert f"Nothing of the run is left in {out}." in message
    assert not (out / "manifest.json").exists()
    assert aside_in(tmp_path) == []


# ---- how it is told


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed "
                     "writing file data/3: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device"),
    ],
)  # fmt: skip
def test_whoever_tells_of_a_full_disk_is_understood(tmp_path, error):
    def write():
        with atomic_file(tmp_path / "a.bin") as aside:
            aside.write_bytes(b"half")
            raise error

    with pytest.raises(StorageError, match=r"a\.bin: cannot be written: .* MiB free there\)") as e:
        write()
    assert e.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_left_as_they_are(tmp_path):
    for error in (ValueError("no molecule"), FileNotFoundError(2, "No such file", "x.smi")):
        with (
            pytest.raises(type(error)) as caught,
            Manifest.start(tmp_path / "out", stage="report", config={}),
            atomic_file(tmp_path / "out" / "a.bin"),
        ):
            raise error
        assert caught.value is error
        assert storage_problem(error) is None


def test_a_folder_of_a_model_is_moved_in_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.bin").write_bytes(b"old")
    full = Mock(side_effect=FULL)
    monkeypatch.setattr("chemkl.results.atomic.write_sums", full)
    with (
        pytest.raises(StorageError, match="model: cannot be written"),
        atomic_folder(tmp_path / "model") as aside,
    ):
        (aside / "new.bin").write_bytes(b"new")
    assert names(tmp_path) == ["model", "model/old.bin"]


READING_ON_A_FULL_DISK = InputError("cache: database or disk is full")
READING_ON_A_FULL_DISK.__cause__ = FULL  # so that it is no error of the input


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StorageError("a.bin: cannot be written."), 1, "a.bin: cannot be written.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "b"), 1, "b: No space left on device\n"),
        (InputError("mend it"), 2, "mend it\n"),
        (READING_ON_A_FULL_DISK, 1, "cache: database or disk is full\n"),
    ],
)
def test_the_exit_code_of_a_full_disk_is_1_and_one_line(
    monkeypatch, chemkl, capsys, error, code, said
):
    monkeypatch.setattr(cli, "app", Mock(side_effect=error))
    assert chemkl() == code
    assert capsys.readouterr().err == said
