"""The last batch of a language model's run, which the budget cuts off among its prompts."""

import pytest

from chemkl.results import Manifest, read_trace
from chemkl.stages import posttrain_llm
from chemkl.training.ledger import BaseLedger

REST = 7


@pytest.mark.parametrize("estimator", [{"kind": "forward_kl", "reference": "prior"}, "msc"])
def test_a_rest_that_is_no_multiple_of_the_prompts_ends_the_run(
    taught_model, tmp_path, monkeypatch, estimator
):
    def cut(self, rollout):
        self._budget = 0
        return rollout.head(REST)

    monkeypatch.setattr(BaseLedger, "affordable", cut)
    settings = {
        "model": str(taught_model),
        "prompts": ["pick", "C", "O"],
        "max_new_tokens": 3,
        "reward": {"kind": "answers", "valid": ["1", "2", "3"]},
        "target": {"kind": "gibbs", "beta": 0.1},
        "estimator": estimator,
        "precision": "32-true",
        "batch_size": 12,
        "budget": 100,
        "trainer": {"accelerator": "cpu"},
        "callbacks": {"progress_bar": False},
    }
    posttrain_llm.run(settings, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    assert trace["group"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert Manifest.load(tmp_path / "run").ended_by == "budget"
