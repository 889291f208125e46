import math
from typing import get_args

import pytest
from pydantic import TypeAdapter

from chemkl.config import reward
from chemkl.rewards.transforms import TRANSFORMS, build_transform, transform

SETTINGS = TypeAdapter(reward.Transform)


def built(**settings):
    return build_transform(SETTINGS.validate_python(settings))


def test_none_changes_nothing():
    assert built(kind="none")(0.3) == 0.3
    assert built(kind="none")(-7.25) == -7.25


# 1 / (1 + 10^(-10 k (x - 3)/2)) with low 2, high 4, k .25: exponent 1.25 (x - 3)
SIGMOID = [
    (3.0, 0.5),
    (4.0, 1 / (1 + 10**-1.25)),  # 0.9468
    (2.0, 1 / (1 + 10**1.25)),  # 0.0532
    (3.8, 1 / 1.1),  # exponent 1
    (2.2, 1 / 11),
]


@pytest.mark.parametrize(("x", "expected"), SIGMOID)
def test_sigmoid(x, expected):
    rise = built(kind="sigmoid", low=2, high=4)
    fall = built(kind="reverse_sigmoid", low=2, high=4)
    assert rise(x) == pytest.approx(expected, abs=1e-12)
    assert fall(x) == pytest.approx(1 - expected, abs=1e-12)


def test_sigmoid_steepness():
    # k 1: at high the exponent is 10/2
    assert built(kind="sigmoid", low=0, high=1, k=1)(1) == pytest.approx(1 / (1 + 1e-5), abs=1e-12)


def test_double_sigmoid():
    # defaults: slope 150/100 in both halves; low 1, high 9, middle 5
    window = built(kind="double_sigmoid", low=1, high=9)
    assert window(1) == 0.5
    assert window(9) == 0.5
    assert window(3) == pytest.approx(1 / (1 + 10**-3), abs=1e-12)  # 1.5 * 2
    assert window(7) == pytest.approx(1 / (1 + 10**-3), abs=1e-12)
    assert window(-1) == pytest.approx(1 / (1 + 10**3), abs=1e-12)
    assert window(11) == pytest.approx(1 / (1 + 10**3), abs=1e-12)


def test_double_sigmoid_sides_have_their_own_slope():
    window = built(kind="double_sigmoid", low=0, high=10, coef_div=10, coef_si=5, coef_se=20)
    assert window(2) == pytest.approx(1 / 1.1, abs=1e-12)  # rising: exponent 2 * 5/10
    assert window(9.5) == pytest.approx(1 / 1.1, abs=1e-12)  # falling: -.5 * 20/10 = -1
    assert window(5) == pytest.approx(1 - 1 / (1 + 10**10), abs=1e-12)  # the middle falls


@pytest.mark.parametrize(
    ("low", "high", "ones", "zeros"),
    [(1, 3, [1, 2, 3], [0.999, 3.001]), (None, 3, [-9, 3], [3.1]), (1, None, [1, 99], [0.9])],
)
def test_step_includes_its_ends(low, high, ones, zeros):
    inside = built(kind="step", low=low, high=high)
    assert [inside(x) for x in ones] == [1.0] * len(ones)
    assert [inside(x) for x in zeros] == [0.0] * len(zeros)


CASES = [
    {"kind": "none"},
    {"kind": "sigmoid", "low": 0, "high": 1},
    {"kind": "reverse_sigmoid", "low": 0, "high": 1},
    {"kind": "double_sigmoid", "low": 0, "high": 1},
    {"kind": "step", "low": 0},
]


@pytest.mark.parametrize("settings", CASES)
def test_nan_stays_nan(settings):
    assert math.isnan(built(**settings)(math.nan))


@pytest.mark.parametrize("settings", CASES[1:])
@pytest.mark.parametrize("x", [-1e300, -1e9, 1e9, 1e300])
def test_no_overflow_far_away(settings, x):
    assert built(**settings)(x) in {0.0, 1.0}


def test_schema_and_functions_are_the_same_list():
    union = get_args(get_args(reward.Transform)[0])
    kinds = {get_args(settings.model_fields["kind"].annotation)[0] for settings in union}
    assert kinds == set(TRANSFORMS) == {case["kind"] for case in CASES}


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="transform 'step' is registered already"):
        transform("step")(lambda x: x)
