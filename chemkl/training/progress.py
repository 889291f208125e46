"""The progress bar of post-training: over the budget of oracle calls, or over samples."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chemkl.training.ledger import Accounts


class CallsBar(Callback):
    """Shows calls spent of the budget, samples drawn, and the time.

    Args:
        ledger: counts.
        budget: calls at which the bar is full; None: samples fill it.
        most_samples: samples at which it is full, where there is no budget.
    """

    def __init__(self, ledger: Accounts, budget: int | None, most_samples: int = 0) -> None:
        self._ledger = ledger
        self._over_calls = budget is not None
        filled, beside = ("calls", "samples") if self._over_calls else ("samples", "calls")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{filled}, {{task.fields[beside]}} {beside}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=2,
        )
        total = budget or most_samples
        self._task = self._progress.add_task("posttrain", total=total, beside=0, start=False)

    def on_train_start(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Begin where the run stands."""
        self._progress.start_task(self._task)
        self._show()
        self._progress.start()

    def on_train_batch_end(
        self, _trainer: Trainer, _module: LightningModule, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Move on."""
        self._show()

    def on_train_end(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def on_exception(
        self, _trainer: Trainer, _module: LightningModule, _error: BaseException
    ) -> None:
        """Give the screen back before the message."""
        self._progress.stop()

    def _show(self) -> None:
        counts = (self._ledger.n_calls, self._ledger.n_samples)
        completed, beside = counts if self._over_calls else counts[::-1]
        self._progress.update(self._task, completed=completed, beside=beside)
