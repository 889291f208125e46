"""The pretraining module: loss, learning rate, logs, and runs that are cut and continued."""

import csv
import math
from types import SimpleNamespace

import lightning
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chemkl.corpus.batches import TokenDataModule, TokenDataset
from chemkl.policies import RnnPolicy, Vocabulary
from chemkl.policies.base import pad, stream
from chemkl.training.pretrain import Pretrain, warmup_cosine
from chemkl.training.trainer import Checkpoint, build_trainer, last_checkpoint, quiet

# 46 molecules, 10 batches of 5 (the last one has a single row), three epochs
TRAIN = ["C" * i + "O" * j for i in range(1, 9) for j in range(6)][:46]
VALID = ["CCN", "C", "CCCCO", "OC", "CCO", "CN", "OCCO"]
SEED = 3


class Watch(lightning.Callback):
    """Records every batch and validation; raises after a step, as a kill would end the run."""

    def __init__(self, stop_at=None):
        self.seen, self.rates, self._stop_at = [], [], stop_at

    def on_train_batch_start(self, trainer, _module, batch, index):
        self.seen.append((trainer.current_epoch, index, batch.tolist()))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self._stop_at:
            raise ZeroDivisionError

    def on_validation_end(self, trainer, _module):
        self.seen.append(("validated", trainer.global_step))


@pytest.fixture
def fit(tmp_path):
    """Train (or continue) a tiny network in a folder; returns the module and its `Watch`."""

    def run(name="run", *, stop_at=None, every=3, epochs=3, metrics=None, policy=None, **settings):
        out = tmp_path / name
        vocabulary = Vocabulary.of("CON")
        train = TokenDataset(TRAIN, vocabulary, 1 if settings.pop("randomise", False) else None)
        data = TokenDataModule(
            train, TokenDataset(VALID, vocabulary), batch_size=5, seed=1,
            n_workers=settings.pop("n_workers", 0),
        )  # fmt: skip
        torch.manual_seed(0)
        sizes = {"embedding_size": 8, "hidden_size": 16, "n_layers": 2, "max_length": 12}
        dropout = settings.pop("dropout", 0.0)
        module = Pretrain(
            policy or RnnPolicy(vocabulary, **sizes, dropout=dropout),
            learning_rate=1e-2, warmup_steps=settings.pop("warmup_steps", 3), weight_decay=0.01,
            samples_per_epoch=settings.pop("samples_per_epoch", 4),
            sample_metrics=metrics or (lambda _: {"validity": 0.5}), seed=SEED,
        )  # fmt: skip
        watch = Watch(stop_at)
        fixed = {"max_epochs": epochs, "precision": settings.pop("precision", "32-true")}
        settings = {"accelerator": "cpu", "enable_progress_bar": False} | settings
        with quiet():
            trainer = build_trainer(out, settings, [watch, Checkpoint(out, every)], **fixed)
            start = last_checkpoint(out)
            if stop_at is None:
                trainer.fit(module, data, ckpt_path=start, weights_only=True)
            else:
                with pytest.raises(ZeroDivisionError):
                    trainer.fit(module, data, ckpt_path=start, weights_only=True)
        return module, watch

    return run


def test_replay_contributes_its_share_of_the_loss():
    vocabulary = Vocabulary.of("CON")
    sizes = {"embedding_size": 4, "hidden_size": 8, "n_layers": 1, "max_length": 12}
    policy, model = RnnPolicy(vocabulary, **sizes), RnnPolicy(vocabulary, **sizes)
    module = Pretrain(
        policy, learning_rate=1e-2, warmup_steps=0, weight_decay=0, samples_per_epoch=0,
        sample_metrics=lambda _: {}, seed=SEED, replay=(0.25, model),
    )  # fmt: skip
    module._trainer = SimpleNamespace(
        world_size=1, num_training_batches=7, current_epoch=2, global_rank=0
    )
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value.item()})
    batch = pad([vocabulary.encode(text) for text in TRAIN[:6]])
    loss = module.training_step(batch, 3)
    drawn = model.sample(2, stream(SEED, 17, 0, "replay"))  # 2 beside 6 are a quarter
    with torch.no_grad():
        new, old = -policy.logp(TRAIN[:6]).mean(), -policy.logp_tokens(drawn.tokens).mean()
    torch.testing.assert_close(loss, 0.75 * new + 0.25 * old)
    assert logged == pytest.approx({"train/nll": new.item(), "train/nll_replayed": old.item()})
    assert not [name for name in module.state_dict() if not name.startswith("policy.")]


