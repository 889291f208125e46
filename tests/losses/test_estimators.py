"""Estimators: values by hand, state across batches, bad input.

Bad input is a ValueError that says what is wrong and what to do, never a NaN loss.
"""

import dataclasses
import inspect
import math

import pytest
import torch
from worlds import close, double

from chemkl.losses import ESTIMATORS, Gibbs, LossInputs, build_objective, estimator
from chemkl.losses import objective as objective_module
from chemkl.losses.estimators import STATES, log_variance, reinvent, rloo

NAN, INF = float("nan"), float("inf")
INPUTS = LossInputs(
    logp_policy=double(-1.0, -2.0, -3.0, -1.5),
    logp_ref=double(-1.5, -1.0, -4.0, -2.5),
    reward=double(0.0, 0.9, 1.0, 0.4),
)


def call(name, options=None, inputs=INPUTS, target="gibbs", **target_options):
    objective = build_objective(
        target, name, beta=0.5, estimator_options=options or {}, **target_options
    )
    return objective(inputs)


def changed(**tensors):
    return dataclasses.replace(INPUTS, **tensors)


# ---- values by hand


def test_rloo_by_hand():
    # s = beta (log_target - lp) = .5 (2, 4, 9) = 1, 2, 4.5; others' means 3.25, 2.75, 1.5
    logp_policy = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    log_target = double(1.0, 2.0, 6.0)
    loss, metrics = rloo(logp_policy, log_target, 0.5)
    advantage = double(-2.25, -0.75, 3.0)
    assert loss.item() == pytest.approx(-(2.25 + 1.5 - 9.0) / 3, abs=1e-12)
    close(torch.autograd.grad(loss, logp_policy)[0], -advantage / 3)
    # mean of the squares (5.0625 + .5625 + 9) / 3 = 4.875; the advantages sum to 0
    assert metrics["advantage_std"].item() == pytest.approx(4.875**0.5, abs=1e-12)
    assert metrics["weight"] == 1
    # twice as likely as when they were sampled, as likely, and half as likely
    older = logp_policy.detach() - double(2.0, 1.0, 0.5).log()
    loss, metrics = rloo(logp_policy, log_target, 0.5, logp_behaviour_B=older)
    weight = double(1.0, 1.0, 0.5)
    close(torch.autograd.grad(loss, logp_policy)[0], -weight * advantage / 3)
    assert metrics["weight"].item() == pytest.approx(2.5 / 3)


def test_log_variance_by_hand():
    logp_policy = double(-1.0, -2.0, -3.0, 0.0, -2.0)
    log_target = double(1.0, 2.0, 6.0, 1.0, 2.0)
    # ratios 2, 4, 9 (mean 5, variance (9 + 1 + 16) / 2 = 13) and 1, 4 (variance 4.5)
    group = torch.tensor([0, 0, 0, 1, 1])
    assert log_variance(logp_policy[:3], log_target[:3])[0].item() == pytest.approx(13, abs=1e-12)
    both = log_variance(logp_policy, log_target, group)[0].item()
    assert both == pytest.approx((3 * 13 + 2 * 4.5) / 5, abs=1e-12)


def test_reinvent_is_the_loss_of_reinvent():
    """REINVENT: augmented = prior + sigma score; loss = mean of (augmented - agent)^2."""
    generator = torch.Generator().manual_seed(0)
    sigma = 128
    agent_nll = 20 + 30 * torch.rand(64, generator=generator)
    prior_nll = 20 + 30 * torch.rand(64, generator=generator)
    score = torch.rand(64, generator=generator)
    augmented = -prior_nll + sigma * score
    expected = torch.pow(augmented + agent_nll, 2).mean()
    log_target = Gibbs(sigma=sigma)(-prior_nll, score).log_target
    torch.testing.assert_close(reinvent(-agent_nll, log_target)[0], expected, rtol=1e-6, atol=0)


