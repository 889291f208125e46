"""The expected gradient of every estimator, by enumeration of all batches of a small world.

A row of ``EXACT`` is a claim that it equals the gradient of a stated objective, by autograd on a
sum over all sequences. Estimators in ``BIASED`` have their bias measured: in a world of three
sequences a batch of 32 is one of 561 up to the order. A new estimator needs a row in one of the
two. Last come rows that an older policy sampled.

Biases relative to the exact gradient at the policy and target of ``SEED``, in batches of 2, 4, 8,
16 and 32 rows:

    snis, without tempering                .444  .214  .106  .053  .026
    f_dpg kl, Z of the batch alone         .300  .145  .070  .034  .017
    f_dpg js                               .157  .077  .038  .019  .009
    f_dpg tv                               1.01  .787  .726  .629  .519
    alpha_dpg 0.5                          .146  .071  .035  .017  .009
    f_dpg kl, Z over batches (decay .99)   .003  .001  .001  .000  .000
    grpo, normalised: cosine               .871  .927  .981  .998  1.00
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
from worlds import (
    BETA,
    Row,
    Setting,
    World,
    alpha_divergence,
    average_z,
    close,
    double,
    exact_slope,
    expected_slope,
    forward_kl,
    forward_regularised,
    inputs_of,
    jensen_shannon,
    log_z_at,
    preferences,
    reverse_kl,
    setting,
    steady_z,
    total_variation,
    unprepared,
)

from chemkl.losses import ESTIMATORS, build_objective

FULL = ("gibbs", "mara")
EVERY = ("gibbs", "mara", "filter")
EXACT = [
    *(Row("rloo", t, reverse_kl, BETA) for t in FULL),
    *(Row("reinvent", t, reverse_kl, 2.0) for t in FULL),
    *(Row("log_variance", t, reverse_kl, 2.0) for t in FULL),
    *(Row("trajectory_balance", t, reverse_kl, 2.0, prepare=log_z_at(2.0)) for t in FULL),
    # the first batch: log Z starts at its own best value
    Row("trajectory_balance", "gibbs", reverse_kl, lambda n: 2 * (n - 1) / n),
    *(Row("grpo", t, reverse_kl, lambda n: BETA * (n - 1) / n, {"normalise": False}) for t in FULL),
    # the first update on a batch: every ratio is 1
    Row(
        "grpo", "gibbs", reverse_kl, lambda n: BETA * (n - 1) / n, {"normalise": False, "clip": 0.2}
    ),
    *(Row("forward_kl", t, forward_regularised) for t in FULL),
    Row("forward_kl", "gibbs", forward_regularised, 1.0, {"reference": "prior"}, extra="prior"),
    *(Row("f_dpg", t, forward_kl, 1.0, {"divergence": "kl"}, average_z) for t in EVERY),
    *(Row("f_dpg", t, reverse_kl, 1.0, {"divergence": "reverse_kl"}, average_z) for t in FULL),
    *(Row("f_dpg", t, jensen_shannon, 1.0, {"divergence": "js"}, average_z) for t in EVERY),
    *(Row("f_dpg", t, total_variation, 1.0, {"divergence": "tv"}, average_z) for t in EVERY),
    *(
        Row("alpha_dpg", t, alpha_divergence(a, 1e9), 1.0, {"alpha": a, "most": 1e9}, average_z)
        for t in EVERY
        for a in (0.0, 0.5, 0.9)
    ),
    # the cut makes another divergence of it, with the same minimum
    *(
        Row("alpha_dpg", t, alpha_divergence(a, 0.2), 1.0, {"alpha": a, "most": 0.2}, average_z)
        for t in EVERY
        for a in (0.0, 0.5)
    ),
    Row(
        "f_dpg", "gibbs", alpha_divergence(0.0, 0.2), 1.0, {"clip": 0.18232155679395462}, average_z
    ),
    *(Row("msc", t, forward_kl, extra="retained") for t in EVERY),
    *(Row("ppo", t, reverse_kl, BETA) for t in FULL),
    *(Row("dpo", t, preferences(w), 1.0, {"labels": w}) for t in FULL for w in ("soft", "hard")),
]
BIASED = ("grpo", "snis", "f_dpg", "alpha_dpg")
RANKED = ("ahc", "hill_climbing")
"""These learn from the best rows: their expectations are in test_estimator_optima.py."""


@pytest.mark.parametrize(("seed", "n_steps", "n_rows"), [(0, 2, 2), (1, 2, 3), (2, 3, 2)])
@pytest.mark.parametrize("row", EXACT, ids=str)
def test_the_expected_gradient_is_that_of_the_stated_objective(row, seed, n_steps, n_rows):
    if row.extra and n_steps > 2:
        n_rows = 1 if row.extra == "retained" else n_rows
    at = setting(row.target, seed, n_steps)
    exact = exact_slope(row, at)
    factor = row.factor(n_rows) if callable(row.factor) else row.factor
    assert exact.abs().max() > 0.005  # there is something to get wrong
    close(expected_slope(row, at, n_rows), factor * exact, atol=1e-10)
    cut = 0.2 if row.options.get("clip", 1) < 0.19 else row.options.get("most")
    if cut == 0.2:  # the cut and the clip are reached
        u = at.lp - at.log_p
        held = torch.expm1(-(1 - row.options.get("alpha", 0)) * u) > 0.2
        assert 0 < held.sum() < len(u)


def test_every_estimator_has_a_row():
    proved = {row.estimator for row in EXACT} | {*BIASED, *RANKED}
    assert proved == set(ESTIMATORS), (
        "add a row to EXACT, or name it in BIASED and measure the bias"
    )


@pytest.mark.parametrize("kind", FULL)
def test_the_gradient_of_log_z_and_where_it_ends(kind):
    """2 (log Z + E[lp - log_target]), times the rate: 0 at the target with the true log Z."""
    at = setting(kind, 0, 2)
    for here, log_z in ((at, 2.0), (at.at_target, 2.0), (at.at_target, at.log_z.item())):
        lp, slope_of_z = here.lp, 0.0
        total = torch.zeros((), dtype=torch.float64)
        for rows, weight in at.world.batches(2, lp.detach().exp()):
            objective = build_objective(at.target, "trajectory_balance")
            log_z_at(log_z)(objective, at)
            (learned,) = objective.parameters()
            loss = objective(inputs_of(at, lp, rows)).loss
            slope_of_z += weight.item() * torch.autograd.grad(loss, learned, retain_graph=True)[0]
            total = total + weight * loss
        mean_ratio = (lp.exp() * (at.whole.log_target - lp)).sum().item()
        assert slope_of_z.item() == pytest.approx(100 * 2 * (log_z - mean_ratio), abs=1e-9)
        if kind == "gibbs" and here is at:
            assert abs(log_z - mean_ratio) > 0.1  # it is not always zero
    # the last round is the target with its own log Z: a minimum in both
    assert slope_of_z.item() == pytest.approx(0, abs=1e-9)
    assert total.item() == pytest.approx(0, abs=1e-20)
    assert torch.autograd.grad(total, here.logits)[0].abs().max() < 1e-12


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(
    ("name", "options", "prepare", "least"),
    [
        ("trajectory_balance", {}, log_z_at(None), 0.05),
        ("log_variance", {}, unprepared, 0.05),
        ("dpo", {"labels": "soft"}, unprepared, 0.005),
    ],
)
def test_off_policy_losses_have_their_minimum_at_the_target(kind, name, options, prepare, least):
    """Whichever policy sampled; reinvent is the first of them at log Z = 0."""
    at = setting(kind, 0, 2)
    q = torch.softmax(torch.linspace(-1, 1, 7, dtype=torch.float64), 0)
    row = Row(name, kind, reverse_kl, options=options, prepare=prepare)
    assert ESTIMATORS[name].off_policy
    assert expected_slope(row, at, 2, q).abs().max() > least
    assert expected_slope(row, at.at_target, 2, q).abs().max() < 1e-12
    if name == "dpo":
        hard = replace(row, options={"labels": "hard"})
        assert expected_slope(hard, at.at_target, 2, q).abs().max() > 0.005


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("n_proposals", [1, 2])
def test_the_chain_of_msc_rests_at_the_target(kind, n_proposals):
    """The matrix of all moves, by enumeration, for a policy at rest: its stationary vector is p.

    The row that is carried is drawn by its weight among the proposals and the retained row; the
    weights are read off the gradient of the loss with respect to lp, -w.
    """
    at = setting(kind, 1, 2)
    lp = at.lp.detach().requires_grad_()
    n_sequences = len(at.world.sequences)
    move = torch.zeros((n_sequences, n_sequences), dtype=torch.float64)
    for place in range(n_sequences):
        if at.log_p[place] == -torch.inf:
            continue  # never retained
        for fresh, probability in at.world.batches(n_proposals, lp.detach().exp()):
            objective = build_objective(at.target, "msc")
            loss = objective(inputs_of(at, lp, fresh, "retained", place)).loss
            move[place] -= probability * torch.autograd.grad(loss, lp)[0]
    p = at.log_p.exp()
    reached = p > 0
    close(move[reached].sum(dim=1), torch.ones(int(reached.sum()), dtype=torch.float64))
    assert (move.diagonal()[reached] < 0.999).all()  # it does move
    close(p @ move, p, atol=1e-10)
    # and it comes there from anywhere
    start = torch.zeros(n_sequences, dtype=torch.float64)
    start[reached.nonzero()[-1]] = 1
    close(start @ torch.linalg.matrix_power(move, 4096), p, atol=1e-10)


def test_the_row_that_msc_carries_is_drawn_by_these_weights():
    """2,000 draws of one batch: standard error at most .011, four of them."""
    at = setting("gibbs", 1, 2)
    lp, rows = at.lp.detach(), torch.tensor([0, 2, 5])
    objective = build_objective(at.target, "msc")
    counts = torch.zeros(3)
    for _ in range(2000):
        counts += objective(inputs_of(at, lp, rows[:2], "retained", 5)).carry
    weights = torch.softmax((at.log_p - lp)[rows], dim=0)
    assert (counts / 2000 - weights).abs().max() < 0.045
    assert weights.min() > 0.05


# ---- biases

SEED = 5
SNIS = {t: Row("snis", t, forward_kl, options={"ess": 0.0}) for t in EVERY}
BATCH_Z = [
    Row("f_dpg", "gibbs", forward_kl, options={"divergence": "kl"}),
    Row("f_dpg", "filter", forward_kl, options={"divergence": "kl"}),
    Row("f_dpg", "gibbs", jensen_shannon, options={"divergence": "js"}),
    Row("f_dpg", "filter", jensen_shannon, options={"divergence": "js"}),
    Row("alpha_dpg", "gibbs", alpha_divergence(0.5, 1e9), options={"alpha": 0.5, "most": 1e9}),
    Row("alpha_dpg", "filter", alpha_divergence(0.5, 10.0), options={"alpha": 0.5}),
    Row("alpha_dpg", "gibbs", alpha_divergence(0.0, 1e9), options={"alpha": 0.0, "most": 1e9}),
]


def biases(row, sizes):
    """The bias for each batch size, relative to the exact gradient."""
    at = setting(row.target, SEED, 1)
    exact = exact_slope(row, at)
    return [((expected_slope(row, at, n) - exact).norm() / exact.norm()).item() for n in sizes]


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@pytest.mark.parametrize(
    ("row", "slack"),
    [*((row, 0.1) for row in SNIS.values()), *((row, 0.25) for row in BATCH_Z)],
    ids=str,
)
def test_the_bias_halves_when_the_batch_doubles(row, slack):
    """Of snis, and of the Z of a batch."""
    two, eight, sixteen, thirty_two = biases(row, (2, 8, 16, 32))
    assert 0.05 < two < 1
    assert eight / sixteen == pytest.approx(2, abs=slack)
    assert sixteen / thirty_two == pytest.approx(2, abs=0.05 if slack == 0.1 else 0.15)


def test_the_bias_of_snis_is_the_one_of_the_delta_method():
    """To first order it is -E_pi[w^2 (grad - E_p grad)]/B, with w = p/pi and grad that of -lp."""
    at = setting("gibbs", SEED, 1)
    lp = at.lp
    p, pi = at.log_p.exp(), lp.exp().detach()
    of_row = [torch.autograd.grad(-lp[y], at.logits, retain_graph=True)[0] for y in range(3)]
    slopes = torch.stack(of_row)
    mean = torch.einsum("s,spv->pv", p, slopes)
    first_order = -torch.einsum("s,spv->pv", p**2 / pi, slopes - mean)
    exact = exact_slope(SNIS["gibbs"], at)
    for n_rows, rest in ((16, 0.03), (32, 0.015)):
        bias = expected_slope(SNIS["gibbs"], at, n_rows) - exact
        assert (n_rows * bias - first_order).norm() / first_order.norm() < rest


def test_snis_has_that_bias_on_rows_of_any_policy_with_known_probabilities():
    """Also at the target itself, where rows of the policy have none."""
    at = setting("gibbs", SEED, 1)
    q = double(0.2, 0.3, 0.5)
    for here, exact in ((at, exact_slope(SNIS["gibbs"], at)), (at.at_target, 0)):
        sixteen, thirty_two = (
            (expected_slope(SNIS["gibbs"], here, n, q) - exact).norm().item() for n in (16, 32)
        )
        assert sixteen > 0.001
        assert sixteen / thirty_two == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("ess", [0.0, 0.1, 0.9])
def test_snis_is_at_rest_at_the_target_with_and_without_tempering(kind, ess):
    at = setting(kind, SEED, 2)
    row = Row("snis", kind, forward_kl, options={"ess": ess})
    assert expected_slope(row, at.at_target, 3).abs().max() < 1e-12
    assert expected_slope(row, at, 3).abs().max() > 0.005


def test_tempering_shortens_the_step_of_snis_and_keeps_its_direction():
    """At an ess of 0.9, half of the length is left here; the cosine stays .9997."""
    at = setting("gibbs", 4, 1)
    exact = exact_slope(SNIS["gibbs"], at)
    slopes = {}
    for ess in (0.0, 0.5, 0.9):
        row = Row("snis", "gibbs", forward_kl, options={"ess": ess})
        slopes[ess] = expected_slope(row, at, 16)
        assert cosine(slopes[ess], exact) > 0.999
    assert slopes[0.0].norm() > slopes[0.5].norm()
    assert (slopes[0.9].norm() / exact.norm()).item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("row", BATCH_Z, ids=str)
def test_averaging_z_over_batches_removes_its_bias(row):
    """With decay .99 the batch has a hundredth of Z: about a hundredth of the bias is left."""
    slow = replace(row, prepare=steady_z)
    fast = replace(slow, options={**row.options, "decay": 0.9})
    (alone,), (left,), (between,) = (biases(r, (8,)) for r in (row, slow, fast))
    assert 0.004 < left / alone < 0.03
    assert left < between < alone


def test_total_variation_suffers_most_from_the_z_of_the_batch():
    """sign(u) jumps where a row is as likely as under the target; it falls slowly with B."""
    row = Row("f_dpg", "gibbs", total_variation, options={"divergence": "tv"})
    two, eight, thirty_two = biases(row, (2, 8, 32))
    assert 1.2 > two > eight > thirty_two > 0.4
    assert biases(replace(row, prepare=steady_z), (8,))[0] < 1e-10  # no row is so close to u = 0


def test_the_z_of_the_batch_does_not_matter_for_the_reverse_kl():
    """log Z is a constant in the pseudo-reward, which the baseline removes."""
    row = Row("f_dpg", "gibbs", reverse_kl, options={"divergence": "reverse_kl"})
    assert max(biases(row, (2, 8))) < 1e-12


def test_the_deviation_of_grpo_turns_and_scales_the_step():
    """Cosine .87 for pairs (only the sign of their difference is left), .9998 for 32 rows.

    The factor goes to that of a division by the deviation of s over the policy.
    """
    row = Row("grpo", "gibbs", reverse_kl)
    at = setting("gibbs", SEED, 1)
    exact = exact_slope(row, at)
    slopes = {n: expected_slope(row, at, n) for n in (2, 4, 8, 16, 32)}
    cosines = [cosine(slope, exact) for slope in slopes.values()]
    assert cosines == sorted(cosines)
    assert cosines[0] == pytest.approx(0.87, abs=0.01)
    assert cosines[2] == pytest.approx(0.98, abs=0.01)
    assert cosines[4] > 0.999
    lp = at.lp.detach()
    score = BETA * (at.whole.log_target - lp)
    mean = (lp.exp() * score).sum()
    limit = (BETA / (lp.exp() * (score - mean) ** 2).sum().sqrt()).item()
    ratios = {n: (slopes[n].norm() / exact.norm()).item() for n in (16, 32)}
    assert ratios[32] == pytest.approx(limit, rel=0.06)
    assert abs(ratios[32] / limit - 1) < abs(ratios[16] / limit - 1)


@pytest.mark.parametrize("kind", FULL)
def test_grpo_is_at_rest_at_the_target_all_the_same(kind):
    at = setting(kind, SEED, 2)
    row, at_target = Row("grpo", kind, reverse_kl), at.at_target
    assert expected_slope(row, at_target, 3).abs().max() < 1e-12
    # a hair beside it the scores differ, and the step has its full size
    beside = at_target.logits.detach() + 1e-3 * World.random(0, 2).logits(1).detach()
    assert expected_slope(row, replace(at, logits=beside.requires_grad_()), 3).norm() > 0.05


def test_the_anchor_of_the_batch_is_off_while_the_likeliest_hit_is_missing():
    """The bias of mara's batch anchor falls with the chance of a batch without z, (1 - pi(z))^B."""
    world = World.random(SEED, 1)
    tau = world.reward.topk(2).values[-1].item()
    target = build_objective("mara", beta=BETA, tau=tau).target
    whole = target(world.logp_ref, world.reward)
    at = Setting(world, world.logits(SEED + 100), target, whole)
    row = Row("rloo", "mara", reverse_kl)
    exact = BETA * exact_slope(row, at)
    eight, sixteen = ((expected_slope(row, at, n) - exact).norm().item() for n in (8, 16))
    missing = 1 - at.lp[int(whole.anchor.nonzero())].exp().item()
    assert sixteen / eight == pytest.approx(missing**8, rel=0.1)
    assert eight > 1e-5
    assert world.reward.max() >= tau


