"""How far a training is: a bar in a terminal, plain lines in a log file."""

import re
from types import SimpleNamespace

import pytest

from chemkl.training.trainer import CallsBar, StepsBar


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
    return [re.sub(r", \d+ s$", "", line) for line in err.splitlines()]


def test_a_log_file_gets_a_line_for_every_tenth_and_none_twice(capsys):
    trainers = [trainer_at(step, epoch=step // 21, **{"train/nll": 30.25}) for step in range(41)]
    steps(StepsBar("pretrain", every=1), *trainers)
    assert lines_of(capsys) == [
        f"pretrain: {step} of 40 steps, epoch {1 + (step >= 21)}, train/nll 30.25"
        for step in range(0, 41, 4)
    ]


def test_metrics_are_looked_at_now_and_then_only(capsys):
    steps(StepsBar("pretrain", every=20), *map(trainer_at, range(41)))
    assert lines_of(capsys) == [f"pretrain: {n} of 40 steps, epoch 1" for n in (0, 20, 40)]


def test_the_last_epoch_is_the_one_that_was_trained_in(capsys):
    bar = StepsBar("pretrain")
    bar.on_train_start(trainer_at(0, total=1), None)
    bar.on_train_batch_end(trainer_at(1, total=1), None, None, None, 0)
    bar.on_train_end(trainer_at(1, total=1, epoch=1), None)  # Lightning has counted it by then
    assert lines_of(capsys) == [f"pretrain: {n} of 1 steps, epoch 1" for n in (0, 1)]


def test_without_an_end_a_line_comes_every_thousand_steps(capsys):
    trainers = [trainer_at(step, total=float("inf")) for step in range(0, 2500, 20)]
    steps(StepsBar("pretrain"), *trainers)
    assert lines_of(capsys) == [f"pretrain: {n:,} steps, epoch 1" for n in (0, 1000, 2000)]


def test_one_process_of_several_speaks(capsys):
    steps(StepsBar("pretrain", 1), *(trainer_at(n, is_global_zero=False) for n in range(41)))
    assert lines_of(capsys) == []


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (500, "posttrain: 250 of 500 calls, 320 samples"),
        (None, "posttrain: 320 of 640 samples, 250 calls"),
    ],
)
def test_posttraining_counts_calls_or_samples(capsys, budget, line):
    ledger = SimpleNamespace(n_calls=250, n_samples=320)
    steps(CallsBar(ledger, budget, 640), trainer_at(0), trainer_at(1))
    assert lines_of(capsys) == [line]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    steps(StepsBar("pretrain", 1), *map(trainer_at, range(41)))
    assert "━" in capsys.readouterr().err
