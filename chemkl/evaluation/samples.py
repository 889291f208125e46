"""The samples of one run or file, and the distinct molecules among them."""

import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from chemkl.chem import scaffolds
from chemkl.chem.fingerprints import folded, pack
from chemkl.chem.molecules import canonicalise
from chemkl.chem.scaffolds import Structure, StructureReader
from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.config.evaluate import SampledFile
from chemkl.config.paths import label_of
from chemkl.config.posttrain import CollapseConfig
from chemkl.files.molecules import MoleculeFile, first_named
from chemkl.files.tables import find_column
from chemkl.processes import n_cores
from chemkl.results import Manifest
from chemkl.results.inspection import by_final_reward, first_scorings, sampled_rows
from chemkl.results.outcome import collapse_config
from chemkl.results.provenance import installed_versions
from chemkl.rewards.pool import Jobs, Lost, Mark, Pool

TRACE_COLUMNS = (
    "step", "row", "call", "canonical_smiles", "valid", "scaffold", "reward", "is_replay",
    "final_reward", "origin",
)  # fmt: skip
RADIUS = scaffolds.RADIUS
BITS_PAIRS = scaffolds.N_BITS
BITS_MOSES = BITS_PAIRS // 2
MIN_POOLED = 20_000
"""Fewer molecules are read in this process, which takes no longer than starting workers."""
UNIT = 100
"""Molecules per task of a worker process: 10 ms of work."""
CHECKED = 1000
"""Recorded scaffolds are used if this RDKit computes the same for this many of the molecules."""
REWARDS = ("reward", "score", "total_score")
"""Column names of rewards, in any case; the first one in a file is used."""
T = TypeVar("T")
MAX_LISTED = 5
"""Invalid rewards listed in an error message."""


@dataclass(frozen=True, slots=True)
class Molecule:
    """One distinct molecule, with the properties that the metrics use."""

    smiles: str  # canonical SMILES
    # 1-based index of its first scoring (of its first appearance if nothing is scored); 0: none
    call: int
    reward: float | None  # raw reward R; None if nothing is scored
    scaffold: str  # Bemis-Murcko scaffold; empty for an acyclic molecule
    generic: str | None  # generic scaffold, if any
    packed: bytes  # Morgan fingerprint, radius 2, 2048 bits, eight per byte to save memory


