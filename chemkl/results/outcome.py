"""What came of a run: its hits, its best reward, whether it collapsed, a target that never acted.

This is the only definition of a collapse: the alarm of a run, the metrics of its evaluation, the
report and `show` use it, so that all of them name the same call. The label of a sample is the
scaffold of a molecule or the answer in a text; samples with the same label count as alike.
"""

import math
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemkl.config.objective import beta_of
from chemkl.config.posttrain import CollapseConfig, CollapseLimits
from chemkl.display import counted
from chemkl.results.columns import is_text
from chemkl.results.inspection import (
    by_final_reward,
    count,
    identity_columns,
    new_rows,
    sampled_rows,
    valid_rows,
)
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import at_the_end, tau_of
from chemkl.results.trace import read_trace

TEXT_COLUMNS = (("group", "completion"), "answer")
"""Identity and label columns of language-model samples that are not molecules."""
SAME_NATS = 1e-3
"""Log targets that differ by less are the same: one sequence differs by less in two batches."""

# ---- collapse


@dataclass(frozen=True)
class Spread:
    """How diverse a number of samples is."""

    n: int  # samples, including repeats
    distinct: int  # different samples among them
    labelled: int  # samples with a label; an acyclic molecule has none
    labels: int  # different labels
    top_share: float | None  # share of the most frequent label among the labelled samples
    effective_labels: float | None  # exp of the entropy over the labels; None if not computed

    @property
    def uniqueness(self) -> float | None:
        """Different samples per sample; None without samples."""
        return self.distinct / self.n if self.n else None

    @property
    def duplicate_rate(self) -> float | None:
        """Share of the samples that repeat another one; None without samples."""
        return (self.n - self.distinct) / self.n if self.n else None


def spread(identities: Sequence[str], labels: Sequence[str]) -> Spread:
    """Describe samples by their identities and labels; an empty label is none."""
    counts = Counter(label for label in labels if label)
    return _spread(len(identities), len(set(identities)), counts, Counter(counts.values()))


def _spread(
    n: int, distinct: int, counts: Counter[str], sizes: Counter[int], *, effective: bool = True
) -> Spread:
    """Describe samples by how many labels have each size, in whatever order the sizes come.

    With labelled samples m = sum n_i, H = -sum (n_i / m) ln (n_i / m) = ln m - sum n_i ln n_i / m.
    """
    labelled = sum(size * often for size, often in sizes.items())
    if not labelled:
        return Spread(n, distinct, 0, 0, None, None)
    entropy_exp = None
    if effective:
        logs = math.fsum(often * size * math.log(size) for size, often in sizes.items())
        entropy_exp = math.exp(math.log(labelled) - logs / labelled)
    return Spread(n, distinct, labelled, len(counts), max(sizes) / labelled, entropy_exp)


class Window:
    """A sliding window over the newest samples, with running counts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._samples: deque[tuple[Hashable, str]] = deque()
        self._identities: Counter[Hashable] = Counter()
        self._labels: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether the window holds as many samples as its size."""
        return len(self._samples) == self._size

    def add(self, identity: Hashable, label: str) -> None:
        """Add a sample; the oldest one leaves a full window."""
        if self.is_full:
            self._count(*self._samples.popleft(), -1)
        self._samples.append((identity, label))
        self._count(identity, label, 1)

    def spread(self, *, effective: bool = True) -> Spread:
        """Describe the samples; the logarithms of `effective` cost more than all the rest."""
        n, distinct = len(self._samples), len(self._identities)
        return _spread(n, distinct, self._labels, self._sizes, effective=effective)

    def most_frequent(self) -> str:
        """Return the most frequent label, the alphabetically first one of several; or ""."""
        return min(self._labels, key=lambda name: (-self._labels[name], name), default="")

    def _count(self, identity: Hashable, label: str, change: int) -> None:
        _shift(self._identities, identity, change)
        if label:
            size = self._labels[label]
            _shift(self._labels, label, change)
            if size:
                _shift(self._sizes, size, -1)
            if size + change:
                _shift(self._sizes, size + change, 1)


