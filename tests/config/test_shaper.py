from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from chemkl.config.objective import (
    DifferentialSmoothingConfig,
    IpsConfig,
    SetDiversityConfig,
    ShaperConfig,
    ShaperKind,
    UcpoConfig,
)
from chemkl.losses.shapers import SHAPERS, build_shaper

SHAPER = TypeAdapter(ShaperConfig)
MODELS = {
    "set_diversity": SetDiversityConfig,
    "differential_smoothing": DifferentialSmoothingConfig,
    "ucpo": UcpoConfig,
    "ips": IpsConfig,
}


def test_the_names_are_those_of_the_loss_core():
    assert sorted(get_args(ShaperKind)) == sorted(SHAPERS) == sorted(MODELS)


@pytest.mark.parametrize("kind", MODELS)
def test_options_defaults_and_limits_are_those_of_the_loss_core(kind):
    config = SHAPER.validate_python(kind)
    assert type(config) is MODELS[kind]
    assert config.options == SHAPERS[kind].wanted.options
    assert build_shaper(config.kind, **config.options).options == config.options
    for option, most in SHAPERS[kind].at_most.items():
        for value in (0, -1, float("inf"), float("nan"), most + 0.5):
            with pytest.raises(ValidationError, match=option):
                SHAPER.validate_python({"kind": kind, option: value})
            with pytest.raises(ValueError, match=option):
                build_shaper(kind, **{option: value})


def test_every_field_is_described():
    for model in MODELS.values():
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_settings_are_read():
    config = SHAPER.validate_python({"kind": "ucpo", "strength": 0.5})
    assert config.options == {"strength": 0.5, "temperature": 1.0}


def test_a_misspelt_kind_or_option_is_named():
    with pytest.raises(ValidationError, match=r"shaper 'ucop' is not known; did you mean 'ucpo'"):
        SHAPER.validate_python("ucop")
    with pytest.raises(ValidationError, match=r"shaper 'setpo' is not known.*Known: differential"):
        SHAPER.validate_python({"kind": "setpo"})
    with pytest.raises(ValidationError, match="epsilon"):
        SHAPER.validate_python({"kind": "ips", "epsilon": 0.1})
