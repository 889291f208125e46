"""Estimates of a target: against the closed forms of `chemkl.losses.exact`, and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from chemkl.evaluation import forecast
from chemkl.evaluation.forecast import (
    Points,
    crossovers,
    describe,
    hit_rate,
    main_families,
    mara_bonus,
    target_shares,
)
from chemkl.losses import Gibbs, Mara
from chemkl.losses.exact import mara_optimum, reverse_kl_optimum

N_TOKENS, LENGTH, EIGHTHS = 4, 4, 8
TAU = 0.6


@pytest.fixture(scope="module")
def world():
    """All 256 sequences of 4 steps over 4 tokens: log-probabilities, rewards, scaffolds.

    Each step's probabilities are eighths and depend on the token before. Sequences that begin with
    token 3 are invalid, with reward 0; scaffolds are the middle two tokens, 00 means none.
    """
    rng = np.random.default_rng(5)
    more = rng.multinomial(EIGHTHS - N_TOKENS, np.full(N_TOKENS, 1 / N_TOKENS), size=N_TOKENS)
    step = np.log((1 + more) / EIGHTHS)
    tokens = np.array(np.meshgrid(*[range(N_TOKENS)] * LENGTH, indexing="ij")).reshape(LENGTH, -1)
    logp = step[0, tokens[0]] + sum(step[tokens[t - 1], tokens[t]] for t in range(1, LENGTH))
    reward = rng.beta(2, 2, tokens.shape[1])
    reward[tokens[0] == 3] = 0.0
    scaffold = [
        None if first == 3 else "" if (a, b) == (0, 0) else f"{a}{b}" for first, a, b, _ in tokens.T
    ]
    return logp, reward, scaffold


def points_at(world, rows):
    logp, reward, scaffold = world
    return Points(logp[rows], reward[rows], [scaffold[row] for row in rows])


def sampled(world, n, seed=0):
    rows = np.random.default_rng(seed).choice(len(world[0]), n, p=np.exp(world[0]))
    return points_at(world, rows)


def predict(points, target, tau):
    return describe(points, target_shares(points, target), tau)


def by_hand(world, exact):
    """Scaffold masses and the rest, summed in plain Python."""
    _, reward, scaffold = world
    mass = {}
    for name, share in zip(scaffold, exact, strict=True):
        mass[name] = mass.get(name, 0.0) + share
    acyclic, invalid = mass.pop(""), mass.pop(None)
    total = sum(mass.values())
    shares = [m / total for m in mass.values()]
    return {
        "top_share": max(shares),
        "effective_scaffolds": math.exp(-sum(p * math.log(p) for p in shares)),
        "acyclic_share": acyclic,
        "invalid_share": invalid,
        "hit_share": sum(p for p, r in zip(exact, reward, strict=True) if r >= TAU),
        "mean_reward": sum(p * r for p, r in zip(exact, reward, strict=True)),
    }


@pytest.mark.parametrize("beta", [1.0, 0.1, 1 / 30])
@pytest.mark.parametrize("kind", ["gibbs", "mara"])
def test_sample_in_exact_proportions_gives_the_exact_optimum(world, kind, beta):
    """Every sequence is drawn as often as it is likely, so nothing is estimated."""
    logp, reward = (torch.from_numpy(values) for values in world[:2])
    exact, target = reverse_kl_optimum(reward, logp, beta).numpy(), Gibbs(beta=beta)
    if kind == "mara":
        exact = mara_optimum(reward, logp, beta, tau=TAU).numpy()
        target = Mara(beta=beta, tau=TAU)
    prior = np.exp(world[0])
    counts = (prior * EIGHTHS**LENGTH).round().astype(int)
    assert counts.sum() == EIGHTHS**LENGTH
    rows = np.repeat(np.arange(len(counts)), counts)
    points = points_at(world, rows)
    shares = np.bincount(rows, target_shares(points, target))
    np.testing.assert_allclose(shares, exact, rtol=0, atol=1e-9)
    expected = by_hand(world, exact) | {
        "kl_to_prior": float(exact @ np.log(exact / prior)),
        "ess_share": 1 / float((exact**2 / prior).sum()),  # 1 / (1 + chi-square)
    }
    values = predict(points, target, TAU)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_standard_error_of_the_top_share_is_the_spread_over_samples():
    """Over 300 samples of 400 draws; a standard deviation from 300 is known to 4 % (15 % = 3.7 s).

    A is by far the largest, so the choice of the top family adds no spread.
    """
    logp = np.log([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    reward, scaffold = np.array([0.2, 0.7, 0.3, 0.8, 0.0, 0.5]), ["A", "A", "B", "C", None, ""]
    world = logp, reward, scaffold
    values = [predict(sampled(world, 400, seed), Gibbs(beta=0.5), 0.6) for seed in range(300)]
    weight = np.exp(logp + reward / 0.5)
    assert {v["top_scaffold"] for v in values} == {"A"}
    shares = [v["top_share"] for v in values]
    assert np.mean(shares) == pytest.approx(weight[:2].sum() / weight[:4].sum(), abs=0.005)
    errors = [v["top_share_error"] for v in values]
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.15)


@pytest.mark.parametrize(
    ("logp", "rewards", "scaffolds", "target", "expected"),
    [
        # equal weights: the effective sample size is that of the sample
        (
            *([-3] * 40, [0.5] * 40, "A" * 40, Gibbs(beta=0.01)),
            {"ess": 40, "top_share": 1, "effective_scaffolds": 1, "kl_to_prior": 0},
        ),
        # one draw outweighs all others; four draws cannot show more than log 4
        (
            *([-20] * 4, [0.1, 0.2, 0.9, 0.3], "ABCD", Gibbs(beta=1e-3)),
            {"ess": 1, "top_scaffold": "C", "kl_to_prior": math.log(4)},
        ),
        # a repeated draw counts twice
        (
            *([-1, -1, -2], [0.5] * 3, "AAB", Gibbs(beta=1.0)),
            {"top_scaffold": "A", "top_share": 2 / 3},
        ),
        # two hits, e times apart under the prior: drawn once each, the rarer one weighs e times
        (
            *([-10, -11], [0.9, 0.95], "AB", Mara(beta=0.1, tau=0.8)),
            {"top_scaffold": "B", "top_share": math.e / (1 + math.e)},
        ),
        (
            *([-5] * 4, [0] * 4, ["A", "", "", None], Gibbs(beta=1.0)),
            {"acyclic_share": 0.5, "invalid_share": 0.25, "top_share": 1.0},
        ),
        (
            *([-5] * 2, [0] * 2, ["", None], Gibbs(beta=1.0)),
            {"top_scaffold": None, "top_share": None, "effective_scaffolds": None},
        ),
    ],
)
def test_target_by_hand(logp, rewards, scaffolds, target, expected):
    points = Points(np.array(logp, float), np.array(rewards, float), list(scaffolds))
    values = predict(points, target, 0.8)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_interval_of_the_hit_rate_is_wilsons(world):
    points = sampled(world, 400)
    k, n, z = int((points.reward_N >= TAU).sum()), 400, norm.ppf(0.975)
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    rate = hit_rate(points, TAU)
    assert tuple(rate.values()) == pytest.approx((p, middle - half, middle + half))
    # no hit in the sample still bounds the rate
    none = hit_rate(Points(np.full(100, -5.0), np.zeros(100), [None] * 100), 0.9)
    assert tuple(none.values()) == pytest.approx((0, 0, z * z / (100 + z * z)))


def test_bonus_of_mara_is_that_of_algorithm_1():
    """Hits: R(z) - R + beta (lr(z) - lr); z is the likeliest hit, the second point."""
    logp, reward = np.array([-12.0, -9.0, -15.0, -8.0]), np.array([0.9, 0.8, 1.0, 0.1])
    bonus = mara_bonus(Points(logp, reward, ["A"] * 4), Mara(beta=0.1, tau=0.8))
    by_hit = np.array([0.8 - 0.9 + 0.1 * 3, 0.0, 0.8 - 1.0 + 0.1 * 6])
    assert bonus["bonus_mean"] == pytest.approx(by_hit.mean())
    assert bonus["bonus_std"] == pytest.approx(by_hit.std())
    assert bonus["bonus_largest"] == pytest.approx(0.4)
    assert (bonus["reward_std"], bonus["reward_range"]) == pytest.approx((reward.std(), 0.9))
    wide = mara_bonus(Points(logp, reward, ["A"] * 4), Mara(beta=1.0, tau=0.8))
    assert wide["bonus_largest"] == pytest.approx(5.8)
    none = mara_bonus(Points(np.full(2, -5.0), np.zeros(2), ["A", "B"]), Mara(beta=1.0, tau=0.8))
    assert {*list(none.values())[:3]} == {None}


# ---- crossovers


def families_of(**rewards):
    """Draws with these rewards on the scaffolds A, B and so on."""
    scaffold = [name for name, values in rewards.items() for _ in values]
    return Points(np.full(len(scaffold), -7.0), np.concatenate([*rewards.values()]), scaffold)


def test_the_larger_family_on_both_sides_of_a_crossover():
    rng = np.random.default_rng(0)
    rewards = {"A": rng.beta(2, 4, 30), "B": rng.beta(4, 2, 20), "C": rng.beta(6, 2, 10)}
    points = families_of(**rewards)
    crossings = crossovers(points, ["A", "B", "C"])
    assert crossings
    assert crossings == sorted(crossings, key=lambda c: -c.beta)
    for crossing in crossings:
        for factor, winner in ((1.001, crossing.above), (1 / 1.001, crossing.below)):
            names = (crossing.above, crossing.below)
            mass = {k: np.exp(rewards[k] / (crossing.beta * factor)).sum() for k in names}
            assert max(mass, key=mass.get) == winner


def test_two_crossovers_of_one_pair():
    """A: 100 e^(s / 2); B: 79 + 20 e^s. With x = e^(s/2) they are equal

    where 0.2 x^2 - x + 0.79 = 0: x = (1 -+ sqrt(1 - 0.632)) / 0.4, and only roots x > 1 are s > 0.
    """
    # 0.6 x^2 - x + 0.45 = 0 has no real root (1 - 1.08 < 0): B leads at every beta
    points = families_of(A=[0.5] * 100, B=[0.0] * 45 + [1.0] * 60)
    assert crossovers(points, ["A", "B"]) == []
    points = families_of(A=[0.5] * 100, B=[0.0] * 79 + [1.0] * 20)
    roots = [(1 + sign * math.sqrt(1 - 4 * 0.2 * 0.79)) / 0.4 for sign in (-1, 1)]
    expected = [2 * math.log(x) for x in roots if x > 1]
    assert [c.sigma for c in crossovers(points, ["A", "B"])] == pytest.approx(expected, rel=1e-9)


def test_two_families_cross_at_the_closed_form():
    """A drawn 3 times at R = 0.5, B once at R = 0.9: equal where 3 e^(0.5 s) = e^(0.9 s)."""
    points = families_of(A=[0.5] * 3, B=[0.9])
    (crossing,) = crossovers(points, ["A", "B"])
    assert crossing.sigma == pytest.approx(math.log(3) / 0.4, rel=1e-12)
    assert crossing.beta == pytest.approx(0.4 / math.log(3), rel=1e-12)
    assert (crossing.above, crossing.below) == ("A", "B")
    assert crossing.ess == pytest.approx(1)
    assert crossing.sigma_error == pytest.approx(math.sqrt(1 / 3 + 1) / 0.4)
    assert crossovers(points, ["B", "A"]) == [crossing]  # the order does not matter
    for n in (1, 3):  # equal rewards never cross
        assert crossovers(families_of(A=[0.6] * n, B=[0.6]), ["A", "B"]) == []


def test_standard_error_of_a_crossover_is_the_spread_over_samples(monkeypatch):
    """200 samples of 3,000 draws; a standard deviation from 200 is known to 5 % (15 % = 3 s)."""
    monkeypatch.setattr(forecast, "GRID", forecast.GRID[::20])  # one crossover, found quickly
    p, reward = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.3, 0.5, 0.6, 0.8])
    scaffold = np.array(["A", "A", "B", "B"])
    sigmas, errors = [], []
    for seed in range(200):
        rows = np.random.default_rng(seed).choice(4, 3000, p=p)
        points = Points(np.log(p)[rows], reward[rows], scaffold[rows].tolist())
        (crossing,) = crossovers(points, ["A", "B"])
        sigmas.append(crossing.sigma)
        errors.append(crossing.sigma_error)
    assert np.mean(errors) == pytest.approx(np.std(sigmas), rel=0.15)


def test_main_families_are_the_largest_under_prior_or_target():
    points = families_of(A=[0.1] * 10, B=[0.2] * 6, C=[0.3] * 3, D=[0.9])
    assert [family.scaffold for family in main_families(points, [], 2)] == ["A", "B"]
    families = {family.scaffold: family for family in main_families(points, [0.05], 2)}
    assert families.keys() == {"A", "D"}
    a, d = families["A"], families["D"]
    assert (d.beta, d.prior_share, d.best_reward) == (0.05, pytest.approx(0.05), 0.9)
    assert d.largest_share == pytest.approx(predict(points, Gibbs(beta=0.05), 0.8)["top_share"])
    assert a.beta is None
    assert a.largest_share == a.prior_share == pytest.approx(0.5)
    without = Points(np.full(2, -7.0), np.zeros(2), ["", None])
    assert main_families(without, [0.1], 3) == []
    assert crossovers(without, []) == []
