"""Settings of posttrain_llm that look right one by one and do not go together."""

import pytest
from pydantic import ValidationError

from chemkl.config.llm import LlmPosttrainConfig

SETTINGS = {
    "prompts": ["pick"],
    "reward": {"kind": "answers", "valid": ["1", "2"]},
    "target": {"kind": "gibbs", "beta": 0.1},
}


def config_of(dtype, adapter):
    model = {"name": "some/model", "dtype": dtype}
    return LlmPosttrainConfig.model_validate(SETTINGS | {"model": model, "adapter": adapter})


def test_weights_of_8_bits_are_not_trained_themselves():
    # next to 0.02 bfloat16 numbers are 2^-13 = 1.2e-4 apart: a step of Adam at 1e-5 rounds to none
    with pytest.raises(ValidationError, match=r"model\.dtype: bfloat16 weights.*take float32"):
        config_of("bfloat16", "full")


@pytest.mark.parametrize(("dtype", "adapter"), [("bfloat16", "lora"), ("float32", "full")])
def test_adapters_beside_them_are_trained_and_so_are_weights_of_float32(dtype, adapter):
    config = config_of(dtype, adapter)
    assert (config.model.dtype, config.adapter.kind) == (dtype, adapter)
