"""Bad input to estimators: a ValueError that says what is wrong and what to do, no NaN loss."""

import dataclasses
import inspect

import pytest
import torch

from chemkl.losses import ESTIMATORS, Gibbs, LossInputs, build_objective, estimator
from chemkl.losses import objective as objective_module
from chemkl.losses.estimators import STATES

NAN, INF = float("nan"), float("inf")
INPUTS = LossInputs(
    logp_policy=torch.tensor([-1.0, -2.0, -3.0, -1.5], dtype=torch.float64),
    logp_ref=torch.tensor([-1.5, -1.0, -4.0, -2.5], dtype=torch.float64),
    reward=torch.tensor([0.0, 0.9, 1.0, 0.4], dtype=torch.float64),
)


def call(name, options=None, inputs=INPUTS, target="gibbs", **target_options):
    objective = build_objective(
        target, name, beta=0.5, estimator_options=options or {}, **target_options
    )
    return objective(inputs)


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
    assert ESTIMATORS[name].wanted.options[option].default not in values
    call(name)
    for value in values:
        with pytest.raises(ValueError, match=message):
            call(name, {option: value})


def test_every_option_is_looked_at():
    tested = {option for _, option, _, _ in WRONG_VALUES}
    free = {"normalise", "seed"}  # a bool, and any whole number
    options = {option for name in ESTIMATORS for option in ESTIMATORS[name].wanted.options}
    assert options == tested | free, "add wrong values of the option to the test above"


COMPARES = ["rloo", "grpo", "log_variance", "forward_kl", "f_dpg", "alpha_dpg", "snis"]
COMPARES += ["ppo", "ahc", "hill_climbing", "dpo"]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_one_row_has_no_others_or_is_enough(name):
    """msc may begin a chain with it."""
    one = INPUTS.where(torch.tensor([False, True, False, False]))
    if name not in COMPARES:
        assert call(name, inputs=one).loss.isfinite()
        return
    message = rf"{name} .*group 0 has 1 row .the batch has 1.*raise the batch size"
    with pytest.raises(ValueError, match=message):
        call(name, inputs=one)
    grouped = dataclasses.replace(INPUTS, group=torch.tensor([4, 4, 9, 4]))
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
def test_shapes_that_differ(name):
    """(B, 1) against (B,) would broadcast to (B, B) without a word."""
    chosen = ESTIMATORS[name]

    def given():
        own = {**TENSORS, "beta": 0.5, **{state: STATES[state]() for state in STATES}}
        return {key: own[key] for key in chosen.wanted.inputs if key in own}

    assert chosen.function(**given())[0].isfinite()
    rows = [key for key in chosen.wanted.inputs if key in TENSORS]
    assert len(rows) >= 2
    for key in rows:
        short = key.removesuffix("_B")
        for wrong in (TENSORS[key][:, None], TENSORS[key][:1]):
            shape = rf"{short} \({', '.join(map(str, wrong.shape))},?\)"
            with pytest.raises(ValueError, match=rf"a value per row; got .*{shape}"):
                chosen.function(**{**given(), key: wrong})


class Odd:
    """A target of one's own with an error in it: one row is not a number, or infinite."""

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


