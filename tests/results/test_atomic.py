"""Drafts after a kill, and who shares the lock of an output folder."""

import errno
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from chemkl.config import InputError, StorageError
from chemkl.results.atomic import atomic_file, atomic_folder, claim, write_bytes

RANK_VARIABLES = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID",
    "SLURM_NTASKS",
)  # fmt: skip
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
SECOND_NODE = {"RANK": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "node0"}
SRUN = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}


@pytest.fixture(autouse=True)
def no_rank(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "locks"),
    [
        ({}, True),
        (SRUN, True),
        (TORCHRUN, False),
        (LIGHTNING, False),
        (SECOND_NODE, False),
        (SRUN | TORCHRUN, False),  # torchrun in a Slurm job
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, True),
        ({"RANK": "8"}, True),  # of another program: torch.distributed also sets WORLD_SIZE
    ],
)
def test_the_variables_of_torch_distributed_decide(tmp_path, monkeypatch, variables, locks):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for rank in (None, 0, 1):  # known to the stage or not
        lock = claim(tmp_path / "out", rank=rank)
        assert (lock is not None) is {None: locks, 0: True, 1: False}[rank]
        if lock is not None:
            lock.close()


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EAGAIN, errno.EACCES]
)
def test_a_missing_lock_is_reported(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    if number in (errno.EAGAIN, errno.EACCES):
        with pytest.raises(InputError, match="another process is running in this folder"):
            claim(tmp_path)
        return
    assert claim(tmp_path) is None
    assert claim(tmp_path) is None
    assert capsys.readouterr().err == (  # only once
        f"{tmp_path}: cannot be locked here ({os.strerror(number)}): do not run two "
        "processes in it at the same time\n"
    )


def test_free_space_is_reported_before_the_draft_is_removed(tmp_path, monkeypatch):
    names = []

    def usage(_):
        names.extend(path.name for path in tmp_path.iterdir())
        return SimpleNamespace(free=0)

    def write():
        with atomic_file(tmp_path / "a.bin") as draft:
            draft.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(StorageError, match=r"No space left on device \(0\.0 MiB free there\)"):
        write()
    assert names == [".a.bin.tmp"]
    assert list(tmp_path.iterdir()) == []


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from chemkl.results.atomic import atomic_file, atomic_folder

path = Path(sys.argv[1])
with atomic_folder(path) if sys.argv[2] == "folder" else atomic_file(path, shared=True) as draft:
    (draft / "inner" if draft.is_dir() else draft).write_text("half")
    if len(sys.argv) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_drafts_of_killed_processes_are_removed_and_others_stay(tmp_path, kind):
    path = tmp_path / "a[1].bin"
    command = [sys.executable, "-c", WRITE_AND_DIE, str(path), kind]
    subprocess.run([*command, "die"], check=False)
    (killed,) = tmp_path.iterdir()
    elsewhere = killed.with_name(killed.name.replace(platform.node(), "elsewhere"))
    elsewhere.write_text("of another machine")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        if kind == "file":
            write_bytes(path, b"whole")
        else:
            with atomic_folder(path) as draft:
                (draft / "inner").write_text("whole")
        (draft,) = {*tmp_path.iterdir()} - {path, elsewhere}
        assert str(process.pid) in draft.name
    assert {*tmp_path.iterdir()} == {path, elsewhere}  # which could finish
    assert not killed.exists()
