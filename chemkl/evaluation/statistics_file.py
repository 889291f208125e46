"""Reads the reference statistics that molsets ships, a pickle in an npz, by an allow-list."""

import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from chemkl.config import InputError

MEMBER = "stats.npy"


def read_statistics(source: Path | IO[bytes], name: str) -> dict[str, dict[str, Any]]:
    """Read a molsets statistics file (`test_stats.npz`).

    Args:
        source: the file, or an open stream of its bytes.
        name: how messages call it.

    Returns:
        The statistics by metric: `{"SNN": {"fps": ...}, "Scaf": {"scaf": ...}, ...}`.

    Raises:
        InputError: not such a file, or its pickle names anything but arrays and counters.
    """
    try:
        with zipfile.ZipFile(source) as archive, archive.open(MEMBER) as member:
            _skip_header(member)
            content = _StatisticsUnpickler(member).load()
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        EOFError,
        OSError,
    ) as error:  # what zipfile, numpy and pickle raise for foreign or damaged bytes
        raise InputError(
            f"{name}: not a molsets statistics file ({error}). Expected an npz with the member "
            f"{MEMBER}, such as moses/dataset/data/test_stats.npz of molsets 0.3.1."
        ) from error
    statistics = content.item() if isinstance(content, np.ndarray) and content.ndim == 0 else None
    if not isinstance(statistics, dict):
        raise InputError(f"{name}: {MEMBER} holds no table of statistics.")
    return statistics


def _skip_header(stream: IO[bytes]) -> None:
    """Read past an npy header; only an array of objects is followed by a pickle."""
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    _, _, dtype = header(stream)
    if dtype != np.dtype(object):
        raise ValueError(f"{MEMBER} holds {dtype}, not objects")


class _StatisticsUnpickler(pickle.Unpickler):
    """Builds arrays, dtypes, counters and Latin-1 bytes; every other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which is not allowed"
            ) from None


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`: an empty array that the pickle's state then fills."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("an array of an unexpected kind")
    return np.ndarray(shape, dtype="b")


def _latin_1(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, which protocol 2 uses to carry bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in encoding {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "Counter"): Counter,
    ("_codecs", "encode"): _latin_1,
}
