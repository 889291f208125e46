"""Every sequence is summed over; the exact KLs are differentiated by autograd, as the oracle."""

import pytest
import torch
from worlds import World

from chemkl.losses.kl import (
    forward_kl_surrogate_k3,
    k1_value,
    k2_value,
    k3_value,
    reverse_kl_surrogate_k2,
    reverse_kl_surrogate_score,
)

SURROGATES = (reverse_kl_surrogate_score, reverse_kl_surrogate_k2, forward_kl_surrogate_k3)
CASES = [(0, 2), (1, 3), (2, 3)]


def reverse_kl(logp, logp_ref):
    return (logp.exp() * (logp - logp_ref)).sum()


def forward_kl(logp, logp_ref):
    return (logp_ref.exp() * (logp_ref - logp)).sum()


def exact_slope(kl, world, logits):
    return torch.autograd.grad(kl(world.logp(logits), world.logp_ref), logits)[0]


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_the_world_is_a_distribution_over_all_its_sequences():
    world = World.random(0)
    assert len(set(world.sequences)) == 15
    assert {"$", "ab$", "bab"} <= set(world.sequences)
    logits = world.logits(1)
    close(world.logp(logits).exp().sum(), torch.ones((), dtype=torch.float64))
    close(world.logp_ref.exp().sum(), torch.ones((), dtype=torch.float64))
    # by hand: P(ab$) = P(a) P(b | a) P($ | ab)
    p = torch.softmax(logits, 1)
    prefix = world.prefixes.index
    by_hand = p[prefix(""), 0] * p[prefix("a"), 1] * p[prefix("ab"), 2]
    close(world.logp(logits).exp()[world.sequences.index("ab$")], by_hand)


def test_samples_of_the_world_follow_its_probabilities():
    world = World.random(0)
    logits = world.logits(1)
    rows = world.sample(logits, 40_000, torch.Generator().manual_seed(2))
    share = torch.bincount(rows, minlength=15) / 40_000
    # standard error of a share is at most sqrt(.25 / 40000) = .0025; four of them
    assert (share - world.logp(logits).exp()).abs().max() < 0.01


@pytest.mark.parametrize(("seed", "n_steps"), CASES)
def test_k1_and_k3_are_unbiased_and_k2_is_biased(seed, n_steps):
    world = World.random(seed, n_steps)
    logp = world.logp(world.logits(seed + 10))
    p = logp.detach().exp()
    exact = reverse_kl(logp, world.logp_ref).detach()
    assert exact > 0.3
    for value in (k1_value, lambda *args: k3_value(*args, clip=None), k3_value):
        close((p * value(logp, world.logp_ref)).sum(), exact)  # no log-ratio here reaches the clip
    bias = (p * k2_value(logp, world.logp_ref)).sum() - exact
    assert abs(bias) > 0.05


