"""What the estimators of other programs do where it is not the target that they walk to.

Those that learn from the best rows: their expected gradient by the order statistics of a batch, and
where they end. PPO on rows of an older policy; DPO beside the loss that it is nearly.
"""

from dataclasses import replace
from itertools import permutations
from math import comb

import pytest
import torch
from stated_objectives import BETA, Row, expected_slope, inputs_of, reverse_kl, setting
from test_estimator_optima import TAU, WORLD, Pair, optimum, train

from chemkl.losses import LossInputs, build_objective

RANKED = ("ahc", "hill_climbing")
TARGETS = ("gibbs", "mara")


def chances(pi, reward, n_rows, top_k):
    """The mean weight (S,) of a row with this sequence: of the n - 1 others a are better, t tie."""
    weights = []
    for own in reward:
        better, tied = pi[reward > own].sum(), pi[reward == own].sum()
        worse = pi[reward < own].sum()
        mean = torch.zeros((), dtype=torch.float64)
        for a in range(n_rows):
            for t in range(n_rows - a):
                ways = comb(n_rows - 1, a) * comb(n_rows - 1 - a, t)
                chance = ways * better**a * tied**t * worse ** (n_rows - 1 - a - t)
                mean = mean + chance * min(1.0, max(0.0, (top_k * n_rows - a) / (t + 1)))
        weights.append(mean / top_k)
    return torch.stack(weights)


@pytest.mark.parametrize("top_k", [0.25, 0.5, 2 / 3, 1.0])
@pytest.mark.parametrize(("seed", "n_steps", "n_rows"), [(0, 2, 2), (1, 2, 3), (2, 3, 2)])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", RANKED)
def test_the_expected_gradient_is_that_of_the_order_statistics(
    name, kind, seed, n_steps, n_rows, top_k
):
    at = setting(kind, seed, n_steps)
    lp = at.world.logp(at.logits)
    pi = lp.detach().exp()
    weight = chances(pi, at.whole.reward_anchored, n_rows, top_k)
    per_row = -lp if name == "hill_climbing" else (at.whole.log_target - lp) ** 2
    (exact,) = torch.autograd.grad((pi * weight * per_row).sum(), at.logits)
    got = expected_slope(Row(name, kind, reverse_kl, options={"top_k": top_k}), at, n_rows)
    assert exact.abs().max() > 0.005 or (name, top_k) == ("hill_climbing", 1.0)
    torch.testing.assert_close(got, exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", RANKED)
def test_ties_at_the_edge_are_the_mean_over_ways_to_break_them(name):
    """Rewards 1, .5, .5, .5, 0 and the best two: row 0, and each of the tied in a third of them."""
    reward = torch.tensor([0.5, 0.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    lp = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0], dtype=torch.float64, requires_grad=True)
    lr = torch.tensor([-2.0, -2.5, -1.0, -3.0, -4.5], dtype=torch.float64)
    objective = build_objective("gibbs", name, beta=BETA, estimator_options={"top_k": 0.4})
    output = objective(LossInputs(lp, lr, reward))
    losses = []
    for order in permutations([0, 3, 4]):
        chosen = torch.tensor([2, order[0]])
        ratio = lr[chosen] + reward[chosen] / BETA - lp[chosen]
        losses.append((ratio**2).mean() if name == "ahc" else -lp[chosen].mean())
    expected = torch.stack(losses).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert output.metrics["top_reward"].item() == pytest.approx(0.75)


# ---- where they end, of batches of 512 (see test_estimator_optima.py)

HIT = WORLD.reward >= TAU


def test_ahc_with_mara_ends_flat_over_the_hits():
    p, start = train(Pair("mara", "ahc"), 0)
    assert start[HIT].max() / start[HIT].min() > 2.9
    assert p[HIT].sum() > 0.97
    assert (p[HIT] / p[HIT].sum() - 0.2).abs().max() < 0.03


def test_ahc_with_gibbs_ends_on_less_than_the_target():
    """Above the edge, where w is 1, log_target - lp is one number; below it is larger or far so."""
    p, _ = train(Pair("gibbs", "ahc"), 0)
    by_reward = WORLD.reward.argsort(descending=True)
    behind = (WORLD.logp_ref + WORLD.reward / 0.3 - p.log())[by_reward]
    assert behind[:3].max() - behind[:3].min() < 0.03
    assert behind[3] > behind[:3].max() + 0.1
    assert behind[4:].min() > behind[:3].max() + 0.3
    target = optimum(Pair("gibbs", "rloo"))
    assert target[by_reward[4:]].sum() > 0.5
    assert p[by_reward[4:]].sum() < 0.1


@pytest.mark.parametrize(("n_rows", "top_k"), [(2, 0.5), (3, 0.5), (3, 0.7)])
def test_ahc_rests_where_its_docstring_says(n_rows, top_k):
    """A prior is made for which w (log_target - lp) is one constant at a policy of chance."""
    at = setting("gibbs", 0, 2)
    lp = at.world.logp(at.logits).detach()
    weight = top_k * chances(lp.exp(), at.world.reward, n_rows, top_k)
    log_target = lp + 0.02 / weight
    world = replace(at.world, logp_ref=log_target - at.world.reward / BETA)
    made = replace(at, world=world, whole=at.target(world.logp_ref, world.reward))
    row = Row("ahc", "gibbs", reverse_kl, options={"top_k": top_k})
    assert expected_slope(row, made, n_rows).abs().max() < 1e-10
    at_target = made.moved_to(torch.softmax(log_target, 0))
    assert expected_slope(row, at_target, n_rows).abs().max() > 0.01


@pytest.mark.parametrize(
    "pair", [Pair("gibbs", "hill_climbing"), Pair("gibbs", "dpo", {"labels": "hard"})], ids=str
)
def test_without_a_prior_the_best_sequence_is_left(pair):
    p, start = train(pair, 0)
    assert start[WORLD.reward.argmax()] < 0.1
    assert p[WORLD.reward.argmax()] > 0.97


@pytest.mark.parametrize(
    "pair", [Pair("mara", "hill_climbing"), Pair("mara", "dpo", {"labels": "hard"})], ids=str
)
def test_without_a_prior_the_hits_of_mara_are_not_flat(pair):
    p, _ = train(pair, 0)
    assert p[HIT].sum() > 0.97
    assert p[HIT].max() > 0.7  # a fifth each, were they


# ---- the two that are nearly another


@pytest.mark.parametrize("kind", TARGETS)
def test_ppo_has_the_exact_gradient_on_rows_of_an_older_policy(kind):
    """As long as the clip holds nobody; grpo without normalisation then too, up to (n-1)/n."""
    at = setting(kind, 0, 2)
    lp = at.world.logp(at.logits)
    (exact,) = torch.autograd.grad(reverse_kl(lp, at), at.logits)
    tilt = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64)
    q = torch.softmax(lp.detach() + tilt, 0)
    row = Row("ppo", kind, reverse_kl, options={"clip": 0.5})
    torch.testing.assert_close(expected_slope(row, at, 2, q), BETA * exact, atol=1e-10, rtol=0)
    for other in (replace(row, options={"clip": 0.1}), Row("rloo", kind, reverse_kl)):
        assert (expected_slope(other, at, 2, q) - BETA * exact).abs().max() > 0.003


