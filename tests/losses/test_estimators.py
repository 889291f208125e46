import pytest
import torch

from chemkl.losses import ESTIMATORS, Gibbs
from chemkl.losses.estimators import estimator, log_variance, reinvent, rloo


def close(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


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
    assert metrics["weight"] == 1
    # twice as likely as when they were sampled, as likely, and half as likely
    older = logp_policy.detach() - torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64).log()
    loss, metrics = rloo(logp_policy, log_target, 0.5, logp_behaviour_B=older)
    weight = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    close(torch.autograd.grad(loss, logp_policy)[0], -weight * advantage / 3)
    assert metrics["weight"].item() == pytest.approx(2.5 / 3)


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


def test_an_estimator_may_ask_for_what_exists_only():
    with pytest.raises(ValueError, match="'odd' asks for smiles; it can have logp_policy_B"):

        @estimator("odd", off_policy=False)
        def odd(logp_policy_B, smiles):
            return logp_policy_B.mean(), {}

    with pytest.raises(ValueError, match="'odd' has to give the option step a default"):

        @estimator("odd", off_policy=False)
        def odder(logp_policy_B, *, step):
            return step * logp_policy_B.mean(), {}

    assert "odd" not in list(ESTIMATORS)
