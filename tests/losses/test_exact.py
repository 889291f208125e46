from functools import partial

import pytest
import torch

from chemkl.losses.exact import forward_kl_optimum, mara_optimum, reverse_kl_optimum

# The numbers of the paper's figures are held by tests/didactic/test_didactic_experiments.py.


def test_the_augmented_reward_has_the_same_optimum_under_the_reverse_kl_only(fig5):
    """Algorithm 1 written out: R + beta (lr(z) - lr) on the hits, in the formulas for gibbs.

    It is largest on the rarest hit, and the forward KL goes for that.
    """
    for beta in (0.01, 0.1, 0.3, 1.0):
        lift = beta * (fig5.logp_ref[0] - fig5.logp_ref)
        augmented = torch.where(fig5.reward == 1, fig5.reward + lift, fig5.reward)
        written_out = torch.softmax(fig5.logp_ref + augmented / beta, dim=0)
        mara = mara_optimum(fig5.reward, fig5.logp_ref, beta, tau=1.0)
        torch.testing.assert_close(mara, written_out, atol=1e-12, rtol=0)
        assert 0.79 < forward_kl_optimum(augmented, fig5.logp_ref, beta)[74] < 0.83 or beta == 0.3


@pytest.mark.parametrize("beta", [1e-4, 0.02, 0.5, 30.0])
def test_optima_satisfy_the_first_order_conditions(fig2, beta):
    """At a maximum over the simplex dJ/dG is one number wherever G > 0; autograd takes it."""
    for optimum, kl in (
        (reverse_kl_optimum, lambda g, lr: (g * (g.log() - lr)).sum()),
        (forward_kl_optimum, lambda g, lr: (lr.exp() * (lr - g.log())).sum()),
    ):
        g = optimum(fig2.reward, fig2.logp_ref, beta)
        assert g.sum().item() == pytest.approx(1, abs=1e-9)
        g = g[g > 0].requires_grad_()
        inside = torch.isin(
            torch.arange(100), (optimum(fig2.reward, fig2.logp_ref, beta) > 0).nonzero()
        )
        objective = (g * fig2.reward[inside]).sum() - beta * kl(g, fig2.logp_ref[inside])
        (slope,) = torch.autograd.grad(objective, g)
        torch.testing.assert_close(slope, slope.mean().expand_as(slope), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kl", ["reverse", "forward"])
def test_no_hit_is_gibbs(fig5, kl):
    plain = {"reverse": reverse_kl_optimum, "forward": forward_kl_optimum}[kl]
    p = mara_optimum(fig5.reward, fig5.logp_ref, 0.5, tau=1.1, kl=kl)
    torch.testing.assert_close(p, plain(fig5.reward, fig5.logp_ref, 0.5), atol=0, rtol=0)


def test_the_reference_is_normalised_and_the_precision_kept(fig5):
    for optimum in (reverse_kl_optimum, forward_kl_optimum):
        p = optimum(fig5.reward, fig5.logp_ref, 0.5)
        shifted = optimum(fig5.reward.float(), fig5.logp_ref.float() + 7, 0.5)
        torch.testing.assert_close(shifted, p.float(), atol=1e-6, rtol=0)  # in float32, too


def test_a_tiny_beta_keeps_its_digits_under_the_forward_kl():
    # two sequences, R = (0, 1): with d = L - 1, p1 beta/d + p0 beta/(1+d) = 1 gives d = p1 beta and
    # p0 = p0_ref beta to first order; L - 1 = 5e-13 is lost when L itself is bisected
    p = forward_kl_optimum(
        torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double().log(), 1e-12
    )
    assert p[0].item() == pytest.approx(5e-13, rel=1e-6)
    assert p[1].item() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "optimum", [reverse_kl_optimum, forward_kl_optimum, partial(mara_optimum, tau=0.8)]
)
def test_beta_must_be_positive(small, optimum, beta):
    with pytest.raises(ValueError, match="beta must be a finite number above 0"):
        optimum(small.reward, small.logp_ref, beta)


def test_bad_arguments(small):
    with pytest.raises(ValueError, match=r"got reward \(4,\), logp_ref \(3,\)"):
        reverse_kl_optimum(small.reward, small.logp_ref[:3], 1.0)
    with pytest.raises(ValueError, match="reward is not finite in 1 of 4 rows"):
        forward_kl_optimum(small.reward.log(), small.logp_ref, 1.0)
    with pytest.raises(ValueError, match="kl must be 'reverse' or 'forward', got 'backward'"):
        mara_optimum(small.reward, small.logp_ref, 1.0, tau=0.8, kl="backward")
