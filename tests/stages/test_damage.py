"""What a run goes on from, or a stage takes from another: one flipped bit, and it is refused."""

import hashlib
import json
import random
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import CONFIG, QED, SILENT, checkpoint_of, contents

from chemkl.config import InputError, StorageError
from chemkl.policies import RnnPolicy, Vocabulary, load_policy, save_policy
from chemkl.policies.checkpoint import WEIGHT_LIMIT
from chemkl.results import Manifest, read_trace
from chemkl.results.seal import TAG
from chemkl.stages import evaluate, posttrain, prepare, pretrain, sample

PRIOR = Path(__file__).parents[2] / "data" / "priors" / "moses.safetensors"
SAMPLE = PRIOR.parents[1] / "moses_sample" / "corpus.parquet"


def tree(folder):
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents(folder).items()}


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def bits_of(path):
    """Bits at the beginning, in the middle, at the end, and at random places."""
    n = 8 * path.stat().st_size
    return [3, n // 2, n - 1, *random.Random(path.name).sample(range(n), 5)]


def posttrain_config(prior):
    every = {"callbacks": SILENT | {"checkpoint_every": 2}}
    return CONFIG | every | {"prior": str(prior), "reward": QED, "batch_size": 8, "budget": 60}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_prior):
    """A corpus, a prior, samples, and a run that was cut off before its end."""
    folder = tmp_path_factory.mktemp("made")
    molecules = pd.read_parquet(SAMPLE)["smiles"][:200]
    (folder / "m.smi").write_text("\n".join(molecules))
    prepare.run({"source": {"kind": "file", "path": str(folder / "m.smi")}}, folder / "corpus")
    shutil.copy(tiny_prior, folder / "prior.safetensors")
    posttrain.run(posttrain_config(folder / "prior.safetensors"), folder / "run")
    manifest = Manifest.load(folder / "run")
    manifest.status = "interrupted"
    manifest.save()
    config = {"policy": str(folder / "prior.safetensors"), "n": 30}
    sample.run(config, folder / "samples")
    return folder


@pytest.fixture
def here(made, tmp_path):
    """The same at a place of its own, which the run may not notice: its prior stays."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def go_on(here, made):
    return posttrain.run(posttrain_config(made / "prior.safetensors"), here / "run")


def use_prior(here, _made):
    return posttrain.run(posttrain_config(here / "prior.safetensors"), here / "new")


def train(here, _made):
    config = {"corpus": str(here / "corpus"), "trainer": {"max_steps": 1}}
    return pretrain.run(config, here / "new")


def judge(here, _made):
    file = {"path": str(here / "samples" / "samples.parquet")}
    return evaluate.run({"samples": [file]}, here / "new")


def read(here, _made):
    return read_trace(here / "run")


USES = {
    "run/manifest.json": (go_on,),
    "run/checkpoints/last.ckpt": (go_on,),
    "run/trace/part": (go_on, read),
    "prior.safetensors": (use_prior,),
    "corpus/corpus.parquet": (train,),
    "corpus/tokens.json": (train,),
    "samples/samples.parquet": (judge,),
}


@pytest.mark.parametrize(("name", "uses"), USES.items(), ids=[*USES])
def test_one_flipped_bit_is_one_message_and_nothing_changes(here, made, name, uses):
    (file,) = here.glob(f"{name}*")
    for bit in bits_of(file):
        flip(file, bit)
        before = tree(here)
        for use in uses:
            with pytest.raises(InputError) as caught:
                use(here, made)
            assert file.name in str(caught.value), bit
            assert "\n" not in str(caught.value)
        shutil.rmtree(here / "new", ignore_errors=True)  # it says that it has failed
        assert tree(here) == before
        flip(file, bit)


def test_a_run_that_is_whole_goes_on(here, made):
    go_on(here, made)
    assert Manifest.load(here / "run").status == "complete"


def test_files_of_earlier_versions_are_read_as_before(here, made):
    prior = here / "prior.safetensors"
    with safe_open(prior, framework="pt") as file:
        metadata = {"header": file.metadata()["header"]}
    save_file(load_file(prior), prior, metadata)
    assert load_policy(prior).state_dict().keys() == load_file(prior).keys()
    part = next((here / "run" / "trace").iterdir())
    pd.read_parquet(part)
    checkpoint = here / "run" / "checkpoints" / "last.ckpt"
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    manifest = here / "run" / "manifest.json"
    plain = json.loads(manifest.read_text())
    del plain["sha256"]
    manifest.write_text(json.dumps(plain))
    for file in (prior, checkpoint, manifest):
        assert TAG not in file.read_bytes()
    go_on(here, made)


# ---- weights that no training leaves


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 1.1e4])
def test_absurd_weights_are_refused_by_the_name_of_the_tensor(tmp_path, bad):
    policy = RnnPolicy(Vocabulary.of(["C", "O"]), hidden_size=8, embedding_size=4)
    name, weight = next(iter(policy.state_dict().items()))
    weight.view(-1)[3] = bad
    save_policy(policy, tmp_path / "a.safetensors", {})
    with pytest.raises(InputError, match=rf"a\.safetensors: the weights {name} reach from"):
        load_policy(tmp_path / "a.safetensors")
    weight.view(-1)[3] = WEIGHT_LIMIT
    save_policy(policy, tmp_path / "a.safetensors", {})
    load_policy(tmp_path / "a.safetensors")


def test_so_they_are_in_a_checkpoint(here, made):
    checkpoint = here / "run" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    name = next(iter(checkpoint_of(here / "run")["state_dict"]))
    of_optimiser = ("optimizer_states", 0, "state", 0, "exp_avg")
    for keys, told in {
        ("state_dict", name): name,
        of_optimiser: r"of the optimiser\.0\.state\.0\.exp_avg",
    }.items():
        saved = checkpoint_of(here / "run")
        reduce(getitem, keys, saved).view(-1)[0] = float("nan")
        torch.save(saved, checkpoint)
        says = rf"last\.ckpt: the weights {told} reach from nan to nan"
        with pytest.raises(InputError, match=says):
            go_on(here, made)
        checkpoint.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("manifest.json", InputError, "a folder; expected a manifest"),
        ("checkpoints/policy.safetensors", StorageError, "cannot be used: Is a directory"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_one_message(here, made, name, error, told):
    (here / "run" / name).unlink()
    (here / "run" / name).mkdir()
    with pytest.raises(error, match=rf"^\S*{name}: {told}") as caught:
        go_on(here, made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "before"),
    [
        (PRIOR, "4bab8aaf322cc676941fd549bf666e2ed2043d4ec7392e99876e82ec2452e5fd"),
        (SAMPLE.parent, "9c1266cbadc7485f166b86a6f529b80be5719740c24a18a7e1decf6fa65bf087"),
    ],
)
def test_a_run_of_the_shipped_files_without_a_seal_goes_on(tmp_path, place, before):
    with Manifest.start(tmp_path, stage="posttrain", config={}, inputs={"file": place}) as first:
        pass
    path = tmp_path / "manifest.json"
    content = path.read_text(encoding="utf-8").replace(first.inputs["file"].sha256, before)
    path.write_text(json.dumps(json.loads(content)))
    assert Manifest.load(tmp_path).is_finished("posttrain", {})
    assert not Manifest.load(tmp_path).has_changed_inputs()
