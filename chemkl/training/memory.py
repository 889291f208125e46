"""The replay memory: molecules that a run has found, some of which join each batch again.

Legend: N molecules of the memory; M molecules that join a batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from chemkl.chem.molecules import read_molecule
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config import InputError
from chemkl.config.objective import MemoryConfig, MemorySeed
from chemkl.files.molecules import MoleculeFile
from chemkl.policies.base import pad, stream
from chemkl.results.columns import optional_columns
from chemkl.training.filters import DiversityFilter


class Molecule(NamedTuple):
    """A molecule of the memory, with its raw reward and log-probabilities."""

    smiles: str  # as it was spelled
    canonical: str
    scaffold: str  # Bemis-Murcko; empty if acyclic or undefined
    reward: float
    logp_ref: float  # of the token sequence, or of the molecule (its canonical spelling)
    origin: str  # "policy", "seed", or the operator of exploration
    tokens: tuple[int, ...]  # start and end token included
    logp_policy: float = 0.0  # under the policy that sampled it; 0 if no policy has


@dataclass(frozen=True)
class Extras:
    """Molecules that join the batch of a step: explored ones first, then replayed ones."""

    molecules: Sequence[Molecule]
    reward: Tensor  # float64_M: after the diversity filter
    chance: Tensor
    """The chance of the memory to draw each sampled row, then each extra molecule: float64, 0 for
    molecules that are not in the memory."""
    explored: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The rows of the explored molecules, up to the rewards."""

    def __len__(self) -> int:
        """Return the number of molecules."""
        return len(self.molecules)

    def with_explored(self, molecules: Sequence[Molecule], rows: pd.DataFrame) -> "Extras":
        """Put explored molecules first; they join this batch with chance 1."""
        n_sampled = len(self.chance) - len(self)
        sampled, replayed = self.chance[:n_sampled], self.chance[n_sampled:]
        reward = torch.tensor(rows["reward_filtered"].to_numpy(), dtype=torch.float64)
        return replace(
            self,
            molecules=[*molecules, *self.molecules],
            reward=torch.cat([reward, self.reward]),
            chance=torch.cat([sampled, torch.ones(len(molecules)).double(), replayed]),
            explored=rows,
        )

    @property
    def tokens(self) -> Tensor:
        """token_MT, int64."""
        return pad([molecule.tokens for molecule in self.molecules])

    @property
    def logp_ref(self) -> Tensor:
        """Log pi_ref: float32_M, nats."""
        return torch.tensor([molecule.logp_ref for molecule in self.molecules])

    @property
    def logp_policy(self) -> Tensor:
        """Log p under the policies that sampled them: float32_M, nats."""
        return torch.tensor([molecule.logp_policy for molecule in self.molecules])


