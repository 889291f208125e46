"""Ends a run as soon as the mean reward of a batch is high enough."""

from typing import Any

import pandas as pd
from lightning import Callback, Trainer

from chemkl.config.posttrain import TerminationConfig


class Termination(Callback):
    """Ends a run like REINVENT4's `max_score` a stage: by the mean of what a batch was paid.

    It follows from the rows of the trace alone, so that a run that goes on ends at the same step.
    """

    ended_by = "mean_reward"
    """What the manifest calls the end of such a run."""

    def __init__(self, config: TerminationConfig) -> None:
        self._config = config
        self.ends_the_run = False

    def restore(self, rows: pd.DataFrame) -> None:
        """Take in the rows of an interrupted run, or of a step."""
        means = rows.groupby("step")["reward_filtered"].mean()
        enough = means[means.index + 1 >= self._config.min_steps] >= self._config.mean_reward
        self.ends_the_run |= bool(enough.any())

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Take in the rows of the step, and maybe end."""
        self.restore(module.recorded)
        if self.ends_the_run:
            trainer.should_stop = True
