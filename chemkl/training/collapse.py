"""The collapse alarm of a run: says when the policy repeats itself, or ends the run there."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.results.outcome import TEXT_COLUMNS, CollapseEvent, Spread, Watch


class CollapseAlarm(Callback):
    """Watches the rows of a run, tells of a collapse, logs the window, and may end the run.

    Rows are taken one by one, so the batch size plays no part.

    Args:
        watch: takes in the rows.
        advice: what may help against a collapse, in words.
        say: is given each message.
    """

    ended_by = "collapse"
    """What the manifest calls the end of a run that the alarm ended."""

    def __init__(self, watch: Watch, advice: Sequence[str], say: Callable[[str], object]) -> None:
        self.watch = watch
        self._alarm, self._config = watch.alarm, watch.config
        self._advice = advice
        self._say = say
        self._said = 0

    @property
    def ends_the_run(self) -> bool:
        """Whether the run is to end because of a collapse."""
        return self._config.action == "stop" and bool(self.watch.events)

    @property
    def settings(self) -> dict[str, Any]:
        """What is watched, for the manifest: a mere warning is no part of the config there."""
        return self._config.model_dump(mode="json")

    @property
    def results(self) -> dict[str, Any]:
        """What the manifest keeps: when the first collapse was, and what it looked like."""
        if not self.watch.events:
            return {}
        first = self.watch.events[0]
        return {
            "collapse_step": first.step,
            "collapse_call": first.call,
            "collapse": {
                "reached": list(first.reached),
                **self._values(first.spread),
                "most_frequent": first.most_frequent,
                "still_so_at_the_end": self._alarm.raised,
                **self._config.model_dump(include={"action", "window"}),
                "limits": self._config.model_dump(exclude={"action", "window"}),
            },
        }

    def restore(self, rows: pd.DataFrame) -> None:
        """Take in the rows of an interrupted run; what it told is not told again."""
        self.watch.add(rows)
        self._said = len(self.watch.events)

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Take in the rows of the step, tell what they brought, log the window, maybe end."""
        if module.recorded.empty:  # further updates of the step are to come
            return
        self.watch.add(module.recorded)
        for event in self.watch.events[self._said :]:
            self._say(self.describe(event))
        self._said = len(self.watch.events)
        if self.ends_the_run:
            trainer.should_stop = True
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # its connector sets it
        if self._alarm.window.is_full and every and not (self.watch.step + 1) % every:
            values = self._values(self._alarm.window.spread())
            metrics = {f"collapse/{k}": math.nan if v is None else v for k, v in values.items()}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=self.watch.step)

    def describe(self, event: CollapseEvent) -> str:
        """Say in words what happened, and what may be done about it."""
        at, now = f"step {event.step:,}, call {event.call:,}", event.spread
        over = f"over the last {now.n:,} valid samples ({now.labelled:,} with {self.watch.label})"
        if not event.raised:
            return f"{at}: the collapse is over: {self._in_words(now)}, {over}"
        first = self._alarm.at_first
        if first is None or first == now:
            before = (
                "It was so in the first full window: the prior itself may be that narrow; then set "
                "callbacks.collapse to null or to other limits."
            )
        else:
            before = f"The first full window had {self._in_words(first)}."
        lines = [
            f"{at}: the policy has collapsed: {self._in_words(now, event.reached)}, {over}; most "
            f"frequent: {event.most_frequent or 'none'}. {before}",
            f"What may help: {'; '.join(self._advice)}." if self._advice else "",
            "The run ends here, as callbacks.collapse asks." if self.ends_the_run else "",
        ]
        return " ".join(line for line in lines if line)

    def _values(self, spread: Spread) -> dict[str, float | None]:
        """What is watched, by the names that metrics and results have."""
        return {
            "top_share": spread.top_share,
            "duplicate_rate": spread.duplicate_rate,
            f"effective_{self.watch.label}s": spread.effective_labels,
        }

    def _in_words(self, spread: Spread, reached: Sequence[str] = ()) -> str:
        """For example: top_share 0.312 (limit 0.3 reached), duplicate_rate 0.120."""
        words = []
        limits = ("top_share", "duplicate_rate", "effective_scaffolds")
        for (name, value), limit in zip(self._values(spread).items(), limits, strict=True):
            shown = "undefined" if value is None else f"{value:,.3f}"
            end = f" (limit {getattr(self._config, limit):g} reached)" if limit in reached else ""
            words.append(f"{name} {shown}{end}")
        return ", ".join(words)


def build_alarm(
    config: PosttrainConfig | LlmPosttrainConfig, say: Callable[[str], object]
) -> CollapseAlarm | None:
    """Build the alarm of a run, of molecules or of texts; None where nothing is watched."""
    callbacks = config if isinstance(config, LlmPosttrainConfig) else config.callbacks
    watched = callbacks.collapse
    if watched is None:
        return None
    watch = Watch(watched) if _of_molecules(config) else Watch(watched, *TEXT_COLUMNS)
    return CollapseAlarm(watch, advice(config), say)


def _of_molecules(config: PosttrainConfig | LlmPosttrainConfig) -> bool:
    return isinstance(config, PosttrainConfig) or config.reward.kind == "smiles"


def advice(config: PosttrainConfig | LlmPosttrainConfig) -> list[str]:
    """What may help a run that collapses, without what it does already."""
    lines = []
    if config.estimator.kind == "reinvent":
        lines.append("an estimator with a baseline (rloo or log_variance)")
    if not config.target.has_hits:
        lines.append("target kind mara, which makes all hits equally likely")
    if _of_molecules(config) and config.diversity_filter is None:
        lines.append("diversity_filter: murcko")
    return [*lines, f"a learning_rate below {config.learning_rate:g}"]
