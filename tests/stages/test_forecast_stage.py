"""The forecast stage: what it writes and prints, and that training ends where it said."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from rdkit.Chem.Scaffolds import MurckoScaffold
from rich.console import Console

from chemkl.config import InputError
from chemkl.evaluation.forecast_targets import read_runs
from chemkl.policies import load_policy, reinvent
from chemkl.results import Manifest
from chemkl.rewards import RewardModel
from chemkl.stages import forecast, posttrain
from chemkl.stages.convert import convert

REWARD = {"components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}]}
RUN = {
    "reward": REWARD,
    "target": {"kind": "gibbs", "beta": 0.2},
    "estimator": "rloo",
    "callbacks": {"progress_bar": False},
}


@pytest.fixture(scope="module")
def config(tiny_prior):
    return {**RUN, "prior": str(tiny_prior), "n": 300, "sample_batch": 128, "taus": [0.5]}


@pytest.fixture(scope="module")
def forecasted(config, tmp_path_factory):
    """The folder and the printed text of a forecast that many tests read."""
    folder, console = tmp_path_factory.mktemp("forecast"), Console(width=120)
    with console.capture() as captured:
        assert forecast.run(config, folder, console=console) == folder / "forecast.parquet"
    return folder, captured.get()


@pytest.fixture
def quiet():
    return Console(quiet=True)


def test_it_writes_the_table_the_findings_and_the_samples(forecasted):
    folder, printed = forecasted
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    files = {"forecast.parquet", "forecast.json", "samples.parquet"}
    assert names == files | {"manifest.json", "log.jsonl"}
    for name in ("forecast.parquet", "samples.parquet"):
        assert all(field.metadata[b"description"] for field in pq.read_schema(folder / name))
    rows = pd.read_parquet(folder / "forecast.parquet")
    assert rows.groupby("target").size().to_dict() == {"prior": 1, "gibbs": 4, "mara": 4}
    assert rows[rows["own"]][["target", "beta"]].to_numpy().tolist() == [["gibbs", 0.2]]
    findings = json.loads((folder / "forecast.json").read_text())
    assert findings["targets"][0]["sentence"] in findings["sentences"]
    assert findings["samples"] == 300
    assert Manifest.load(folder).results["calls"] == findings["calls"] <= findings["valid"] < 300
    # the printed text explains itself
    text = " ".join(printed.split())
    assert all(" ".join(sentence.split()) in text for sentence in findings["sentences"])
    assert any("rossover" in sentence for sentence in findings["sentences"])
    assert "300 samples of the prior," in text
    assert "At sigma 5 the gibbs target puts" in text
    assert "of the prior's samples are hits, R >= 0.5 (95 %" in text


def test_the_samples_are_the_priors_with_their_rewards(config, forecasted):
    rows = pd.read_parquet(forecasted[0] / "samples.parquet")
    assert len(rows) == 300
    valid = rows[rows["valid"]]
    again = load_policy(config["prior"]).logp(valid["smiles"].tolist()).detach().numpy()
    np.testing.assert_allclose(valid["logp_ref"], again, rtol=0, atol=1e-4)
    assert (rows.loc[~rows["valid"], "reward"] == 0).all()
    expected = [MurckoScaffold.MurckoScaffoldSmiles(s) for s in valid["smiles"]]
    assert valid["scaffold"].tolist() == expected


def test_a_row_is_the_weighted_mean_of_the_samples(forecasted):
    """By hand: gibbs weighs draws of the prior by exp(R / beta)."""
    rows, samples = (
        pd.read_parquet(forecasted[0] / f"{n}.parquet") for n in ("forecast", "samples")
    )
    expected = rows[rows["own"]].iloc[0]
    weight = np.exp(samples["reward"] / 0.2)
    assert expected["mean_reward"] == pytest.approx(
        (weight * samples["reward"]).sum() / weight.sum()
    )
    mass = weight[samples["scaffold"].fillna("") != ""].groupby(samples["scaffold"]).sum()
    assert expected["top_share"] == pytest.approx(mass.max() / mass.sum())
    assert expected["top_scaffold"] == mass.idxmax()
    assert expected["ess"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_the_seed_decides(config, forecasted, tmp_path, quiet):
    rows = pd.read_parquet(forecasted[0] / "forecast.parquet")
    again, changed = (
        pd.read_parquet(forecast.run(config | {"seed": seed}, tmp_path / f"{seed}", console=quiet))
        for seed in (0, 3)
    )
    pd.testing.assert_frame_equal(again, rows)
    assert not rows["mean_reward"].equals(changed["mean_reward"])


def test_training_ends_where_the_forecast_said(config, tmp_path, quiet, tiny_prior):
    """A gibbs run with a mild beta, trained to convergence, agrees with the forecast.

    500 late samples know a share to 2 points (one standard error); training adds its own.
    """
    run = tmp_path / "run"
    settings = {
        "precision": "32-true",
        "batch_size": 64,
        "learning_rate": 3e-3,
        "budget": 4000,
        "max_samples": 6400,
    }
    posttrain.run({**RUN, "prior": str(tiny_prior), **settings}, run)
    settings = config | {"n": 4000, "runs": [str(run)], "late_samples": 500}
    forecast.run(settings, tmp_path / "forecast", console=quiet)
    rows = json.loads((tmp_path / "forecast" / "forecast.json").read_text())["runs"]
    prior, predicted, trained = rows
    assert [row["source"] for row in rows] == ["prior", "forecast", "trained"]
    assert [row["run"] for row in rows] == ["run"] * 3
    assert predicted["trusted"] is True
    assert predicted["mean_reward"] - prior["mean_reward"] > 0.1  # else the forecast is trivial
    assert trained["mean_reward"] == pytest.approx(predicted["mean_reward"], abs=0.06)
    assert trained["top_share"] == pytest.approx(predicted["top_share"], abs=0.15)


def test_runs_with_another_reward_or_prior_are_named_in_one_line(config, tmp_path, quiet):
    settings = {"target": RUN["target"], "reward": {"components": [{"kind": "qed"}]}}
    for name, prior in {"a": __file__, "b": config["prior"], "c": config["prior"]}.items():
        how = {"stage": "posttrain", "config": settings, "inputs": {"prior": prior}}
        Manifest.start(tmp_path / name, **how).finish()
    a, b, c = (str(tmp_path / name) for name in "abc")
    for runs, says in {
        (a,): f"runs: {a}: trained with another reward and another prior than",
        (b, c): f"runs: {b}, {c}: trained with another reward than the config",
    }.items():
        with pytest.raises(InputError) as caught:
            forecast.run(config | {"runs": [*runs]}, tmp_path / "out", console=quiet)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(says)
    assert not (tmp_path / "out").exists()


def test_a_converted_prior_is_the_one_that_it_was_made_of(tmp_path, tiny_prior, monkeypatch):
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))
    theirs, ours = tmp_path / "my.prior", tmp_path / "my.safetensors"
    convert(tiny_prior, theirs)
    convert(theirs, ours)
    reward = RewardModel.from_config(REWARD).config
    for n, (trained, prior) in enumerate(product((theirs, ours, tiny_prior), repeat=2)):
        run, settings = tmp_path / f"run{n}", {"target": RUN["target"], "reward": REWARD}
        Manifest.start(run, stage="posttrain", config=settings, inputs={"prior": trained}).finish()
        same = trained == prior or tiny_prior not in (trained, prior)
        with pytest.raises(InputError, match="no trace" if same else "with another prior than"):
            read_runs([run], prior, reward)


def test_the_file_to_train_with_is_the_file_to_forecast(
    tmp_path, tiny_prior, monkeypatch, chemkl, capsys
):
    """Both stages take the same file; their default folders differ."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump({**RUN, "prior": str(tiny_prior)}))
    assert chemkl("forecast", "mine.yaml", "n=100", "betas=0.2") == 0
    assert "output: runs/mine-forecast/forecast.parquet" in capsys.readouterr().out
