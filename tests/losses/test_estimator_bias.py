"""Where an estimator is not exact: how far off its expected gradient is, by enumeration.

In a world of three sequences a batch of 32 can still be enumerated: 561 batches up to their order.
All numbers are relative to the length of the exact gradient. For orientation, at the policy and
target of ``SEED`` (batch of 2, 4, 8, 16, 32):

    snis, without tempering                .444  .214  .106  .053  .026
    f_dpg kl, Z of the batch alone         .300  .145  .070  .034  .017
    f_dpg js                               .157  .077  .038  .019  .009
    f_dpg tv                               1.01  .787  .726  .629  .519
    alpha_dpg 0.5                          .146  .071  .035  .017  .009
    f_dpg kl, Z over batches (decay .99)   .003  .001  .001  .000  .000
    grpo, normalised: cosine               .871  .927  .981  .998  1.00
"""

import dataclasses

import pytest
import torch
from stated_objectives import (
    BETA,
    Row,
    alpha_divergence,
    expected_slope,
    forward_kl,
    inputs_of,
    jensen_shannon,
    reverse_kl,
    setting,
    total_variation,
)
from worlds import World

from chemkl.losses import build_objective

SEED = 5


def z_of_many_batches(objective, at):
    """The moving average in its steady state, at the true Z: the batch has the weight 1 - decay."""
    state = {
        "group": torch.tensor([0]),
        "log_sum": at.log_z.detach()[None],
        "weight": torch.ones(1, dtype=torch.float64),
    }
    objective.states["average_log_z"].load_state_dict(state)


def exact_slope(row, at):
    return torch.autograd.grad(row.objective(at.world.logp(at.logits), at), at.logits)[0]


def biases(row, at, sizes):
    """The bias for each batch size, relative to the exact gradient."""
    exact = exact_slope(row, at)
    return [((expected_slope(row, at, n) - exact).norm() / exact.norm()).item() for n in sizes]


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


SNIS = {t: Row("snis", t, forward_kl, options={"ess": 0.0}) for t in ("gibbs", "mara", "filter")}


@pytest.mark.parametrize("kind", SNIS)
def test_the_bias_of_snis_halves_when_the_batch_doubles(kind):
    at = setting(kind, SEED, 1)
    found = biases(SNIS[kind], at, (2, 8, 16, 32))
    assert 0.05 < found[0] < 1
    assert found[1] / found[2] == pytest.approx(2, abs=0.1)
    assert found[2] / found[3] == pytest.approx(2, abs=0.05)


def test_the_bias_of_snis_is_the_one_of_the_delta_method():
    """To first order it is -E_pi[w^2 (grad - E_p grad)]/B, with w = p/pi and grad that of -lp."""
    at = setting("gibbs", SEED, 1)
    lp = at.world.logp(at.logits)
    p, pi = at.log_p.exp(), lp.exp().detach()
    of_row = [torch.autograd.grad(-lp[y], at.logits, retain_graph=True)[0] for y in range(3)]
    slopes = torch.stack(of_row)
    mean = torch.einsum("s,spv->pv", p, slopes)
    first_order = -torch.einsum("s,spv->pv", p**2 / pi, slopes - mean)
    exact = exact_slope(SNIS["gibbs"], at)
    for n_rows, rest in ((16, 0.03), (32, 0.015)):
        bias = expected_slope(SNIS["gibbs"], at, n_rows) - exact
        assert (n_rows * bias - first_order).norm() / first_order.norm() < rest


