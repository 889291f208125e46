"""Diversity filters: they withdraw the reward of what has been paid often enough."""

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pandas as pd

from chemkl.chem.fingerprints import build_fingerprint
from chemkl.chem.molecules import MoleculeError, parse, step
from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold
from chemkl.config.objective import (
    BitFingerprint,
    FilterConfig,
    MoleculeSimilarityFilterConfig,
    ScaffoldSimilarityFilterConfig,
)

NameOfBucket = Callable[[str, str | None, bool], Hashable | None]
"""Names the bucket of a molecule, given its canonical SMILES and its Bemis-Murcko scaffold (empty:
acyclic; None: there is none), and whether it may be the first of a bucket that is kept. None: it
belongs to no bucket, and is paid in full."""

PENALTIES: dict[str, Callable[[int, int], float]] = {
    "step": lambda n, bucket: float(n <= bucket),
    "linear": lambda n, bucket: max(0.0, 1 - n / bucket),
    "sigmoid": lambda n, bucket: 1 / (1 + math.exp((2 * n / bucket - 1) / 0.15)),
    "tanh": lambda n, bucket: 1 - math.tanh(3 * (n - 1) / bucket),
    "erf": lambda n, bucket: (
        1 + math.erf(math.sqrt(math.pi) / bucket) - math.erf(math.sqrt(math.pi) * n / bucket)
    ),
}
"""The share of its reward that the n-th molecule of a bucket is paid, n from 1, by REINVENT4's
formulas (Svensson et al., arXiv 2410.10431)."""


