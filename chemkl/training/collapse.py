"""The collapse alarm: reports that the policy repeats itself, and may end the run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.results.outcome import TEXT_COLUMNS, CollapseEvent, Spread, Watch


class CollapseAlarm(Callback):
    """Reports a collapse and its end, logs the window, and may end the run.

    Rows are watched one by one, so the batch size does not matter.

    Args:
        watch: detects a collapse from the rows.
        advice: what may help against a collapse.
        say: receives each message.
    """

    ended_by = "collapse"
    """The manifest's `ended_by` of a run that the alarm ended."""

    def __init__(self, watch: Watch, advice: Sequence[str], say: Callable[[str], object]) -> None:
        self.watch = watch
        self._alarm, self._config = watch.alarm, watch.config
        self._advice = advice
        self._say = say
        self._n_reported = 0

    @property
    def ends_the_run(self) -> bool:
        """Whether a collapse ends the run."""
        return self._config.action == "stop" and bool(self.watch.events)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings for the manifest, which omits a mere warning from the config."""
        return self._config.model_dump(mode="json")

    @property
    def results(self) -> dict[str, Any]:
        """The first collapse, for the manifest; empty without one."""
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
        """Watch the rows of an interrupted run without reporting its collapses again."""
        self.watch.add(rows)
        self._n_reported = len(self.watch.events)

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Watch the rows of the step, report a collapse, log the window, and end the run if set."""
        if module.recorded.empty:  # not the last update of the step
            return
        self.watch.add(module.recorded)
        for event in self.watch.events[self._n_reported :]:
            self._say(self.describe(event))
        self._n_reported = len(self.watch.events)
        if self.ends_the_run:
            trainer.should_stop = True
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # its connector sets it
        if self._alarm.window.is_full and every and not (self.watch.step + 1) % every:
            values = self._values(self._alarm.window.spread())
            metrics = {f"collapse/{k}": math.nan if v is None else v for k, v in values.items()}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=self.watch.step)

    def describe(self, event: CollapseEvent) -> str:
        """Describe a collapse and what may help, or the end of a collapse."""
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
        """Return the watched values by the names of metrics and results."""
        return {
            "top_share": spread.top_share,
            "duplicate_rate": spread.duplicate_rate,
            f"effective_{self.watch.label}s": spread.effective_labels,
        }

    def _in_words(self, spread: Spread, reached: Sequence[str] = ()) -> str:
        """Format the values: `top_share 0.312 (limit 0.3 reached), duplicate_rate 0.120`."""
        words = []
        limits = ("top_share", "duplicate_rate", "effective_scaffolds")
        for (name, value), limit in zip(self._values(spread).items(), limits, strict=True):
            text = "undefined" if value is None else f"{value:,.3f}"
            end = f" (limit {getattr(self._config, limit):g} reached)" if limit in reached else ""
            words.append(f"{name} {text}{end}")
        return ", ".join(words)


def build_alarm(
    config: PosttrainConfig | LlmPosttrainConfig, say: Callable[[str], object]
) -> CollapseAlarm | None:
    """Build the alarm of a run of molecules or of texts; None if it has no alarm."""
    callbacks = config if isinstance(config, LlmPosttrainConfig) else config.callbacks
    settings = callbacks.collapse
    if settings is None:
        return None
    watch = Watch(settings) if _samples_molecules(config) else Watch(settings, *TEXT_COLUMNS)
    return CollapseAlarm(watch, advice(config), say)


def _samples_molecules(config: PosttrainConfig | LlmPosttrainConfig) -> bool:
    return isinstance(config, PosttrainConfig) or config.reward.kind == "smiles"


def advice(config: PosttrainConfig | LlmPosttrainConfig) -> list[str]:
    """Say what may help against a collapse, leaving out what the config does already."""
    lines = []
    if config.estimator.kind == "reinvent":
        lines.append("an estimator with a baseline (rloo or log_variance)")
    if not config.target.has_hits:
        lines.append("target kind mara, which makes all hits equally likely")
    if _samples_molecules(config) and config.diversity_filter is None:
        lines.append("diversity_filter: murcko")
    return [*lines, f"a learning_rate below {config.learning_rate:g}"]
