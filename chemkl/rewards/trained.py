"""Trained models from files, read without running anything in them: ONNX, and skops."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, did_you_mean
from chemkl.config.base import install

PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill")
Predict = Callable[[np.ndarray], np.ndarray]
"""Fingerprints (n, n_bits) to one number each (n,)."""

_ONNX_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def identity(path: Path, package: str) -> str:
    """What decides a model's values: what is in its file, and the version of what runs it."""
    with path.open("rb") as stream:
        return f"{hashlib.file_digest(stream, 'sha256').hexdigest()} {package} {version(package)}"


def require(package: str, extra: str, kind: str) -> None:
    """Refuse to go on without an optional package, which is looked for and not loaded.

    Raises:
        InputError: it is not installed; names the extra that brings it.
    """
    if find_spec(package) is None:
        raise InputError(f"{kind} needs the package {package}: install it with {install(extra)}")


def refuse_pickle(path: Path) -> None:
    """Refuse a file that runs code when it is read.

    Raises:
        InputError: it is a pickle, by its name or its first bytes; says how to convert it.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    with path.open("rb") as stream:
        start = stream.read(2)
    pickled = len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5  # its protocol mark
    if path.suffix.lower() in PICKLES or pickled:
        raise InputError(
            f"{path} is a pickle, which runs whatever code is in it, so it is not read. Convert it "
            "where you trust it, and give the new file: for sklearn_model with python -c "
            f"\"import joblib, skops.io; skops.io.dump(joblib.load('{path.name}'), "
            f"'{path.stem}.skops')\", for onnx_model with skl2onnx.to_onnx"
        )


def load_onnx(path: Path, output: str | int | None, class_index: int | None, n: int) -> Predict:
    """Read an ONNX model.

    Args:
        path: the file.
        output: name or position of the output; None: the only one.
        class_index: which of several values that it gives for a molecule.
        n: length of the fingerprint.

    Raises:
        InputError: not an ONNX model, or none that takes such a fingerprint and gives one number.
    """
    import onnxruntime  # optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a worker has one core
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - its exceptions share no base but this one
        raise InputError(
            f"{path} is not a model that ONNX Runtime can read: {_short(error)}"
        ) from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _ONNX_TYPES:
        got = ", ".join(f"{each.name}: {each.type}" for each in inputs)
        raise InputError(f"{path} should take one tensor of numbers, the fingerprints; takes {got}")
    name, dtype = inputs[0].name, _ONNX_TYPES[inputs[0].type]
    chosen = _chosen_output([each.name for each in outputs], output, path)

    def run(features: np.ndarray) -> Any:
        # one molecule at a time: what it is given must not depend on its neighbours, to the bit
        rows = [session.run([chosen], {name: row[None].astype(dtype)})[0] for row in features]
        return [_row(row) for row in rows]

    return _one_number(run, class_index, n, path, f"output {chosen!r}")


def load_skops(
    path: Path, method: str | None, class_index: int | None, n: int, trusted: Sequence[str]
) -> Predict:
    """Read a scikit-learn model from a skops file.

    Args:
        path: the file.
        method: predict, predict_proba or decision_function; None: predict_proba where there is
            one, else predict.
        class_index: which of several values that it gives for a molecule; None: the second of two
            classes.
        n: length of the fingerprint.
        trusted: types to be read beside those that skops knows to be harmless.

    Raises:
        InputError: not a skops file, types that are not trusted, or no model that takes such a
            fingerprint and gives one number.
    """
    import skops.io  # optional

    try:
        unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
        if not unknown:
            model = skops.io.load(path, trusted=list(trusted))
    except Exception as error:  # noqa: BLE001 - a damaged file makes it raise anything
        what = "not a skops file" if not zipfile.is_zipfile(path) else "not readable"
        raise InputError(f"{path} is {what}: {_short(error)}") from None
    if unknown:
        raise InputError(
            f"{path} holds types that are not known to be harmless: {', '.join(unknown)}. If you "
            f"trust whoever made the file, add trusted: [{', '.join(unknown)}]"
        )
    called = method or ("predict_proba" if hasattr(model, "predict_proba") else "predict")
    if not hasattr(model, called):
        known = [m for m in ("predict", "predict_proba", "decision_function") if hasattr(model, m)]
        raise InputError(f"{type(model).__name__} has no {called}{did_you_mean(called, known)}")
    _on_one_core(model)
    if (
        class_index is None
        and len(getattr(model, "classes_", ())) == 2
        and called == "predict_proba"
    ):
        class_index = 1
    ask = getattr(model, called)
    run = (
        ask if _is_forest(model) else lambda rows: np.concatenate([ask(row[None]) for row in rows])
    )
    return _one_number(run, class_index, n, path, called)


def _is_forest(model: Any) -> bool:
    """Whether a batch leaves each molecule's value as it is, to the bit; matrix products do not."""
    from sklearn import ensemble, tree  # optional

    trees = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
    forests = (ensemble.RandomForestClassifier, ensemble.RandomForestRegressor)
    extra = (ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor)
    return isinstance(model, (*trees, *forests, *extra))


def _on_one_core(model: Any) -> None:
    names = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    jobs = {name: 1 for name in names if name.rpartition("__")[2] == "n_jobs"}
    if jobs:
        model.set_params(**jobs)


def _chosen_output(names: Sequence[str], output: str | int | None, path: Path) -> str:
    if output is None and len(names) == 1:
        return names[0]
    if isinstance(output, int) and 0 <= output < len(names):
        return names[output]
    if isinstance(output, str) and output in names:
        return output
    if output is None:
        raise InputError(f"{path} has several outputs: set output to one of {', '.join(names)}")
    if isinstance(output, int):
        raise InputError(
            f"output: {path} has no output {output}: there are {len(names)}, counted from 0: "
            f"{', '.join(names)}"
        )
    raise InputError(f"output: {path} has no output {output!r}{did_you_mean(output, names)}")


def _row(result: Any) -> np.ndarray:
    """What a model gave for one molecule, as a row of numbers."""
    if isinstance(result, list):  # scikit-learn's classifiers give {class: probability}
        result = list(result[0].values()) if isinstance(result[0], dict) else result
    return np.asarray(result).reshape(-1)


def _one_number(
    run: Callable[[np.ndarray], Any], class_index: int | None, n: int, path: Path, what: str
) -> Predict:
    """Try a model on an empty fingerprint, and choose the one number that it is to give."""

    def values(features: np.ndarray) -> np.ndarray:
        given = np.asarray(run(features))
        return given.reshape(len(features), -1)

    try:
        tried = values(np.zeros((1, n), dtype=np.float32))
    except Exception as error:  # noqa: BLE001 - both libraries raise what they like
        raise InputError(
            f"{path} cannot be run on a fingerprint of length {n}: {_short(error)}"
        ) from None
    width = tried.shape[1]
    if tried.dtype.kind not in "fiub":
        raise InputError(f"{path}: {what} gives {tried.dtype}, not numbers")
    if class_index is None and width != 1:
        raise InputError(
            f"{path}: {what} gives {width} values for a molecule: say which one with class_index, "
            f"0 to {width - 1}"
        )
    column = class_index or 0
    if column >= width:
        raise InputError(
            f"class_index = {column}: {what} of {path} gives {width} value(s) for a molecule, "
            "counted from 0"
        )
    return lambda features: values(features)[:, column].astype(float)


def _short(error: Exception) -> str:
    return one_line(error)[:300]