def weights(module):
    return [value.clone() for value in module.policy.state_dict().values()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


# ---- one step


def test_one_step_is_adamw_on_the_mean_of_minus_log_p(fit):
    module, watch = fit(max_steps=1, warmup_steps=0, log_every_n_steps=1)
    torch.manual_seed(0)
    twin = RnnPolicy(
        Vocabulary.of("CON"), embedding_size=8, hidden_size=16, n_layers=2, max_length=12
    )
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.01)
    molecules = [twin.vocabulary.decode(row) for row in watch.seen[0][2]]
    loss = -torch.stack([twin.logp([s])[0] for s in molecules]).mean()
    assert module.trainer.callback_metrics["train/nll"].item() == pytest.approx(
        loss.item(), abs=1e-5
    )
    loss.backward()
    optimizer.step()
    for got, expected in zip(weights(module), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("step", "factor"),
    # warm-up of 4 steps, then 20 steps of cosine: 1 at its start, 1/2 in the middle, 0 at the end
    [(0, 0.25), (1, 0.5), (3, 1), (4, 1), (14, 0.5), (9, 0.5 + 0.5**1.5), (24, 0), (30, 0)],
)
def test_the_rate_rises_linearly_and_falls_as_half_a_cosine(step, factor):
    assert warmup_cosine(step, 4, 24) == pytest.approx(factor, abs=1e-12)
    assert warmup_cosine(0, 0, 10) == 1  # without warm-up it starts at its highest
    assert warmup_cosine(5, 5, 5) == 1  # a run as short as its warm-up does not divide by zero


@pytest.mark.parametrize(
    ("settings", "n_steps"),
    [
        ({}, 30),
        ({"max_steps": 17}, 17),
        ({"max_steps": 99}, 30),
        ({"limit_train_batches": 6}, 18),
        ({"accumulate_grad_batches": 3}, 12),  # 4 steps an epoch
    ],
)
def test_the_schedule_spans_the_whole_run(fit, settings, n_steps):
    _, watch = fit(**settings)
    n_batches = settings.get("accumulate_grad_batches", 1)
    steps = [i // n_batches if n_batches == 1 else i // 10 * 4 + i % 10 // 3
             for i in range(len(watch.rates))]  # fmt: skip
    assert steps[-1] == n_steps - 1

    def rate(step):
        if step < 3:
            return 1e-2 * (step + 1) / 3
        return 1e-2 * 0.5 * (1 + math.cos(math.pi * (step - 3) / (n_steps - 3)))

    assert watch.rates == pytest.approx([rate(step) for step in steps])


# ---- what is logged


def test_validation_is_the_mean_over_molecules_whatever_the_batches(fit):
    module, _ = fit(epochs=1)
    by_hand = -sum(module.policy.logp([s]).item() for s in VALID) / len(VALID)
    # seven molecules in batches of five and two: a mean of the batches' means would be another one
    assert module.trainer.callback_metrics["valid/nll"].item() == pytest.approx(by_hand, abs=1e-5)
    assert module.validated_at == 10


def test_cut_off_samples_are_passed_on_as_none(fit):
    passed = []
    metrics = lambda smiles: passed.append(smiles) or {"validity": 1.0}  # noqa: E731
    module, _ = fit(epochs=1, samples_per_epoch=300, metrics=metrics)
    drawn = module.policy.sample(300, stream(SEED, 10, 0))  # the seed, the step, the process
    expected = [None if c else s for s, c in zip(drawn.smiles, drawn.truncated, strict=True)]
    assert 0 < expected.count(None) < 300
    assert passed == [expected]


@pytest.mark.parametrize("n", [0, 4])
def test_samples_are_drawn_at_validations_but_not_by_the_sanity_check(fit, n):
    sizes = []
    module, _ = fit(
        epochs=1, num_sanity_val_steps=1, samples_per_epoch=n,
        metrics=lambda s: sizes.append(len(s)) or {"v": 1},
    )  # fmt: skip
    assert sizes == [4] * (n > 0)
    assert module.validated_at == 10


