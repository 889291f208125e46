"""The sample stage: tables of samples, mixtures, and refused settings."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_runs import manifest_of

from chemkl.config import InputError, load_config
from chemkl.config.prepare import SampleConfig
from chemkl.policies import Mixture, RnnPolicy, Vocabulary, load_policy, save_policy
from chemkl.results.provenance import sha256_of
from chemkl.stages import sample
from chemkl.stages.registry import STAGES


@pytest.fixture(scope="module")
def config(tiny_prior):
    return {"policy": str(tiny_prior), "n": 50, "batch_size": 20, "seed": 2}


@pytest.fixture(scope="module")
def sampled(config, tmp_path_factory):
    """Where the samples of that config are, which many tests look at."""
    return sample.run(config, tmp_path_factory.mktemp("samples"))


def test_the_table_says_of_each_sample_what_it_is(sampled, tiny_prior):
    assert sampled.name == "samples.parquet"
    rows = pd.read_parquet(sampled)
    assert list(rows.columns) == ["smiles", "logp", "n_tokens", "truncated"]
    assert len(rows) == 50  # no whole batches
    assert rows["smiles"].nunique() > 30
    names = {p.name for p in sampled.parent.iterdir() if not p.name.startswith(".")}
    assert names == {"samples.parquet", "manifest.json", "log.jsonl"}
    schema = pq.read_schema(sampled)
    assert all(field.metadata[b"description"] for field in schema)
    assert [str(field.type) for field in schema] == ["string", "float", "int32", "bool"]
    # log-probabilities and lengths are those of the text
    whole = rows[~rows["truncated"] & can_be_encoded(rows)]
    assert len(whole) > 45
    assert (whole["n_tokens"] == whole["smiles"].str.len() + 1).all()
    again = load_policy(tiny_prior).logp(whole["smiles"].tolist()).detach().numpy()
    np.testing.assert_allclose(whole["logp"], again, rtol=0, atol=1e-4)


def can_be_encoded(rows):
    """Which samples have no start token inside."""
    return ~rows["smiles"].str.contains("^", regex=False)


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
    results = manifest_of(out)["results"]
    assert (results["samples"], results["truncated"]) == (50, len(cut))
    tokens = results["tokens_a_molecule"]
    assert tokens == pytest.approx(rows["n_tokens"].mean())
    assert results["operations_a_molecule"] == pytest.approx(short.operations(1) * tokens)
    assert results["molecules_a_processor_second"] > 0


def test_again_into_the_same_folder_gives_the_same_file(config, sampled, tmp_path):
    folder = shutil.copytree(sampled.parent, tmp_path / "copy")
    (folder / ".samples.parquet.tmp").write_bytes(b"left by a kill")
    (folder / "samples.parquet").unlink()
    assert sample.run(config, folder).read_bytes() == sampled.read_bytes()
    assert not (folder / ".samples.parquet.tmp").exists()


def test_the_seed_decides_and_more_samples_begin_with_the_same_ones(config, sampled, tmp_path):
    rows = pd.read_parquet(sampled)
    few = pd.read_parquet(sample.run(config | {"n": 40}, tmp_path / "few"))
    pd.testing.assert_frame_equal(few, rows[:40])
    changed = pd.read_parquet(sample.run(config | {"seed": 3}, tmp_path / "other"))
    assert rows["smiles"].tolist() != changed["smiles"].tolist()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_worker_processes_draw_what_one_process_draws(
    config, sampled, tmp_path, monkeypatch, n_workers
):
    monkeypatch.setattr(sample, "ALONE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_workers)
    monkeypatch.setattr(sample, "GROUP", 30)
    path = sample.run(config, tmp_path / "together")
    pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(sampled))
    assert pq.ParquetFile(path).num_row_groups == 2
    results = manifest_of(tmp_path / "together")["results"]
    assert (results["workers"], results["precision"]) == (n_workers, "32-true")


def draw_environment(*_):
    return os.environ.get("CHEMKL_TEST")


@pytest.mark.parametrize("value", ["first", "second"])  # one server process for both
def test_a_worker_has_the_environment_of_the_process_that_starts_it(config, monkeypatch, value):
    monkeypatch.setenv("CHEMKL_TEST", value)
    monkeypatch.setattr(sample, "_draw", draw_environment)
    settings = load_config(SampleConfig, config | {"n": 1})
    assert list(sample._batches(settings, None, 1, bf16=False)) == [value]


def test_a_worker_that_dies_is_one_clear_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "ALONE", 1)
    monkeypatch.setattr(sample, "_start_worker", int)  # which a config is not
    with pytest.raises(InputError, match=r"worker process has died: .* batch_size below"):
        sample.run(config, tmp_path / "out")


@pytest.mark.bf16
def test_sampling_in_bf16(config, sampled, tmp_path):
    exact = pd.read_parquet(sampled)
    rounded = pd.read_parquet(sample.run(config | {"precision": "bf16-mixed"}, tmp_path / "bf16"))
    same = rounded["smiles"] == exact["smiles"]
    assert same.mean() > 0.5
    assert 0 < (rounded["logp"] - exact["logp"])[same].abs().max() < 0.5


@pytest.mark.parametrize(
    ("inside", "path", "says"),
    [
        ("config.json", "", r"m: a language model's folder \(config\.json\)"),
        ("adapter_config.json", "", r"m: a language model's folder \(adapter_config\.json\)"),
        ("config.json", "model.safetensors", r"m/model\.safetensors: weights of a language model"),
        ("checkpoints/model/config.json", "", r"m: a folder with a language model \(.*/model\)"),
    ],
)
def test_a_language_model_is_told_from_a_smiles_model(config, tmp_path, inside, path, says):
    file = tmp_path / "m" / inside
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    save_file({"weight": torch.zeros(1)}, file.parent / "model.safetensors")
    advice = r"Expected a SMILES model.*chemkl\.llm\.load samples"
    with pytest.raises(InputError, match=rf"^policy: {tmp_path}/{says}\. {advice}[^\n]*$"):
        sample.run(config | {"policy": str(tmp_path / "m" / path)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- mixtures


@pytest.fixture(scope="module")
def likes(tiny_prior, tmp_path_factory):
    """Two policies from one prior, each with a bias for an atom."""
    folder = tmp_path_factory.mktemp("likes")
    for atom in "NO":
        policy = load_policy(tiny_prior)
        with torch.no_grad():
            policy.linear.bias[policy.vocabulary.tokens.index(atom)] += 2
        from_here = {"prior_sha256": sha256_of(tiny_prior)}
        save_policy(policy, folder / f"{atom}.safetensors", from_here)
    return {atom: str(folder / f"{atom}.safetensors") for atom in "NO"}


@pytest.fixture
def mixture(likes):
    policies = {
        "likes_n": {"policy": likes["N"], "weight": 0.4},
        "likes_o": {"policy": likes["O"], "weight": 0.6},
    }
    return {"mixture": {"policies": policies}, "n": 60, "batch_size": 25, "seed": 2}


@pytest.fixture
def scaled(likes, tiny_prior):
    return {"policy": likes["N"], "prior": str(tiny_prior), "beta_scale": 2.0, "n": 60}


@pytest.mark.parametrize("kind", ["product", "harmonic"])
def test_a_mixture_reports_its_own_logp_and_that_of_each_member(mixture, likes, tmp_path, kind):
    mixture["mixture"]["kind"] = kind
    path = sample.run(mixture, tmp_path / "out")
    rows = pd.read_parquet(path)
    assert list(rows.columns) == [
        "smiles", "logp", "n_tokens", "truncated", "logp_likes_n", "logp_likes_o",
    ]  # fmt: skip
    assert len(rows) == 60
    whole = rows[~rows["truncated"] & can_be_encoded(rows)]
    assert len(whole) > 40
    members = {f"likes_{atom.lower()}": load_policy(likes[atom]) for atom in "NO"}
    both = Mixture(members, {"likes_n": 0.4, "likes_o": 0.6}, kind=kind)
    columns = {"logp": both, **{f"logp_{name}": policy for name, policy in members.items()}}
    for column, policy in columns.items():
        again = policy.logp(whole["smiles"].tolist()).detach().numpy()
        np.testing.assert_allclose(whole[column], again, rtol=0, atol=1e-4)
    description = pq.read_schema(path).field("logp_likes_n").metadata[b"description"].decode()
    assert f"under likes_n alone, whose weight in the {kind} is 0.4" in description
    # the manifest lists every model
    roles = {f"likes_{atom.lower()}": likes[atom] for atom in "NO"}
    assert manifest_of(tmp_path / "out")["inputs"] == inputs_of(roles)


def inputs_of(models):
    return {
        role: {"path": str(path), "sha256": sha256_of(Path(path))} for role, path in models.items()
    }


def test_beta_scale_moves_toward_the_prior(scaled, tmp_path):
    def nitrogens(scale):
        path = sample.run(scaled | {"beta_scale": scale, "n": 400}, tmp_path / str(scale))
        rows = pd.read_parquet(path)
        assert list(rows.columns)[-2:] == ["logp_policy", "logp_prior"]
        return rows["smiles"].str.count("N").sum() / rows["n_tokens"].sum()

    near, itself, far = nitrogens(1e6), nitrogens(1.0), nitrogens(0.7)
    assert near < nitrogens(2.0) < itself < far
    models = {role: scaled[role] for role in ("policy", "prior")}
    assert manifest_of(tmp_path / "2.0")["inputs"] == inputs_of(models)
    for role, scale in {"policy": 1.0, "prior": 1e6}.items():  # the ends are the models themselves
        path = sample.run({"policy": scaled[role], "n": 400}, tmp_path / role)
        alone, mixed = pd.read_parquet(path), pd.read_parquet(tmp_path / str(scale) / path.name)
        assert alone["smiles"].tolist() == mixed["smiles"].tolist()


def test_the_option_is_the_setting(scaled, tmp_path, chemkl, capsys):
    file = tmp_path / "scaled.yaml"
    file.write_text(yaml.safe_dump(scaled))

    def command(out, *arguments):
        return chemkl("sample", file, *arguments, "--out", tmp_path / out)

    assert command("a", "n=40", "--beta-scale", "3.5") == 0
    assert command("b", "n=40", "beta_scale=3.5") == 0
    a, b = (tmp_path / out / "samples.parquet" for out in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert manifest_of(tmp_path / "a")["config"]["beta_scale"] == 3.5
    assert command("c", "--beta-scale", "-1") == 2
    capsys.readouterr()
    for arguments in (("--beta-scale", "abc"), ("beta_scale=abc",)):
        assert command("c", *arguments) == 2
        description = "override 'beta_scale=abc': beta_scale: should be a number (got 'abc')\n"
        assert capsys.readouterr().err == description
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixture": None}, "give either policy or mixture: neither is given"),
        ({"policy": "likes_n"}, "give either policy or mixture: both are given"),
        ({"beta_scale": 2}, "beta_scale needs prior: add the model file"),
        ({"prior": "likes_n"}, "prior is used with beta_scale only"),
        ({"beta_scale": 0}, r"beta_scale: should be greater than 0 \(got 0\)"),
        ({"beta_scale": float("inf")}, "beta_scale: should be a finite number"),
        ({"mixture.kind": "sum"}, "kind: 'sum' is not allowed. Known: harmonic, product"),
        ({"mixture.policies.likes_n.weight": 0.9}, "must sum to 1, and sum to 1.5; .* likes_n"),
        ({"mixture.policies.likes_n.weight": -1}, "weight: should be greater than or equal to 0"),
        ({"mixture.policies.third.weight": 0.1}, "policies.third.policy: required, and not given"),
        ({"mixture.policies": {}}, "policies: .* at least 2"),
    ],
)
def test_mixtures_that_do_not_fit(mixture, likes, changes, says):
    changes = {k: likes["N"] if v == "likes_n" else v for k, v in changes.items()}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items() if "." in key]
    plain = {key: value for key, value in changes.items() if "." not in key}
    with pytest.raises(InputError, match=says):
        load_config(SampleConfig, mixture | plain, overrides)


def test_the_name_of_a_policy_can_be_a_column(mixture, likes, tiny_prior, tmp_path):
    policies = mixture["mixture"]["policies"]
    policies["likes o"] = {"policy": likes["O"], "weight": 0}
    with pytest.raises(InputError, match=r"letters, digits and _.*\(got 'likes o'\)"):
        load_config(SampleConfig, mixture)
    policies["prior"] = policies.pop("likes o")  # may be, where beta is not scaled
    rows = pd.read_parquet(sample.run(mixture, tmp_path / "out"))
    assert list(rows.columns)[-3:] == ["logp_likes_n", "logp_likes_o", "logp_prior"]
    scaled = mixture | {"prior": str(tiny_prior), "beta_scale": 2}
    with pytest.raises(InputError, match="a policy of the mixture is called 'prior'"):
        load_config(SampleConfig, scaled)


def test_every_model_that_does_not_go_with_the_others_is_named(mixture, scaled, likes, tmp_path):
    policies = mixture["mixture"]["policies"]
    for name, spoken in {"more": "CNO1S", "other": "CNS1"}.items():
        policy = RnnPolicy(Vocabulary.of(spoken), hidden_size=8, n_layers=1)
        save_policy(policy, tmp_path / name, {})
        policies[name] = {"policy": str(tmp_path / name), "weight": 0}
    with pytest.raises(InputError) as caught:
        sample.run(mixture, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    first = f"likes_n ({policies['likes_n']['policy']})"
    assert f"more ({tmp_path}/more): has another vocabulary than {first} (it also has " in lines[0]
    assert "(it also has S, and it lacks O)" in lines[1]
    changed = load_config(SampleConfig, scaled | {"prior": str(tmp_path / "more")})
    with pytest.raises(InputError, match=r"prior \(.*more\): has another vocabulary than"):
        STAGES["sample"].check(changed)
    with pytest.raises(InputError, match=r"O.safetensors is not the one that policy .* was post"):
        sample.run(scaled | {"prior": likes["O"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
