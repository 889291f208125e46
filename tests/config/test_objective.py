import inspect
from itertools import product
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from chemkl.config.objective import (
    ESTIMATOR_KINDS,
    EstimatorConfig,
    FilterConfig,
    GibbsConfig,
    MaraConfig,
    TargetConfig,
    TargetKind,
)
from chemkl.losses import ESTIMATORS, TARGETS, Mara, build_objective, objective_from_config

TARGET = TypeAdapter(TargetConfig)
ESTIMATOR = TypeAdapter(EstimatorConfig)
EXAMPLES = {
    "gibbs": {"kind": "gibbs", "sigma": 128},
    "mara": {"kind": "mara", "beta": 0.1, "tau": 0.8},
    "filter": {"kind": "filter", "tau": 0.8},
}


def test_the_names_are_those_of_the_loss_core():
    assert sorted(get_args(TargetKind)) == sorted(TARGETS) == sorted(EXAMPLES)
    assert sorted(ESTIMATOR_KINDS) == sorted(ESTIMATORS)


@pytest.mark.parametrize(
    ("model", "kind"), [(GibbsConfig, "gibbs"), (MaraConfig, "mara"), (FilterConfig, "filter")]
)
def test_the_options_and_their_defaults_are_those_of_the_loss_core(model, kind):
    """beta, sigma and tau are None until given on either side; all else must agree."""
    parameters = inspect.signature(TARGETS[kind]).parameters
    assert set(parameters) == set(model.model_fields) - {"kind"}
    for name, parameter in parameters.items():
        field = model.model_fields[name]
        if parameter.default is inspect.Parameter.empty:
            assert field.is_required()
        else:
            assert field.default == parameter.default


@pytest.mark.parametrize("kind", ESTIMATOR_KINDS)
def test_the_options_of_estimators_and_their_defaults_are_those_of_the_loss_core(kind):
    section = ESTIMATOR.validate_python(kind).model_dump()
    own = dict(ESTIMATORS[kind].wanted.options)
    assert section == {"kind": kind, "duplicates": "keep", **own}


@pytest.mark.parametrize(("target", "estimator"), list(product(EXAMPLES, ESTIMATOR_KINDS)))
def test_every_pair_of_configs_is_an_objective_or_refused(target, estimator):
    """Only estimators with a bounded force go with a target that is -inf outside of the hits."""
    config = TARGET.validate_python(EXAMPLES[target])
    estimator_config = ESTIMATOR.validate_python(estimator)
    sections = {"target": config.model_dump(), "estimator": estimator_config.model_dump()}
    if target == "filter" and estimator not in {"f_dpg", "alpha_dpg", "snis", "msc"}:
        message = f"estimator {estimator!r} cannot walk to the target 'filter'"
        with pytest.raises(ValueError, match=message):
            objective_from_config(sections)
    else:
        objective = objective_from_config(sections)
        assert type(objective.target) is TARGETS[target]
        assert objective.beta == config.resolved_beta
        assert objective.estimator.name == estimator


def test_a_config_becomes_the_objective_it_describes():
    config = TARGET.validate_python(
        {
            "kind": "mara",
            "sigma": 4,
            "tau_quantile": 0.9,
            "tau_floor": 0.3,
            "alpha": 0.5,
            "cap": 8,
            "reward_on_hits": "own",
            "anchor": "running",
            "anchor_quantile": 0.8,
        }
    )
    estimator = ESTIMATOR.validate_python({"kind": "log_variance", "duplicates": "drop"})
    objective = objective_from_config(
        {"target": config.model_dump(), "estimator": estimator.model_dump()}
    )
    expected = Mara(
        beta=0.25,
        tau_quantile=0.9,
        tau_floor=0.3,
        alpha=0.5,
        cap=8.0,
        reward_on_hits="own",
        anchor="running",
        anchor_quantile=0.8,
    )
    assert objective == build_objective(expected, "log_variance", duplicates="drop")


def test_resolved_beta():
    assert TARGET.validate_python({"kind": "gibbs", "sigma": 8}).resolved_beta == 0.125
    assert TARGET.validate_python({"kind": "gibbs", "beta": 0.2}).resolved_beta == 0.2
    assert TARGET.validate_python({"kind": "filter", "tau": 0.5}).resolved_beta == 1.0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "marra", "beta": 1}, "target 'marra' is not known; did you mean 'mara'.*filter"),
        ({"kind": 3}, r"target 3 is not known\. Known: filter, gibbs, mara"),
        ({"kind": "gibbs", "beta": 0.1, "sigma": 10}, r"beta \(0.1\) and sigma \(10\) are both"),
        ({"kind": "gibbs"}, "beta or sigma .* is missing; for example sigma: 128"),
        ({"kind": "gibbs", "beta": 0}, "greater than 0"),
        ({"kind": "gibbs", "sigma": float("inf")}, "finite"),
        ({"kind": "gibbs", "beta": 0.1, "tau": 0.8}, "Extra inputs are not permitted"),
        ({"kind": "mara", "beta": 0.1}, "tau is missing: a reward such as tau: 0.8"),
        (
            {"kind": "mara", "beta": 0.1, "tau": 0.8, "tau_quantile": 0.9, "tau_floor": 0.1},
            "tau and tau_quantile are both given",
        ),
        ({"kind": "mara", "beta": 0.1, "tau_quantile": 0.9}, "tau_floor go together"),
        ({"kind": "mara", "beta": 0.1, "tau": 0.8, "tau_floor": 0.1}, "tau_floor go together"),
        ({"kind": "mara", "beta": 0.1, "tau_quantile": 1, "tau_floor": 0}, "less than 1"),
        ({"kind": "mara", "beta": 0.1, "tau": 0.8, "alpha": 2}, "less than or equal to 1"),
        ({"kind": "mara", "beta": 0.1, "tau": 0.8, "cap": 0}, "greater than 0"),
        ({"kind": "mara", "beta": 0.1, "tau": 0.8, "anchor": "best"}, "'batch' or 'running'"),
        ({"kind": "mara", "beta": 0.1, "tau": 0.8, "reward_on_hits": "x"}, "'anchor', 'own' or"),
        ({"kind": "filter", "beta": 0.1}, "Field required"),
    ],
)
def test_bad_targets(section, message):
    with pytest.raises(ValidationError, match=message):
        TARGET.validate_python(section)


def test_an_estimator_by_its_bare_name():
    assert ESTIMATOR.validate_python("rloo") == ESTIMATOR.validate_python({"kind": "rloo"})
    assert ESTIMATOR.validate_python("f_dpg").divergence == "kl"


@pytest.mark.parametrize("section", ["rlo", {"kind": "rlo"}])
def test_a_misspelt_estimator(section):
    message = "estimator 'rlo' is not known; did you mean 'rloo'.*log_variance, msc, reinvent, rloo"
    with pytest.raises(ValidationError, match=message):
        ESTIMATOR.validate_python(section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "rloo", "duplicates": "merge"}, "'keep' or 'drop'"),
        ({"kind": "f_dpg", "divergence": "k"}, "'kl', 'reverse_kl', 'js' or 'tv'"),
        ({"kind": "alpha_dpg", "alpha": 1}, "less than 1"),
        ({"kind": "grpo", "clip": 0}, "greater than 0"),
        ({"kind": "snis", "clip": 0.2}, "Extra inputs are not permitted"),
    ],
)
def test_bad_estimators(section, message):
    with pytest.raises(ValidationError, match=message):
        ESTIMATOR.validate_python(section)
