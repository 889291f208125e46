"""What estimators remember from batch to batch, and what the next batch is to have again."""

import dataclasses
import math

import pytest
import torch

from chemkl.losses import LossInputs, build_objective

INPUTS = LossInputs(
    logp_policy=torch.tensor([-1.0, -2.0, -3.0, -1.5], dtype=torch.float64),
    logp_ref=torch.tensor([-1.5, -1.0, -4.0, -2.5], dtype=torch.float64),
    reward=torch.tensor([0.0, 0.9, 1.0, 0.4], dtype=torch.float64),
)


def rows_with(ratios, group=None):
    """Rows whose exp(log_target - lp) under gibbs is this: reward 0, lp 0."""
    logp_ref = torch.tensor(ratios, dtype=torch.float64).log()
    zero = torch.zeros_like(logp_ref)
    return LossInputs(zero, logp_ref, zero, group=None if group is None else torch.tensor(group))


def log_z(objective, inputs):
    return objective(inputs).metrics["log_z"].item()


@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg"])
def test_the_average_of_z_by_hand(name):
    """decay .5: batches of 2 and 4 weigh .25 and .5, so (.25 2 + .5 4)/.75; then 1 weighs .5."""
    objective = build_objective("gibbs", name, beta=1.0, estimator_options={"decay": 0.5})
    assert log_z(objective, rows_with([1.0, 3.0])) == pytest.approx(math.log(2))
    assert log_z(objective, rows_with([4.0, 4.0])) == pytest.approx(math.log(2.5 / 0.75))
    third = (0.125 * 2 + 0.25 * 4 + 0.5 * 1) / 0.875
    assert log_z(objective, rows_with([1.5, 0.5])) == pytest.approx(math.log(third))
    alone = build_objective("gibbs", name, beta=1.0, estimator_options={"decay": 0.0})
    for ratios in ([1.0, 3.0], [4.0, 4.0]):
        assert log_z(alone, rows_with(ratios)) == pytest.approx(math.log(sum(ratios) / 2))


def test_every_group_has_a_z_of_its_own_also_when_it_is_not_there():
    objective = build_objective("gibbs", "f_dpg", beta=1.0, estimator_options={"decay": 0.5})
    log_z(objective, rows_with([2.0, 4.0, 2.0, 4.0], [7, 5, 7, 5]))
    log_z(objective, rows_with([8.0, 8.0], [7, 7]))
    assert log_z(objective, rows_with([4.0, 4.0], [5, 5])) == pytest.approx(math.log(4))
    # group 7: (.125 2 + .25 8 + .5 6)/.875 after a third batch of its own
    expected = math.log((0.125 * 2 + 0.25 * 8 + 0.5 * 6) / 0.875)
    assert log_z(objective, rows_with([6.0, 6.0], [7, 7])) == pytest.approx(expected)


def test_z_holds_far_beyond_what_exp_can():
    """REINVENT's sigma = 128: log Z of hundreds of nats."""
    objective = build_objective("gibbs", "f_dpg", sigma=2000.0)
    far = LossInputs(torch.zeros(2), torch.zeros(2), torch.ones(2))
    assert log_z(objective, far) == pytest.approx(2000)
    assert log_z(objective, far) == pytest.approx(2000)


def test_log_z_is_learned_by_the_optimizer_of_the_policy():
    """Adam moves the parameter by the learning rate, hence log Z by 100 times that."""
    objective = build_objective("gibbs", "trajectory_balance", beta=1.0)
    (parameter,) = objective.parameters()
    assert log_z(objective, rows_with([math.e, math.e**3])) == pytest.approx(2)
    optimizer = torch.optim.Adam([parameter], lr=0.001)
    for step in (1, 2):
        optimizer.zero_grad()
        objective(rows_with([1.0, 1.0])).loss.backward()
        optimizer.step()
        assert log_z(objective, rows_with([1.0, 1.0])) == pytest.approx(2 - 0.1 * step, abs=1e-3)
    for name in ("rloo", "f_dpg", "msc"):
        assert not list(build_objective("gibbs", name, beta=1.0).parameters())


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        lp, lr, reward = torch.rand(3, 6, generator=generator, dtype=torch.float64)
        yield LossInputs(-3 * lp, -3 * lr, reward, group=torch.arange(6) % 2)


@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg", "msc", "trajectory_balance"])
def test_a_resumed_memory_is_identical(name):
    def fresh():
        return build_objective("gibbs", name, beta=0.3)

    seen = list(batches())
    if name == "trajectory_balance":
        seen = [dataclasses.replace(inputs, group=None) for inputs in seen]
    through, first, second = fresh(), fresh(), fresh()
    expected = [through(inputs) for inputs in seen]
    for inputs in seen[:4]:
        first(inputs)
    second.load_state_dict(first.state_dict())
    anew = [fresh()(inputs) for inputs in seen[4:]]
    for inputs, one in zip(seen[4:], expected[4:], strict=True):
        got = second(inputs)
        assert got.loss.item() == one.loss.item()
        assert (got.carry is None) == (one.carry is None) == (name != "msc")
        assert one.carry is None or torch.equal(got.carry, one.carry)
    # without the memory it is something else
    if name == "msc":
        assert any((a.carry != b.carry).any() for a, b in zip(anew, expected[4:], strict=True))
    else:
        assert any(a.loss != b.loss for a, b in zip(anew, expected[4:], strict=True))


