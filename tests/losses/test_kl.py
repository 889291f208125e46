"""The KL estimators, summed over every sequence; the exact KLs, by autograd, are the oracle."""

import pytest
import torch
from worlds import World, close

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


def expected_slope(surrogate, world, logits, **options):
    """The expected gradient on rows of the policy; sampling probabilities have no graph."""
    logp = world.logp(logits)
    values = surrogate(logp, world.logp_ref, **options)
    return torch.autograd.grad((logp.detach().exp() * values).sum(), logits)[0]


def test_a_world_is_a_distribution_over_all_its_sequences():
    world = World.random(0)
    assert len(set(world.sequences)) == 15
    assert {"$", "ab$", "bab"} <= set(world.sequences)
    logits = world.logits(1)
    p = world.logp(logits).exp()
    close(p.sum(), torch.ones((), dtype=torch.float64))
    close(world.logp_ref.exp().sum(), torch.ones((), dtype=torch.float64))
    # by hand: P(ab$) = P(a) P(b | a) P($ | ab)
    table, prefix = torch.softmax(logits, 1), world.prefixes.index
    by_hand = table[prefix(""), 0] * table[prefix("a"), 1] * table[prefix("ab"), 2]
    close(p[world.sequences.index("ab$")], by_hand)
    rows = world.sample(logits, 40_000, torch.Generator().manual_seed(2))
    # standard error of a share is at most sqrt(.25 / 40000) = .0025; four of them
    assert (torch.bincount(rows, minlength=15) / 40_000 - p).abs().max() < 0.01


@pytest.mark.parametrize(("seed", "n_steps"), CASES)
def test_k1_and_k3_are_unbiased_and_k2_is_biased(seed, n_steps):
    world = World.random(seed, n_steps)
    logp = world.logp(world.logits(seed + 10))
    p = logp.detach().exp()
    exact = reverse_kl(logp, world.logp_ref).detach()
    assert exact > 0.3
    for value in (k1_value, lambda *args: k3_value(*args, clip=None), k3_value):
        close((p * value(logp, world.logp_ref)).sum(), exact, 1e-10)  # no log-ratio is clipped
    assert abs((p * k2_value(logp, world.logp_ref)).sum() - exact) > 0.05


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
    reverse, forward = (exact_slope(kl, world, logits) for kl in (reverse_kl, forward_kl))
    assert (reverse - forward).abs().max() > 0.05  # there is something to mix up
    for surrogate in (reverse_kl_surrogate_score, reverse_kl_surrogate_k2):
        close(expected_slope(surrogate, world, logits), reverse, 1e-10)
    for clip in (None, 20.0):
        close(expected_slope(forward_kl_surrogate_k3, world, logits, clip=clip), forward, 1e-10)
    # back-propagating sampled k1 regularises nothing
    k1 = expected_slope(lambda lp, lr: lp - lr, world, logits)
    close(k1, torch.zeros_like(k1), 1e-10)
    assert reverse.abs().max() > 0.05


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
    d = torch.tensor([1e-4])  # near 0 k3 keeps its digits: d^2/2; fp32 expm1 is right to 1e-7 of d
    assert k3_value(torch.zeros(1) - d, torch.zeros(1)).item() == pytest.approx(5e-9, abs=8e-12)


def test_the_bias_of_the_clip_is_bounded_by_the_mass_beyond_it():
    """Above the clip the tangent lies under k3 and above 0: a row loses at most pi e^d = pi_ref."""
    world = World.random(7, spread=3.0)
    logp = world.logp(world.logits(8, spread=3.0)).detach()
    exact = reverse_kl(logp, world.logp_ref)
    for clip in (0.5, 2.0, 5.0):
        beyond = world.logp_ref.exp()[world.logp_ref - logp > clip].sum()
        assert beyond > 0.01
        bias = (logp.exp() * k3_value(logp, world.logp_ref, clip=clip)).sum() - exact
        assert -beyond <= bias < 0


def test_a_clipped_row_has_the_weight_exp_of_the_clip():
    def slope(logp, logp_ref, **options):
        loss = forward_kl_surrogate_k3(logp, logp_ref, **options).sum()
        assert loss.isfinite()
        return torch.autograd.grad(loss, logp)[0].tolist()

    logp = torch.tensor([-80.0, -5.0], requires_grad=True)
    logp_ref = torch.tensor([-20.0, -4.0])  # log-ratios 60 and 1
    assert slope(logp, logp_ref, clip=3.0) == pytest.approx([1 - 20.0855369, 1 - 2.71828183], 1e-6)
    # a row inside a far clip has the plain gradient, in fp32 too: no exp(20) enters and leaves
    near = logp_ref - torch.tensor([60.0, 0.0])
    assert slope(logp, near, clip=20.0) == pytest.approx([0, 1 - 2.71828183], abs=1e-6)
    (far,) = slope(torch.tensor([-500.0], requires_grad=True), torch.tensor([-20.0]))
    assert abs(far) < float("inf")


@pytest.mark.parametrize("clip", [0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("function", [k3_value, forward_kl_surrogate_k3])
def test_a_clip_is_above_zero(function, clip):
    with pytest.raises(ValueError, match=r"clip must be a finite number of nats above 0.*got"):
        function(torch.zeros(2), torch.zeros(2), clip=clip)


@pytest.mark.parametrize("function", [k1_value, k2_value, k3_value, *SURROGATES])
@pytest.mark.parametrize(
    ("logp", "logp_ref", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3), r"got logp_policy \(3, 1\), logp_ref \(3,\)"),
        (torch.zeros(2), torch.tensor([0.0, -torch.inf]),
         r"logp_ref is not finite in 1 of 2 rows .*row 1, -inf"),
        (torch.zeros(2, dtype=torch.float16), torch.zeros(2),
         r"logp_policy is float16, and must be float32"),
        (torch.zeros(0), torch.zeros(0), "the batch is empty"),
    ],
)  # fmt: skip
def test_bad_input_is_named(function, logp, logp_ref, message):
    with pytest.raises(ValueError, match=message):
        function(logp, logp_ref)
