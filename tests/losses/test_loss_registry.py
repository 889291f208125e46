import pytest

import chemkl.losses
from chemkl.losses import ESTIMATORS, TARGETS, Filtered, Gibbs, Mara
from chemkl.losses.registry import Registry


def test_what_is_registered():
    assert {"gibbs": Gibbs, "filter": Filtered, "mara": Mara} == TARGETS
    shipped = {"reinvent", "rloo", "grpo", "log_variance", "trajectory_balance", "forward_kl"}
    shipped |= {"f_dpg", "alpha_dpg", "snis", "msc"}
    assert shipped <= set(ESTIMATORS)
    for name in shipped:
        assert ESTIMATORS[name].name == name
        assert ESTIMATORS[name].function is getattr(chemkl.losses, name)


def test_inputs_and_options_are_read_off_the_signature():
    rloo = ESTIMATORS["rloo"]
    names = ("logp_policy_B", "log_target_B", "beta", "group_B", "shape", "logp_behaviour_B")
    assert rloo.wanted.inputs == names
    assert rloo.wanted.required == {"logp_policy_B", "log_target_B", "beta"}
    assert rloo.wanted.options == {}
    assert rloo.takes_shaper
    grpo = ESTIMATORS["grpo"]
    defaults = {name: option.default for name, option in grpo.wanted.options.items()}
    assert defaults == {"normalise": True, "clip": None}
    assert "rloo" in grpo.wanted.options["normalise"].meaning
    for name in ("reinvent", "log_variance", "trajectory_balance", "snis", "msc"):
        assert not ESTIMATORS[name].takes_shaper


def test_a_name_is_given_once_and_the_first_stays():
    pets = Registry("pet")
    assert pets.register("cat")(1) == 1
    with pytest.raises(ValueError, match="the pet 'cat' exists already"):
        pets.register("cat")(2)
    assert pets == {"cat": 1}


def test_a_miss_lists_the_names_and_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"estimator 'rlo' is not known; did you mean 'rloo'. "
        "Known: ahc, alpha_dpg, dpo, f_dpg, .*, rloo, snis, trajectory_balance",
    ):
        ESTIMATORS["rlo"]
    with pytest.raises(ValueError, match=r"target 'zzz' is not known\. Known: filter, gibbs, mara"):
        TARGETS["zzz"]
