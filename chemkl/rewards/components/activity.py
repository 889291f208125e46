"""Components that predict activity on a protein, by published classifiers kept as plain arrays.

The classifiers come from a pinned wheel, are read behind an allow-list and converted once. Every
molecule is computed by the same operations in the same order however many come at once, so its
probability does not depend on its neighbours.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from rdkit.Chem import Mol, rdFingerprintGenerator

from chemkl.chem.fingerprints import morgan_generator
from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.results.atomic import write_bytes
from chemkl.results.external import (
    ARRAYS,
    MOLSCORE,
    AllowedUnpickler,
    fetch_wheel,
    open_member,
    read_pickled,
)
from chemkl.rewards.registry import BatchScore, component

N_FEATURES = 2048
ACTIVE = 1  # the class, of 0 and 1, whose probability is wanted
MEMBER = "molscore/data/models/molopt/{}_current.pkl"


@component(
    "activity",
    range=(0, 1),
    source=(
        "DRD2: Olivecrona et al., J. Cheminform. 9, 48 (2017); GSK3B, JNK3: Li et al., "
        "J. Cheminform. 10, 33 (2018); the files of PyTDC, read from the molscore wheel"
    ),
    batched=True,
)
def activity(
    target: Literal["drd2", "gsk3b", "jnk3"], *, cache: Path = Path("~/.cache/chemkl")
) -> BatchScore:
    """Probability of being active on a protein, from 0 to 1; high means active.

    DRD2 is a support vector machine with Platt's probabilities. They are computed exactly;
    scikit-learn joins two classes by an iteration that stops early, and is off by up to .005, most
    near one half (haloperidol .99954 here, .9999994 there). GSK3B and JNK3 are random forests of
    100 trees.

    Args:
        target: Protein: dopamine receptor D2, glycogen synthase kinase 3 beta, or c-Jun N-terminal
            kinase 3.
        cache: Folder for the classifiers and the wheel that they come from.
    """

    def score(mols: Sequence[Mol]) -> list[float]:
        # here, not above: checking a config must not download 70 MB
        probabilities: list[float] = load_classifier(target, cache).probability(mols).tolist()
        return probabilities

    return score


# ---- pickles of scikit-learn as stand-ins


class Inert(dict[Any, Any]):
    """What a pickle says of one object, and no more: its items and its state."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


def stand_ins(names: Mapping[str, str]) -> dict[tuple[str, str], type[Inert]]:
    """List names for an unpickler, given by module: one class stands for all of them."""
    return {(module, name): Inert for module, some in names.items() for name in some.split()}


NAMES = {
    "numpy.core.multiarray": "scalar",
    "sklearn.ensemble._forest": "RandomForestClassifier",
    "sklearn.svm._classes": "SVC",
    "sklearn.tree._classes": "DecisionTreeClassifier",
    "sklearn.tree._tree": "Tree",
}
"""All that a pickle may name beside arrays."""


def read_model(stream: IO[bytes], name: str) -> Inert:
    """Read a pickled model: its objects as stand-ins, nothing imported, nothing called."""
    load = AllowedUnpickler(stream, ARRAYS | stand_ins(NAMES)).load
    model: Inert = read_pickled(load, Inert, name, "the pickle of a known model")
    return model


# ---- the classifiers


