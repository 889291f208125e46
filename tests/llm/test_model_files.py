"""Models that cannot be loaded: one message each, which names the file, before a folder is made."""

import json
import shutil

import pytest
from tokenizers import AddedToken

from chemkl import llm
from chemkl.config import InputError
from chemkl.config.llm import ModelConfig
from chemkl.llm import sources
from chemkl.llm.prompts import check_ids
from chemkl.stages import posttrain_llm


@pytest.fixture
def folder(tiny, tmp_path):
    """A sound model."""
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def config(tmp_path):
    """Settings of a run of one step."""

    def config(model, **changes):
        return {
            "model": str(model),
            "prompts": ["pick"],
            "max_new_tokens": 3,
            "reward": {"kind": "answers", "valid": ["1", "2"]},
            "target": {"kind": "gibbs", "beta": 0.1},
            "precision": "32-true",
            "batch_size": 8,
            "max_steps": 1,
            "trainer": {"accelerator": "cpu"},
            "callbacks": {"progress_bar": False},
        } | changes

    return config


def said_of(config, tmp_path):
    """What a run complains of; it leaves nothing behind."""
    with pytest.raises(InputError) as caught:
        posttrain_llm.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


# ---- folders


NO_OBJECT = "should hold a JSON object, {...}, and holds"
TOKENIZER = "its tokenizer's files (tokenizer.json, tokenizer_config.json)"
WEIGHTS = "its weights (model.safetensors; they are read from safetensors alone)"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "[1]", f"/config.json: {NO_OBJECT} a list"),
        ("config.json", "3", f"/config.json: {NO_OBJECT} a single value"),
        ("config.json", "{x", "/config.json: not a readable JSON file (Expecting property name "
         "enclosed in double quotes: line 1 column 2 (char 1))"),
        ("generation_config.json", "[1]", f"/generation_config.json: {NO_OBJECT} a list"),
        ("tokenizer.json", "{x", "/tokenizer.json: not a readable JSON file (Expecting property "
         "name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("tokenizer.json", "[1]", f"/tokenizer.json: {NO_OBJECT} a list"),
        ("tokenizer.json", "{}", "/tokenizer.json: not a tokenizer (Model missing. at line 1 "
         "column 2)"),
        ("tokenizer_config.json", "[]", f"/tokenizer_config.json: {NO_OBJECT} a list"),
        ("model.safetensors", "junk", "/model.safetensors: not a readable safetensors file (Error "
         "while deserializing header: header too small)"),
    ],
)  # fmt: skip
def test_a_file_that_is_spoilt_is_named(folder, config, tmp_path, file, content, said):
    (folder / file).write_text(content)
    assert said_of(config(folder), tmp_path) == f"model: {folder} cannot be loaded: {folder}{said}"


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [
        (["config.json"], "config.json"),
        (["tokenizer.json"], TOKENIZER),
        (["tokenizer.json", "tokenizer_config.json"], TOKENIZER),
        (["model.safetensors"], WEIGHTS),
        (None, f"config.json, {TOKENIZER} and {WEIGHTS}"),
    ],
)
def test_files_that_are_not_there_are_named(folder, config, tmp_path, gone, lacks):
    for file in [folder / name for name in gone] if gone else folder.iterdir():
        file.unlink()
    assert said_of(config(folder), tmp_path) == (
        f"model: {folder} cannot be loaded: {folder} lacks {lacks}: give a folder that holds a "
        "model and its tokenizer, as save_pretrained writes them"
    )


def test_weights_that_do_not_fit_the_config_are_told_with_both_shapes(folder, config, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 40}))
    # three matrices of the feed-forward part in each of two layers
    assert said_of(config(folder), tmp_path) == (
        f"model: the weights of {folder} do not fit its config.json: 6 differ in shape, such as "
        "model.layers.0.mlp.down_proj.weight, which is 16 x 32, and 16 x 40 by config.json; take "
        "both from the same model"
    )


