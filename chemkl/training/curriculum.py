"""The course of a run: schedules of tau and beta, conditions that end it, and its stages.

Everything here is a function of the rows of the trace so far, so a resumed run takes the same
course as an uninterrupted one.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.objective import QuantileSchedule, StaircaseSchedule, TargetSettings
from chemkl.config.posttrain import CollapseConfig, StageConfig, TerminationConfig
from chemkl.policies.base import Rollout
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.results.inspection import new_rows, sampled_rows
from chemkl.results.outcome import Watch
from chemkl.rewards import RewardModel
from chemkl.training.filters import DiversityFilter
from chemkl.training.ledger import Ledger

# ---- schedules


class Staircase:
    """A value that changes at given calls or steps.

    With t the calls (or steps) since the first stage with this objective began, the value is
    values[k] for the last k with at[k] <= t, and the target's own before at[0].
    """

    def __init__(self, config: StaircaseSchedule, start: float) -> None:
        self._config = config
        self._values = [start, *config.values]
        self._counts = {"calls": 0, "steps": 0}

    @property
    def value(self) -> float:
        """The value for the next step."""
        return self._values[bisect_right(self._config.at, self._counts[self._config.by])]

    def add(self, rows: pd.DataFrame) -> None:
        """Count the rows of a step."""
        self._counts["calls"] += int(rows["call"].count())
        self._counts["steps"] += 1


class Quantile:
    """A tau that rises with the rewards and never falls.

    tau_t = max(tau_{t-1}, Q_q(R)), with R the filtered rewards of the samples of the last n steps
    (`over: steps`) or of the distinct hits of the stage so far (`over: hits`). Q_q interpolates
    linearly, `most` bounds it from above, and tau_0 is the target's own.
    """

    def __init__(self, config: QuantileSchedule, start: float) -> None:
        self._config = config
        self.value = start
        """The value for the next step."""
        self._rewards: list[np.ndarray] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Update tau from the rows of a step."""
        config = self._config
        if config.over == "steps":
            rows = sampled_rows(rows)
        else:
            rows = new_rows(rows)
            rows = rows[rows["hit"].astype(bool) & rows["call"].notna()]
        self._rewards.append(rows["reward_filtered"].to_numpy(float))
        if config.over == "steps":
            self._rewards = self._rewards[-config.steps :]
        rewards = np.concatenate(self._rewards)
        if len(rewards):
            tau = float(np.quantile(rewards, config.quantile))
            tau = tau if config.most is None else min(tau, config.most)
            self.value = max(self.value, tau)


class Schedule:
    """The schedules of one target: of tau, of beta, or of both."""

    def __init__(self, target: TargetSettings) -> None:
        self._schedules: dict[str, Staircase | Quantile] = {}
        config = target.schedule
        if config is not None and config.tau is not None:
            kind: Any = Staircase if config.tau.kind == "staircase" else Quantile
            self._schedules["tau"] = kind(config.tau, target.tau)
        if config is not None and config.beta is not None:
            self._schedules["beta"] = Staircase(config.beta, target.resolved_beta)

    @property
    def values(self) -> dict[str, float]:
        """The values for the next step, by name."""
        return {name: schedule.value for name, schedule in self._schedules.items()}

    def add(self, rows: pd.DataFrame) -> None:
        """Update every schedule from the rows of a step."""
        for schedule in self._schedules.values():
            schedule.add(rows)


# ---- termination


class Termination(Callback):
    """Ends a run (or a stage) once a condition of its config is met.

    With m_t the mean filtered reward of the samples of step t, step t ends the run if

    - mean_reward: m_t >= mean_reward, like `max_score` of a REINVENT4 stage;
    - plateau of n steps: mean(m_{t-n+1}, ..., m_t) - mean(m_{t-2n+1}, ..., m_{t-n}) <= gain;
    - calls, samples, hits: so many have been reached;
    - collapse: the newest samples repeat themselves, see `Watch`.

    Args:
        config: the conditions; None never ends the run.
        text_columns: the identity and outcome columns of a run of texts, see `Watch`.
    """

    def __init__(self, config: TerminationConfig | None, text_columns: Sequence[Any] = ()) -> None:
        self._config = config
        self.ended_by = ""
        """The config key of the condition that ended the run; empty while it continues."""
        self.counts = {"steps": 0, "calls": 0, "samples": 0, "hits": 0}
        self._means: list[float] = []
        limits = config.collapse if config else None
        settings = CollapseConfig(**limits.model_dump()) if limits else None
        self._watch = Watch(settings, *text_columns) if settings else None

    @property
    def ends_the_run(self) -> bool:
        """Whether a condition has been met."""
        return bool(self.ended_by)

    def restore(self, rows: pd.DataFrame) -> None:
        """Read the rows of an interrupted run, or of one step."""
        for _, step in rows.groupby("step"):
            if self.ended_by:
                return
            sampled, new = sampled_rows(step), new_rows(step)
            n_hits = int((new["call"].notna() & new["hit"].astype(bool)).sum())
            self.counts["steps"] += 1
            self.counts["calls"] += int(step["call"].count())
            self.counts["samples"] += len(sampled)
            self.counts["hits"] += n_hits
            self._means.append(float(sampled["reward_filtered"].mean()))
            if self._watch is not None:
                self._watch.add(sampled)
            self.ended_by = next(self._conditions_met(), "")

    def _conditions_met(self) -> Iterator[str]:
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
        """Read the rows of the step, and stop the trainer if they meet a condition."""
        self.restore(module.recorded)
        if self.ends_the_run:
            trainer.should_stop = True


