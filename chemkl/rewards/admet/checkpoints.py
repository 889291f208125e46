"""Reads a PyTorch checkpoint without PyTorch, and without running anything in it."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from chemkl.config import InputError
from chemkl.rewards.classifiers.inert import DAMAGES

_DTYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}
_DAMAGES = (*DAMAGES, zipfile.BadZipFile, zlib.error, NotImplementedError, StopIteration)
"""What pickle, the conversion to arrays and zipfile raise for foreign or damaged bytes."""


NAMES = (
    ("__builtin__", "set"),
    ("chemprop.nn.agg", "NormAggregation"),
    ("chemprop.nn.message_passing.base", "BondMessagePassing"),
    ("chemprop.nn.metrics", "BinaryAUPRC"),
    ("chemprop.nn.metrics", "BinaryAUROC"),
    ("chemprop.nn.metrics", "MAE"),
    ("chemprop.nn.metrics", "R2Score"),
    ("chemprop.nn.predictors", "BinaryClassificationFFN"),
    ("chemprop.nn.predictors", "RegressionFFN"),
    ("chemprop.nn.transforms", "GraphTransform"),
    ("chemprop.nn.transforms", "UnscaleTransform"),
    ("collections", "OrderedDict"),
    ("lightning.fabric.utilities.data", "AttributeDict"),
    ("torch", "device"),
    ("torch", "float32"),
    ("torch.nn.modules.activation", "ReLU"),
    ("torch.nn.modules.linear", "Identity"),
    ("torchmetrics.metric", "jit_distributed_available"),
    ("torchmetrics.utilities.data", "dim_zero_cat"),
    ("torchmetrics.utilities.data", "dim_zero_sum"),
)
"""All that a checkpoint may name beside its arrays; nothing is imported for it."""


class Inert(dict[Any, Any]):
    """Stands in for everything on the list: keeps its items, does nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


class _Tensor:
    """Cuts an array out of a storage; no function, whose defaults a pickle could change."""

    __slots__ = ()

    def __call__(
        self, data: np.ndarray, offset: int, shape: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        return data[offset : offset + int(np.prod(shape, dtype=int))].reshape(shape)

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


class _InertUnpickler(pickle.Unpickler):
    """Builds arrays, dictionaries and stand-ins; a name that is not on the list is refused."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(archive.open(name))
        self._archive, self._folder = archive, name.rpartition("/")[0]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor()
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in NAMES:
            return Inert
        raise pickle.UnpicklingError(
            f"the checkpoint asks for {module}.{name}, which is not allowed"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, size = pid
        data = self._archive.read(f"{self._folder}/data/{key}")
        return np.frombuffer(data, dtype=dtype, count=size)


def read_checkpoint(stream: IO[bytes], name: str) -> Mapping[str, Any]:
    """Read a checkpoint: arrays as they are, dictionaries, and stand-ins for what is on the list.

    Args:
        stream: the file.
        name: how messages call it.

    Raises:
        InputError: no such checkpoint, or it names what is not on the list.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            pickled = next(each for each in archive.namelist() if each.endswith("/data.pkl"))
            read = _InertUnpickler(archive, pickled).load()
    except _DAMAGES as error:
        raise InputError(f"{name}: not a PyTorch checkpoint ({error}).") from error
    if not isinstance(read, dict):
        raise InputError(f"{name}: holds a {type(read).__name__}, not a dictionary.")
    return read
