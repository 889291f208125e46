from itertools import product

import pytest
import torch

from chemkl.losses import ESTIMATORS, Filtered, Gibbs, Mara, augmented_reward
from chemkl.losses.estimators import estimator, log_variance, reinvent, rloo
from chemkl.losses.exact import reverse_kl_optimum

BETA = 0.3
LOGITS = torch.tensor([0.4, -0.3, 0.1, -1.0], dtype=torch.float64)


def slope_of_minus_j(world, logits):
    """The gradient of -(E[R] - beta KL(pi || pi_ref)), all sequences summed over."""
    logits = logits.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    minus_j = -(logp.exp() * (world.reward - BETA * (logp - world.logp_ref))).sum()
    return torch.autograd.grad(minus_j, logits)[0]


def expected_slope(loss_of, n_rows, logits, p_rows=None):
    """The gradient of a loss, averaged over every batch of n rows with its probability."""
    logits = logits.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    p = logp.detach().exp() if p_rows is None else p_rows
    total = torch.zeros((), dtype=torch.float64)
    for batch in product(range(len(logits)), repeat=n_rows):
        rows = torch.tensor(batch)
        total = total + p[rows].prod() * loss_of(logp[rows], rows)
    return torch.autograd.grad(total, logits)[0]


def close(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def test_expected_slope_of_rloo_is_exact(small):
    log_target = Gibbs(beta=BETA)(small.logp_ref, small.reward).log_target
    exact = slope_of_minus_j(small, LOGITS)
    assert exact.abs().max() > 0.05  # there is something to get wrong
    for n_rows in (2, 3):
        got = expected_slope(lambda lp, y: rloo(lp, log_target[y], BETA)[0], n_rows, LOGITS)
        close(got, exact)


def test_expected_slopes_of_log_variance_and_reinvent_are_exact_up_to_2_over_beta(small):
    log_target = Gibbs(beta=BETA)(small.logp_ref, small.reward).log_target
    exact = 2 / BETA * slope_of_minus_j(small, LOGITS)
    close(expected_slope(lambda lp, y: log_variance(lp, log_target[y])[0], 3, LOGITS), exact)
    close(expected_slope(lambda lp, y: reinvent(lp, log_target[y])[0], 2, LOGITS), exact)


def test_expected_slope_with_groups_is_exact(small):
    log_target = Gibbs(beta=BETA)(small.logp_ref, small.reward).log_target
    groups = torch.tensor([5, 2, 5, 2, 2])
    exact = slope_of_minus_j(small, LOGITS)
    close(expected_slope(lambda lp, y: rloo(lp, log_target[y], BETA, groups)[0], 5, LOGITS), exact)


def test_slope_is_zero_at_the_target_and_log_variance_is_zero_there(small):
    log_target = Gibbs(beta=BETA)(small.logp_ref, small.reward).log_target
    at_target = reverse_kl_optimum(small.reward, small.logp_ref, BETA).log()
    zero = torch.zeros(4, dtype=torch.float64)
    rows = torch.tensor([0, 1, 2, 3, 3])
    assert log_variance(at_target[rows], log_target[rows])[0].item() == pytest.approx(0, abs=1e-24)
    for loss_of in (
        lambda lp, y: rloo(lp, log_target[y], BETA)[0],
        lambda lp, y: log_variance(lp, log_target[y])[0],
    ):
        close(expected_slope(loss_of, 2, at_target), zero)


@pytest.mark.parametrize("name", ["log_variance", "reinvent"])
def test_off_policy_losses_have_their_minimum_at_the_target_whoever_sampled(small, name):
    """Rows from another policy, no importance weight; the target is normalised here."""
    at_target = reverse_kl_optimum(small.reward, small.logp_ref, BETA).log()
    p_rows = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    function = {"log_variance": log_variance, "reinvent": reinvent}[name]
    assert ESTIMATORS[name].off_policy

    def loss_of(lp, rows):
        return function(lp, at_target[rows])[0]

    close(expected_slope(loss_of, 2, at_target, p_rows), torch.zeros(4, dtype=torch.float64))
    assert expected_slope(loss_of, 2, LOGITS, p_rows).abs().max() > 0.05


def test_rloo_on_rows_of_another_policy_is_not_the_slope_of_j(small):
    """So it is declared on-policy."""
    log_target = Gibbs(beta=BETA)(small.logp_ref, small.reward).log_target
    p_rows = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    got = expected_slope(lambda lp, y: rloo(lp, log_target[y], BETA)[0], 2, LOGITS, p_rows)
    assert (got - slope_of_minus_j(small, LOGITS)).abs().max() > 0.05
    assert not ESTIMATORS["rloo"].off_policy


@pytest.mark.parametrize(
    "groups", [None, [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0], [3, 3, 4, 4, 4, 4]]
)
def test_log_variance_slope_is_that_of_rloo_times_2_over_beta(batch, groups):
    group = None if groups is None else torch.tensor(groups)
    log_target = Mara(beta=BETA, tau=0.8)(batch.logp_ref, batch.reward, group).log_target
    by_variance = log_variance(batch.logp_policy, log_target, group)[0]
    by_rloo = rloo(batch.logp_policy, log_target, BETA, group)[0]
    (slope_v,) = torch.autograd.grad(by_variance, batch.logp_policy)
    (slope_r,) = torch.autograd.grad(by_rloo, batch.logp_policy)
    assert slope_r.abs().max() > 0.01
    close(slope_v, 2 / BETA * slope_r)


def test_rloo_by_hand():
    # s = beta (log_target - lp) = .5 (2, 4, 9) = 1, 2, 4.5; others' means 3.25, 2.75, 1.5
    logp_policy = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    log_target = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    loss, metrics = rloo(logp_policy, log_target, 0.5)
    advantage = torch.tensor([-2.25, -0.75, 3.0], dtype=torch.float64)
    assert loss.item() == pytest.approx(-(2.25 + 1.5 - 9.0) / 3, abs=1e-12)
    close(torch.autograd.grad(loss, logp_policy)[0], -advantage / 3)
    # mean of the squares (5.0625 + .5625 + 9) / 3 = 4.875; the advantages sum to 0
    assert metrics["advantage_std"].item() == pytest.approx(4.875**0.5, abs=1e-12)


def test_log_variance_by_hand():
    logp_policy = torch.tensor([-1.0, -2.0, -3.0, 0.0, -2.0], dtype=torch.float64)
    log_target = torch.tensor([1.0, 2.0, 6.0, 1.0, 2.0], dtype=torch.float64)
    # ratios 2, 4, 9 (mean 5, variance (9 + 1 + 16) / 2 = 13) and 1, 4 (variance 4.5)
    group = torch.tensor([0, 0, 0, 1, 1])
    assert log_variance(logp_policy[:3], log_target[:3])[0].item() == pytest.approx(13, abs=1e-12)
    both = log_variance(logp_policy, log_target, group)[0].item()
    assert both == pytest.approx((3 * 13 + 2 * 4.5) / 5, abs=1e-12)


def test_reinvent_is_the_loss_of_reinvent():
    """REINVENT: augmented = prior + sigma score; loss = mean of (augmented - agent)^2."""
    generator = torch.Generator().manual_seed(0)
    sigma = 128
    agent_nll = 20 + 30 * torch.rand(64, generator=generator)
    prior_nll = 20 + 30 * torch.rand(64, generator=generator)
    score = torch.rand(64, generator=generator)
    augmented = -prior_nll + sigma * score
    expected = torch.pow(augmented + agent_nll, 2).mean()
    log_target = Gibbs(sigma=sigma)(-prior_nll, score).log_target
    torch.testing.assert_close(reinvent(-agent_nll, log_target)[0], expected, rtol=1e-6, atol=0)


def test_algorithm_1_and_2_have_one_gradient_under_the_reverse_kl(batch):
    """Algorithm 1: Rbar with the own reference; Algorithm 2: R(z) with the anchor's reference."""
    lp, lr, reward = batch.logp_policy, batch.logp_ref, batch.reward
    out = Mara(beta=BETA, tau=0.8)(lr, reward)
    score_1 = augmented_reward(out.log_target, lr, BETA) - BETA * (lp.detach() - lr)
    reward_2 = torch.where(out.hit, 0.8, reward)
    lr_2 = torch.where(out.hit, -5.0, lr)
    score_2 = reward_2 - BETA * (lp.detach() - lr_2)
    slopes = []
    for score in (score_1, score_2):
        others = torch.stack([score[torch.arange(6) != i].mean() for i in range(6)])
        slopes.append(torch.autograd.grad(-((score - others) * lp).mean(), lp)[0])
    close(slopes[0], slopes[1])
    close(slopes[0], torch.autograd.grad(rloo(lp, out.log_target, BETA)[0], lp)[0])


@pytest.mark.parametrize("name", ["rloo", "log_variance"])
def test_one_row_has_no_others(name):
    function = ESTIMATORS[name].function
    beta = {"beta": 0.1} if name == "rloo" else {}
    lp = torch.tensor([-1.0, -2.0, -3.0])
    with pytest.raises(
        ValueError, match=f"{name} .*group 0 has 1 row .*raise the batch size.*reinvent"
    ):
        function(lp[:1], lp[:1], **beta)
    with pytest.raises(ValueError, match=r"group 9 has 1 row .the batch has 3."):
        function(lp, lp, **beta, group_B=torch.tensor([4, 9, 4]))


@pytest.mark.parametrize("function", [reinvent, log_variance, lambda a, b: rloo(a, b, 0.1)])
def test_shapes_are_checked_first(function):
    # (B, 1) against (B,) would broadcast to (B, B)
    with pytest.raises(ValueError, match=r"got logp_policy \(3, 1\), log_target \(3,\)"):
        function(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got logp_policy \(3,\), log_target \(1,\)"):
        function(torch.zeros(3), torch.zeros(1))


def test_the_target_gets_no_gradient_from_rloo():
    lp = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, metrics = rloo(lp, torch.tensor([1.0, 2.0]), 0.5)
    (slope,) = torch.autograd.grad(loss, lp)
    # score .5 (2, 4), advantage (-1, 1): the slope is -advantage/2, the score's own graph is cut
    assert slope.tolist() == [0.5, -0.5]
    assert not metrics["advantage_std"].requires_grad


def test_full_support_is_declared_and_needed():
    """On a target of -inf the three losses are not finite; each says that it needs full support."""
    logp_ref, reward = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.9, 0.1, 0.9])
    log_target = Filtered(tau=0.8)(logp_ref, reward).log_target
    for name, beta in (("reinvent", {}), ("rloo", {"beta": 1.0}), ("log_variance", {})):
        why_not = ESTIMATORS[name].refuses(Filtered(tau=0.8))
        assert why_not is not None
        assert "-inf outside of the hits" in why_not
        assert ESTIMATORS[name].refuses(Gibbs(beta=1.0)) is None
        assert not ESTIMATORS[name].function(logp_ref, log_target, **beta)[0].isfinite()


def test_an_estimator_may_ask_for_what_exists_only():
    with pytest.raises(ValueError, match="'odd' asks for smiles; it can have logp_policy_B"):

        @estimator("odd", off_policy=False)
        def odd(logp_policy_B, smiles):
            return logp_policy_B.mean(), {}

    with pytest.raises(ValueError, match="'odd': the option step needs a default"):

        @estimator("odd", off_policy=False)
        def odder(logp_policy_B, *, step):
            return step * logp_policy_B.mean(), {}

    assert "odd" not in list(ESTIMATORS)
