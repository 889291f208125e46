"""One process at a time in an output folder: two would write the same rows twice."""

import os
from pathlib import Path
from typing import IO

from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.results.atomic import refuse_other_names

FILE_NAME = ".lock"


def claim(
    folder: Path, *, shared: bool = True, rank: int | None = None, tries: int = 10
) -> IO[str] | None:
    """Make an output folder if need be and lock it; it is free again once the file is closed.

    The system frees the lock of a killed process by itself. On a system or a file system without
    locks, the user is told so.

    Args:
        folder: of the output.
        shared: whether further processes of one distributed run share the lock of the first.
        rank: of this process in its distributed run; None: as `is_further_rank` finds out.
        tries: how often a folder may be moved away in the meantime.

    Returns:
        The open lock file; None where there is nothing to lock (a further process, or no locks).

    Raises:
        InputError: the folder cannot be written, or another process has it.
    """
    refuse_other_names(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / FILE_NAME).open("a")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write there ({error.strerror}); choose another output folder with "
            "--out."
        ) from None
    if shared and (is_further_rank() if rank is None else rank > 0):
        lock.close()
        return None
    # a process may claim its own again, and frees it by closing any of these files
    try:
        _lock(lock)
    except (BlockingIOError, PermissionError):
        lock.close()
        raise InputError(
            f"{folder}: another process is running in this folder. Wait for it, stop it, or "
            "choose another folder with --out."
        ) from None
    except (OSError, ImportError) as error:
        lock.close()
        why = getattr(error, "strerror", None) or error
        say_once(
            f"{folder}: cannot be locked here ({why}): take care that no two processes run in it "
            "at the same time"
        )
        return None
    if not _is_there(lock, folder):
        lock.close()
        if tries > 1:
            return claim(folder, shared=shared, rank=rank, tries=tries - 1)
        raise InputError(f"{folder}: is moved again and again; choose another folder with --out.")
    return lock


def is_further_rank() -> bool:
    """Whether this is a process of a distributed run, and not its first.

    The variables of torch.distributed tell, which torchrun and Lightning's launcher set. What a
    scheduler says (SLURM_PROCID) tells nothing: the tasks of `srun -n N` may be runs of their own.
    """
    size = os.environ.get("WORLD_SIZE")
    names = ("LOCAL_RANK",) if size is None else ("LOCAL_RANK", "RANK", "NODE_RANK")
    return size != "1" and any(os.environ.get(name, "0") != "0" for name in names)


def _lock(file: IO[str]) -> None:
    """Take the lock of an open file, or raise at once."""
    import fcntl  # Unix only

    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_there(lock: IO[str], folder: Path) -> bool:
    """Whether a lock is that of a folder still: it may have been moved aside in the meantime.

    Whoever moves a folder holds its lock, so behind this look it stays where it is.
    """
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / FILE_NAME).stat())
    except FileNotFoundError:
        return False