# ---- rows of an older policy, q: what the weights make of them, as sums over sequences or pairs

CLIP = 0.3


def older(lp, spread=1.0):
    """The probabilities of another policy: some sequences likelier now, some rarer."""
    return torch.softmax(lp.detach() + spread * torch.sin(2 * torch.arange(7.0) + 1).double(), 0)


def mixed_slope(name, options, at, n_own, n_old, q):
    """The gradient of the shipped loss over all batches of so many rows of the policy and of q."""
    lp = at.lp
    total = torch.zeros((), dtype=torch.float64)
    for (own, chance), (old, chance_of_old) in product(
        at.world.batches(n_own, lp.detach().exp()), list(at.world.batches(n_old, q))
    ):
        rows = torch.cat([own, old])
        retained = torch.arange(len(rows)) >= n_own
        behaviour = torch.where(retained, q.log()[rows], lp.detach()[rows])
        inputs = replace(inputs_of(at, lp, rows), retained=retained, logp_behaviour=behaviour)
        objective = build_objective(at.target, name, estimator_options=options)
        total = total + chance * chance_of_old * objective(inputs).loss
    return torch.autograd.grad(total, at.logits)[0]


@pytest.mark.parametrize(("n_own", "n_old"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", FULL)
def test_rloo_counts_old_rows_by_what_both_policies_would_sample(kind, n_own, n_old):
    """-J of its own rows; of an old one sum_y min(pi, q) (s - mean of the others' s) grad lp."""
    at = setting(kind, 0, 2)
    lp = at.lp
    pi, q, n = lp.detach().exp(), older(lp), n_own + n_old
    (of_own,) = torch.autograd.grad(reverse_kl(lp, at), at.logits, retain_graph=True)
    score = BETA * (at.whole.log_target - lp.detach())
    baseline = (n_own * (pi * score).sum() + (n_old - 1) * (q * score).sum()) / (n - 1)
    both = torch.minimum(pi, q)
    (of_old,) = torch.autograd.grad(-(both * (score - baseline) * lp).sum(), at.logits)
    stated = (n_own * BETA * of_own + n_old * of_old) / n
    assert of_old.abs().max() > 0.01
    close(mixed_slope("rloo", {}, at, n_own, n_old, q), stated, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [("ppo", {"clip": CLIP}, 1), ("grpo", {"clip": CLIP, "normalise": False}, 1 / 2)],
)
@pytest.mark.parametrize("kind", FULL)
def test_the_clip_holds_old_rows_by_how_far_they_have_moved(kind, name, options, factor):
    """All pairs of an own row y and an old row z, whose advantages are s(y) - s(z) and -that."""
    at = setting(kind, 0, 2)
    lp = at.lp
    pi, q = lp.detach().exp(), older(lp)
    score, ratio = BETA * (at.whole.log_target - lp.detach()), pi / q
    total, cases = torch.zeros((), dtype=torch.float64), set()
    for y, z in product(range(7), repeat=2):
        gain = (score[z] - score[y]).item()
        if gain > 0:
            held, weight = ratio[z] > 1 + CLIP, ratio[z]
        else:
            held, weight = ratio[z] < 1 - CLIP, ratio[z].clamp(max=1)
        cases.add((gain > 0, bool(held), bool(ratio[z] > 1)))
        weight = 0 if held else weight
        total = total - pi[y] * q[z] * (-gain * lp[y] + weight * gain * lp[z]) / 2
    (stated,) = torch.autograd.grad(total, at.logits)
    assert len(cases) == 6, "either sign: held, not held on either side of 1"
    close(mixed_slope(name, options, at, 1, 1, q), factor * stated, atol=1e-10)


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(("name", "options"), [("rloo", {}), ("ppo", {}), ("grpo", {"clip": 0.2})])
def test_estimators_that_weigh_old_rows_rest_at_the_target(kind, name, options):
    assert ESTIMATORS[name].weighs_old
    at = setting(kind, 0, 2)
    q = older(at.lp, 2.0)
    assert mixed_slope(name, options, at.at_target, 2, 1, q).abs().max() < 1e-12
    assert mixed_slope(name, options, at, 2, 1, q).abs().max() > 0.01


@pytest.mark.parametrize("kind", FULL)
def test_ppo_has_the_exact_gradient_on_rows_of_an_older_policy(kind):
    """As long as the clip holds no row; rloo has not."""
    at = setting(kind, 0, 2)
    row = Row("ppo", kind, reverse_kl, options={"clip": 0.5})
    exact = BETA * exact_slope(row, at)
    q = torch.softmax(at.lp.detach() + torch.linspace(-0.3, 0.3, 7, dtype=torch.float64), 0)
    close(expected_slope(row, at, 2, q), exact, atol=1e-10)
    for other in (replace(row, options={"clip": 0.1}), Row("rloo", kind, reverse_kl)):
        assert (expected_slope(other, at, 2, q) - exact).abs().max() > 0.003


@pytest.mark.parametrize(("name", "options"), [("ppo", {}), ("grpo", {"clip": 0.2}), ("rloo", {})])
def test_a_replayed_row_that_is_far_likelier_now_pushes_like_a_row_of_the_policy(name, options):
    """e^100 times as likely: at an advantage below 0 the loss of PPO has no bound there."""
    at = setting("gibbs", 0, 2)
    lp = (at.whole.log_target + torch.linspace(-2, 2, 7)).detach().requires_grad_()
    late = torch.arange(7) == 6
    objective = build_objective(at.target, name, estimator_options=options)
    own = inputs_of(at, lp, torch.arange(7))
    (as_own,) = torch.autograd.grad(objective(own).loss, lp, retain_graph=True)
    old = replace(own, retained=late, logp_behaviour=lp.detach() - 100.0 * late)
    (slope,) = torch.autograd.grad(objective(old).loss, lp)
    assert as_own[6] > 0
    close(slope, as_own)
