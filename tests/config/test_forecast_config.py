"""The settings: a posttrain config with a few keys more."""

from pathlib import Path

import pytest
import yaml

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import ForecastConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.stages.plan import check_file

POSTTRAIN = Path(__file__).parents[2] / "configs" / "posttrain"


@pytest.fixture
def posttrain(tmp_path):
    (tmp_path / "prior.bin").touch()
    return {
        "prior": str(tmp_path / "prior.bin"),
        "reward": {"components": [{"kind": "qed"}]},
        "target": {"kind": "mara", "sigma": 128, "tau": 0.9},
    }


@pytest.mark.parametrize("path", sorted(POSTTRAIN.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_posttrain_config_is_one_to_forecast(path):
    config = load_config(ForecastConfig, path)
    plain = load_config(PosttrainConfig, path).model_dump()
    assert {key: config.model_dump()[key] for key in plain} == plain
    assert config.n == 10_000


def test_betas_are_around_the_runs_own_unless_given(posttrain):
    own = load_config(ForecastConfig, posttrain)
    assert [1 / beta for beta in own.resolved_betas] == pytest.approx([8, 32, 128, 512])
    given = load_config(ForecastConfig, posttrain, ["sigmas=[100, 10, 100]"])
    assert given.resolved_betas == (0.1, 0.01)
    assert load_config(ForecastConfig, posttrain, ["betas=0.5"]).resolved_betas == (0.5,)
    assert load_config(ForecastConfig, posttrain, ["taus=0.5"]).taus == (0.5,)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("n=1", r"n: should be greater than or equal to 2 \(got 1\)"),
        ("betas=[0.1, 0]", r"betas\.1: should be greater than 0"),
        ("taus=[]", "taus: "),
        ("taus=x", r"taus\.0: should be a number \(got 'x'\)$"),
        ("sigmas=0", r"sigmas\.0: should be greater than 0 \(got 0\)$"),
        ("familys=3", "familys: not a known key; did you mean 'families'"),
        ("target.tau=null", "target.*tau is missing"),
    ],
)
def test_what_is_refused(posttrain, override, says):
    with pytest.raises(InputError, match=says):
        load_config(ForecastConfig, posttrain, [override])


def test_betas_and_sigmas_together_are_refused(posttrain):
    with pytest.raises(InputError, match="betas and sigmas are both given; sigma is 1/beta"):
        load_config(ForecastConfig, posttrain, ["betas=[0.1]", "sigmas=[10]"])


@pytest.mark.parametrize("more", ["", "n: 1\n"], ids=["that alone", "beside another problem"])
def test_taus_that_cannot_tell_hits_are_refused_by_check(tmp_path, tiny_prior, posttrain, more):
    """Rewards lie between 0 and 1; the schema does not know, so that check has to look as well."""
    path = tmp_path / "own.yaml"
    posttrain["prior"] = str(tiny_prior)
    path.write_text(yaml.safe_dump(posttrain) + "taus: [1.5, 0]\n" + more)
    with pytest.raises(InputError) as caught:
        check_file(path, "forecast")
    assert "taus: 1.5: no reward is that high, so nothing would be a hit" in str(caught.value)
    assert "taus: 0: all rewards are that high, so everything would be a hit" in str(caught.value)
    assert ("n: should be greater than or equal to 2" in str(caught.value)) == bool(more)


def test_check_tells_a_forecast_from_a_posttrain_by_its_own_keys(tmp_path, tiny_prior, posttrain):
    posttrain["prior"] = str(tiny_prior)
    plain, own = tmp_path / "plain.yaml", tmp_path / "own.yaml"
    plain.write_text(yaml.safe_dump(posttrain))
    own.write_text(yaml.safe_dump(posttrain | {"sigmas": [8, 128]}))
    assert check_file(plain).kind == "posttrain"
    assert check_file(own).kind == "forecast"
    assert check_file(plain, "forecast").kind == "forecast"
