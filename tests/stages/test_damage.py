"""Damaged files are refused in one line, and a disk that fails leaves nothing half-written."""

import errno
import json
import os
import random
import shutil
import subprocess
from functools import reduce
from operator import getitem
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import CONFIG, QED, SAMPLE, SILENT, TINY, checkpoint_of, contents

from chemkl import cli
from chemkl.config import InputError, StorageError
from chemkl.policies import RnnPolicy, Vocabulary, load_policy, save_policy
from chemkl.policies.checkpoint import WEIGHT_LIMIT
from chemkl.results import Manifest, read_trace, write_bytes
from chemkl.results.atomic import atomic_file, atomic_folder, storage_problem
from chemkl.results.seal import TAG
from chemkl.stages import evaluate, posttrain, prepare, pretrain, report, sample, score
from chemkl.training.trainer import Checkpoint

PRIOR = SAMPLE.parent / "priors" / "moses.safetensors"
SMILES = pd.read_parquet(SAMPLE / "corpus.parquet")["smiles"].tolist()[:3000]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def bits_of(path):
    """Bits at the beginning, in the middle, at the end, and at random places."""
    n = 8 * path.stat().st_size
    return [3, n // 2, n - 1, *random.Random(path.name).sample(range(n), 5)]


def posttrain_config(prior):
    every = {"callbacks": SILENT | {"checkpoint_every": 2}}
    return CONFIG | every | {"prior": str(prior), "reward": QED, "batch_size": 8, "budget": 60}


@pytest.fixture(scope="module")
def originals(tmp_path_factory, tiny_prior):
    """A corpus, a prior, samples, and a run that was cut off before its end."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "m.smi").write_text("\n".join(SMILES[:200]))
    prepare.run({"source": {"kind": "file", "path": str(folder / "m.smi")}}, folder / "corpus")
    shutil.copy(tiny_prior, folder / "prior.safetensors")
    posttrain.run(posttrain_config(folder / "prior.safetensors"), folder / "run")
    manifest = Manifest.load(folder / "run")
    manifest.status = "interrupted"
    manifest.save()
    config = {"policy": str(folder / "prior.safetensors"), "n": 30}
    sample.run(config, folder / "samples")
    return folder


@pytest.fixture
def copies(originals, tmp_path):
    """A copy of them; the run still reads the original prior."""
    return shutil.copytree(originals, tmp_path / "copies")


def go_on(copies, originals):
    return posttrain.run(posttrain_config(originals / "prior.safetensors"), copies / "run")


USES = {
    "run/manifest.json": [go_on],
    "run/checkpoints/last.ckpt": [go_on],
    "run/trace/part": [go_on, lambda here, _: read_trace(here / "run")],
    "prior.safetensors": [
        lambda here, _: posttrain.run(posttrain_config(here / "prior.safetensors"), here / "new")
    ],
    "corpus/": [
        lambda here, _: pretrain.run(
            {"corpus": str(here / "corpus"), "trainer": {"max_steps": 1}}, here / "new"
        )
    ],
    "samples/samples.parquet": [
        lambda here, _: evaluate.run(
            {"samples": [{"path": str(here / "samples/samples.parquet")}]}, here / "new"
        )
    ],
}
FILES = {file: file for file in USES if file != "corpus/"} | {
    f"corpus/{name}": "corpus/" for name in ("corpus.parquet", "tokens.json")
}


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_one_message_and_nothing_changes(copies, originals, name):
    (file,) = copies.glob(f"{name}*")
    for bit in bits_of(file):
        flip(file, bit)
        before = contents(copies)
        for use in USES[FILES[name]]:
            with pytest.raises(InputError) as caught:
                use(copies, originals)
            assert file.name in str(caught.value), bit
            assert "\n" not in str(caught.value)
        shutil.rmtree(copies / "new", ignore_errors=True)  # it says that it has failed
        assert contents(copies) == before
        flip(file, bit)


def test_an_intact_run_resumes(copies, originals):
    go_on(copies, originals)
    assert Manifest.load(copies / "run").status == "complete"


def test_files_of_earlier_versions_are_read_as_before(copies, originals):
    prior = copies / "prior.safetensors"
    with safe_open(prior, framework="pt") as file:
        metadata = {"header": file.metadata()["header"]}
    save_file(load_file(prior), prior, metadata)
    assert load_policy(prior).state_dict().keys() == load_file(prior).keys()
    part = next((copies / "run" / "trace").iterdir())
    pd.read_parquet(part)
    checkpoint = copies / "run" / "checkpoints" / "last.ckpt"
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    manifest = copies / "run" / "manifest.json"
    plain = json.loads(manifest.read_text())
    del plain["sha256"]
    manifest.write_text(json.dumps(plain))
    for file in (prior, checkpoint, manifest):
        assert TAG not in file.read_bytes()
    go_on(copies, originals)


# ---- weights that no training leaves


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 1.1e4])
def test_absurd_weights_are_refused_by_the_name_of_the_tensor(tmp_path, bad):
    policy = RnnPolicy(Vocabulary.of(["C", "O"]), hidden_size=8, embedding_size=4)
    name, weight = next(iter(policy.state_dict().items()))
    weight.view(-1)[3] = bad
    save_policy(policy, tmp_path / "a.safetensors", {})
    with pytest.raises(InputError, match=rf"^prior: .*a\.safetensors: the weights {name} range"):
        load_policy(tmp_path / "a.safetensors", key="prior")
    weight.view(-1)[3] = WEIGHT_LIMIT
    save_policy(policy, tmp_path / "a.safetensors", {})
    load_policy(tmp_path / "a.safetensors")


def test_absurd_weights_in_a_checkpoint_are_refused(copies, originals):
    checkpoint = copies / "run" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    name = next(iter(checkpoint_of(copies / "run")["state_dict"]))
    of_optimiser = ("optimizer_states", 0, "state", 0, "exp_avg")
    for keys, message in {
        ("state_dict", name): name,
        of_optimiser: r"of the optimiser\.0\.state\.0\.exp_avg",
    }.items():
        saved = checkpoint_of(copies / "run")
        reduce(getitem, keys, saved).view(-1)[0] = float("nan")
        torch.save(saved, checkpoint)
        says = rf"last\.ckpt: the weights {message} range from nan to nan"
        with pytest.raises(InputError, match=says):
            go_on(copies, originals)
        checkpoint.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("manifest.json", InputError, "a folder; expected a manifest"),
        ("checkpoints/policy.safetensors", StorageError, "cannot be used: Is a directory"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_one_message(copies, originals, name, error, message):
    (copies / "run" / name).unlink()
    (copies / "run" / name).mkdir()
    with pytest.raises(error, match=rf"^\S*{name}: {message}") as caught:
        go_on(copies, originals)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "before"),
    [
        (PRIOR, "4bab8aaf322cc676941fd549bf666e2ed2043d4ec7392e99876e82ec2452e5fd"),
        (SAMPLE, "9c1266cbadc7485f166b86a6f529b80be5719740c24a18a7e1decf6fa65bf087"),
    ],
)
def test_a_run_of_the_shipped_files_without_a_seal_goes_on(tmp_path, place, before):
    with Manifest.start(tmp_path, stage="posttrain", config={}, inputs={"file": place}) as first:
        pass
    path = tmp_path / "manifest.json"
    content = path.read_text(encoding="utf-8").replace(first.inputs["file"].sha256, before)
    path.write_text(json.dumps(json.loads(content)))
    assert Manifest.load(tmp_path).is_finished("posttrain", {})
    assert not Manifest.load(tmp_path).has_changed_inputs()


# ---- a disk that fails

TRAINER = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 0}}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def temporary_in(folder):
    return [name for name in names(folder) if name.endswith(".tmp") or "/." in name]


@pytest.fixture(scope="module")
def disk():
    """A file system of 2 MiB, which root alone can mount."""
    folder = Path("/tmp") / f"chemkl-disk-{os.getpid()}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
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
    """Fill a disk except for some kiB."""
    with (disk / "filler").open("wb") as file:
        free = shutil.disk_usage(disk).free
        file.write(b"\0" * max(0, free - but * 1024))


@pytest.fixture(scope="module")
def run(tiny_prior, run_once):
    return run_once("posttrain", full_config(tiny_prior))


@pytest.fixture
def config_of(tmp_path, tiny_prior, run):
    """The settings of a stage for a number of molecules."""

    def get(name, n):
        file = tmp_path / "molecules.smi"
        file.write_text("\n".join(SMILES[:n]))
        return {
            "prepare": {"source": {"kind": "file", "path": str(file)}},
            "pretrain": PRETRAIN,
            "posttrain": full_config(tiny_prior),
            "sample": {"policy": str(tiny_prior), "n": n, "batch_size": 500},
            "score": {"file": str(file), "reward": QED, "progress_bar": False},
            "evaluate": {"runs": [str(run)]},
            "report": {"runs": [str(run)]},
        }[name]

    return get


def full_config(prior):
    return posttrain_config(prior) | TRAINER | {"batch_size": 16, "budget": 150}


PRETRAIN = TINY | {
    "model": TINY["model"] | {"hidden_size": 64},
    "epochs": 1,
    "checkpoint_every": 2,
    "trainer": TINY["trainer"] | TRAINER["trainer"],
}


STAGES = {  # module, kiB left for it, the file that does not fit
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
    stage, room, file_name = STAGES[name]
    fill(place, but=room)
    out = place / "out"
    with pytest.raises(StorageError) as caught:
        stage.run(config, out)
    message = str(caught.value)
    assert "\n" not in message
    assert file_name in message
    assert "No space left on device" in message
    assert "MiB free there" in message
    assert "run the same command again" in message or "continues from there" in message
    assert temporary_in(out) == []
    manifest = Manifest.load(out)
    assert manifest.status == "failed"
    assert manifest.ended_by.startswith("StorageError: ")
    (place / "filler").unlink()
    if name != "report":  # a page needs more than 2 MiB
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
    with pytest.raises(
        StorageError, match=r"Everything up to the last checkpoint \(step 2\) is safe"
    ):
        posttrain.run(full_config(tiny_prior), out)
    assert saved == [2]
    assert temporary_in(out) == []
    assert Manifest.load(out).status == "failed"
    monkeypatch.undo()
    (place / "filler").unlink()
    posttrain.run(full_config(tiny_prior), out)
    assert Manifest.load(out).results["calls"] == 150


def test_the_message_comes_even_if_the_manifest_cannot_be_written(place, capsys):
    out = place / "out"

    def leave():
        with Manifest.start(out, stage="report", config={}):
            fill(place, but=0)
            write_bytes(out / "report.html", b"x" * 10_000)

    with pytest.raises(StorageError, match=r"report\.html: cannot be written: No space left"):
        leave()
    assert temporary_in(out) == []
    assert Manifest.load(out).status == "running"  # the file is complete


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
    original = getattr(owner, function)

    def vanishing(*arguments, **more):
        calls.append(name)
        if len(calls) == nth:
            shutil.rmtree(out)
        return original(*arguments, **more)

    monkeypatch.setattr(owner, function, vanishing)
    with pytest.raises(StorageError) as caught:
        STAGES[name][0].run(config_of(name, 30), out)
    message = str(caught.value)
    assert "\n" not in message
    assert str(out) in message
    assert "removed or moved away" in message or "no longer exists" in message
    assert f"Nothing of the run is left in {out}." in message
    assert not (out / "manifest.json").exists()
    assert temporary_in(tmp_path) == []


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
def test_every_error_of_a_full_disk_is_recognised(tmp_path, error):
    def write():
        with atomic_file(tmp_path / "a.bin") as part:
            part.write_bytes(b"half")
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
        atomic_folder(tmp_path / "model") as part,
    ):
        (part / "new.bin").write_bytes(b"new")
    assert names(tmp_path) == ["model", "model/old.bin"]


READING_ON_A_FULL_DISK = InputError("cache: database or disk is full")
READING_ON_A_FULL_DISK.__cause__ = FULL  # so that it is no error of the input


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StorageError("a.bin: cannot be written."), 1, "a.bin: cannot be written.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "b"), 1, "b: No space left on device\n"),
        (InputError("mend it"), 2, "mend it\n"),
        (READING_ON_A_FULL_DISK, 1, "cache: database or disk is full\n"),
    ],
)
def test_the_exit_code_of_a_full_disk_is_1_and_one_line(
    monkeypatch, chemkl, capsys, error, code, message
):
    monkeypatch.setattr(cli, "app", Mock(side_effect=error))
    assert chemkl() == code
    assert capsys.readouterr().err == message