@dataclass(frozen=True)
class Forest:
    """A random forest on the 2048 bits of the Morgan fingerprint of radius 2 (ECFP4).

    The nodes of all trees stand in one list. A leaf is its own child on both sides.
    """

    roots: np.ndarray  # node where each tree begins
    feature: np.ndarray  # by node, the bit that it asks for
    children: np.ndarray  # by node, where to go when the bit is not set, and when it is
    active: np.ndarray  # by node, the share of actives among the training molecules there
    depth: np.ndarray  # most steps from a root to a leaf

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Take the arrays out of a RandomForestClassifier of two classes."""
        trees = [tree.state["tree_"].state for tree in model.state["estimators_"]]
        features, children, actives, roots, n = [], [], [], [], 0
        for tree in trees:
            nodes, counts = tree["nodes"], tree["values"][:, 0, :]
            leaf = nodes["left_child"] < 0
            itself = np.arange(len(nodes))
            sides = [np.where(leaf, itself, nodes[side]) for side in ("left_child", "right_child")]
            roots.append(n)
            features.append(np.where(leaf, 0, nodes["feature"]))
            children.append(np.stack(sides, axis=1) + n)
            actives.append(counts[:, ACTIVE] / counts.sum(axis=1))
            n += len(nodes)
        return cls(
            roots=np.array(roots, np.int32),
            feature=np.concatenate(features).astype(np.int32),
            children=np.concatenate(children).astype(np.int32),
            active=np.concatenate(actives),
            depth=np.array(max(tree["max_depth"] for tree in trees)),
        )

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """Mean over the trees of the share of actives in the leaf that a molecule falls into."""
        generator = morgan_generator(2, N_FEATURES)
        bits = np.zeros((len(mols), N_FEATURES), np.uint8)
        for row, mol in enumerate(mols):
            bits[row] = generator.GetFingerprintAsNumPy(mol)
        rows = np.arange(len(mols))[:, None]
        nodes = np.repeat(self.roots[None], len(mols), axis=0)
        for _ in range(int(self.depth)):
            nodes = self.children[nodes, bits[rows, self.feature[nodes]]]
        share: np.ndarray = self.active[nodes].mean(axis=1)
        return share


@dataclass(frozen=True)
class SupportVectors:
    """A support vector machine with RBF kernel on counts of Morgan features of radius 3 (FCFP6)."""

    vectors: np.ndarray  # feature counts of the support vectors, one column each
    weights: np.ndarray  # their dual coefficients, those of inactives positive
    intercept: np.ndarray  # added to the weighted sum of kernels
    gamma: np.ndarray  # of the kernel exp(-gamma |x - y|^2)
    platt: np.ndarray  # A and B of Platt's 1 / (1 + exp(A f + B)) of being inactive

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Take the arrays out of an SVC of two classes with probabilities."""
        state: dict[str, Any] = model.state
        vectors = state["support_vectors_"].astype(np.uint8)  # counts, all below 256
        return cls(
            vectors=np.ascontiguousarray(vectors.T),
            weights=state["_dual_coef_"][0],
            intercept=state["_intercept_"][0],
            gamma=np.array(state["_gamma"]),
            platt=np.concatenate([state["_probA"], state["_probB"]]),
        )

    @cached_property
    def _prepared(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """What makes the features; the vectors, one a column, and the square of each.

        Features are environments of pharmacophoric atom features, folded by remainder; float32
        holds whole numbers below 2^24, exact in any order of summation.
        """
        features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
        generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=3, fpSize=N_FEATURES, atomInvariantsGenerator=features
        )
        columns = self.vectors.astype(np.float32)
        return generator, columns, np.square(columns).sum(axis=0, dtype=np.float64)

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """One minus Platt's probability (Adv. Large Margin Classif. 1999) of being inactive."""
        generator, columns, squares = self._prepared
        probabilities = np.empty(len(mols))
        for row, mol in enumerate(mols):
            counts = generator.GetCountFingerprintAsNumPy(mol).astype(np.float32)
            (there,) = counts.nonzero()
            counts = counts[there]
            distances = squares + float(counts @ counts) - 2.0 * (counts @ columns[there])
            f = (np.exp(-self.gamma * distances) * self.weights).sum() + self.intercept
            x = float(self.platt[0] * f + self.platt[1])
            odds = math.exp(-abs(x))  # 1 / (1 + exp(-x)), without overflow on either side
            probabilities[row] = (1 if x >= 0 else odds) / (1 + odds)
        return probabilities


# ---- where they come from


CLASSIFIERS: dict[str, tuple[type[Forest | SupportVectors], str]] = {
    "drd2": (SupportVectors, "ef1f00e47d5e4670a45b0a4178db3c41b2e1aa9dad7113ac9d0f58e3f9d67532"),
    "gsk3b": (Forest, "d3a20701b80e5179c88c3ad4dc3483dd7ab35c50dc055c6773a7f5b63e89b6d5"),
    "jnk3": (Forest, "cde8576fb4fa3f60b9f258ff9cf1b9ff346eb50d196d5cbbe25965efc1864889"),
}
"""By target, what the pickled classifier in the wheel becomes, and the sha256 of the pickle."""


@cache
def load_classifier(target: str, folder: Path) -> Forest | SupportVectors:
    """Give a classifier: from its npz in a folder, or made from the wheel, which pip may fetch.

    An npz that is damaged, or of another source, is made anew; two that do so at once write the
    same.
    """
    kind, sha256 = CLASSIFIERS[target]
    names = [field.name for field in fields(kind)]
    path = expand_home(folder) / f"activity-{target}-{sha256[:16]}.npz"
    with (
        suppress(OSError, EOFError, LookupError, ValueError, zipfile.BadZipFile),
        np.load(path, allow_pickle=False) as arrays,
    ):
        if arrays["sha256"] == sha256:
            return kind(**{name: arrays[name] for name in names})
    wheel, member = fetch_wheel(MOLSCORE, folder), MEMBER.format(target)
    with open_member(wheel, member) as stream:
        pickled = stream.read()
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != sha256:
        raise InputError(f"{wheel}:{member}: sha256 is {digest}, expected {sha256}.")
    # of the known form, as its hash says
    classifier = kind.from_pickle(read_model(io.BytesIO(pickled), f"{wheel}:{member}"))
    packed = io.BytesIO()
    kept: dict[str, Any] = {name: getattr(classifier, name) for name in names}
    np.savez_compressed(packed, sha256=np.array(sha256), **kept)
    try:
        write_bytes(path, packed.getvalue(), parents=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot keep the classifier there ({error}). Set `cache` to another folder."
        ) from None
    return classifier
