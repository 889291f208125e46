"""A language model's folder of chemkl: one flipped bit, or absurd weights, and it is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from chemkl import llm
from chemkl.config import InputError
from chemkl.config.llm import ModelConfig
from chemkl.llm.sources import load_network, load_tokenizer
from chemkl.results import Manifest
from chemkl.results.atomic import atomic_folder
from chemkl.results.seal import SUMS
from chemkl.stages import posttrain_llm


@pytest.fixture
def model(tmp_path, tiny):
    with atomic_folder(tmp_path / "model") as aside:
        tiny.llama().save_pretrained(aside)
        tiny.tokenizer().save_pretrained(aside)
    return tmp_path / "model"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 0.3, 0.7, 1])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", SUMS])
def test_one_flipped_bit_is_refused(model, name, at):
    config = ModelConfig(name=model)
    load_tokenizer(config)
    load_network(config)
    flip(model / name, at)
    with pytest.raises(InputError, match=rf"{name}.* does not fit"):
        load_network(config)
    if name == "model.safetensors":
        load_tokenizer(config)  # which reads no weights
    else:
        with pytest.raises(InputError, match=rf"{name}.* does not fit"):
            load_tokenizer(config)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e5])
def test_absurd_weights_are_refused_by_the_name_of_the_tensor(model, bad):
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"].view(-1)[5] = bad
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (model / SUMS).unlink()
    with pytest.raises(InputError, match=r"model: .*the weights model\.layers\.1\.mlp\.up_proj"):
        load_network(ModelConfig(name=model))


def test_a_folder_without_checksums_is_read_as_before(model):
    (model / SUMS).unlink()
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert isinstance(load_network(ModelConfig(name=model)), torch.nn.Module)


def test_what_a_run_leaves_is_refused_with_one_flipped_bit(taught_model, tmp_path):
    config = {
        "model": str(taught_model), "adapter": {"kind": "lora", "r": 2}, "prompts": ["pick"],
        "max_new_tokens": 3, "reward": {"kind": "answers", "valid": ["1", "2"]},
        "target": {"kind": "gibbs", "beta": 0.1}, "batch_size": 4, "max_steps": 2,
        "trainer": {"accelerator": "cpu"}, "callbacks": {"progress_bar": False},
    }  # fmt: skip
    run = tmp_path / "run"
    adapter = posttrain_llm.run(config, run)
    names = ("chemkl.json", "adapter_config.json", "adapter_model.safetensors", SUMS)
    for path in [adapter / name for name in names]:
        content = path.read_bytes()
        for at in (0, 0.2, 0.5, 0.8, 1):
            flip(path, at)
            with pytest.raises(InputError, match=path.name):
                llm.load(adapter)
            path.write_bytes(content)
    llm.load(adapter)
    manifest = Manifest.load(run)
    manifest.status = "interrupted"
    manifest.save()
    for at in (0, 0.3, 0.6, 1):
        content = (run / "prompts.json").read_bytes()
        flip(run / "prompts.json", at)
        with pytest.raises(InputError, match=r"prompts\.json: not the prompts of this run"):
            posttrain_llm.run(config, run)
        (run / "prompts.json").write_bytes(content)
    posttrain_llm.run(config, run)
