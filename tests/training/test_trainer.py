"""Checkpoints and the trainer that the stages share, on a network of one weight."""

import logging
import math
import os
import re
import signal
import threading
import warnings
from types import SimpleNamespace

import lightning
import pandas as pd
import pytest
import torch
from lightning import Callback
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from chemkl.config import InputError
from chemkl.policies.base import stream
from chemkl.training.trainer import (
    CallsBar,
    Checkpoint,
    StepsBar,
    build_trainer,
    check_trainer,
    devices_of,
    last_checkpoint,
    quiet,
    why_ended,
)


class OneWeight(lightning.LightningModule):
    """Ten batches an epoch; counts what happens."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, _index):
        return (self.weight - batch.float()).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(10), batch_size=1)


class Watch(Checkpoint):
    """Notes the step of every checkpoint that is written."""

    def __init__(self, out_dir, every):
        self.steps = []
        super().__init__(out_dir, every)

    def save(self, trainer):
        self.steps.append(trainer.global_step)
        super().save(trainer)


@pytest.fixture
def fit(tmp_path):
    def run(callbacks, **settings):
        settings = {"accelerator": "cpu", "enable_progress_bar": False} | settings
        with quiet():
            trainer = build_trainer(tmp_path, settings, callbacks, max_epochs=3)
            trainer.fit(OneWeight())
        return trainer

    return run


# ---- checkpoints


@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (4, {}, [4, 8, 12, 16, 21, 24, 28, 30]),  # 20 ends an epoch: one step later
        (10, {}, [11, 21, 30]),
        (1, {}, [*range(1, 10), *range(11, 20), *range(21, 30), 30]),
        (100, {}, [30]),
        (5, {"max_steps": 12}, [5, 11, 12]),
        # two batches a step, five steps an epoch
        (2, {"accumulate_grad_batches": 2}, [2, 4, 6, 8, 11, 12, 14, 15]),
        (1, {"accumulate_grad_batches": 2}, [*range(1, 5), *range(6, 10), *range(11, 15), 15]),
    ],
)
def test_checkpoints_are_written_when_due_but_not_at_the_end_of_an_epoch(
    tmp_path, fit, every, settings, steps
):
    assert last_checkpoint(tmp_path) is None
    watch = Watch(tmp_path, every)
    fit([watch], **settings)
    assert watch.steps == steps
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps[-1]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_written_between_updates_and_after_its_trace(tmp_path, fit):
    path, batches, exists = tmp_path / "checkpoints" / "last.ckpt", [], []

    class Counting(Watch):
        def save(self, trainer):
            batches.append(trainer.fit_loop.total_batch_idx + 1)
            super().save(trainer)

    fit([Counting(tmp_path, 1)], accumulate_grad_batches=3)
    # ten batches an epoch are steps after 3, 6, 9 and 10 batches; the tenth one ends the epoch
    assert batches == [3, 6, 9, 13, 16, 19, 23, 26, 29, 30]
    path.unlink()
    fit([Checkpoint(tmp_path, 12, before=lambda: exists.append(path.exists()))])
    assert exists == [False, True, True]


def test_a_kill_while_writing_leaves_the_older_checkpoint(tmp_path, fit, monkeypatch):
    def killed(draft, _final):
        draft.write_bytes(draft.read_bytes()[:100])
        raise KeyboardInterrupt

    class ThenKilled(Watch):
        def save(self, trainer):
            if len(self.steps) == 1:
                monkeypatch.setattr("chemkl.results.atomic.os.replace", killed)
            super().save(trainer)

    with pytest.raises(SystemExit):
        fit([ThenKilled(tmp_path, 4)])
    path = last_checkpoint(tmp_path)
    assert torch.load(path, weights_only=True)["global_step"] == 4


def test_no_process_continues_before_the_checkpoint_is_in_place(tmp_path, fit, monkeypatch):
    exists, path = [], tmp_path / "checkpoints" / "last.ckpt"

    def barrier(*_):
        exists.append(path.exists() and last_checkpoint(tmp_path) == path)

    class Then(Checkpoint):
        def save(self, trainer):
            exists.clear()
            super().save(trainer)
            assert exists[-1], "the last time that processes wait for each other"

    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.barrier", barrier)
    fit([Then(tmp_path, 100)])
    assert exists


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


DAMAGES = {
    "empty": lambda _: b"",
    "truncated": lambda whole: whole[:-300],
    "text": lambda _: b"text",
    "pickle": {"state_dict": Bomb()},
    "foreign": {"a": 1},
    "tensor": torch.ones(3),
    "no weights": {"state_dict": 1, "loops": {}, "optimizer_states": []},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unusable_checkpoint_is_named_and_not_executed(tmp_path, fit, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit([Checkpoint(tmp_path, 100)])
    path, content = tmp_path / "checkpoints" / "last.ckpt", DAMAGES[damage]
    if callable(content):
        path.write_bytes(content(path.read_bytes()))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"last\.ckpt: not a usable checkpoint \(.*\)\. Delete it"):
        last_checkpoint(tmp_path)
    assert not (tmp_path / "exploded").exists()

    def fails(*_, **__):
        raise EOFError

    monkeypatch.setattr(torch, "load", fails)  # an error without a message
    with pytest.raises(InputError, match=r"not a usable checkpoint \(EOFError\)"):
        last_checkpoint(tmp_path)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_stps": 3}, r"unknown argument 'max_stps'; did you mean 'max_steps'\? Known: max"),
        ({"self": 3}, r"unknown argument 'self'"),
        ({"max_steps": "ten"}, r"trainer: max_steps: 'ten' is not of type int"),
        ({"accumulate_grad_batches": 1.5}, r"accumulate_grad_batches: 1\.5 is not of type int"),
        ({"accumulate_grad_batches": 0}, r"accumulate_grad_batches: 0 is not allowed; 1 or more"),
        ({"gradient_clip_val": -1}, r"trainer: gradient_clip_val: -1 is not allowed; 0 or more"),
        ({"gradient_clip_val": math.nan}, r"gradient_clip_val: nan is not allowed; 0 or more"),
        ({"log_every_n_steps": -5}, r"log_every_n_steps: -5 is not allowed; 0 or more"),
        ({"num_nodes": 0}, r"trainer: num_nodes: 0 is not allowed; 1 or more"),
        ({"max_time": 5}, r"max_time: 5 is not of type Union\[str"),
        ({"benchmark": "yes"}, r"benchmark: 'yes' is not of type Optional\[bool\]"),
    ],
)
def test_arguments_that_the_trainer_does_not_take(settings, message):
    with pytest.raises(InputError, match=message):
        check_trainer(settings)


def test_a_logger_must_be_installed_and_take_its_options(monkeypatch):
    monkeypatch.setattr("chemkl.training.trainer.find_spec", {"mlflow": True}.get)
    with pytest.raises(InputError, match="mlflow has no option 'run'; did you mean 'run_id'"):
        check_trainer({"logger": {"kind": "mlflow", "run": "x"}})
    with pytest.raises(InputError, match="wandb is not installed: pip install"):
        check_trainer({"logger": "wandb"})
    check_trainer({"logger": {"kind": "mlflow", "tracking_uri": "http://here:5000"}})
    check_trainer({"logger": ["mlflow"]})  # the schema reports it


def test_every_wrong_argument_has_its_line():
    with pytest.raises(InputError) as error:
        check_trainer({"lr": 1, "min_steps": "x", "devices": 1, "stratgy": "ddp"})
    assert [line.split("'")[0] for line in str(error.value).splitlines()] == [
        "trainer: unknown argument ", "trainer: min_steps: ", "trainer: unknown argument ",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_clip_val": 0, "log_every_n_steps": 0},
        {"gradient_clip_val": None, "log_every_n_steps": None},
        {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "num_nodes": 2},
        {"devices": [0, 1], "max_time": {"minutes": 5}, "max_steps": -1},
        {"limit_train_batches": 0.5, "limit_val_batches": 3, "val_check_interval": 0.25},
        {"max_time": "00:01:00:00", "profiler": "simple", "fast_dev_run": True},
    ],
)
def test_good_arguments_pass(settings):
    check_trainer(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accelerator": "quantum"}, r"refuses its settings: .*`accelerator='quantum'`"),
        ({"strategy": "foo"}, r"refuses its settings: .*`strategy='foo'`"),
        ({"devices": 0, "accelerator": "cpu"}, r"refuses its settings: .*devices=0"),
        ({"accelerator": "tpu"}, r"refuses its settings: .*xla"),
        ({"limit_train_batches": -1}, r"refuses its settings: .*-1 for limit_train_batches"),
    ],
)
def test_what_lightning_refuses_is_an_input_error_and_makes_no_folder(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        build_trainer(tmp_path / "out", settings, [], max_epochs=1)
    assert not (tmp_path / "out").exists()


def test_settings_override_defaults_and_the_stage_overrides_settings(tmp_path):
    settings = {"accelerator": "cpu", "log_every_n_steps": 3, "max_steps": 7}
    trainer = build_trainer(tmp_path, settings, [], max_epochs=5, precision="bf16-mixed")
    assert (trainer.log_every_n_steps, trainer.max_steps, trainer.max_epochs) == (3, 7, 5)
    assert trainer.precision == "bf16-mixed"
    bar, saving = callbacks = [StepsBar("pretrain"), Checkpoint(tmp_path, 1)]
    trainer = build_trainer(tmp_path, {"accelerator": "cpu"}, callbacks)
    assert trainer.log_every_n_steps == 10
    assert {bar, saving} <= set(trainer.callbacks)
    assert trainer.progress_bar_callback is None  # Lightning's own
    settings = {"accelerator": "cpu", "enable_progress_bar": False}
    assert {bar, saving} & set(build_trainer(tmp_path, settings, callbacks).callbacks) == {saving}


# ---- signals and Slurm


SRUN = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
"""What Slurm sets in a job; and `srun` is there."""
TWO_TASKS = {
    "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip


@pytest.fixture
def srun(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "srun"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def within(**more):
        for name, value in (SRUN | more).items():
            monkeypatch.setenv(name, value)

    return within


@pytest.mark.parametrize(
    ("variables", "settings", "environment"),
    [
        ({"SLURM_NTASKS": "1"}, {}, LightningEnvironment),
        ({"SLURM_NTASKS": "1"}, {"devices": 2, "strategy": "ddp"}, LightningEnvironment),
        ({"SLURM_NTASKS": "4"}, {"devices": 1}, LightningEnvironment),  # four runs of one process
        ({"SLURM_NTASKS": "4"}, {}, LightningEnvironment),  # as there is one processor
        ({}, {"devices": 1}, LightningEnvironment),  # srun is there, and is not used
        (TWO_TASKS, {"devices": 2, "strategy": "ddp"}, SLURMEnvironment),
    ],
)
def test_slurm_starts_processes_only_where_a_run_has_several_and_requeues_nothing(
    tmp_path, srun, variables, settings, environment
):
    srun(**variables)
    trainer = build_trainer(tmp_path, {"accelerator": "cpu"} | settings, [])
    detected = trainer._accelerator_connector.cluster_environment
    assert type(detected) is environment
    assert not getattr(detected, "auto_requeue", False)


def test_a_thread_that_cannot_write_logs_leaves_no_traceback(monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))

    def fail(error):
        raise error

    with quiet():
        for error in (FileNotFoundError("logs"), OSError(28, "full"), ZeroDivisionError()):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
    assert reported == [ZeroDivisionError]


@pytest.mark.parametrize("settings", [{"devices": 1}, {}])
def test_each_task_of_srun_finds_its_device_and_writes_its_own_logs(
    tmp_path, srun, monkeypatch, settings
):
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # what Lightning finds in the variables
    srun(SLURM_NTASKS="4", SLURM_PROCID="3", SLURM_LOCALID="3", SLURM_NODEID="0")
    settings = {"accelerator": "cpu"} | settings
    assert devices_of(settings) == (torch.device("cpu"), 1)

    class Logs(OneWeight):
        def training_step(self, *batch):
            loss = super().training_step(*batch)
            self.log("loss", loss)
            return loss

    with quiet():
        build_trainer(tmp_path, {**settings, "log_every_n_steps": 1}, [], max_steps=2).fit(Logs())
    assert [path.name for path in tmp_path.rglob("metrics.csv")] == ["metrics.csv"]
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_fit_leaves_the_handlers_of_signals_alone(tmp_path, srun, fit, name):
    srun(SLURM_NTASKS="1")
    heard = []

    class Sends(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                os.kill(os.getpid(), getattr(signal, name))

    before = signal.signal(getattr(signal, name), lambda number, _frame: heard.append(number))
    try:
        trainer = fit([Sends()], max_steps=4)
    finally:
        signal.signal(getattr(signal, name), before)
    assert heard == [getattr(signal, name)]  # the caller's own handler; the fit goes on
    assert trainer.global_step == 4
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_fit_restores_the_handler_of_ctrl_c(fit):
    class Interrupts(Callback):
        def on_train_batch_end(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit([Interrupts()])
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "epochs"),
        ({"max_steps": 7}, "max_steps"),
        ({"max_steps": 31}, "epochs"),
        ({"max_steps": 30}, "max_steps"),  # both at once
        ({"max_time": "00:00:00:00"}, "max_time"),
        ({"fast_dev_run": True}, "max_steps"),
    ],
)
def test_why_a_fit_ended(fit, settings, reason):
    assert why_ended(fit([], **settings)) == reason


def test_each_start_has_its_own_log_files(tmp_path, fit):
    fit([])
    fit([])
    folders = sorted(p.name for p in (tmp_path / "logs" / "csv").iterdir())
    assert folders == ["version_0", "version_1"]
    assert len(list((tmp_path / "logs" / "tensorboard").glob("events.*"))) == 2


def test_quiet_is_a_scope():
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = logger.level
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet():
            assert logger.level == logging.WARNING
            warnings.warn("The 'x' does not have many workers which", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        assert logger.level == before
        warnings.warn("The 'x' does not have many workers which", stacklevel=1)
    assert [str(w.message)[:9] for w in heard] == ["something", "The 'x' d"]


# ---- seeds


def test_streams_differ_by_everything_that_names_them():
    def first(*name):
        return torch.rand(4, generator=stream(*name)).tolist()

    names = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 0, 0, "dropout"), (0, 11), (0, 1, 1), (1, 1)]
    assert len({tuple(first(*name)) for name in names}) == len(names)
    assert first(3, 5) == first(3, 5, 0) == first(3, 5, 0, "")
    assert stream(2**62, 10**9, 63).device.type == "cpu"


@pytest.mark.parametrize(("devices", "rank"), [(2, 1), (1, 0)])
def test_on_slurm_the_number_of_devices_tells_a_rank_from_a_run_of_its_own(
    tmp_path, srun, devices, rank
):
    srun(**TWO_TASKS | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"})
    with quiet():
        trainer = build_trainer(tmp_path, {"accelerator": "cpu", "devices": devices}, [])
    assert trainer.global_rank == rank
    trainer.loggers[1].log_metrics({"loss": 1.0}, step=0)
    trainer.loggers[1].save()
    assert bool(list(tmp_path.rglob("metrics.csv"))) == (rank == 0)  # each run has its own logs


# ---- progress: a bar in a terminal, plain lines in a log file


def trainer_at(step, total=40, epoch=0, is_global_zero=True, **metrics):
    return SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=total,
        current_epoch=epoch,
        progress_bar_metrics=metrics,
        is_last_batch=False,
        is_global_zero=is_global_zero,
    )


def steps(bar, *trainers):
    bar.on_train_start(trainers[0], None)
    for trainer in trainers[1:]:
        bar.on_train_batch_end(trainer, None, None, None, 0)
    bar.on_train_end(trainers[-1], None)


def lines_of(capsys):
    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b" not in err
    return [re.sub(r", \d+ s(, \d+ s left)?$", "", line) for line in err.splitlines()]


@pytest.mark.parametrize(
    ("every", "trainers", "lines"),
    [
        # a line for every tenth, and none twice
        (1, [trainer_at(n, epoch=n // 21, **{"train/nll": 30.25}) for n in range(41)],
         [f"{n} of 40 steps, epoch {1 + (n >= 21)}, train/nll 30.25" for n in range(0, 41, 4)]),
        # metrics are looked at now and then only
        (20, [trainer_at(n) for n in range(41)],
         [f"{n} of 40 steps, epoch 1" for n in (0, 20, 40)]),
        # without an end a line comes every thousand steps
        (20, [trainer_at(n, total=float("inf")) for n in range(0, 2500, 20)],
         [f"{n:,} steps, epoch 1" for n in (0, 1000, 2000)]),
        # only one process of several prints
        (1, [trainer_at(n, is_global_zero=False) for n in range(41)], []),
    ],
)  # fmt: skip
def test_the_lines_of_a_log_file(capsys, every, trainers, lines):
    steps(StepsBar("pretrain", every), *trainers)
    assert lines_of(capsys) == [f"pretrain: {line}" for line in lines]


def test_the_bar_ends_with_the_epoch_that_was_trained(capsys):
    bar = StepsBar("pretrain")
    bar.on_train_start(trainer_at(0, total=1), None)
    bar.on_train_batch_end(trainer_at(1, total=1), None, None, None, 0)
    bar.on_train_end(trainer_at(1, total=1, epoch=1), None)  # Lightning counts one epoch more
    assert lines_of(capsys) == [f"pretrain: {n} of 1 steps, epoch 1" for n in (0, 1)]


@pytest.mark.parametrize(
    ("budget", "first", "second"),
    [
        (500, "250 of 500 calls, 320 samples", "300 of 500 calls, 400 samples"),
        (None, "320 of 640 samples, 250 calls", "400 of 640 samples, 300 calls"),
    ],
)
@pytest.mark.parametrize("tau", [None, 0.7])
def test_the_bar_of_posttraining_counts_calls_or_samples_hits_and_scaffolds(
    capsys, budget, first, second, tau
):
    ledger = SimpleNamespace(n_calls=250, n_samples=320)
    bar = CallsBar(ledger, budget, 640, tau)
    columns = ["call", "hit", "scaffold", "canonical_smiles", "reward"]
    past = [(1, True, "c1ccccc1", "a", 0.9), (None, True, "c1ccccc1", "a", 0.9),
            (2, True, "", "b", 0.8), (3, False, None, "c", 0.7)]  # fmt: skip
    bar.restore(pd.DataFrame(past, columns=columns).assign(is_replay=False))
    new = [(4, True, "c1ccccc1", "d", 0.9), (None, True, "", "b", 0.8)]
    rows = pd.DataFrame(new, columns=columns)
    rows["is_replay"] = False
    bar.on_train_start(trainer_at(0), None)
    ledger.n_calls, ledger.n_samples = 300, 400
    further = SimpleNamespace(recorded=rows.head(0))  # not the last update of the step
    bar.on_train_batch_end(trainer_at(1), further, None, None, 0)
    bar.on_train_batch_end(trainer_at(1), SimpleNamespace(recorded=rows), None, None, 0)
    bar.on_train_end(trainer_at(1), None)
    n_hits = (2, 3) if tau is None else (3, 4)  # the filter has withheld the reward of c
    hits = [f"{n} hits, 1 scaffold" for n in n_hits]  # an acyclic molecule has none
    assert lines_of(capsys) == [
        f"posttrain: {first}, {hits[0]}",
        f"posttrain: {second}, {hits[1]}",
    ]