# ---- stages


class StageRewards:
    """The reward models of all stages; stages with equal settings share one."""

    def __init__(self, by_stage: Sequence[RewardModel]) -> None:
        self.by_stage = by_stage
        self.distinct = list(dict.fromkeys(by_stage))
        names = (name for model in self.distinct for name in model.component_names)
        self.component_names = list(dict.fromkeys(names))

    def spread_over(self, spread: Any) -> None:
        """Split new molecules between the processes of the run."""
        for model in self.distinct:
            model.spread_over(spread)

    def close(self) -> None:
        """Stop all worker processes."""
        for model in self.distinct:
            model.close()


class StagedLedger(Ledger):
    """The ledger of a run of several stages.

    Args:
        rewards: reward models by stage.
        filters: diversity filters by stage, see `BaseLedger.filters`.
        budget: oracle calls of all stages together.
        parts: names of the parts that molecules must contain.
    """

    def __init__(
        self,
        rewards: StageRewards,
        filters: Sequence[DiversityFilter],
        budget: float,
        parts: Sequence[str] = (),
    ) -> None:
        super().__init__(rewards.by_stage[0], filters[0], budget, parts)
        self._components = rewards.component_names
        self.rewards, self.filters = rewards.by_stage, filters
        self._stage = 0

    def begin_stage(self, stage: int) -> None:
        """Switch to the reward and the filter of a stage, counted from 0."""
        self._stage, self._reward = stage, self.rewards[stage]
        self.filter = self.filters[stage]

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout; components of other stages are NaN."""
        rows = super().score(rollout)
        missing = {*self._components} - {*self._reward.component_names}
        empty = {prefix + n: np.nan for n in missing for prefix in (RAW_PREFIX, SCORE_PREFIX)}
        is_last = self._reward is self.rewards[-1]
        return rows.assign(**empty, stage=self._stage + 1, final_reward=is_last)


class Curriculum(Callback):
    """Moves a run from stage to stage, and ends it after the last one.

    Args:
        stages: the settings of the stages, in order.
        ledger: the ledger of the run.
        say: receives a message when a stage begins.
    """

    def __init__(
        self, stages: Sequence[StageConfig], ledger: StagedLedger, say: Callable[[str], object]
    ) -> None:
        self._stages, self._ledger, self._say = stages, ledger, say
        self._current = Termination(stages[0].until)
        self._finished: list[dict[str, Any]] = []

    @property
    def ends_the_run(self) -> bool:
        """Whether the last stage has ended."""
        return len(self._finished) == len(self._stages)

    @property
    def ended_by(self) -> str:
        """The condition that ended the current stage."""
        return self._current.ended_by

    def results(self, ended_by: str) -> list[dict[str, Any]]:
        """Return how each stage ended, for the manifest; the unfinished one `ended_by` the run."""
        if self.ends_the_run or not self._current.counts["steps"]:
            return self._finished
        return [*self._finished, self._summary(ended_by)]

    def restore(self, rows: pd.DataFrame) -> None:
        """Read the rows of an interrupted run, or of one step."""
        for _, step in rows.groupby("step"):
            if self.ends_the_run:
                return
            self._current.restore(step)
            if self._current.ends_the_run:
                self._finished.append(self._summary(self._current.ended_by))
                if not self.ends_the_run:
                    self._current = Termination(self._stages[len(self._finished)].until)

    def begin(self, module: Any) -> None:
        """Switch ledger and module to the stage of the next step."""
        stage = min(len(self._finished), len(self._stages) - 1)
        self._ledger.begin_stage(stage)
        module.begin_stage(stage)

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Read the rows of the step; end the run or begin the next stage if they end this one."""
        n_before = len(self._finished)
        self.restore(module.recorded)
        if self.ends_the_run:
            trainer.should_stop = True
        elif len(self._finished) > n_before and not module.is_finished:
            self.begin(module)
            last = self._finished[-1]
            self._say(
                f"stage {last['name']} ended by {last['ended_by']} after {last['steps']:,} "
                f"steps, {last['calls']:,} calls; stage {self._name(n_before + 1)} begins"
            )

    def _summary(self, ended_by: str) -> dict[str, Any]:
        name = self._name(len(self._finished))
        return {"name": name, "ended_by": ended_by, **self._current.counts}

    def _name(self, stage: int) -> str:
        return self._stages[stage].name or str(stage + 1)
