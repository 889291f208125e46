"""The ledger of a run: scores samples, counts oracle calls, and stops the spending at the budget.

Its whole state is a function of the rows of the trace, so a resumed run rebuilds it from there.
"""

from typing import Any

import numpy as np
import pandas as pd

from chemkl.chem.molecules import canonicalise
from chemkl.policies.base import Rollout
from chemkl.rewards import RewardModel
from chemkl.training.diversity_filter import DiversityFilter


class Ledger:
    """Turns a rollout into rows: scored, counted and filtered.

    Args:
        reward: the reward model.
        diversity_filter: withdraws rewards of over-used scaffolds.
        budget: oracle calls that may be spent.
    """

    def __init__(self, reward: RewardModel, diversity_filter: DiversityFilter, budget: int) -> None:
        self._reward = reward
        self._filter = diversity_filter
        self._budget = budget
        self._seen: set[str] = set()
        self.n_samples = 0

    @property
    def n_calls(self) -> int:
        """Oracle calls spent: distinct valid canonical SMILES scored."""
        return len(self._seen)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.n_calls >= self._budget

    def affordable(self, rollout: Rollout) -> Rollout:
        """Cut a rollout before the first row that would overspend the budget; nothing is scored."""
        left = self._budget - self.n_calls
        if left >= len(rollout):
            return rollout
        most = self._reward.config.max_atoms
        new: set[str] = set()
        pairs = zip(rollout.smiles, rollout.truncated.tolist(), strict=True)
        for n, (smiles, truncated) in enumerate(pairs):
            canonical = None if truncated else canonicalise(smiles, max_atoms=most)
            if canonical is not None and canonical not in self._seen:
                new.add(canonical)
            if len(new) > left:
                return rollout.head(n)
        return rollout

    def enter(self, step: int, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout and return its rows, with the trace's columns up to the rewards.

        A truncated row is invalid, whatever its text.
        """
        rows = self._score(rollout)
        rows.insert(0, "step", step)
        rows.insert(1, "row", np.arange(len(rows)))
        rows["n_tokens"] = rollout.n_tokens.cpu().numpy()
        self._count(rows)
        rows["reward_filtered"] = self._filter(rows)
        return rows

    def restore(self, trace: pd.DataFrame) -> None:
        """Continue from the rows of an interrupted run."""
        self.remember(trace)
        self._filter(trace)
        self._seen = set(trace["canonical_smiles"].dropna())
        self.n_samples = len(trace)

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the paid rewards of rows, so that nothing is scored twice."""
        self._reward.remember(rows)

    def _score(self, rollout: Rollout) -> pd.DataFrame:
        smiles = pd.Series(rollout.smiles, dtype=object)
        complete = ~rollout.truncated.cpu().numpy()
        scored = self._reward.score(smiles[complete].tolist())
        rows = scored.set_axis(smiles.index[complete]).reindex(smiles.index)
        rows["smiles"] = rows["smiles"].fillna(smiles)
        rows["valid"] = rows["valid"].eq(other=True)
        rows["reward"] = rows["reward"].fillna(0.0)
        n_tokens = int(rollout.tokens.shape[1]) - 1
        rows.loc[~complete, "reason"] = f"truncated: no end after {n_tokens} tokens"
        return rows

    def _count(self, rows: pd.DataFrame) -> None:
        """Add the columns call and repeat, row by row."""
        calls: list[Any] = []
        repeats: list[bool] = []
        for canonical in rows["canonical_smiles"]:
            known = not isinstance(canonical, str) or canonical in self._seen
            repeats.append(known and isinstance(canonical, str))
            if not known:
                self._seen.add(canonical)
            calls.append(pd.NA if known else self.n_calls)
        rows["call"] = pd.array(calls, dtype="Int64")
        rows["repeat"] = repeats
        self.n_samples += len(rows)