def _shift(counts: Counter[Any], key: Hashable, change: int) -> None:
    """Change a count; a key whose count is 0 is deleted."""
    counts[key] += change
    if not counts[key]:
        del counts[key]


class Alarm:
    """Raised when a full window of the newest samples reaches a limit.

    It ends when all values are back within the limits by a relative margin. It depends only on the
    samples and their order, so it can be rebuilt from the trace of a run.
    """

    def __init__(self, limits: CollapseLimits, window: int, margin: float = 0.0) -> None:
        self.window = Window(window)
        self.raised = False
        self.at_first: Spread | None = None  # of the first full window
        self._limits = limits
        self._margin = margin

    def add(self, identity: Hashable, label: str) -> bool:
        """Add the next sample; return whether it raised or ended the alarm."""
        self.window.add(identity, label)
        if not self.window.is_full:
            return False
        effective = self._limits.effective_scaffolds is not None or self.at_first is None
        now = self.window.spread(effective=effective)
        self.at_first = self.at_first or now
        if bool(self.reached(now, self._margin if self.raised else 0.0)) == self.raised:
            return False
        self.raised = not self.raised
        return True

    def reached(self, now: Spread, margin: float = 0.0) -> list[str]:
        """Name the limits that are reached, or missed by less than a margin."""
        limits, loose = self._limits, 1 - margin
        values = {"top_share": now.top_share, "duplicate_rate": now.duplicate_rate}
        values |= {"effective_scaffolds": now.effective_labels}
        if now.labelled < now.n * limits.with_scaffold * loose:
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
    """The start or the end of a collapse."""

    raised: bool  # whether it starts
    step: int
    call: int
    spread: Spread
    most_frequent: str
    reached: Sequence[str]


