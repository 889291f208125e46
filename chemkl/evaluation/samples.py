"""What is evaluated: the samples of one run or file, and the distinct molecules among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem.fingerprints import morgan_fingerprint
from chemkl.chem.molecules import parse, read_molecule
from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold
from chemkl.config import InputError

TRACE_COLUMNS = ("step", "row", "call", "canonical_smiles", "valid", "reward", "is_replay")
RADIUS = 2
BITS_MOSES = 1024
BITS_PAIRS = 2048


@dataclass(frozen=True)
class Molecule:
    """One distinct molecule and what the metrics need of it.

    Attributes:
        smiles: canonical SMILES, the identity of the molecule.
        call: 1-based index of its first scoring (of its first appearance where nothing is scored).
        reward: raw reward R; None where nothing is scored.
        scaffold: Bemis-Murcko scaffold; empty for an acyclic molecule.
        generic: generic scaffold; None where there is none.
        bits_moses: Morgan fingerprint, radius 2, 1024 bits.
        bits_pairs: Morgan fingerprint, radius 2, 2048 bits.
    """

    smiles: str
    call: int
    reward: float | None
    scaffold: str
    generic: str | None
    bits_moses: ExplicitBitVect
    bits_pairs: ExplicitBitVect


@dataclass(frozen=True)
class Samples:
    """Everything that one run or one file proposed.

    Attributes:
        name: name of the run.
        n_sampled: number of sampled strings, valid or not.
        valid: canonical SMILES of every valid sample in order, repeats included.
        molecules: the distinct molecules in the order first scored.
    """

    name: str
    n_sampled: int
    valid: Sequence[str]
    molecules: Sequence[Molecule]

    @cached_property
    def is_scored(self) -> bool:
        """Whether the molecules carry rewards."""
        return all(molecule.reward is not None for molecule in self.molecules)

    def hits(self, threshold: float) -> list[Molecule]:
        """The molecules with R >= threshold, in the order first scored."""
        return [m for m in self.molecules if m.reward is not None and m.reward >= threshold]


def from_trace(name: str, trace: pd.DataFrame) -> Samples:
    """Take the samples of a run; rows drawn from a replay buffer were not sampled and are left out.

    Raises:
        InputError: the trace holds a canonical SMILES that RDKit cannot read.
    """
    sampled = trace[~trace["is_replay"].astype(bool)]
    scored = sampled[sampled["call"].notna()].sort_values("call", kind="stable")
    rows = zip(scored["canonical_smiles"], scored["call"], scored["reward"], strict=True)
    build = _Builder()
    return Samples(
        name=name,
        n_sampled=len(sampled),
        valid=sampled.loc[sampled["valid"].astype(bool), "canonical_smiles"].tolist(),
        molecules=[build(smiles, int(call), float(reward)) for smiles, call, reward in rows],
    )


def from_smiles(
    name: str, smiles: Iterable[str | None], rewards: Sequence[float] | None = None
) -> Samples:
    """Take the samples of a file: `call` counts distinct molecules.

    Args:
        name: name of the file.
        smiles: the strings; None is invalid.
        rewards: of each string, that of a molecule being its first; not given: nothing is scored.
    """
    texts = list(smiles)
    canonical = [read_molecule(text or "").canonical_smiles for text in texts]
    first: dict[str, float | None] = {}
    scored = repeat(None, len(texts)) if rewards is None else rewards
    for text, reward in zip(canonical, scored, strict=True):
        if text is not None:
            first.setdefault(text, reward)
    build = _Builder()
    distinct = enumerate(first.items(), start=1)
    return Samples(
        name=name,
        n_sampled=len(texts),
        valid=[text for text in canonical if text is not None],
        molecules=[build(text, call, reward) for call, (text, reward) in distinct],
    )


def sample(molecules: Sequence[Molecule], size: int, seed: int) -> Sequence[Molecule]:
    """All molecules where there are at most `size`, else so many at random, their order kept."""
    if len(molecules) <= size:
        return molecules
    chosen = np.random.default_rng(seed).choice(len(molecules), size, replace=False)
    return [molecules[i] for i in sorted(chosen)]


class _Builder:
    """Makes molecules; the generic scaffold is a function of the scaffold, so it is kept."""

    def __init__(self) -> None:
        self._generic: dict[str, str | None] = {}

    def __call__(self, smiles: str, call: int, reward: float | None) -> Molecule:
        mol = parse(smiles)
        if mol is None:
            raise InputError(
                f"call {call}: {smiles!r} is recorded as valid, but RDKit refuses it: the trace is "
                "damaged, or was written under another RDKit."
            )
        scaffold = murcko_scaffold(mol)
        return Molecule(
            smiles=smiles,
            call=call,
            reward=reward,
            scaffold=scaffold,
            generic=self._generic_of(mol, scaffold),
            bits_moses=morgan_fingerprint(mol, radius=RADIUS, n_bits=BITS_MOSES),
            bits_pairs=morgan_fingerprint(mol, radius=RADIUS, n_bits=BITS_PAIRS),
        )

    def _generic_of(self, mol: Chem.Mol, scaffold: str) -> str | None:
        if scaffold not in self._generic:
            self._generic[scaffold] = generic_scaffold(mol)
        return self._generic[scaffold]
