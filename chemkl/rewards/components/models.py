"""Components for a user's trained models on fingerprints, as ONNX or scikit-learn files.

The files are read without running code in them.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field
from rdkit.Chem import Mol, MolFromSmiles
from rdkit.DataStructs import ConvertToNumpyArray

from chemkl.chem.fingerprints import build_fingerprint
from chemkl.chem.molecules import one_line
from chemkl.config import InputError, did_you_mean
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import (
    REAL,
    BatchScore,
    Identified,
    InputFile,
    component,
    needed_package,
)

PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill")
Method = Literal["predict", "predict_proba", "decision_function"]
Predict = Callable[[np.ndarray], np.ndarray]  # fingerprints (n, n_bits) to values (n,)

_ONNX_TYPES = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    **{
        f"tensor({name})": np.dtype(name)
        for name in ("float16", "bool", "int64", "int32", "int8", "uint8")
    },
}


class Fingerprint(NamedTuple):
    """The fingerprint the model was trained on: settings shared by both components.

    Args:
        fingerprint: Kind of fingerprint.
        radius: Radius of the Morgan fingerprints, in bonds.
        n_bits: Length of the folded fingerprint (maccs: 167).
        counts: Number of occurrences of each feature instead of its presence.
    """

    fingerprint: Literal[
        "morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path", "maccs"
    ] = "morgan"
    radius: Annotated[int, Field(ge=0)] = 2
    n_bits: Annotated[int, Field(ge=1)] = 2048
    counts: bool = False


FINGERPRINT = Fingerprint()
ClassIndex = Annotated[int | None, Field(ge=0)]


@component(
    "onnx_model",
    unit="as trained",
    range=REAL,
    source="your model; ONNX Runtime",
    batched=True,
)
def onnx_model(
    path: InputFile,
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    output: str | Annotated[int, Field(ge=0)] | None = None,
    class_index: ClassIndex = None,
) -> BatchScore:
    """Prediction of a trained ONNX model from the molecule's fingerprint, run by ONNX Runtime.

    It predicts one molecule at a time, on one core, so a value does not depend on other molecules.

    Args:
        path: The .onnx file.
        fingerprint: The fingerprint the model was trained on.
        output: Name or number (from 0) of the output; null: the only output.
        class_index: Index from 0 of the value to use if the model returns several per molecule,
            such as a probability for each class.
    """
    _refuse_pickle(path)
    needed_package("onnxruntime", "onnx_model", "onnx")
    load = partial(load_onnx, path, output, class_index)
    return _score_by(fingerprint, load, path, "onnxruntime")


@component(
    "sklearn_model",
    unit="as trained",
    range=REAL,
    source="your model; scikit-learn, read by skops",
    batched=True,
)
def sklearn_model(
    path: InputFile,
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    method: Method | None = None,
    class_index: ClassIndex = None,
    trusted: list[str] = [],  # noqa: B006 - never changed
) -> BatchScore:
    """Prediction of a trained scikit-learn model from the molecule's fingerprint, in a skops file.

    A classifier of two classes gives the probability of the second class, unless class_index is
    set.

    Args:
        path: The model as written by skops.io.dump; pickles are not read.
        fingerprint: The fingerprint the model was trained on.
        method: Method to call; null: predict_proba if the model has it, else predict.
        class_index: Index from 0 of the value to use if the model returns several per molecule,
            such as a probability for each class.
        trusted: Types in the file that you trust although skops does not; their code is run. Trees
            and forests need [sklearn.tree._tree.Tree]; a manipulated tree can crash the process.
    """
    _refuse_pickle(path)
    needed_package("skops", "sklearn_model", "sklearn")
    load = partial(load_skops, path, method, class_index, trusted)
    return _score_by(fingerprint, load, path, "scikit-learn")


def _score_by(
    settings: Fingerprint, load: Callable[[int], Predict], path: Path, package: str
) -> BatchScore:
    """Return the score function of a model, which is loaded for the length of the fingerprint."""
    kind, radius, n_bits, counts = settings
    fingerprint = build_fingerprint(kind, radius=radius, n_bits=n_bits, counts=counts)
    vector = fingerprint(MolFromSmiles("C"))  # of bits, or of counts
    of_bits = hasattr(vector, "GetNumBits")
    length = int(vector.GetNumBits() if of_bits else vector.GetLength())
    predict = load(length)

    def score(mols: Sequence[Mol]) -> list[float]:
        rows = np.zeros((len(mols), length), dtype=np.float32)
        for row, mol in zip(rows, mols, strict=True):
            ConvertToNumpyArray(fingerprint(mol), row)
        values: list[float] = predict(rows).tolist() if mols else []
        return values

    return Identified(score, f"{sha256_of(path)} {package} {version(package)}")


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn any exception of a library into an InputError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the libraries' exceptions have no common base
        raise InputError(f"{problem}: {one_line(error)[:300]}") from None


def _refuse_pickle(path: Path) -> None:
    """Refuse a pickle, recognised by its name or its first bytes, and say how to convert it."""
    with path.open("rb") as stream:
        start = stream.read(2)
    pickled = len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5  # protocol 2 to 5
    if path.suffix.lower() in PICKLES or pickled:
        raise InputError(
            f"{path} is a pickle, which can run any code, so it is not read. If you trust it, "
            "convert it and give the new file: for sklearn_model with python -c "
            f"\"import joblib, skops.io; skops.io.dump(joblib.load('{path.name}'), "
            f"'{path.stem}.skops')\", for onnx_model with skl2onnx.to_onnx"
        )


def load_onnx(path: Path, output: str | int | None, class_index: int | None, n: int) -> Predict:
    """Load an ONNX model for fingerprints of length n."""
    import onnxruntime  # optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a worker has one core
    options.log_severity_level = 4  # errors are raised, too
    providers = ["CPUExecutionProvider"]
    with _explained(f"{path} is not a model that ONNX Runtime can read"):
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    inputs, names = session.get_inputs(), [node.name for node in session.get_outputs()]
    if len(inputs) != 1 or inputs[0].type not in _ONNX_TYPES:
        got = ", ".join(f"{node.name}: {node.type}" for node in inputs)
        raise InputError(f"{path} should take one tensor of numbers, the fingerprints; takes {got}")
    name, dtype = inputs[0].name, _ONNX_TYPES[inputs[0].type]
    chosen: Any = names[0] if output is None and len(names) == 1 else output
    if isinstance(output, int) and output < len(names):
        chosen = names[output]
    if chosen not in names:
        current = "null" if output is None else repr(output)
        raise InputError(
            f"output: {path} has {len(names)} outputs: set output to the name or the number, "
            f"counted from 0, of one (it is {current}){did_you_mean(str(output), names)}"
        )

    def run(features: np.ndarray) -> Any:
        rows = []
        for row in features:  # one by one, so that a value never depends on other rows
            result = session.run([chosen], {name: row[None].astype(dtype)})[0]
            if isinstance(result, list):  # scikit-learn's classifiers return {class: probability}
                result = list(result[0].values()) if isinstance(result[0], dict) else result
            rows.append(np.asarray(result).reshape(-1))
        return rows

    return _one_number(run, class_index, n, path, f"output {chosen!r}")


def load_skops(
    path: Path, method: str | None, class_index: int | None, trusted: Sequence[str], n: int
) -> Predict:
    """Load a scikit-learn model for fingerprints of length n from a skops file."""
    import skops.io  # optional

    what = "not readable" if zipfile.is_zipfile(path) else "not a skops file"
    with _explained(f"{path} is {what}"):
        unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
        model: Any = None if unknown else skops.io.load(path, trusted=list(trusted))
    if unknown:
        raise InputError(
            f"{path} contains types that skops does not trust: {', '.join(unknown)}. If you trust "
            f"the author of the file, add trusted: [{', '.join(unknown)}]"
        )
    called = method or ("predict_proba" if hasattr(model, "predict_proba") else "predict")
    if not hasattr(model, called):
        methods = [name for name in get_args(Method) if hasattr(model, name)]
        raise InputError(f"{type(model).__name__} has no {called}{did_you_mean(called, methods)}")
    settings = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    jobs = {name: 1 for name in settings if name.rpartition("__")[2] == "n_jobs"}
    if jobs:
        model.set_params(**jobs)  # a worker has one core
    two_classes = len(getattr(model, "classes_", ())) == 2
    if class_index is None and two_classes and called == "predict_proba":
        class_index = 1
    kind = type(model).__name__.removesuffix("Classifier").removesuffix("Regressor")
    predict = getattr(model, called)

    def run(rows: np.ndarray) -> Any:
        # trees give a batch the bit-equal values of single rows, matrix products do not
        if kind in ("DecisionTree", "RandomForest", "ExtraTrees"):
            return predict(rows)
        return np.concatenate([predict(row[None]) for row in rows])

    return _one_number(run, class_index, n, path, called)


def _one_number(
    run: Callable[[np.ndarray], Any], class_index: int | None, n: int, path: Path, what: str
) -> Predict:
    """Try a model on an empty fingerprint, and return a function for one value per molecule."""

    def values(features: np.ndarray) -> np.ndarray:
        return np.asarray(run(features)).reshape(len(features), -1)

    with _explained(f"{path} cannot be run on a fingerprint of length {n}"):
        trial = values(np.zeros((1, n), dtype=np.float32))
    width = trial.shape[1]
    column = 0 if class_index is None and width == 1 else class_index
    problem = ""
    if trial.dtype.kind not in "fiub":
        problem = f"{trial.dtype}, not numbers"
    elif column is None or column >= width:
        problem = (
            f"{width} values for a molecule: choose one with class_index, 0 to {width - 1} "
            f"(it is {'null' if column is None else column})"
        )
    if problem:
        raise InputError(f"{path}: {what} gives {problem}")
    return lambda features: values(features)[:, column].astype(float)