class Watch:
    """Watches the rows of a run for collapses.

    The events depend only on the rows, so the rows of an interrupted run restore its state.

    Args:
        config: limits and window.
        identity: columns by which two samples are the same.
        label: column of their labels; an empty or missing one is none.
    """

    def __init__(
        self,
        config: CollapseConfig,
        identity: Sequence[str] = ("canonical_smiles",),
        label: str = "scaffold",
    ) -> None:
        self.config = config
        self.label = label
        self.alarm = Alarm(config, config.window, config.margin)
        self.events: list[CollapseEvent] = []
        self.step = 0
        self._identity = list(identity)
        self._call = 0

    @property
    def collapsed(self) -> bool | None:
        """Whether the run ever collapsed; None if the window was never full."""
        return bool(self.events) if self.alarm.window.is_full else None

    @property
    def summary(self) -> str:
        """The verdict in a line."""
        size = f"{self.config.window:,}"
        if self.collapsed is None:
            return f"collapse not judged: fewer valid samples than the window of {size}"
        if not self.events:
            return f"did not collapse, in windows of {size} valid samples"
        first, times = self.events[0], (len(self.events) + 1) // 2
        now = "still so" if self.alarm.raised else "over"
        again = f", {times} times in all" if times > 1 else ""
        return f"collapsed at step {first.step:,}, call {first.call:,}{again}; {now} at the end"

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows of the trace in order; only valid samples of the policy count."""
        if rows.empty:
            return
        self.step = int(rows["step"].iloc[-1])
        sampled = valid_rows(rows)
        calls = sampled.get("call", pd.Series(pd.NA, index=sampled.index))
        identities = zip(*(sampled[name] for name in self._identity), strict=True)
        columns = (sampled["step"], identities, sampled[self.label], calls)
        for step, identity, label, call in zip(*columns, strict=True):
            self._call = self._call if pd.isna(call) else int(call)
            if self.alarm.add(identity, label if isinstance(label, str) else ""):
                window, now = self.alarm.window, self.alarm.window.spread()
                state = (now, window.most_frequent(), self.alarm.reached(now))
                event = CollapseEvent(self.alarm.raised, int(step), self._call, *state)
                self.events.append(event)


def collapse_config(manifest: Mapping[str, Any] | None) -> CollapseConfig:
    """Return the settings that judge a run: its own, or the defaults if it has none."""
    manifest = manifest or {}
    settings = manifest.get("beside", {}).get("collapse")
    settings = settings or (manifest.get("config", {}).get("callbacks") or {}).get("collapse")
    if not settings:  # the results of a collapse name the limits
        results = manifest.get("results", {}).get("collapse") or {}
        settings = {"window": results["window"], **results["limits"]} if "limits" in results else {}
    return CollapseConfig.model_validate(settings)


def judge(trace: pd.DataFrame, manifest: Mapping[str, Any] | None) -> Watch | None:
    """Watch a whole trace with the settings of its run; None for texts without an alarm."""
    in_text = is_text(trace)
    if in_text and not (manifest or {}).get("beside", {}).get("collapse"):
        return None
    watch = Watch(collapse_config(manifest), *(TEXT_COLUMNS if in_text else ()))
    watch.add(trace)
    return watch


# ---- hits, and settings without effect


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    hits: str  # how many distinct ones, and by which tau; empty for a target without tau
    best: float | None  # the highest raw reward; None without a reward
    collapse: str  # the verdict in a line; empty if the run was not watched
    idle: str  # why the target had no effect, in a sentence; empty if it had one
    unexplored: str  # why exploration spent no call, likewise
    lost: str  # parts of a generator that no sample contains, with advice; empty if none is lost

    def lines(self) -> Iterator[str]:
        """Yield all of it as lines."""
        best = "no reward" if self.best is None else f"best reward {self.best:.4g}"
        yield f"{self.hits or 'no tau to count hits by'}, {best}"
        yield from filter(None, (self.collapse, self.idle, self.unexplored, self.lost))


def outcome_of(trace: pd.DataFrame, manifest: Mapping[str, Any]) -> Outcome:
    """Summarise a run from its trace."""
    config = manifest.get("config", {})
    target, tau = at_the_end(config).get("target") or {}, tau_of(config)
    moves = bool((target.get("schedule") or {}).get("tau"))
    counts, watch = count(trace, tau), judge(trace, manifest)
    n, by = counts.hits, "" if tau is None else f"R >= {tau:g}"
    if tau is None and (moves or target.get("tau_quantile") is not None):
        rows = by_final_reward(new_rows(trace))
        hits = rows.loc[rows["hit"].astype(bool), identity_columns(trace)]
        n = len(hits.drop_duplicates())
        by = f"at or above the quantile {target.get('tau_quantile') or 0:g} of their batch"
        by += " and its replayed rows" if config.get("memory") else ""
        if moves:
            by = f"R >= tau of their step, at last {trace['tau'].iloc[-1]:.4g}"
    if by and "final_reward" in trace:
        by += ", by the reward of the last stage"
    return Outcome(
        hits="" if n is None else f"{counted(n, 'hit')} ({by})",
        best=counts.best,
        collapse="" if watch is None else watch.summary,
        idle=idle_reason(trace, config),
        unexplored=unexplored(trace, config.get("exploration") or {}),
        lost=lost_parts(trace) if config.get("generator") else "",
    )


def read_outcome(folder: Path, manifest: Manifest) -> Outcome:
    """Summarise the run in a folder."""
    return outcome_of(read_trace(folder), manifest.model_dump(mode="json"))


def read_idle_reason(folder: Path) -> str:
    """Return `idle_reason` of the run in a folder."""
    manifest = Manifest.load(folder)
    return idle_reason(read_trace(folder), manifest.config) if manifest else ""


def idle_reason(trace: pd.DataFrame, config: Mapping[str, Any]) -> str:
    """Return `never_acted` of a run; with several stages, of its last one."""
    if "stage" in trace:
        trace = trace[trace["stage"] == len(config.get("stages") or ())]
    target = at_the_end(config).get("target")
    return never_acted(trace, target) if target and len(trace) else ""


def never_acted(trace: pd.DataFrame, target: Mapping[str, Any]) -> str:
    """Say why the target of a run was the same as gibbs throughout, or why a filter had no hits.

    A target acts on a row whose log target differs from that of gibbs, log pi_ref + R / beta. In a
    batch with a single hit, or copies of one, it does not: the hit is its own anchor.

    Returns:
        A sentence; empty if the target acted, and for gibbs.
    """
    kind, tau = target.get("kind"), target.get("tau")
    rows = new_rows(trace)
    if kind not in ("mara", "filter"):
        return ""
    hits = rows[rows["hit"].astype(bool) & rows["log_target"].notna()]
    if not hits.empty and (kind == "filter" or _differs_from_gibbs(hits, target)):
        return ""
    if len(hits) and not target.get("alpha", 1.0) and target.get("reward_on_hits") == "own":
        why = "with alpha = 0 and reward_on_hits = own it is that of gibbs"
    elif len(hits):
        of = " of one prompt" if "group" in rows else ""
        why = f"no batch had two different hits{of}, and a single one keeps its own target"
    elif tau is None:
        why = f"no batch had two rewards of at least tau_floor = {target.get('tau_floor'):g}"
    elif (rows["reward"] >= float(tau)).any():
        why = f"the diversity filter withdrew every reward of at least tau = {float(tau):g}"
    else:
        why = f"no reward reached tau = {float(tau):g}"
    before = " before it" if why.startswith("the diversity") else ""
    why += f";{before} the best reward is {rows['reward'].max():.4g}"
    if kind == "filter":
        return f"the target filter had no hits to train on: {why}"
    return f"the target mara never acted: {why}; the samples are those of the target gibbs"


def _differs_from_gibbs(hits: pd.DataFrame, target: Mapping[str, Any]) -> bool:
    """Whether a hit has a log target that gibbs would not give it."""
    if target.get("beta") is None and target.get("sigma") is None:  # written by another version
        return True
    beta: Any = beta_of(target)  # the stubs of pandas take no float here
    if target.get("reward_on_hits", "anchor") != "tau":
        hits = hits[~hits["anchor"].astype(bool)]
    beta = hits.get("beta", beta)
    gibbs = hits["logp_ref"].astype(float) + hits["reward_filtered"] / beta
    difference = (hits["log_target"].astype(float) - gibbs).abs()
    return bool((difference > SAME_NATS + np.finfo(np.float32).eps * 8 * gibbs.abs()).any())


def unexplored(trace: pd.DataFrame, exploration: Mapping[str, Any]) -> str:
    """Say that the configured exploration spent no call; empty if it did, or is not configured."""
    if not exploration or (trace["call"].notna() & ~trace["origin"].isin(["policy", "seed"])).any():
        return ""
    every, start = exploration.get("every", 1), exploration.get("start", 0)
    steps = f"the run had {trace['step'].max() + 1:,}"
    return f"exploration spent no call: due every {every:,} steps from call {start:,} on; {steps}"


def lost_parts(trace: pd.DataFrame) -> str:
    """Name the parts of a generator that no valid sample contains, and the most common reason."""
    rows = sampled_rows(trace)
    is_found = rows.groupby("prompt", sort=False)["valid"].any()
    lost = list(is_found.index[~is_found])
    if not lost:
        return ""
    rows = rows[rows["prompt"].isin(lost)]
    names = f"{', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}"
    return (
        f"no valid molecule contains {names}, of {len(rows):,} samples; the most common reason: "
        f"{rows['reason'].mode().iloc[0]}. What may help: a smaller part, more choices, a prior "
        "that writes such molecules (chemkl sample with this generator shows its samples)"
    )
