"""What every estimator keeps, on any batch and with every target that it may have.

All states are fresh: one batch is one objective's first.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chemkl.losses import ESTIMATORS, LossInputs, build_objective

VARIANTS = {
    "grpo": [{}, {"normalise": False, "clip": 0.2}],
    "forward_kl": [{}, {"reference": "prior"}],
    "f_dpg": [{"divergence": d} for d in ("kl", "reverse_kl", "js", "tv")],
    "alpha_dpg": [{"alpha": 0.5}],
    "snis": [{"ess": 0.6}],
    "dpo": [{}, {"labels": "hard"}],
}
ESTIMATOR_OPTIONS = [(name, o) for name in ESTIMATORS for o in VARIANTS.get(name, [{}])]
TARGET_OPTIONS = [
    ("gibbs", {"beta": 0.2}),
    ("mara", {"beta": 0.2, "tau": 0.6}),
    ("mara", {"beta": 0.2, "tau": 0.6, "alpha": 0.7, "cap": 3.0, "reward_on_hits": "own"}),
    ("mara", {"beta": 0.2, "tau_quantile": 0.7, "tau_floor": 0.1, "reward_on_hits": "tau"}),
    ("mara", {"beta": 0.2, "tau": 0.6, "anchor": "running"}),
    ("filter", {"tau": 0.6}),
]
SHIFTS_WITH_LOG_Z = {"reinvent", "ahc", "forward_kl"}
"""No baseline and no normaliser takes a constant in log pi_ref out: log Z is 0 for the first two,
and the mass of the reference is part of what forward_kl optimises."""

every_estimator = pytest.mark.parametrize(
    ("name", "options"), ESTIMATOR_OPTIONS, ids=lambda value: str(value)
)
SEEDS = st.integers(0, 10_000)
N_ROWS = 12


def objective_of(name, options, seed):
    """A fresh objective whose target is one of those allowed, by the seed."""
    prior_only = options.get("reference") == "prior"
    allowed = []
    for kind, target_options in TARGET_OPTIONS:
        target = build_objective(kind, "f_dpg", **target_options).target
        if ESTIMATORS[name].refuses(target, **options) is None:
            allowed.append((kind, target_options))
    assert prior_only == (len(allowed) == 1)
    kind, target_options = allowed[seed % len(allowed)]
    return build_objective(kind, name, estimator_options=options, **target_options)


def random_inputs(seed, n_groups=1):
    """Rows without ties, the policy some nats from the reference; as many samples of it."""
    generator = torch.Generator().manual_seed(seed)

    def uniform():
        return torch.rand(N_ROWS, generator=generator, dtype=torch.float64)

    logp_ref = -20 * uniform()
    return LossInputs(
        logp_policy=logp_ref + 4 * uniform() - 2,
        logp_ref=logp_ref,
        reward=uniform(),
        group=torch.arange(N_ROWS) % n_groups,
        logp_policy_of_prior=-20 * uniform(),
    )


def run(objective, inputs):
    """The output, and the gradients with respect to lp of the rows and of the prior's samples."""
    lp = inputs.logp_policy.detach().clone().requires_grad_()
    of_prior = inputs.logp_policy_of_prior.detach().clone().requires_grad_()
    output = objective(dataclasses.replace(inputs, logp_policy=lp, logp_policy_of_prior=of_prior))
    slopes = torch.autograd.grad(output.loss, (lp, of_prior), materialize_grads=True)
    return output, *slopes


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@every_estimator
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n_groups=st.integers(1, 3), labels=st.permutations([11, 3, 7]), data=st.data())
def test_the_order_of_rows_and_the_labels_of_groups_change_nothing(
    name, options, seed, n_groups, labels, data
):
    inputs = random_inputs(seed, 1 if name == "trajectory_balance" else n_groups)
    order = torch.tensor(data.draw(st.permutations(range(N_ROWS))))
    mixed = LossInputs(
        *(getattr(inputs, field)[order] for field in ("logp_policy", "logp_ref", "reward")),
        group=torch.tensor(labels)[inputs.group][order],
        logp_policy_of_prior=inputs.logp_policy_of_prior[order],
    )
    one, one_slope, one_prior = run(objective_of(name, options, seed), inputs)
    two, two_slope, two_prior = run(objective_of(name, options, seed), mixed)
    same(two.loss, one.loss)
    same(two_slope, one_slope[order])
    same(two_prior, one_prior[order])
    for field in ("log_target", "hit", "anchor", "anchor_logp_ref"):  # to the bit
        expected, got = getattr(one.target, field)[order], getattr(two.target, field)
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)
    assert one_slope.abs().max() > 0 or one.target.hit.sum() == 0


