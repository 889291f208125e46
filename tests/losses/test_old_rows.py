"""Estimators that weigh rows of an older policy: their expected gradient, by enumeration.

A batch has rows of the policy and replayed ones of an older policy, q. What the weights make of the
latter is written out here as sums over sequences or pairs of them. That replay leaves the optimum
where it is stands in test_replay_optima.py.
"""

from dataclasses import replace

import pytest
import torch
from stated_objectives import BETA, inputs_of, reverse_kl, setting

from chemkl.losses import ESTIMATORS, build_objective

CLIP = 0.3
TARGETS = ("gibbs", "mara")


def older(lp, spread=1.0):
    """The probabilities of another policy: some sequences likelier now, some rarer."""
    return torch.softmax(lp.detach() + spread * torch.sin(2 * torch.arange(7.0) + 1).double(), 0)


def slope_of(name, options, at, n_own, n_old, q):
    """The gradient of the shipped loss over all batches of so many rows of the policy and of q."""
    lp = at.world.logp(at.logits)
    total = torch.zeros((), dtype=torch.float64)
    for own, chance in at.world.batches(n_own, lp.detach().exp()):
        for old, chance_of_old in at.world.batches(n_old, q):
            rows = torch.cat([own, old])
            retained = torch.arange(len(rows)) >= n_own
            behaviour = torch.where(retained, q.log()[rows], lp.detach()[rows])
            inputs = replace(
                inputs_of(at, lp, rows, None, 0), retained=retained, logp_behaviour=behaviour
            )
            objective = build_objective(at.target, name, estimator_options=options)
            total = total + chance * chance_of_old * objective(inputs).loss
    return torch.autograd.grad(total, at.logits)[0]


@pytest.mark.parametrize(("n_own", "n_old"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", TARGETS)
def test_rloo_counts_old_rows_by_what_both_policies_would_sample(kind, n_own, n_old):
    """-J of its own rows; of an old one sum_y min(pi, q) (s - mean of the others' s) grad lp."""
    at = setting(kind, 0, 2)
    lp = at.world.logp(at.logits)
    pi, q, n = lp.detach().exp(), older(lp), n_own + n_old
    (of_own,) = torch.autograd.grad(reverse_kl(lp, at), at.logits, retain_graph=True)
    score = BETA * (at.whole.log_target - lp.detach())
    baseline = (n_own * (pi * score).sum() + (n_old - 1) * (q * score).sum()) / (n - 1)
    both = torch.minimum(pi, q)
    (of_old,) = torch.autograd.grad(-(both * (score - baseline) * lp).sum(), at.logits)
    stated = (n_own * BETA * of_own + n_old * of_old) / n
    assert of_old.abs().max() > 0.01
    got = slope_of("rloo", {}, at, n_own, n_old, q)
    torch.testing.assert_close(got, stated, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [("ppo", {"clip": CLIP}, 1), ("grpo", {"clip": CLIP, "normalise": False}, 1 / 2)],
)
@pytest.mark.parametrize("kind", TARGETS)
def test_the_clip_holds_old_rows_by_how_far_they_have_moved(kind, name, options, factor):
    """All pairs of an own row y and an old row z, whose advantages are s(y) - s(z) and -that."""
    at = setting(kind, 0, 2)
    lp = at.world.logp(at.logits)
    pi, q = lp.detach().exp(), older(lp)
    score, ratio = BETA * (at.whole.log_target - lp.detach()), pi / q
    total, seen = torch.zeros((), dtype=torch.float64), set()
    for y in range(7):
        for z in range(7):
            gain = (score[z] - score[y]).item()
            if gain > 0:
                held, weight = ratio[z] > 1 + CLIP, ratio[z]
            else:
                held, weight = ratio[z] < 1 - CLIP, ratio[z].clamp(max=1)
            weight = 0 if held else weight
            seen.add((gain > 0, bool(held), bool(ratio[z] > 1)))
            total = total - pi[y] * q[z] * (-gain * lp[y] + weight * gain * lp[z]) / 2
    (stated,) = torch.autograd.grad(total, at.logits)
    assert len(seen) == 6, "either sign: held, not held on either side of 1"
    got = slope_of(name, options, at, 1, 1, q)
    torch.testing.assert_close(got, factor * stated, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(("name", "options"), [("rloo", {}), ("ppo", {}), ("grpo", {"clip": 0.2})])
def test_they_rest_at_the_target_whoever_sampled(kind, name, options):
    assert ESTIMATORS[name].weighs_old
    at = setting(kind, 0, 2)
    q = older(at.world.logp(at.logits), 2.0)
    at_target = at.moved_to(at.log_p.exp())
    assert slope_of(name, options, at_target, 2, 1, q).abs().max() < 1e-12
    assert slope_of(name, options, at, 2, 1, q).abs().max() > 0.01


def test_a_replayed_row_that_is_far_likelier_now_pushes_as_one_of_ones_own():
    """e^100 times as likely: at an advantage below 0 the loss of PPO has no bound there."""
    at = setting("gibbs", 0, 2)
    lp = (at.whole.log_target + torch.linspace(-2, 2, 7)).detach().requires_grad_()
    late = torch.arange(7) == 6
    for name, options in (("ppo", {}), ("grpo", {"clip": 0.2}), ("rloo", {})):
        objective = build_objective(at.target, name, estimator_options=options)
        own = inputs_of(at, lp, torch.arange(7), None, 0)
        (as_own,) = torch.autograd.grad(objective(own).loss, lp, retain_graph=True)
        old = replace(own, retained=late, logp_behaviour=lp.detach() - 100.0 * late)
        (slope,) = torch.autograd.grad(objective(old).loss, lp)
        assert as_own[6] > 0
        torch.testing.assert_close(slope, as_own, atol=1e-12, rtol=0)
