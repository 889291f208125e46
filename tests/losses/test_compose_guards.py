import dataclasses

import numpy as np
import pytest
import torch

from chemkl.losses import Gibbs, LossInputs, Mara, build_objective, objective_from_config


def test_two_betas_are_refused():
    with pytest.raises(ValueError, match=r"two betas: the target has 0.1, .* was given 0.2"):
        build_objective(target=Mara(beta=0.1, tau=0.8), beta=0.2)
    with pytest.raises(ValueError, match=r"two betas: the target has 0.1, .* was given 0.05"):
        build_objective(target=Gibbs(beta=0.1), sigma=20)
    with pytest.raises(ValueError, match=r"not both: got beta=0.1 and sigma=10"):
        build_objective(target=Gibbs(beta=0.1), beta=0.1, sigma=10)


def test_numbers_of_numpy_are_numbers():
    assert build_objective("gibbs", beta=np.float32(0.1)).beta == pytest.approx(0.1)


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="target 'marra' is not known; did you mean 'mara'"):
        build_objective("marra", beta=0.1)
    with pytest.raises(
        ValueError, match=r"estimator 'xyz' is not known.*log_variance, msc, ppo, re"
    ):
        build_objective("gibbs", "xyz", beta=0.1)
    with pytest.raises(ValueError, match="'mara' has no option 'taus'; did you mean 'tau'"):
        build_objective("mara", beta=0.1, taus=0.8)
    with pytest.raises(ValueError, match="'gibbs' has no option 'tau'"):
        build_objective("gibbs", beta=0.1, tau=0.8)
    with pytest.raises(ValueError, match="target 'filter' needs tau"):
        build_objective("filter")
    with pytest.raises(ValueError, match=r"tau: options go with a target's name.*Gibbs\(\.\.\.\)"):
        build_objective(Gibbs(beta=0.1), tau=0.8)
    with pytest.raises(ValueError, match="'f_dpg' has no option 'divergance'; did you mean 'diver"):
        build_objective("gibbs", "f_dpg", beta=0.1, estimator_options={"divergance": "js"})
    with pytest.raises(ValueError, match="estimator 'rloo' has no option 'clip': it has none"):
        build_objective("gibbs", "rloo", beta=0.1, estimator_options={"clip": 0.2})
    with pytest.raises(ValueError, match="duplicates must be 'keep' or 'drop', got 'merge'"):
        build_objective("gibbs", beta=0.1, duplicates="merge")


def test_objective_from_plain_values(batch):
    config = {
        "target": {"kind": "mara", "beta": None, "sigma": 10.0, "tau": 0.8, "cap": None},
        "estimator": {"kind": "log_variance", "duplicates": "keep"},
    }
    objective = objective_from_config(config)
    assert objective.target == Mara(beta=0.1, tau=0.8)
    assert objective.estimator.name == "log_variance"
    assert config["target"]["kind"] == "mara"  # the config is left as it was
    short = objective_from_config(
        {"target": {"kind": "gibbs", "beta": 1.0}, "estimator": "reinvent"}
    )
    assert short.estimator.name == "reinvent"
    assert (
        objective_from_config({"target": {"kind": "gibbs", "beta": 1.0}}).estimator.name == "rloo"
    )
    keys = "has the keys target, estimator and shaper, got"
    with pytest.raises(ValueError, match=rf"{keys} .'estimator'."):
        objective_from_config({"estimator": "rloo"})
    with pytest.raises(ValueError, match=rf"{keys} .'shapers', 'target'."):
        objective_from_config({"target": {"kind": "gibbs", "beta": 1.0}, "shapers": "ips"})
    with pytest.raises(ValueError, match=r"shaper 'none' is not known\. Known: "):
        objective_from_config({"target": {"kind": "gibbs", "beta": 1.0}, "shaper": "none"})
    with pytest.raises(ValueError, match="kind is missing beside beta"):
        objective_from_config({"target": {"beta": 1.0}})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_target_of_ones_own_that_is_no_density(bad):
    class Broken(Gibbs):
        def __call__(self, logp_ref_B, reward_B, group_B=None):
            output = super().__call__(logp_ref_B, reward_B, group_B)
            log_target_B = output.log_target.clone()
            log_target_B[1] = bad
            return dataclasses.replace(output, log_target=log_target_B)

    rows = torch.tensor([-1.0, -2.0, -3.0])
    objective = build_objective(Broken(beta=0.5), "f_dpg")
    with pytest.raises(ValueError, match=f"log_target of Broken is not finite .*row 1, {bad}"):
        objective(LossInputs(logp_policy=rows, logp_ref=rows, reward=-rows))


def test_every_problem_of_a_combination_is_told():
    with pytest.raises(ValueError, match="cannot walk to the target 'filter'") as caught:
        build_objective("filter", "rloo", tau=1.5, shaper="set_diversity", reward_range=(0.0, 1.0))
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(ValueError, match="no reward is above 1") as caught:
        build_objective(
            "mara", "log_variance", beta=1.0, tau=1.5, shaper="ips", reward_range=(0.0, 1.0)
        )
    assert "has no advantage" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("mara", {"tau": 1.2}, r"tau is 1\.2, but no reward is above 1: .* never be a hit"),
        ("filter", {"tau": 1.2}, r"tau is 1\.2, but no reward is above 1"),
        ("mara", {"tau_quantile": 0.9, "tau_floor": 1.2}, r"tau_floor is 1\.2, but no reward is"),
        ("mara", {"tau": 0.0}, "tau is 0.0, but what could not be .* 0 and would be a hit"),
        ("filter", {"tau": -1.0}, "would be a hit"),
        ("mara", {"tau_quantile": 0.9, "tau_floor": 0.0}, "tau_floor is 0.0.* would be a hit"),
    ],
)
def test_a_tau_is_within_reach_and_above_failure(target, options, message):
    given = {"estimator": "snis", "beta": 0.5, "reward_range": (0.0, 1.0)}
    with pytest.raises(ValueError, match=message):
        build_objective(target, **options, **given)
    last = list(options)[-1]
    build_objective(target, **options | {last: 1.0}, **given)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (torch.zeros(()), "got Tensor"),
        ((torch.zeros(3), {}), r"got a loss of shape \(3,\)"),
        (None, "got NoneType"),
    ],
)
def test_an_estimator_of_ones_own_that_returns_something_else(batch, returned, found):
    objective = build_objective("gibbs", "rloo", beta=1.0)
    odd = dataclasses.replace(objective.estimator, function=lambda **_: returned)
    with pytest.raises(ValueError, match=r"'rloo' must return \(loss, metrics\).*" + found):
        dataclasses.replace(objective, estimator=odd)(batch)
