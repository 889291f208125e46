"""The memory of a run: molecules that it has found, of which some are learnt from again each step.

Legend: N molecules of the memory; M drawn ones.
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
from chemkl.results.columns import further_columns
from chemkl.training.filters import DiversityFilter


class Molecule(NamedTuple):
    """A molecule of the memory. Rewards and log-probabilities are raw, targets are not kept."""

    smiles: str  # as it was spelled
    canonical: str
    scaffold: str  # Bemis-Murcko; empty: acyclic, or there is none
    reward: float
    logp_ref: float  # of the sequence of tokens, or of the molecule (its canonical spelling)
    origin: str  # "policy", or who else proposed it
    tokens: tuple[int, ...]  # start and end token included
    logp_policy: float = 0.0  # of the policy that sampled it, as it was then; 0: none has


@dataclass(frozen=True)
class Drawn:
    """Molecules that join a batch of one step, with what they are paid today.

    First those that exploration has found in this step, then those drawn from the memory.
    """

    molecules: Sequence[Molecule]
    reward: Tensor  # float64_M: after the diversity filter
    chance: Tensor
    """With which chance the memory would have given each sampled row, then each drawn one:
    float64, 0 for what is not in the memory."""
    explored: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The rows of those that exploration has found, up to the rewards."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.molecules)

    def after(self, molecules: Sequence[Molecule], rows: pd.DataFrame) -> "Drawn":
        """Put explored ones, of these rows, before them: they join this batch for certain."""
        at = len(self.chance) - len(self)
        chances = self.chance[:at], torch.ones(len(molecules)).double(), self.chance[at:]
        reward = torch.tensor(rows["reward_filtered"].to_numpy(), dtype=torch.float64)
        return replace(
            self,
            molecules=[*molecules, *self.molecules],
            reward=torch.cat([reward, self.reward]),
            chance=torch.cat(chances),
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
    """Keeps each molecule once, by its canonical SMILES, and draws some for a step.

    What a molecule is paid is asked of the diversity filter of the run when it is drawn: the share
    of its reward that the newest molecule of its bucket was paid. So a hit is replayed until the
    policy fills its neighbourhood, and one that the policy has never sampled is paid in full. All
    draws and purges are a function of seed, step and what was added; every process of a run does
    the same, so that there is one memory.

    Args:
        config: capacity, draws and purges.
        diversity_filter: that of the run.
        rows: molecules that are drawn for a step.
        tau: reward from which on a molecule is a hit; None: the target has no constant one (it is
            set where a schedule moves it; see ``saw_hits``), or no hits at all.
        has_hits: whether the target tells hits from others.
        seed: of the run.
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
        self._constant = self.tau = tau
        self._molecules: list[Molecule] = []
        self._place: dict[str, int] = {}
        self._scaffolds: dict[str, int] = {}
        self._repeats: set[str] = set()  # those of the newest batch
        self._n_added = 0
        self._columns = {name: np.zeros(64, kind) for name, kind in _COLUMNS.items()}

    def __len__(self) -> int:
        """Return how many molecules there are."""
        return len(self._molecules)

    def __contains__(self, canonical: object) -> bool:
        """Whether it has a molecule, by its canonical SMILES."""
        return canonical in self._place

    @property
    def molecules(self) -> Sequence[Molecule]:
        """All of them."""
        return self._molecules

    def paid(self) -> np.ndarray:
        """What each molecule is paid today: float64_N."""
        paid_N: np.ndarray = self._column("reward") * self._filter.shares(self._column("bucket"))
        return paid_N

    def best(self, n: int) -> list[str]:
        """Canonical SMILES of the n that are paid most today, of equal ones the oldest first."""
        paid_N = self.paid()
        order_N = np.lexsort((self._column("added"), -paid_N))[:n]
        return [self._molecules[at].canonical for at in order_N if paid_N[at] > 0]

    def saw_hits(self, reward_H: Sequence[float]) -> None:
        """Take the lowest reward of the newest hits for tau, where the target has a quantile."""
        if self._constant is None and len(reward_H):
            self.tau = float(min(reward_H))

    def see_repeats(self, canonical: Iterable[str]) -> None:
        """Let go of what a batch repeats, by canonical SMILES, if the config asks for that.

        `add` does not take it in again in this step, and later every row of it is a repeat.
        """
        if not self._config.repeats:
            self._repeats = set(canonical)
            places = [self._place[name] for name in self._repeats if name in self._place]
            self._remove(np.array(places))

    def add(self, molecules: Iterable[Molecule]) -> None:
        """Take molecules in, each once; then let go of what the purge rules say."""
        for molecule in molecules:
            if molecule.canonical in self._repeats:
                continue
            bucket = self._filter.number_of(molecule.canonical)
            place = self._place.get(molecule.canonical)
            if place is not None:
                self._columns["bucket"][place] = (
                    bucket  # it may have been sampled for the first time
                )
            elif self._config.purge != "none" or len(self) < self._config.capacity:
                self._append(molecule, bucket, self._n_added)
                self._n_added += 1
        if self._config.selective:
            self._remove(np.flatnonzero((self.paid() <= 0) & (self._column("reward") > 0)))
        excess = len(self) - self._config.capacity
        if excess > 0:
            self._remove(self._least(excess))

    def draw(
        self, step: int, canonical: Iterable[str | None] = (), token_BT: Tensor | None = None
    ) -> Drawn:
        """Draw molecules to join a batch, none twice; all that can be drawn if they are too few.

        Systematic sampling (Madow 1949): each molecule is drawn with a chance in proportion to its
        weight, or certainly where that is above 1, exactly. With the canonical SMILES of a batch
        and its token_BT, the chances of its rows come first.
        """
        paid_N = self.paid()
        chance_N = inclusion(self._weights(paid_N), self._rows)
        numbers = step_rng(self._seed, step, "memory")
        order_N = numbers.permutation(len(self))
        upto_N = chance_N[order_N].cumsum()
        n = round(float(upto_N[-1])) if len(self) else 0
        at = np.searchsorted(upto_N, numbers.random() + np.arange(n), side="right")
        drawn = np.unique(order_N[np.minimum(at, len(self) - 1)])
        chosen = [self._molecules[place] for place in drawn]
        chance = [] if token_BT is None else self._chances(canonical, token_BT, chance_N)
        both = torch.tensor([*chance, *chance_N[drawn].tolist()], dtype=torch.float64)
        return Drawn(chosen, torch.from_numpy(paid_N[drawn]), both)

    def _chances(
        self, canonical: Iterable[str | None], token_BT: Tensor, chance_N: np.ndarray
    ) -> list[float]:
        chances = []
        for name, ids in zip(canonical, token_BT.tolist(), strict=True):
            place = self._place.get(name) if isinstance(name, str) else None
            own = () if place is None else self._molecules[place].tokens
            # another spelling, or the same in other tokens, is not what the memory would give
            is_same = place is not None and tuple(ids[: len(own)]) == own
            chances.append(float(chance_N[place]) if is_same else 0.0)
        return chances

    def state_dict(self) -> dict[str, Any]:
        """Return all of it but what follows from the filter, for a checkpoint."""

        def values(name: str) -> list[Any]:
            return [getattr(one, name) for one in self._molecules]

        tokens = [torch.tensor(one.tokens, dtype=torch.int32) for one in self._molecules]
        return {
            **{name: values(name) for name in ("smiles", "canonical", "scaffold", "origin")},
            "scaffolds": list(self._scaffolds),  # their numbers decide between equals
            **{name: torch.tensor(values(name), dtype=torch.float64) for name in _LOGPS},
            "reward": torch.from_numpy(self._column("reward").copy()),
            "added": torch.from_numpy(self._column("added").copy()),
            "tokens": torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.int32),
            "n_tokens": torch.tensor([len(one) for one in tokens]),
            "n_added": self._n_added,
            "tau": self.tau,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved memory; the filter has taken in the rows of the run before."""
        self._molecules, self._place = [], {}
        self._scaffolds = {name: number for number, name in enumerate(state["scaffolds"])}
        tokens = state["tokens"].split(state["n_tokens"].tolist())
        state = {**state, "tokens": [tuple(row.tolist()) for row in tokens]}
        # a checkpoint of an earlier version knows no logp_policy, and its run needs none
        state = {"logp_policy": torch.zeros(len(tokens)), **state}
        columns = [state[name] for name in Molecule._fields]
        values = [each.tolist() if isinstance(each, Tensor) else each for each in columns]
        molecules = map(Molecule._make, zip(*values, strict=True))
        for molecule, added in zip(molecules, state["added"].tolist(), strict=True):
            self._append(molecule, self._filter.number_of(molecule.canonical), added)
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
        """Let go of molecules; the last ones take their places."""
        for place in sorted(places.tolist(), reverse=True):
            last = len(self) - 1
            del self._place[self._molecules[place].canonical]
            if place != last:
                self._molecules[place] = self._molecules[last]
                self._place[self._molecules[place].canonical] = place
                for column in self._columns.values():
                    column[place] = column[last]
            self._molecules.pop()

    def _least(self, n: int) -> np.ndarray:
        """The places of the n molecules that leave first; of equal ones the oldest."""
        added_N, reward_N = self._column("added"), self._column("reward")
        if self._config.purge == "oldest":
            return np.argsort(added_N)[:n]
        worst_N = np.lexsort((added_N, reward_N))
        if self._config.purge != "scaffold":
            return worst_N[:n]
        scaffold_N, leaving = self._column("scaffold"), []
        crowd = np.bincount(scaffold_N)
        members: dict[int, list[int]] = {}
        for _ in range(n):
            fullest = int(crowd.argmax())
            crowd[fullest] -= 1
            if fullest not in members:
                members[fullest] = worst_N[scaffold_N[worst_N] == fullest][::-1].tolist()
            leaving.append(members[fullest].pop())
        return np.array(leaving)

    def _weights(self, paid_N: np.ndarray) -> np.ndarray:
        """What the chance of each molecule is in proportion to."""
        draw = self._config.draw
        if draw == "reward":
            return paid_N.clip(min=0.0)
        if draw == "rank":
            rank_N = np.empty(len(self))
            rank_N[np.lexsort((self._column("added"), -paid_N))] = np.arange(1, len(self) + 1)
            return 1 / rank_N
        if draw == "uniform":
            return np.ones(len(self))
        hit_N = np.ones(len(self), dtype=bool)
        if self._has_hits:
            hit_N = paid_N >= (np.inf if self.tau is None else self.tau)
        if draw == "hits":
            return hit_N * 1.0
        scaffold_N = self._column("scaffold")
        crowd = np.bincount(scaffold_N, weights=hit_N, minlength=1)
        weight_N: np.ndarray = hit_N / np.maximum(crowd[scaffold_N], 1)
        return weight_N


_LOGPS = ("logp_ref", "logp_policy")
_COLUMNS = {"reward": float, "bucket": np.int64, "scaffold": np.int64, "added": np.int64}
"""What is kept of each molecule as numbers: its raw reward, the number of its bucket in the filter
and of its scaffold here, and when it was added."""


def inclusion(weight_N: np.ndarray, n: int) -> np.ndarray:
    """The chance of each of N to be among n that are drawn: in proportion to weight, 1 at most."""
    chance_N, free_N = np.zeros(len(weight_N)), weight_N > 0
    able = int(free_N.sum())
    if able <= n:
        return free_N.astype(float)
    while True:
        left = n - (able - int(free_N.sum()))  # less those that are drawn for certain
        chance_N[free_N] = left * weight_N[free_N] / weight_N[free_N].sum()
        over_N = chance_N > 1
        if not over_N.any():
            return chance_N
        chance_N[over_N] = 1
        free_N &= ~over_N


def step_rng(seed: int, step: int, purpose: str) -> np.random.Generator:
    """Random numbers of one step for one purpose, whatever was drawn before."""
    return np.random.default_rng(stream(seed, step, purpose=purpose).initial_seed() % 2**63)


class Seed(NamedTuple):
    """A molecule that a memory begins with."""

    canonical: str
    scaffold: str
    reward: float | None  # None: it is to be scored
    line: int  # of the file


def read_seed(
    seed: MemorySeed, budget: int, capacity: int, tell: Callable[[str], object] = str
) -> list[Seed]:
    """Read the molecules that a memory begins with, each once: as it stands first.

    `tell` is given a line where one stands again with another reward, and where some cannot stay.

    Raises:
        InputError: one line, for all that are invalid or have no reward, or for too many.
    """
    seeds, wrong, twice = _seeds_of(seed)
    if wrong:
        more = f", and {len(wrong) - 3} more lines" if len(wrong) > 3 else ""
        raise InputError(f"{seed.path}: {'; '.join(wrong[:3])}{more}: mend or remove them")
    if not seeds:
        raise InputError(f"{seed.path}: holds no molecule, so the memory would begin empty")
    n, costs = len(seeds), seed.reward is None
    for key, limit in (("budget", budget - 1), ("memory.capacity", capacity)):
        if costs and n > limit:
            text = f"its {n:,} molecules cost a call each, and {key} lets {limit:,} of them in"
            way = "raise it, or name the column of their rewards (memory.seed.reward)"
            raise InputError(f"{seed.path}: {text}: {way}")
    if n > capacity:
        text = f"{n:,} molecules for a capacity of {capacity:,}"
        tell(f"memory.seed: {seed.path}: {text}: memory.purge says which ones stay")
    if twice:
        more = f" and {len(twice) - 3:,} more" if len(twice) > 3 else ""
        said = f"the same molecule with different rewards in {', '.join(twice[:3])}{more}"
        tell(f"memory.seed: {seed.path}: {said}: the first one counts")
    return list(seeds.values())


def _seeds_of(seed: MemorySeed) -> tuple[dict[str, Seed], list[str], list[str]]:
    """Seeds by canonical SMILES, lines that are none, and pairs of lines that contradict."""
    seeds, wrong, twice = dict[str, Seed](), list[str](), list[str]()
    for line in MoleculeFile(seed.path, seed.column, [] if seed.reward is None else [seed.reward]):
        read = read_molecule(line.smiles or "")
        value = next(iter(line.values.values()), None)
        reward = _number(value)
        if read.canonical_smiles is None:
            wrong.append(f"line {line.number}: no molecule ({line.reason or read.reason})")
        elif seed.reward is not None and not 0 <= reward <= 1:
            wrong.append(f"line {line.number}: {seed.reward} is {value!r}, no number from 0 to 1")
        else:
            known = None if seed.reward is None else reward
            text = read.canonical_smiles
            new = Seed(text, murcko_scaffold(text) or "", known, line.number)
            first = seeds.setdefault(text, new)
            if known is not None and first.reward is not None and known != first.reward:
                pair = f"lines {first.line} and {line.number} ({first.reward:g} and {known:g})"
                twice.append(pair)
    return seeds, wrong, twice


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def found(
    rows: pd.DataFrame, token_BT: Tensor, logp_ref_B: Tensor, logp_policy_B: Tensor
) -> list[Molecule]:
    """The molecules of a batch that the policy has sampled, those with a reward above 0.

    Args:
        rows: the batch, as the ledger gives it.
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
            made = Molecule(smiles, canonical, frame, reward, lr, "policy", tokens, lp)
            molecules.append(made)
    return molecules


