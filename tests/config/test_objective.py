"""The keys of target, estimator and shaper are the options of the loss core's functions."""

import pickle
from contextlib import nullcontext

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from chemkl.config import InputError, load_config
from chemkl.config.objective import EstimatorConfig, ShaperConfig, TargetConfig, models_of
from chemkl.config.posttrain import PosttrainConfig
from chemkl.config.reward import Transform
from chemkl.losses import (
    ESTIMATORS,
    SHAPERS,
    Mara,
    build_objective,
    build_shaper,
    estimator,
    objective_from_config,
)

TARGET, ESTIMATOR, SHAPER = map(TypeAdapter, (TargetConfig, EstimatorConfig, ShaperConfig))
MODELS = [(part, kind) for part in ("target", "estimator", "shaper") for kind in models_of(part)]


def test_the_defaults_are_part_of_the_dumped_config():
    # the dump identifies a run
    assert TARGET.validate_python({"kind": "mara", "beta": 0.1, "tau": 0.8}).model_dump() == {
        "beta": 0.1,
        "sigma": None,
        "kind": "mara",
        "tau": 0.8,
        "tau_quantile": None,
        "tau_floor": None,
        "alpha": 1.0,
        "cap": None,
        "reward_on_hits": "anchor",
        "anchor": "batch",
        "anchor_quantile": 0.95,
    }
    assert ESTIMATOR.validate_python("grpo").model_dump() == {
        "duplicates": "keep",
        "kind": "grpo",
        "normalise": True,
        "clip": None,
    }
    assert SHAPER.validate_python("ucpo").model_dump() == {
        "kind": "ucpo",
        "strength": 0.2,
        "temperature": 1.0,
    }


@pytest.mark.parametrize(("part", "kind"), MODELS)
def test_every_option_has_a_type_and_a_meaning(part, kind):
    for name, field in models_of(part)[kind]().model_fields.items():
        assert name == "kind" or field.description, f"{kind}: {name}"
        assert field.annotation is not None


def test_a_config_builds_its_objective():
    options = {
        "tau_quantile": 0.9,
        "tau_floor": 0.3,
        "alpha": 0.5,
        "cap": 8.0,
        "reward_on_hits": "own",
        "anchor": "running",
        "anchor_quantile": 0.8,
    }
    target = TARGET.validate_python({"kind": "mara", "sigma": 4, **options})
    config = ESTIMATOR.validate_python({"kind": "log_variance", "duplicates": "drop"})
    objective = objective_from_config(
        {"target": target.model_dump(), "estimator": config.model_dump()}
    )
    expected = Mara(beta=0.25, **options)
    assert objective == build_objective(expected, "log_variance", duplicates="drop")
    shaper = SHAPER.validate_python({"kind": "ucpo", "strength": 0.5})
    assert build_shaper(shaper.kind, **shaper.options).options == {
        "strength": 0.5,
        "temperature": 1.0,
    }


@pytest.mark.parametrize(
    ("settings", "beta"),
    [({"kind": "gibbs", "sigma": 8}, 0.125), ({"kind": "gibbs", "beta": 0.2}, 0.2),
     ({"kind": "filter", "tau": 0.5}, 1.0)],
)  # fmt: skip
def test_resolved_beta(settings, beta):
    assert TARGET.validate_python(settings).resolved_beta == beta


INVALID = [
    (TARGET, "marra", "target 'marra' is not known; did you mean 'mara'.*filter, gibbs, mara"),
    (TARGET, {"kind": "marra", "beta": 1}, "'marra' is not known; did you mean 'mara'.*filter"),
    (TARGET, {"kind": 3}, r"target 3 is not known\. Known: filter, gibbs, mara"),
    (TARGET, 7, r"should be a mapping with kind, one of: filter, gibbs, mara .got 7."),
    (TARGET, {"beta": 1}, "required key 'kind' is not given. Known: filter, gibbs, mara"),
    (TARGET, {"kind": "gibbs", "beta": 0.1, "sigma": 10}, "both given; sigma is 1/beta"),
    (TARGET, {"kind": "gibbs"}, "beta or sigma .* is missing"),
    (TARGET, {"kind": "gibbs", "beta": 0}, "greater than 0"),
    (TARGET, {"kind": "gibbs", "sigma": float("inf")}, "finite"),
    (TARGET, {"kind": "gibbs", "beta": 0.1, "tau": 0.8}, "not a known key. Known: beta, kind"),
    (TARGET, {"kind": "mara", "beta": 0.1}, "tau is missing"),
    (
        TARGET,
        {"kind": "mara", "beta": 0.1, "tau": 0.8, "tau_quantile": 0.9, "tau_floor": 0.1},
        "tau and tau_quantile are both given",
    ),
    (TARGET, {"kind": "mara", "beta": 0.1, "tau_quantile": 0.9}, "tau_floor go together"),
    (TARGET, {"kind": "mara", "beta": 0.1, "tau": 0.8, "tau_floor": 0.1}, "tau_floor go together"),
    (TARGET, {"kind": "mara", "beta": 0.1, "tau": 0.8, "alpha": 2}, "less than or equal to 1"),
    (TARGET, {"kind": "mara", "beta": 0.1, "tau": 0.8, "anchor": "best"}, "'batch' or 'running'"),
    (TARGET, {"kind": "filter", "beta": 0.1}, "required, and not given .lowest reward of a hit"),
    (
        ESTIMATOR,
        "rlo",
        "estimator 'rlo' is not known; did you mean 'rloo'. Known: rloo, grpo, ppo",
    ),
    (ESTIMATOR, {"kind": "rloo", "duplicates": "merge"}, "'keep' or 'drop'"),
    (ESTIMATOR, {"kind": "f_dpg", "divergence": "k"}, "'kl', 'reverse_kl', 'js' or 'tv'"),
    (ESTIMATOR, {"kind": "alpha_dpg", "alpha": 1}, "alpha must lie in"),
    (ESTIMATOR, {"kind": "grpo", "clip": 0}, "greater than 0"),
    (ESTIMATOR, {"kind": "msc", "seed": 0.5}, "integer"),
    (ESTIMATOR, {"kind": "snis", "clip": 0.2}, "not a known key"),
    (ESTIMATOR, {"kind": "ahc", "top_k": 65}, "top_k must lie in"),
    (ESTIMATOR, {"kind": "ppo", "clip": 1}, "less than 1"),
    (SHAPER, "ucop", "shaper 'ucop' is not known; did you mean 'ucpo'"),
    (SHAPER, {"kind": "setpo"}, "shaper 'setpo' is not known.*Known: differential"),
    (SHAPER, {"kind": "ips", "epsilon": 0.1}, "epsilon"),
]


