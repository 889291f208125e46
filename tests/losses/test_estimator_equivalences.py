"""Estimators that are one another in disguise, row by row on any batch, and one that is not."""

import dataclasses

import pytest
import torch
from worlds import BETA, log_z_at

from chemkl.losses import (
    ESTIMATORS,
    Filtered,
    Gibbs,
    LossInputs,
    Mara,
    augmented_reward,
    build_objective,
)
from chemkl.losses.kl import forward_kl_surrogate_k3, reverse_kl_surrogate_score

REVERSE_KL = ["reinvent", "rloo", "grpo", "log_variance", "trajectory_balance"]
N_ROWS = 7


@pytest.fixture(params=[0, 1])
def rows(request):
    """A batch with log-ratios of some nats; rows 0 and 3 are copies."""
    generator = torch.Generator().manual_seed(request.param)
    place = torch.tensor([0, 1, 2, 0, 3, 4, 5])
    lp = -6 * torch.rand(6, dtype=torch.float64, generator=generator)
    lr = lp + torch.randn(6, dtype=torch.float64, generator=generator)
    reward = torch.rand(6, dtype=torch.float64, generator=generator)
    return LossInputs(lp[place].requires_grad_(), lr[place], reward[place])


def slope(inputs, target, name, *, prepare=None, **options):
    """The gradient with respect to lp, of a fresh objective."""
    objective = build_objective(target, name, estimator_options=options)
    if prepare:
        prepare(objective, None)
    return torch.autograd.grad(objective(inputs).loss, inputs.logp_policy)[0]


def same(got, expected, atol=1e-12):
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def targets(inputs):
    tau = inputs.reward.unique().topk(3).values[-1].item()
    return [Gibbs(beta=BETA), Mara(beta=BETA, tau=tau)]


def others(values):
    """Each value minus the mean of the other ones, written out."""
    return torch.stack([v - (values.sum() - v) / (len(values) - 1) for v in values])


def test_reinvent_is_trajectory_balance_with_log_z_0(rows):
    for target in targets(rows):
        expected = slope(rows, target, "reinvent")
        same(slope(rows, target, "trajectory_balance", prepare=log_z_at(0.0)), expected)
        at_2 = slope(rows, target, "trajectory_balance", prepare=log_z_at(2.0))
        assert not torch.allclose(at_2, expected)


def test_trajectory_balance_at_its_best_log_z_is_log_variance(rows):
    """The best log Z of a batch is the mean of log_target - lp, where a fresh one starts.

    What is left is the mean square deviation, (n-1)/n of the unbiased variance.
    """
    for target in targets(rows):
        by_variance = build_objective(target, "log_variance")(rows).loss
        balance = build_objective(target, "trajectory_balance")
        loss = balance(rows).loss
        assert loss.item() == pytest.approx(by_variance.item() * (N_ROWS - 1) / N_ROWS, abs=1e-12)
        expected = slope(rows, target, "log_variance") * (N_ROWS - 1) / N_ROWS
        same(slope(rows, target, "trajectory_balance"), expected)
        # it is the best one: no gradient in log Z
        (log_z,) = balance.parameters()
        assert torch.autograd.grad(balance(rows).loss, log_z)[0].abs() < 1e-9


def test_the_reverse_kl_estimators_are_one_up_to_factors(rows):
    for target in targets(rows):
        rloo = slope(rows, target, "rloo")
        same(slope(rows, target, "log_variance"), 2 / BETA * rloo)
        same(slope(rows, target, "f_dpg", divergence="reverse_kl"), rloo / BETA)
        same(slope(rows, target, "grpo", normalise=False), rloo * (N_ROWS - 1) / N_ROWS)
        same(slope(rows, target, "ppo"), rloo)  # the first update on a batch
        # the first update on a batch has nothing to clip
        same(slope(rows, target, "grpo", clip=0.2), slope(rows, target, "grpo"))
        ratio = slope(rows, target, "grpo") / rloo
        same(ratio, ratio.mean().expand(N_ROWS))
        score = BETA * (target(rows.logp_ref, rows.reward).log_target - rows.logp_policy).detach()
        assert ratio[0].item() == pytest.approx((N_ROWS - 1) / N_ROWS / score.std().item())


def test_a_pair_normalised_keeps_its_sign_only(rows):
    """Two scores a and b have deviation |a - b| / sqrt 2: the advantages are +-1/sqrt 2."""
    pair = LossInputs(rows.logp_policy[1:3], rows.logp_ref[1:3], rows.reward[1:3])
    objective = build_objective("gibbs", "grpo", beta=BETA)
    got = torch.autograd.grad(objective(pair).loss, rows.logp_policy)[0][1:3]
    same(got.abs(), torch.full((2,), 8**-0.5, dtype=torch.float64))
    assert got.sum().abs() < 1e-12


def test_rloo_is_a_reward_with_baseline_and_a_kl_with_baseline(rows):
    lp, lr = rows.logp_policy, rows.logp_ref
    by_hand = -(others(rows.reward) * lp).mean()
    # k1 lp is the surrogate; its own baseline is subtracted from k1
    kl = reverse_kl_surrogate_score(lp, lr)
    baseline = (lp - lr).detach() - others((lp - lr).detach())
    by_hand = by_hand + BETA * (kl - baseline * lp).mean()
    expected = torch.autograd.grad(by_hand, lp)[0]
    same(slope(rows, Gibbs(beta=BETA), "rloo"), expected)