def test_the_clip_of_grpo_by_hand():
    """s = .5 (lr - lp) + R = -.25, 1.4, .5, -.1; the mean is .3875.

    Rows 1 and 3 have moved just too far the way their advantage says; 0 and 2 are free, though 2
    has a ratio of .5. At a free row the gradient is -A exp(lp - lp_behaviour)/4.
    """
    logp_policy = INPUTS.logp_policy.clone().requires_grad_()
    ratio = double(1.5, 1.21, 0.5, 0.79)
    moved = changed(logp_policy=logp_policy, logp_behaviour=logp_policy.detach() - ratio.log())
    output = call("grpo", {"clip": 0.2, "normalise": False}, moved)
    advantage = double(-0.6375, 1.0125, 0.1125, -0.4875)
    expected = -advantage * ratio / 4 * torch.tensor([1, 0, 1, 0])
    (slope,) = torch.autograd.grad(output.loss, logp_policy)
    torch.testing.assert_close(slope, expected, atol=1e-12, rtol=0)
    assert output.metrics["clip_rate"].item() == 0.5
    by_ppo = torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
    assert output.loss.item() == pytest.approx(-by_ppo.mean().item(), abs=1e-12)


def test_an_overflowing_ratio_is_clipped_or_reported():
    """exp(100) is beyond fp32. If A > 0 the row is clipped, if A < 0 it is not."""
    logp_policy = torch.tensor([-20.0, -21.0, -22.0], requires_grad=True)
    inputs = LossInputs(
        logp_policy,
        torch.tensor([-20.0, -21.0, -22.0]),
        torch.tensor([1.0, 0.0, 0.5]),
        logp_behaviour=torch.tensor([-120.0, -21.0, -22.0]),
    )
    loss = call("grpo", {"clip": 0.2}, inputs).loss
    (slope,) = torch.autograd.grad(loss, logp_policy)
    assert slope.isfinite().all()
    assert slope[0] == 0
    assert slope[1] > 0
    told = dataclasses.replace(inputs, reward=torch.tensor([0.0, 1.0, 0.5]))
    with pytest.raises(ValueError, match="the loss of grpo is inf"):
        call("grpo", {"clip": 0.2}, told)


@pytest.mark.parametrize("log_z", [0.0, 0.1, 7.3])
def test_the_rounding_of_fp32_is_no_advantage_for_grpo(log_z):
    """At the target the scores differ by the last digits of lp and log_target alone.

    Divided by their deviation these would be a step of full size in a direction of chance.
    """
    logp_policy = -20 - 40 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    log_target = logp_policy + log_z
    function = ESTIMATORS["grpo"].function
    noise = (log_target - logp_policy).std()
    assert noise > 0 or log_z == 0
    _, metrics = function(logp_policy, log_target, logp_policy, 0.1)
    assert metrics["advantage_std"].item() == 0
    # while a hundredth of a nat is a difference
    _, metrics = function(logp_policy, log_target + torch.arange(64) / 6400, logp_policy, 0.1)
    assert metrics["advantage_std"].item() == pytest.approx(1, abs=0.02)


# ---- state across batches


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
    third = (0.125 * 2 + 0.25 * 4 + 0.5 * 1) / 0.875
    for ratios, expected in (([1.0, 3.0], 2), ([4.0, 4.0], 2.5 / 0.75), ([1.5, 0.5], third)):
        assert log_z(objective, rows_with(ratios)) == pytest.approx(math.log(expected))
    alone = build_objective("gibbs", name, beta=1.0, estimator_options={"decay": 0.0})
    for ratios in ([1.0, 3.0], [4.0, 4.0]):
        assert log_z(alone, rows_with(ratios)) == pytest.approx(math.log(sum(ratios) / 2))


