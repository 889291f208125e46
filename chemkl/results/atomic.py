"""Atomic writes, and output folders that one process locks at a time.

A file is written under a temporary name, flushed to the disk, then renamed.
"""

import errno
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, StorageError
from chemkl.config.base import say_once, utf8
from chemkl.results.seal import SEAL, seal, write_sums

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV)
# the words of libraries with exceptions of their own, such as SQLite and torch
_TEXTS = (
    *(os.strerror(number).lower() for number in _FAILURES[:4]),
    "database or disk is full",
    "file write failed",
)
LOCK = ".lock"


def check_utf8_name(path: Path) -> None:
    """Refuse an output path that is not UTF-8: Parquet and model files cannot be written there."""
    if utf8(path) != str(path):
        raise InputError(
            f"{path}: cannot write there: the name is not UTF-8; choose another one with --out"
        )


@contextmanager
def atomic_file(
    path: Path,
    *,
    sealed: bool = False,
    note: str = "",
    parents: bool = False,
    folder: Path | None = None,
    shared: bool = False,
) -> Iterator[Path]:
    """Yield a draft path to write to; on success it replaces the file, on failure it is removed.

    Args:
        path: the file.
        sealed: whether it gets a checksum (see `chemkl.results.seal`).
        note: see `seal`.
        parents: whether missing folders are created; a run does not do so, because its folder may
            be removed on purpose.
        folder: folder of the draft, on the same file system; None: next to the file.
        shared: whether several processes may write the file at once.

    Raises:
        StorageError: the disk is full, cannot be written, or the folder does not exist.
    """
    with ExitStack() as cleanup, disk_errors(path):  # reports free space before the draft goes
        draft = folder / path.name if folder else _process_draft(path) if shared else draft_of(path)
        cleanup.callback(remove, draft)
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if sealed and draft.is_file():  # a distributed checkpoint is a folder
            seal(draft, path.suffix, note)
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it replaces `final` and gets checksums."""
    with ExitStack() as cleanup, disk_errors(final):
        draft = _process_draft(final)
        draft.mkdir()
        cleanup.callback(remove, draft)
        yield draft
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors makes files readable only by their owner
        write_sums(draft)
        old = draft.with_name(f"{draft.name}.old")
        if final.exists():
            os.replace(final, old)
        os.replace(draft, final)
        remove(old)


def draft_of(path: Path) -> Path:
    """Return the draft path of `atomic_file` without `folder` and `shared`."""
    return path.with_name(f".{path.name}.tmp")


def _process_draft(path: Path) -> Path:
    """Return a draft path of this process only; remove the drafts of killed processes.

    Drafts of other machines stay: their processes may be running.
    """
    prefix = f".{path.name}.{platform.node()}-"
    for draft in path.parent.glob(f"{escape(prefix)}*"):
        number = draft.name.removeprefix(prefix).split(".")[0]
        if number.isdecimal() and (int(number) == os.getpid() or not _is_alive(int(number))):
            remove(draft)
    return path.with_name(f"{prefix}{os.getpid()}.tmp")


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine is running; True if that is unknown."""
    try:
        if os.name == "posix":  # on Windows this call ends the process
            os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk in this scope into a `StorageError` about a path."""
    try:
        yield
    except Exception as error:
        disk_error = None if isinstance(error, StorageError) else storage_error(error, path)
        if disk_error is None:
            raise
        raise disk_error from error


def storage_error(error: BaseException, path: Path) -> StorageError | None:
    """Return the error to report if the disk is the cause; None otherwise."""
    folder, why = path.parent, storage_problem(error)
    if why is None and isinstance(error, FileNotFoundError) and not folder.is_dir():
        why = f"the folder {folder} no longer exists"
    if why is None:
        return None
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free / 2**20
    return StorageError(f"{path}: cannot be written: {why} ({free:,.1f} MiB free there).")


def storage_problem(error: BaseException | None) -> str | None:
    """Return why a disk failed, in the system's words; None if the error has another cause."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        text = str(error)
        if isinstance(error, StorageError):
            return text
        if isinstance(error, OSError) and error.errno in _FAILURES:
            return os.strerror(error.errno)
        if any(words in text.lower() for words in _TEXTS):
            return text.splitlines()[0]
        error = error.__cause__ or error.__context__
    return None


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush the bytes of a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, sealed: bool = False, parents: bool = False) -> None:
    """Write a file atomically: a kill leaves either the old content or the new one."""
    with atomic_file(path, sealed=sealed, parents=parents, shared=True) as draft:
        draft.write_bytes(content)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as one zstd Parquet file with a checksum, atomically."""
    with atomic_file(path, sealed=True, shared=True) as draft:
        pq.write_table(table, draft, compression="zstd")


def write_json(path: Path, content: Mapping[str, Any], *, sealed: bool = False) -> None:
    """Write strict JSON atomically; NaN and infinities become null."""
    more = {"sha256": SEAL.decode()} if sealed else {}
    write_bytes(path, json_of({**content, **more}), sealed=sealed)


def json_of(content: Mapping[str, Any]) -> bytes:
    """Encode strict JSON; NaN and infinities become null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def finite(value: Any) -> Any:
    """Copy a nested value into plain JSON types; numbers that JSON lacks become null."""
    if isinstance(value, Mapping):
        return {utf8(str(key)): finite(item) for key, item in value.items()}
    if isinstance(value, str | Path):
        return utf8(value)
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [finite(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return finite(value.item())
    return value if not isinstance(value, float) or math.isfinite(value) else None


def claim(folder: Path, *, shared: bool = True, rank: int | None = None) -> IO[str] | None:
    """Create an output folder if it is missing and lock it until the returned file is closed.

    The system releases the lock of a killed process. Without support for locks a line on standard
    error says so. A process may claim its folder again (POSIX locks belong to a process) and
    releases it by closing any of the files.

    Args:
        folder: the output folder.
        shared: whether the processes of one distributed run share the lock of the first.
        rank: of this process in its distributed run; None: decided by `is_further_rank`.

    Returns:
        The open lock file; None without a lock (a further process, or no support).

    Raises:
        InputError: the folder cannot be written, or another process has locked it.
    """
    check_utf8_name(folder)
    is_further = shared and (is_further_rank() if rank is None else rank > 0)
    problem = "another process keeps moving it;"
    for _ in range(10):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK).open("a")
        except OSError as error:
            problem = f"cannot write there ({error.strerror});"
            break
        with ExitStack() as undo:
            undo.callback(lock.close)
            if is_further:
                return None
            try:
                import fcntl  # Unix only

                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever moves a folder holds its lock: after this check it stays in its place.
                if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                    undo.pop_all()
                    return lock
            except FileNotFoundError:  # moved away since
                continue
            except (BlockingIOError, PermissionError):
                problem = "another process is running in this folder. Wait for it, stop it, or"
                break
            except (OSError, ImportError) as error:
                why = getattr(error, "strerror", None) or error
                say_once(
                    f"{folder}: cannot be locked here ({why}): do not run two processes in it at "
                    "the same time"
                )
                return None
    raise InputError(f"{folder}: {problem} choose another output folder with --out.")


def is_further_rank() -> bool:
    """Whether this is a process of a distributed run other than its first.

    The variables of torch.distributed decide, which torchrun and Lightning's launcher set. Those of
    a scheduler (SLURM_PROCID) do not: the tasks of `srun -n N` may be independent runs.
    """
    size = os.environ.get("WORLD_SIZE")
    names = ("LOCAL_RANK",) if size is None else ("LOCAL_RANK", "RANK", "NODE_RANK")
    return size != "1" and any(os.environ.get(name, "0") != "0" for name in names)
