"""Progress of training: a bar in a terminal; a line now and then in a file or a pipe."""

from abc import abstractmethod
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chemkl.training.ledger import Accounts

LINES = 10
"""So many lines are written from the beginning of a run to its end, where there is no terminal."""

STEPS = 1_000
"""One for each of so many steps, where the end is not known."""


class Bar(Callback):
    """Shows how far a training is.

    Args:
        name: of the stage.
        unit: what is counted.
        total: of it; None: not known before the training starts.
    """

    def __init__(self, name: str, unit: str, total: int | None = None) -> None:
        self._name, self._unit = name, unit
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}{task.fields[beside]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True, soft_wrap=True),
            refresh_per_second=2,
        )
        self._task = self._progress.add_task(name, total=total, unit=unit, beside="", start=False)
        self._tenth = 0

    @abstractmethod
    def state(self, trainer: Trainer) -> tuple[int, str]:
        """How many are done, and what else there is to say."""

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Begin where the run stands."""
        self._progress.start_task(self._task)
        self._tenth = -1
        self.show(trainer)
        if self._progress.console.is_terminal and trainer.is_global_zero:
            self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Move on."""
        self.show(trainer)

    def on_train_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Leave the last state on the screen."""
        self.show(trainer)
        self._stop()

    def on_exception(
        self, _trainer: Trainer, _module: LightningModule, _error: BaseException
    ) -> None:
        """Give the screen back before the message."""
        self._stop()

    def _stop(self) -> None:
        if self._progress.live.is_started:  # else rich writes an empty line
            self._progress.stop()

    def show(self, trainer: Trainer) -> None:
        """Show the present state; as a line only where a further tenth is done."""
        done, beside = self.state(trainer)
        self._progress.update(self._task, completed=done, beside=beside)
        console, task = self._progress.console, self._progress.tasks[self._task]
        tenth = LINES * done // task.total if task.total else done // STEPS
        if console.is_terminal or tenth <= self._tenth or not trainer.is_global_zero:
            return
        self._tenth = int(tenth)
        of = "" if task.total is None else f" of {int(task.total):,}"
        line = f"{self._name}: {done:,}{of} {self._unit}{beside}, {int(task.elapsed or 0):,} s"
        console.print(line, markup=False, highlight=False)


class CallsBar(Bar):
    """Shows calls spent of the budget, samples drawn, and the time.

    Args:
        ledger: counts.
        budget: calls at which the bar is full; None: samples fill it.
        most_samples: samples at which it is full, where there is no budget.
    """

    def __init__(self, ledger: Accounts, budget: int | None, most_samples: int = 0) -> None:
        self._ledger = ledger
        self._over_calls = budget is not None
        super().__init__(
            "posttrain", "calls" if self._over_calls else "samples", budget or most_samples
        )

    def state(self, _trainer: Trainer) -> tuple[int, str]:
        """Calls, and the samples beside them; the other way round where there is no budget."""
        calls, samples = self._ledger.n_calls, self._ledger.n_samples
        return (
            (calls, f", {samples:,} samples")
            if self._over_calls
            else (samples, f", {calls:,} calls")
        )


class StepsBar(Bar):
    """Shows steps of the optimiser, the epoch, and the metrics that the module shows.

    Args:
        name: of the stage.
        every: steps between two looks at the metrics, which may wait for the device.
    """

    def __init__(self, name: str, every: int = 20) -> None:
        super().__init__(name, "steps")
        self._every = every
        self._epoch = 1

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin; only now the number of steps is known."""
        total = trainer.estimated_stepping_batches
        self._progress.update(self._task, total=int(total) if total < float("inf") else None)
        self._epoch = trainer.current_epoch + 1
        super().on_train_start(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Move on, now and then."""
        self._epoch = trainer.current_epoch + 1  # behind the last batch it is a further one
        if trainer.global_step % self._every == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, module, outputs, batch, i)

    def state(self, trainer: Trainer) -> tuple[int, str]:
        """Steps, and the epoch with the metrics."""
        shown = {
            name: value
            for name, value in trainer.progress_bar_metrics.items()
            if isinstance(value, int | float)
        }
        metrics = "".join(f", {name} {value:.4g}" for name, value in shown.items())
        return trainer.global_step, f", epoch {self._epoch}{metrics}"
