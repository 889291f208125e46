"""One process at a time in an output folder: two would write the same rows twice."""

import os
import sys
from pathlib import Path
from typing import IO

from chemkl.config import InputError

FILE_NAME = ".lock"


def claim(folder: Path, *, shared: bool = True, tries: int = 10) -> IO[str] | None:
    """Make an output folder if need be and lock it; it is free again once the file is closed.

    The system frees the lock of a killed process by itself.

    Args:
        folder: of the output.
        shared: whether further processes of one distributed run share the lock of the first.
        tries: how often a folder may be moved away in the meantime.

    Returns:
        The open lock file; None where there is nothing to lock (a further process, or Windows).

    Raises:
        InputError: the folder cannot be written, or another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / FILE_NAME).open("a")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write there ({error.strerror}); choose another output folder with "
            "--out."
        ) from None
    if sys.platform == "win32" or (shared and _is_further_process()):
        lock.close()
        return None
    import fcntl  # Unix only

    # a process may claim its own again, and frees it by closing any of these files
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.close()
        raise InputError(
            f"{folder}: another process is running in this folder. Wait for it, stop it, or "
            "choose another folder with --out."
        ) from None
    except OSError:  # a file system without locks
        lock.close()
        return None
    if not _is_there(lock, folder):
        lock.close()
        if tries > 1:
            return claim(folder, shared=shared, tries=tries - 1)
        raise InputError(f"{folder}: is moved again and again; choose another folder with --out.")
    return lock


def _is_there(lock: IO[str], folder: Path) -> bool:
    """Whether a lock is that of a folder still: it may have been moved aside in the meantime.

    Whoever moves a folder holds its lock, so behind this look it stays where it is.
    """
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / FILE_NAME).stat())
    except FileNotFoundError:
        return False


def _is_further_process() -> bool:
    """Whether this is not the first process of a distributed run."""
    return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_PROCID"))
