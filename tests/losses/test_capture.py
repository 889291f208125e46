"""Objectives in one graph, without a break: what CUDA graphs and exports need."""

import pytest
import torch
from torch import _dynamo

from chemkl.losses import LossInputs, build_objective

OPTIONS = {"mara": {"beta": 0.1, "tau": 0.5}, "gibbs": {"beta": 0.1}, "filter": {"tau": 0.5}}


def batch(seed, **given):
    rows = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logp_policy = (-20 * rows[0]).float().requires_grad_()
    logp_ref, reward = (-20 * rows[1]).float(), rows[2]
    return {"logp_policy": logp_policy, "logp_ref": logp_ref, "reward": reward, **given}


def results(function, rows):
    loss, metrics = function(rows)
    return loss, torch.autograd.grad(loss, rows["logp_policy"])[0], metrics


@pytest.mark.parametrize(
    ("target", "estimator", "shaper"),
    [
        ("mara", "reinvent", None),
        ("mara", "rloo", None),
        ("mara", "grpo", "differential_smoothing"),
        ("mara", "log_variance", None),
        ("mara", "trajectory_balance", None),
        ("mara", "forward_kl", "ucpo"),
        ("gibbs", "rloo", None),
        pytest.param("filter", "snis", None, marks=pytest.mark.slow),
    ],
)
def test_an_objective_captures_without_a_graph_break(target, estimator, shaper):
    objective = build_objective(target, estimator, shaper=shaper, **OPTIONS[target])

    def call(rows):
        output = objective(LossInputs(**rows))
        return output.loss, output.metrics

    call(batch(0))  # log Z starts at its first batch
    _dynamo.reset()
    captured = torch.compile(call, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        torch.testing.assert_close(
            results(captured, batch(seed)), results(call, batch(seed)), equal_nan=True
        )