def moses_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Return Morgan fingerprints, radius 2, 1024 bits, packed: 128 bytes per molecule."""
    return folded(pairs_bits(molecules))


def pairs_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Return Morgan fingerprints, radius 2, 2048 bits, packed: 256 bytes per molecule."""
    packed = pack([molecule.packed for molecule in molecules])
    return packed.reshape(len(molecules), BITS_PAIRS // 8)


@dataclass(frozen=True)
class Samples:
    """The samples of one run or one file."""

    name: str
    n_sampled: int  # number of sampled strings, valid or not
    valid: Sequence[str]  # canonical SMILES of every valid sample in order, repeats included
    molecules: Sequence[Molecule]  # the distinct molecules in the order first scored
    # recorded as valid but unreadable for RDKit; excluded from `valid` and `molecules`
    skipped: AbstractSet[str] = frozenset()
    collapse: CollapseConfig | None = None  # collapse limits of the run; None for a file
    budget: int | None = None  # oracle calls of the run; None: unknown or unlimited
    # molecules of valid samples that were seeds of the run's memory, so the run did not find them
    seeds: Sequence[Molecule] = ()

    @property
    def note(self) -> str | None:
        """A message about the skipped molecules; None if there are none."""
        if not self.skipped:
            return None
        return (
            f"{self.name}: {len(self.skipped):,} molecules recorded as valid are counted as "
            f"invalid, because RDKit cannot process them: {min(self.skipped)}"
            f"{' and others' if len(self.skipped) > 1 else ''}"
        )

    @cached_property
    def molecule_of(self) -> dict[str, Molecule]:
        """The molecule of each valid sample, by its canonical SMILES."""
        return {molecule.smiles: molecule for molecule in (*self.molecules, *self.seeds)}

    @cached_property
    def is_scored(self) -> bool:
        """Whether the molecules carry rewards."""
        return all(molecule.reward is not None for molecule in self.molecules)

    def hits(self, threshold: float) -> list[Molecule]:
        """Return the molecules with R >= threshold, in the order first scored."""
        return [m for m in self.molecules if m.reward is not None and m.reward >= threshold]


def from_trace(
    name: str, trace: pd.DataFrame, workers: int | None = None, manifest: Manifest | None = None
) -> Samples:
    """Read the samples of a run from its trace, without rows drawn from a replay buffer.

    Molecules scored by exploration count among the molecules but not as samples. For a run of
    several stages only the samples scored by the final reward count.

    Args:
        name: of the run.
        trace: rows with `TRACE_COLUMNS`; the optional column `scaffold` saves time.
        workers: processes that parse the molecules; None: one per core.
        manifest: source of the budget and the collapse limits.

    Raises:
        InputError: the trace has valid rows without a molecule.
    """
    sampled = by_final_reward(sampled_rows(trace))
    valid = sampled[sampled["valid"].astype(bool)]
    if texts := int(valid["canonical_smiles"].isna().sum()):
        raise InputError(
            f"run {name}: {texts:,} valid rows of its trace have no SMILES: its reward scores "
            "texts, not molecules. Use `chemkl evaluate_text` for such runs of posttrain_llm."
        )
    scored = first_scorings(trace)
    seeds = valid[~valid["canonical_smiles"].isin(scored["canonical_smiles"])]
    rows = pd.concat([scored, seeds.drop_duplicates("canonical_smiles")])
    recorded = None
    if "scaffold" in rows:
        recorded = [text if isinstance(text, str) else None for text in rows["scaffold"]]
    molecules, skipped = _molecules(
        rows["canonical_smiles"].tolist(),
        rows["call"].fillna(0).astype(int).tolist(),
        rows["reward"].astype(float).tolist(),
        recorded,
        workers,
        are_canonical=manifest is not None and written_by_this_rdkit(manifest),
    )
    budget = manifest.config.get("budget") if manifest else None
    return Samples(
        name,
        len(sampled),
        [text for text in valid["canonical_smiles"] if text not in skipped],
        [molecule for molecule in molecules if molecule.call],
        skipped,
        collapse=collapse_config(manifest.model_dump(mode="json") if manifest else None),
        budget=budget if isinstance(budget, int) else None,
        seeds=[molecule for molecule in molecules if not molecule.call],
    )


def from_smiles(
    name: str,
    smiles: Iterable[str | None],
    rewards: Sequence[float] | None = None,
    workers: int | None = None,
) -> Samples:
    """Make samples from SMILES, where None is an invalid one; `call` counts distinct molecules.

    A molecule has the reward of its first occurrence; without rewards nothing is scored.
    """
    texts = [text or "" for text in smiles]
    canonical: list[str | None] = in_order("canonical", texts, workers)
    first: dict[str, float | None] = {}
    scored = repeat(None, len(texts)) if rewards is None else rewards
    for text, reward in zip(canonical, scored, strict=True):
        if text is not None:
            first.setdefault(text, reward)
    distinct = list(first)
    calls = range(1, len(distinct) + 1)
    molecules, skipped = _molecules(distinct, calls, list(first.values()), None, workers)
    valid = [text for text in canonical if text is not None and text not in skipped]
    return Samples(name, len(texts), valid, molecules, skipped)


def sample(items: Sequence[T], size: int, seed: int) -> Sequence[T]:
    """Return all items if there are at most `size`, else a random sample in the same order."""
    if len(items) <= size:
        return items
    chosen = np.random.default_rng(seed).choice(len(items), size, replace=False)
    return [items[i] for i in sorted(chosen)]


def _molecules(
    smiles: Sequence[str],
    calls: Sequence[int],
    rewards: Sequence[float | None],
    scaffolds: Sequence[str | None] | None,
    workers: int | None,
    *,
    are_canonical: bool = False,
) -> tuple[list[Molecule], AbstractSet[str]]:
    """Parse molecules; also return the SMILES that RDKit cannot read.

    Equal scaffolds share one string object, which saves memory and makes comparisons fast.
    """
    structures = read_structures(smiles, scaffolds, workers, are_canonical=are_canonical)
    shared: dict[str | None, str | None] = {}
    molecules: list[Molecule] = []
    skipped: set[str] = set()
    for text, call, reward, structure in zip(smiles, calls, rewards, structures, strict=True):
        if structure is None:
            skipped.add(text)
            continue
        scaffold = shared.setdefault(structure.scaffold, structure.scaffold)
        generic = shared.setdefault(structure.generic, structure.generic)
        molecules.append(Molecule(text, call, reward, scaffold or "", generic, structure.packed))
    return molecules, skipped


def written_by_this_rdkit(manifest: Manifest) -> bool:
    """Whether a run used the installed RDKit version, so that its SMILES are canonical here."""
    name = "rdkit"
    return manifest.versions.get(name) == installed_versions([name])[name]


# ---- parsing many molecules in parallel


def read_structures(
    smiles: Sequence[str],
    scaffolds: Sequence[str | None] | None = None,
    workers: int | None = None,
    *,
    are_canonical: bool = False,
) -> list[Structure | None]:
    """Parse molecules, in order; None where RDKit refuses one.

    Recorded scaffolds (None where missing) save a third of the time for many molecules. They are
    used only if this RDKit computes the same for `CHECKED` of them. With `are_canonical`, SMILES
    written by this RDKit version, they save two thirds. The result does not depend on `workers`,
    the number of processes.
    """
    items: list[tuple[str, str | None, bool]] = [(text, None, are_canonical) for text in smiles]
    if scaffolds is not None and len(smiles) > CHECKED:
        recorded = [(*pair, are_canonical) for pair in zip(smiles, scaffolds, strict=True)]
        places = np.linspace(0, len(smiles) - 1, CHECKED).astype(int)
        if all(_structure(recorded[i][0]) == _structure(*recorded[i]) for i in places):
            items = recorded
    results = in_order("structures", items, workers)
    return [None if fields is None else Structure._make(fields) for fields in results]


_reader = StructureReader()


@lru_cache(2 * MIN_POOLED)
def _structure(
    smiles: str, scaffold: str | None = None, is_canonical: bool = False
) -> Structure | None:
    """Parse one molecule; cached, as a report parses those of the evaluation again."""
    return _reader(smiles, scaffold, is_canonical=is_canonical)


def _jobs(_mark: Mark | None = None) -> Jobs:
    """Return the functions that workers apply to a unit of items."""
    return {
        # plain tuples are faster to send between processes
        "structures": lambda unit: [(fields := _structure(*i)) and tuple(fields) for i in unit],
        "canonical": lambda unit: [canonicalise(text) for text in unit],
    }


def in_order(job: str, items: Sequence[Any], workers: int | None = None) -> list[Any]:
    """Run a job over many items, in units, and return the results in order."""
    workers = workers or n_cores()
    if workers == 1 or len(items) < MIN_POOLED:
        work: Callable[[Any], list[Any]] = _jobs()[job]
        return work(items)
    units = [items[start : start + UNIT] for start in range(0, len(items), UNIT)]
    results: list[Any] = [None] * len(items)
    with Pool(_jobs, workers, preload=[__name__]) as pool:
        for number, outcome in pool.run(job, units):
            first, last = number * UNIT, number * UNIT + len(units[number])
            if isinstance(outcome, Lost):
                raise RuntimeError(  # noqa: TRY004 - a process died; no argument has a wrong type
                    f"molecules {first + 1} to {last}: {outcome.reason}. Is there enough memory? "
                    "metrics.workers: 1 uses a single process."
                )
            results[first:last] = outcome
    return results


# ---- files of samples


def read_samples(name: str, file: SampledFile, workers: int | None = None) -> Samples:
    """Read the samples of a file, with rewards if it has a column of them.

    The order of the rows is the order of sampling: the first row of each valid molecule is one call
    and has the reward of the molecule. A molecule without a reward is not a hit. A string marked
    `truncated`, or not `valid`, is invalid even if RDKit can parse it.

    Raises:
        InputError: the column of rewards is missing or holds other values.
    """
    columns, place = MoleculeFile(file.path, file.column).columns, label_of(file.path)
    reward = None
    if isinstance(file.reward_column, str):
        reward = find_column(columns, file.reward_column, place)
    elif file.reward_column is None and (reward := first_named(REWARDS, columns)):
        say_once(
            f"{place}: takes the rewards from column {reward!r} and the order of calls from the "
            "rows (set reward_column to another name, or to false for no rewards)"
        )
    flags = ("truncated", "valid", "is_replay")
    extra = [name for name in (*flags, reward) if name and name in columns]
    texts: list[str | None] = []
    rewards: list[float] = []
    invalid = []
    for line in MoleculeFile(file.path, file.column, extra):
        truncated, valid, replay = (str(line.values.get(flag)).strip().lower() for flag in flags)
        if replay == "true":  # not a sample
            continue
        texts.append(None if truncated == "true" or valid == "false" else line.smiles)
        if reward is None:
            continue
        value = line.values.get(reward)
        try:
            number = math.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            number = math.inf
        if isinstance(value, bool) or not (math.isnan(number) or 0 <= number <= 1):
            invalid.append(f"line {line.number} holds {value!r}")
        rewards.append(number)
    refuse_cells(
        invalid,
        f"{place}: the column {reward!r} must hold rewards, numbers from 0 to 1 written as 0.5, or "
        "empty cells;",
        "Correct them, name another column as reward_column, or set it to false to use the file "
        "without rewards.",
        MAX_LISTED,
    )
    return from_smiles(name, texts, None if reward is None else rewards, workers)


def refuse_cells(invalid: Sequence[str], rule: str, fix: str, max_listed: int) -> None:
    """Raise an error that lists the first invalid cells of a file, if there are any."""
    if invalid:
        more = f", and {len(invalid) - max_listed} more" if len(invalid) > max_listed else ""
        raise InputError(f"{rule} {', '.join(invalid[:max_listed])}{more}. {fix}")
