"""Comparisons of molecules with a corpus, a sample of the prior and reference sets.

SNN, Scaf, Frag and FCD follow molsets, with one deviation: the evaluated set contains each molecule
once (molsets keeps repeats).
"""

import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from rdkit import Chem
from rdkit.Chem import rdmolops
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import ExplicitBitVect
from scipy.spatial.distance import cosine

from chemkl.chem.fingerprints import Fingerprints, morgan_fingerprint, pack
from chemkl.chem.molecules import MoleculeError, canonicalise, parse, read_molecule, step
from chemkl.config import InputError, did_you_mean
from chemkl.config.base import install_command
from chemkl.config.evaluate import (
    Corpus,
    EvaluateConfig,
    FileReference,
    MosesReference,
    ReferenceSource,
    StatisticsReference,
)
from chemkl.evaluation.samples import BITS_MOSES, RADIUS, Samples, read_samples
from chemkl.files.molecules import Line, MoleculeFile
from chemkl.results.external import (
    ARRAYS,
    MOLSETS,
    PICKLE_ERRORS,
    AllowedUnpickler,
    StandIn,
    fetch_wheel,
    open_member,
)

BATCH = 256
MIN_RINGS = 2
REFERENCE_BLOCK = 8192
QUERY_BLOCK = 1024
MEMBER = "stats.npy"
SPLIT = "split"

_murcko: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.GetScaffoldForMol
_MOSES_STATISTICS = {
    "moses_test": "moses/dataset/data/test_stats.npz",
    "moses_test_scaffolds": "moses/dataset/data/test_scaffolds_stats.npz",
}


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of ChemNet's 512 activations over a set of molecules."""

    mean: np.ndarray
    covariance: np.ndarray