class Memory:
    """Keeps each molecule once, by its canonical SMILES, and draws some for each step.

    When a molecule is drawn, its reward is multiplied by the share that the diversity filter paid
    the newest molecule of its bucket. So a hit is replayed until the policy has filled its bucket,
    and a molecule that the policy has never sampled has its full reward. All draws and purges are a
    function of the seed, the step and the added molecules; every process of a run makes the same
    ones.

    Args:
        config: capacity, draws and purges.
        diversity_filter: the filter of the run.
        rows: molecules to draw for a step.
        tau: lowest reward of a hit; None if the target has no constant tau (a schedule sets it, or
            ``observe_hits``) or no hits.
        has_hits: whether the target distinguishes hits.
        seed: seed of the run.
    """

    def __init__(
        self,
        config: MemoryConfig,
        diversity_filter: DiversityFilter,
        *,
        rows: int,
        tau: float | None = None,
        has_hits: bool = True,
        seed: int = 0,
    ) -> None:
        self._config, self._filter, self._seed = config, diversity_filter, seed
        self._rows, self._has_hits = rows, has_hits
        self.tau = tau
        self._tau_is_constant = tau is not None
        self._molecules: list[Molecule] = []
        self._place: dict[str, int] = {}
        self._scaffolds: dict[str, int] = {}
        self._repeats: set[str] = set()  # of the latest batch
        self._n_added = 0
        self._columns = {name: np.zeros(64, kind) for name, kind in _COLUMNS.items()}

    def __len__(self) -> int:
        """Return the number of molecules."""
        return len(self._molecules)

    def __contains__(self, canonical: object) -> bool:
        """Whether a canonical SMILES is in the memory."""
        return canonical in self._place

    @property
    def molecules(self) -> Sequence[Molecule]:
        """All molecules."""
        return self._molecules

    def filtered_rewards(self) -> np.ndarray:
        """Return the current reward of each molecule after the diversity filter: float64_N."""
        reward_N: np.ndarray = self._column("reward") * self._filter.shares(self._column("bucket"))
        return reward_N

    def best(self, n: int) -> list[str]:
        """Return the canonical SMILES of the n highest filtered rewards, the oldest of a tie first.

        Molecules without any reward left are not among them.
        """
        reward_N = self.filtered_rewards()
        order_N = np.lexsort((self._column("added"), -reward_N))[:n]
        return [self._molecules[place].canonical for place in order_N if reward_N[place] > 0]

    def observe_hits(self, reward_H: Sequence[float]) -> None:
        """Set tau to the lowest reward of the latest hits, if the target has no constant tau."""
        if not self._tau_is_constant and len(reward_H):
            self.tau = float(min(reward_H))

    def drop_repeats(self, canonical: Iterable[str]) -> None:
        """Remove the molecules that a batch repeats, if the config has `repeats: false`.

        `add` skips them in this step, and in later steps every row of them is a repeat again.
        """
        if not self._config.repeats:
            self._repeats = set(canonical)
            places = [self._place[name] for name in self._repeats if name in self._place]
            self._remove(np.array(places))

    def add(self, molecules: Iterable[Molecule]) -> None:
        """Add molecules, each once; then remove some by the purge rules."""
        for molecule in molecules:
            if molecule.canonical in self._repeats:
                continue
            bucket = self._filter.bucket_number(molecule.canonical)
            place = self._place.get(molecule.canonical)
            if place is not None:
                self._columns["bucket"][place] = bucket  # set once the policy has sampled it
            elif self._config.purge != "none" or len(self) < self._config.capacity:
                self._append(molecule, bucket, self._n_added)
                self._n_added += 1
        if self._config.selective:
            is_withheld_N = (self.filtered_rewards() <= 0) & (self._column("reward") > 0)
            self._remove(np.flatnonzero(is_withheld_N))
        excess = len(self) - self._config.capacity
        if excess > 0:
            self._remove(self._to_purge(excess))

    def draw(
        self, step: int, canonical: Iterable[str | None] = (), token_BT: Tensor | None = None
    ) -> Extras:
        """Draw distinct molecules to join a batch; all eligible ones if there are too few.

        Systematic sampling (Madow 1949): the chance of each molecule is exactly proportional to its
        weight, or 1 if that would be above 1. Given a batch (its canonical SMILES and token_BT),
        the result also has the chance of the memory to draw each of its rows.
        """
        reward_N = self.filtered_rewards()
        chance_N = inclusion_chances(self._weights(reward_N), self._rows)
        rng = step_rng(self._seed, step, "memory")
        order_N = rng.permutation(len(self))
        cumulative_N = chance_N[order_N].cumsum()
        n = round(float(cumulative_N[-1])) if len(self) else 0
        at = np.searchsorted(cumulative_N, rng.random() + np.arange(n), side="right")
        places = np.unique(order_N[np.minimum(at, len(self) - 1)])
        molecules = [self._molecules[place] for place in places]
        of_batch = [] if token_BT is None else self._chances(canonical, token_BT, chance_N)
        chances = torch.tensor([*of_batch, *chance_N[places].tolist()], dtype=torch.float64)
        return Extras(molecules, torch.from_numpy(reward_N[places]), chances)

    def _chances(
        self, canonical: Iterable[str | None], token_BT: Tensor, chance_N: np.ndarray
    ) -> list[float]:
        chances = []
        for name, ids in zip(canonical, token_BT.tolist(), strict=True):
            place = self._place.get(name) if isinstance(name, str) else None
            tokens = () if place is None else self._molecules[place].tokens
            # the memory would not draw another spelling, or the same one in other tokens
            is_same = place is not None and tuple(ids[: len(tokens)]) == tokens
            chances.append(float(chance_N[place]) if is_same else 0.0)
        return chances

    def state_dict(self) -> dict[str, Any]:
        """Return everything but what follows from the filter, for a checkpoint."""

        def values(name: str) -> list[Any]:
            return [getattr(molecule, name) for molecule in self._molecules]

        tokens = [torch.tensor(ids, dtype=torch.int32) for ids in values("tokens")]
        return {
            **{name: values(name) for name in ("smiles", "canonical", "scaffold", "origin")},
            "scaffolds": list(self._scaffolds),  # their numbers break ties
            **{name: torch.tensor(values(name), dtype=torch.float64) for name in _LOGPS},
            "reward": torch.from_numpy(self._column("reward").copy()),
            "added": torch.from_numpy(self._column("added").copy()),
            "tokens": torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.int32),
            "n_tokens": torch.tensor([len(ids) for ids in tokens]),
            "n_added": self._n_added,
            "tau": self.tau,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved memory; the filter must have been restored before."""
        self._molecules, self._place = [], {}
        self._scaffolds = {name: number for number, name in enumerate(state["scaffolds"])}
        tokens = state["tokens"].split(state["n_tokens"].tolist())
        state = {**state, "tokens": [tuple(row.tolist()) for row in tokens]}
        # checkpoints of earlier versions have no logp_policy, and their runs do not use it
        state = {"logp_policy": torch.zeros(len(tokens)), **state}
        columns = [state[name] for name in Molecule._fields]
        columns = [c.tolist() if isinstance(c, Tensor) else c for c in columns]
        molecules = map(Molecule._make, zip(*columns, strict=True))
        for molecule, added in zip(molecules, state["added"].tolist(), strict=True):
            self._append(molecule, self._filter.bucket_number(molecule.canonical), added)
        self._n_added, self.tau = state["n_added"], state["tau"]

    def _column(self, name: str) -> np.ndarray:
        return self._columns[name][: len(self)]

    def _append(self, molecule: Molecule, bucket: int, added: int) -> None:
        place = len(self)
        if place == len(self._columns["reward"]):
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros_like(column)])
        self._molecules.append(molecule)
        self._place[molecule.canonical] = place
        scaffold = self._scaffolds.setdefault(molecule.scaffold, len(self._scaffolds))
        values = {"reward": molecule.reward, "bucket": bucket, "scaffold": scaffold, "added": added}
        for name, value in values.items():
            self._columns[name][place] = value

    def _remove(self, places: np.ndarray) -> None:
        """Remove molecules; the last ones move to their places."""
        for place in sorted(places.tolist(), reverse=True):
            last = len(self) - 1
            del self._place[self._molecules[place].canonical]
            if place != last:
                self._molecules[place] = self._molecules[last]
                self._place[self._molecules[place].canonical] = place
                for column in self._columns.values():
                    column[place] = column[last]
            self._molecules.pop()

    def _to_purge(self, n: int) -> np.ndarray:
        """Return the places of the n molecules to remove; the oldest of a tie first."""
        added_N, reward_N = self._column("added"), self._column("reward")
        if self._config.purge == "oldest":
            return np.argsort(added_N)[:n]
        worst_N = np.lexsort((added_N, reward_N))
        if self._config.purge != "scaffold":
            return worst_N[:n]
        scaffold_N, places = self._column("scaffold"), []
        counts = np.bincount(scaffold_N)
        members: dict[int, list[int]] = {}
        for _ in range(n):
            largest = int(counts.argmax())
            counts[largest] -= 1
            if largest not in members:
                members[largest] = worst_N[scaffold_N[worst_N] == largest][::-1].tolist()
            places.append(members[largest].pop())
        return np.array(places)

    def _weights(self, reward_N: np.ndarray) -> np.ndarray:
        """Return the weights of the draw, given the filtered rewards."""
        draw = self._config.draw
        if draw == "reward":
            return reward_N.clip(min=0.0)
        if draw == "rank":
            rank_N = np.empty(len(self))
            rank_N[np.lexsort((self._column("added"), -reward_N))] = np.arange(1, len(self) + 1)
            return 1 / rank_N
        if draw == "uniform":
            return np.ones(len(self))
        hit_N = np.ones(len(self), dtype=bool)
        if self._has_hits:
            hit_N = reward_N >= (np.inf if self.tau is None else self.tau)
        if draw == "hits":
            return hit_N * 1.0
        scaffold_N = self._column("scaffold")
        counts = np.bincount(scaffold_N, weights=hit_N, minlength=1)
        weight_N: np.ndarray = hit_N / np.maximum(counts[scaffold_N], 1)
        return weight_N


_LOGPS = ("logp_ref", "logp_policy")
_COLUMNS = {"reward": float, "bucket": np.int64, "scaffold": np.int64, "added": np.int64}
"""Numbers of each molecule: raw reward, number of its bucket in the filter, number of its scaffold
in this memory, and its place in the order of additions."""


def inclusion_chances(weight_N: np.ndarray, n: int) -> np.ndarray:
    """Return the chance of each molecule to be one of n: proportional to weight, at most 1."""
    chance_N, free_N = np.zeros(len(weight_N)), weight_N > 0
    n_eligible = int(free_N.sum())
    if n_eligible <= n:
        return free_N.astype(float)
    while True:
        n_left = n - (n_eligible - int(free_N.sum()))  # without those of chance 1
        chance_N[free_N] = n_left * weight_N[free_N] / weight_N[free_N].sum()
        over_N = chance_N > 1
        if not over_N.any():
            return chance_N
        chance_N[over_N] = 1
        free_N &= ~over_N


def step_rng(seed: int, step: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one step for one purpose, independent of all other draws."""
    return np.random.default_rng(stream(seed, step, purpose=purpose).initial_seed() % 2**63)


