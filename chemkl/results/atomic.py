"""Files that appear whole or not at all, and output folders in which one process works at a time.

A file is first written under another name, flushed to the disk, then renamed to its own.
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
# how libraries tell the same that have exceptions of their own, SQLite and torch among them
_TEXTS = (
    *(os.strerror(number).lower() for number in _FAILURES[:4]),
    "database or disk is full",
    "file write failed",
)
LOCK = ".lock"


def refuse_other_names(path: Path) -> None:
    """Refuse output whose name is not UTF-8: Parquet and model files cannot be written there."""
    if utf8(path) != str(path):
        raise InputError(
            f"{path}: cannot write there, as the name is not UTF-8; choose another with --out"
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
    """Give a path to write to; what is there at the end replaces the file, else nothing is left.

    Args:
        path: of the file.
        sealed: whether it gets a checksum (see `chemkl.results.seal`).
        note: see `seal`.
        parents: whether missing folders are made; a run does not, whose folder may be taken away.
        folder: where it is written first, on the same file system; None: beside its place.
        shared: whether several processes may write the file at once.

    Raises:
        StorageError: the disk is full, cannot be written, or the folder is not there.
    """
    with ExitStack() as drafts, storing(path):  # free space is told while the draft takes its part
        draft = folder / path.name if folder else own_draft(path) if shared else draft_of(path)
        drafts.callback(remove, draft)
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
    """Give an empty folder to fill; at the end it is moved in, with checksums of its files."""
    with ExitStack() as drafts, storing(final):
        draft = own_draft(final)
        draft.mkdir()
        drafts.callback(remove, draft)
        yield draft
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors makes them readable for their owner alone
        write_sums(draft)
        old = draft.with_name(f"{draft.name}.old")
        if final.exists():
            os.replace(final, old)
        os.replace(draft, final)
        remove(old)


def draft_of(path: Path) -> Path:
    """Where `atomic_file` has a file written, if it is told of no folder and it is not shared."""
    return path.with_name(f".{path.name}.tmp")


def own_draft(path: Path) -> Path:
    """Where this process alone writes a file or folder; what killed ones have left is removed.

    Processes of other machines may be at work: what they have left stays.
    """
    mark = f".{path.name}.{platform.node()}-"
    for left in path.parent.glob(f"{escape(mark)}*"):
        number = left.name.removeprefix(mark).split(".")[0]
        if number.isdecimal() and (int(number) == os.getpid() or not _is_alive(int(number))):
            remove(left)
    return path.with_name(f"{mark}{os.getpid()}.tmp")


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs, as far as can be told."""
    try:
        if os.name == "posix":  # on Windows this call ends the process
            os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise a `StorageError` about a path where the disk fails in this scope."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, StorageError) else storage_error(error, path)
        if told is None:
            raise
        raise told from error


def storage_error(error: BaseException, path: Path) -> StorageError | None:
    """Say what could not be written, why, and how much space is free; None: the disk is well."""
    folder, why = path.parent, storage_problem(error)
    if why is None and isinstance(error, FileNotFoundError) and not folder.is_dir():
        why = f"the folder {folder} is not there any more"
    if why is None:
        return None
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free / 2**20
    return StorageError(f"{path}: cannot be written: {why} ({free:,.1f} MiB free there).")


def storage_problem(error: BaseException | None) -> str | None:
    """Why a disk failed, in the words of the system; None: something else is the matter."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
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
    """Remove a file or a folder, if it is there."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, sealed: bool = False, parents: bool = False) -> None:
    """Write a file so that a kill leaves either the old content or the new one."""
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
    """Strict JSON; NaN and infinities become null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def finite(value: Any) -> Any:
    """Copy a nested value into plain JSON types, with null for numbers that JSON cannot hold."""
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
    """Make an output folder if need be and lock it; it is free again once the file is closed.

    The system frees the lock of a killed process by itself. On a system or a file system without
    locks, the user is told so. A process may claim its own again (POSIX locks are those of a
    process), and frees it by closing any of these files.

    Args:
        folder: of the output.
        shared: whether further processes of one distributed run share the lock of the first.
        rank: of this process in its distributed run; None: as `is_further_rank` finds out.

    Returns:
        The open lock file; None where there is nothing to lock (a further process, or no locks).

    Raises:
        InputError: the folder cannot be written, or another process has it.
    """
    refuse_other_names(folder)
    is_further = shared and (is_further_rank() if rank is None else rank > 0)
    problem = "it is moved again and again;"
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
                # Whoever moves a folder holds its lock: behind this look it stays where it is.
                if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                    undo.pop_all()
                    return lock
            except FileNotFoundError:  # moved away in the meantime
                continue
            except (BlockingIOError, PermissionError):
                problem = "another process is running in this folder. Wait for it, stop it, or"
                break
            except (OSError, ImportError) as error:
                why = getattr(error, "strerror", None) or error
                say_once(
                    f"{folder}: cannot be locked here ({why}): take care that no two processes run "
                    "in it at the same time"
                )
                return None
    raise InputError(f"{folder}: {problem} choose another output folder with --out.")


def is_further_rank() -> bool:
    """Whether this is a process of a distributed run, and not its first.

    The variables of torch.distributed tell, which torchrun and Lightning's launcher set. What a
    scheduler says (SLURM_PROCID) tells nothing: the tasks of `srun -n N` may be runs of their own.
    """
    size = os.environ.get("WORLD_SIZE")
    names = ("LOCAL_RANK",) if size is None else ("LOCAL_RANK", "RANK", "NODE_RANK")
    return size != "1" and any(os.environ.get(name, "0") != "0" for name in names)
