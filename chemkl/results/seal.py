"""Checksums inside files: a file with one flipped bit is refused when it is read.

The seal is a line of text with the SHA-256 of the file, computed with zeros in place of the digest.
It is stored where other readers ignore it: in Parquet before the footer, in a torch file (a zip
archive) as the archive's comment, in safetensors in the metadata, in JSON as a value. A file is
renamed together with its seal, so a kill cannot separate them. The tag is on both sides of the
digest, so one flipped bit cannot make a sealed file look like an unsealed one, which is accepted.
Sealing or checking a checkpoint of 60 MB takes about .05 s.
"""

import hashlib
import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.paths import shipped_root

TAG = b"chemkl-sha256"
_ZEROS = b"0" * 64
SEAL = b":".join((TAG, _ZEROS, TAG))
"""The seal of a file before its checksum is computed."""
SUMS = "SHA256SUMS"
"""The file with the checksums of a folder whose files cannot contain their own."""

_FOUND = re.compile(re.escape(TAG) + b":([0-9a-f]{64}):" + re.escape(TAG))
_LISTED = re.compile(rb"([0-9a-f]{64})  ([ -.0-~]+(?:/[ -.0-~]+)*)")
_NO_COMMENT = b"PK\x05\x06"  # begins the last 22 bytes of a zip archive without a comment
_DIGEST_AT = len(TAG) + 1
_SETTLED = 10**9  # nanoseconds after which a new write gets another time on any file system
_read: dict[tuple[Any, ...], Any] = {}


def seal(path: Path, kind: str, note: str = "") -> None:
    """Put the checksum into a new file.

    Args:
        path: the file.
        kind: ending of its final name: .parquet, .ckpt, or that of a file that contains `SEAL`.
        note: of a torch file, a line before the seal.
    """
    with path.open("r+b") as file:
        if kind == ".parquet":
            file.seek(-8, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, 2)
            footer = file.read()
            file.seek(-len(footer), 2)
            file.write(SEAL + footer)
        elif kind == ".ckpt":
            comment = f"{note}\n".encode() + SEAL
            file.seek(-22, 2)
            if file.read(4) == _NO_COMMENT:  # as torch writes it
                file.seek(-2, 2)
                file.write(len(comment).to_bytes(2, "little") + comment)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.rfind(SEAL)
            digest = hashlib.sha256(content).hexdigest()
        if at < 0:
            raise ValueError(f"{path}: has no room for a checksum")
        file.seek(at + _DIGEST_AT)
        file.write(digest.encode())


def note_of(path: Path) -> str | None:
    """Return the note in the seal of a torch file; None if it, or the file, does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, 4096), 2)
            end = file.read()
    except OSError:
        return None
    match = re.search(rb"PK\x05\x06.{18}([ -~]+)\n" + re.escape(TAG), end, re.DOTALL)
    return match[1].decode() if match else None


def check_seal(path: Path, fix: str = "Restore it from a copy, or make it again.") -> None:
    """Raise an `InputError` if a file is not what chemkl wrote; see `is_whole`."""
    if not is_whole(path):
        raise InputError(
            f"{path}: damaged, or changed since chemkl wrote it: its checksum is wrong. {fix}"
        )


def check_json(path: Path, fix: str) -> None:
    """Check the seal of a JSON file that still has chemkl's layout.

    A file in another layout was rewritten by another program and is accepted, as tables are. The
    first bytes show the layout: any flipped bit in them makes the JSON invalid.
    """
    layout = b'{\n  "'
    try:
        with path.open("rb") as file:
            is_ours = file.read(len(layout)) == layout
    except OSError:  # its reader reports it
        return
    if is_ours:
        check_seal(path, fix)


def is_whole(path: Path) -> bool:
    """Whether a file with a seal, or one that is shipped with chemkl, is unchanged.

    Other files count as whole, and so do missing, empty and unreadable ones: their reader reports
    them.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return True
        return bool(_once(_is_intact, path))
    except OSError:
        return True


def _is_intact(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.rfind(TAG)
        if at >= 0:
            start = at - _DIGEST_AT - len(_ZEROS) - 1
            match = _FOUND.fullmatch(data[max(start, 0) : at + len(TAG)])
            begin = start + _DIGEST_AT
            end = begin + len(_ZEROS)
            with memoryview(data) as view, view[: max(begin, 0)] as before, view[end:] as after:
                whole = hashlib.sha256(before)
                whole.update(_ZEROS)
                whole.update(after)
            return match is not None and whole.hexdigest().encode() == match[1]
    data_folder, place = shipped_root() / "data", path.resolve()
    if not place.is_relative_to(data_folder):
        return True
    lines = (data_folder / SUMS).read_text(encoding="utf-8").splitlines()
    of_name = {name: digest for digest, name in (line.split("  ") for line in lines)}
    digest = sha256_of_file(path)
    return of_name.get(place.relative_to(data_folder).as_posix(), digest) == digest


# ---- folders whose files cannot contain a seal


def write_sums(folder: Path) -> None:
    """Write the checksums of a folder's files to one file, which `sha256sum -c` can read.

    This is for files of other libraries, such as a language model's; sealed JSON is left out.
    """
    lines = [
        f"{sha256_of_file(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (path.suffix == ".json" and TAG in path.read_bytes())
    ]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, fix: str, leave_out: str = "") -> None:
    """Raise an `InputError` if a file has changed since `write_sums`; new files are allowed.

    Files that end in `leave_out` are skipped; a folder without checksums passes.
    """
    sums = folder / SUMS
    try:
        lines = sums.read_bytes().splitlines()
    except OSError:  # no folder, or one without checksums
        return
    for line in lines:
        match = _LISTED.fullmatch(line)
        path = folder / match[2].decode() if match else sums
        if match and leave_out and path.name.endswith(leave_out):
            continue
        if not match or not path.is_file() or sha256_of_file(path) != match[1].decode():
            raise InputError(
                f"{path}: damaged, missing or changed since chemkl wrote it: its checksum in "
                f"{SUMS} is wrong. {fix} If you changed it on purpose, delete {sums}."
            )


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return str(_once(digest, path))


def _once(read: Callable[[Path], Any], path: Path) -> Any:
    """Cache what a function reads from a file while its path, size and time stay the same."""
    now = path.stat()
    key = (read.__name__, path.absolute(), now.st_ino, now.st_size, now.st_mtime_ns)
    if key in _read:
        return _read[key]
    value = read(path)
    if time.time_ns() - now.st_mtime_ns > _SETTLED:
        _read[key] = value
    return value
