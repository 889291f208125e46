"""Estimators that equal each other, row by row on any batch, and one that does not."""

import dataclasses

import pytest
import torch
from worlds import BETA, close, log_z_at

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
    close(got, expected, atol)


def targets(inputs):
    tau = inputs.reward.unique().topk(3).values[-1].item()
    return Gibbs(beta=BETA), Mara(beta=BETA, tau=tau), Filtered(tau=tau)


def centred(values):
    """Each value minus the mean of the other ones, written out."""
    return torch.stack([v - (values.sum() - v) / (len(values) - 1) for v in values])


def by(name, **options):
    return name, options


def name_of(value):
    """An id that is the same in every process: a function in the options is not."""
    return value[0] if isinstance(value, tuple) else str(value)


REVERSE_KL = by("f_dpg", divergence="reverse_kl")
DPG = by("f_dpg", divergence="kl", clip=50.0)
SNIS = by("snis", ess=0.0)
EQUAL = [
    # the number of targets, an estimator, a factor, and another one
    (2, by("trajectory_balance", prepare=log_z_at(0.0)), 1, by("reinvent")),
    # the best log Z of a batch is the mean of log_target - lp, where it starts; what is left is the
    # mean square deviation, (n-1)/n of the unbiased variance
    (2, by("trajectory_balance"), (N_ROWS - 1) / N_ROWS, by("log_variance")),
    (2, by("log_variance"), 2 / BETA, by("rloo")),
    (2, REVERSE_KL, 1 / BETA, by("rloo")),
    (2, by("grpo", normalise=False), (N_ROWS - 1) / N_ROWS, by("rloo")),
    (2, by("ppo"), 1, by("rloo")),  # the first update on a batch has nothing to clip
    (2, by("grpo", clip=0.2), 1, by("grpo")),
    # exp(-u) - 1 against exp(-u): the baseline removes the constant
    (3, by("alpha_dpg", alpha=0.0, most=1e20), 1, DPG),
    # with nothing retained
    (3, by("msc"), 1, SNIS),
    (3, by("msc", ess=0.9), 1, by("snis", ess=0.9)),
]


@pytest.mark.parametrize(("n_targets", "one", "factor", "other"), EQUAL, ids=name_of)
def test_estimators_are_equal_up_to_a_factor(rows, n_targets, one, factor, other):
    for target in targets(rows)[:n_targets]:
        (name, options), (second, second_options) = one, other
        expected = factor * slope(rows, target, second, **second_options)
        same(slope(rows, target, name, **options), expected)


def test_trajectory_balance_depends_on_log_z_which_is_best_where_it_starts(rows):
    for target in targets(rows)[:2]:
        at_2 = slope(rows, target, "trajectory_balance", prepare=log_z_at(2.0))
        assert not torch.allclose(at_2, slope(rows, target, "reinvent"))
        variance = build_objective(target, "log_variance")(rows).loss.item()
        balance = build_objective(target, "trajectory_balance")
        loss = balance(rows).loss
        assert loss.item() == pytest.approx(variance * (N_ROWS - 1) / N_ROWS, abs=1e-12)
        assert torch.autograd.grad(loss, list(balance.parameters()))[0].abs() < 1e-9


def test_grpo_divides_by_the_deviation(rows):
    for target in targets(rows)[:2]:
        ratio = slope(rows, target, "grpo") / slope(rows, target, "rloo")
        same(ratio, ratio.mean().expand(N_ROWS))
        score = BETA * (target(rows.logp_ref, rows.reward).log_target - rows.logp_policy).detach()
        assert ratio[0].item() == pytest.approx((N_ROWS - 1) / N_ROWS / score.std().item())
    # two scores a and b have deviation |a - b| / sqrt 2: the advantages are +-1/sqrt 2
    pair = rows.where((torch.arange(N_ROWS) == 1) | (torch.arange(N_ROWS) == 2))
    loss = build_objective("gibbs", "grpo", beta=BETA)(pair).loss
    got = torch.autograd.grad(loss, rows.logp_policy)[0][1:3]
    same(got.abs(), torch.full((2,), 8**-0.5, dtype=torch.float64))
    assert got.sum().abs() < 1e-12


