"""The Lightning trainer of all training stages: devices, checkpoints, signals, progress bars."""

import inspect
import json
import logging
import os
import pickle
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from pydantic import ConfigDict, TypeAdapter, ValidationError

from chemkl import display
from chemkl.chem.molecules import one_line
from chemkl.config import InputError, complaints, did_you_mean
from chemkl.config.base import install_command
from chemkl.policies.checkpoint import check_weights
from chemkl.processes import StoppedBySignal, deferred, n_cores, pending
from chemkl.results.atomic import atomic_file, draft_of
from chemkl.results.inspection import by_final_reward, identity_columns, new_rows
from chemkl.results.manifest import LAST_CHECKPOINT, RunLog
from chemkl.results.seal import check_seal
from chemkl.training.ledger import BaseLedger
from chemkl.training.ranks import check_launched

CHECKPOINTS = "checkpoints"

LEAST = {
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "num_nodes": 1,
}
"""Lowest values of arguments that Lightning does not check."""

_SILENCED = (
    ".*`training_step` returned `None`.*",  # the batch that ends a run is recorded, not learnt from
    r".*Found \d+ module\(s\) in eval mode.*",  # a language model is trained without dropout
    ".*does not have many workers.*",  # batches cost less than sending them between processes
    ".*LeafSpec.*",  # Lightning's own use of torch
    ".*The number of training batches .* is smaller than the logging interval.*",
    ".*dataloader is not resumable.*",  # ours save their position
    ".*`srun` command is available.*",  # a job may run without it
)
"""Warnings about things that are intended here."""

_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError, ValueError)
"""What torch raises for a damaged checkpoint."""

_REFUSED = (
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    RuntimeError,
    MisconfigurationException,
)
"""What Lightning raises for invalid settings."""

# ---- the trainer


class _Joined(DDPStrategy):
    """DDP of processes that run already (`chemkl.training.ranks`), in a notebook too."""

    def _configure_launcher(self) -> None:
        """Use no launcher: in a notebook Lightning would fork, and lose what the fork learns."""


def build_trainer(
    out_dir: Path, settings: Mapping[str, Any], callbacks: Sequence[Callback], **fixed: Any
) -> Trainer:
    """Build the trainer of a stage; `fixed` overrides the user's settings.

    Logs go to ``logs/`` in the folder. `Checkpoint` is the last callback; progress bars are omitted
    if the settings disable them. Lightning's signal handlers are not installed: they would save,
    requeue a Slurm job and communicate with other processes in the middle of a step.

    Raises:
        InputError: Lightning refuses the settings.
    """
    if not settings.get("enable_progress_bar", True):
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
    arguments = {
        "enable_model_summary": False,
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
        **settings,
        "default_root_dir": out_dir,
        # CSVLogger deletes the rows of an older run in its folder: each start gets a new one
        "logger": [
            TensorBoardLogger(out_dir, name="logs", version="tensorboard"),
            CSVLogger(out_dir, name="logs/csv"),
        ],
        "callbacks": [
            *further_loggers(settings, out_dir),
            *sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint)),
        ],
        "enable_checkpointing": False,
        "enable_progress_bar": False,  # Lightning's writes carriage returns into log files
        "use_distributed_sampler": False,
        **fixed,
    }
    with suppress(InputError):  # Lightning reports missing devices below
        if "strategy" not in arguments and devices_of(settings)[1] > 1:
            arguments["strategy"] = _Joined()
    try:
        trainer = Trainer(**{"plugins": _cluster(arguments), **arguments})
    except _REFUSED as error:
        raise InputError(f"trainer: lightning.Trainer refuses its settings: {error}") from error
    check_launched(trainer)
    trainer._signal_connector = _NoHandlers(trainer)
    # only rank 0 writes logs; Lightning would use SLURM_PROCID, even in a run of one process
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]  # it sets this itself
    return trainer


