import time

import pytest
import torch
from worlds import World, close, double, inputs_of, setting

from chemkl.losses import LossInputs, build_objective
from chemkl.losses.shapers import (
    SHAPER_INPUTS,
    SHAPERS,
    build_shaper,
    differential_smoothing,
    entropy,
    ips,
    set_diversity,
    shaper,
    ucpo,
)
from chemkl.losses.targets import Gibbs, Mara

BETA = 0.3


def kernel_of(seed, n, n_bits=12):
    """Tanimoto similarities of random bit sets; the first two rows are copies."""
    bits = torch.rand(n, n_bits, generator=torch.Generator().manual_seed(seed)) < 0.4
    bits[:, 0] = True
    bits[min(1, n - 1)] = bits[0]
    bits = bits.double()
    common = bits @ bits.T
    on = common.diagonal()
    return common / (on[:, None] + on[None, :] - common)


def bits_of(seed, n, n_bits=12):
    return (torch.rand(n, n_bits, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def rows(seed, n):
    generator = torch.Generator().manual_seed(seed)
    advantage = torch.randn(n, dtype=torch.float64, generator=generator)
    hit = torch.rand(n, generator=generator) < 0.6
    logp = -40 * torch.rand(n, dtype=torch.float64, generator=generator)
    return advantage, hit, logp


# ---- set diversity


def diversity(members, kernel):
    """D(S) = mean_i -log(1 + mean_j k(y_i, y_j)), as it is written."""
    terms = []
    for i in members:
        mean = sum(kernel[i, j] for j in members) / len(members)
        terms.append(-torch.log(1 + mean))
    return sum(terms) / len(members)


def gains_by_loops(hit, kernel, group):
    gains = torch.zeros(len(hit), dtype=torch.float64)
    for number in set(group.tolist()):
        members = [i for i in range(len(hit)) if hit[i] and group[i] == number]
        for i in members if len(members) > 1 else []:
            without = [j for j in members if j != i]
            gains[i] = diversity(members, kernel) - diversity(without, kernel)
    return gains


@pytest.mark.parametrize(
    "group", [[0] * 14, [0, 1] * 7, [5, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 9]]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_set_diversity_is_the_marginal_of_leaving_one_out(seed, group):
    advantage, hit, _ = rows(seed, 14)
    kernel, group = kernel_of(seed, 14), torch.tensor(group)
    gains = gains_by_loops(hit, kernel, group)
    assert gains.abs().max() > 0.01
    got = set_diversity(advantage, hit, kernel, group, weight=2.5)
    close(got, advantage + 2.5 * gains)
    assert torch.equal(got[~hit], advantage[~hit])
    if len(group.unique()) == 1:
        close(set_diversity(advantage, hit, kernel, weight=2.5), got, atol=0)


def test_set_diversity_by_hand():
    """Rows 0 and 1 are alike, row 2 is like nothing: masses 2/3, 2/3, 1/3; without row 2: 1, 1.

    D(S) = -(2 ln(5/3) + ln(4/3))/3; without row 2 it is -ln 2, without row 0 -ln(3/2).
    """
    kernel = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).double()
    ln = torch.log
    whole = -(2 * ln(double(5 / 3)) + ln(double(4 / 3))) / 3
    expected = torch.cat([whole + ln(double(1.5)), whole + ln(double(1.5)), whole + ln(double(2))])
    got = set_diversity(torch.zeros(3, dtype=torch.float64), torch.ones(3).bool(), kernel)
    close(got, expected)
    assert got[2] > 0 > got[0]


@pytest.mark.parametrize("hits", [[], [2]])
def test_fewer_than_two_hits_have_no_set_diversity(hits):
    advantage, _, _ = rows(0, 5)
    hit = torch.isin(torch.arange(5), torch.tensor(hits, dtype=torch.int64))
    assert torch.equal(set_diversity(advantage, hit, kernel_of(0, 5)), advantage)


def test_set_diversity_keeps_its_digits_in_fp32():
    """D(S) - D(S without i) as a difference of two sums would be off by 1e-7 in 1e-3."""
    n = 600
    hit, kernel = torch.ones(n, dtype=torch.bool), kernel_of(3, n, n_bits=64)
    exact = set_diversity(torch.zeros(n, dtype=torch.float64), hit, kernel)
    assert 1e-5 < exact.abs().max() < 1e-2
    got = set_diversity(torch.zeros(n), hit, kernel.float())
    assert ((got.double() - exact).abs() / exact.abs().max()).max() < 1e-5


def test_set_diversity_of_4096_hits_takes_seconds_at_most():
    n = 4096
    kernel = kernel_of(0, n, n_bits=256).float()
    began = time.perf_counter()
    got = set_diversity(torch.zeros(n), torch.ones(n, dtype=torch.bool), kernel)
    assert time.perf_counter() - began < 10  # 0.7 s on one core; a loop takes hours
    assert got.isfinite().all()


# ---- differential smoothing


def test_smoothing_by_hand():
    hit = torch.tensor([True, True, False])
    got = differential_smoothing(double(1, 1, -2), hit, double(-10, -30, -30), gamma=0.1)
    close(got, double(2, 4, -2))


def test_smoothing_a_score_without_kl_on_the_hits_is_mara_up_to_a_constant():
    """MARA's score is s = beta (log_target - lp), with log_target = lr(z) + R(z)/beta on a hit:

        s = [beta lr(z) + R(z)] - beta lp        on hits: a constant, minus beta lp
        s = R + beta lr - beta lp                elsewhere: gibbs

    A score that has no KL on the hits is R there; where the hits have one reward R(z), smoothing
    with gamma = beta makes it R(z) - beta lp = s - beta lr(z). So with the gibbs score minus
    beta lr(z) on the other rows, the whole batch differs from MARA's score by a constant, which a
    baseline takes away. Leave-one-out multiplies by n/(n - 1): a centred reward is to be smoothed
    with beta n/(n - 1).
    """
    _, hit, lp = rows(4, 12)
    lr = lp + 3 * torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reward = torch.where(hit, 1.0, 0.3).double()
    lr_z = lr[hit].max()
    mara = BETA * (Mara(beta=BETA, tau=0.8)(lr, reward).log_target - lp)
    without_kl = torch.where(hit, reward, reward + BETA * (lr - lp) - BETA * lr_z)
    smoothed = differential_smoothing(without_kl, hit, lp, gamma=BETA)
    close(mara - smoothed, (BETA * lr_z).expand(12), atol=1e-12)

    n = 12
    centred = (reward - reward.mean()) * n / (n - 1)  # rloo's advantage of the reward alone
    after = differential_smoothing(centred, hit, lp, gamma=BETA * n / (n - 1))
    mara_centred = (mara - mara.mean()) * n / (n - 1)
    apart = (mara_centred - after)[hit]
    close(apart, apart[0].expand_as(apart))
    assert mara_centred[hit].std() > 1  # the hits' advantages are not one constant themselves


def test_smoothing_a_score_that_has_its_kl_tempers_the_reference_and_is_not_mara():
    """beta lr + R - (beta + gamma) lp is constant at pi = pi_ref^(b/(b + g)) e^(R/(b + g))."""
    world = World.random(2)
    hit = torch.ones(len(world.sequences), dtype=torch.bool)
    gamma, reward = 0.2, hit.double()
    log_target = Gibbs(beta=BETA)(world.logp_ref, reward).log_target

    def per_row(lp):
        score = BETA * (log_target - lp.detach())
        return -differential_smoothing(score, hit, lp, gamma=gamma) * lp

    def slope_at(log_p):
        """The expected gradient at a distribution over the sequences, as a one-step policy."""
        flat = log_p.clone().requires_grad_()
        lp = torch.log_softmax(flat, 0)
        return torch.autograd.grad((lp.detach().exp() * per_row(lp)).sum(), flat)[0]

    tempered = world.logp_ref * BETA / (BETA + gamma)
    close(slope_at(tempered), torch.zeros_like(tempered))
    uniform = torch.zeros_like(tempered)  # MARA's optimum here
    assert slope_at(uniform).abs().max() > 1e-3


# ---- ucpo


@pytest.mark.parametrize("group", [None, [0, 1] * 6, [3] * 11 + [8]])
@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_ucpo_is_the_formula(group, temperature):
    advantage, hit, lp = rows(5, 12)
    hit[11] = True  # alone in its group in the last case
    numbers = torch.zeros(12, dtype=torch.int64) if group is None else torch.tensor(group)
    expected, t = advantage.clone(), 0.4
    for number in numbers.unique():
        members = (hit & (numbers == number)).nonzero().flatten()
        q = torch.softmax(lp[members] / temperature, 0)
        share = (1 / q) / (1 / q).sum()
        n = len(members)
        expected[members] *= n * ((1 - t) / n + t * share)
    given = None if group is None else numbers
    got = ucpo(advantage, hit, lp, given, strength=t, temperature=temperature)
    close(got, expected)
    assert torch.equal(got[~hit], advantage[~hit])
    if group is not None and group[-1] == 8:
        close(got[11], advantage[11])


def test_ucpo_keeps_the_sum_over_equal_hits_and_survives_far_apart_logps():
    """1/q as such overflows: exp(900). The rarest hit then has all of the share: 1 - t + n t."""
    hit = torch.tensor([True, True, False, True])
    got = ucpo(torch.full((4,), 2.0), hit, torch.tensor([-20.0, -30.0, -5.0, -900.0]), strength=0.2)
    assert got.tolist() == pytest.approx([1.6, 1.6, 2.0, 2 * (0.8 + 3 * 0.2)])
    assert got[hit].sum().item() == pytest.approx(6.0)


def test_shapers_of_hits_change_nothing_without_hits():
    advantage, hit, lp = rows(6, 5)
    hit = torch.zeros_like(hit)
    assert torch.equal(ucpo(advantage, hit, lp), advantage)
    bound = build_shaper("rnd")
    assert torch.equal(bound(advantage, hit_B=hit, features_BF=bits_of(0, 5)), advantage)


# ---- ips


def test_ips_by_hand():
    advantage = double(1, 1, 1, -2, 1, 5)
    outcome = torch.tensor([7, 7, 3, 3, 7, -1])
    # of six rows: outcome 7 has three, 3 has two; -1 is none
    close(ips(advantage, outcome), double(2, 2, 3, -6, 2, 5))
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    # group 0: shares 2/3, 2/3, 1/3; group 1: 1/3, 1/3, none
    close(ips(advantage, outcome, group), double(1.5, 1.5, 3, -6, 3, 5))
    close(ips(advantage, outcome, eps=0.4), double(2, 2, 2.5, -5, 2, 5))


# ---- entropy


@pytest.mark.parametrize("kind", ["gibbs", "mara"])
def test_entropy_ends_at_the_target_to_a_power(kind):
    """The expected gradient, by enumeration of all batches of two, is 0 at p^(beta/(beta + w))."""
    weight, at = 0.15, setting(kind, 0, 2)
    tempered = torch.softmax(at.log_p * at.target.beta / (at.target.beta + weight), 0)

    def slope(p):
        here = at.moved_to(p)
        lp, total = here.world.logp(here.logits), 0.0
        for batch_of_two, chance in here.world.batches(2, lp.detach().exp()):
            bonus = build_shaper("entropy", weight=weight)
            objective = build_objective(here.target, "rloo", shaper=bonus)
            total = total + chance * objective(inputs_of(here, lp, batch_of_two, None, 0)).loss
        return torch.autograd.grad(total, here.logits)[0].abs().max()

    assert slope(tempered) < 1e-12
    assert slope(at.log_p.exp()) > 0.003


def test_entropy_by_hand():
    """The others' means of lp = -1, -2, -6 are -4, -3.5, -1.5."""
    got = entropy(double(1, 1, 1), double(-1, -2, -6), weight=0.1)
    close(got, double(1 - 0.3, 1 - 0.15, 1 + 0.45))


# ---- random network distillation


def novelties(bound, features):
    """The bonus of each row, from the difference to a row that is no hit and has a bonus of 0."""
    n = len(features)
    joined = torch.cat([features, torch.zeros(n, features.shape[1])])
    hit = torch.arange(2 * n) < n
    got = bound(torch.zeros(2 * n).double(), hit_B=hit, features_BF=joined)
    return (got[:n] - got[n]) * (2 * n - 1) / (2 * n)


def test_rnd_rewards_novelty_that_fades_with_repetition():
    """At first all get the weight; after forty batches known hits get little, a new one much."""
    bound, known = build_shaper("rnd", weight=2.0), bits_of(0, 8, 256)
    stranger = bits_of(9, 1, 256)
    first = novelties(bound, known)
    close(first, torch.full((8,), 2.0).double(), atol=1e-6)
    for _ in range(40):
        with torch.no_grad():
            novelties(bound, known)
    later = novelties(bound, torch.cat([known, stranger]))
    assert later[:8].max() < 0.3 * 2
    assert later[8] > 2 * later[:8].max()
    assert (later > 0).all()


def test_rnd_is_a_function_of_its_seed_and_its_hits():
    """Two with one seed agree to the bit, also if one is resumed from a state, or from two."""

    def objective(seed=0, state=None):
        shaper = {"kind": "rnd", "seed": seed}
        made = build_objective("mara", "rloo", beta=0.1, tau=0.5, shaper=shaper)
        if state is not None:
            made.load_state_dict(state)
        return made

    def losses(of, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            lp, lr, reward = torch.rand(3, 12, generator=generator, dtype=torch.float64)
            features = bits_of(number, 12, 64)
            yield of(LossInputs(-9 * lp, -9 * lr, reward, features=features)).loss.item()

    first = objective()
    expected = list(losses(objective(), range(6)))
    assert list(losses(first, range(3))) == expected[:3]
    state = first.state_dict()
    saved = state["shaper"]["distillation"]
    assert all(isinstance(value, torch.Tensor) for value in saved.values())
    again = objective(state=objective(state=state).state_dict())  # saved before the next batch
    assert list(losses(again, range(3, 6))) == expected[3:]
    later = first.state_dict()["shaper"]["distillation"]
    assert all(torch.equal(saved[name], value) for name, value in later.items())
    assert list(losses(objective(), range(3, 6))) != expected[3:]
    assert list(losses(objective(seed=1), range(6))) != expected


# ---- what they have in common


def call(name, advantage, hit, logp, kernel, outcome, features, group=None):
    return build_shaper(name)(
        advantage,
        hit_B=hit,
        logp_policy_B=logp,
        kernel_BB=kernel,
        outcome_B=outcome,
        features_BF=features,
        group_B=group,
    )


def batch(seed, n=10):
    advantage, hit, logp = rows(seed, n)
    outcome = torch.randint(-1, 4, (n,), generator=torch.Generator().manual_seed(seed))
    return advantage, hit, logp, kernel_of(seed, n), outcome, bits_of(seed, n)


@pytest.mark.parametrize("name", list(SHAPERS))
def test_the_result_has_no_graph_and_the_dtype_of_the_advantage(name):
    advantage, hit, logp, kernel, outcome, features = batch(0)
    advantage = advantage.float().requires_grad_()
    before = advantage.detach().clone()
    got = call(name, advantage, hit, logp.requires_grad_(), kernel, outcome, features)
    assert got.shape == (10,)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert torch.equal(advantage.detach(), before)
    assert not torch.equal(got, before)


@pytest.mark.parametrize("name", list(SHAPERS))
def test_order_and_other_groups_do_not_matter(name):
    one, other = batch(2), batch(3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    moved = [v[order][:, order] if v.shape == (10, 10) else v[order] for v in one]
    close(call(name, *moved), call(name, *one)[order])
    joined = [
        torch.block_diag(a, b) if a.shape == (10, 10) else torch.cat([a, b])
        for a, b in zip(one, other, strict=True)
    ]
    joined[3][:10, 10:] = joined[3][10:, :10] = 0.7  # similar across groups
    group = torch.tensor([4] * 10 + [1] * 10)
    close(call(name, *joined, group), torch.cat([call(name, *one), call(name, *other)]))


def test_what_is_registered_and_needed():
    inputs = ("hit_B", "kernel_BB", "outcome_B", "features_BF")
    needs = {name: [*map(build_shaper(name).needs, inputs)] for name in SHAPERS}
    assert needs == {
        "set_diversity": [True, True, False, False],
        "differential_smoothing": [True, False, False, False],
        "ucpo": [True, False, False, False],
        "ips": [False, False, True, False],
        "entropy": [False, False, False, False],
        "rnd": [True, False, False, True],
    }
    for name in SHAPERS:
        assert set(SHAPERS[name].signature.inputs) <= set(SHAPER_INPUTS)


def test_options_are_bound():
    hit = torch.ones(2, dtype=torch.bool)
    bound = build_shaper("differential_smoothing", gamma=1)
    assert bound(double(0, 0), hit_B=hit, logp_policy_B=double(-1, -2)).tolist() == [1, 2]
    assert build_shaper("ucpo", strength=1).options == {"strength": 1.0, "temperature": 1.0}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("setpo", {}, "shaper 'setpo' is not known.*Known: differential_smoothing, entropy"),
        ("ips", {"epsilon": 1}, "shaper 'ips' has no option 'epsilon'; did you mean 'eps'"),
        ("ips", {"eps": 0}, "eps must lie in \\(0, 1\\], got 0"),
        ("ips", {"eps": 1.5}, "eps must lie in .*, got 1.5"),
        ("ucpo", {"strength": -0.1}, "strength must lie in .*, got -0.1"),
        ("ucpo", {"temperature": float("inf")}, "temperature must be .*above 0, got inf"),
        ("set_diversity", {"weight": float("nan")}, "weight must be .*got nan"),
        ("set_diversity", {"weight": "2"}, "weight must be .*got '2'"),
        ("differential_smoothing", {"gamma": True}, "gamma must be .*got True"),
        ("entropy", {"weight": 0}, "weight must be a finite number above 0, got 0"),
        ("rnd", {"rate": -1e-3}, "rate must be a finite number above 0, got -0.001"),
        ("rnd", {"seed": -1}, r"seed must lie in \[0, inf\), got -1"),
    ],
)
def test_bad_options_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        build_shaper(kind, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set_diversity", r"'set_diversity' needs kernel_BB.*\(B, B\) similarity"),
        ("ips", r"'ips' needs outcome_B.*such as its scaffold"),
    ],
)
def test_missing_inputs_are_named(name, message):
    advantage, hit, *_ = batch(0)
    with pytest.raises(ValueError, match=message):
        build_shaper(name)(advantage, hit_B=hit, kernel_BB=None)


def changed(kernel, i, j, value):
    kernel = kernel.clone()
    kernel[i, j] = value
    return kernel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: k[:9], r"kernel must be \(10, 10\), .*got \(9, 10\): keep all rows"),
        (lambda k: k[0], r"kernel must be \(10, 10\), .*got \(10,\)"),
        (lambda k: changed(k, 2, 5, 0.99), r"symmetric, but k\[2, 5\] = 0.99 and k\[5, 2\]"),
        (lambda k: changed(k, 2, 5, 1.2), r"must lie in \[0, 1\], got .* to 1.2: .*Tanimoto"),
        (lambda k: changed(k, 2, 5, -0.5), r"must lie in \[0, 1\], got -0.5"),
        (lambda k: changed(k, 2, 5, float("nan")), r"must lie in \[0, 1\], got nan"),
        (lambda k: changed(k, 3, 3, 0.0), r"kernel \(10, 10\) must have ones on its diagonal"),
        (lambda k: 1 - k, "ones on its diagonal.*1 minus a distance"),
        (lambda k: (k > 0.5).long(), "kernel must be of floats, got torch.int64"),
    ],
)
def test_a_bad_kernel_is_named(change, message):
    advantage, hit, _, kernel, *_ = batch(0)
    with pytest.raises(ValueError, match=message):
        set_diversity(advantage, hit, change(kernel))
    with pytest.raises(ValueError, match=message):  # also where no hit would look at it
        set_diversity(advantage, torch.zeros_like(hit), change(kernel))


