"""Diversity filters: they reduce or withhold the reward of molecules of a full bucket."""

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
"""Names the bucket of a molecule from its canonical SMILES, its Bemis-Murcko scaffold (empty if
acyclic, None if undefined), and whether it may open a new bucket. None: no bucket, full reward."""

PENALTIES: dict[str, Callable[[int, int], float]] = {
    "step": lambda n, bucket: float(n <= bucket),
    "linear": lambda n, bucket: max(0.0, 1 - n / bucket),
    "sigmoid": lambda n, bucket: 1 / (1 + math.exp((2 * n / bucket - 1) / 0.15)),
    "tanh": lambda n, bucket: 1 - math.tanh(3 * (n - 1) / bucket),
    "erf": lambda n, bucket: (
        1 + math.erf(math.sqrt(math.pi) / bucket) - math.erf(math.sqrt(math.pi) * n / bucket)
    ),
}
"""The share of its reward that the n-th molecule of a bucket keeps, n from 1: REINVENT4's formulas
(Svensson et al., arXiv 2410.10431)."""


class NoFilter:
    """Pays every molecule its full reward."""

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Return the rewards unchanged."""
        return rows["reward"].astype(float)

    def bucket_number(self, _smiles: str) -> int:
        """Return 0: there are no buckets."""
        return 0

    def shares(self, number_N: np.ndarray) -> np.ndarray:
        """Return 1 for each bucket."""
        return np.ones(len(number_N))

    def next_share(self, _smiles: str) -> float:
        """Return 1."""
        return 1.0


class BucketFilter:
    """Reduces rewards as the buckets fill: by a penalty, or to 0 after so many molecules.

    REINVENT's diversity filters (J. Cheminform. 12, 68 (2020)) with these deviations:

    1. A bucket of 25 pays 25 molecules, not 26. Rows of a batch are counted one by one, so a batch
       of a single scaffold fills its bucket, too.
    2. A molecule that is sampled again counts again, instead of getting 0 for good: a policy that
       has collapsed onto one molecule loses its reward as well. With ``repeats: false`` it gets 0,
       as in REINVENT.

    `min_score` applies to the raw reward, not to the filtered one.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._bucket_of = BUCKETS[config.kind](config)
        self._share = PENALTIES[config.penalty]
        self._counts: Counter[Hashable] = Counter()
        self._numbers: dict[Hashable, int] = {}  # by bucket
        self._number_of: dict[str, int] = {}  # by molecule
        self._shares = array("d", [1.0])  # by number; number 0 stands for no bucket

    def __call__(self, rows: pd.DataFrame) -> pd.Series:
        """Count the molecules of the rows in order, and return their filtered rewards."""
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
            self._number_of[smiles] = number  # of a repeat, too: the memory may hold it
            if is_new:
                self._counts[bucket] += 1
                share = max(self._share(self._counts[bucket], config.bucket), config.floor)
                filtered[i] *= share
                self._shares[number] = share
        return pd.Series(filtered, rows.index)

    def bucket_number(self, smiles: str) -> int:
        """Return the bucket number of a canonical SMILES that was counted before, else 0."""
        return self._number_of.get(smiles, 0)

    def shares(self, number_N: np.ndarray) -> np.ndarray:
        """Return the share of its reward that the newest molecule of each bucket was paid."""
        shares: np.ndarray = np.frombuffer(self._shares)[number_N]
        return shares

    def next_share(self, smiles: str) -> float:
        """Return the share that a canonical SMILES would be paid now, without counting it."""
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
    """Assigns molecules to spheres; a molecule outside of all spheres is the centre of a new one.

    Leader clustering in the order of the calls. A molecule within several spheres belongs to the
    oldest, so its sphere never changes. A search compares with the centres, block by block until
    the first match; a sphere takes 2 kB (`chemkl.bench`: filters).

    Args:
        distance: radius of a sphere, as a Tanimoto distance.
        fingerprint: kind of the fingerprint, of 2048 bits.
    """

    BLOCK = 4096

    def __init__(self, distance: float, fingerprint: BitFingerprint) -> None:
        self._distance = distance
        self._fingerprint = build_fingerprint(fingerprint)
        self._spheres: dict[str, int | str] = {}
        self.n_spheres = 0
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        """For each block of centres their bits, (2048, BLOCK) of 0 and 1, and the counts of 1."""

    def __call__(self, smiles: str, *, keep: bool = True) -> int | str:
        """Return the number of a molecule's sphere, or the SMILES itself if it has no fingerprint.

        Without `keep` nothing is stored, and the SMILES is also returned for a molecule outside of
        all spheres.
        """
        if smiles in self._spheres:
            return self._spheres[smiles]
        sphere = self._find(smiles, keep=keep)
        if keep:
            self._spheres[smiles] = sphere
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
    """Return the generic scaffold, or the scaffold itself if RDKit cannot make it generic."""
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
"""Makes the function that names buckets from the settings of each kind of filter."""


DiversityFilter = NoFilter | BucketFilter
"""Turns rows into filtered rewards; its state is a function of the rows so far."""


def build_filter(config: FilterConfig | None) -> DiversityFilter:
    """Build the filter of a config; None: no filter."""
    return BucketFilter(config) if config else NoFilter()
