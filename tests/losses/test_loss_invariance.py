import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chemkl.losses import LossInputs, build_objective

NAMES = st.sampled_from(["reinvent", "rloo", "log_variance"])
TARGETS = st.sampled_from(
    [
        ("gibbs", {}),
        ("mara", {"tau": 0.6}),
        ("mara", {"tau": 0.6, "alpha": 0.7, "cap": 3.0, "reward_on_hits": "own"}),
        ("mara", {"tau_quantile": 0.7, "tau_floor": 0.1, "reward_on_hits": "tau"}),
        ("mara", {"tau": 0.6, "anchor": "running"}),
    ]
)
SEEDS = st.integers(0, 10_000)


def random_rows(seed, n_rows):
    """Rows without ties: which row of a tie is the anchor does depend on the order, by contract."""
    generator = torch.Generator().manual_seed(seed)
    logp_policy = -40 * torch.rand(n_rows, generator=generator, dtype=torch.float64)
    logp_ref = -40 * torch.rand(n_rows, generator=generator, dtype=torch.float64)
    reward = torch.rand(n_rows, generator=generator, dtype=torch.float64)
    order = torch.randperm(n_rows, generator=generator)
    return logp_policy, logp_ref, reward, order


def run(target, name, logp_policy, logp_ref, reward, group=None):
    kind, options = target
    objective = build_objective(kind, name, beta=0.2, **options)
    logp_policy = logp_policy.clone().requires_grad_()
    inputs = LossInputs(logp_policy=logp_policy, logp_ref=logp_ref, reward=reward, group=group)
    output = objective(inputs)
    output.loss.backward()
    return output, logp_policy.grad


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, target=TARGETS, name=NAMES, n_groups=st.integers(1, 3))
def test_the_order_of_the_rows_changes_nothing(seed, target, name, n_groups):
    lp, lr, reward, order = random_rows(seed, 12)
    group = torch.arange(12) % n_groups
    one, one_grad = run(target, name, lp, lr, reward, group)
    two, two_grad = run(target, name, lp[order], lr[order], reward[order], group[order])
    torch.testing.assert_close(one.loss, two.loss)
    torch.testing.assert_close(one_grad[order], two_grad)
    for field in ("log_target", "hit", "anchor", "anchor_logp_ref"):
        expected, got = getattr(one.target, field)[order], getattr(two.target, field)
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, target=TARGETS, name=NAMES)
def test_a_group_does_not_feel_the_others(seed, target, name):
    """Another group's rows may be anything; this one's target and gradient stay."""
    lp, lr, reward, _ = random_rows(seed, 12)
    group = torch.arange(12) % 2
    mine = group == 0
    one, one_grad = run(target, name, lp, lr, reward, group)
    shift = torch.where(mine, 0.0, -5.0)
    flipped = torch.where(mine, reward, 1 - reward)
    two, two_grad = run(target, name, lp + shift, lr + 2 * shift, flipped, group)
    torch.testing.assert_close(one_grad[mine], two_grad[mine], atol=1e-12, rtol=0)
    assert torch.equal(one.target.log_target[mine], two.target.log_target[mine])
    assert not torch.equal(one.target.log_target[~mine], two.target.log_target[~mine])


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, target=TARGETS, names=st.permutations([11, 3, 7]))
def test_group_numbers_are_only_names(seed, target, names):
    lp, lr, reward, _ = random_rows(seed, 12)
    group = torch.arange(12) % 3
    _, one_grad = run(target, "rloo", lp, lr, reward, group)
    _, two_grad = run(target, "rloo", lp, lr, reward, torch.tensor(names)[group])
    torch.testing.assert_close(one_grad, two_grad, atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, target=TARGETS, shift=st.floats(-30, 30))
def test_the_normalisation_of_the_reference_does_not_matter_with_a_baseline(seed, target, shift):
    """A constant in log pi_ref is a constant in log_target, which the baseline removes."""
    lp, lr, reward, _ = random_rows(seed, 12)
    for name in ("rloo", "log_variance"):
        _, one_grad = run(target, name, lp, lr, reward)
        _, two_grad = run(target, name, lp, lr + shift, reward)
        torch.testing.assert_close(one_grad, two_grad, atol=1e-10, rtol=0)
