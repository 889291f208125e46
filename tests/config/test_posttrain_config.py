"""The settings: defaults, short forms, and what is refused in which words."""

import pytest
import yaml

from chemkl.config import InputError, load_config
from chemkl.config.posttrain import PosttrainConfig

REWARD = {"components": [{"kind": "qed"}]}


@pytest.fixture
def given(tmp_path):
    """The least that a posttrain config needs; the prior is any file."""
    prior = tmp_path / "prior.safetensors"
    prior.write_bytes(b"weights")
    return {"prior": str(prior), "reward": REWARD, "target": {"kind": "gibbs", "sigma": 128}}


def load(settings):
    return load_config(PosttrainConfig, settings)


def problems(settings):
    with pytest.raises(InputError) as caught:
        load(settings)
    return str(caught.value).splitlines()


# ---- what is given and what follows from it


def test_the_defaults(given):
    config = load(given)
    assert config.agent is None
    assert config.estimator.kind == "rloo"
    assert config.diversity_filter is None
    assert (config.batch_size, config.learning_rate, config.budget) == (64, 1e-4, 10_000)
    assert config.most_samples == 100_000
    assert load(given | {"max_samples": 64}).most_samples == 64
    assert (config.seed, config.precision) == (0, "auto")
    assert config.callbacks.checkpoint_every == 50


def test_names_stand_for_sections(given):
    config = load(given | {"estimator": "log_variance", "diversity_filter": "murcko"})
    assert config.estimator.kind == "log_variance"
    murcko = {"kind": "murcko", "bucket": 25, "min_score": 0.4}
    murcko |= {"penalty": "step", "floor": 0.0, "repeats": True}
    assert config.diversity_filter.model_dump() == murcko


def test_the_objective_is_plain_values(given):
    objective = load(given | {"estimator": "reinvent"}).objective
    assert objective["target"]["kind"] == "gibbs"
    assert objective["target"]["sigma"] == 128
    assert objective["estimator"] == {"kind": "reinvent", "duplicates": "keep"}


def test_a_dumped_config_is_the_same_config(given):
    config = load(given | {"diversity_filter": "murcko", "trainer": {"accelerator": "cpu"}})
    assert load(config.model_dump(mode="json")) == config


# ---- the reward in a file


def test_a_reward_file_is_found_beside_the_config_or_from_here(given, tmp_path, monkeypatch):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "r.yaml").write_text(yaml.safe_dump(REWARD))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given | {"reward": "rewards/r.yaml"}))
    monkeypatch.chdir("/")
    config = load(tmp_path / "run.yaml")
    assert config.model_dump() == load(given).model_dump()
    assert config.reward.folder == tmp_path / "rewards"
    monkeypatch.chdir(tmp_path / "rewards")
    assert load(given | {"reward": "r.yaml"}).model_dump() == load(given).model_dump()


def test_problems_of_a_reward_file_name_its_lines(given, tmp_path):
    (tmp_path / "r.yaml").write_text("components:\n  - kind: qed\n    wieght: 1\nagregate: x\n")
    lines = problems(given | {"reward": str(tmp_path / "r.yaml")})
    assert len(lines) == 2
    assert "reward: " in lines[0]
    assert "r.yaml:3: components.0.wieght: not a known key; did you mean 'weight'" in lines[0]
    assert "r.yaml:4: agregate: not a known key; did you mean 'aggregate'" in lines[1]


def test_a_broken_reward_hides_no_tau_out_of_reach(given):
    target = {"kind": "mara", "sigma": 128, "tau": 2}
    lines = problems(given | {"reward": "nofile", "target": target})
    assert len(lines) == 2
    assert "reward: no such file or folder: " in lines[0]
    assert "target.tau: tau is 2.0, but no reward is above 1: " in lines[1]


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "says"),
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
    ],
)
def test_each_mistake_is_named(given, changes, says):
    lines = problems(given | changes)
    assert len(lines) == 1
    assert says in lines[0]


def test_all_mistakes_at_once(given):
    lines = problems(
        given
        | {
            "target": {"kind": "mara", "sigma": 1, "beta": 1},
            "estimator": "x",
            "batch_size": "many",
            "trainer": {"max_steps": 3},
            "seeds": 1,
        }
    )
    assert len(lines) == 5


