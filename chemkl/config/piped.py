"""Data that comes through a pipe: copied into a file, so that it can be read more than once."""

import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO

from chemkl.config.errors import InputError

STDIN = Path("-")
"""Stands for standard input."""

_copies: dict[Path, IO[bytes]] = {}


def label_of(path: Path) -> str:
    """The name of a file in messages."""
    return "standard input" if path == STDIN else str(path)


def local(path: Path) -> Path:
    """Give a file that can be read more than once: standard input and pipes are copied into one.

    The copy lives as long as this process.

    Raises:
        InputError: a folder, a device, or nothing that can be read.
    """
    if path in _copies:
        return Path(_copies[path].name)
    try:
        if path == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise InputError("-: standard input is closed or a terminal; pipe a file into it")
            return _copied(path, sys.stdin.buffer)
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise InputError(f"{path}: this is a folder; expected a file")
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise InputError(f"{path}: this is a device; expected a file, or - for standard input")
        if stat.S_ISREG(kind):
            return path
        with path.open("rb") as stream:
            return _copied(path, stream)
    except OSError as error:
        raise InputError(f"{label_of(path)}: cannot be read ({error.strerror or error})") from None


def is_piped(path: Path) -> bool:
    """Whether a path stands for something that can be read only once."""
    try:
        return path == STDIN or path in _copies or path.is_fifo()
    except (OSError, ValueError):  # a name that is too long, or no name
        return False


def is_copied(path: Path) -> bool:
    """Whether this process has read a pipe."""
    return path in _copies


def _copied(path: Path, stream: IO[bytes]) -> Path:
    copy = tempfile.NamedTemporaryFile(prefix="chemkl-")  # noqa: SIM115 - removed when closed
    shutil.copyfileobj(stream, copy)
    copy.flush()
    _copies[path] = copy
    return Path(copy.name)