def test_every_epoch_is_in_both_logs(fit, tmp_path):
    count = iter(range(1, 9))
    fit(metrics=lambda _: {"validity": next(count) / 8, "novelty": 1.0}, log_every_n_steps=5)
    with (tmp_path / "run/logs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    validity = [(r["step"], r["samples/validity"]) for r in rows if r["samples/validity"]]
    assert validity == [("9", "0.125"), ("19", "0.25"), ("29", "0.375")]
    assert len([r for r in rows if r["valid/nll"]]) == 3
    assert [r["step"] for r in rows if r["train/nll"]] == ["4", "9", "14", "19", "24", "29"]
    events = EventAccumulator(str(tmp_path / "run/logs/tensorboard")).Reload()
    assert [e.value for e in events.Scalars("samples/validity")] == [0.125, 0.25, 0.375]
    assert [e.value for e in events.Scalars("samples/novelty")] == [1, 1, 1]
    assert len(events.Scalars("valid/nll")) == 3
    assert len(events.Scalars("train/nll")) == 6


def test_it_learns(fit):
    before, _ = fit("a", max_steps=1)
    after, _ = fit("b", epochs=15)
    first, last = (m.trainer.callback_metrics for m in (before, after))
    assert last["train/nll"] < 0.6 * first["train/nll"]


@pytest.mark.bf16
def test_bf16_keeps_weights_and_losses_in_float32(fit):
    module, _ = fit(precision="bf16-mixed")
    assert {value.dtype for value in weights(module)} == {torch.float32}
    metrics = module.trainer.callback_metrics
    assert metrics["train/nll"].dtype == torch.float32
    exact, _ = fit("exact")
    assert not equal(module, exact)  # the products were rounded
    reference = exact.trainer.callback_metrics["valid/nll"]
    assert metrics["valid/nll"].item() == pytest.approx(reference.item(), rel=0.05)


# ---- runs that are cut


CUTS = {
    "in the first epoch": {"stop_at": 5, "every": 4},
    "in a later epoch": {"stop_at": 17, "every": 4},
    "right after a checkpoint": {"stop_at": 8, "every": 4},
    "before the first checkpoint": {"stop_at": 2, "every": 4},
    "at the end of an epoch": {"stop_at": 10, "every": 5},
    "after the end of an epoch": {"stop_at": 11, "every": 5},
    "at the beginning of an epoch": {"stop_at": 12, "every": 11},
    "in the last epoch": {"stop_at": 29, "every": 28},
    "with spellings": {"stop_at": 15, "every": 4, "randomise": True},
    "with dropout": {"stop_at": 8, "every": 5, "dropout": 0.3},
    "in bf16": {"stop_at": 8, "every": 5, "precision": "bf16-mixed"},
    "with a limit of steps": {"stop_at": 15, "every": 7, "max_steps": 25},
    "with a limit at an epoch": {"stop_at": 15, "every": 10, "max_steps": 20},
    "with short epochs": {"stop_at": 9, "every": 4, "limit_train_batches": 6},
    "with two batches a step": {"stop_at": 9, "every": 3, "accumulate_grad_batches": 2},
    "with three batches a step": {"stop_at": 5, "every": 2, "accumulate_grad_batches": 3},
    "with validation twice an epoch": {"stop_at": 8, "every": 7, "val_check_interval": 5},
}


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(cut, id=name, marks=[pytest.mark.bf16] if "precision" in cut else [])
        for name, cut in CUTS.items()
    ],
)
def test_a_run_that_is_cut_and_continued_is_the_run_that_was_not(fit, cut):
    settings = {key: value for key, value in cut.items() if key != "stop_at"}
    whole, all_seen = fit("whole", **settings)
    _, first_seen = fit("cut", **cut)
    continued, then_seen = fit("cut", **settings)
    assert equal(whole, continued)
    assert continued.global_step == whole.global_step
    # the same batches and validations to the end; only steps since the checkpoint are repeated
    n_rest = len(then_seen.seen)
    assert then_seen.seen == all_seen.seen[-n_rest:]
    assert len(first_seen.seen) + n_rest >= len(all_seen.seen)
    assert len(first_seen.seen) + n_rest - len(all_seen.seen) <= 12
    assert then_seen.rates == all_seen.rates[-len(then_seen.rates) :]


def test_a_run_may_be_cut_more_than_once_and_ends_once(fit):
    whole, _ = fit("whole", randomise=True)
    for stop_at in (2, 5, 10, 11, 19, 29):
        fit("cut", stop_at=stop_at, randomise=True)
    continued, _ = fit("cut", randomise=True)
    again, watch = fit("cut", randomise=True)  # a finished run is not trained further
    assert watch.seen == []
    assert equal(whole, continued)
    assert equal(whole, again)


def test_workers_make_the_same_run(fit):
    whole, all_seen = fit("whole", epochs=1, randomise=True)
    other, seen = fit("workers", epochs=1, randomise=True, n_workers=1)
    assert seen.seen == all_seen.seen
    assert equal(whole, other)


@pytest.mark.slow
def test_three_processes_make_the_step_of_one(fit):
    # the last batch of an epoch has one row: two of the three processes have none
    whole, _ = fit("whole", epochs=2, samples_per_epoch=0)
    shared, _ = fit(
        "shared", epochs=2, samples_per_epoch=0, devices=3, strategy="ddp_fork", metrics=len
    )
    for a, b in zip(weights(whole), weights(shared), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
