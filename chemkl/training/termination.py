"""Ends a run as soon as what its config asks for is reached."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.posttrain import CollapseConfig, TerminationConfig
from chemkl.results.collapse import Watch
from chemkl.results.inspection import new_rows, sampled_rows


class Termination(Callback):
    """Ends a run by what it was paid, found and spent, or because it collapsed.

    It follows from the rows of the trace alone, so that a run that goes on ends at the same step.
    With m_t the mean of what the samples of step t were paid, the newest of t steps end it where

    - mean_reward: m_t >= mean_reward, as `max_score` ends a stage of REINVENT4's;
    - plateau of n steps: mean(m_{t-n+1}, ..., m_t) - mean(m_{t-2n+1}, ..., m_{t-n}) <= gain.

    Args:
        config: what ends it; None: nothing.
        of_text: identity and outcome of a sample in a run of texts, see `Watch`.
    """

    def __init__(self, config: TerminationConfig | None, of_text: Sequence[Any] = ()) -> None:
        self._config = config
        self.ended_by = ""
        """The key of the config that has ended it, for the manifest; empty: it goes on."""
        self.counts = {"steps": 0, "calls": 0, "samples": 0, "hits": 0}
        self._means: list[float] = []
        limits = config.collapse if config else None
        settings = CollapseConfig(**limits.model_dump()) if limits else None
        self._watch = Watch(settings, *of_text) if settings else None

    @property
    def ends_the_run(self) -> bool:
        """Whether it has ended."""
        return bool(self.ended_by)

    def restore(self, rows: pd.DataFrame) -> None:
        """Take in the rows of an interrupted run, or of a step."""
        for _, step in rows.groupby("step"):
            if self.ended_by:
                return
            sampled, brought = sampled_rows(step), new_rows(step)
            new = {"steps": 1, "calls": int(step["call"].count()), "samples": len(sampled)}
            new["hits"] = int((brought["call"].notna() & brought["hit"].astype(bool)).sum())
            self.counts = {name: self.counts[name] + n for name, n in new.items()}
            self._means.append(float(sampled["reward_filtered"].mean()))
            if self._watch is not None:
                self._watch.add(sampled)
            self.ended_by = next(self._reached(), "")

    def _reached(self) -> Iterator[str]:
        """The keys of the config that are reached now."""
        if self._config is None:
            return
        limits, means = self._config, self._means
        if self.counts["steps"] >= limits.min_steps:
            if limits.mean_reward is not None and means[-1] >= limits.mean_reward:
                yield "mean_reward"
            if limits.plateau is not None and len(means) >= 2 * (n := limits.plateau.steps):
                gain = (sum(means[-n:]) - sum(means[-2 * n : -n])) / n
                if gain <= limits.plateau.gain:
                    yield "plateau"
        for name in ("calls", "samples", "hits"):
            limit = getattr(limits, name)
            if limit is not None and self.counts[name] >= limit:
                yield name
        if self._watch is not None and self._watch.events:
            yield "collapse"

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Take in the rows of the step, and maybe end."""
        self.restore(module.recorded)
        if self.ends_the_run:
            trainer.should_stop = True