def test_the_bias_of_k2_is_of_third_order():
    """With pi_ref = pi exp(d): E[e^d] = 1, hence E[-d] = E[d^2/2] + E[d^3/6] + ... .

    Halving the distance in the logits divides the bias by eight, and the KL by four.
    """
    world = World.random(3)
    near = torch.log_softmax(world.logits(4), 1).detach()
    direction = torch.randn(near.shape, dtype=torch.float64, generator=torch.Generator())
    logp_ref = world.logp(near)
    biases, exacts = [], []
    for distance in (0.02, 0.01):
        logp = world.logp(near + distance * direction)
        exacts.append(reverse_kl(logp, logp_ref).item())
        biases.append((logp.exp() * k2_value(logp, logp_ref)).sum().item() - exacts[-1])
    assert biases[0] / biases[1] == pytest.approx(8, rel=0.05)
    assert exacts[0] / exacts[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(("seed", "n_steps"), CASES)
def test_each_surrogate_has_the_gradient_in_its_name(seed, n_steps):
    world = World.random(seed, n_steps)
    logits = world.logits(seed + 10)
    reverse = exact_slope(reverse_kl, world, logits)
    forward = exact_slope(forward_kl, world, logits)
    assert (reverse - forward).abs().max() > 0.05  # there is something to mix up
    for surrogate in (reverse_kl_surrogate_score, reverse_kl_surrogate_k2):
        close(world.expected_slope(lambda lp: surrogate(lp, world.logp_ref), logits), reverse)  # noqa: B023  # called at once
    for clip in (None, 20.0):
        got = world.expected_slope(
            lambda lp: forward_kl_surrogate_k3(lp, world.logp_ref, clip=clip),  # noqa: B023  # called at once
            logits,
        )
        close(got, forward)


def test_back_propagating_sampled_k1_regularises_nothing():
    world = World.random(1)
    logits = world.logits(11)
    got = world.expected_slope(lambda lp: lp - world.logp_ref, logits)
    close(got, torch.zeros_like(got))
    assert exact_slope(reverse_kl, world, logits).abs().max() > 0.05


def test_values_by_hand_without_graph():
    logp = torch.tensor([-1.0, -3.0], requires_grad=True)
    logp_ref = torch.tensor([-2.0, -1.0], requires_grad=True)
    expected = [(k1_value, [1.0, -2.0]), (k2_value, [0.5, 2.0])]
    expected.append((k3_value, [0.36787944, 4.3890561]))  # e^-1 + 1 - 1, e^2 - 2 - 1
    for value, numbers in expected:
        got = value(logp, logp_ref)
        assert got.tolist() == pytest.approx(numbers, rel=1e-6)
        assert not got.requires_grad
    for surrogate in SURROGATES:
        (slope,) = torch.autograd.grad(surrogate(logp, logp_ref).sum(), logp_ref, allow_unused=True)
        assert slope is None  # the reference is never trained


def test_k3_keeps_its_digits_near_zero():
    d = torch.tensor([1e-4])
    got = k3_value(torch.zeros(1) - d, torch.zeros(1)).item()
    assert got == pytest.approx(5e-9, abs=8e-12)  # d^2/2; fp32 expm1 is right to 1e-7 of d


def test_the_bias_of_the_clip_is_bounded_by_the_mass_beyond_it():
    """Above the clip the tangent lies under k3 and above 0: a row loses at most pi e^d = pi_ref."""
    world = World.random(7, spread=3.0)
    logp = world.logp(world.logits(8, spread=3.0)).detach()
    p, ratio = logp.exp(), world.logp_ref - logp
    for clip in (0.5, 2.0, 5.0):
        beyond = world.logp_ref.exp()[ratio > clip].sum()
        assert beyond > 0.01
        bias = (p * k3_value(logp, world.logp_ref, clip=clip)).sum() - reverse_kl(
            logp, world.logp_ref
        )
        assert -beyond <= bias < 0


def test_a_clipped_row_is_still_pulled_by_exp_of_the_clip():
    logp = torch.tensor([-80.0, -5.0], requires_grad=True)
    logp_ref = torch.tensor([-20.0, -4.0])  # log-ratios 60 and 1
    loss = forward_kl_surrogate_k3(logp, logp_ref, clip=3.0).sum()
    (slope,) = torch.autograd.grad(loss, logp)
    assert slope.tolist() == pytest.approx([1 - 20.0855369, 1 - 2.71828183], rel=1e-6)
    # a row inside a far clip has the plain gradient, in fp32 too: no exp(20) enters and leaves
    loss = forward_kl_surrogate_k3(logp, logp_ref - torch.tensor([60.0, 0.0]), clip=20.0).sum()
    assert torch.autograd.grad(loss, logp)[0].tolist() == pytest.approx(
        [0, 1 - 2.71828183], abs=1e-6
    )
    far = torch.tensor([-500.0], requires_grad=True)
    loss = forward_kl_surrogate_k3(far, torch.tensor([-20.0])).sum()
    assert loss.isfinite()
    assert torch.autograd.grad(loss, far)[0].isfinite().all()


@pytest.mark.parametrize("clip", [0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("function", [k3_value, forward_kl_surrogate_k3])
def test_a_clip_is_above_zero(function, clip):
    with pytest.raises(ValueError, match=r"clip must be a finite number of nats above 0.*got"):
        function(torch.zeros(2), torch.zeros(2), clip=clip)


FUNCTIONS = [k1_value, k2_value, k3_value, *SURROGATES]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match=r"got logp_policy \(3, 1\), logp_ref \(3,\)"):
        function(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"logp_ref is not finite in 1 of 2 rows .*row 1, -inf"):
        function(torch.zeros(2), torch.tensor([0.0, -torch.inf]))
    with pytest.raises(ValueError, match=r"logp_policy is float16, and must be float32"):
        function(torch.zeros(2, dtype=torch.float16), torch.zeros(2))
    with pytest.raises(ValueError, match="the batch is empty"):
        function(torch.zeros(0), torch.zeros(0))
