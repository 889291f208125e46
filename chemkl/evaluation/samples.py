"""What is evaluated: the samples of one run or file, and the distinct molecules among them."""

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
ALONE = 20_000
"""Fewer molecules are read by this process alone, in the seconds that it takes to start others."""
UNIT = 100
"""So many molecules are handed to a process at a time: 10 ms of work."""
CHECKED = 1000
"""Recorded scaffolds are believed if so many of them are what this RDKit makes of the molecules."""
REWARDS = ("reward", "score", "total_score")
"""What columns with rewards are called, in any case; the first one that a file has is taken."""
T = TypeVar("T")
NAMED = 5
"""So many of the cells that are no rewards are named."""


@dataclass(frozen=True, slots=True)
class Molecule:
    """One distinct molecule and what the metrics need of it."""

    smiles: str  # canonical SMILES, the identity of the molecule
    # 1-based index of its first scoring (of its first appearance where nothing is scored); 0: none
    call: int
    reward: float | None  # raw reward R; None where nothing is scored
    scaffold: str  # Bemis-Murcko scaffold; empty for an acyclic molecule
    generic: str | None  # generic scaffold; None where there is none
    # Morgan fingerprint, radius 2, 2048 bits, eight to a byte, for a million molecules
    packed: bytes


def moses_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Morgan fingerprints, radius 2, 1024 bits, packed: 128 bytes a molecule, in order."""
    return folded(pairs_bits(molecules))


def pairs_bits(molecules: Sequence[Molecule]) -> np.ndarray:
    """Morgan fingerprints, radius 2, 2048 bits, packed: 256 bytes a molecule, in order."""
    packed = pack([molecule.packed for molecule in molecules])
    return packed.reshape(len(molecules), BITS_PAIRS // 8)


@dataclass(frozen=True)
class Samples:
    """Everything that one run or one file proposed."""

    name: str
    n_sampled: int  # number of sampled strings, valid or not
    valid: Sequence[str]  # canonical SMILES of every valid sample in order, repeats included
    molecules: Sequence[Molecule]  # the distinct molecules in the order first scored
    # recorded as valid, but RDKit cannot read or take them apart: in neither of the two
    skipped: AbstractSet[str] = frozenset()
    collapse: CollapseConfig | None = None  # by which a run is judged; None: no run made them
    # oracle calls that a run was given; None: not known, or without a limit
    budget: int | None = None
    # molecules of valid samples that the run did not find: it had them before, as seeds of a memory
    given: Sequence[Molecule] = ()

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
    def molecule_of(self) -> dict[str, Molecule]:
        """The molecule of each valid sample, by its canonical SMILES."""
        return {molecule.smiles: molecule for molecule in (*self.molecules, *self.given)}

    @cached_property
    def is_scored(self) -> bool:
        """Whether the molecules carry rewards."""
        return all(molecule.reward is not None for molecule in self.molecules)

    def hits(self, threshold: float) -> list[Molecule]:
        """The molecules with R >= threshold, in the order first scored."""
        return [m for m in self.molecules if m.reward is not None and m.reward >= threshold]


def from_trace(
    name: str, trace: pd.DataFrame, workers: int | None = None, manifest: Manifest | None = None
) -> Samples:
    """Take the samples of a run; rows drawn from a replay buffer were not sampled and are left out.

    What exploration has paid for is among the molecules, and no sample. Of a run of several stages
    those samples are taken that the reward of the last one has scored.
    The column `scaffold` saves time where there are many molecules, and need not be there.
    `workers` are processes that read them (None: one for each core); the manifest says the budget
    and what the run calls a collapse.

    Raises:
        InputError: the trace holds valid rows that are no molecules.
    """
    sampled = by_final_reward(sampled_rows(trace))
    valid = sampled[sampled["valid"].astype(bool)]
    if texts := int(valid["canonical_smiles"].isna().sum()):
        raise InputError(
            f"run {name}: {texts:,} valid rows of its trace have no SMILES: it is paid for answers "
            "or texts, not for molecules. `chemkl evaluate_text` evaluates such runs of "
            "posttrain_llm."
        )
    scored = first_scorings(trace)
    given = valid[~valid["canonical_smiles"].isin(scored["canonical_smiles"])]
    rows = pd.concat([scored, given.drop_duplicates("canonical_smiles")])
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
        given=[molecule for molecule in molecules if not molecule.call],
    )


def from_smiles(
    name: str,
    smiles: Iterable[str | None],
    rewards: Sequence[float] | None = None,
    workers: int | None = None,
) -> Samples:
    """Take the samples of a file, where None is invalid: `call` counts distinct molecules.

    A molecule has the reward of its first string; without rewards nothing is scored.
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


def sample(things: Sequence[T], size: int, seed: int) -> Sequence[T]:
    """All things where there are at most `size`, else so many at random, their order kept."""
    if len(things) <= size:
        return things
    chosen = np.random.default_rng(seed).choice(len(things), size, replace=False)
    return [things[i] for i in sorted(chosen)]


def _molecules(
    smiles: Sequence[str],
    calls: Sequence[int],
    rewards: Sequence[float | None],
    scaffolds: Sequence[str | None] | None,
    workers: int | None,
    *,
    are_canonical: bool = False,
) -> tuple[list[Molecule], AbstractSet[str]]:
    """Read the molecules, and name those that RDKit cannot read.

    Equal scaffolds are one string, which also makes them quick to compare.
    """
    structures = read_structures(smiles, scaffolds, workers, are_canonical=are_canonical)
    same: dict[str | None, str | None] = {}
    molecules: list[Molecule] = []
    skipped: set[str] = set()
    for text, call, reward, structure in zip(smiles, calls, rewards, structures, strict=True):
        if structure is None:
            skipped.add(text)
            continue
        scaffold = same.setdefault(structure.scaffold, structure.scaffold)
        generic = same.setdefault(structure.generic, structure.generic)
        molecules.append(Molecule(text, call, reward, scaffold or "", generic, structure.packed))
    return molecules, skipped