NAN_AT_3 = torch.where(torch.arange(10) == 3, torch.nan, 0.0).double()
BAD_ROWS = [
    # the input that a shaper must have, its place, what happens to it, the message
    (None, 0, lambda v: v[:, None], r"got advantage \(10, 1\)"),
    (None, 0, lambda v: v + NAN_AT_3, r"advantage is not finite .*row 3, nan"),
    ("hit_B", 1, lambda v: v.double(), "hit is float64, and must be a bool tensor"),
    ("hit_B", 1, lambda v: v[:9], r"advantage \(10,\), hit \(9,\)"),
    ("logp_policy_B", 2, lambda v: v - torch.inf, "logp_policy is not finite"),
    ("outcome_B", 4, lambda v: v.double(), "outcome is float64, and must be a tensor of whole"),
    ("features_BF", 5, lambda v: v[:9], r"features must be \(10, F\), .* got \(9, 12\): keep"),
    ("group_B", 6, lambda _: torch.zeros(10), "group is float32, and must be a tensor of whole"),
]


@pytest.mark.parametrize("name", list(SHAPERS))
def test_bad_rows_are_named(name):
    for required, place, change, message in BAD_ROWS:
        if required is None or required in SHAPERS[name].signature.inputs:
            values = [*batch(0), None]
            values[place] = change(values[place])
            with pytest.raises(ValueError, match=message):
                call(name, *values)


def test_a_shaper_has_known_inputs():
    with pytest.raises(
        ValueError, match=r"'doubled' has unknown inputs: reward_B; available: advantage_B"
    ):
        shaper("doubled")(lambda reward_B: reward_B)
    assert "doubled" not in list(SHAPERS)
