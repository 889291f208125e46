"""Each transform by its formula, and invalid settings."""

import math

import pytest
from pydantic import TypeAdapter

from chemkl.config import InputError, reward
from chemkl.config.loading import load_config
from chemkl.config.reward import SETTINGS, Transform, transform

ADAPTER = TypeAdapter(Transform)

# 1 / (1 + 10^(-10 k (x - 3)/2)) with low 2, high 4, k .25: exponent 1.25 (x - 3)
SIGMOID = {
    3.0: 0.5,
    4.0: 1 / (1 + 10**-1.25),  # 0.9468
    2.0: 1 / (1 + 10**1.25),  # 0.0532
    3.8: 1 / 1.1,  # exponent 1
    2.2: 1 / 11,
}
# at one sigma e^(-1/2) = .6065307, at two e^-2 = .1353353
ONE, TWO = 0.6065306597, 0.1353352832

VALUES = [
    ({"kind": "none"}, {0.3: 0.3, -7.25: -7.25}, 0),
    ({"kind": "sigmoid", "low": 2, "high": 4}, SIGMOID, 1e-12),
    (
        {"kind": "reverse_sigmoid", "low": 2, "high": 4},
        {x: 1 - y for x, y in SIGMOID.items()},
        1e-12,
    ),
    # k 1: at high the exponent is 10/2
    ({"kind": "sigmoid", "low": 0, "high": 1, "k": 1}, {1: 1 / (1 + 1e-5)}, 1e-12),
    # defaults: slope 150/100 in both halves; low 1, high 9, middle 5
    ({"kind": "double_sigmoid", "low": 1, "high": 9}, {1: 0.5, 9: 0.5}, 0),
    (
        {"kind": "double_sigmoid", "low": 1, "high": 9},
        {
            3: 1 / (1 + 10**-3),  # 1.5 * 2
            7: 1 / (1 + 10**-3),
            -1: 1 / (1 + 10**3),
            11: 1 / (1 + 10**3),
        },
        1e-12,
    ),
    (
        {"kind": "double_sigmoid", "low": 0, "high": 10}
        | {"coef_div": 10, "coef_si": 5, "coef_se": 20},
        {
            2: 1 / 1.1,  # rising: exponent 2 * 5/10
            9.5: 1 / 1.1,  # falling: -.5 * 20/10 = -1
            5: 1 - 1 / (1 + 10**10),  # the middle falls
        },
        1e-12,
    ),
    ({"kind": "step", "low": 1, "high": 3}, {0.999: 0, 1: 1, 2: 1, 3: 1, 3.001: 0}, 0),
    ({"kind": "step", "low": None, "high": 3}, {-9: 1, 3: 1, 3.1: 0}, 0),
    ({"kind": "step", "low": 1, "high": None}, {0.9: 0, 1: 1, 99: 1}, 0),
    ({"kind": "left_step", "low": 2}, {-9: 1, 2: 1, 2.001: 0}, 0),
    ({"kind": "right_step", "high": 2}, {1.999: 0, 2: 1, 99: 1}, 0),
    ({"kind": "exponential_decay", "k": 2}, {0: 1, -3: 1}, 0),  # clamped, where exp would be 403
    ({"kind": "exponential_decay", "k": 2}, {math.log(2) / 2: 0.5}, 1e-15),
    ({"kind": "exponential_decay", "k": 2}, {3: 0.0024787522}, 1e-10),  # e^-6
    ({"kind": "gaussian", "mu": 10, "sigma": 4}, {2: TWO, 6: ONE, 14: ONE, 18: TWO}, 1e-10),
    ({"kind": "min_gaussian", "mu": 10, "sigma": 4}, {2: 1, 6: 1, 14: ONE, 18: TWO}, 1e-10),
    ({"kind": "max_gaussian", "mu": 10, "sigma": 4}, {2: TWO, 6: ONE, 14: 1, 18: 1}, 1e-10),
    *(
        ({"kind": kind, "mu": 10, "sigma": 4}, {10: 1}, 0)
        for kind in ("gaussian", "min_gaussian", "max_gaussian")
    ),
    ({"kind": "linear_clip", "low": 2, "high": 4}, {-1: 0, 2: 0, 2.5: 0.25, 4: 1, 5: 1}, 0),
    ({"kind": "linear_clip", "low": 4, "high": 2}, {-1: 1, 2: 1, 2.5: 0.75, 4: 0, 5: 0}, 0),
    # GuacaMol's thresholded similarity: min(x, .75) / .75
    ({"kind": "linear_clip", "low": 0, "high": 0.75}, {0.3: 0.4}, 1e-15),
    (
        {"kind": "value_map", "values": {0: 1, "1": 0.5, 2.5: 0}},
        {0: 1, 1: 0.5, 2.5: 0, 3: math.nan, 0.999999: math.nan},
        0,
    ),
    ({"kind": "value_map", "values": {0: 1}, "otherwise": 0.1}, {7: 0.1}, 0),
]
"""Settings, scores by value, and absolute tolerance."""


@pytest.mark.parametrize(("settings", "scores", "error"), VALUES)
def test_a_transform_is_its_formula(settings, scores, error):
    function = ADAPTER.validate_python(settings).build()
    assert {x: function(x) for x in scores} == pytest.approx(scores, rel=0, abs=error, nan_ok=True)
    assert math.isnan(function(math.nan))
    if settings["kind"] not in ("none", "value_map"):
        assert {function(x) for x in (-1e300, -1e9, 1e9, 1e300)} <= {0.0, 1.0}  # no overflow


def test_every_transform_is_tested_and_its_settings_have_meanings():
    assert set(SETTINGS) == {settings["kind"] for settings, *_ in VALUES}
    for name, model in SETTINGS.items():
        assert all(field.description for field in model.model_fields.values()), name


def test_a_value_map_survives_a_file(tmp_path):
    file = tmp_path / "reward.yaml"
    file.write_text(
        "components:\n  - {kind: rings, transform: {kind: value_map, values: {0: 0.1, 2: 1}}}\n"
    )
    config = load_config(reward.RewardConfig, file)
    assert config.components[0].transform.values == {0.0: 0.1, 2.0: 1.0}
    again = load_config(reward.RewardConfig, config.model_dump(mode="json"))  # a manifest's form
    assert again.model_dump() == config.model_dump()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{kind: linear_clip, low: 1, high: 1}", r"low and high must differ \(both are 1\)"),
        ("{kind: gaussian, mu: 1, sigma: 0}", "sigma: should be greater than 0"),
        ("{kind: min_gaussian, sigma: 1}", "mu: required, and not given"),
        ("{kind: exponential_decay, k: -1}", "k: should be greater than 0"),
        ("{kind: exponential_decay}", "k: required, and not given"),
        ("{kind: left_step, high: 3}", "low: required, and not given"),
        ("{kind: value_map, values: {}}", "values: should have at least 1"),
        ("{kind: value_map, values: {1: 1.5}}", "values.1: should be less than or equal to 1"),
        ("{kind: value_map, values: {one: 1}}", "should be a number"),
        ("{kind: gausian, mu: 1}", "'gausian' is not known; did you mean 'gaussian'"),
    ],
)
def test_invalid_settings(tmp_path, settings, message):
    file = tmp_path / "reward.yaml"
    file.write_text(f"components:\n  - {{kind: rings, transform: {settings}}}\n")
    with pytest.raises(InputError, match=message):
        load_config(reward.RewardConfig, file)


def test_a_name_can_be_registered_once():
    with pytest.raises(ValueError, match="transform 'step' is registered already"):
        transform()(SETTINGS["step"].function)