def test_every_group_has_its_own_z_also_if_a_batch_lacks_it():
    objective = build_objective("gibbs", "f_dpg", beta=1.0, estimator_options={"decay": 0.5})
    log_z(objective, rows_with([2.0, 4.0, 2.0, 4.0], [7, 5, 7, 5]))
    log_z(objective, rows_with([8.0, 8.0], [7, 7]))
    assert log_z(objective, rows_with([4.0, 4.0], [5, 5])) == pytest.approx(math.log(4))
    # group 7: (.125 2 + .25 8 + .5 6)/.875 after its third batch
    expected = math.log((0.125 * 2 + 0.25 * 8 + 0.5 * 6) / 0.875)
    assert log_z(objective, rows_with([6.0, 6.0], [7, 7])) == pytest.approx(expected)


def test_z_works_far_beyond_the_range_of_exp():
    """REINVENT's sigma = 128: log Z of hundreds of nats."""
    objective = build_objective("gibbs", "f_dpg", sigma=2000.0)
    far = LossInputs(torch.zeros(2), torch.zeros(2), torch.ones(2))
    for _ in range(2):
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


@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg", "msc", "trajectory_balance"])
def test_a_resumed_state_is_identical_and_made_of_plain_tensors(name):
    """So that a checkpoint loads without unpickling anything else."""

    def fresh():
        return build_objective("gibbs", name, beta=0.3)

    generator = torch.Generator().manual_seed(0)
    group = None if name == "trajectory_balance" else torch.arange(6) % 2
    batches = []
    for _ in range(8):
        lp, lr, reward = torch.rand(3, 6, generator=generator, dtype=torch.float64)
        batches.append(LossInputs(-3 * lp, -3 * lr, reward, group=group))
    through, first, second = fresh(), fresh(), fresh()
    expected = [through(inputs) for inputs in batches][4:]
    for inputs in batches[:4]:
        first(inputs)
    state = first.state_dict()
    (values,) = state["estimator"].values()
    assert values
    assert all(isinstance(value, torch.Tensor | bool) for value in values.values())
    second.load_state_dict(state)
    anew = [fresh()(inputs) for inputs in batches[4:]]
    for inputs, output in zip(batches[4:], expected, strict=True):
        got = second(inputs)
        assert got.loss.item() == output.loss.item()
        assert (got.carry is None) == (output.carry is None) == (name != "msc")
        assert output.carry is None or torch.equal(got.carry, output.carry)
    # without the state it is something else
    pairs = list(zip(anew, expected, strict=True))
    if name == "msc":
        assert any((a.carry != b.carry).any() for a, b in pairs)
    else:
        assert any(a.loss != b.loss for a, b in pairs)


SURE = changed(logp_policy=double(-1.0, -2.0, -103.0, -1.5))
"""Row 2 has all the weight, 100 nats of it."""


def test_msc_carries_one_row_a_group():
    objective = build_objective("gibbs", "msc", beta=1.0)
    assert objective(SURE).carry.tolist() == [False, False, True, False]
    grouped = dataclasses.replace(SURE, group=torch.tensor([3, 8, 8, 3]))
    for _ in range(10):
        carry = objective(grouped).carry
        assert carry[2]
        assert carry.tolist().count(True) == 2
        assert not carry[1]
    assert build_objective("gibbs", "snis", beta=1.0)(SURE).carry is None
    for place, moved in ((2, 0.0), (0, 1.0)):  # whether the retained row was replaced
        inputs = dataclasses.replace(SURE, retained=torch.arange(4) == place)
        assert objective(inputs).metrics["moved"].item() == moved


def test_msc_weighs_by_the_policy_that_sampled():
    """The row that is unlikely under the other policy has all the weight."""
    behaviour = double(0.0, -200.0, 0.0, 0.0)
    inputs = dataclasses.replace(SURE, logp_policy=0 * behaviour, logp_behaviour=behaviour)
    assert build_objective("gibbs", "msc", beta=1.0)(inputs).carry.tolist() == [0, 1, 0, 0]