def test_a_state_is_one_of_plain_tensors():
    """So that a checkpoint loads without unpickling anything else."""
    for name in ("f_dpg", "msc", "trajectory_balance"):
        objective = build_objective("gibbs", name, beta=0.3)
        objective(INPUTS)
        for state in objective.state_dict()["estimator"].values():
            assert state
            assert all(isinstance(value, torch.Tensor | bool) for value in state.values())


SURE = LossInputs(
    # row 2 has all the weight, 100 nats of it
    logp_policy=torch.tensor([-1.0, -2.0, -103.0, -1.5], dtype=torch.float64),
    logp_ref=torch.tensor([-1.5, -1.0, -4.0, -2.5], dtype=torch.float64),
    reward=torch.tensor([0.0, 0.9, 1.0, 0.4], dtype=torch.float64),
)


def test_one_row_a_group_is_carried():
    objective = build_objective("gibbs", "msc", beta=1.0)
    assert objective(SURE).carry.tolist() == [False, False, True, False]
    grouped = dataclasses.replace(SURE, group=torch.tensor([3, 8, 8, 3]))
    for _ in range(10):
        carry = objective(grouped).carry
        assert carry[2]
        assert carry.tolist().count(True) == 2
        assert not carry[1]
    assert build_objective("gibbs", "snis", beta=1.0)(SURE).carry is None


def test_moved_tells_whether_the_retained_row_was_replaced():
    objective = build_objective("gibbs", "msc", beta=1.0)
    for place, moved in ((2, 0.0), (0, 1.0)):
        inputs = dataclasses.replace(SURE, retained=torch.arange(4) == place)
        assert objective(inputs).metrics["moved"].item() == moved


def test_msc_weighs_by_who_sampled():
    """The row that the other policy found unlikely is the one with the weight."""
    even = dataclasses.replace(SURE, logp_policy=torch.zeros(4, dtype=torch.float64))
    behaviour = torch.tensor([0.0, -200.0, 0.0, 0.0], dtype=torch.float64)
    by_other = dataclasses.replace(even, logp_behaviour=behaviour)
    assert build_objective("gibbs", "msc", beta=1.0)(by_other).carry.tolist() == [0, 1, 0, 0]


def test_a_carried_row_keeps_its_place_where_copies_are_dropped():
    """carry speaks of the whole batch, the draw is among the rows that count."""
    order = torch.tensor([0, 0, 1, 2, 3])
    copied = LossInputs(
        SURE.logp_policy[order],
        SURE.logp_ref[order],
        SURE.reward[order],
        duplicate=torch.tensor([False, True, False, False, False]),
    )
    objective = build_objective("gibbs", "msc", beta=1.0, duplicates="drop")
    assert objective(copied).carry.tolist() == [False, False, False, True, False]


def test_metrics_tell_of_the_fresh_rows_only():
    """A retained row is no sample of today's policy."""
    inputs = dataclasses.replace(INPUTS, retained=torch.tensor([False, False, True, False]))
    output = build_objective("gibbs", "msc", beta=1.0)(inputs)
    assert output.metrics["reward_mean"].item() == pytest.approx(1.3 / 3)
    assert len(output.target.log_target) == 4


@pytest.mark.parametrize("n_impossible", [0, 3])
def test_tempering_reaches_the_share_that_is_asked_for_and_no_more(n_impossible):
    """Among the rows that can have weight; found here from the formula.

    Weights exp(t l) with l = 0, 1, 5, 2: their effective number (sum w)^2 / sum w^2 falls with t.
    """
    log_ratio = torch.tensor([0.0, 1.0, 5.0, 2.0], dtype=torch.float64)

    def effective(t):
        w = (t * log_ratio).exp()
        return (w.sum() ** 2 / (w**2).sum()).item()

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= 0.7 * 4 else (low, middle)
    n_rows = 4 + n_impossible
    lp = torch.zeros(n_rows, dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logp_policy=lp,
        logp_ref=torch.cat([log_ratio, torch.zeros(n_impossible, dtype=torch.float64)]),
        reward=(torch.arange(n_rows) < 4).double(),
    )
    output = build_objective("filter", "snis", tau=0.5, estimator_options={"ess": 0.7})(inputs)
    (slope,) = torch.autograd.grad(output.loss, lp)
    torch.testing.assert_close(-slope[:4], torch.softmax(low * log_ratio, 0), atol=1e-9, rtol=0)
    assert not slope[4:].any()
    assert output.metrics["temper"].item() == pytest.approx(low, abs=1e-9)
    assert output.metrics["ess"].item() == pytest.approx(effective(1) / n_rows)
    # where the share is there already, nothing is tempered
    easy = build_objective("filter", "snis", tau=0.5, estimator_options={"ess": 0.25})(inputs)
    assert easy.metrics["temper"].item() == 1