class Seed(NamedTuple):
    """A molecule that a memory begins with."""

    canonical: str
    scaffold: str
    reward: float | None  # None: to be scored
    line: int  # of the file


def read_seed(
    seed: MemorySeed, budget: int, capacity: int, warn: Callable[[str], object] = str
) -> list[Seed]:
    """Read the molecules that a memory begins with; of repeated molecules the first counts.

    `warn` receives a line if a molecule is repeated with another reward, and one if the molecules
    exceed the capacity.

    Raises:
        InputError: invalid molecules or rewards (one line for all), no molecules, or too many.
    """
    seeds, problems, conflicts = _parse_seeds(seed)
    if problems:
        more = f", and {len(problems) - 3} more lines" if len(problems) > 3 else ""
        raise InputError(f"{seed.path}: {'; '.join(problems[:3])}{more}: correct or remove them")
    if not seeds:
        raise InputError(f"{seed.path}: holds no molecule, so the memory would begin empty")
    n = len(seeds)
    if seed.reward is None:
        for key, limit in (("budget", budget - 1), ("memory.capacity", capacity)):
            if n > limit:
                text = f"its {n:,} molecules cost a call each, and {key} lets {limit:,} of them in"
                way = "raise it, or name the column of their rewards (memory.seed.reward)"
                raise InputError(f"{seed.path}: {text}: {way}")
    if n > capacity:
        text = f"{n:,} molecules for a capacity of {capacity:,}"
        warn(f"memory.seed: {seed.path}: {text}: memory.purge says which ones stay")
    if conflicts:
        more = f" and {len(conflicts) - 3:,} more" if len(conflicts) > 3 else ""
        text = f"the same molecule with different rewards in {', '.join(conflicts[:3])}{more}"
        warn(f"memory.seed: {seed.path}: {text}: the first one counts")
    return list(seeds.values())


