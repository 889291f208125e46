"""Models of REINVENT: `chemkl convert`, `chemkl show`, and runs that begin with one."""

import io
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from small_runs import (
    SHORT,
    killed_at_step,
    killed_at_update,
    run_and_kill,
    same_run,
    same_weights,
    write_corpus,
)

from chemkl.config import InputError
from chemkl.config.pretrain import TransformerConfig
from chemkl.policies import build_policy, load_policy, read_header, reinvent, save_policy
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import Vocabulary
from chemkl.results import Manifest, read_trace, sha256_of
from chemkl.stages import evaluate, export, posttrain, pretrain, sample
from chemkl.stages.convert import abilities, convert
from chemkl.stages.pipeline import run as run_pipeline
from chemkl.stages.registry import MODELS
from chemkl.stages.show import show

SMILES = ["CC(=O)O", "c1ccccc1", "C", "CCNCC"]


@pytest.fixture(autouse=True)
def short_fit(monkeypatch):
    """Few steps for the end token's row, where its values do not matter."""
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))


@pytest.fixture
def model(request, tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 16, "n_layers": 2, "max_length": 40}
    policy = RnnPolicy(Vocabulary.of("()=1CNOc"), cell=getattr(request, "param", "lstm"), **sizes)
    save_policy(policy.eval(), tmp_path / "model.safetensors", {"corpus": "made up"})
    return tmp_path / "model.safetensors"


def same_model(first, second):
    logps = [load_policy(path).logp(SMILES) for path in (first, second)]
    torch.testing.assert_close(*logps, rtol=0, atol=1e-5)


def printed(what):
    stream = io.StringIO()
    show(str(what), console=Console(file=stream, width=100))
    return stream.getvalue()


def test_the_endings_of_models_are_those_that_are_read():
    assert (".safetensors", *reinvent.SUFFIXES) == MODELS


both_cells = pytest.mark.parametrize("model", ["lstm", "gru"], indirect=True)


@both_cells
def test_a_model_is_the_same_after_conversion_and_back(model, tmp_path):
    there, back = tmp_path / "model.prior", tmp_path / "back.safetensors"
    to, _, padding = convert(model, there).partition("; ")
    assert to == convert(there, back)
    assert re.fullmatch(r"padding with 90 end tokens changes log p by \d+\.\d\d nats .*", padding)
    expected = load_policy(model)
    n = sum(weight.numel() for weight in expected.parameters())
    for path in (model, there, back):
        assert load_policy(path).architecture == expected.architecture
        same_model(path, model)
        text = printed(path)
        assert f"{n:,}" in text
        assert "10 tokens: $ ^ ( ) 1 = C N O c" in text
        assert "embedding.weight   10 x 8" in text
        assert sha256_of(path) in text
    assert sha256_of(there) in text
    assert "made up" in printed(model)
    assert sha256_of(model) in read_header(there)["provenance"]["metadata"]["origina_data_source"]
    origin = read_header(back)["provenance"]
    assert (origin["sha256"], origin["file"]) == (sha256_of(there), "model.prior")