class FurtherLogger(Callback):
    """Adds a logger when a fit begins, since making it may write files or contact a server.

    Each start is a separate run of that logger, named by the output folder.
    """

    def __init__(self, kind: str, options: Mapping[str, Any], out_dir: Path) -> None:
        self._make, name, group = _FURTHER[kind]
        defaults = {"save_dir": str(out_dir / "logs" / kind), name: str(out_dir), group: "chemkl"}
        self._options = {**defaults, **options}

    def setup(self, trainer: Trainer, _module: LightningModule, stage: str) -> None:
        """Add the logger."""
        if stage != "fit":
            return
        # MLflow's file backend is the only one without a database
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        Path(self._options["save_dir"]).mkdir(parents=True, exist_ok=True)
        trainer.loggers = [*trainer.loggers, self._make(**self._options)]


_FURTHER: dict[str, tuple[Any, str, str]] = {
    "mlflow": (MLFlowLogger, "run_name", "experiment_name"),
    "wandb": (WandbLogger, "name", "project"),
}
"""By kind: Lightning's logger, and its arguments for the names of a run and of its group."""


def further_loggers(settings: Mapping[str, Any], out_dir: Path = Path()) -> list[FurtherLogger]:
    """Return the additional logger of a trainer's settings, if any.

    Raises:
        InputError: its package is not installed, or an option is unknown.
    """
    setting = settings.get("logger")
    options = dict(setting) if isinstance(setting, Mapping) else {"kind": setting}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in _FURTHER:  # the schema reports other kinds
        return []
    parameters = set(inspect.signature(_FURTHER[kind][0].__init__).parameters) - {"self", "kwargs"}
    problems = [
        f"trainer: logger: {kind} has no option {name!r}{did_you_mean(name, parameters)}"
        for name in options
        if name not in parameters
    ]
    if find_spec(kind) is None:
        problems.append(f"trainer: logger: {kind} is not installed: {install_command(kind)}")
    InputError.refuse(problems)
    return [FurtherLogger(kind, options, out_dir)]


class _NoHandlers(_SignalConnector):
    """Installs no signal handlers, and restores the one of Ctrl-C, which Lightning changes."""

    def register_signal_handlers(self) -> None:
        """Remember the handlers to restore."""
        self._original_handlers = self._get_current_signal_handlers()


def _cluster(settings: Mapping[str, Any]) -> ClusterEnvironment | None:
    """Return the environment that starts the processes; Slurm only if it has started several.

    A run in one process ignores the other tasks of its job. None: Lightning detects it.
    """
    if "SLURM_NTASKS" not in os.environ or TorchElasticEnvironment.detect():
        return None
    alone = int(os.environ["SLURM_NTASKS"]) == 1 or not SLURMEnvironment.detect()
    if alone or devices_of(settings)[1] == 1:
        return LightningEnvironment()
    return SLURMEnvironment(auto_requeue=False)


def devices_of(settings: Mapping[str, Any]) -> tuple[torch.device, int]:
    """Return the device of this process and the total number of devices, by a trainer's settings.

    Raises:
        InputError: this machine lacks such devices.
    """
    names = ("accelerator", "devices", "num_nodes")
    options = {name: settings[name] for name in names if name in settings}
    return _devices(json.dumps(options, default=str), elastic=TorchElasticEnvironment.detect())