def _parse_seeds(seed: MemorySeed) -> tuple[dict[str, Seed], list[str], list[str]]:
    """Return seeds by canonical SMILES, invalid lines, and pairs of lines that disagree."""
    seeds, problems, conflicts = dict[str, Seed](), list[str](), list[str]()
    for line in MoleculeFile(seed.path, seed.column, [] if seed.reward is None else [seed.reward]):
        molecule = read_molecule(line.smiles or "")
        value = next(iter(line.values.values()), None)
        reward = _number(value)
        smiles = molecule.canonical_smiles
        if smiles is None:
            reason = line.reason or molecule.reason
            problems.append(f"line {line.number}: no molecule ({reason})")
        elif seed.reward is not None and not 0 <= reward <= 1:
            what = f"{seed.reward} is {value!r}, not a number from 0 to 1"
            problems.append(f"line {line.number}: {what}")
        else:
            stated = None if seed.reward is None else reward
            new = Seed(smiles, murcko_scaffold(smiles) or "", stated, line.number)
            first = seeds.setdefault(smiles, new)
            if stated is not None and first.reward is not None and stated != first.reward:
                rewards = f"({first.reward:g} and {stated:g})"
                conflicts.append(f"lines {first.line} and {line.number} {rewards}")
    return seeds, problems, conflicts


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def rewarded_molecules(
    rows: pd.DataFrame, token_BT: Tensor, logp_ref_B: Tensor, logp_policy_B: Tensor
) -> list[Molecule]:
    """Return the sampled molecules of a batch that have a reward above 0.

    Args:
        rows: the batch, as the ledger returns it.
        token_BT: its sequences.
        logp_ref_B: log pi_ref of each row.
        logp_policy_B: log pi_theta of each row.
    """
    names = ["smiles", "canonical_smiles", "scaffold", "reward", "n_tokens"]
    molecules = []
    logps = logp_ref_B.tolist(), logp_policy_B.tolist()
    values = zip(*(rows[n] for n in names), *logps, token_BT.tolist(), strict=True)
    for smiles, canonical, scaffold, reward, n_tokens, lr, lp, ids in values:
        if isinstance(canonical, str) and reward > 0:
            frame = scaffold if isinstance(scaffold, str) else ""
            tokens = tuple(ids[: n_tokens + 1])
            molecules.append(Molecule(smiles, canonical, frame, reward, lr, "policy", tokens, lp))
    return molecules


