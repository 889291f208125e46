"""Every kind of network, and fragments for tokens: pretrained, sampled, post-trained, continued."""

from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chemkl.policies import load_policy, read_header, save_policy
from chemkl.results import read_trace
from chemkl.stages import posttrain, pretrain
from chemkl.training import trainer

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
TINY = {
    "corpus": str(SAMPLE),
    "valid_molecules": 100,
    "precision": "32-true",
    "batch_size": 64,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "samples_per_epoch": 0,
    "checkpoint_every": 2,
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "max_steps": 6},
}
SMALL = {"hidden_size": 48, "n_layers": 1, "max_length": 60}
NETWORKS = {
    "projected": {"model": SMALL | {"projection_size": 8}},
    "transformer": {"model": SMALL | {"kind": "transformer"}},
    "mingru": {"model": SMALL | {"kind": "mingru"}},
    "fragments": {"model": SMALL, "tokens": {"merges": 40}},
}
REWARD = {"components": [{"kind": "qed"}]}
KILLED_AT = 3


class KilledError(BaseException):
    """Stands for a SIGKILL."""


class Kill(lightning.Callback):
    def on_train_batch_end(self, lightning_trainer, *_):
        if lightning_trainer.global_step == KILLED_AT:
            raise KilledError


def killed(run, config, out, monkeypatch):
    build = trainer.build_trainer

    def with_kill(out, settings, callbacks, **fixed):
        return build(out, settings, [*callbacks, Kill()], **fixed)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "build_trainer", with_kill)
        with pytest.raises(KilledError):
            run(config, out)


def same_weights(one, other):
    one, other = (load_file(out / "checkpoints/policy.safetensors") for out in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_is_saved_and_post_trains_and_goes_on_where_it_was_killed(
    name, tmp_path, monkeypatch
):
    config = TINY | NETWORKS[name]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain.run(config, whole)
    killed(pretrain.run, config, cut, monkeypatch)
    pretrain.run(config, cut)
    assert same_weights(whole, cut)

    path = whole / "checkpoints/policy.safetensors"
    prior = load_policy(path)
    assert read_header(path)["architecture"] == prior.architecture
    assert prior.architecture.items() >= config["model"].items()
    assert prior.vocabulary.has_fragments == (name == "fragments")
    drawn = prior.sample(20, torch.Generator().manual_seed(0))
    logp = prior.logp_tokens(drawn.tokens)
    torch.testing.assert_close(logp, drawn.logp, atol=1e-5, rtol=1e-6)

    with torch.no_grad():  # short sequences, some of which are molecules
        prior.linear.bias[0] += 3
    save_policy(prior, tmp_path / "short.safetensors", {})
    config = {
        "prior": str(tmp_path / "short.safetensors"), "reward": REWARD,
        "target": {"kind": "gibbs", "beta": 0.1},
        "estimator": "log_variance", "precision": "32-true", "batch_size": 32, "budget": 10_000,
        "learning_rate": 1e-2, "max_samples": 160,
        "trainer": {"accelerator": "cpu"},
        "callbacks": {"checkpoint_every": 2, "progress_bar": False},
    }  # fmt: skip
    whole, cut = tmp_path / "whole_run", tmp_path / "cut_run"
    posttrain.run(config, whole)
    killed(posttrain.run, config, cut, monkeypatch)
    posttrain.run(config, cut)
    assert same_weights(whole, cut)
    learnt = load_policy(whole / "checkpoints/policy.safetensors").state_dict()
    assert not all(torch.equal(learnt[name], value) for name, value in prior.state_dict().items())
    trace = read_trace(whole)
    pd.testing.assert_frame_equal(read_trace(cut), trace, check_exact=True)
    first = trace[trace.step == 0]  # before the first update policy and prior are one
    pd.testing.assert_series_equal(
        first.logp_policy, first.logp_ref, check_names=False, atol=1e-5, rtol=1e-6
    )
