"""The newest samples of a run: how far they are spread over outcomes, and whether they collapsed.

This is the one definition for the alarm of a run and for the metrics of its evaluation. An outcome
is what a sample counts as: the scaffold of a molecule, or the answer in a text.
"""

import math
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from chemkl.config.posttrain import CollapseLimits


@dataclass(frozen=True)
class Spread:
    """How a number of samples is spread.

    Attributes:
        n: samples, repeats included.
        distinct: different samples among them.
        named: samples with an outcome; an acyclic molecule has none.
        outcomes: different outcomes.
        top_share: share of the most frequent outcome among the samples with one; None without.
        effective_outcomes: exp of the entropy over the outcomes; None without, or where not asked.
    """

    n: int
    distinct: int
    named: int
    outcomes: int
    top_share: float | None
    effective_outcomes: float | None

    @property
    def uniqueness(self) -> float | None:
        """Different samples per sample; None without samples."""
        return self.distinct / self.n if self.n else None

    @property
    def duplicate_rate(self) -> float | None:
        """Share of the samples that repeat another one; None without samples."""
        return (self.n - self.distinct) / self.n if self.n else None


def spread(identities: Sequence[str], outcomes: Sequence[str]) -> Spread:
    """Describe samples.

    Args:
        identities: of each sample, for example its canonical SMILES.
        outcomes: of each sample, for example its scaffold; empty: it has none.
    """
    counts = Counter(outcome for outcome in outcomes if outcome)
    return _spread(len(identities), len(set(identities)), counts, Counter(counts.values()))


def _spread(
    n: int, distinct: int, counts: Counter[str], sizes: Counter[int], *, effective: bool = True
) -> Spread:
    """Describe samples by how many outcomes have each size; the order of the sizes is no matter.

    With named samples m = sum n_i, H = -sum (n_i / m) ln (n_i / m) = ln m - sum n_i ln n_i / m.
    """
    named = sum(size * often for size, often in sizes.items())
    if not named:
        return Spread(n, distinct, 0, 0, None, None)
    entropy_exp = None
    if effective:
        logs = math.fsum(often * size * math.log(size) for size, often in sizes.items())
        entropy_exp = math.exp(math.log(named) - logs / named)
    return Spread(n, distinct, named, len(counts), max(sizes) / named, entropy_exp)


class Window:
    """The newest samples, each taken in one by one.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._samples: deque[tuple[Hashable, str]] = deque()
        self._identities: Counter[Hashable] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether as many samples have come as are kept."""
        return len(self._samples) == self._size

    def add(self, identity: Hashable, outcome: str) -> None:
        """Take in a sample; the oldest one leaves a full window."""
        if self.is_full:
            self._count(*self._samples.popleft(), -1)
        self._samples.append((identity, outcome))
        self._count(identity, outcome, 1)

    def spread(self, *, effective: bool = True) -> Spread:
        """Describe what is in the window, without effective_outcomes if these are not wanted.

        Their logarithms cost more than all the rest, which is felt over a million samples.
        """
        n, distinct = len(self._samples), len(self._identities)
        return _spread(n, distinct, self._outcomes, self._sizes, effective=effective)

    def most_frequent(self) -> str:
        """The outcome that most samples have, the first in the alphabet of several; or empty."""
        return min(self._outcomes, key=lambda name: (-self._outcomes[name], name), default="")

    def _count(self, identity: Hashable, outcome: str, change: int) -> None:
        _shift(self._identities, identity, change)
        if outcome:
            before = self._outcomes[outcome]
            _shift(self._outcomes, outcome, change)
            if before:
                _shift(self._sizes, before, -1)
            if before + change:
                _shift(self._sizes, before + change, 1)


def _shift(counts: Counter[Any], key: object, change: int) -> None:
    """Change a count; what is not there any more leaves no key behind."""
    counts[key] += change
    if not counts[key]:
        del counts[key]


class Alarm:
    """Raised where a full window reaches a limit, called off where all its values are back.

    It depends on the samples and their order alone, so it is rebuilt from the trace of a run.

    Args:
        limits: what is watched.
        window: newest samples that are looked at.
        margin: how far the values must be back, relative to the limits.
    """

    def __init__(self, limits: CollapseLimits, window: int, margin: float = 0.0) -> None:
        self.window = Window(window)
        self.raised = False
        self.at_first: Spread | None = None
        """What the first full window was like."""
        self._limits = limits
        self._margin = margin

    def add(self, identity: Hashable, outcome: str) -> bool:
        """Take in the next sample; return whether it raised the alarm, or called it off."""
        self.window.add(identity, outcome)
        if not self.window.is_full:
            return False
        watched = self._limits.effective_scaffolds is not None
        now = self.window.spread(effective=watched or self.at_first is None)
        self.at_first = self.at_first or now
        reached = self.reached(now, self._margin if self.raised else 0.0)
        if bool(reached) == self.raised:
            return False
        self.raised = not self.raised
        return True

    def reached(self, now: Spread, margin: float = 0.0) -> list[str]:
        """Name the limits that are reached, or nearer than a margin."""
        limits, loose = self._limits, 1 - margin
        named = now.named >= now.n * limits.with_scaffold * loose
        few, effective = limits.effective_scaffolds, now.effective_outcomes
        reached = {
            "top_share": named and _reaches(now.top_share, limits.top_share, loose),
            "duplicate_rate": _reaches(now.duplicate_rate, limits.duplicate_rate, loose),
            "effective_scaffolds": named
            and few is not None
            and effective is not None
            and effective <= few * (1 + margin),
        }
        return [name for name, is_reached in reached.items() if is_reached]


def _reaches(value: float | None, limit: float | None, loose: float) -> bool:
    """Whether a value is at its limit or above; one that is not defined, or not watched, is not."""
    return value is not None and limit is not None and value >= limit * loose