def log_mixture(logp_policy_B: Tensor, extras: Extras) -> Tensor:
    """Return the log-probability with which policy and memory together propose each row.

    With M of B rows drawn it is log (((B - M) pi(y) + chance(y)) / B), the balance heuristic of
    multiple importance sampling (Veach and Guibas 1995): weights target / mixture are right for any
    draw, and a weight pi / mixture is at most B / (B - M).
    """
    n = len(logp_policy_B)
    of_policy_B = logp_policy_B.double() + np.log(n - len(extras))
    log_q_B: Tensor = torch.logaddexp(of_policy_B, extras.chance.log()) - np.log(n)
    return log_q_B.to(logp_policy_B)


def extra_rows(extras: Extras, sampled: pd.DataFrame) -> pd.DataFrame:
    """Return trace rows of explored and replayed molecules, with the columns of the sampled ones.

    Replayed rows have no values of components.
    """
    n = len(extras.explored)
    replayed = extras.molecules[n:]
    constant = ("step", *optional_columns(sampled.columns))
    rows = pd.DataFrame(
        {
            **{name: sampled[name].iloc[0] for name in constant},
            "smiles": [molecule.smiles for molecule in replayed],
            "canonical_smiles": [molecule.canonical for molecule in replayed],
            "valid": True,
            "repeat": True,
            "scaffold": [molecule.scaffold for molecule in replayed],
            "n_tokens": [len(molecule.tokens) - 1 for molecule in replayed],
            "reward": [molecule.reward for molecule in replayed],
            "reward_filtered": extras.reward[n:].numpy(),
        }
    )
    rows = rows.reindex(columns=sampled.columns).fillna({"row": 0}).astype(sampled.dtypes)
    return pd.concat([extras.explored, rows], ignore_index=True) if n else rows
