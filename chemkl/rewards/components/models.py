"""Components that ask a trained model, of ONNX or of scikit-learn, about a fingerprint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from rdkit.Chem import Mol, MolFromSmiles
from rdkit.DataStructs import ConvertToNumpyArray

from chemkl.chem.fingerprints import Fingerprinter, build_fingerprint
from chemkl.config import InputPath
from chemkl.rewards.registry import BatchScore, Score, component
from chemkl.rewards.trained import (
    Predict,
    identity,
    load_onnx,
    load_skops,
    refuse_pickle,
    require,
)

Fingerprint = Annotated[
    Literal["morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path", "maccs"],
    Field(description="The fingerprint that the model was trained on."),
]
Radius = Annotated[int, Field(ge=0, description="Of the Morgan fingerprints, in bonds.")]
NBits = Annotated[int, Field(ge=1, description="Length of the folded fingerprint (maccs: 167).")]
Counts = Annotated[
    bool, Field(description="How often each feature occurs, rather than whether it does.")
]
ClassIndex = Annotated[
    int | None,
    Field(
        ge=0,
        description="Which value to take where the model gives several for a molecule, such as a "
        "probability for each class; counted from 0.",
    ),
]


@component(
    "onnx_model",
    unit="as trained",
    range=(-math.inf, math.inf),
    source="a model of yours; ONNX Runtime",
)
def onnx_model(
    path: Annotated[InputPath, Field(description="The .onnx file.")],
    *,
    fingerprint: Fingerprint = "morgan",
    radius: Radius = 2,
    n_bits: NBits = 2048,
    counts: Counts = False,
    output: Annotated[
        str | Annotated[int, Field(ge=0)] | None,
        Field(description="Name or number (from 0) of the output; null: the only one there is."),
    ] = None,
    class_index: ClassIndex = None,
) -> Score:
    """What a trained model predicts from the molecule's fingerprint; ONNX, run by ONNX Runtime.

    One molecule at a time, on one core: the value does not depend on what else is scored.
    """
    refuse_pickle(path)
    require("onnxruntime", "onnx", "onnx_model")
    features = Features.of(fingerprint, radius, n_bits, counts)
    predict = load_onnx(path, output, class_index, features.length)
    return OneByOne(features, predict, identity(path, "onnxruntime"))


@component(
    "sklearn_model",
    unit="as trained",
    range=(-math.inf, math.inf),
    source="a model of yours; scikit-learn, read by skops",
    batched=True,
)
def sklearn_model(
    path: Annotated[
        InputPath,
        Field(description="The model as skops.io.dump writes it; pickles are not read."),
    ],
    *,
    fingerprint: Fingerprint = "morgan",
    radius: Radius = 2,
    n_bits: NBits = 2048,
    counts: Counts = False,
    method: Annotated[
        Literal["predict", "predict_proba", "decision_function"] | None,
        Field(description="What to ask; null: predict_proba where the model has it, else predict."),
    ] = None,
    class_index: ClassIndex = None,
    trusted: Annotated[
        list[str],
        Field(
            description="Types in the file that you trust although skops does not; their code is "
            "run. Trees and forests need [sklearn.tree._tree.Tree]: one that somebody tampered "
            "with can crash the process."
        ),
    ] = [],  # noqa: B006 - never changed
) -> BatchScore:
    """What a trained model predicts from the molecule's fingerprint; scikit-learn, in a skops file.

    A classifier of two classes gives the probability of the second one, unless class_index says
    otherwise.
    """
    refuse_pickle(path)
    require("skops", "sklearn", "sklearn_model")
    features = Features.of(fingerprint, radius, n_bits, counts)
    predict = load_skops(path, method, class_index, features.length, trusted)
    return Together(features, predict, identity(path, "scikit-learn"))


@dataclass(frozen=True)
class Features:
    """Molecules as rows of numbers.

    Attributes:
        fingerprint: Makes one molecule's.
        length: How many numbers it has.
    """

    fingerprint: Fingerprinter
    length: int

    @classmethod
    def of(cls, kind: Fingerprint, radius: int, n_bits: int, counts: bool) -> "Features":
        """Set a fingerprint up.

        Raises:
            InputError: a setting that this kind of fingerprint does not have.
        """
        fingerprint = build_fingerprint(kind, radius=radius, n_bits=n_bits, counts=counts)
        return cls(fingerprint, _length(fingerprint(MolFromSmiles("C"))))

    def __call__(self, mols: Sequence[Mol]) -> np.ndarray:
        """Give the rows, (n, length)."""
        rows = np.zeros((len(mols), self.length), dtype=np.float32)
        for row, mol in zip(rows, mols, strict=True):
            ConvertToNumpyArray(self.fingerprint(mol), row)
        return rows


@dataclass(frozen=True)
class OneByOne:
    """Asks a model about one molecule.

    Attributes:
        features: Makes the fingerprint.
        predict: The model.
        identity: What decides the values beside the settings: the model's file, and who runs it.
    """

    features: Features
    predict: Predict
    identity: str

    def __call__(self, mol: Mol) -> float:
        """Give the predicted value."""
        return float(self.predict(self.features([mol]))[0])


@dataclass(frozen=True)
class Together:
    """Asks a model about several molecules at once.

    Attributes:
        features: Makes the fingerprints.
        predict: The model.
        identity: What decides the values beside the settings: the model's file, and who runs it.
    """

    features: Features
    predict: Predict
    identity: str

    def __call__(self, mols: Sequence[Mol]) -> list[float]:
        """Give the predicted values, in order."""
        values: list[float] = self.predict(self.features(mols)).tolist() if mols else []
        return values


def _length(fingerprint: object) -> int:
    """The length of a bit vector, or of a vector of counts."""
    bits = getattr(fingerprint, "GetNumBits", None) or fingerprint.GetLength  # type: ignore[attr-defined]  # RDKit's vectors have one or the other
    return int(bits())
