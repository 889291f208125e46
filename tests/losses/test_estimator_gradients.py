"""The expected gradient of every estimator, by enumeration, is that of the objective it states.

A row of ``EXACT`` per claim: all batches of the world are summed over with their probabilities and
compared with autograd on the objective itself, a sum over all sequences. What is only nearly right
stands in ``BIASED`` and has its bias measured in test_estimator_bias.py. Who adds an estimator adds
a row to one of the two.
"""

import pytest
import torch
from stated_objectives import (
    BETA,
    Row,
    alpha_divergence,
    expected_slope,
    forward_kl,
    forward_regularised,
    inputs_of,
    jensen_shannon,
    knows_z,
    log_z_is_true,
    log_z_stands_at_2,
    preferences,
    reverse_kl,
    setting,
    total_variation,
)

from chemkl.losses import ESTIMATORS, build_objective

FULL = ("gibbs", "mara")
EVERY = ("gibbs", "mara", "filter")
EXACT = [
    *(Row("rloo", t, reverse_kl, BETA) for t in FULL),
    *(Row("reinvent", t, reverse_kl, 2.0) for t in FULL),
    *(Row("log_variance", t, reverse_kl, 2.0) for t in FULL),
    *(Row("trajectory_balance", t, reverse_kl, 2.0, prepare=log_z_stands_at_2) for t in FULL),
    # the first batch: log Z starts at its own best value
    Row("trajectory_balance", "gibbs", reverse_kl, lambda n: 2 * (n - 1) / n),
    *(Row("grpo", t, reverse_kl, lambda n: BETA * (n - 1) / n, {"normalise": False}) for t in FULL),
    # the first update on a batch: every ratio is 1
    Row(
        "grpo", "gibbs", reverse_kl, lambda n: BETA * (n - 1) / n, {"normalise": False, "clip": 0.2}
    ),
    *(Row("forward_kl", t, forward_regularised) for t in FULL),
    Row("forward_kl", "gibbs", forward_regularised, 1.0, {"reference": "prior"}, extra="prior"),
    *(Row("f_dpg", t, forward_kl, 1.0, {"divergence": "kl"}, knows_z) for t in EVERY),
    *(Row("f_dpg", t, reverse_kl, 1.0, {"divergence": "reverse_kl"}, knows_z) for t in FULL),
    *(Row("f_dpg", t, jensen_shannon, 1.0, {"divergence": "js"}, knows_z) for t in EVERY),
    *(Row("f_dpg", t, total_variation, 1.0, {"divergence": "tv"}, knows_z) for t in EVERY),
    *(
        Row("alpha_dpg", t, alpha_divergence(a, 1e9), 1.0, {"alpha": a, "most": 1e9}, knows_z)
        for t in EVERY
        for a in (0.0, 0.5, 0.9)
    ),
    # the cut makes another divergence of it, with the same minimum
    *(
        Row("alpha_dpg", t, alpha_divergence(a, 0.2), 1.0, {"alpha": a, "most": 0.2}, knows_z)
        for t in EVERY
        for a in (0.0, 0.5)
    ),
    Row("f_dpg", "gibbs", alpha_divergence(0.0, 0.2), 1.0, {"clip": 0.18232155679395462}, knows_z),
    *(Row("msc", t, forward_kl, extra="retained") for t in EVERY),
    *(Row("ppo", t, reverse_kl, BETA) for t in FULL),
    *(Row("dpo", t, preferences(w), 1.0, {"labels": w}) for t in FULL for w in ("soft", "hard")),
]
BIASED = ("grpo", "snis", "f_dpg", "alpha_dpg")
"""Those of which something is biased: what and by how much is in test_estimator_bias.py."""
RANKED = ("ahc", "hill_climbing")
"""Those that learn from the best rows: their expectations are in test_peer_estimators.py."""


@pytest.mark.parametrize(("seed", "n_steps", "n_rows"), [(0, 2, 2), (1, 2, 3), (2, 3, 2)])
@pytest.mark.parametrize("row", EXACT, ids=str)
def test_the_expected_gradient_is_that_of_the_stated_objective(row, seed, n_steps, n_rows):
    if row.extra and n_steps > 2:
        n_rows = 1 if row.extra == "retained" else n_rows
    at = setting(row.target, seed, n_steps)
    got = expected_slope(row, at, n_rows)
    stated = row.objective(at.world.logp(at.logits), at)
    (exact,) = torch.autograd.grad(stated, at.logits)
    factor = row.factor(n_rows) if callable(row.factor) else row.factor
    assert exact.abs().max() > 0.005  # there is something to get wrong
    torch.testing.assert_close(got, factor * exact, atol=1e-10, rtol=0)


def test_every_estimator_has_a_row():
    proved = {row.estimator for row in EXACT} | set(BIASED) | set(RANKED)
    assert proved == set(ESTIMATORS), (
        "add a row to EXACT, or name it in BIASED and measure the bias"
    )