class ChemNet:
    """ChemNet from fcd_torch; the activations of each molecule are computed once."""

    def __init__(self) -> None:
        self.require()
        from fcd_torch import FCD  # an optional package that imports torch

        self._network = FCD(device="cpu", n_jobs=1, batch_size=BATCH, canonize=False)
        self._cache: dict[str, np.ndarray] = {}

    @staticmethod
    def require() -> None:
        """Raise an error if the package is not installed, without importing it."""
        if find_spec("fcd_torch") is None:
            raise InputError(
                "fcd: true: FCD needs the package fcd_torch. Install it with "
                f"{install_command('fcd')}, or set fcd: false."
            )

    def activations(self, canonical_smiles: Sequence[str]) -> np.ndarray:
        """Return the activations of the penultimate layer, one row per molecule."""
        new = list(dict.fromkeys(s for s in canonical_smiles if s not in self._cache))
        for start in range(0, len(new), BATCH):  # FCD's own batching keeps all time steps in memory
            batch = new[start : start + BATCH]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fcd_torch calls np.row_stack
                rows = self._network.get_predictions(batch)
            self._cache.update(zip(batch, rows, strict=True))
        return np.array([self._cache[s] for s in canonical_smiles])

    def gaussian(self, canonical_smiles: Sequence[str]) -> Gaussian | None:
        """Fit a Gaussian to the activations; None below two molecules."""
        if len(canonical_smiles) < 2:
            return None
        activations = self.activations(canonical_smiles).astype(np.float64)
        return Gaussian(activations.mean(axis=0), np.cov(activations.T))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), which is real and
    needs no offset even if a covariance is singular (fewer molecules than activations).
    """
    shift = first.mean.astype(np.float64) - second.mean.astype(np.float64)
    roots = []
    for covariance in (first.covariance, second.covariance):
        values, vectors = np.linalg.eigh(covariance)  # rounding can make some slightly negative
        roots.append((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False)
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    return float(shift @ shift + spread - 2 * overlap.sum())


@dataclass(frozen=True)
class Reference:
    """Statistics of a reference set."""

    name: str
    packed_bits: np.ndarray  # Morgan fingerprints, radius 2, 1024 bits, packed by `pack`
    scaffolds: Counter[str]  # molecules per scaffold with at least two rings
    fragments: Counter[str]  # occurrences of each BRICS fragment
    activations: Gaussian | None  # of ChemNet; None if not computed
    # cache: similarity to the nearest reference molecule by SMILES
    nearest: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparisons:
    """The sets to compare molecules with; empty by default."""

    corpus: AbstractSet[str] | None = None  # canonical SMILES that do not count as novel
    references: Sequence[Reference] = ()  # the columns of the first one have no suffix
    chemnet: ChemNet | None = None  # for FCD
    prior: Samples | None = None  # a sample of the prior, for the coverage of its families


def from_statistics(name: str, statistics: Mapping[str, Mapping[str, Any]]) -> Reference:
    """Make a reference from a statistics file of molsets."""
    try:
        fingerprints = np.asarray(statistics["SNN"]["fps"])
        scaffolds = Counter(statistics["Scaf"]["scaf"])
        fragments = Counter(statistics["Frag"]["frag"])
        mean, covariance = statistics["FCD"]["mu"], statistics["FCD"]["sigma"]
        shape = f"shape {fingerprints.shape}; expected {BITS_MOSES} columns"
        problem = "" if fingerprints.shape[1:] == (BITS_MOSES,) else f"fingerprints of {shape}"
    except KeyError as error:
        problem = f"the statistics lack {error}"
    if problem:
        raise InputError(
            f"{name}: {problem}. Expected FCD, SNN, Frag and Scaf, as in test_stats.npz of molsets "
            "0.3.1."
        )
    packed = np.packbits(fingerprints.astype(bool), axis=1, bitorder="little")
    return Reference(name, packed, scaffolds, fragments, Gaussian(mean, covariance))


def from_smiles(name: str, smiles: Iterable[str], chemnet: ChemNet | None) -> Reference:
    """Make a reference from SMILES; skip those that are invalid or have no fingerprint."""
    mols: list[Chem.Mol] = []
    bits: list[ExplicitBitVect] = []
    canonical: list[str] = []
    for result in map(read_molecule, smiles):
        with suppress(MoleculeError):
            if result.mol is not None and result.canonical_smiles is not None:
                bits.append(morgan_fingerprint(result.mol, radius=RADIUS, n_bits=BITS_MOSES))
                mols.append(result.mol)
                canonical.append(result.canonical_smiles)
    if not mols:
        raise InputError(f"{name}: no valid SMILES to compare with.")
    activations = chemnet.gaussian(canonical) if chemnet else None
    return Reference(name, pack(bits), *counts_of(mols), activations)


def compare(
    smiles: Sequence[str], fingerprints: Fingerprints, reference: Reference, chemnet: ChemNet | None
) -> dict[str, float | None]:
    """Compute the likeness metrics of distinct molecules, by column name.

    The fingerprints are Morgan, radius 2, 1024 bits. Without `chemnet` FCD is None.
    """
    mols = [mol for mol in map(parse, smiles) if mol is not None]
    scaffolds, fragments = counts_of(mols)
    ours = chemnet.gaussian(smiles) if chemnet else None
    theirs = reference.activations
    return {
        "fcd": frechet_distance(ours, theirs) if ours and theirs else None,
        "snn": snn(smiles, fingerprints, reference),
        "scaf": cosine_similarity(scaffolds, reference.scaffolds),
        "frag": cosine_similarity(fragments, reference.fragments),
    }


def snn(smiles: Sequence[str], fingerprints: Fingerprints, reference: Reference) -> float | None:
    """Mean Tanimoto similarity to the nearest reference molecule; None for an empty set.

    Computed in blocks by matrix products, one for a million comparisons: products of 0/1 vectors
    are exact in float32 (at most 1024). Outside a block, fingerprints stay packed, 128 bytes per
    molecule.
    """
    if not smiles:
        return None
    new = [i for i, text in enumerate(smiles) if text not in reference.nearest]
    packed = pack(fingerprints)[np.array(new, dtype=int)]
    best = np.zeros(len(new))
    for start in range(0, len(reference.packed_bits), REFERENCE_BLOCK):
        block = reference.packed_bits[start : start + REFERENCE_BLOCK]
        references = np.unpackbits(block, axis=1).astype(np.float32)
        for at in range(0, len(best), QUERY_BLOCK):
            rows = slice(at, at + QUERY_BLOCK)
            queries = np.unpackbits(packed[rows], axis=1).astype(np.float32)
            common = queries @ references.T
            union = queries.sum(axis=1)[:, None] + references.sum(axis=1) - common
            best[rows] = np.maximum(best[rows], (common / union).max(axis=1))
    reference.nearest.update((smiles[i], float(s)) for i, s in zip(new, best, strict=True))
    return float(np.mean([reference.nearest[text] for text in smiles]))


def cosine_similarity(ours: Mapping[str, int], theirs: Mapping[str, int]) -> float | None:
    """Cosine of two count vectors; None where either is empty."""
    if not ours or not theirs:
        return None
    keys = sorted({*ours, *theirs})
    u, v = (np.array([counts.get(key, 0) for key in keys], float) for counts in (ours, theirs))
    return float(1 - cosine(u, v))


def counts_of(mols: Iterable[Chem.Mol]) -> tuple[Counter[str], Counter[str]]:
    """Count scaffolds with at least two rings, and BRICS fragments with numbered attachment points.

    Scaffolds keep stereochemistry, as in molsets.
    """
    scaffolds: Counter[str] = Counter()
    fragments: Counter[str] = Counter()
    for mol in mols:
        with suppress(MoleculeError), step("scaffold"):
            scaffold = _murcko(mol)
            if scaffold.GetRingInfo().NumRings() >= MIN_RINGS:
                scaffolds[Chem.MolToSmiles(scaffold)] += 1
        with suppress(MoleculeError), step("fragments"):
            fragments.update(Chem.MolToSmiles(rdmolops.FragmentOnBRICSBonds(mol)).split("."))
    return scaffolds, fragments


# ---- files


def load_comparisons(settings: EvaluateConfig) -> Comparisons:
    """Read the corpus, the reference sets and the sample of the prior named in the settings."""
    chemnet = ChemNet() if settings.fcd else None
    prior, workers, corpus = settings.prior, settings.metrics.workers, None
    if settings.corpus:
        texts = (line.smiles for line in _lines(settings.corpus) if line.smiles)
        canonical = texts if settings.corpus.canonical else map(canonicalise, texts)
        corpus = frozenset(text for text in canonical if text is not None)
    return Comparisons(
        corpus=corpus,
        references=[_reference(*item, chemnet) for item in settings.reference.items()],
        chemnet=chemnet,
        prior=read_samples("prior", prior, workers) if prior else None,
    )


def _lines(corpus: Corpus | FileReference) -> Iterable[Line]:
    """Read the lines of a corpus, or of one of its splits."""
    key = "corpus" if isinstance(corpus, Corpus) else "reference"
    file, split = MoleculeFile(corpus.path, corpus.column), corpus.split
    if split is None:
        return file
    if SPLIT not in file.columns:
        raise InputError(
            f"{key}: {corpus.path} has no splits; only the corpus.parquet of the prepare stage "
            f"does. Remove split: {split}."
        )
    by_split: dict[str, list[Line]] = {}
    for line in MoleculeFile(corpus.path, corpus.column, [SPLIT]):
        by_split.setdefault(str(line.values[SPLIT]), []).append(line)
    if split not in by_split:
        raise InputError(
            f"{key}: {corpus.path} has no split {split!r}{did_you_mean(split, by_split)}"
        )
    return by_split[split]


def _reference(name: str, source: ReferenceSource, chemnet: ChemNet | None) -> Reference:
    if isinstance(source, MosesReference):
        wheel = fetch_wheel(MOLSETS, source.cache)
        member = _MOSES_STATISTICS[source.kind]
        with open_member(wheel, member) as stream:
            return from_statistics(name, read_statistics(stream, f"{wheel.name}:{member}"))
    if isinstance(source, StatisticsReference):
        return from_statistics(name, read_statistics(source.path, str(source.path)))
    return from_smiles(name, (line.smiles for line in _lines(source) if line.smiles), chemnet)


def read_statistics(source: Path | IO[bytes], name: str) -> dict[str, dict[str, Any]]:
    """Read a molsets statistics file (`test_stats.npz`): `{"SNN": {"fps": ...}, ...}`.

    `name` identifies the file or stream in messages.

    Raises:
        InputError: another kind of file, or a pickle of anything but arrays and counters.
    """
    content = None
    problem = f"{MEMBER} holds no table of statistics"
    try:
        with zipfile.ZipFile(source) as archive, archive.open(MEMBER) as member:
            version = npy.read_magic(member)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            _, _, dtype = header(member)
            if dtype == np.dtype(object):
                allowed = ARRAYS | {("collections", "Counter"): StandIn(Counter)}
                content = AllowedUnpickler(member, allowed).load()
            else:
                problem = f"{MEMBER} holds {dtype}, not objects"
    except (*PICKLE_ERRORS, OSError) as error:
        problem = str(error)
    if isinstance(content, np.ndarray) and content.ndim == 0:
        content = content.item()
    if not isinstance(content, dict):
        raise InputError(
            f"{name}: not a molsets statistics file ({problem}). Expected an npz with the member "
            f"{MEMBER}, such as moses/dataset/data/test_stats.npz of molsets 0.3.1."
        )
    return content