def test_a_carried_row_keeps_its_place_if_copies_are_dropped():
    """carry is about the whole batch, the draw is among the rows that count."""
    order = torch.tensor([0, 0, 1, 2, 3])
    copied = dataclasses.replace(SURE.where(order), duplicate=torch.arange(5) == 1)
    objective = build_objective("gibbs", "msc", beta=1.0, duplicates="drop")
    assert objective(copied).carry.tolist() == [False, False, False, True, False]


def test_metrics_are_over_the_fresh_rows_only():
    output = build_objective("gibbs", "msc", beta=1.0)(changed(retained=torch.arange(4) == 2))
    assert output.metrics["reward_mean"].item() == pytest.approx(1.3 / 3)
    assert len(output.target.log_target) == 4


@pytest.mark.parametrize("n_impossible", [0, 3])
def test_tempering_reaches_its_share_and_no_more(n_impossible):
    """Of the rows of non-zero weight, by the formula.

    Weights exp(t l) with l = 0, 1, 5, 2: their effective number (sum w)^2 / sum w^2 falls with t.
    """
    log_ratio = double(0.0, 1.0, 5.0, 2.0)

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


# ---- bad input

WRONG_VALUES = [
    ("grpo", "clip", [0, 1, -0.1, 3, NAN], r"grpo: clip must lie strictly in \(0, 1\), or be"),
    ("trajectory_balance", "log_z_rate", [0, -1, NAN, INF], "e: log_z_rate must be a finite n"),
    ("forward_kl", "reference", ["policy", None], "reference must be one of batch, prior, got"),
    ("forward_kl", "clip", [0, -2, NAN, INF], "forward_kl: clip must be a finite number above"),
    ("f_dpg", "divergence", ["hellinger", ""], "must be one of kl, reverse_kl, js, tv, got"),
    ("f_dpg", "clip", [0, -2, NAN, INF], "f_dpg: clip must be a finite number above 0, got"),
    ("f_dpg", "decay", [1, -0.1, NAN], r"f_dpg: decay must lie in \[0, 1\), got"),
    ("alpha_dpg", "alpha", [1, -0.1, NAN], r"alpha must lie in \[0, 1\), got .* take rloo"),
    ("alpha_dpg", "most", [0, -1, INF], "alpha_dpg: most must be a finite number above 0, got"),
    ("alpha_dpg", "decay", [1, -0.1, NAN], r"alpha_dpg: decay must lie in \[0, 1\), got"),
    ("snis", "ess", [1, -0.1, NAN], r"snis: ess must lie in \[0, 1\), got"),
    ("msc", "ess", [1, -0.1, NAN], r"msc: ess must lie in \[0, 1\), got"),
    ("ppo", "clip", [0, 1, None, NAN], r"ppo: clip must lie strictly in \(0, 1\), got"),
    ("ahc", "top_k", [0, 65, NAN], r"ahc: top_k must lie in \(0, 1\], got .*is a share: 0.5"),
    ("hill_climbing", "top_k", [0, 1.1], r"top_k must lie in \(0, 1\], got .*is a share"),
    ("dpo", "labels", ["ipo", None], "dpo: labels must be one of soft, hard, got"),
]


@pytest.mark.parametrize(("name", "option", "values", "message"), WRONG_VALUES)
def test_options_out_of_range(name, option, values, message):
    assert ESTIMATORS[name].signature.options[option].default not in values
    call(name)
    for value in values:
        with pytest.raises(ValueError, match=message):
            call(name, {option: value})


def test_every_option_has_a_test():
    tested = {option for _, option, _, _ in WRONG_VALUES}
    free = {"normalise", "seed"}  # a bool, and any whole number
    options = {option for name in ESTIMATORS for option in ESTIMATORS[name].signature.options}
    assert options == tested | free, "add wrong values of the option to the test above"


