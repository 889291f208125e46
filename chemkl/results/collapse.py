"""Whether a run collapsed: the one judgement, by the limits and the window that the run had.

The alarm of training, the metrics, the report and `show` all ask here, so they name the same call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from chemkl.config.posttrain import CollapseConfig
from chemkl.results.columns import has_prompts
from chemkl.results.window import Alarm, Spread

IN_TEXT = (("group", "completion"), "answer")
"""Identity and outcome of what a language model writes that is no molecule."""


@dataclass(frozen=True)
class Turn:
    """A run collapsed, or was over it.

    Attributes:
        raised: which of the two.
        step: at which it happened.
        call: oracle calls spent by then.
        spread: of the window.
        most_frequent: the outcome that most samples have.
        reached: names of the limits that are reached.
    """

    raised: bool
    step: int
    call: int
    spread: Spread
    most_frequent: str
    reached: Sequence[str]


class Watch:
    """Takes in the rows of a run one by one and keeps when it collapsed.

    It follows from the rows alone: those of an interrupted run bring it where it was.

    Args:
        config: what is watched.
        identity: columns by which two samples are the same.
        outcome: column whose values a sample is counted under, for example ``scaffold``, or the
            answer in a text; empty or missing: the sample has none.
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
        self.turns: list[Turn] = []
        self.step = 0
        self._identity = list(identity)
        self._call = 0

    @property
    def collapsed(self) -> bool | None:
        """Whether it ever did; None: there were never as many samples as the window holds."""
        return bool(self.turns) if self.alarm.window.is_full else None

    @property
    def summary(self) -> str:
        """The verdict in a line."""
        if self.collapsed is None:
            return (
                f"collapse not judged: fewer valid samples than the {self.config.window:,} that "
                "are looked at"
            )
        if not self.turns:
            return f"did not collapse, looking at {self.config.window:,} valid samples at a time"
        first, times = self.turns[0], (len(self.turns) + 1) // 2
        now = "still so" if self.alarm.raised else "over"
        again = f", {times} times in all" if times > 1 else ""
        return f"collapsed at step {first.step:,}, call {first.call:,}{again}; {now} at the end"

    def add(self, rows: pd.DataFrame) -> None:
        """Take in rows of the trace, of one step or of several, in order.

        Rows that are invalid or were not sampled are left out. Without a column ``call`` none is
        spent.
        """
        if rows.empty:
            return
        self.step = int(rows["step"].iloc[-1])
        sampled = rows[rows["valid"].astype(bool) & ~rows["is_replay"].astype(bool)]
        calls = sampled.get("call", pd.Series(pd.NA, index=sampled.index))
        identities = zip(*(sampled[name] for name in self._identity), strict=True)
        columns = (sampled["step"], identities, sampled[self.outcome], calls)
        for step, identity, outcome, call in zip(*columns, strict=True):
            self._call = self._call if pd.isna(call) else int(call)
            if self.alarm.add(identity, outcome if isinstance(outcome, str) else ""):
                self.turns.append(self._turn(int(step)))

    def _turn(self, step: int) -> Turn:
        window = self.alarm.window
        now = window.spread()
        reached = self.alarm.reached(now)
        return Turn(self.alarm.raised, step, self._call, now, window.most_frequent(), reached)


def watched(manifest: Mapping[str, Any] | None) -> CollapseConfig:
    """Give the settings by which a run is judged: its own, or the defaults where it had none.

    Args:
        manifest: of the run, as plain values; None or empty: it has none.
    """
    manifest = manifest or {}
    own = manifest.get("beside", {}).get("collapse")
    own = own or (manifest.get("config", {}).get("callbacks") or {}).get("collapse")
    if not own:  # what a run says of its collapse says by which limits
        kept = manifest.get("results", {}).get("collapse") or {}
        own = {"window": kept["window"], **kept["limits"]} if "limits" in kept else {}
    return CollapseConfig.model_validate(own)


def judge(trace: pd.DataFrame, manifest: Mapping[str, Any] | None) -> Watch | None:
    """Look at a whole trace by the settings of its run.

    Returns:
        What was seen; None for a run of texts, where nothing is watched unless the run asks for it.
    """
    settings = watched(manifest)
    if has_prompts(trace.columns) and bool(trace["canonical_smiles"].isna().all()):
        if not (manifest or {}).get("beside", {}).get("collapse"):
            return None
        watch = Watch(settings, *IN_TEXT)
    else:
        watch = Watch(settings)
    watch.add(trace)
    return watch
