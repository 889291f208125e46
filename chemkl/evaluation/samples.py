"""What is evaluated: the samples of one run or file, and the distinct molecules among them."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
import pandas as pd
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem.fingerprints import folded, pack, unpacked
from chemkl.chem.scaffolds import N_BITS
from chemkl.config import InputError
from chemkl.config.posttrain import CollapseConfig
from chemkl.evaluation.structures import canonical_smiles, read_structures
from chemkl.results import Manifest
from chemkl.results.collapse import watched

TRACE_COLUMNS = (
    "step", "row", "call", "canonical_smiles", "valid", "scaffold", "reward", "is_replay"
)  # fmt: skip

BITS_PAIRS = N_BITS
BITS_MOSES = BITS_PAIRS // 2


@dataclass(frozen=True, slots=True)
class Molecule:
    """One distinct molecule and what the metrics need of it.

    Attributes:
        smiles: canonical SMILES, the identity of the molecule.
        call: 1-based index of its first scoring (of its first appearance where nothing is scored).
        reward: raw reward R; None where nothing is scored.
        scaffold: Bemis-Murcko scaffold; empty for an acyclic molecule.
        generic: generic scaffold; None where there is none.
        packed: Morgan fingerprint, radius 2, 2048 bits, eight to a byte; a run may have a million
            molecules.
    """

    smiles: str
    call: int
    reward: float | None
    scaffold: str
    generic: str | None
    packed: bytes

    @property
    def bits_moses(self) -> ExplicitBitVect:
        """Morgan fingerprint, radius 2, 1024 bits; for many molecules there is `moses_bits`."""
        return unpacked(moses_bits([self])[0].tobytes())

    @property
    def bits_pairs(self) -> ExplicitBitVect:
        """Morgan fingerprint, radius 2, 2048 bits; for many molecules there is `pairs_bits`."""
        return unpacked(self.packed)


def moses_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Morgan fingerprints, radius 2, 1024 bits, packed: 128 bytes a molecule, in order."""
    return folded(pairs_bits(molecules))


