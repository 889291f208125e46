"""Crossover betas: the closed form for two points, every root for families, none where none is."""

import math

import numpy as np
import pytest

from chemkl.evaluation.crossovers import crossovers, main_families
from chemkl.evaluation.forecast import Points, predict
from chemkl.losses import Gibbs


def enumerated(logp, reward, scaffold):
    logp = np.asarray(logp, dtype=float)
    return Points(logp, np.asarray(reward, dtype=float), scaffold, log_weight_N=logp)


def test_two_points_cross_at_the_closed_form():
    """beta* = (R2 - R1) / (lr1 - lr2), with the two peaks of the paper's second figure."""
    points = enumerated([-4.055, -5.955], [0.75, 1.0], ["A", "B"])
    (found,) = crossovers(points, ["A", "B"])
    assert found.beta == pytest.approx(0.25 / 1.9, rel=1e-12)
    assert found.sigma == pytest.approx(1.9 / 0.25, rel=1e-12)
    assert (found.above, found.below) == ("A", "B")
    assert found.sigma_error == 0


def test_the_order_of_the_families_does_not_matter():
    points = enumerated([-4.0, -6.0], [0.7, 1.0], ["A", "B"])
    assert crossovers(points, ["A", "B"]) == crossovers(points, ["B", "A"])


def test_the_larger_family_is_the_one_that_is_said_to_be():
    rng = np.random.default_rng(0)
    logp = np.log(rng.dirichlet(np.ones(60)))
    scaffold = [("A", "B", "C")[i % 3] for i in range(60)]
    points = enumerated(logp, rng.beta(2, 2, 60), scaffold)
    found = crossovers(points, ["A", "B", "C"])
    assert found
    assert [c.beta for c in found] == sorted((c.beta for c in found), reverse=True)
    for crossing in found:
        for factor, winner in ((1.001, crossing.above), (1 / 1.001, crossing.below)):
            weight = np.exp(logp + points.reward_N / (crossing.beta * factor))
            names = (crossing.above, crossing.below)
            mass = {k: weight[np.array(scaffold) == k].sum() for k in names}
            assert max(mass, key=mass.get) == winner


def test_two_crossovers_of_one_pair_are_both_found():
    """A: e^(0.5 s); B: 0.6 + 0.2 e^s (times the same constant). With x = e^(s/2) they are equal

    where 0.2 x^2 - x + 0.6 = 0: x = (1 -+ sqrt(1 - 0.48)) / 0.4, and only roots x > 1 are s > 0.
    """
    points = enumerated(np.log([1.0, 0.45, 0.6]), [0.5, 0.0, 1.0], ["A", "B", "B"])
    # 0.6 x^2 - x + 0.45 = 0 has no real root here (1 - 1.08 < 0): B leads at every beta
    assert crossovers(points, ["A", "B"]) == []
    points = enumerated(np.log([1.0, 0.79, 0.2]), [0.5, 0.0, 1.0], ["A", "B", "B"])
    roots = [(1 + sign * math.sqrt(1 - 4 * 0.2 * 0.79)) / 0.4 for sign in (-1, 1)]
    expected = [2 * math.log(x) for x in roots if x > 1]
    found = crossovers(points, ["A", "B"])
    assert [c.sigma for c in found] == pytest.approx(expected, rel=1e-9)


def test_equal_rewards_never_cross():
    points = enumerated([-1.0, -2.0], [0.6, 0.6], ["A", "B"])
    assert crossovers(points, ["A", "B"]) == []


def test_families_that_are_the_same_never_cross():
    points = enumerated([-1.0, -1.0], [0.6, 0.6], ["A", "B"])
    assert crossovers(points, ["A", "B"]) == []


def test_draws_count_by_how_often_they_came():
    """A drawn 3 times at R = 0.5, B once at R = 0.9: equal where 3 e^(0.5 s) = e^(0.9 s)."""
    points = Points(np.full(4, -7.0), np.array([0.5, 0.5, 0.5, 0.9]), ["A", "A", "A", "B"])
    (found,) = crossovers(points, ["A", "B"])
    assert found.sigma == pytest.approx(math.log(3) / 0.4, rel=1e-12)
    assert found.ess == pytest.approx(1)
    assert found.sigma_error == pytest.approx(math.sqrt(1 / 3 + 1) / 0.4)


def test_the_standard_error_is_the_spread_over_samples():
    """200 samples of 3,000 draws; a standard deviation from 200 is known to 5 % (15 % = 3 s)."""
    p, reward = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.3, 0.5, 0.6, 0.8])
    scaffold = np.array(["A", "A", "B", "B"])
    sigmas, errors = [], []
    for seed in range(200):
        rows = np.random.default_rng(seed).choice(4, 3000, p=p)
        points = Points(np.log(p)[rows], reward[rows], scaffold[rows].tolist())
        (found,) = crossovers(points, ["A", "B"])
        sigmas.append(found.sigma)
        errors.append(found.sigma_error)
    assert np.mean(errors) == pytest.approx(np.std(sigmas), rel=0.15)


def test_the_main_families_are_the_largest_under_prior_or_target():
    logp = np.log([0.5, 0.3, 0.15, 0.05])
    points = enumerated(logp, [0.1, 0.2, 0.3, 0.9], ["A", "B", "C", "D"])
    prior_first, target_first = main_families(points, [0.05], 2)[::-1], main_families(points, [], 2)
    assert [family.scaffold for family in target_first] == ["A", "B"]
    assert {family.scaffold for family in prior_first} == {"A", "D"}
    d = next(family for family in prior_first if family.scaffold == "D")
    assert d.beta == 0.05
    assert d.prior_share == pytest.approx(0.05)
    assert d.largest_share == pytest.approx(predict(points, Gibbs(beta=0.05), 0.8).top_share)
    assert d.best_reward == 0.9
    a = next(family for family in prior_first if family.scaffold == "A")
    assert a.beta is None
    assert a.largest_share == a.prior_share == pytest.approx(0.5)


def test_without_scaffolds_there_are_no_families():
    points = Points(np.full(2, -7.0), np.zeros(2), ["", None])
    assert main_families(points, [0.1], 3) == []
    assert crossovers(points, []) == []
