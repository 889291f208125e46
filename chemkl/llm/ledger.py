"""The ledger of a language model's run: prompts, completions and answers beside the rewards."""

import math
from collections.abc import Hashable, Sequence

import pandas as pd

from chemkl.llm.prompts import Prompt
from chemkl.llm.written import TextReward, Written
from chemkl.policies.base import Rollout
from chemkl.results.columns import is_cut_off, reason_of_cut
from chemkl.training.diversity_filter import DiversityFilter
from chemkl.training.ledger import Accounts

_NOTABLE = 0.1
"""More cut off than this share is told at the end of a run."""


class TextLedger(Accounts):
    """Turns completions into rows; an answer to a prompt, or a canonical SMILES, is paid once.

    Args:
        reward: what completions are paid.
        prompts: of the run, by number.
        diversity_filter: withdraws rewards of over-used scaffolds.
        budget: oracle calls that may be spent; infinity: any number.
    """

    def __init__(
        self,
        reward: TextReward,
        prompts: Sequence[Prompt],
        diversity_filter: DiversityFilter,
        budget: float = math.inf,
    ) -> None:
        super().__init__(diversity_filter, budget)
        self._reward = reward
        self._prompts = prompts

    def foreseen(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """Read the answers, none of them scored."""
        return self._reward.foreseen(self._written(rollout))

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The answer with its prompt, or the canonical SMILES; None: nothing valid."""
        return self._reward.things(rows)

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score completions: a row for each."""
        written = self._written(rollout)
        columns = {
            "group": [each.group for each in written],
            "prompt": [each.prompt for each in written],
            "completion": [each.text for each in written],
        }
        scored = self._reward.score(written)
        return pd.DataFrame(columns).join(scored)

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the paid rewards of rows, so that nothing is scored twice."""
        self._reward.remember(rows)

    def _written(self, rollout: Rollout) -> list[Written]:
        if rollout.group is None:
            raise ValueError("the rollout says of no row which prompt it answers")
        n_tokens = rollout.n_tokens.tolist()
        rows = zip(
            rollout.group.tolist(),
            rollout.smiles,
            rollout.truncated.tolist(),
            n_tokens,
            strict=True,
        )
        return [
            Written(
                group,
                self._prompts[group].text,
                text.encode(errors="backslashreplace").decode(),
                reason_of_cut(n) if truncated else None,
            )
            for group, text, truncated, n in rows
        ]


def describe_cut_off(reasons: Sequence[str | None], most: int) -> list[str]:
    """Say how many completions of a run were cut off, where they are many.

    Args:
        reasons: of all its rows.
        most: max_new_tokens of the run.
    """
    n, total = sum(map(is_cut_off, reasons)), len(reasons)
    if n <= _NOTABLE * total:
        return []
    return [
        f"{n:,} of {total:,} completions were cut off, with no end after max_new_tokens = "
        f"{most:,}, and have failed: raise it, or ask for less in the prompt"
    ]