@pytest.mark.parametrize("kind", TARGETS)
def test_soft_labels_have_their_minimum_at_the_target_whoever_sampled(kind):
    at = setting(kind, 0, 2)
    q = torch.softmax(torch.linspace(-1, 1, 7, dtype=torch.float64), 0)
    at_target = at.moved_to(at.log_p.exp())
    soft, hard = (Row("dpo", kind, reverse_kl, options={"labels": w}) for w in ("soft", "hard"))
    assert expected_slope(soft, at, 2, q).abs().max() > 0.005
    assert expected_slope(soft, at_target, 2, q).abs().max() < 1e-12
    assert expected_slope(hard, at_target, 2, q).abs().max() > 0.005


def test_dpo_is_log_variance_where_the_margins_are_small():
    """softplus(m) - sigmoid(d) m = log 2 + (m^2 - 2 d m)/8 + ...; the mean over pairs of
    (m - d)^2 is 2 beta^2 times the variance of log_target - lp."""
    at = setting("gibbs", 0, 2)
    lp = at.world.logp(at.logits).detach()
    rows = torch.arange(7)
    rests = []
    for scale in (1e-2, 1e-3):
        inputs = inputs_of(at, lp, rows, None, 0)
        reward = scale * inputs.reward
        policy = (inputs.logp_ref + scale * torch.sin(3 * rows)).requires_grad_()
        moved = replace(inputs, reward=reward, logp_policy=policy)
        slopes = [
            torch.autograd.grad(build_objective("gibbs", name, beta=BETA)(moved).loss, policy)[0]
            for name in ("dpo", "log_variance")
        ]
        rests.append((slopes[0] - BETA**2 / 4 * slopes[1]).abs().max() / slopes[0].abs().max())
    assert rests[0] < 1e-2
    assert rests[1] < rests[0] / 50
