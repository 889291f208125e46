"""Whether a run collapsed: how far its newest samples are spread, and by which limits.

This is the one definition for the alarm of a run and for the metrics of its evaluation, and the one
judgement that training, metrics, report and `show` ask, so that they name the same call. An outcome
is what a sample counts as: the scaffold of a molecule, or the answer in a text.
"""

import math
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from chemkl.config.posttrain import CollapseConfig, CollapseLimits
from chemkl.results.columns import is_text
from chemkl.results.inspection import valid_rows

IN_TEXT = (("group", "completion"), "answer")
"""Identity and outcome of what a language model writes that is no molecule."""


@dataclass(frozen=True)
class Spread:
    """How a number of samples is spread."""

    n: int  # samples, repeats included
    distinct: int  # different samples among them
    named: int  # samples with an outcome; an acyclic molecule has none
    outcomes: int  # different outcomes
    top_share: float | None  # of the most frequent outcome among the samples with one
    effective_outcomes: float | None  # exp of the entropy over the outcomes; None if not asked

    @property
    def uniqueness(self) -> float | None:
        """Different samples per sample; None without samples."""
        return self.distinct / self.n if self.n else None

    @property
    def duplicate_rate(self) -> float | None:
        """Share of the samples that repeat another one; None without samples."""
        return (self.n - self.distinct) / self.n if self.n else None


def spread(identities: Sequence[str], outcomes: Sequence[str]) -> Spread:
    """Describe samples by their identities and outcomes; an empty outcome is none."""
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
    """The newest samples, each taken in one by one."""

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
        """Describe what is in the window; the logarithms of `effective` cost more than all else."""
        n, distinct = len(self._samples), len(self._identities)
        return _spread(n, distinct, self._outcomes, self._sizes, effective=effective)

    def most_frequent(self) -> str:
        """The outcome that most samples have, the first in the alphabet of several; or empty."""
        return min(self._outcomes, key=lambda name: (-self._outcomes[name], name), default="")

    def _count(self, identity: Hashable, outcome: str, change: int) -> None:
        _shift(self._identities, identity, change)
        if outcome:
            size = self._outcomes[outcome]
            _shift(self._outcomes, outcome, change)
            if size:
                _shift(self._sizes, size, -1)
            if size + change:
                _shift(self._sizes, size + change, 1)


def _shift(counts: Counter[Any], key: Hashable, change: int) -> None:
    """Change a count; what is not there any more leaves no key behind."""
    counts[key] += change
    if not counts[key]:
        del counts[key]


class Alarm:
    """Raised where a full window of the newest samples reaches a limit.

    It is called off where all values are back, by a margin relative to the limits. It depends on
    the samples and their order alone, so it is rebuilt from the trace of a run.
    """

    def __init__(self, limits: CollapseLimits, window: int, margin: float = 0.0) -> None:
        self.window = Window(window)
        self.raised = False
        self.at_first: Spread | None = None  # of the first full window
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
        if bool(self.reached(now, self._margin if self.raised else 0.0)) == self.raised:
            return False
        self.raised = not self.raised
        return True

    def reached(self, now: Spread, margin: float = 0.0) -> list[str]:
        """Name the limits that are reached, or nearer than a margin."""
        limits, loose = self._limits, 1 - margin
        values = {"top_share": now.top_share, "duplicate_rate": now.duplicate_rate}
        values |= {"effective_scaffolds": now.effective_outcomes}
        if now.named < now.n * limits.with_scaffold * loose:
            values = {"duplicate_rate": now.duplicate_rate}
        reached = []
        for name, value in values.items():
            limit = getattr(limits, name)
            if value is not None and limit is not None:
                is_low = value <= limit * (1 + margin)
                if is_low if name == "effective_scaffolds" else value >= limit * loose:
                    reached.append(name)
        return reached


@dataclass(frozen=True)
class CollapseEvent:
    """A run collapsed, or was over it."""

    raised: bool
    step: int
    call: int
    spread: Spread
    most_frequent: str
    reached: Sequence[str]


class Watch:
    """Takes in the rows of a run one by one and keeps when it collapsed.

    It follows from the rows alone: those of an interrupted run bring it where it was. Two samples
    are the same by the columns `identity`; an empty or missing `outcome` is none.
    """

    def __init__(
        self,
        config: CollapseConfig,
        identity: Sequence[str] = ("canonical_smiles",),
        outcome: str = "scaffold",
    ) -> None:
        self.config = config
        self.outcome = outcome
        self.alarm = Alarm(config, config.window, config.margin)
        self.events: list[CollapseEvent] = []
        self.step = 0
        self._identity = list(identity)
        self._call = 0

    @property
    def collapsed(self) -> bool | None:
        """Whether it ever did; None: there were never as many samples as the window holds."""
        return bool(self.events) if self.alarm.window.is_full else None

    @property
    def summary(self) -> str:
        """The verdict in a line."""
        size = f"{self.config.window:,}"
        if self.collapsed is None:
            return f"collapse not judged: fewer valid samples than the {size} that are looked at"
        if not self.events:
            return f"did not collapse, looking at {size} valid samples at a time"
        first, times = self.events[0], (len(self.events) + 1) // 2
        now = "still so" if self.alarm.raised else "over"
        again = f", {times} times in all" if times > 1 else ""
        return f"collapsed at step {first.step:,}, call {first.call:,}{again}; {now} at the end"

    def add(self, rows: pd.DataFrame) -> None:
        """Take in rows of the trace, in order; invalid ones and those not sampled are left out."""
        if rows.empty:
            return
        self.step = int(rows["step"].iloc[-1])
        sampled = valid_rows(rows)
        calls = sampled.get("call", pd.Series(pd.NA, index=sampled.index))
        identities = zip(*(sampled[name] for name in self._identity), strict=True)
        columns = (sampled["step"], identities, sampled[self.outcome], calls)
        for step, identity, outcome, call in zip(*columns, strict=True):
            self._call = self._call if pd.isna(call) else int(call)
            if self.alarm.add(identity, outcome if isinstance(outcome, str) else ""):
                window, now = self.alarm.window, self.alarm.window.spread()
                about = (now, window.most_frequent(), self.alarm.reached(now))
                event = CollapseEvent(self.alarm.raised, int(step), self._call, *about)
                self.events.append(event)


def watched(manifest: Mapping[str, Any] | None) -> CollapseConfig:
    """The settings by which a run is judged: its own, or the defaults where it had none."""
    manifest = manifest or {}
    settings = manifest.get("beside", {}).get("collapse")
    settings = settings or (manifest.get("config", {}).get("callbacks") or {}).get("collapse")
    if not settings:  # what a run says of its collapse says by which limits
        kept = manifest.get("results", {}).get("collapse") or {}
        settings = {"window": kept["window"], **kept["limits"]} if "limits" in kept else {}
    return CollapseConfig.model_validate(settings)


def judge(trace: pd.DataFrame, manifest: Mapping[str, Any] | None) -> Watch | None:
    """Look at a whole trace by the settings of its run; None for texts that nobody watches."""
    in_text = is_text(trace)
    if in_text and not (manifest or {}).get("beside", {}).get("collapse"):
        return None
    watch = Watch(watched(manifest), *(IN_TEXT if in_text else ()))
    watch.add(trace)
    return watch