@both_cells
def test_a_checkpoint_of_a_run_with_its_filter_is_converted(model, tmp_path, monkeypatch):
    """REINVENT4 pickles the filter, with a set and a subclass of Counter, into the checkpoint."""
    name = "reinvent.runmodes.RL.memories"
    for end in (8, 17, 20, len(name)):
        monkeypatch.setitem(sys.modules, name[:end], ModuleType(name[:end]))
    module = sys.modules[name]
    for name, base in (("BucketCounter", Counter), ("IdenticalMurckoScaffold", object)):
        setattr(module, name, type(name, (base,), {"__module__": module.__name__}))
    memory = module.IdenticalMurckoScaffold()
    memory.smiles_memory = {"CCO", "C"}
    memory.scaffold_memory = module.BucketCounter({"c1ccccc1": 3})
    convert(model, tmp_path / "a.prior")
    content = torch.load(tmp_path / "a.prior", weights_only=True)
    content["staged_learning"] = {"name": "x", "version": 1, "diversity_filter": memory}
    torch.save(content, tmp_path / "a.chkpt")
    convert(tmp_path / "a.chkpt", tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors")["provenance"]["of_a_run"] is True
    same_model(tmp_path / "a.safetensors", model)


def test_a_shipped_prior_is_shown_with_its_abilities_and_card(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = " ".join(printed("moses").split())
    assert "writes C, N, O, F, S, Cl, Br cannot write P, I, B, Si, Se, metals, positive ch" in text
    assert "stereocentres (@)" in text
    assert "FCD 0.167 to the MOSES test set" in text
    assert "FCD" not in printed(model)
    with pytest.raises(InputError, match=r"moses\.safetensors: is already a model of chemkl"):
        convert("moses", tmp_path / "a.safetensors")


def test_what_a_vocabulary_can_write():
    tokens = ["$", "^", *"()12=CNOcn/", "[C@H]", "[N+]", "[18F]", "[Na]", "C(=O)N", "%10"]
    writes, lacks = abilities(tokens)
    assert writes == [
        "C", "N", "O", "F", "metals", "positive charges", "stereocentres (@)",
        "double-bond geometry (/)", "isotopes", "more than 9 open rings (%)",
    ]  # fmt: skip
    assert lacks == [
        "P", "S", "Cl", "Br", "I", "B", "Si", "Se", "negative charges",
        "salts and other pairs of molecules (.)",
    ]  # fmt: skip


def test_an_existing_file_stays_without_force(model, tmp_path, capsys, chemkl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.prior"
    out.write_bytes(b"mine")
    assert chemkl("convert", model.name, "out.prior") == 2
    assert "OUT out.prior: exists" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert chemkl("convert", model.name, "out.prior", "--fresh") == 0
    assert (tmp_path / "out.prior.old-1").read_bytes() == b"mine"
    assert chemkl("convert", model.name, "out.prior", "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors", "out.prior", "out.prior.old-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("damaged.prior", "a.safetensors", "damaged.prior: damaged or incomplete"),
        ("text.safetensors", "a.prior", "not a readable safetensors file"),
        ("mol2mol.prior", "a.safetensors", "a model of type 'Mol2Mol'; expected 'Reinvent'"),
        ("nowhere.prior", "a.safetensors", "nowhere.prior: no such model file"),
        ("model.safetensors", "a.csv", "a.csv: unknown ending. Allowed: .safetensors, .prior"),
        ("model.safetensors", "b.safetensors", "is already a model of chemkl"),
    ],
)
def test_invalid_models_and_targets_are_refused(model, tmp_path, source, target, says):
    (tmp_path / "damaged.prior").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "text.safetensors").write_text("not a model")
    save = {"model_type": "Mol2Mol", "vocabulary": {}, "network_params": {}, "network": {}}
    torch.save(save, tmp_path / "mol2mol.prior")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=says):
        convert(tmp_path / source, tmp_path / target, fresh=True)
    assert {path.name for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match="--lenient: has no meaning for this conversion"):
        convert(tmp_path / source, tmp_path / target, lenient=True)


def test_a_model_that_reinvent_has_not_is_refused_before_anything_is_fitted(tmp_path, capsys):
    sizes = {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "inner_size": 8, "max_length": 16}
    policy = build_policy(Vocabulary.of("CNO"), TransformerConfig(**sizes))
    save_policy(policy, tmp_path / "model.safetensors", {})
    with pytest.raises(InputError, match=r"a\.prior: .* LSTM and GRU models only, not transformer"):
        convert(tmp_path / "model.safetensors", tmp_path / "a.prior")
    assert "fits" not in capsys.readouterr().err


# ---- runs that begin with a model of REINVENT

POLICY = "checkpoints/policy.safetensors"
COPY = "inputs/prior.safetensors"


@pytest.fixture
def config(tiny_prior, tmp_path, monkeypatch):
    """Settings with a prior in REINVENT's format."""
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))
    convert(tiny_prior, tmp_path / "my.prior")
    return {"prior": str(tmp_path / "my.prior"), **SHORT}


