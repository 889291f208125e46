import pytest
import torch

from chemkl.losses import augmented_reward
from chemkl.losses.exact import (
    forward_kl_constant,
    forward_kl_optimum,
    mara_optimum,
    reverse_kl_optimum,
)

# The numbers of the figures are closed forms worked out apart from this code, rounded to the
# digits shown; "abs" is half a unit of the last digit.


@pytest.mark.parametrize(
    ("beta", "mode1", "mode2"), [(0.10, 0.133, 0.241), (0.132, 0.154, 0.152), (0.15, 0.153, 0.121)]
)
def test_fig2_reverse(fig2, beta, mode1, mode2):
    p = reverse_kl_optimum(fig2.reward, fig2.logp_ref, beta)
    assert p[20].item() == pytest.approx(mode1, abs=5e-4)
    assert p[79].item() == pytest.approx(mode2, abs=5e-4)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)


def test_fig2_peaks_and_crossover(fig2):
    assert fig2.logp_ref[20].item() == pytest.approx(-4.055, abs=5e-4)
    assert fig2.logp_ref[79].item() == pytest.approx(-5.955, abs=5e-4)
    # beta* = (R2 - R1) / (lr1 - lr2): there the two modes are equal, and they swap across it
    beta = (fig2.reward[79] - fig2.reward[20]) / (fig2.logp_ref[20] - fig2.logp_ref[79])
    assert 0.131 <= beta.item() <= 0.132
    p = reverse_kl_optimum(fig2.reward, fig2.logp_ref, beta.item())
    assert p[20].item() == pytest.approx(p[79].item(), rel=1e-9)
    below = reverse_kl_optimum(fig2.reward, fig2.logp_ref, 0.10)
    above = reverse_kl_optimum(fig2.reward, fig2.logp_ref, 0.15)
    assert below[79] > below[20]
    assert above[79] < above[20]


@pytest.mark.parametrize(
    ("beta", "mode1", "mode2", "constant"),
    [(0.1, 0.0069, 0.861, 0.9980), (1.0, 0.0377, 0.0123, 1.208)],
)
def test_fig2_forward(fig2, beta, mode1, mode2, constant):
    p = forward_kl_optimum(fig2.reward, fig2.logp_ref, beta)
    assert p[20].item() == pytest.approx(mode1, abs=5e-5)
    assert p[79].item() == pytest.approx(mode2, abs=5e-4)
    assert forward_kl_constant(fig2.reward, fig2.logp_ref, beta) == pytest.approx(
        constant, abs=5e-4
    )


def test_fig3_equal_reference():
    reward = torch.tensor([0.0, 0.9, 1.0], dtype=torch.float64)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    # weights exp(0), exp(1.8), exp(2) = 1, 6.04965, 7.38906; their sum is 14.43871
    expected = torch.tensor([0.069258, 0.418988, 0.511754], dtype=torch.float64)
    torch.testing.assert_close(
        reverse_kl_optimum(reward, uniform, 0.5), expected, atol=1e-6, rtol=0
    )
    # a gap of 0.1 at beta 1e-3 is exp(100) = 2.7e43: nothing but the best is left
    p = reverse_kl_optimum(reward, uniform, 1e-3)
    assert (p[2] / p[1]).log().item() == pytest.approx(100, abs=1e-9)
    assert p[2].item() == pytest.approx(1, abs=1e-12)


def test_fig4_equal_rewards_keep_the_ratio_of_the_reference():
    reward = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    p_ref = torch.tensor([0.68, 0.30, 0.02], dtype=torch.float64)
    p = reverse_kl_optimum(reward, p_ref.log(), 0.01)
    # 0.30 / 0.32 and 0.02 / 0.32
    expected = torch.tensor([0.0, 0.9375, 0.0625], dtype=torch.float64)
    torch.testing.assert_close(p, expected, atol=1e-9, rtol=0)
    for beta in (0.1, 1.0, 10.0):
        p = reverse_kl_optimum(reward, p_ref.log(), beta)
        assert (p[1] / p[2]).item() == pytest.approx(15, rel=1e-9)


def test_fig5_gibbs(fig5):
    p = reverse_kl_optimum(fig5.reward, fig5.logp_ref, 0.01)
    assert p[[0, 24, 50]].tolist() == pytest.approx([0.0616, 0.0206, 0.0039], abs=5e-5)
    p = forward_kl_optimum(fig5.reward, fig5.logp_ref, 1.0)
    assert p[[0, 25]].tolist() == pytest.approx([0.0548, 0.0082], abs=5e-5)
    constant = forward_kl_constant(fig5.reward, fig5.logp_ref, 1.0)
    assert constant == pytest.approx(1.890, abs=5e-4)


