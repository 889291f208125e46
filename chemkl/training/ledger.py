"""The ledger of a run: it scores samples, counts oracle calls and enforces the budget.

Its state is a function of the rows of the trace, so a resumed run rebuilds it from them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from chemkl.chem.molecules import canonicalise, parse
from chemkl.policies.base import Rollout
from chemkl.results.columns import is_truncated, truncation_reason
from chemkl.results.inspection import new_rows, sampled_rows
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import Failure, find_component
from chemkl.rewards.scoring import Term, values_of
from chemkl.training.filters import DiversityFilter

Kind = Literal["sampled", "explored", "seed"]
"""The source of a rollout: the policy, exploration, or the seed file of a memory."""


class BaseLedger(ABC):
    """Turns a rollout into rows: scored, counted and filtered for diversity.

    Subclasses define how a rollout is scored, and the identity by which a row costs one call.

    Args:
        diversity_filter: withholds rewards of what has been rewarded too often.
        budget: oracle calls that the run may spend; infinity: no limit.
    """

    def __init__(self, diversity_filter: DiversityFilter, budget: float = math.inf) -> None:
        self.filter = diversity_filter
        self.filters: Sequence[DiversityFilter] = [diversity_filter]
        """By stage of the run; consecutive stages that keep their filter share one object."""
        self._budget = budget
        self._paid: set[Hashable] = set()
        self.n_samples = 0

    @property
    def has_workers(self) -> bool:
        """Whether worker processes score, so that this one is free meanwhile."""
        return False

    @property
    def n_calls(self) -> int:
        """Oracle calls so far: the distinct valid rows that were scored."""
        return len(self._paid)

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget is used up."""
        return self.n_calls >= self._budget

    def affordable(self, rollout: Rollout) -> Rollout:
        """Cut a rollout before the first row that would exceed the budget; score nothing."""
        n_calls_left = self._budget - self.n_calls
        if n_calls_left >= len(rollout):
            return rollout
        new: set[Hashable] = set()
        for n, identity in enumerate(self.identify(rollout)):
            if identity is not None and identity not in self._paid:
                new.add(identity)
            if len(new) > n_calls_left:
                return rollout.head(n)
        return rollout

    def enter(self, step: int, rollout: Rollout, *, kind: Kind = "sampled") -> pd.DataFrame:
        """Score a rollout and return its rows, with the trace's columns up to the rewards.

        Rows of every kind cost calls. Only sampled rows count as samples, and the filter does not
        count seeds.
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
        """Continue from the rows of an interrupted run."""
        new = new_rows(trace)
        for stage, diversity_filter in enumerate(self.filters, start=1):
            diversity_filter(new[new["stage"] == stage] if "stage" in new else new)
        self.n_samples = len(sampled_rows(trace))
        # replayed rows are left out, but for scored seeds: only these have a call
        scored = trace[~trace["is_replay"].astype(bool) | trace["call"].notna()]
        self.remember(scored)
        self._paid = {identity for identity in self.identities(scored) if identity is not None}

    @abstractmethod
    def identify(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """Return the identities of rows before scoring, equal to those of `identities` after it."""

    @abstractmethod
    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Return the identity by which each row costs one call; None: invalid, costs no call."""

    @abstractmethod
    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout; return one row for each sequence, from its text to its raw reward."""

    @abstractmethod
    def remember(self, rows: pd.DataFrame) -> None:
        """Cache the rewards of rows that were scored before, so that they are not scored again."""

    def describe(self, rows: pd.DataFrame, hit: np.ndarray) -> dict[str, float]:
        """Return the rates of a batch, and the means of `describe_hits` as ``hits/``."""
        valid = [identity for identity in self.identities(rows) if identity is not None]
        hits = describe_hits(rows[hit])
        return {
            **{f"hits/{name}": value for name, value in hits.items()},
            "valid_rate": float(rows["valid"].mean()),
            "truncated_rate": float(np.mean([is_truncated(reason) for reason in rows["reason"]])),
            "unique_rate": len(set(valid)) / len(valid) if valid else math.nan,
            "new_rate": float(rows["call"].notna().mean()),
            "reward": float(rows["reward"].mean()),
            "reward_filtered": float(rows["reward_filtered"].mean()),
        }


class Ledger(BaseLedger):
    """The ledger of molecules; a canonical SMILES costs one call for each reward.

    With `parts`, the names of the parts that molecules must contain, rows have the columns of
    answers to prompts.
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
        """By stage of the run, like the filters."""
        self._parts = parts

    @property
    def has_workers(self) -> bool:
        """Whether worker processes score."""
        return self._reward.has_workers

    @property
    def most_atoms(self) -> int:
        """The most heavy atoms that a molecule may have to be scored."""
        return self._reward.config.max_atoms

    def has_paid(self, smiles: str) -> bool:
        """Whether a call was spent on a canonical SMILES under the current reward."""
        return (self._reward, smiles) in self._paid

    def identify(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """Return pairs (reward model, canonical SMILES); a truncated row is invalid."""
        texts = [
            None if problem else canonicalise(smiles, max_atoms=self.most_atoms)
            for smiles, problem in zip(rollout.smiles, _problems(rollout), strict=True)
        ]
        return [None if text is None else (self._reward, text) for text in texts]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Return pairs (reward model, canonical SMILES) of scored rows."""
        stages = rows["stage"] if "stage" in rows else [1] * len(rows)
        pairs = zip(rows["canonical_smiles"], stages, strict=True)
        return [(self.rewards[n - 1], s) if isinstance(s, str) else None for s, n in pairs]

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout; a row that is truncated, or lacks its part, is invalid."""
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
        """Cache the rewards of scored rows in the reward model of their stage."""
        for stage, reward in enumerate(self.rewards, start=1):
            reward.remember(rows[rows["stage"] == stage] if "stage" in rows else rows)

    def describe(self, rows: pd.DataFrame, hit: np.ndarray) -> dict[str, float]:
        """Return the metrics of `BaseLedger.describe`, and canonical_rate."""
        rate = float((rows["smiles"] == rows["canonical_smiles"]).mean())
        return {**super().describe(rows, hit), "canonical_rate": rate}


def _problems(rollout: Rollout) -> list[str | None]:
    """Say why rows are invalid before their text is read; None: a row may be valid."""
    cut_off = rollout.truncated.tolist()
    if rollout.written is None:
        n_tokens = int(rollout.tokens.shape[1]) - 1
        return [truncation_reason(n_tokens) if is_cut else None for is_cut in cut_off]
    rows = zip(cut_off, rollout.n_tokens.tolist(), rollout.written, strict=True)
    return [truncation_reason(n) if is_cut else row.problem for is_cut, n, row in rows]


def describe_hits(hits: pd.DataFrame) -> dict[str, float]:
    """Return means over hits: n_tokens, heavy_atoms, sa_score (1 easy to 10 hard); NaN without any.

    heavy_atoms and sa_score are means over distinct molecules, without those that RDKit cannot read
    or score and without invalid rows, which are hits where tau is 0 or below.
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
