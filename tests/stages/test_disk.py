"""A disk that fails in mid-run: one message, nothing half-written, and the manifest says so."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from chemkl import cli
from chemkl.config import InputError, StorageError
from chemkl.results import Manifest, write_bytes
from chemkl.results.atomic import atomic_file, atomic_folder, storage_problem
from chemkl.stages import evaluate, posttrain, prepare, pretrain, report, sample, score
from chemkl.stages import sample as sample_stage

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
QED = {"components": [{"kind": "qed"}]}
TRAINER = {"accelerator": "cpu", "log_every_n_steps": 0}


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


def posttrain_config(prior, **more):
    return {
        "prior": str(prior), "reward": QED, "target": {"kind": "gibbs", "beta": 0.1},
        "batch_size": 16, "budget": 150, "trainer": TRAINER,
        "callbacks": {"checkpoint_every": 2, "progress_bar": False}, **more,
    }  # fmt: skip


def pretrain_config(**more):
    return {
        "corpus": str(SAMPLE), "epochs": 1, "checkpoint_every": 2,
        "trainer": {**TRAINER, "enable_progress_bar": False},
        "model": {"embedding_size": 8, "hidden_size": 64, "n_layers": 1, "max_length": 60},
        "valid_molecules": 100, "batch_size": 512, "samples_per_epoch": 20, **more,
    }  # fmt: skip


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
def test_a_full_disk_is_one_message(place, tmp_path, tiny_prior, run, smiles, name):
    file = tmp_path / "molecules.smi"
    file.write_text("\n".join(smiles))
    configs = {
        "prepare": {"source": {"kind": "file", "path": str(file)}},
        "pretrain": pretrain_config(),
        "posttrain": posttrain_config(tiny_prior),
        "sample": {"policy": str(tiny_prior), "n": 3000, "batch_size": 500},
        "score": {"file": str(file), "reward": QED, "progress_bar": False},
        "evaluate": {"runs": [str(run)]},
        "report": {"runs": [str(run)]},
    }
    stage, room, written = STAGES[name]
    fill(place, but=room)
    out = place / "out"
    with pytest.raises(StorageError) as caught:
        stage.run(configs[name], out)
    message = str(caught.value)
    assert "\n" not in message
    assert written in message
    assert "No space left on device" in message
    assert "MiB free there" in message
    assert "give the same command again" in message or "goes on from there" in message
    assert aside_in(out) == []
    manifest = Manifest.load(out)
    assert manifest.status == "failed"
    assert manifest.ended_by.startswith("StorageError: ")
    (place / "filler").unlink()
    if name != "report":  # a page does not fit into 2 MiB beside nothing
        stage.run(configs[name], out)
        assert Manifest.load(out).status == "complete"


def test_a_disk_that_fills_up_later_names_the_safe_checkpoint(place, tiny_prior, monkeypatch):
    out = place / "out"
    from chemkl.training.trainer import Checkpoint

    save, saved = Checkpoint.save, []

    def counted(self, trainer):
        if saved:
            fill(place, but=40)
        save(self, trainer)
        saved.append(trainer.global_step)

    monkeypatch.setattr(Checkpoint, "save", counted)
    with pytest.raises(
        StorageError, match=r"all up to the checkpoint of step 2\. Once it can be written"
    ):
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


def vanishing(module, name, out, monkeypatch, after=1):
    """Take the folder away at the n-th call of a function of a stage."""
    known, calls = getattr(module, name), []

    def wrapped(*arguments, **more):
        calls.append(1)
        if len(calls) == after:
            shutil.rmtree(out)
        return known(*arguments, **more)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize("name", ["posttrain", "pretrain", "sample", "score", "evaluate", "report"])
def test_a_folder_that_vanishes_is_one_message_and_does_not_come_back(
    tmp_path, tiny_prior, run, smiles, monkeypatch, name
):
    out = tmp_path / "out"
    file = tmp_path / "molecules.smi"
    file.write_text("\n".join(smiles[:20]))
    from chemkl.training.trainer import Checkpoint

    stage, config, *where = {
        "posttrain": (posttrain, posttrain_config(tiny_prior), Checkpoint, "save", 2),
        "pretrain": (pretrain, pretrain_config(), Checkpoint, "save", 2),
        "sample": (sample, {"policy": str(tiny_prior), "n": 30}, sample_stage, "_columns"),
        "score": (score, {"file": str(file), "reward": QED}, score, "_rows"),
        "evaluate": (evaluate, {"runs": [str(run)]}, evaluate, "_write_tables"),
        "report": (report, {"runs": [str(run)]}, report, "render_page"),
    }[name]
    vanishing(where[0], where[1], out, monkeypatch, *where[2:])
    with pytest.raises(StorageError) as caught:
        stage.run(config, out)
    message = str(caught.value)
    assert "\n" not in message
    assert str(out) in message
    assert "removed or moved away" in message or "not there any more" in message
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

    def full(*_):
        raise FULL

    monkeypatch.setattr("chemkl.results.atomic.write_sums", full)
    with (
        pytest.raises(StorageError, match="model: cannot be written"),
        atomic_folder(tmp_path / "model") as aside,
    ):
        (aside / "new.bin").write_bytes(b"new")
    assert names(tmp_path) == ["model", "model/old.bin"]


def of_a_full_disk():
    """What a reader makes of a full disk: an error of the input, which it is not."""
    error = InputError("cache: database or disk is full")
    error.__cause__ = FULL
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StorageError("a.bin: cannot be written."), 1, "a.bin: cannot be written.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "b"), 1, "b: No space left on device\n"),
        (InputError("mend it"), 2, "mend it\n"),
        (of_a_full_disk(), 1, "cache: database or disk is full\n"),
    ],
)
def test_the_exit_code_of_a_full_disk_is_1_and_one_line(monkeypatch, capsys, error, code, said):
    def fail(**_settings):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == said
