"""Frechet ChemNet Distance (Preuer et al., JCIM 58, 1736 (2018)) through the fcd_torch package."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from chemkl.config import InputError
from chemkl.config.base import install

BATCH = 256


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of ChemNet's 512 activations over a set of molecules."""

    mean: np.ndarray
    covariance: np.ndarray


class ChemNet:
    """ChemNet's activations, each molecule computed once.

    Raises:
        InputError: fcd_torch, which brings the network, is not installed.
    """

    def __init__(self) -> None:
        self.require()
        from fcd_torch import FCD  # optional, and it loads torch

        self._network = FCD(device="cpu", n_jobs=1, batch_size=BATCH, canonize=False)
        self._known: dict[str, np.ndarray] = {}

    @staticmethod
    def require() -> None:
        """Refuse to go on without the package, which is looked for and not loaded.

        Raises:
            InputError: fcd_torch is not installed.
        """
        if find_spec("fcd_torch") is None:
            raise InputError(
                "fcd: true: FCD needs the package fcd_torch. Install it with "
                f"{install('fcd')}, or set fcd: false."
            )

    def activations(self, canonical_smiles: Sequence[str]) -> np.ndarray:
        """Activations of the last layer but one, one row per molecule."""
        new = list(dict.fromkeys(s for s in canonical_smiles if s not in self._known))
        for start in range(0, len(new), BATCH):  # its own batches keep every time step in memory
            batch = new[start : start + BATCH]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fcd_torch calls np.row_stack
                rows = self._network.get_predictions(batch)
            self._known.update(zip(batch, rows, strict=True))
        return np.array([self._known[s] for s in canonical_smiles])

    def gaussian(self, canonical_smiles: Sequence[str]) -> Gaussian | None:
        """Mean and covariance of the activations; None below two molecules."""
        if len(canonical_smiles) < 2:
            return None
        activations = self.activations(canonical_smiles).astype(np.float64)
        return Gaussian(activations.mean(axis=0), np.cov(activations.T))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), which stays real
    and needs no offset where a covariance is singular (fewer molecules than activations).
    """
    shift = one.mean.astype(np.float64) - other.mean.astype(np.float64)
    overlap = np.linalg.svd(_root(one.covariance) @ _root(other.covariance), compute_uv=False)
    spread = np.trace(one.covariance) + np.trace(other.covariance)
    return float(shift @ shift + spread - 2 * overlap.sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
