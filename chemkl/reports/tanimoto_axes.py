"""Two axes along which molecules differ most, by their Tanimoto similarities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem.fingerprints import tanimoto, tanimoto_matrix


@dataclass(frozen=True)
class Axes2D:
    """Two axes of a map.

    Attributes:
        landmarks: fingerprints that they were computed from.
        means: mean similarity of each landmark to all, and of all to all.
        weights: from centred similarities to coordinates, (landmarks, 2).
        explained: share of the variance of the landmarks; None where there is none.
    """

    landmarks: Sequence[ExplicitBitVect]
    means: tuple[np.ndarray, float]
    weights: np.ndarray
    explained: float | None

    def place(self, fingerprints: Sequence[ExplicitBitVect]) -> np.ndarray:
        """Coordinates of molecules, (n, 2)."""
        if not fingerprints:
            return np.empty((0, 2))
        of_landmarks, of_all = self.means
        similar = np.array([tanimoto(each, self.landmarks) for each in fingerprints])
        centred = similar - similar.mean(axis=1, keepdims=True) - of_landmarks + of_all
        placed: np.ndarray = centred @ self.weights
        return placed


def find_axes(landmarks: Sequence[ExplicitBitVect]) -> Axes2D:
    """Find the two axes along which molecules differ most.

    Classical scaling (Torgerson) of the distances d_ij = sqrt(2 - 2 T_ij), which is the same as
    kernel PCA with the Tanimoto similarity T: that is positive definite, so that there are points
    with these distances, and a share of their variance that two axes hold. Other molecules are
    placed as in landmark MDS (de Silva and Tenenbaum, 2004). Each axis points to where its largest
    coordinate is positive.
    """
    similar = tanimoto_matrix(landmarks)
    means, mean = similar.mean(axis=0), float(similar.mean())
    centred = similar - means - means[:, None] + mean
    values, vectors = np.linalg.eigh(centred)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    weights = np.zeros((len(landmarks), 2))
    for axis in range(min(2, len(landmarks))):
        if values[axis] > 1e-9:
            vector = vectors[:, axis]
            sign = 1 if vector[np.abs(vector).argmax()] > 0 else -1
            weights[:, axis] = sign * vector / np.sqrt(values[axis])
    total = float(values.sum())
    explained = float(values[:2].sum()) / total if total > 1e-9 else None
    return Axes2D(landmarks, (means, mean), weights, explained)
