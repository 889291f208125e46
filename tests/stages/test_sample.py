"""The sample stage: how many rows, that they repeat, and what they say."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.policies import RnnPolicy, load_policy, save_policy
from chemkl.stages import sample


@pytest.fixture
def config(tiny_prior):
    return {"policy": str(tiny_prior), "n": 50, "batch_size": 20, "seed": 2}


def test_n_need_not_be_a_multiple_of_the_batch_size(config, tmp_path):
    path = sample.run(config, tmp_path)
    assert path == tmp_path / "samples.parquet"
    rows = pd.read_parquet(path)
    assert list(rows.columns) == ["smiles", "logp", "n_tokens", "truncated"]
    assert len(rows) == 50
    assert rows["smiles"].nunique() > 30
    shown = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")}
    assert shown == {"samples.parquet", "manifest.json"}


def test_every_column_says_what_it_means(config, tmp_path):
    schema = pq.read_schema(sample.run(config, tmp_path))
    assert all(field.metadata[b"description"] for field in schema)
    assert [str(field.type) for field in schema] == ["string", "float", "int32", "bool"]


def test_log_probabilities_and_lengths_are_those_of_the_text(config, tmp_path, tiny_prior):
    rows = pd.read_parquet(sample.run(config | {"n": 200}, tmp_path))
    policy = load_policy(tiny_prior)
    start_inside = rows["smiles"].str.contains("^", regex=False)  # cannot be encoded
    whole = rows[~rows["truncated"] & ~start_inside]
    assert len(whole) > 180
    assert (whole["n_tokens"] == whole["smiles"].str.len() + 1).all()
    again = policy.logp(whole["smiles"].tolist()).detach().numpy()
    np.testing.assert_allclose(whole["logp"], again, rtol=0, atol=1e-4)


def test_truncated_rows_are_marked(config, tmp_path, tiny_prior):
    policy = load_policy(tiny_prior)
    short = RnnPolicy(policy.vocabulary, **{**policy._sizes, "max_length": 6})
    short.load_state_dict(policy.state_dict())
    save_policy(short, tmp_path / "short.safetensors", {})
    out = tmp_path / "out"
    rows = pd.read_parquet(sample.run(config | {"policy": tmp_path / "short.safetensors"}, out))
    cut = rows[rows["truncated"]]
    assert 5 < len(cut) < 50
    assert (cut["n_tokens"] == 6).all()
    results = json.loads((out / "manifest.json").read_text())["results"]
    assert results == {"samples": 50, "truncated": len(cut)}


def test_the_seed_decides(config, tmp_path):
    a, b, c = (
        pd.read_parquet(sample.run(config | {"seed": seed}, tmp_path / name))
        for name, seed in (("a", 2), ("b", 2), ("c", 3))
    )
    pd.testing.assert_frame_equal(a, b)
    assert a["smiles"].tolist() != c["smiles"].tolist()


def test_batches_differ_from_each_other(config, tmp_path):
    rows = pd.read_parquet(sample.run(config | {"n": 40}, tmp_path))
    assert rows["smiles"][:20].tolist() != rows["smiles"][20:].tolist()


def test_more_samples_of_one_seed_begin_with_the_same_ones(config, tmp_path):
    few = pd.read_parquet(sample.run(config | {"n": 40}, tmp_path / "few"))
    more = pd.read_parquet(sample.run(config | {"n": 60}, tmp_path / "more"))
    pd.testing.assert_frame_equal(few, more[:40])


def test_again_into_the_same_folder_gives_the_same_file(config, tmp_path):
    first = sample.run(config, tmp_path).read_bytes()
    (tmp_path / ".samples.parquet.tmp").write_bytes(b"what a kill left")
    assert sample.run(config, tmp_path).read_bytes() == first
    assert not (tmp_path / ".samples.parquet.tmp").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:a"])
def test_a_device_that_is_not_there_is_an_input_error(config, tmp_path, device):
    with pytest.raises(InputError, match=f"device: '{device}' cannot be used here: "):
        sample.run(config | {"device": device}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_problem_in_one_message(config, tmp_path):
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InputError) as caught:
        sample.run(config | {"policy": str(tmp_path / "junk"), "device": "gpu"}, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "junk: not a readable safetensors file" in lines[0]
    assert "device: 'gpu'" in lines[1]


def test_a_folder_with_other_samples_is_left_alone(config, tmp_path):
    path = sample.run(config, tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"seed: 2 in the folder, 9 in the new config"):
        sample.run(config | {"seed": 9}, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": 0}, r"n: should be greater than or equal to 1 \(got 0\)"),
        ({"batch": 3}, "batch: not a known key; did you mean 'batch_size'"),
        ({"policy": "nowhere.safetensors"}, "policy: no such file or folder"),
    ],
)
def test_settings_that_do_not_fit(config, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        sample.run(config | changes, tmp_path / "out")
