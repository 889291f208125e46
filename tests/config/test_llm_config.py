"""Settings of posttrain_llm that contradict each other."""

import pytest
from pydantic import ValidationError

from chemkl.config.llm import LlmPosttrainConfig, TrackConfig

SETTINGS = {
    "prompts": ["pick"],
    "reward": {"kind": "answers", "valid": ["1", "2"]},
    "target": {"kind": "gibbs", "beta": 0.1},
}


@pytest.mark.parametrize(
    ("dtype", "adapter"), [("bfloat16", "full"), ("bfloat16", "lora"), ("float32", "full")]
)
def test_weights_in_bfloat16_are_trained_only_through_an_adapter(dtype, adapter):
    # around 0.02 bfloat16 numbers are 2^-13 = 1.2e-4 apart: a step of Adam at 1e-5 is rounded away
    settings = SETTINGS | {"model": {"name": "some/model", "dtype": dtype}, "adapter": adapter}
    if (dtype, adapter) == ("bfloat16", "full"):
        with pytest.raises(ValidationError, match=r"model\.dtype\s+bfloat16 weights.*take float32"):
            LlmPosttrainConfig.model_validate(settings)
        return
    config = LlmPosttrainConfig.model_validate(settings)
    assert (config.model.dtype, config.adapter.kind) == (dtype, adapter)


def test_a_target_without_hits_cannot_end_a_run_by_hits():
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
def test_tracked_answers_have_the_rules_of_valid_ones(answers, message):
    with pytest.raises(ValidationError, match=message):
        TrackConfig(answers=answers)


def test_whole_numbers_stand_for_their_digits_in_tracked_answers():
    assert TrackConfig(answers=[1, "02", " 2"]).answers == ["1", "02", " 2"]
    assert TrackConfig().answers is None