def test_rloo_is_a_reward_with_baseline_and_a_kl_with_baseline(rows):
    lp, lr = rows.logp_policy, rows.logp_ref
    k1 = (lp - lr).detach()
    # the baseline is subtracted from k1, of which k1 lp is the surrogate
    kl = reverse_kl_surrogate_score(lp, lr) - (k1 - centred(k1)) * lp
    by_hand = -(centred(rows.reward) * lp).mean() + BETA * kl.mean()
    same(slope(rows, Gibbs(beta=BETA), "rloo"), torch.autograd.grad(by_hand, lp)[0])


@pytest.mark.parametrize("clip", [20.0, 0.3])
def test_forward_kl_is_a_reward_with_baseline_and_k3(rows, clip):
    """On the anchored reward and reference; beyond the clip too, where k3 is a straight line."""
    for target in targets(rows)[:2]:
        out, lp = target(rows.logp_ref, rows.reward), rows.logp_policy
        assert clip > 1 or (out.logp_anchored - lp > clip).any()
        k3 = forward_kl_surrogate_k3(lp, out.logp_anchored, clip=clip)
        by_hand = -(centred(out.reward_anchored) * lp).mean() + BETA * k3.mean()
        expected = torch.autograd.grad(by_hand, lp)[0]
        same(slope(rows, target, "forward_kl", clip=clip), expected)


def test_alpha_towards_1_is_the_reverse_kl_times_1_minus_alpha(rows):
    """expm1(-(1-a) u) = -(1-a) u + (1-a)^2 u^2/2 - ...: the rest halves with 1 - a."""
    for target in targets(rows)[:2]:
        expected = slope(rows, target, "f_dpg", divergence="reverse_kl")
        rests = []
        for step in (2e-4, 1e-4):
            got = slope(rows, target, "alpha_dpg", alpha=1 - step, most=1e20) / step
            rests.append((got - expected).abs().max().item())
        assert rests[1] < 1e-3
        assert rests[0] / rests[1] == pytest.approx(2, rel=0.01)


def test_f_dpg_with_the_z_of_the_batch_is_snis_less_the_mean(rows):
    """exp(-u) = n w with the softmax weights w; minus the others' mean it is n/(n-1) (n w - 1)."""
    for target in targets(rows):
        expected = N_ROWS / (N_ROWS - 1) * (slope(rows, target, "snis", ess=0.0) + 1 / N_ROWS)
        same(slope(rows, target, "f_dpg", divergence="kl", clip=50.0), expected)


def test_snis_weighs_by_the_sampling_probability(rows):
    """w is the softmax of log_target - log q, by hand."""
    q = torch.linspace(-3, 0, N_ROWS, dtype=torch.float64)
    expected = -torch.softmax(rows.logp_ref + rows.reward / BETA - q, 0)
    by_other = dataclasses.replace(rows, logp_behaviour=q)
    same(slope(by_other, Gibbs(beta=BETA), "snis", ess=0.0), expected)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_mara_with_hits_of_one_reference_probability_is_gibbs(rows, name):
    """If they also have one reward, or keep their own rewards."""
    gibbs, mara, _ = targets(rows)
    hit = rows.reward >= mara.tau
    own = Mara(beta=BETA, tau=mara.tau, reward_on_hits="own")
    flat = dataclasses.replace(rows, logp_ref=torch.where(hit, -2.5, rows.logp_ref))
    same(slope(flat, own, name), slope(flat, gibbs, name))
    equal = dataclasses.replace(flat, reward=torch.where(hit, 0.97, rows.reward))
    same(slope(equal, mara, name), slope(equal, gibbs, name))
    assert not torch.allclose(slope(flat, mara, name), slope(flat, gibbs, name))


BY_REWARD = ["forward_kl", "ahc", "hill_climbing", "dpo"]
"""They use the reward in addition to the density."""


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n not in BY_REWARD[1:]])
def test_algorithm_1_is_algorithm_2_if_the_target_is_a_density(rows, name):
    """The gibbs target of the augmented reward (1) is the mara target (2); not for forward_kl."""
    gibbs, mara, _ = targets(rows)
    out = mara(rows.logp_ref, rows.reward)
    augmented = augmented_reward(out.log_target, rows.logp_ref, BETA)
    by_1 = slope(dataclasses.replace(rows, reward=augmented), gibbs, name)
    by_2 = slope(rows, mara, name)
    if name == "forward_kl":
        assert (by_1 - by_2).abs().max() > 0.01
    else:
        same(by_2, by_1, atol=1e-11)
