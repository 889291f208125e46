"""Settings of posttrain_llm that look right one by one and do not go together."""

import pytest
from pydantic import ValidationError

from chemkl.config.llm import LlmPosttrainConfig, TrackConfig

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
    with pytest.raises(ValidationError, match=r"model\.dtype\s+bfloat16 weights.*take float32"):
        config_of("bfloat16", "full")


@pytest.mark.parametrize(("dtype", "adapter"), [("bfloat16", "lora"), ("float32", "full")])
def test_adapters_beside_them_are_trained_and_so_are_weights_of_float32(dtype, adapter):
    config = config_of(dtype, adapter)
    assert (config.model.dtype, config.adapter.kind) == (dtype, adapter)


def test_a_target_without_hits_does_not_end_a_run_by_them():
    config = SETTINGS | {"model": {"name": "some/model"}}
    ends = {"callbacks": {"terminate": {"hits": 100}}}
    with pytest.raises(ValidationError, match=r"the target gibbs has no hits: use mara"):
        LlmPosttrainConfig.model_validate(config | ends)
    LlmPosttrainConfig.model_validate(
        config | ends | {"target": {"kind": "mara", "beta": 0.1, "tau": 1}}
    )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a", "b", "a"], "a: given more than once; keep each once"),
        ([1, "1"], "1: given more than once"),
        ([""], r"an empty completion counts as no answer: leave the empty answer out"),
        (
            [" "],
            r"answers\.0\s+does not have the required form .*and not blank.*got ' '",
        ),
        ([True], r'quote it as the model should write it, "true" or "True"'),
        ([1.5], r"1\.5 is a number that can be written in several ways: quote it"),
        ([], r"at least 1 item"),
    ],
)
def test_answers_that_are_tracked_are_told_apart_as_valid_ones_are(answers, message):
    with pytest.raises(ValidationError, match=message):
        TrackConfig(answers=answers)


def test_whole_numbers_stand_for_their_digits_where_answers_are_tracked():
    assert TrackConfig(answers=[1, "02", " 2"]).answers == ["1", "02", " 2"]
    assert TrackConfig().answers is None