@pytest.fixture
def unchecked(monkeypatch):
    """Let the target of Odd through, as a log-ratio that overflows would come through."""
    monkeypatch.setattr(objective_module, "check_finite", lambda *_: None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_loss_that_is_not_finite_is_refused(name, value):
    """None of the estimators may turn it into a number: not by a maximum, a clamp or a where."""
    objective = build_objective(Odd(value), name)
    message = rf"the loss of {name} is (nan|-?inf): .*Lower the learning rate"
    if name == "forward_kl":  # its metric looks at the anchored reference first
        message = "logp_ref is not finite in 1 of 4 rows"
    with pytest.raises(ValueError, match=message):
        objective(INPUTS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg", "grpo"])
def test_nor_by_an_option(name):
    options = {
        "f_dpg": [{"divergence": d} for d in ("kl", "reverse_kl", "js", "tv")],
        "alpha_dpg": [{"alpha": 0.0}],
        "grpo": [{"normalise": False}, {"clip": 0.2}],
    }[name]
    for one in options:
        objective = build_objective(Odd(NAN), name, estimator_options=one)
        with pytest.raises(ValueError, match=f"the loss of {name} is nan"):
            objective(INPUTS)


@pytest.mark.parametrize("name", ["reinvent", "log_variance", "trajectory_balance"])
def test_a_policy_that_has_diverged_is_told(name):
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


def test_the_clip_of_grpo_by_hand():
    """s = .5 (lr - lp) + R = -.25, 1.4, .5, -.1; the mean is .3875.

    Rows 1 and 3 have moved just too far the way their advantage says; 0 and 2 are free, though 2
    has a ratio of .5. At a free row the gradient is -A exp(lp - lp_behaviour)/4.
    """
    logp_policy = INPUTS.logp_policy.clone().requires_grad_()
    ratio = torch.tensor([1.5, 1.21, 0.5, 0.79], dtype=torch.float64)
    moved = dataclasses.replace(
        INPUTS, logp_policy=logp_policy, logp_behaviour=logp_policy.detach() - ratio.log()
    )
    output = call("grpo", {"clip": 0.2, "normalise": False}, moved)
    advantage = torch.tensor([-0.6375, 1.0125, 0.1125, -0.4875], dtype=torch.float64)
    expected = -advantage * ratio / 4 * torch.tensor([1, 0, 1, 0])
    (slope,) = torch.autograd.grad(output.loss, logp_policy)
    torch.testing.assert_close(slope, expected, atol=1e-12, rtol=0)
    assert output.metrics["clip_rate"].item() == 0.5
    by_ppo = torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
    assert output.loss.item() == pytest.approx(-by_ppo.mean().item(), abs=1e-12)


def test_a_ratio_that_has_exploded_is_held_or_told():
    """exp(100) is beyond fp32. Where A > 0 the clip holds the row; where A < 0 nothing does."""
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


def test_what_is_missing_is_named():
    with pytest.raises(
        ValueError, match=r"'forward_kl' needs logp_.* LossInputs\(logp_policy_of_pri"
    ):
        call("forward_kl", {"reference": "prior"})
    two = dataclasses.replace(INPUTS, retained=torch.tensor([True, True, False, False]))
    with pytest.raises(ValueError, match=r"retains one row a group.*a group number of its own"):
        call("msc", inputs=two)
    chains = dataclasses.replace(two, group=torch.tensor([0, 1, 0, 1]))
    assert call("msc", inputs=chains).carry.sum() == 2
    grouped = dataclasses.replace(INPUTS, group=torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"one log Z, but the batch has 2 groups.*log_variance"):
        call("trajectory_balance", inputs=grouped)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if not ESTIMATORS[n].takes_shaper])
def test_a_shaper_needs_an_advantage(name):
    assert "shape" not in inspect.signature(ESTIMATORS[name].function).parameters
    able = "f_dpg, alpha_dpg, forward_kl, rloo, grpo, ppo"
    with pytest.raises(ValueError, match=rf"{name!r} has no advantage .* that have: {able}"):
        build_objective("gibbs", name, beta=0.5, shaper="ips")


def test_an_input_that_an_estimator_of_ones_own_asks_for_is_made_or_named(monkeypatch):
    """Who asks for samples of the reference without a default always needs them."""
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
    given = dataclasses.replace(INPUTS, logp_policy_of_prior=torch.tensor([-1.0, -3.0]))
    assert objective(given).loss.item() == 2


@pytest.mark.parametrize("name", ["f_dpg", "alpha_dpg", "snis", "msc"])
def test_a_batch_without_hits_is_a_step_of_zero_for_the_filter_target(name):
    """Nothing is known of the target then; and the first hits after it count as they should."""
    logp_policy = INPUTS.logp_policy.clone().requires_grad_()
    inputs = dataclasses.replace(INPUTS, logp_policy=logp_policy, reward=torch.zeros(4).double())
    objective = build_objective("filter", name, tau=0.8)
    output = objective(inputs)
    assert not torch.autograd.grad(output.loss, logp_policy)[0].any()
    if name == "msc":
        assert not output.carry.any()
    hits = dataclasses.replace(INPUTS, logp_policy=logp_policy)
    (slope,) = torch.autograd.grad(objective(hits).loss, logp_policy)
    assert slope[1] < 0 <= slope[0]  # up with the hit, down with the miss if it moves at all


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
