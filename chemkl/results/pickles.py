"""Pickles of other programs, read by an allow-list: nothing is imported, nothing else is called."""

import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from chemkl.config import InputError

DAMAGES = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError),
    *(MemoryError, NotImplementedError, RecursionError, StopIteration, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What pickle, zipfile and numpy raise for foreign or damaged bytes."""


class StandIn:
    """Calls a function in place of what a pickle names.

    It is no function itself, whose defaults a pickle could change.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    """What numpy's `_reconstruct` makes: an empty array that the pickle's state then fills."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("an array of an unexpected kind")
    return np.ndarray(shape, dtype="b")


def _latin_1(text: str, encoding: str) -> bytes:
    """What `codecs.encode` makes of the bytes of protocol 2, which are always Latin-1."""
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
"""What pickled arrays name, by module and name, and what is taken for it."""


class AllowedUnpickler(pickle.Unpickler):
    """Reads a pickle whose names are all on a list; any other is refused.

    Messages call the pickle `what`; `allowed` has what is taken for a name, by module and name.
    """

    def __init__(
        self, stream: IO[bytes], allowed: Mapping[tuple[str, str], Any], what: str = "pickle"
    ) -> None:
        super().__init__(stream)
        self._allowed, self._what = allowed, what

    def find_class(self, module: str, name: str) -> Any:
        """Give what is taken for a name on the list; an UnpicklingError for any other."""
        if (module, name) not in self._allowed:
            text = f"the {self._what} asks for {module}.{name}, which is not allowed"
            raise pickle.UnpicklingError(text)
        return self._allowed[module, name]


def read_pickled(load: Callable[[], Any], kind: type, name: str, what: str) -> Any:
    """Give what an unpickler loads; an InputError where it is not of the kind wanted."""
    try:
        read = load()
    except DAMAGES as error:
        read = error
    if not isinstance(read, kind):
        why = read if isinstance(read, Exception) else f"a {type(read).__name__}"
        raise InputError(f"{name}: not {what} ({why}).")
    return read
