"""Failures are counted by component, and a component that fails too often ends the run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chemkl.config import InputError
from chemkl.rewards.asking import Failed

LEAST_ASKED = 100
"""No component is judged by fewer molecules, but one that fails on all of them."""

LEAST_OF_ALL = 20
"""A component that fails on every molecule is judged from so many on."""

MOST_REASONS = 1000
"""As many different reasons are told apart: one that names the molecule is new every time."""


@dataclass
class FailureCount:
    """How often one component was asked, and how often it failed.

    Attributes:
        asked: Molecules that it was asked about.
        failed: Those of them that it gave no score.
        reasons: How often it failed for each reason.
    """

    asked: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str | None) -> None:
        """Count one molecule; no reason: it got a score."""
        self.asked += 1
        if reason is not None:
            self.failed += 1
            if reason in self.reasons or len(self.reasons) < MOST_REASONS:
                self.reasons[reason] += 1


def describe_failures(
    counts: Mapping[str, FailureCount], asked_about: str = "molecules", asked: str = "component"
) -> list[str]:
    """Say of each component that failed how often it did, and what it said most often.

    Args:
        counts: by component.
        asked_about: what they were asked about, in the plural.
        asked: what they are.
    """
    return [
        f"{asked} {name} failed on {count.failed:,} of {count.asked:,} {asked_about}, most "
        f"often: {count.reasons.most_common(1)[0][0]}"
        for name, count in counts.items()
        if count.failed
    ]


class Failures:
    """Counts failures, and says so when they are too many.

    Args:
        names: The components.
        most: The share of failures that is still borne.
        asked_about: What they are asked about, in the plural.
        asked: What they are.
    """

    def __init__(
        self,
        names: Sequence[str],
        most: float,
        asked_about: str = "molecules",
        asked: str = "component",
    ) -> None:
        self._asked_about = asked_about
        self._asked = asked
        self.counts = {name: FailureCount() for name in names}
        self._most = most

    def add(self, asked: Iterable[str], failed: Sequence[Failed]) -> None:
        """Count one molecule: the components asked about it, and what went wrong."""
        reasons = {each.component: each.reason for each in failed}
        for name in asked:
            self.counts[name].add(reasons.get(name))

    def check(self) -> None:
        """End the run if a component fails too often.

        Raises:
            InputError: with a line for each such component.
        """
        lines = [
            f"{self._asked} {name} failed on {count.failed} of {count.asked} {self._asked_about} "
            f"({count.failed / count.asked:.1%}), more than most_failures = {self._most:g} allows. "
            f"Most frequent reason ({n} times): {reason}. Mend the {self._asked}, or allow more."
            for name, count in self.counts.items()
            for reason, n in count.reasons.most_common(1)
            if self._is_too_many(count)
        ]
        if lines:
            raise InputError("\n".join(lines))

    def _is_too_many(self, count: FailureCount) -> bool:
        least = LEAST_OF_ALL if count.failed == count.asked else LEAST_ASKED
        return count.asked >= least and count.failed > self._most * count.asked