@every_estimator
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, copied=st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=5))
def test_dropped_copies_do_not_count(name, options, seed, copied):
    inputs = random_inputs(seed)
    order = torch.cat([torch.arange(N_ROWS), torch.tensor(copied)])
    with_copies = LossInputs(
        *(getattr(inputs, field)[order] for field in ("logp_policy", "logp_ref", "reward")),
        duplicate=torch.arange(len(order)) >= N_ROWS,
        logp_policy_of_prior=inputs.logp_policy_of_prior,
    )
    drop = dataclasses.replace(objective_of(name, options, seed), duplicates="drop")
    plain, slope, _ = run(objective_of(name, options, seed), inputs)
    dropped, slope_of_copied, _ = run(drop, with_copies)
    # a quantile of the rewards is one over all rows, copies included
    if getattr(drop.target, "tau_quantile", None) is None:
        same(dropped.loss, plain.loss)
        same(slope_of_copied[:N_ROWS], slope)
    assert not slope_of_copied[N_ROWS:].any()
    # every row keeps its target, for the trace
    assert torch.equal(dropped.target.hit[N_ROWS:], dropped.target.hit[torch.tensor(copied)])


@every_estimator
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shift=st.floats(-9, 9))
def test_a_group_does_not_depend_on_the_others(name, options, seed, shift):
    """Whatever they hold; and two groups at once are each alone, weighted by their rows."""
    inputs = random_inputs(seed, 2)
    mine = inputs.group == 0
    flipped = torch.where(mine, inputs.reward, 1 - inputs.reward)
    other = dataclasses.replace(
        inputs,
        logp_policy=torch.where(mine, inputs.logp_policy, inputs.logp_policy + shift),
        reward=flipped,
    )
    if name == "trajectory_balance":
        with pytest.raises(ValueError, match=r"the batch has 2 groups.*use log_variance"):
            run(objective_of(name, options, seed), inputs)
        return
    one, one_slope, _ = run(objective_of(name, options, seed), inputs)
    two, two_slope, _ = run(objective_of(name, options, seed), other)
    same(two_slope[mine], one_slope[mine])
    assert torch.equal(two.target.log_target[mine], one.target.log_target[mine])
    alone = inputs.where(mine)
    _, alone_slope, _ = run(objective_of(name, options, seed), alone)
    same(one_slope[mine], alone_slope * mine.sum() / N_ROWS)


@every_estimator
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, shift=st.one_of(st.floats(-30, -1), st.floats(1, 30)))
def test_constants_in_target_and_reward_cancel_in_estimators_with_a_baseline(
    name, options, seed, shift
):
    """In log pi_ref for all but three estimators; in the reward, under gibbs, for all but two."""
    inputs = random_inputs(seed)

    def slopes(objective, **changes):
        return run(objective(), dataclasses.replace(inputs, **changes))[1:]

    def objective():
        return objective_of(name, options, seed)

    def gibbs():
        return build_objective("gibbs", name, beta=0.2, estimator_options=options)

    shifted, prior = slopes(objective, logp_ref=inputs.logp_ref + shift)
    same(prior, slopes(objective)[1])
    cancels = name not in SHIFTS_WITH_LOG_Z or options.get("reference") == "prior"
    assert cancels == torch.allclose(shifted, slopes(objective)[0], rtol=1e-9, atol=1e-10)
    shifted, _ = slopes(gibbs, reward=inputs.reward + shift / 10)
    cancels = name not in ("reinvent", "ahc")
    assert cancels == torch.allclose(shifted, slopes(gibbs)[0], rtol=1e-9, atol=1e-10)


@every_estimator
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, own=st.lists(st.booleans(), min_size=N_ROWS, max_size=N_ROWS))
def test_the_gradients_of_ranks_sum_to_that_of_one_process(name, options, seed, own):
    """Each rank has the graph of its own rows and the values of all."""
    inputs = random_inputs(seed)
    _, whole, _ = run(objective_of(name, options, seed), inputs)
    lp = inputs.logp_policy.clone().requires_grad_()
    total = torch.zeros_like(lp)
    for rank in (torch.tensor(own), ~torch.tensor(own)):
        of_rank = dataclasses.replace(inputs, logp_policy=torch.where(rank, lp, lp.detach()))
        loss = objective_of(name, options, seed)(of_rank).loss
        total += torch.autograd.grad(loss, lp, materialize_grads=True)[0]
    same(total, whole)