def written_by_this_rdkit(manifest: Manifest) -> bool:
    """Whether the RDKit of a run is the one that is installed: its canonical SMILES are ours."""
    name = "rdkit"
    return manifest.versions.get(name) == installed_versions([name])[name]


# ---- reading very many molecules


def read_structures(
    smiles: Sequence[str],
    scaffolds: Sequence[str | None] | None = None,
    workers: int | None = None,
    *,
    are_canonical: bool = False,
) -> list[Structure | None]:
    """Read molecules, in order; None where RDKit refuses one.

    Recorded scaffolds (None where one was not) save a third of the time where there are many, after
    a check of 1,000 molecules: if one is not what this RDKit makes of it, none is used. With SMILES
    that this very RDKit wrote they save two thirds. What is read does not depend on `workers`, the
    processes.
    """
    items: list[tuple[str, str | None, bool]] = [(text, None, are_canonical) for text in smiles]
    if scaffolds is not None and len(smiles) > CHECKED:
        recorded = [(*pair, are_canonical) for pair in zip(smiles, scaffolds, strict=True)]
        places = np.linspace(0, len(smiles) - 1, CHECKED).astype(int)
        if all(_structure(recorded[i][0]) == _structure(*recorded[i]) for i in places):
            items = recorded
    read = in_order("structures", items, workers)
    return [None if fields is None else Structure._make(fields) for fields in read]


_reader = StructureReader()


@lru_cache(2 * ALONE)
def _structure(
    smiles: str, scaffold: str | None = None, is_canonical: bool = False
) -> Structure | None:
    """What the reader makes of a molecule; a report asks for those of the evaluation before it."""
    return _reader(smiles, scaffold, is_canonical=is_canonical)


def _jobs(_mark: Mark | None = None) -> Jobs:
    """What is done with a unit."""
    return {
        # plain tuples travel faster
        "structures": lambda unit: [(made := _structure(*one)) and tuple(made) for one in unit],
        "canonical": lambda unit: [canonicalise(text) for text in unit],
    }


def in_order(job: str, items: Sequence[Any], workers: int | None = None) -> list[Any]:
    """Do a job with many items, in units, and give what comes of each item."""
    workers = workers or n_cores()
    if workers == 1 or len(items) < ALONE:
        work: Callable[[Any], list[Any]] = _jobs()[job]
        return work(items)
    units = [items[start : start + UNIT] for start in range(0, len(items), UNIT)]
    done: list[Any] = [None] * len(items)
    with Pool(_jobs, workers, preload=[__name__]) as pool:
        for number, outcome in pool.run(job, units):
            first, last = number * UNIT, number * UNIT + len(units[number])
            if isinstance(outcome, Lost):
                raise RuntimeError(  # noqa: TRY004 - nobody gave a wrong type: a process died
                    f"molecules {first + 1} to {last}: {outcome.reason}. Is there enough memory? "
                    "With metrics.workers: 1 there is one process only."
                )
            done[first:last] = outcome
    return done


# ---- files of samples


def read_samples(name: str, file: SampledFile, workers: int | None = None) -> Samples:
    """Take the samples of a file, with rewards where it has a column of them.

    The rows count as sampled in their order, so that the first row of each valid molecule is one
    call, and its reward that of the molecule. A reward that is missing makes no hit. A string that
    a sampler marks `truncated`, or a scorer not `valid`, is invalid, even where it can be read.

    Raises:
        InputError: the column of rewards is not there, or holds something other than rewards.
    """
    columns, place = MoleculeFile(file.path, file.column).columns, label_of(file.path)
    reward = None
    if isinstance(file.reward_column, str):
        reward = find_column(columns, file.reward_column, place)
    elif file.reward_column is None and (reward := first_named(REWARDS, columns)):
        say_once(
            f"{place}: takes column {reward!r} for the rewards, and the order of the rows for that "
            "of the calls (reward_column: another name, or false for no rewards)"
        )
    flags = ("truncated", "valid", "is_replay")
    wanted = [name for name in (*flags, reward) if name and name in columns]
    texts: list[str | None] = []
    rewards: list[float] = []
    wrong = []
    for line in MoleculeFile(file.path, file.column, wanted):
        truncated, valid, replay = (str(line.values.get(flag)).strip().lower() for flag in flags)
        if replay == "true":  # nobody sampled it
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
            wrong.append(f"line {line.number} holds {value!r}")
        rewards.append(number)
    refuse_cells(
        wrong,
        f"{place}: the column {reward!r} must hold rewards, numbers from 0 to 1 written as 0.5, or "
        "empty cells;",
        "Correct them, name another column as reward_column, or set it to false to use the file "
        "without rewards.",
        NAMED,
    )
    return from_smiles(name, texts, None if reward is None else rewards, workers)


def refuse_cells(wrong: Sequence[str], must: str, fix: str, named: int) -> None:
    """Refuse cells of a file that cannot be used, naming so many of them."""
    if wrong:
        more = f", and {len(wrong) - named} more" if len(wrong) > named else ""
        raise InputError(f"{must} {', '.join(wrong[:named])}{more}. {fix}")