def pairs_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Morgan fingerprints, radius 2, 2048 bits, packed: 256 bytes a molecule, in order."""
    packed = pack([molecule.packed for molecule in molecules])
    return packed.reshape(len(molecules), BITS_PAIRS // 8)


@dataclass(frozen=True)
class Samples:
    """Everything that one run or one file proposed.

    Attributes:
        name: name of the run.
        n_sampled: number of sampled strings, valid or not.
        valid: canonical SMILES of every valid sample in order, repeats included.
        molecules: the distinct molecules in the order first scored.
        skipped: canonical SMILES that are recorded as valid and that RDKit cannot read, or cannot
            take apart; they are in neither of the two.
        collapse: by which a run is judged; None: no run made them.
        budget: oracle calls that a run was given; None: not known, or without a limit.
    """

    name: str
    n_sampled: int
    valid: Sequence[str]
    molecules: Sequence[Molecule]
    skipped: AbstractSet[str] = frozenset()
    collapse: CollapseConfig | None = None
    budget: int | None = None

    @property
    def note(self) -> str | None:
        """What to tell the user about the molecules that were skipped; None where none was."""
        if not self.skipped:
            return None
        return (
            f"{self.name}: {len(self.skipped):,} molecules recorded as valid are counted as "
            f"invalid: RDKit cannot read or take apart {min(self.skipped)}"
            f"{' and others' if len(self.skipped) > 1 else ''}"
        )

    @cached_property
    def is_scored(self) -> bool:
        """Whether the molecules carry rewards."""
        return all(molecule.reward is not None for molecule in self.molecules)

    def hits(self, threshold: float) -> list[Molecule]:
        """The molecules with R >= threshold, in the order first scored."""
        return [m for m in self.molecules if m.reward is not None and m.reward >= threshold]


def from_trace(
    name: str,
    trace: pd.DataFrame,
    workers: int | None = None,
    manifest: Manifest | None = None,
) -> Samples:
    """Take the samples of a run; rows drawn from a replay buffer were not sampled and are left out.

    Args:
        name: name of the run.
        trace: its trace. The column `scaffold` saves time where there are many molecules, and need
            not be there.
        workers: processes that read the molecules where there are many; None: one for each core.
        manifest: of the run, which says its budget and what it calls a collapse.

    Raises:
        InputError: the trace holds valid rows that are no molecules.
    """
    sampled = trace[~trace["is_replay"].astype(bool)]
    texts = int(sampled.loc[sampled["valid"].astype(bool), "canonical_smiles"].isna().sum())
    if texts:
        raise InputError(
            f"run {name}: {texts:,} valid rows of its trace have no SMILES: it is paid for answers "
            "or texts, not for molecules. `chemkl evaluate_text` evaluates such runs of "
            "posttrain_llm."
        )
    scored = sampled[sampled["call"].notna()].sort_values("call", kind="stable")
    recorded = _texts(scored["scaffold"]) if "scaffold" in scored else None
    molecules, skipped = _molecules(
        scored["canonical_smiles"].tolist(),
        scored["call"].astype(int).tolist(),
        scored["reward"].astype(float).tolist(),
        recorded,
        workers,
    )
    valid = sampled.loc[sampled["valid"].astype(bool), "canonical_smiles"].tolist()
    return Samples(
        name,
        len(sampled),
        _without(skipped, valid),
        molecules,
        skipped,
        collapse=watched(manifest.model_dump(mode="json") if manifest else None),
        budget=_budget(manifest),
    )


def from_smiles(
    name: str,
    smiles: Iterable[str | None],
    rewards: Sequence[float] | None = None,
    workers: int | None = None,
) -> Samples:
    """Take the samples of a file: `call` counts distinct molecules.

    Args:
        name: name of the file.
        smiles: the strings; None is invalid.
        rewards: of each string, that of a molecule being its first; not given: nothing is scored.
        workers: processes that read the molecules where there are many; None: one for each core.
    """
    texts = [text or "" for text in smiles]
    canonical = canonical_smiles(texts, workers)
    first: dict[str, float | None] = {}
    scored = repeat(None, len(texts)) if rewards is None else rewards
    for text, reward in zip(canonical, scored, strict=True):
        if text is not None:
            first.setdefault(text, reward)
    distinct = list(first)
    calls = range(1, len(distinct) + 1)
    molecules, skipped = _molecules(distinct, calls, list(first.values()), None, workers)
    valid = [text for text in canonical if text is not None]
    return Samples(name, len(texts), _without(skipped, valid), molecules, skipped)


def sample(molecules: Sequence[Molecule], size: int, seed: int) -> Sequence[Molecule]:
    """All molecules where there are at most `size`, else so many at random, their order kept."""
    if len(molecules) <= size:
        return molecules
    chosen = np.random.default_rng(seed).choice(len(molecules), size, replace=False)
    return [molecules[i] for i in sorted(chosen)]


def _molecules(
    smiles: Sequence[str],
    calls: Sequence[int],
    rewards: Sequence[float | None],
    scaffolds: Sequence[str | None] | None,
    workers: int | None,
) -> tuple[list[Molecule], AbstractSet[str]]:
    """Read the molecules; equal scaffolds are one string, which also makes them quick to compare.

    Returns:
        The molecules, and the SMILES of those that RDKit cannot read.
    """
    found = read_structures(smiles, scaffolds, workers)
    same: dict[str | None, str | None] = {}
    molecules: list[Molecule] = []
    skipped: set[str] = set()
    for text, call, reward, structure in zip(smiles, calls, rewards, found, strict=True):
        if structure is None:
            skipped.add(text)
            continue
        scaffold = same.setdefault(structure.scaffold, structure.scaffold)
        generic = same.setdefault(structure.generic, structure.generic)
        molecules.append(Molecule(text, call, reward, scaffold or "", generic, structure.packed))
    return molecules, skipped


def _without(skipped: AbstractSet[str], valid: list[str]) -> list[str]:
    return [text for text in valid if text not in skipped] if skipped else valid


def _budget(manifest: Manifest | None) -> int | None:
    budget = manifest.config.get("budget") if manifest else None
    return budget if isinstance(budget, int) else None


def _texts(column: pd.Series) -> list[str | None]:
    return [text if isinstance(text, str) else None for text in column.tolist()]
