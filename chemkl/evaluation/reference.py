"""Likeness of a set of molecules to a reference set, as molsets computes it: SNN, Scaf, Frag, FCD.

Deviations from molsets: the set under test holds each molecule once (molsets keeps repeats).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdmolops
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import ExplicitBitVect
from scipy.spatial.distance import cosine

from chemkl.chem.fingerprints import morgan_fingerprint
from chemkl.chem.molecules import MoleculeError, parse, read_molecule, step
from chemkl.chem.scaffolds import RADIUS
from chemkl.config import InputError
from chemkl.evaluation.chemnet import ChemNet, Gaussian, frechet_distance
from chemkl.evaluation.samples import BITS_MOSES

MIN_RINGS = 2
STOCK_BLOCK = 8192
QUERY_BLOCK = 1024

_murcko: Callable[[Chem.Mol], Chem.Mol] = MurckoScaffold.GetScaffoldForMol


@dataclass(frozen=True)
class Reference:
    """What is known of a reference set.

    Attributes:
        name: name of the set.
        packed_bits: Morgan fingerprints, radius 2, 1024 bits, eight bits to a byte, one row each.
        scaffolds: molecules per scaffold with at least two rings.
        fragments: occurrences of each BRICS fragment.
        activations: mean and covariance of ChemNet's activations; None where not computed.
        nearest: similarity to the nearest reference molecule, by SMILES, as far as known.
    """

    name: str
    packed_bits: np.ndarray
    scaffolds: Counter[str]
    fragments: Counter[str]
    activations: Gaussian | None
    nearest: dict[str, float] = field(default_factory=dict)


def from_statistics(name: str, statistics: Mapping[str, Mapping[str, Any]]) -> Reference:
    """Make a reference from the statistics that molsets ships.

    Raises:
        InputError: a statistic is missing or of another shape.
    """
    try:
        fingerprints = np.asarray(statistics["SNN"]["fps"])
        scaffolds = Counter(statistics["Scaf"]["scaf"])
        fragments = Counter(statistics["Frag"]["frag"])
        mean, covariance = statistics["FCD"]["mu"], statistics["FCD"]["sigma"]
    except KeyError as error:
        raise InputError(
            f"{name}: the statistics lack {error}. Expected FCD, SNN, Frag and Scaf, "
            "as in test_stats.npz of molsets 0.3.1."
        ) from error
    if fingerprints.ndim != 2 or fingerprints.shape[1] != BITS_MOSES:
        raise InputError(
            f"{name}: fingerprints of shape {fingerprints.shape}; expected {BITS_MOSES} columns."
        )
    packed = np.packbits(fingerprints.astype(bool), axis=1)
    return Reference(name, packed, scaffolds, fragments, Gaussian(mean, covariance))


def from_smiles(name: str, smiles: Iterable[str], chemnet: ChemNet | None) -> Reference:
    """Make a reference from SMILES.

    Strings that are not valid, and molecules that RDKit has no fingerprint for, are left out.

    Raises:
        InputError: no string is valid.
    """
    mols: list[Chem.Mol] = []
    bits: list[ExplicitBitVect] = []
    canonical: list[str] = []
    for read in map(read_molecule, smiles):
        with suppress(MoleculeError):
            if read.mol is not None and read.canonical_smiles is not None:
                bits.append(morgan_fingerprint(read.mol, radius=RADIUS, n_bits=BITS_MOSES))
                mols.append(read.mol)
                canonical.append(read.canonical_smiles)
    if not mols:
        raise InputError(f"{name}: no valid SMILES, so there is nothing to compare with.")
    return Reference(
        name=name,
        packed_bits=np.packbits(_as_array(bits).astype(bool), axis=1),
        scaffolds=_scaffold_counts(mols),
        fragments=_fragment_counts(mols),
        activations=chemnet.gaussian(canonical) if chemnet else None,
    )


def compare(
    smiles: Sequence[str],
    fingerprints: Sequence[ExplicitBitVect],
    reference: Reference,
    chemnet: ChemNet | None,
) -> dict[str, float | None]:
    """All likeness metrics of distinct molecules under their column names.

    Args:
        smiles: canonical SMILES.
        fingerprints: their Morgan fingerprints, radius 2, 1024 bits.
        reference: what to compare with.
        chemnet: the network behind FCD; without it FCD is None.
    """
    read = (parse(text) for text in smiles)
    mols = [mol for mol in read if mol is not None]
    ours = chemnet.gaussian(smiles) if chemnet else None
    theirs = reference.activations
    return {
        "fcd": frechet_distance(ours, theirs) if ours and theirs else None,
        "snn": snn(smiles, fingerprints, reference),
        "scaf": cosine_similarity(_scaffold_counts(mols), reference.scaffolds),
        "frag": cosine_similarity(_fragment_counts(mols), reference.fragments),
    }


def snn(
    smiles: Sequence[str], fingerprints: Sequence[ExplicitBitVect], reference: Reference
) -> float | None:
    """Mean Tanimoto similarity to the nearest reference molecule; None for an empty set."""
    if not smiles:
        return None
    new = [i for i, text in enumerate(smiles) if text not in reference.nearest]
    found = _nearest(_as_array([fingerprints[i] for i in new]), reference.packed_bits)
    reference.nearest.update((smiles[i], float(s)) for i, s in zip(new, found, strict=True))
    return float(np.mean([reference.nearest[text] for text in smiles]))


def cosine_similarity(ours: Mapping[str, int], theirs: Mapping[str, int]) -> float | None:
    """Cosine of two count vectors; None where either is empty."""
    if not ours or not theirs:
        return None
    keys = sorted({*ours, *theirs})
    u, v = (np.array([counts.get(key, 0) for key in keys], float) for counts in (ours, theirs))
    return float(1 - cosine(u, v))


def _nearest(queries: np.ndarray, packed_stock: np.ndarray) -> np.ndarray:
    """Highest Tanimoto similarity of each query to the stock, block by block.

    Products of 0/1 vectors are exact in float32 (at most 1024), and one matrix product does the
    work of a million comparisons; the stock stays packed, 128 bytes a molecule.
    """
    best = np.zeros(len(queries))
    query_sizes = queries.sum(axis=1)
    for start in range(0, len(packed_stock), STOCK_BLOCK):
        stock = np.unpackbits(packed_stock[start : start + STOCK_BLOCK], axis=1)
        stock = stock.astype(np.float32)
        stock_sizes = stock.sum(axis=1)
        for at in range(0, len(queries), QUERY_BLOCK):
            rows = slice(at, at + QUERY_BLOCK)
            common = queries[rows] @ stock.T
            union = query_sizes[rows, None] + stock_sizes[None, :] - common
            best[rows] = np.maximum(best[rows], (common / union).max(axis=1))
    return best


def _as_array(fingerprints: Sequence[ExplicitBitVect]) -> np.ndarray:
    array = np.zeros((len(fingerprints), BITS_MOSES), dtype=np.float32)
    for row, bits in zip(array, fingerprints, strict=True):
        row[list(bits.GetOnBits())] = 1
    return array


def _scaffold_counts(mols: Iterable[Chem.Mol]) -> Counter[str]:
    """Scaffolds with at least two rings, stereochemistry kept as molsets keeps it."""
    counts: Counter[str] = Counter()
    for mol in mols:
        with suppress(MoleculeError), step("scaffold"):
            scaffold = _murcko(mol)
            if scaffold.GetRingInfo().NumRings() >= MIN_RINGS:
                counts[Chem.MolToSmiles(scaffold)] += 1
    return counts


def _fragment_counts(mols: Iterable[Chem.Mol]) -> Counter[str]:
    """BRICS fragments with their numbered attachment points."""
    counts: Counter[str] = Counter()
    for mol in mols:
        with suppress(MoleculeError), step("fragments"):
            counts.update(Chem.MolToSmiles(rdmolops.FragmentOnBRICSBonds(mol)).split("."))
    return counts