COMPARES = ["rloo", "grpo", "log_variance", "forward_kl", "f_dpg", "alpha_dpg", "snis"]
COMPARES += ["ppo", "ahc", "hill_climbing", "dpo"]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_single_row_is_refused_by_estimators_that_compare(name):
    """msc may begin a chain with it."""
    one = INPUTS.where(torch.arange(4) == 1)
    if name not in COMPARES:
        assert call(name, inputs=one).loss.isfinite()
        return
    message = rf"{name} .*group 0 has 1 row .the batch has 1.*raise the batch size"
    with pytest.raises(ValueError, match=message):
        call(name, inputs=one)
    grouped = changed(group=torch.tensor([4, 4, 9, 4]))
    with pytest.raises(ValueError, match=r"group 9 has 1 row .the batch has 4."):
        call(name, inputs=grouped)


TENSORS = {
    "logp_policy_B": INPUTS.logp_policy,
    "log_target_B": INPUTS.logp_ref,
    "logp_behaviour_B": INPUTS.logp_policy,
    "logp_anchored_B": INPUTS.logp_ref,
    "reward_anchored_B": INPUTS.reward,
    "group_B": torch.zeros(4, dtype=torch.int64),
    "retained_B": torch.zeros(4, dtype=torch.bool),
}


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_shapes_must_agree(name):
    """(B, 1) against (B,) would broadcast to (B, B) without a word."""
    chosen = ESTIMATORS[name]

    def given():
        own = {**TENSORS, "beta": 0.5, **{state: STATES[state]() for state in STATES}}
        return {key: own[key] for key in chosen.signature.inputs if key in own}

    assert chosen.function(**given())[0].isfinite()
    rows = [key for key in chosen.signature.inputs if key in TENSORS]
    assert len(rows) >= 2
    for key in rows:
        short = key.removesuffix("_B")
        for wrong in (TENSORS[key][:, None], TENSORS[key][:1]):
            shape = rf"{short} \({', '.join(map(str, wrong.shape))},?\)"
            with pytest.raises(ValueError, match=rf"a value per row; got .*{shape}"):
                chosen.function(**{**given(), key: wrong})


class Odd:
    """A custom target, of no base class, with a bad value in one row."""

    beta = 0.5
    full_support = True

    def __init__(self, value):
        self.value = value

    def __call__(self, logp_ref_B, reward_B, group_B=None):
        out = Gibbs(beta=0.5)(logp_ref_B, reward_B, group_B)
        bad_B = torch.arange(4) == 2
        fields = ("log_target", "logp_anchored", "reward_anchored")
        replaced = {f: torch.where(bad_B, self.value, getattr(out, f)) for f in fields}
        return dataclasses.replace(out, **replaced)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        *((name, {}, value) for name in ESTIMATORS for value in (NAN, INF)),
        *(("f_dpg", {"divergence": d}, NAN) for d in ("kl", "reverse_kl", "js", "tv")),
        ("alpha_dpg", {"alpha": 0.0}, NAN),
        ("grpo", {"normalise": False}, NAN),
        ("grpo", {"clip": 0.2}, NAN),
    ],
)
def test_a_loss_that_is_not_finite_is_refused(monkeypatch, name, options, value):
    """No estimator may turn it into a number: not by a maximum, a clamp or a where."""
    # as a log-ratio that overflows would pass
    monkeypatch.setattr(objective_module, "check_finite", lambda *_: None)
    message = rf"the loss of {name} is (nan|-?inf): .*Lower the learning rate"
    if name == "forward_kl":  # its metric looks at the anchored reference first
        message = "logp_ref is not finite in 1 of 4 rows"
    with pytest.raises(ValueError, match=message if not options else f"the loss of {name} is nan"):
        build_objective(Odd(value), name, estimator_options=options)(INPUTS)


