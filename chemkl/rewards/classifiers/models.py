"""Two kinds of classifier as plain arrays: molecules in, probabilities of being active out.

Every molecule is computed by the same operations in the same order however many come at once, so
its probability does not depend on its neighbours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
from rdkit.Chem import Mol, rdFingerprintGenerator

from chemkl.chem.fingerprints import morgan_generator
from chemkl.rewards.classifiers.inert import Inert, as_array

N_FEATURES = 2048
ACTIVE = 1
"""The class, of 0 and 1, whose probability is wanted."""


@dataclass(frozen=True)
class Classifier:
    """A classifier; its attributes are its arrays, by the names under which they are kept."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take the arrays of `arrays` back."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that has to be kept."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Take the arrays out of a model of scikit-learn 0.23."""
        raise NotImplementedError

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """Probability of being active, 0 to 1, in the order given."""
        raise NotImplementedError


@dataclass(frozen=True)
class Forest(Classifier):
    """A random forest on the 2048 bits of the Morgan fingerprint of radius 2 (ECFP4).

    The nodes of all trees stand in one list. A leaf is its own child on both sides.

    Attributes:
        roots: Node where each tree begins.
        feature: By node, the bit that it asks for.
        children: By node, where to go when the bit is not set, and when it is.
        active: By node, the share of actives among the training molecules that reached it.
        depth: Most steps from a root to a leaf.
    """

    roots: np.ndarray
    feature: np.ndarray
    children: np.ndarray
    active: np.ndarray
    depth: np.ndarray

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Take the arrays out of a RandomForestClassifier of two classes."""
        if as_array(model.state["classes_"]).tolist() != [0, 1]:
            raise ValueError("classes other than 0 and 1")
        trees = [tree.state["tree_"].state for tree in model.state["estimators_"]]
        features, children, actives, roots, n = [], [], [], [], 0
        for tree in trees:
            nodes, counts = as_array(tree["nodes"]), as_array(tree["values"])[:, 0, :]
            leaf = nodes["left_child"] < 0
            own = np.arange(len(nodes))
            if not np.all(leaf | (nodes["threshold"] == 0.5)):  # of bits, there is no other
                raise ValueError("a node asks for something else than a bit")
            sides = [np.where(leaf, own, nodes[side]) for side in ("left_child", "right_child")]
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
class SupportVectors(Classifier):
    """A support vector machine with RBF kernel on counts of Morgan features of radius 3 (FCFP6).

    Attributes:
        vectors: Feature counts of the support vectors, one column each.
        weights: Their dual coefficients, those of inactives positive.
        intercept: Added to the weighted sum of kernels.
        gamma: Of the kernel exp(-gamma |x - y|^2).
        platt: A and B of Platt's 1 / (1 + exp(A f + B)), the probability of being inactive.
    """

    vectors: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    gamma: np.ndarray
    platt: np.ndarray

    @classmethod
    def from_pickle(cls, model: Inert) -> Self:
        """Take the arrays out of an SVC of two classes with probabilities."""
        state: dict[str, Any] = model.state
        if as_array(state["classes_"]).tolist() != [0, 1] or state["kernel"] != "rbf":
            raise ValueError("classes other than 0 and 1, or a kernel that is not rbf")
        vectors = as_array(state["support_vectors_"])
        small = vectors.astype(np.uint8)
        if not np.array_equal(small, vectors):
            raise ValueError("support vectors that are no counts")
        return cls(
            vectors=np.ascontiguousarray(small.T),
            weights=as_array(state["_dual_coef_"])[0],
            intercept=as_array(state["_intercept_"])[0],
            gamma=np.array(state["_gamma"]),
            platt=np.concatenate([as_array(state["_probA"]), as_array(state["_probB"])]),
        )

    @cached_property
    def _columns(self) -> np.ndarray:
        """The vectors as float32: whole numbers below 2^24, exact in any order of summation."""
        return self.vectors.astype(np.float32)

    @cached_property
    def _squares(self) -> np.ndarray:
        squares: np.ndarray = np.square(self._columns).sum(axis=0, dtype=np.float64)
        return squares

    def probability(self, mols: Sequence[Mol]) -> np.ndarray:
        """One minus Platt's probability (Adv. Large Margin Classif. 1999) of being inactive."""
        generator = _feature_generator()
        found = np.empty(len(mols))
        for row, mol in enumerate(mols):
            counts = generator.GetCountFingerprintAsNumPy(mol).astype(np.float32)
            (there,) = counts.nonzero()
            counts = counts[there]
            distances = (
                self._squares + float(counts @ counts) - 2.0 * (counts @ self._columns[there])
            )
            f = (np.exp(-self.gamma * distances) * self.weights).sum() + self.intercept
            found[row] = _logistic(float(self.platt[0] * f + self.platt[1]))
        return found


@cache
def _feature_generator() -> rdFingerprintGenerator.FingerprintGenerator64:
    """Counts of environments of pharmacophoric atom features, folded by remainder."""
    features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    return rdFingerprintGenerator.GetMorganGenerator(
        radius=3, fpSize=N_FEATURES, atomInvariantsGenerator=features
    )


def _logistic(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow on either side."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))