def test_what_is_not_known_here_is_passed_on_with_its_type(folder, config, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": "x"}))
    said = said_of(config(folder), tmp_path)
    assert said.startswith(f"model: {folder} cannot be loaded: StrictDataclassField")
    assert "\n" not in said
    assert "'hidden_size' expected int, got str" in said


def test_a_file_is_no_model(config, tmp_path):
    (tmp_path / "own.yaml").write_text("a: 1\n")
    assert said_of(config(tmp_path / "own.yaml"), tmp_path) == (
        f"model: {tmp_path}/own.yaml is a file: give the folder of a model, with config.json in "
        "it, or a name on the Hugging Face hub"
    )


def test_adapters_are_no_model_and_spoilt_ones_are_named(folder, config, tmp_path):
    adapter = posttrain_llm.run(config(folder), tmp_path / "first")
    assert said_of(config(adapter), tmp_path) == (
        f"model: {adapter} cannot be loaded: {adapter} holds adapters (adapter_config.json), not a "
        "model: give the model that they were trained on"
    )
    shutil.copytree(adapter, tmp_path / "copy")
    (tmp_path / "copy" / "adapter_config.json").write_text("[1]")
    with pytest.raises(
        InputError,
        match=r"copy: the adapters cannot be loaded: .*/adapter_config\.json: should hold",
    ):
        llm.load(tmp_path / "copy")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks the adapters' weights \(adapter_model\.safetens"):
        llm.load(adapter)


# ---- the hub


@pytest.mark.parametrize("name", ["tiny", "somebody/tiny"])
def test_a_name_is_no_folder_and_not_in_the_hubs_cache(config, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert said_of(config(name), tmp_path) == (
        f"model: {name} cannot be loaded: there is no folder {tmp_path / name}, nor one beside the "
        "config file; HF_HUB_OFFLINE is set, and the hub's cache on this machine "
        f"({tmp_path}/hub) holds no {name}. Give a folder that is there, or fetch the model from "
        "the hub first"
    )


def test_a_model_in_the_hubs_cache_is_looked_into_like_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--somebody--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder, model / "snapshots" / ("a" * 40))
    (model / "snapshots" / ("a" * 40) / "tokenizer.json").write_text("{x")
    with pytest.raises(InputError, match=rf"{'a' * 40}/tokenizer\.json: not a readable JSON file"):
        sources.load_tokenizer(ModelConfig(name="somebody/tiny"))


# ---- ids


def test_a_tokenizer_with_more_ids_than_the_model_reads_is_refused(tiny, folder, config, tmp_path):
    tiny.llama(vocab_size=8).save_pretrained(folder)
    n, pick = len(tiny.vocabulary), tiny.vocabulary["pick"]
    assert said_of(config(folder), tmp_path) == (
        f"model: the tokenizer has {n} ids, the model reads 8 (vocab_size in its config.json; "
        f"prompts.0 has id {pick}): take both from the same model"
    )


@pytest.mark.parametrize(
    ("prompt", "answers", "end", "said"),
    [
        (
            (3, 25),
            ["1"],
            1,
            r"the tokenizer has 26 ids, the model reads 23 \(.*; prompts.0 has id 25",
        ),
        ((3,), ["1", "<late>"], 1, "the model reads 23 .*; answer '<late>' has id 23"),
        ((3,), ["1"], 24, "the model reads 23 .*; the token that ends a completion is id 24"),
        ((3,), ["1"], 1, None),  # special tokens that nothing uses
    ],
)
def test_ids_that_are_used_are_read(tiny, prompt, answers, end, said):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([AddedToken(each) for each in ("<late>", "<later>", "<last>")])
    (asked,) = tiny.prompts("pick")
    prompts = [type(asked)(0, "pick", "pick", prompt)]

    def check(n_read):
        check_ids(tokenizer, n_read, prompts=prompts, answers=answers, end_id=end)

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
