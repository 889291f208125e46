"""The exact distribution over answers: it is asked for in the precision that the run samples in."""

import pandas as pd
import pytest
import torch

from chemkl.config import load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.llm import build_policy
from chemkl.results import read_trace
from chemkl.stages import posttrain_llm

ANSWERS = ["1", "2", "3"]


@pytest.fixture
def config(taught_model):
    return {
        "model": str(taught_model),
        "prompts": ["pick"],
        "max_new_tokens": 3,
        "reward": {"kind": "answers", "valid": ANSWERS},
        "target": {"kind": "mara", "beta": 0.1, "tau": 1},
        "precision": "32-true",
        "batch_size": 16,
        "max_steps": 1,
        "track": {"every": 1},
        "trainer": {"accelerator": "cpu"},
        "callbacks": {"progress_bar": False},
    }


@pytest.mark.parametrize(
    "precision",
    ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.bf16)],
)
def test_answers_are_looked_at_in_the_precision_of_the_run(config, tmp_path, precision):
    config |= {"precision": precision}
    posttrain_llm.run(config, tmp_path / "run")
    table = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    policy = build_policy(load_config(LlmPosttrainConfig, config), trained=False)
    with torch.no_grad():
        exact = policy.logp(ANSWERS).tolist()
        with torch.autocast("cpu", torch.bfloat16):
            rough = policy.logp(ANSWERS).tolist()
    assert rough != pytest.approx(exact, abs=1e-4)
    expected = exact if precision == "32-true" else rough
    first = table[table["step"] == 0]
    # the adapters, still zero, change nothing: both are the model as it was
    for column in ("logp_policy", "logp_ref"):
        assert first[column].tolist() == pytest.approx(expected, abs=1e-5)
    # the reference remembers what it was asked, so that the step has the same values
    trace = read_trace(tmp_path / "run")
    sampled = trace[trace["answer"] == "1"]
    assert len(sampled) > 0
    assert sampled["logp_ref"].tolist() == pytest.approx([expected[0]] * len(sampled), abs=1e-5)