@pytest.mark.parametrize("name", ["reinvent", "log_variance", "trajectory_balance"])
def test_a_policy_that_has_diverged_is_reported(name):
    """1e30 nats squared are beyond fp32."""
    far = LossInputs(
        logp_policy=torch.tensor([-1.0, -1e30]), logp_ref=torch.zeros(2), reward=torch.zeros(2)
    )
    with pytest.raises(ValueError, match=rf"the loss of {name} is inf.*Has the policy diverged"):
        call(name, inputs=far)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_policy_100_nats_off_has_a_finite_gradient_in_fp32(name):
    """exp(100) is beyond fp32; below and above the target, and with rows of another policy."""
    logp_policy = torch.tensor([-120.0, -20.0, -2.0, -130.0], requires_grad=True)
    logp_ref = torch.tensor([-20.0, -20.5, -105.0, -25.0])
    inputs = LossInputs(logp_policy, logp_ref, torch.tensor([0.0, 1.0, 1.0, 0.5]))
    for behaviour in (None, logp_policy.detach().flip(0)):
        moved = dataclasses.replace(inputs, logp_behaviour=behaviour)
        (slope,) = torch.autograd.grad(call(name, inputs=moved).loss, logp_policy)
        assert slope.isfinite().all()
        assert slope.abs().max() > 0


TWO_CHAINS = torch.tensor([0, 1, 0, 1])
TWO_RETAINED = changed(retained=torch.tensor([True, True, False, False]))


@pytest.mark.parametrize(
    ("name", "options", "inputs", "message"),
    [
        ("forward_kl", {"reference": "prior"}, INPUTS,
         r"'forward_kl' needs logp_.* LossInputs\(logp_policy_of_pri"),
        ("msc", {}, TWO_RETAINED, r"retains one row a group.*a group number of its own"),
        ("trajectory_balance", {}, changed(group=TWO_CHAINS),
         r"one log Z, but the batch has 2 groups.*log_variance"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_named(name, options, inputs, message):
    with pytest.raises(ValueError, match=message):
        call(name, options, inputs)


def test_msc_carries_one_row_for_each_group():
    chains = dataclasses.replace(TWO_RETAINED, group=TWO_CHAINS)
    assert call("msc", inputs=chains).carry.sum() == 2


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if not ESTIMATORS[n].takes_shaper])
def test_a_shaper_needs_an_advantage(name):
    assert "shape" not in inspect.signature(ESTIMATORS[name].function).parameters
    able = "f_dpg, alpha_dpg, forward_kl, rloo, grpo, ppo"
    with pytest.raises(ValueError, match=rf"{name!r} has no advantage .* that have: {able}"):
        build_objective("gibbs", name, beta=0.5, shaper="ips")


def test_a_custom_estimator_gets_its_inputs_or_an_error_that_names_them(monkeypatch):
    """A parameter for samples of the reference without a default always needs them."""
    monkeypatch.setitem(ESTIMATORS, "likely", None)  # taken out again in the end
    del ESTIMATORS["likely"]

    @estimator("likely", off_policy=False)
    def likely(logp_policy_of_prior_P):
        return -logp_policy_of_prior_P.mean(), {}

    objective = build_objective("gibbs", "likely", beta=0.5)
    assert objective.needs_prior_samples
    with pytest.raises(
        ValueError, match=r"'likely' needs logp_policy_of_prior .*log pi_theta of fresh samples"
    ):
        objective(INPUTS)
    given = changed(logp_policy_of_prior=torch.tensor([-1.0, -3.0]))
    assert objective(given).loss.item() == 2


@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg", "snis", "msc"])
def test_a_batch_without_hits_is_a_step_of_zero_for_the_filter_target(name):
    """The next batch with hits counts as it should."""
    logp_policy = INPUTS.logp_policy.clone().requires_grad_()
    inputs = changed(logp_policy=logp_policy, reward=torch.zeros(4).double())
    objective = build_objective("filter", name, tau=0.8)
    output = objective(inputs)
    assert not torch.autograd.grad(output.loss, logp_policy)[0].any()
    if name == "msc":
        assert not output.carry.any()
    hits = changed(logp_policy=logp_policy)
    (slope,) = torch.autograd.grad(objective(hits).loss, logp_policy)
    assert slope[1] < 0 <= slope[0]  # up with the hit, down with the miss if it moves at all