def test_a_run_goes_on_and_is_read_without_the_file_that_it_began_with(
    config, tmp_path, monkeypatch, chemkl, capsys
):
    posttrain.run(config, tmp_path / "whole")
    run_and_kill(monkeypatch, killed_at_step(3), config, tmp_path / "run")
    prior, copy = Path(config["prior"]), tmp_path / "run" / COPY
    source = Manifest.load(tmp_path / "run").inputs["prior"]
    assert (source.path, source.sha256) == (str(prior), sha256_of(prior))
    assert (source.kept, source.kept_sha256) == (COPY, sha256_of(copy))
    assert same_weights(load_policy(prior).state_dict(), load_file(copy))
    prior.unlink()
    Path(tmp_path / "in.yaml").write_text(yaml.safe_dump(config))
    assert chemkl("posttrain", str(tmp_path / "in.yaml"), "--out", str(tmp_path / "run")) == 0
    assert "resumes at step 2" in capsys.readouterr().err
    same_run(tmp_path / "whole", tmp_path / "run")
    assert Manifest.load(tmp_path / "run").inputs["prior"] == source
    posttrain.run(config | {"budget": 90}, tmp_path / "run")  # and further on
    assert read_trace(tmp_path / "run")["call"].max() == 90
    evaluate.run({"runs": [str(tmp_path / "run")]}, tmp_path / "evaluated")
    export.export(tmp_path / "run", smi=tmp_path / "run.smi")
    assert len((tmp_path / "run.smi").read_text().splitlines()) == 90
    show(str(tmp_path / "run"))
    text = " ".join(capsys.readouterr().out.split())
    assert f"(sha256 {source.sha256[:12]}); kept as {COPY} ({source.kept_sha256[:12]})" in text
    with pytest.raises(InputError, match=r"prior: no such file or folder: .*my\.prior"):
        posttrain.run(config, tmp_path / "other")


def test_a_run_continues_only_with_its_first_prior(config, tiny_prior, tmp_path):
    posttrain.run(config, tmp_path / "run")
    prior, copy = Path(config["prior"]), tmp_path / "run" / COPY
    before = copy.rename(tmp_path / "before.safetensors")
    posttrain.run(config | {"budget": 80}, tmp_path / "run")
    assert same_weights(load_file(copy), load_file(before))  # anew, while the original is there
    there, before = prior.read_bytes(), copy.read_bytes()
    prior.unlink()
    copy.write_bytes(tiny_prior.read_bytes())  # sound, but another
    with pytest.raises(InputError, match=r"prior\.safetensors: has changed since .* is gone"):
        posttrain.run(config | {"budget": 100}, tmp_path / "run")
    copy.write_bytes(before[:-1])
    with pytest.raises(InputError, match=r"inputs/prior\.safetensors: "):
        posttrain.run(config | {"budget": 100}, tmp_path / "run")
    prior.write_bytes(there[:-1] + b"?")
    with pytest.raises(InputError, match=r"my\.prior: has changed since"):
        posttrain.run(config | {"budget": 100}, tmp_path / "run")


def test_the_copy_counts_as_the_prior_that_a_policy_comes_from(config, tmp_path):
    policy = posttrain.run(config, tmp_path / "run")
    settings = {"policy": str(policy), "prior": str(tmp_path / "run" / COPY), "beta_scale": 2.0}
    sample.run(settings | {"n": 8}, tmp_path / "samples")
    with pytest.raises(InputError, match="is not the one that policy"):
        sample.run(settings | {"n": 8, "prior": "moses"}, tmp_path / "others")


def test_jobs_of_a_pipeline_have_a_copy_each_and_go_on_from_it(config, tmp_path):
    data = {
        "name": "two",
        "stages": [{"stage": "posttrain", "config": config, "grid": {"seed": [0, 1]}}],
    }
    jobs = run_pipeline(data, tmp_path / "two")
    copies = [job.folder / COPY for job in jobs]
    assert len({*copies}) == 2
    assert same_weights(*map(load_file, copies))
    Path(config["prior"]).unlink()
    assert [job.status for job in run_pipeline(data, tmp_path / "two")] == ["skipped"] * 2
    config["budget"] = 80
    assert [job.status for job in run_pipeline(data, tmp_path / "two")] == ["done"] * 2
    with pytest.raises(InputError, match="prior: no such file or folder"):
        run_pipeline(data, tmp_path / "two", fresh=True)
    assert all(job.folder.exists() for job in jobs)


def test_fine_tuning_goes_on_without_the_file_that_it_began_with(config, tmp_path, monkeypatch):
    smiles = ["CCO", "CCN", "CCC", "CO", "C1CC1", "CCCO"]
    tuning = {
        "corpus": write_corpus(tmp_path / "corpus", smiles=smiles, split="train"),
        "init": config["prior"], "valid_split": None, "batch_size": 2,
        "epochs": 3, "learning_rate": 1e-3, "samples_per_epoch": 0, "report_samples": 20,
        "checkpoint_every": 1, "precision": "32-true", "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain.run(tuning, whole)
    run_and_kill(monkeypatch, killed_at_update(4), tuning, run, pretrain)
    Path(config["prior"]).unlink()
    pretrain.run(tuning, run)
    assert same_weights(*(load_file(out / POLICY) for out in (whole, run)))
    assert Manifest.load(whole).results["after"] == Manifest.load(run).results["after"]