class NoFilter:
    """Pays every molecule in full."""

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Return the rewards as they are."""
        return rows["reward"].astype(float)

    def number_of(self, _smiles: str) -> int:
        """There is no bucket."""
        return 0

    def shares(self, number_N: np.ndarray) -> np.ndarray:
        """Pay in full."""
        return np.ones(len(number_N))

    def next_share(self, _smiles: str) -> float:
        """Pay in full."""
        return 1.0


class BucketFilter:
    """Pays the molecules of each bucket less and less, or none after the first so many.

    REINVENT's diversity filters (J. Cheminform. 12, 68 (2020)) with these deviations:

    1. A bucket of 25 pays 25 molecules, not 26, and rows of one batch are taken in order, so that
       a batch full of one scaffold is not paid as a whole.
    2. A molecule that is sampled again takes another place in the bucket, and does not get 0 for
       good: a policy that has collapsed onto one molecule loses its reward too. Without ``repeats``
       it gets 0, as there.

    What counts is the reward as it was earned, not what was left of it.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._bucket_of = BUCKETS[config.kind](config)
        self._share = PENALTIES[config.penalty]
        self._counts: Counter[Hashable] = Counter()
        self._numbers: dict[Hashable, int] = {}
        self._number_of: dict[str, int] = {}
        self._shares = array("d", [1.0])  # by number of the bucket; the first: of no bucket

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Return the filtered reward of each row, in order, and count its molecule."""
        config, filtered = self._config, rows["reward"].astype(float).tolist()
        texts = zip(rows["canonical_smiles"], rows["scaffold"], strict=True)
        repeat_B = [False] * len(rows) if config.repeats else rows["repeat"].tolist()
        for i, (smiles, scaffold) in enumerate(texts):
            if not isinstance(smiles, str):
                continue
            is_low, is_new = filtered[i] < config.min_score, not repeat_B[i]
            if not is_new:
                filtered[i] = 0.0
            if is_low:
                continue
            frame = scaffold if isinstance(scaffold, str) else None
            bucket = self._bucket_of(smiles, frame, is_new)
            if bucket is None:
                continue
            number = self._numbers.setdefault(bucket, len(self._shares))
            if number == len(self._shares):
                self._shares.append(1.0)
            self._number_of[smiles] = number  # also of a repeat: a memory may ask for it
            if is_new:
                self._counts[bucket] += 1
                share = max(self._share(self._counts[bucket], config.bucket), config.floor)
                filtered[i] *= share
                self._shares[number] = share
        return pd.Series(filtered, rows.index)

    def number_of(self, smiles: str) -> int:
        """The number of the bucket of a molecule that was counted, by its canonical SMILES, or 0.

        Nothing is counted by asking.
        """
        return self._number_of.get(smiles, 0)

    def shares(self, number_N: np.ndarray) -> np.ndarray:
        """The share of a reward that the newest molecule of each bucket, by number, was paid."""
        shares: np.ndarray = np.frombuffer(self._shares)[number_N]
        return shares

    def next_share(self, smiles: str) -> float:
        """The share of its reward that a canonical SMILES would be paid now; nothing is counted."""
        try:
            scaffold: str | None = murcko_scaffold(smiles)
        except MoleculeError:
            scaffold = None
        bucket = self._bucket_of(smiles, scaffold, False)
        if bucket is None:
            return 1.0
        n = self._counts[bucket] + 1
        return max(self._share(n, self._config.bucket), self._config.floor)


# ---- the buckets of each kind


class Spheres:
    """Names the sphere of a molecule: one outside all that there are is the centre of another.

    Leader clustering, in the order in which molecules come; one within several spheres is of the
    oldest, so that it stays in its sphere. A search looks at the spheres, not at the molecules, and
    ends with the block in which it finds one; a sphere takes 2 kB (`chemkl.bench`: filters).

    Args:
        distance: radius of a sphere, as a Tanimoto distance.
        fingerprint: kind of the fingerprint, of 2048 bits.
    """

    BLOCK = 4096

    def __init__(self, distance: float, fingerprint: BitFingerprint) -> None:
        self._distance = distance
        self._fingerprint = build_fingerprint(fingerprint)
        self._known: dict[str, int | str] = {}
        self.n_spheres = 0
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        """For each block of centres their bits, (2048, BLOCK) of 0 and 1, and how many are on."""

    def __call__(self, smiles: str, *, keep: bool = True) -> int | str:
        """The number of a molecule's sphere; itself where it has no fingerprint.

        Without `keep` also where it is outside all spheres, and it is not remembered.
        """
        if smiles in self._known:
            return self._known[smiles]
        sphere = self._find(smiles, keep=keep)
        if keep:
            self._known[smiles] = sphere
        return sphere

    def _find(self, smiles: str, *, keep: bool) -> int | str:
        mol = parse(smiles)
        if mol is None:
            return smiles
        try:
            with step("fingerprint"):
                on = list(self._fingerprint(mol).GetOnBits())
        except MoleculeError:
            return smiles
        counts = np.uint8 if len(on) <= np.iinfo(np.uint8).max else np.uint16
        for first, (bits, sizes) in zip(itertools.count(0, self.BLOCK), self._blocks, strict=False):
            n = min(self.n_spheres - first, self.BLOCK)
            shared = np.add.reduce(bits[on, :n], axis=0, dtype=counts).astype(float)
            similarities = shared / np.maximum(sizes[:n] + len(on) - shared, 1)
            near = np.flatnonzero(1 - similarities < self._distance)
            if len(near):
                return first + int(near[0])
        if not keep:
            return smiles
        place = self.n_spheres % self.BLOCK
        if place == 0:
            self._blocks.append((np.zeros((2048, self.BLOCK), np.uint8), np.zeros(self.BLOCK)))
        bits, sizes = self._blocks[-1]
        bits[on, place], sizes[place] = 1, len(on)
        self.n_spheres += 1
        return self.n_spheres - 1


def _generic(smiles: str, scaffold: str | None, _keep: bool) -> str | None:
    """The generic scaffold; the scaffold where RDKit makes none of it."""
    generic = generic_scaffold(smiles) if scaffold else None
    return scaffold if generic is None else generic


def _similar_scaffolds(config: ScaffoldSimilarityFilterConfig) -> NameOfBucket:
    spheres = Spheres(config.distance, config.fingerprint)
    return lambda _, scaffold, keep: spheres(scaffold, keep=keep) if scaffold else scaffold


def _similar_molecules(config: MoleculeSimilarityFilterConfig) -> NameOfBucket:
    spheres = Spheres(config.distance, config.fingerprint)
    return lambda smiles, _, keep: spheres(smiles, keep=keep)


BUCKETS: dict[str, Callable[[Any], NameOfBucket]] = {
    "murcko": lambda _: lambda _smiles, scaffold, _keep: scaffold,
    "generic": lambda _: _generic,
    "scaffold_similarity": _similar_scaffolds,
    "molecule_similarity": _similar_molecules,
    "same_smiles": lambda _: lambda smiles, _scaffold, _keep: smiles,
}
"""How each kind of filter, given its settings, names the buckets of molecules."""


DiversityFilter = NoFilter | BucketFilter
"""Turns rows into their filtered rewards; its state is a function of the rows seen so far."""


def build_filter(config: FilterConfig | None) -> DiversityFilter:
    """Build the filter of a config; None pays everything."""
    return BucketFilter(config) if config else NoFilter()