def test_fig5_mara(fig5):
    hit = fig5.reward == 1
    p = mara_optimum(fig5.reward, fig5.logp_ref, 0.01, tau=1.0)
    torch.testing.assert_close(p[hit], torch.full((50,), 0.02).double(), atol=1e-9, rtol=0)
    p = mara_optimum(fig5.reward, fig5.logp_ref, 1.0, tau=1.0)
    assert p[hit].min().item() == pytest.approx(0.0194, abs=5e-5)
    assert p[hit].max().item() == p[hit].min().item()
    assert p[25].item() == pytest.approx(0.0023, abs=5e-5)


def test_fig5_mara_forward(fig5):
    hit = fig5.reward == 1
    p = mara_optimum(fig5.reward, fig5.logp_ref, 1.0, tau=1.0, kl="forward")
    assert p[hit].min().item() == pytest.approx(0.0188, abs=5e-5)
    assert p[hit].max().item() == p[hit].min().item()
    assert p[25].item() == pytest.approx(0.0043, abs=5e-5)
    # G = beta p'/(L - R) solved for L at token 25, a non-hit: L = p(25) / G(25)
    constant = (fig5.logp_ref[25].exp() / p[25]).item()
    assert constant == pytest.approx(3.589, abs=5e-4)


def test_both_algorithms_have_one_optimum_under_the_reverse_kl(fig5):
    one = mara_optimum(fig5.reward, fig5.logp_ref, 0.3, tau=1.0, algorithm=1)
    two = mara_optimum(fig5.reward, fig5.logp_ref, 0.3, tau=1.0, algorithm=2)
    # Algorithm 1 written out: R + beta (lr(z) - lr) on the hits, in the formula for gibbs
    augmented = fig5.reward + 0.3 * (fig5.logp_ref[0] - fig5.logp_ref)
    augmented = torch.where(fig5.reward == 1, augmented, fig5.reward)
    written_out = torch.softmax(fig5.logp_ref + augmented / 0.3, dim=0)
    torch.testing.assert_close(one, written_out, atol=1e-12, rtol=0)
    torch.testing.assert_close(two, written_out, atol=1e-12, rtol=0)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_algorithm_1_under_the_forward_kl_is_refused_for_a_reason(fig5, beta):
    """The augmented reward is largest on the rarest hit, and the forward KL goes for it."""
    lift = beta * (fig5.logp_ref[0] - fig5.logp_ref)
    augmented = torch.where(fig5.reward == 1, fig5.reward + lift, fig5.reward)
    assert 0.79 < forward_kl_optimum(augmented, fig5.logp_ref, beta)[74] < 0.83
    with pytest.raises(ValueError, match=r"Algorithm 1 .* rarest hit; use algorithm=2"):
        mara_optimum(fig5.reward, fig5.logp_ref, beta, tau=1.0, kl="forward", algorithm=1)
    with pytest.raises(ValueError, match=r"Algorithm 1\) under the forward KL"):
        augmented_reward(fig5.logp_ref, fig5.logp_ref, beta, kl="forward")


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
        assert shifted.dtype == torch.float32
        torch.testing.assert_close(p.float(), shifted, atol=1e-6, rtol=0)


def test_a_tiny_beta_keeps_its_digits_under_the_forward_kl():
    # two sequences, R = (0, 1): with d = L - 1, p1 beta/d + p0 beta/(1+d) = 1 gives d = p1 beta and
    # p0 = p0_ref beta to first order; L - 1 = 5e-13 is lost when L itself is bisected
    p = forward_kl_optimum(
        torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double().log(), 1e-12
    )
    assert p[0].item() == pytest.approx(5e-13, rel=1e-6)
    assert p[1].item() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_positive(small, beta):
    calls = (
        lambda: reverse_kl_optimum(small.reward, small.logp_ref, beta),
        lambda: forward_kl_optimum(small.reward, small.logp_ref, beta),
        lambda: forward_kl_constant(small.reward, small.logp_ref, beta),
        lambda: mara_optimum(small.reward, small.logp_ref, beta, tau=0.8),
    )
    for call in calls:
        with pytest.raises(ValueError, match="beta must be a finite number above 0"):
            call()


def test_bad_arguments(small):
    with pytest.raises(ValueError, match=r"got reward \(4,\), logp_ref \(3,\)"):
        reverse_kl_optimum(small.reward, small.logp_ref[:3], 1.0)
    with pytest.raises(ValueError, match="reward is not finite in 1 of 4 rows"):
        forward_kl_optimum(small.reward.log(), small.logp_ref, 1.0)
    with pytest.raises(ValueError, match="kl must be 'reverse' or 'forward', got 'backward'"):
        mara_optimum(small.reward, small.logp_ref, 1.0, tau=0.8, kl="backward")