@pytest.mark.parametrize(
    "name",
    [
        *("accumulate_grad_batches", "callbacks", "enable_progress_bar", "fast_dev_run"),
        *("limit_train_batches", "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"),
        *("overfit_batches", "precision", "strategy"),
    ],
)
def test_what_another_key_decides_is_not_an_argument_of_the_trainer(given, name):
    (line,) = problems(given | {"trainer": {name: 1, "accelerator": "cpu"}})
    assert f"trainer: these are not set here: {name}: " in line


@pytest.mark.parametrize("logger", ["mlflow", {"kind": "wandb", "project": "mine"}, None])
def test_a_further_logger_is_no_part_of_the_identity(given, logger):
    config = load(given | {"trainer": {"logger": logger, "accelerator": "cpu"}})
    assert config.trainer["logger"] == logger
    assert config.model_dump(mode="json")["trainer"] == {"accelerator": "cpu"}


@pytest.mark.parametrize("logger", ["csv", True, {"project": "mine"}, {"kind": "comet"}])
def test_an_unknown_logger_is_refused(given, logger):
    (line,) = problems(given | {"trainer": {"logger": logger}})
    assert "is not one of mlflow, wandb, or {kind: one of them}" in line


@pytest.mark.parametrize("devices", [1, [3], 2, "auto"])
def test_the_devices_may_be_chosen(given, devices):
    assert load(given | {"trainer": {"devices": devices}}).trainer == {"devices": devices}


# ---- a memory in stages


FIRST = {"until": {"calls": 40}}
WEIGHS, FREE = {"estimator": "rloo"}, {"estimator": "log_variance"}


@pytest.fixture
def seeded(tmp_path):
    seed = tmp_path / "seed.smi"
    seed.write_text("CCO\n")
    return {"memory": {"seed": {"path": str(seed)}}}


@pytest.fixture
def explores():
    pytest.importorskip("mol_ga")
    return {"memory": {}, "exploration": {"screen": "prior"}}


NO_POLICY = "no policy sampled its molecules, but 'rl"


def test_only_the_first_stage_has_to_take_seeds(given, seeded):
    load(given | seeded | FREE | {"stages": [FIRST, WEIGHS]})
    load(given | seeded | WEIGHS | {"stages": [FIRST | FREE, {}]})
    for top, stage in ((FREE, WEIGHS), (WEIGHS, {})):
        (line,) = problems(given | seeded | top | {"stages": [FIRST | stage, FREE]})
        assert line.startswith(f"settings: memory.seed: in stages.0: {NO_POLICY}")


def test_every_stage_has_to_take_what_is_explored(given, explores):
    load(given | explores | WEIGHS | {"stages": [FIRST | FREE, FREE]})
    for top, stage in ((FREE, WEIGHS), (WEIGHS, {})):
        (line,) = problems(given | explores | top | {"stages": [FIRST | FREE, stage]})
        assert line.startswith(f"settings: exploration: in stages.1: {NO_POLICY}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": [FIRST | {"shaper": "ips"}, {}]},
         "stages.0.shaper: 'ips' needs sampled rows"),
        ({"estimator": "f_dpg", "stages": [FIRST | FREE, {}]},
         "estimator: in stages.1: 'f_dpg' cannot learn from replayed rows"),
        ({"memory": {"draw": "hits"}, "stages": [FIRST, {}]},
         "memory.draw: in stages.0: 'hits', but the target 'gibbs' has none"),
    ],
)  # fmt: skip
def test_every_stage_has_to_take_what_is_replayed(given, changes, says):
    (line,) = problems(given | {"memory": {}} | changes)
    assert line.startswith(f"settings: {says}")


def test_a_conflict_names_the_override_that_made_it(given):
    with pytest.raises(InputError, match=r"override 'memory\.capacity=9': memory\.rows: 32 r"):
        load_config(PosttrainConfig, given | FREE | {"memory": {}}, ["memory.capacity=9"])


def test_what_explores_begins_before_the_run_ends_and_is_told_what_goes_with_it(given, explores):
    late = {"budget": 50, "exploration": {"start": 50, "screen": "prior"}}
    (line,) = problems(given | explores | FREE | late)
    assert "exploration.start: begins after 50 calls, and the run ends with budget = 50" in line
    (line,) = problems(given | explores | {"estimator": "f_dpg"})
    assert "grpo with clip" not in line
    assert "log_variance, trajectory_balance, snis" in line
