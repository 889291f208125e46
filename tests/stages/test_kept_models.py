"""Runs that begin with a model of REINVENT: converted beside them, and not needed any more."""

from pathlib import Path

import pytest
import yaml
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
from chemkl.policies import load_policy, reinvent
from chemkl.results import Manifest, read_trace
from chemkl.results.provenance import sha256_of
from chemkl.stages import evaluate, export, posttrain, pretrain, sample
from chemkl.stages.convert import convert
from chemkl.stages.pipeline import run as run_pipeline
from chemkl.stages.show import show

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
    kept = Manifest.load(tmp_path / "run").inputs["prior"]
    assert (kept.path, kept.sha256) == (str(prior), sha256_of(prior))
    assert (kept.kept, kept.kept_sha256) == (COPY, sha256_of(copy))
    assert same_weights(load_policy(prior).state_dict(), load_file(copy))
    prior.unlink()
    Path(tmp_path / "in.yaml").write_text(yaml.safe_dump(config))
    assert chemkl("posttrain", str(tmp_path / "in.yaml"), "--out", str(tmp_path / "run")) == 0
    assert "resumes at step 2" in capsys.readouterr().err
    same_run(tmp_path / "whole", tmp_path / "run")
    assert Manifest.load(tmp_path / "run").inputs["prior"] == kept
    posttrain.run(config | {"budget": 90}, tmp_path / "run")  # and further on
    assert read_trace(tmp_path / "run")["call"].max() == 90
    evaluate.run({"runs": [str(tmp_path / "run")]}, tmp_path / "evaluated")
    export.export(tmp_path / "run", smi=tmp_path / "run.smi")
    assert len((tmp_path / "run.smi").read_text().splitlines()) == 90
    show(str(tmp_path / "run"))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"(sha256 {kept.sha256[:12]}); kept as {COPY} ({kept.kept_sha256[:12]})" in shown
    with pytest.raises(InputError, match=r"prior: no such file or folder: .*my\.prior"):
        posttrain.run(config, tmp_path / "other")


def test_what_is_kept_is_what_the_run_began_with(config, tiny_prior, tmp_path):
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
    given = {"policy": str(policy), "prior": str(tmp_path / "run" / COPY), "beta_scale": 2.0}
    sample.run(given | {"n": 8}, tmp_path / "samples")
    with pytest.raises(InputError, match="is not the one that policy"):
        sample.run(given | {"n": 8, "prior": "moses"}, tmp_path / "others")


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
