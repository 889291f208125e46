"""A completion as it is scored, and what a reward for completions offers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from chemkl.rewards.failures import FailureCount


@dataclass(frozen=True)
class Written:
    """A completion.

    Attributes:
        group: number of the prompt.
        prompt: its text.
        text: what was written, without the end token.
        cut: why it counts as cut off; None: it has an end.
    """

    group: int
    prompt: str
    text: str
    cut: str | None


class TextReward(Protocol):
    """What a ledger of texts asks of a reward."""

    component_names: list[str]
    """Components that have columns of their own in the trace."""
    bounds: tuple[float, float]
    """The reward of a failure, which no other is below, and the highest that there can be."""
    files: Mapping[str, Path]
    """Files that decide the rewards, by role."""

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """How often each component was asked, and how often it failed, and why."""

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions: a row for each, in order.

        Returns:
            Columns smiles, canonical_smiles, valid, reason, scaffold, answer (missing where there
            is no valid one), raw_<c> and score_<c> for each component, and reward.
        """

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Say what is paid once in rows that `score` gave, or in a trace; None: nothing valid."""

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Say the same before scoring."""

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid."""

    def close(self) -> None:
        """Give free what scoring holds; nothing can be scored any more."""
