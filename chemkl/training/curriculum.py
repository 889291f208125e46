"""A run of several stages: when each ends, and by what its molecules are scored and filtered."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.posttrain import StageConfig
from chemkl.policies.base import Rollout
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards import RewardModel
from chemkl.training.filters import DiversityFilter
from chemkl.training.ledger import Ledger
from chemkl.training.termination import Termination


class StageRewards:
    """The rewards of the stages, equal ones as one object."""

    def __init__(self, by_stage: Sequence[RewardModel]) -> None:
        self.by_stage = by_stage
        self.distinct = list(dict.fromkeys(by_stage))
        names = (name for one in self.distinct for name in one.component_names)
        self.component_names = list(dict.fromkeys(names))

    def spread_over(self, spread: Any) -> None:
        """Have new molecules read and scored by several processes."""
        for one in self.distinct:
            one.spread_over(spread)

    def close(self) -> None:
        """End the worker processes of all."""
        for one in self.distinct:
            one.close()


class StagedLedger(Ledger):
    """The ledger of a run of several stages.

    Args:
        rewards: of the stages.
        filters: of the stages, see `BaseLedger.filters`.
        budget: oracle calls that may be spent in all stages together.
        parts: the names of those that molecules must hold.
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
        self._number = 0

    def begin_stage(self, number: int) -> None:
        """Score what comes by the reward of a stage, its number from 0."""
        self._number, self._reward = number, self.rewards[number]
        self.filter = self.filters[number]

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score a rollout; components that the stage lacks have no values."""
        rows = super().score(rollout)
        lacking = {*self._components} - {*self._reward.component_names}
        nothing = {p + n: np.nan for n in lacking for p in (RAW_PREFIX, SCORE_PREFIX)}
        is_last = self._reward is self.rewards[-1]
        return rows.assign(**nothing, stage=self._number + 1, final_reward=is_last)


class Curriculum(Callback):
    """Leads a run from stage to stage.

    Like the end of a run by `Termination`, that of a stage follows from the rows of the trace.

    Args:
        stages: in order.
        ledger: of the run.
        say: is told of each stage that begins.
    """

    def __init__(
        self, stages: Sequence[StageConfig], ledger: StagedLedger, say: Callable[[str], object]
    ) -> None:
        self._stages, self._ledger, self._say = stages, ledger, say
        self._now = Termination(stages[0].until)
        self._past: list[dict[str, Any]] = []

    @property
    def ends_the_run(self) -> bool:
        """Whether the last stage has ended."""
        return len(self._past) == len(self._stages)

    @property
    def ended_by(self) -> str:
        """What has ended it."""
        return self._now.ended_by

    def results(self, ended_by: str) -> list[dict[str, Any]]:
        """How each stage ended, for the manifest; the one that the end of the run cut short too."""
        if self.ends_the_run or not self._now.counts["steps"]:
            return self._past
        return [*self._past, self._ending(ended_by)]

    def restore(self, rows: pd.DataFrame) -> None:
        """Take in the rows of an interrupted run, or of a step."""
        for _, step in rows.groupby("step"):
            if self.ends_the_run:
                return
            self._now.restore(step)
            if self._now.ends_the_run:
                self._past.append(self._ending(self._now.ended_by))
                if not self.ends_the_run:
                    self._now = Termination(self._stages[len(self._past)].until)

    def begin(self, module: Any) -> None:
        """Bring ledger and module to the stage of the next step."""
        number = min(len(self._past), len(self._stages) - 1)
        self._ledger.begin_stage(number)
        module.enter(number)

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Take in the rows of the step; end the run, or go on to the next stage."""
        before = len(self._past)
        self.restore(module.recorded)
        if self.ends_the_run:
            trainer.should_stop = True
        elif len(self._past) > before and not module.is_finished:
            self.begin(module)
            ended = self._past[-1]
            self._say(
                f"stage {ended['name']} ended by {ended['ended_by']} after {ended['steps']:,} "
                f"steps, {ended['calls']:,} calls; stage {self._name(before + 1)} begins"
            )

    def _ending(self, ended_by: str) -> dict[str, Any]:
        return {"name": self._name(len(self._past)), "ended_by": ended_by, **self._now.counts}

    def _name(self, number: int) -> str:
        return self._stages[number].name or str(number + 1)