@pytest.mark.parametrize(("adapter", "section", "message"), INVALID)
def test_invalid_sections(adapter, section, message):
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python(section)


@pytest.mark.parametrize(
    ("adapter", "registry"), [(ESTIMATOR, ESTIMATORS), (SHAPER, SHAPERS)], ids=["losses", "shapers"]
)
def test_ranges_in_a_config_equal_those_of_the_loss_core(adapter, registry):
    for kind in registry:
        for name, option in registry[kind].signature.options.items():
            if option.range is None:
                continue
            for value in (0, -1, 0.5, 1, 1.5, float("inf"), float("nan")):
                if option.type is int:
                    continue
                is_valid = option.problem(value) is None
                with nullcontext() if is_valid else pytest.raises(ValidationError):
                    adapter.validate_python({"kind": kind, name: value})


def test_a_registered_estimator_has_config_keys(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "absolute", None)  # removed again at the end
    del ESTIMATORS["absolute"]

    @estimator("absolute", off_policy=True)
    def absolute(logp_policy_B: torch.Tensor, *, shift: float = 0.0):
        """A loss.

        Args:
            shift: nats.
        """
        return (logp_policy_B - shift).abs().mean(), {}

    assert ESTIMATOR.validate_python("absolute").shift == 0
    with pytest.raises(ValidationError, match="did you mean 'shift'"):
        ESTIMATOR.validate_python({"kind": "absolute", "shft": 1})


@pytest.mark.parametrize(
    ("settings", "adapter"),
    [
        ({"kind": "mara", "tau": 0.8, "sigma": 10}, TARGET),
        ({"kind": "f_dpg", "divergence": "js"}, ESTIMATOR),
        ("ips", SHAPER),
        ({"kind": "step", "low": 0.5}, TypeAdapter(Transform)),
        ({"kind": "value_map", "values": {1: 0.5}}, TypeAdapter(Transform)),
    ],
)
def test_settings_built_from_functions_can_be_pickled(settings, adapter):
    config = adapter.validate_python(settings)
    assert pickle.loads(pickle.dumps(config)) == config


def test_contradictions_are_named_with_their_lines(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "prior: nowhere\n"
        "reward: {components: [{kind: qed}]}\n"
        "target:\n  kind: filter\n  tau: 1.5\n"
        "shaper: ips\n"
        "estimator: reinvent\n"
    )
    with pytest.raises(InputError) as caught:
        load_config(PosttrainConfig, path)
    missing, tau, shaper, pair = str(caught.value).splitlines()
    assert missing.startswith(f"{path}:1: prior: no such file")
    assert tau.startswith(f"{path}:5: target.tau: tau is 1.5, but no reward is above 1")
    assert shaper.startswith(f"{path}:6: shaper: estimator 'reinvent' has no advantage")
    assert pair.startswith(
        f"{path}:7: estimator: estimator 'reinvent' cannot be used with the target"
    )


def test_a_misspelt_section_causes_no_problem_of_the_default_that_replaces_it():
    settings = {
        "prior": ".",
        "reward": {"components": [{"kind": "qed"}]},
        "target": {"kind": "filter", "tau": 0.5},
    }
    with pytest.raises(
        InputError, match="estimator 'rloo' cannot be used with the target 'filter'"
    ):
        load_config(PosttrainConfig, settings)
    with pytest.raises(InputError, match="estimater: not a known key; did you mean") as caught:
        load_config(PosttrainConfig, settings | {"estimater": {"kind": "snis"}})
    assert "cannot be used with" not in str(caught.value)