def test_snis_has_that_bias_on_rows_from_anywhere_whose_probability_is_known():
    """Also at the target itself, where rows of the policy have none."""
    at = setting("gibbs", SEED, 1)
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    exact = exact_slope(SNIS["gibbs"], at)
    found = [(expected_slope(SNIS["gibbs"], at, n, q) - exact).norm().item() for n in (16, 32)]
    assert found[0] > 0.001
    assert found[0] / found[1] == pytest.approx(2, abs=0.15)
    at_target = at.moved_to(at.log_p.exp())
    left = [expected_slope(SNIS["gibbs"], at_target, n, q).norm().item() for n in (16, 32)]
    assert left[0] > 0.001
    assert left[0] / left[1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("kind", ["gibbs", "mara"])
@pytest.mark.parametrize("ess", [0.0, 0.1, 0.9])
def test_snis_is_at_rest_at_the_target_with_and_without_tempering(kind, ess):
    at = setting(kind, SEED, 2)
    at_target = at.moved_to(at.log_p.exp())
    row = Row("snis", kind, forward_kl, options={"ess": ess})
    assert expected_slope(row, at_target, 3).abs().max() < 1e-12
    assert expected_slope(row, at, 3).abs().max() > 0.005


def test_tempering_shortens_the_step_of_snis_and_keeps_its_direction():
    """With 0.9 of the rows asked for, half of the length is left here; the cosine stays .9997."""
    at = setting("gibbs", 4, 1)
    exact = exact_slope(SNIS["gibbs"], at)
    slopes = {}
    for ess in (0.0, 0.5, 0.9):
        row = Row("snis", "gibbs", forward_kl, options={"ess": ess})
        slopes[ess] = expected_slope(row, at, 16)
        assert cosine(slopes[ess], exact) > 0.999
    assert slopes[0.0].norm() > slopes[0.5].norm()
    assert (slopes[0.9].norm() / exact.norm()).item() == pytest.approx(0.5, abs=0.05)


BATCH_Z = [
    Row("f_dpg", "gibbs", forward_kl, options={"divergence": "kl"}),
    Row("f_dpg", "filter", forward_kl, options={"divergence": "kl"}),
    Row("f_dpg", "gibbs", jensen_shannon, options={"divergence": "js"}),
    Row("f_dpg", "filter", jensen_shannon, options={"divergence": "js"}),
    Row("alpha_dpg", "gibbs", alpha_divergence(0.5, 1e9), options={"alpha": 0.5, "most": 1e9}),
    Row("alpha_dpg", "filter", alpha_divergence(0.5, 10.0), options={"alpha": 0.5}),
    Row("alpha_dpg", "gibbs", alpha_divergence(0.0, 1e9), options={"alpha": 0.0, "most": 1e9}),
]


@pytest.mark.parametrize("row", BATCH_Z, ids=str)
def test_the_bias_by_the_batch_in_z_halves_when_the_batch_doubles(row):
    at = setting(row.target, SEED, 1)
    found = biases(row, at, (2, 8, 16, 32))
    assert 0.05 < found[0] < 1
    assert found[1] / found[2] == pytest.approx(2, abs=0.25)
    assert found[2] / found[3] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("row", BATCH_Z, ids=str)
def test_the_average_over_batches_takes_that_bias_away(row):
    """With decay .99 the batch has a hundredth of Z: about a hundredth of the bias is left."""
    at = setting(row.target, SEED, 1)
    averaged = Row(row.estimator, row.target, row.objective, 1.0, row.options, z_of_many_batches)
    (alone,), (left,) = biases(row, at, (8,)), biases(averaged, at, (8,))
    assert 0.004 < left / alone < 0.03
    slower = Row(
        row.estimator,
        row.target,
        row.objective,
        options={**row.options, "decay": 0.9},
        prepare=z_of_many_batches,
    )
    assert left < biases(slower, at, (8,))[0] < alone


def test_total_variation_suffers_most_from_the_z_of_the_batch():
    """sign(u) jumps where a row is as likely as under the target; it falls slowly with B."""
    row = Row("f_dpg", "gibbs", total_variation, options={"divergence": "tv"})
    at = setting("gibbs", SEED, 1)
    two, eight, thirty_two = biases(row, at, (2, 8, 32))
    assert 1.2 > two > eight > thirty_two > 0.4
    averaged = Row("f_dpg", "gibbs", total_variation, 1.0, row.options, z_of_many_batches)
    assert biases(averaged, at, (8,))[0] < 1e-10  # no row is that close to u = 0


def test_the_z_of_the_batch_does_not_matter_for_the_reverse_kl():
    """log Z is a constant in the pseudo-reward, which the baseline takes out."""
    row = Row("f_dpg", "gibbs", reverse_kl, options={"divergence": "reverse_kl"})
    assert max(biases(row, setting("gibbs", SEED, 1), (2, 8))) < 1e-12


def test_the_deviation_of_grpo_turns_and_scales_the_step():
    """Cosine .87 for pairs (only the sign of their difference is left), .9998 for 32 rows.

    Without bound, the factor goes to that of a division by the deviation of s over the policy.
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
    lp = at.world.logp(at.logits).detach()
    score = BETA * (at.whole.log_target - lp)
    mean = (lp.exp() * score).sum()
    deviation = (lp.exp() * (score - mean) ** 2).sum().sqrt()
    limit = (BETA / deviation).item()
    ratio = (slopes[32].norm() / exact.norm()).item()
    assert ratio == pytest.approx(limit, rel=0.06)
    assert abs(ratio / limit - 1) < abs((slopes[16].norm() / exact.norm()).item() / limit - 1)


@pytest.mark.parametrize("kind", ["gibbs", "mara"])
def test_grpo_is_at_rest_at_the_target_all_the_same(kind):
    at = setting(kind, SEED, 2)
    at_target = at.moved_to(at.log_p.exp())
    assert expected_slope(Row("grpo", kind, reverse_kl), at_target, 3).abs().max() < 1e-12
    # a hair beside it the scores differ, and the step has its full size
    beside = at_target.logits.detach() + 1e-3 * World.random(0, 2).logits(1).detach()
    at_side = dataclasses.replace(at, logits=beside.requires_grad_())
    assert expected_slope(Row("grpo", kind, reverse_kl), at_side, 3).norm() > 0.05


def test_the_anchor_of_the_batch_is_off_while_the_likeliest_hit_is_missing():
    """The bias of mara's batch anchor falls with the chance of a batch without z, (1 - pi(z))^B."""
    world = World.random(SEED, 1)
    tau = world.reward.topk(2).values[-1].item()
    logits = world.logits(SEED + 100)
    lp = world.logp(logits)
    target = build_objective("mara", beta=BETA, tau=tau).target
    whole = target(world.logp_ref, world.reward)
    z = int(whole.anchor.nonzero())
    stated = BETA * (lp.exp() * (lp - whole.log_target)).sum()
    (exact,) = torch.autograd.grad(stated, logits, retain_graph=True)
    at = type(setting("gibbs", SEED, 1))(world, logits, target, whole)
    row = Row("rloo", "mara", reverse_kl)
    found = [(expected_slope(row, at, n) - exact).norm().item() for n in (8, 16)]
    missing = 1 - lp[z].exp().item()
    assert found[1] / found[0] == pytest.approx(missing**8, rel=0.1)
    assert found[0] > 1e-5
    assert inputs_of(at, lp, torch.arange(3), None, 0).reward.max() >= tau
