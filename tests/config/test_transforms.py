import math

import pytest
from pydantic import TypeAdapter

from chemkl.config import InputError, reward
from chemkl.config.loading import load_config
from chemkl.config.transforms import SETTINGS, Transform, transform

ADAPTER = TypeAdapter(Transform)


def built(**settings):
    return ADAPTER.validate_python(settings).build()


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


def test_left_and_right_step_include_their_edge():
    left, right = built(kind="left_step", low=2), built(kind="right_step", high=2)
    assert [left(x) for x in (-9, 2, 2.001)] == [1.0, 1.0, 0.0]
    assert [right(x) for x in (1.999, 2, 99)] == [0.0, 1.0, 1.0]


def test_exponential_decay():
    decay = built(kind="exponential_decay", k=2)
    assert decay(0) == 1.0
    assert decay(-3) == 1.0  # clamped, where exp would be 403
    assert decay(math.log(2) / 2) == pytest.approx(0.5, abs=1e-15)
    assert decay(3) == pytest.approx(0.0024787522, abs=1e-10)  # e^-6


# at one sigma e^(-1/2) = .6065307, at two e^-2 = .1353353
@pytest.mark.parametrize(
    ("kind", "below_2", "below_1", "above_1", "above_2"),
    [
        ("gaussian", 0.1353352832, 0.6065306597, 0.6065306597, 0.1353352832),
        ("min_gaussian", 1, 1, 0.6065306597, 0.1353352832),
        ("max_gaussian", 0.1353352832, 0.6065306597, 1, 1),
    ],
)
def test_gaussians(kind, below_2, below_1, above_1, above_2):
    bell = built(kind=kind, mu=10, sigma=4)
    assert bell(10) == 1.0
    expected = [below_2, below_1, above_1, above_2]
    assert [bell(x) for x in (2, 6, 14, 18)] == pytest.approx(expected, abs=1e-10)


def test_linear_clip_rises_and_falls():
    rise, fall = built(kind="linear_clip", low=2, high=4), built(kind="linear_clip", low=4, high=2)
    assert [rise(x) for x in (-1, 2, 2.5, 4, 5)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert [fall(x) for x in (-1, 2, 2.5, 4, 5)] == [1.0, 1.0, 0.75, 0.0, 0.0]
    # GuacaMol's thresholded similarity: min(x, .75) / .75
    assert built(kind="linear_clip", low=0, high=0.75)(0.3) == pytest.approx(0.4, abs=1e-15)


def test_value_map_is_exact_and_has_a_place_for_all_others():
    strict = built(kind="value_map", values={0: 1, "1": 0.5, 2.5: 0})
    assert [strict(x) for x in (0, 1, 1.0, 2.5)] == [1.0, 0.5, 0.5, 0.0]
    assert math.isnan(strict(3))
    assert math.isnan(strict(0.999999))
    assert built(kind="value_map", values={0: 1}, otherwise=0.1)(7) == 0.1


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
def test_settings_that_make_no_transform(tmp_path, settings, message):
    file = tmp_path / "reward.yaml"
    file.write_text(f"components:\n  - {{kind: rings, transform: {settings}}}\n")
    with pytest.raises(InputError, match=message):
        load_config(reward.RewardConfig, file)


CASES = [
    {"kind": "none"},
    {"kind": "sigmoid", "low": 0, "high": 1},
    {"kind": "reverse_sigmoid", "low": 0, "high": 1},
    {"kind": "double_sigmoid", "low": 0, "high": 1},
    {"kind": "step", "low": 0},
    {"kind": "left_step", "low": 0},
    {"kind": "right_step", "high": 0},
    {"kind": "exponential_decay", "k": 1},
    {"kind": "gaussian", "mu": 0, "sigma": 1},
    {"kind": "min_gaussian", "mu": 0, "sigma": 1},
    {"kind": "max_gaussian", "mu": 0, "sigma": 1},
    {"kind": "linear_clip", "low": 0, "high": 1},
    {"kind": "value_map", "values": {1: 1}, "otherwise": 0},
]


@pytest.mark.parametrize("settings", CASES)
def test_nan_stays_nan(settings):
    assert math.isnan(built(**settings)(math.nan))


@pytest.mark.parametrize("settings", CASES[1:])
@pytest.mark.parametrize("x", [-1e300, -1e9, 1e9, 1e300])
def test_no_overflow_far_away(settings, x):
    assert built(**settings)(x) in {0.0, 1.0}


def test_every_transform_is_tried_here_and_its_settings_have_meanings():
    assert set(SETTINGS) == {case["kind"] for case in CASES}
    for name, model in SETTINGS.items():
        assert all(field.description for field in model.model_fields.values()), name


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="transform 'step' is registered already"):
        transform()(SETTINGS["step"].function)