@pytest.mark.parametrize("clip", [20.0, 0.3])
def test_forward_kl_is_a_reward_with_baseline_and_k3(rows, clip):
    """On the anchored reward and reference; beyond the clip too, where k3 is a straight line."""
    for target in targets(rows):
        out = target(rows.logp_ref, rows.reward)
        assert clip > 1 or (out.logp_anchored - rows.logp_policy > clip).any()
        lp = rows.logp_policy
        k3 = forward_kl_surrogate_k3(lp, out.logp_anchored, clip=clip)
        by_hand = -(others(out.reward_anchored) * lp).mean() + BETA * k3.mean()
        expected = torch.autograd.grad(by_hand, lp)[0]
        same(slope(rows, target, "forward_kl", clip=clip), expected)


def test_alpha_0_is_f_dpg_with_kl(rows):
    """exp(-u) - 1 against exp(-u): the baseline takes the constant out."""
    tau = targets(rows)[1].tau
    for target in (*targets(rows), Filtered(tau=tau)):
        expected = slope(rows, target, "f_dpg", divergence="kl", clip=50.0)
        same(slope(rows, target, "alpha_dpg", alpha=0.0, most=1e20), expected)


def test_alpha_towards_1_is_the_reverse_kl_times_1_minus_alpha(rows):
    """expm1(-(1-a) u) = -(1-a) u + (1-a)^2 u^2/2 - ...: the rest halves with 1 - a."""
    for target in targets(rows):
        expected = slope(rows, target, "f_dpg", divergence="reverse_kl")
        rests = []
        for step in (2e-4, 1e-4):
            got = slope(rows, target, "alpha_dpg", alpha=1 - step, most=1e20) / step
            rests.append((got - expected).abs().max().item())
        assert rests[1] < 1e-3
        assert rests[0] / rests[1] == pytest.approx(2, rel=0.01)


def test_f_dpg_with_the_z_of_the_batch_is_snis_less_the_mean(rows):
    """exp(-u) = n w with the softmax weights w; minus the others' mean it is n/(n-1) (n w - 1)."""
    tau = targets(rows)[1].tau
    for target in (*targets(rows), Filtered(tau=tau)):
        weighted = slope(rows, target, "snis", ess=0.0)
        expected = N_ROWS / (N_ROWS - 1) * (weighted + 1 / N_ROWS)
        same(slope(rows, target, "f_dpg", divergence="kl", clip=50.0), expected)


def test_msc_with_nothing_retained_is_snis(rows):
    tau = targets(rows)[1].tau
    for target in (*targets(rows), Filtered(tau=tau)):
        same(slope(rows, target, "msc"), slope(rows, target, "snis", ess=0.0))
        same(slope(rows, target, "msc", ess=0.9), slope(rows, target, "snis", ess=0.9))


def test_snis_weighs_by_who_sampled(rows):
    """w is the softmax of log_target - log q, by hand."""
    q = torch.linspace(-3, 0, N_ROWS, dtype=torch.float64)
    moved = dataclasses.replace(rows, logp_behaviour=q)
    log_target = rows.logp_ref + rows.reward / BETA
    expected = -torch.softmax(log_target - q, 0)
    same(slope(moved, Gibbs(beta=BETA), "snis", ess=0.0), expected)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_mara_with_hits_of_one_reference_probability_is_gibbs(rows, name):
    """Where they also have one reward; with rewards of their own if these are kept."""
    hit = rows.reward >= targets(rows)[1].tau
    logp_ref = torch.where(hit, -2.5, rows.logp_ref)
    tau = targets(rows)[1].tau
    own = Mara(beta=BETA, tau=tau, reward_on_hits="own")
    flat = dataclasses.replace(rows, logp_ref=logp_ref)
    same(slope(flat, own, name), slope(flat, Gibbs(beta=BETA), name))
    equal = dataclasses.replace(flat, reward=torch.where(hit, 0.97, rows.reward))
    same(slope(equal, Mara(beta=BETA, tau=tau), name), slope(equal, Gibbs(beta=BETA), name))
    assert not torch.allclose(
        slope(flat, Mara(beta=BETA, tau=tau), name), slope(flat, Gibbs(beta=BETA), name)
    )


BY_REWARD = ["forward_kl", "ahc", "hill_climbing", "dpo"]
"""They read the reward beside the density."""


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n not in BY_REWARD])
def test_algorithm_1_is_algorithm_2_wherever_the_target_is_a_density(rows, name):
    """The gibbs target of the augmented reward (1) is the mara target (2)."""
    mara = targets(rows)[1]
    out = mara(rows.logp_ref, rows.reward)
    augmented = augmented_reward(out.log_target, rows.logp_ref, BETA)
    by_1 = slope(dataclasses.replace(rows, reward=augmented), Gibbs(beta=BETA), name)
    same(slope(rows, mara, name), by_1, atol=1e-11)


def test_algorithm_1_is_another_objective_under_the_forward_kl(rows):
    mara = targets(rows)[1]
    out = mara(rows.logp_ref, rows.reward)
    augmented = augmented_reward(out.log_target, rows.logp_ref, BETA)
    by_1 = slope(dataclasses.replace(rows, reward=augmented), Gibbs(beta=BETA), "forward_kl")
    assert (by_1 - slope(rows, mara, "forward_kl")).abs().max() > 0.01
