"""Every kind of network, and fragments for tokens: pretrained, sampled, post-trained, continued."""

import pandas as pd
import pytest
import torch
from small_runs import (
    CONFIG,
    QED,
    SILENT,
    TINY,
    killed_at_update,
    run_and_kill,
    same_run,
    same_weights,
    weights_of,
)

from chemkl.policies import load_policy, read_header, save_policy
from chemkl.results import read_trace
from chemkl.stages import posttrain, pretrain

TINY = TINY | {
    "batch_size": 64,
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


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_is_saved_and_post_trains_and_goes_on_where_it_was_killed(
    name, tmp_path, monkeypatch
):
    config = TINY | NETWORKS[name]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain.run(config, whole)
    run_and_kill(monkeypatch, killed_at_update(3), config, cut, pretrain)
    pretrain.run(config, cut)
    assert same_weights(weights_of(whole), weights_of(cut))
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
    config = CONFIG | {
        "prior": str(tmp_path / "short.safetensors"), "reward": QED,
        "target": {"kind": "gibbs", "beta": 0.1}, "batch_size": 32, "budget": 10_000,
        "learning_rate": 1e-2, "max_samples": 160, "callbacks": SILENT | {"checkpoint_every": 2},
    }  # fmt: skip
    whole, cut = tmp_path / "whole_run", tmp_path / "cut_run"
    posttrain.run(config, whole)
    run_and_kill(monkeypatch, killed_at_update(3), config, cut)
    posttrain.run(config, cut)
    same_run(cut, whole)
    learnt = load_policy(whole / "checkpoints/policy.safetensors")
    assert not same_weights(learnt.state_dict(), prior.state_dict())
    trace = read_trace(whole)
    first = trace[trace.step == 0]  # before the first update policy and prior are one
    pd.testing.assert_series_equal(
        first.logp_policy, first.logp_ref, check_names=False, atol=1e-5, rtol=1e-6
    )