@cache
def _devices(options_json: str, *, elastic: bool) -> tuple[torch.device, int]:
    options = json.loads(options_json)
    # without it Lightning would take any Slurm task for a rank of this run
    plugins = None if elastic else LightningEnvironment()
    try:
        with quiet():
            trainer = Trainer(**options, plugins=plugins, logger=False, enable_checkpointing=False)
    except _REFUSED as error:
        what = ", ".join(f"{name}: {value}" for name, value in options.items()) or "its device"
        raise InputError(
            f"trainer: {what} cannot be used on this machine: {one_line(error)} Take "
            "accelerator: auto, which uses what there is, as many devices as there are, or a "
            "machine that has them."
        ) from error
    cores = n_cores()
    most = max(2, cores)  # two processes on one core are slow, but suffice to try a config
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > most:
        raise InputError(
            f"trainer: devices: {trainer.num_devices}: there is no GPU in use, and this machine "
            f"has {cores} processors: take {most} at most, or accelerator: gpu where there is one."
        )
    return trainer.strategy.root_device, trainer.world_size


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse unknown arguments of Lightning's trainer, and invalid values.

    Raises:
        InputError: a line for each of them.
    """
    parameters = dict(inspect.signature(Trainer.__init__).parameters)
    del parameters["self"]
    problems = []
    for name, value in settings.items():
        if name == "logger":
            problems += complaints((further_loggers, settings))
        elif name not in parameters:
            problems.append(
                f"trainer: unknown argument {name!r}{did_you_mean(name, set(parameters))}"
            )
        elif not _fits(value, parameters[name].annotation):
            kind = inspect.formatannotation(parameters[name].annotation).replace("typing.", "")
            problems.append(f"trainer: {name}: {value!r} is not of type {kind}")
        elif name in LEAST and value is not None and not value >= LEAST[name]:
            problems.append(f"trainer: {name}: {value!r} is not allowed; {LEAST[name]} or more")
    InputError.refuse(problems)


def check_trainer_here(settings: Mapping[str, Any]) -> None:
    """Check the arguments of the trainer, and that this machine has its device.

    Raises:
        InputError: see `check_trainer` and `devices_of`.
    """
    check_trainer(settings)
    devices_of(settings)


def _fits(value: Any, annotation: Any) -> bool:
    config = ConfigDict(arbitrary_types_allowed=True, strict=True)
    try:
        TypeAdapter(annotation, config=config).validate_python(value)
    except ValidationError:
        return False
    return True


def fit(trainer: Trainer, module: LightningModule, data: Any, start: Path | None) -> None:
    """Train, from a checkpoint if there is one; the trainer's callbacks include a `Checkpoint`.

    Raises:
        StoppedBySignal: after a signal; a checkpoint has been written.
    """
    with deferred(), quiet():
        trainer.fit(module, data, ckpt_path=start, weights_only=True)


def why_ended(trainer: Trainer) -> str:
    """Return what ended a fit: max_steps, epochs, max_time or stopped (by a callback)."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "max_steps"
    if trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs:
        return "epochs"
    has_timer = any(isinstance(c, Timer) for c in getattr(trainer, "callbacks", ()))
    return "max_time" if has_timer else "stopped"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advertisements, and warnings about intended things, in this scope.

    Also silences the traceback of the thread that writes logs if a disk fails: the main thread
    raises the same error and reports it.
    """
    names = (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    hook = threading.excepthook

    def ignore_os_errors(error: threading.ExceptHookArgs) -> None:
        if not issubclass(error.exc_type, OSError):
            hook(error)

    threading.excepthook = ignore_os_errors
    with warnings.catch_warnings():
        for text in _SILENCED:
            warnings.filterwarnings("ignore", message=text)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# ---- checkpoints


class Checkpoint(Callback):
    """Writes ``checkpoints/last.ckpt`` every so many steps, atomically.

    Lightning's own callback writes in place: a kill in the middle would leave half a file.

    A checkpoint is written right after a step of the optimiser, when no accumulated gradient would
    be lost. One that is due after the last batch of an epoch is written a step later, since a
    resumed run would skip the epoch's validation. `before` is called first, for example to write
    the trace up to this step.

    After a signal to stop (see `chemkl.processes`) it writes a checkpoint as soon as possible,
    after the epoch's validation if need be, and ends the fit.
    """

    def __init__(self, out_dir: Path, every: int, before: Callable[[], object] = int) -> None:
        self._path = out_dir / LAST_CHECKPOINT
        self._every = every
        self._before = before
        self.run_log: RunLog | None = None
        """Receives a line for each checkpoint."""
        self._step = self._saved = 0
        self._loader: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position of the loader, which Lightning forgets between two epochs."""
        loader = trainer.train_dataloader
        if loader is not None and hasattr(loader, "state_dict"):
            checkpoint["loader"] = loader.state_dict()

    def on_load_checkpoint(
        self, _trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the position of the loader, which does not exist yet."""
        self._loader = checkpoint.get("loader")

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Count from the first step of this start, and restore the loader."""
        self._step = self._saved = trainer.global_step
        if self._loader is not None:
            trainer.train_dataloader.load_state_dict(self._loader)  # type: ignore[union-attr]  # it had one
            self._loader = None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Write a checkpoint if one is due, and stop after a signal."""
        has_stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not has_stepped or trainer.is_last_batch or not getattr(module, "is_whole", True):
            return
        stop = _stop_of(trainer)
        if stop or self._step // self._every > self._saved // self._every:
            self.save(trainer)
        if stop:
            raise stop

    def on_train_epoch_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Write a checkpoint after the validation and stop, if there was a signal."""
        stop = _stop_of(trainer)
        if stop and not trainer.fit_loop.done:
            self.save(trainer)
            raise stop

    def on_train_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Write the last checkpoint."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint."""
        self._before()
        self._path.parent.mkdir(exist_ok=True)
        note = f"step {trainer.global_step}"
        writes = trainer.is_global_zero
        with atomic_file(self._path, sealed=True, note=note) if writes else nullcontext():
            trainer.save_checkpoint(draft_of(self._path), weights_only=False)
        trainer.strategy.barrier()  # a process that ends too early may take the first one down
        self._saved = trainer.global_step
        if self.run_log is not None:
            self.run_log.add("checkpoint")


def _stop_of(trainer: Trainer) -> StoppedBySignal | None:
    """Return the exception to raise if a process of the run has received a signal to stop.

    All processes call it at the same time, so all of them end after the same step.
    """
    number = pending() or 0
    strategy = trainer.strategy
    if trainer.world_size > 1:
        numbers = torch.tensor(number, device=strategy.root_device)
        number = int(strategy.reduce(numbers, reduce_op="max"))
    if not number:
        return None
    # Lightning, srun and torchrun kill the first process when another ends with an error
    return StoppedBySignal(number, code=None if trainer.is_global_zero else 0)


def last_checkpoint(out_dir: Path) -> Path | None:
    """Return the checkpoint to resume from, or None.

    Raises:
        InputError: the file is damaged, or not a checkpoint of a training run.
    """
    path = out_dir / LAST_CHECKPOINT
    if not path.exists():
        return None
    check_seal(path, "Delete it to start the run again, or restore a good copy.")
    try:
        # tensors stay on the disk, and only tensors and plain values are unpickled
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        is_complete = {"state_dict", "loops", "optimizer_states"} <= set(saved)
        problem = "" if is_complete and isinstance(saved["state_dict"], dict) else "foreign"
    except _UNREADABLE as error:
        problem = (str(error) or type(error).__name__).split("\n", maxsplit=1)[0]
    if problem:
        raise InputError(
            f"{path}: not a usable checkpoint ({problem}). Delete it to start the run again, or "
            f"restore a good copy."
        )
    check_weights(_tensors(saved["state_dict"]), str(path))
    moments = _tensors(saved["optimizer_states"], "of the optimiser")
    check_weights(moments, str(path), torch.finfo(torch.float32).max)
    return path


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in nested lists and mappings, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(inner, f"{name}.{key}".removeprefix("."))


def reopen(path: Path, saved: dict[str, Any], step: int, per_step: int = 1) -> None:
    """Rewrite the checkpoint of a finished run of one epoch as one from before a step (1 or more).

    The saved weights must be those before that step, with `per_step` updates a step.
    """
    n = step * per_step
    batches = {"ready": n, "started": n, "processed": n, "completed": n - 1}
    epochs = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    updates = {"ready": n, "completed": n}
    loop = saved["loops"]["fit_loop"]
    loop["epoch_progress"] = {"total": epochs, "current": epochs}
    loop["epoch_loop.batch_progress"] = {
        "total": batches,
        "current": batches,
        "is_last_batch": False,
    }
    loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = {
        "total": updates,
        "current": updates,
    }
    loop["state_dict"]["combined_loader"] = [{"next": n}]
    counts = {"epoch": 0, "global_step": n, "next_step": step, "loader": {"next": n}}
    with atomic_file(path, sealed=True, note=f"step {step}") as draft:
        torch.save(saved | counts | {"is_cut": False}, draft)


# ---- progress


class ProgressBar(Callback):
    """Shows the progress of a training: a bar in a terminal, ten lines in a file or a pipe.

    A total of None is unknown until the training starts.
    """

    def __init__(self, name: str, unit: str, total: int | None = None) -> None:
        self._name, self._unit, self._total = name, unit, total
        self._bar = display.Bar(name, shown=False)

    @abstractmethod
    def state(self, trainer: Trainer) -> tuple[int, str]:
        """Return the number of units done, and a text to append."""

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Show the bar where the run stands."""
        is_shown = trainer.is_global_zero
        self._bar = display.Bar(self._name, self._total, self._unit, shown=is_shown, lines=10)
        self._bar.at(*self.state(trainer))
        self._bar.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, _outputs: Any, _batch: Any, _i: int
    ) -> None:
        """Move the bar."""
        self._bar.at(*self.state(trainer))

    def on_train_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Show the last state, and end the bar."""
        self._bar.at(*self.state(trainer))
        self._bar.__exit__()

    def on_exception(
        self, _trainer: Trainer, _module: LightningModule, _error: BaseException
    ) -> None:
        """End the bar before the message is printed."""
        self._bar.__exit__()


class CallsBar(ProgressBar):
    """Shows calls, samples, distinct hits and distinct scaffolds of scored molecules.

    It counts calls if there is a budget, else samples. Hits and scaffolds are counted as at the end
    of the run: under the reward of the last stage, with R >= tau, or by the target without a tau.
    """

    def __init__(
        self,
        ledger: BaseLedger,
        budget: int | None,
        most_samples: int = 0,
        tau: float | None = None,
    ) -> None:
        self._ledger, self._counts_calls, self._tau = ledger, budget is not None, tau
        self._hits, self._scaffolds, self._by = set[Any](), set[str](), ""
        unit = "calls" if self._counts_calls else "samples"
        super().__init__("posttrain", unit, budget or most_samples)

    def restore(self, rows: pd.DataFrame) -> None:
        """Count the hits and scaffolds in rows of the trace."""
        if "final_reward" in rows:
            self._by = " by the reward of the last stage"
        new = by_final_reward(new_rows(rows))
        scored = new[new["call"].notna()]
        is_hit = new["hit"].astype(bool) if self._tau is None else scored["reward"] >= self._tau
        hits = (new if self._tau is None else scored)[is_hit]
        self._hits.update(hits[identity_columns(rows)].itertuples(index=False, name=None))
        self._scaffolds |= {*scored["scaffold"].dropna()} - {""}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Count the rows of the step, and move the bar."""
        rows: pd.DataFrame = module.recorded  # type: ignore[assignment]  # it is a Posttrain
        if rows.empty:  # not the last update of the step
            return
        self.restore(rows)
        super().on_train_batch_end(trainer, module, outputs, batch, i)

    def state(self, _trainer: Trainer) -> tuple[int, str]:
        """Return the calls (or samples), and the text that follows them."""
        calls, samples = self._ledger.n_calls, self._ledger.n_samples
        n = len(self._scaffolds)
        scaffolds = f", {display.counted(n, 'scaffold')}" if n else ""
        hits = f", {len(self._hits):,} hits{scaffolds}{self._by}"
        if self._counts_calls:
            return calls, f", {samples:,} samples{hits}"
        return samples, f", {calls:,} calls{hits}"


class StepsBar(ProgressBar):
    """Shows steps, epoch and metrics, every so many steps: reading metrics waits for the device."""

    def __init__(self, name: str, every: int = 20) -> None:
        super().__init__(name, "steps")
        self._every = every
        self._epoch = 1

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the bar; the number of steps is known only now."""
        total = trainer.estimated_stepping_batches
        self._total = int(total) if total < float("inf") else None
        self._epoch = trainer.current_epoch + 1
        super().on_train_start(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """Move the bar every so many steps."""
        self._epoch = trainer.current_epoch + 1  # after the last batch Lightning counts one more
        if trainer.global_step % self._every == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, module, outputs, batch, i)

    def state(self, trainer: Trainer) -> tuple[int, str]:
        """Return the steps, and a text of epoch and metrics."""
        metrics = "".join(
            f", {name} {value:.4g}"
            for name, value in trainer.progress_bar_metrics.items()
            if isinstance(value, int | float)
        )
        return trainer.global_step, f", epoch {self._epoch}{metrics}"
