"""The ledger of a run: scores samples, counts oracle calls, and stops the spending at the budget.

Its whole state is a function of the rows of the trace, so a resumed run rebuilds it from there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from chemkl.chem.molecules import canonicalise, parse
from chemkl.policies.base import Rollout
from chemkl.results.columns import is_cut_off, reason_of_cut
from chemkl.results.inspection import new_rows, sampled_rows
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import Failure, find_component
from chemkl.rewards.scoring import Term, values_of
from chemkl.training.filters import DiversityFilter

Kind = Literal["sampled", "explored", "seed"]
"""By whom a rollout is: the policy, exploration, or the file that a memory begins with."""


class BaseLedger(ABC):
    """Turns a rollout into rows: scored, counted and filtered.

    A kind of ledger says how a rollout is scored and by what identity a row is paid once.

    Args:
        diversity_filter: withdraws rewards of what has been paid too often.
        budget: oracle calls that may be spent; infinity: any number.
    """

    def __init__(self, diversity_filter: DiversityFilter, budget: float = math.inf) -> None:
        self.filter = diversity_filter
        self.filters: Sequence[DiversityFilter] = [diversity_filter]
        """By stage of the run; one object for stages whose filter goes on."""
        self._budget = budget
        self._paid: set[Hashable] = set()
        self.n_samples = 0

    @property
    def waits(self) -> bool:
        """Whether this process has nothing to do while a batch is scored: others score it."""
        return False

    @property
    def n_calls(self) -> int:
        """Oracle calls spent: distinct valid rows scored."""
        return len(self._paid)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.n_calls >= self._budget

    def affordable(self, rollout: Rollout) -> Rollout:
        """Cut a rollout before the first row that would overspend the budget; nothing is scored."""
        left = self._budget - self.n_calls
        if left >= len(rollout):
            return rollout
        new: set[Hashable] = set()
        for n, identity in enumerate(self.identify(rollout)):
            if identity is not None and identity not in self._paid:
                new.add(identity)
            if len(new) > left:
                return rollout.head(n)
        return rollout

    def enter(self, step: int, rollout: Rollout, *, kind: Kind = "sampled") -> pd.DataFrame:
        """Score a rollout and return its rows, with the trace's columns up to the rewards.

        Each kind costs its calls; only what was sampled counts as samples, and a seed alone takes
        no place in the filter.
        """
        rows = self.score(rollout)
        rows.insert(0, "step", step)
        rows.insert(1, "row", np.arange(len(rows)))
        rows["n_tokens"] = rollout.n_tokens.cpu().numpy()
        calls: list[Any] = []
        repeats: list[bool] = []
        for identity in self.identities(rows):
            is_new = identity is not None and identity not in self._paid
            if is_new:
                self._paid.add(identity)
            calls.append(self.n_calls if is_new else pd.NA)
            repeats.append(identity is not None and not is_new)
        rows["call"] = pd.array(calls, dtype="Int64")
        rows["repeat"] = repeats
        self.n_samples += len(rows) if kind == "sampled" else 0
        rows["reward_filtered"] = rows["reward"] if kind == "seed" else self.filter(rows)
        return rows

    def restore(self, trace: pd.DataFrame) -> None:
        """Continue from the rows of an interrupted run; of the memory's only seeds have a call."""
        new = new_rows(trace)
        for stage, withdraws in enumerate(self.filters, start=1):
            withdraws(new[new["stage"] == stage] if "stage" in new else new)
        self.n_samples = len(sampled_rows(trace))
        own = trace[~trace["is_replay"].astype(bool) | trace["call"].notna()]
        self.remember(own)
        self._paid = {identity for identity in self.identities(own) if identity is not None}

    @abstractmethod
    def identify(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """The identities of rows before they are scored, as `identities` gives them after it."""

    @abstractmethod
    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """By what each row costs one call in the run; None: it is not valid and costs none."""

    @abstractmethod
    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout: a row for each of its rows, from the text to the raw reward."""

    @abstractmethod
    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the paid rewards of rows, so that nothing is scored twice."""

    def describe(self, rows: pd.DataFrame, hit: np.ndarray) -> dict[str, float]:
        """Return the rates of a batch, and ``hits/`` with what the rows look like that are hits."""
        valid = [identity for identity in self.identities(rows) if identity is not None]
        hits = describe_hits(rows[hit])
        return {
            **{f"hits/{name}": value for name, value in hits.items()},
            "valid_rate": float(rows["valid"].mean()),
            "truncated_rate": float(np.mean([is_cut_off(reason) for reason in rows["reason"]])),
            "unique_rate": len(set(valid)) / len(valid) if valid else math.nan,
            "new_rate": float(rows["call"].notna().mean()),
            "reward": float(rows["reward"].mean()),
            "reward_filtered": float(rows["reward_filtered"].mean()),
        }


class Ledger(BaseLedger):
    """The ledger of molecules; a canonical SMILES is paid once by each reward.

    With the names of parts that molecules must hold, rows have the columns of answers to prompts.
    """

    def __init__(
        self,
        reward: RewardModel,
        diversity_filter: DiversityFilter,
        budget: float,
        parts: Sequence[str] = (),
    ) -> None:
        super().__init__(diversity_filter, budget)
        self._reward = reward
        self.rewards: Sequence[RewardModel] = [reward]
        """By stage of the run, as the filters."""
        self._parts = parts

    @property
    def waits(self) -> bool:
        """Whether worker processes score."""
        return self._reward.has_workers

    @property
    def most_atoms(self) -> int:
        """Heavy atoms of the largest molecule that is scored."""
        return self._reward.config.max_atoms

    def has_paid(self, smiles: str) -> bool:
        """Whether a call was spent on a canonical SMILES under the reward of today."""
        return (self._reward, smiles) in self._paid

    def identify(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """The reward and the canonical SMILES; a truncated row is invalid."""
        texts = [
            None if problem else canonicalise(smiles, max_atoms=self.most_atoms)
            for smiles, problem in zip(rollout.smiles, _problems(rollout), strict=True)
        ]
        return [None if text is None else (self._reward, text) for text in texts]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The same of rows that have been scored."""
        stages = rows["stage"] if "stage" in rows else [1] * len(rows)
        pairs = zip(rows["canonical_smiles"], stages, strict=True)
        return [(self.rewards[n - 1], s) if isinstance(s, str) else None for s, n in pairs]

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout; a truncated row, or one without its part, is invalid."""
        smiles = pd.Series(rollout.smiles, dtype=object)
        problems = pd.Series(_problems(rollout), dtype=object)
        complete = problems.isna().to_numpy()
        scored = self._reward.score(smiles[complete].tolist())
        rows = scored.set_axis(smiles.index[complete]).reindex(smiles.index)
        rows["smiles"] = rows["smiles"].fillna(smiles)
        rows["valid"] = rows["valid"].eq(other=True)
        rows["reward"] = rows["reward"].fillna(0.0)
        rows.loc[~complete, "reason"] = problems[~complete]
        if rollout.written is not None and rollout.group is not None:
            groups = rollout.group.tolist()
            rows.insert(0, "group", groups)
            rows.insert(1, "prompt", [self._parts[group] for group in groups])
            rows.insert(2, "completion", [row.completion for row in rollout.written])
            rows["answer"] = rows["smiles"].where(rows["valid"], None)
        return rows

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back what each reward has paid, so that nothing is scored twice."""
        for stage, reward in enumerate(self.rewards, start=1):
            reward.remember(rows[rows["stage"] == stage] if "stage" in rows else rows)

    def describe(self, rows: pd.DataFrame, hit: np.ndarray) -> dict[str, float]:
        """Return the rates of a batch, canonical_rate among them."""
        spelled = float((rows["smiles"] == rows["canonical_smiles"]).mean())
        return {**super().describe(rows, hit), "canonical_rate": spelled}


def _problems(rollout: Rollout) -> list[str | None]:
    """Why rows are invalid whatever their text; None: they may be valid."""
    cut_off = rollout.truncated.tolist()
    if rollout.written is None:
        n_tokens = int(rollout.tokens.shape[1]) - 1
        return [reason_of_cut(n_tokens) if is_cut else None for is_cut in cut_off]
    rows = zip(cut_off, rollout.n_tokens.tolist(), rollout.written, strict=True)
    return [reason_of_cut(n) if is_cut else row.problem for is_cut, n, row in rows]


def describe_hits(hits: pd.DataFrame) -> dict[str, float]:
    """Return means over hits: n_tokens, heavy_atoms, sa_score (1 easy to 10 hard), or NaN.

    The last two are over distinct molecules; one that RDKit cannot read or score is left out, as
    are invalid rows (canonical_smiles missing), which are hits where tau is 0 or below.
    """
    sa_score = Term("sa_score", 1.0, find_component("sa_score").build({}), float)
    molecules = hits["canonical_smiles"].dropna().unique()
    mols = [mol for smiles in molecules if (mol := parse(smiles)) is not None]
    return {
        "n_tokens": _mean(hits["n_tokens"].tolist()),
        "heavy_atoms": _mean([mol.GetNumHeavyAtoms() for mol in mols]),
        "sa_score": _mean([s for s in values_of(sa_score, mols) if not isinstance(s, Failure)]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
