"""Reads the pickle of a scikit-learn model without running anything of it: inert stand-ins only."""

import pickle
from typing import IO, Any

import numpy as np

from chemkl.config import InputError


class Inert:
    """What a pickle says of one object, and no more: how it was made, and its state."""

    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Inert":
        """Keep the arguments."""
        self = super().__new__(cls)
        self.arguments = arguments
        return self

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


NAMES = (
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("sklearn.ensemble._forest", "RandomForestClassifier"),
    ("sklearn.svm._classes", "SVC"),
    ("sklearn.tree._classes", "DecisionTreeClassifier"),
    ("sklearn.tree._tree", "Tree"),
)
"""All that a pickle may name. Each stands for a class of its own that holds what it is given."""

STAND_INS: dict[tuple[str, str], type[Inert]] = {
    (module, name): type(name, (Inert,), {}) for module, name in NAMES
}

FORMATS = ("f8", "f4", "i8", "i4")
"""Formats of numbers that an array may hold."""

DAMAGES = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What pickle and the conversion to arrays raise for foreign or damaged bytes."""


class _InertUnpickler(pickle.Unpickler):
    """Builds stand-ins; a name that is not on the list is refused."""

    def find_class(self, module: str, name: str) -> type[Inert]:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which is not allowed"
            ) from None


def read_model(stream: IO[bytes], name: str) -> Inert:
    """Read a pickled model: its objects as stand-ins, nothing imported, nothing called.

    Args:
        stream: the pickle.
        name: how messages call it.

    Raises:
        InputError: no such pickle, or it names anything but arrays and the models on the list.
    """
    try:
        model = _InertUnpickler(stream).load()
    except DAMAGES as error:
        raise InputError(f"{name}: not the pickle of a known model ({error}).") from error
    if not isinstance(model, Inert):
        raise InputError(f"{name}: holds a {type(model).__name__}, not a model.")
    return model


def as_array(pickled: Any) -> np.ndarray:
    """Make an array out of the stand-in of one: numbers, or records of numbers.

    Raises:
        TypeError: it is no array.
        ValueError: it is one of something else than numbers.
    """
    if not isinstance(pickled, STAND_INS["numpy.core.multiarray", "_reconstruct"]):
        raise TypeError(f"expected an array, found a {type(pickled).__name__}")
    _, shape, dtype, fortran, data = pickled.state
    flat: np.ndarray = np.frombuffer(data, _as_dtype(dtype))
    return flat.reshape(shape, order="F" if fortran else "C")


def _as_dtype(pickled: Any) -> np.dtype:
    """The dtype of numbers, or of records whose fields are numbers."""
    code = pickled.arguments[0]
    _, order, subarray, names, fields, size, *_ = pickled.state
    if names:
        parts = [fields[name] for name in names]
        return np.dtype(
            {
                "names": list(names),
                "formats": [_as_dtype(part[0]) for part in parts],
                "offsets": [part[1] for part in parts],
                "itemsize": size,
            }
        )
    if code not in FORMATS or subarray is not None:
        raise ValueError(f"an array of {code!r}")
    number: np.dtype = np.dtype(f"{order}{code}")
    return number
