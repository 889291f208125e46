import pytest

from chemkl.losses import ESTIMATORS, TARGETS, Filtered, Gibbs, Mara, log_variance, reinvent, rloo
from chemkl.losses.registry import Registry


def test_what_is_registered():
    assert dict(zip(TARGETS, map(TARGETS.__getitem__, TARGETS), strict=True)) == {
        "gibbs": Gibbs,
        "filter": Filtered,
        "mara": Mara,
    }
    functions = {name: ESTIMATORS[name].function for name in ESTIMATORS}
    assert functions == {"reinvent": reinvent, "rloo": rloo, "log_variance": log_variance}
    assert ESTIMATORS["rloo"].inputs == ("logp_policy_B", "log_target_B", "beta", "group_B")


def test_a_name_is_given_once_and_the_first_stays():
    pets = Registry("pet")
    pets.add("cat", 1)
    with pytest.raises(ValueError, match="there is already a pet named 'cat'"):
        pets.register("cat")(2)
    assert pets["cat"] == 1
    assert list(pets) == ["cat"]
    assert len(pets) == 1


def test_a_miss_lists_the_names_and_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"estimator 'rlo' is not known; did you mean 'rloo'. "
        "Known: log_variance, reinvent, rloo",
    ):
        ESTIMATORS["rlo"]
    with pytest.raises(ValueError, match=r"target 'zzz' is not known\. Known: filter, gibbs, mara"):
        TARGETS["zzz"]