def test_the_cut_and_the_clip_are_reached():
    """Otherwise the rows above that have them prove nothing."""
    for row in EXACT:
        if row.options.get("most") == 0.2 or row.options.get("clip", 1) < 0.19:
            for seed, n_steps in ((0, 2), (1, 2), (2, 3)):
                at = setting(row.target, seed, n_steps)
                u = at.world.logp(at.logits) - at.log_p
                held = torch.expm1(-(1 - row.options.get("alpha", 0)) * u) > 0.2
                assert 0 < held.sum() < len(u)


@pytest.mark.parametrize("kind", FULL)
def test_the_gradient_of_log_z_and_where_it_ends(kind):
    """2 (log Z + E[lp - log_target]), times the rate: 0 at the target with the true log Z."""
    at = setting(kind, 0, 2)
    at_target = at.world.logits_of(at.log_p.exp())
    for logits, log_z in ((at.logits, 2.0), (at_target, 2.0), (at_target, at.log_z.item())):
        lp = at.world.logp(logits)
        total = torch.zeros((), dtype=torch.float64)
        slope_of_z = 0.0
        for rows, weight in at.world.batches(2, lp.detach().exp()):
            objective = build_objective(at.target, "trajectory_balance")
            parameter = torch.tensor(log_z / 100, dtype=torch.float64)
            objective.states["learned_log_z"].load_state_dict(
                {"parameter": parameter, "started": True}
            )
            (learned,) = objective.parameters()
            loss = objective(inputs_of(at, lp, rows, None, 0)).loss
            slope_of_z += weight.item() * torch.autograd.grad(loss, learned, retain_graph=True)[0]
            total = total + weight * loss
        mean_ratio = (lp.exp() * (at.whole.log_target - lp)).sum().item()
        assert slope_of_z.item() == pytest.approx(100 * 2 * (log_z - mean_ratio), abs=1e-9)
        if kind == "gibbs" and logits is at.logits:
            assert abs(log_z - mean_ratio) > 0.1  # it is not always zero
    # the last round is the target with its own log Z: a minimum in both
    assert slope_of_z.item() == pytest.approx(0, abs=1e-9)
    assert total.item() == pytest.approx(0, abs=1e-20)
    assert torch.autograd.grad(total, at_target)[0].abs().max() < 1e-12


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(
    ("name", "prepare"), [("trajectory_balance", log_z_is_true), ("log_variance", None)]
)
def test_off_policy_losses_have_their_minimum_at_the_target_whoever_sampled(kind, name, prepare):
    """reinvent is the former at log Z = 0; for rloo see test_old_rows.py."""
    at = setting(kind, 0, 2)
    q = torch.softmax(torch.linspace(-1, 1, 7, dtype=torch.float64), 0)
    row = Row(name, kind, reverse_kl, **({"prepare": prepare} if prepare else {}))
    assert ESTIMATORS[name].off_policy
    assert expected_slope(row, at, 2, q).abs().max() > 0.05
    at_target = at.moved_to(at.log_p.exp())
    assert expected_slope(row, at_target, 2, q).abs().max() < 1e-12


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("n_proposals", [1, 2])
def test_the_chain_of_msc_rests_at_the_target(kind, n_proposals):
    """The matrix of all moves, by enumeration, for a policy at rest: its stationary vector is p.

    The row that is carried is drawn by its weight among the proposals and the retained row; the
    weights are read off the gradient of the loss with respect to lp, -w.
    """
    at = setting(kind, 1, 2)
    lp = at.world.logp(at.logits).detach().requires_grad_()
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
    ones = torch.ones(int(reached.sum()), dtype=torch.float64)
    torch.testing.assert_close(move[reached].sum(dim=1), ones, atol=1e-12, rtol=0)
    assert (move.diagonal()[reached] < 0.999).all()  # it does move
    torch.testing.assert_close(p @ move, p, atol=1e-10, rtol=0)
    # and it comes there from anywhere
    start = torch.zeros(n_sequences, dtype=torch.float64)
    start[reached.nonzero()[-1]] = 1
    rest = start @ torch.linalg.matrix_power(move, 4096)
    torch.testing.assert_close(rest, p, atol=1e-10, rtol=0)


def test_the_row_that_msc_carries_is_drawn_by_these_weights():
    """2,000 draws of one batch: standard error at most .011, four of them."""
    at = setting("gibbs", 1, 2)
    lp = at.world.logp(at.logits).detach()
    rows = torch.tensor([0, 2, 5])
    objective = build_objective(at.target, "msc")
    counts = torch.zeros(3)
    for _ in range(2000):
        counts += objective(inputs_of(at, lp, rows[:2], "retained", 5)).carry
    weights = torch.softmax((at.log_p - lp)[rows], dim=0)
    assert (counts / 2000 - weights).abs().max() < 0.045
    assert weights.min() > 0.05