def log_mixture(logp_policy_B: Tensor, drawn: Drawn) -> Tensor:
    """The log-probability with which batch and memory together propose each row: float32_B.

    Of B rows of which M were drawn it is log (((B - M) pi(y) + chance(y)) / B), the balance
    heuristic of multiple importance sampling (Veach and Guibas 1995): weights target / mixture are
    right for any draw, and a weight pi / mixture is at most B / (B - M).
    """
    n = len(logp_policy_B)
    of_policy_B = logp_policy_B.double() + np.log(n - len(drawn))
    log_q_B: Tensor = torch.logaddexp(of_policy_B, drawn.chance.log()) - np.log(n)
    return log_q_B.to(logp_policy_B)


def further_rows(drawn: Drawn, like: pd.DataFrame) -> pd.DataFrame:
    """What joins a batch as rows of the trace up to the rewards; replayed without components."""
    n = len(drawn.explored)
    replayed = drawn.molecules[n:]
    rows = pd.DataFrame(
        {
            **{name: like[name].iloc[0] for name in ("step", *further_columns(like.columns))},
            "smiles": [one.smiles for one in replayed],
            "canonical_smiles": [one.canonical for one in replayed],
            "valid": True,
            "repeat": True,
            "scaffold": [one.scaffold for one in replayed],
            "n_tokens": [len(one.tokens) - 1 for one in replayed],
            "reward": [one.reward for one in replayed],
            "reward_filtered": drawn.reward[n:].numpy(),
        }
    )
    rows = rows.reindex(columns=like.columns).fillna({"row": 0}).astype(like.dtypes)
    return pd.concat([drawn.explored, rows], ignore_index=True) if n else rows
