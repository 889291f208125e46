"""Targets at the rows of a batch: values by hand, the anchor, what is refused."""

import dataclasses

import pytest
import torch

from chemkl.losses import Filtered, Gibbs, Mara, augmented_reward
from chemkl.losses.exact import mara_optimum, reverse_kl_optimum

NAN = float("nan")


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(got, *expected):
    torch.testing.assert_close(got, rows(*expected), atol=1e-12, rtol=0, equal_nan=True)


def test_gibbs_by_hand():
    out = Gibbs(beta=0.5)(rows(-1.0, -2.0), rows(1.0, 0.25))
    same(out.log_target, 1.0, -1.5)  # -1 + 1/.5, -2 + .25/.5
    assert out.hit.tolist() == out.anchor.tolist() == [False, False]
    assert out.anchor_logp_ref.isnan().all()


def test_filter_by_hand():
    out = Filtered(tau=0.8, beta=0.5)(rows(-1.0, -2.0, -3.0), rows(0.79, 0.8, 1.0))
    assert out.log_target.tolist() == [-torch.inf, -2.0, -3.0]
    assert out.hit.tolist() == [False, True, True]
    assert not out.anchor.any()


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_targets_on_a_whole_space_are_the_exact_optima(fig5, beta):
    for target, optimum in (
        (Gibbs(beta=beta), reverse_kl_optimum(fig5.reward, fig5.logp_ref, beta)),
        (Mara(beta=beta, tau=0.9), mara_optimum(fig5.reward, fig5.logp_ref, beta, tau=0.9)),
    ):
        p = torch.softmax(target(fig5.logp_ref, fig5.reward).log_target, 0)
        same(p, *optimum.tolist())


MAKERS = {
    "gibbs": lambda **given: Gibbs(**given),
    "mara": lambda **given: Mara(tau=0.8, **given),
    "filter": lambda **given: Filtered(tau=0.8, **given),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_beta_or_sigma(make):
    assert make(sigma=8).beta == 0.125
    assert make(sigma=8) == make(beta=0.125)
    assert dataclasses.replace(make(sigma=8), beta=2.0).beta == 2.0
    with pytest.raises(ValueError, match=r"beta or sigma.*not both: got beta=0.1 and sigma=10"):
        make(beta=0.1, sigma=10)
    for beta in (0, 0.0, -1, NAN, float("inf")):
        with pytest.raises(ValueError, match="beta must be a finite number above 0"):
            make(beta=beta)
        with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
            make(sigma=beta)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(beta=0.1).beta = 0.2


def test_beta_is_required_if_it_shapes_the_target():
    for make in (MAKERS["gibbs"], MAKERS["mara"]):
        with pytest.raises(ValueError, match="give beta, or sigma"):
            make()
    assert Filtered(tau=0.8).beta == 1.0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((rows(-1.0), rows(1.0, 2.0)), r"got logp_ref \(1,\), reward \(2,\)"),
        ((rows(), rows()), "the batch is empty"),
        ((rows(-torch.inf), rows(1.0)), "logp_ref is not finite"),
        ((rows(-1.0), rows(1.0), rows(0.0)), r"group is .*, and must be a tensor of whole numbers"),
    ],
)
def test_targets_check_their_rows(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(beta=1.0)(*values)


# ---- mara


def test_mara_by_hand(batch):
    out = Mara(beta=0.5, tau=0.8)(batch.logp_ref, batch.reward)
    assert out.hit.tolist() == [False, True, True, False, True, False]
    # the likeliest row of all (0) and the likeliest below tau (3) are not hits: row 2 is the anchor
    assert out.anchor.tolist() == [False, False, True, False, False, False]
    # hits -5 + .8/.5 = -3.4; others lr + R/.5
    same(out.log_target, -1.8, -3.4, -3.4, -1.42, -3.4, -4.0)
    same(out.anchor_logp_ref, *[-5.0] * 6)


def test_mara_hits_are_equal_to_the_bit_in_single_precision():
    logp_ref = -30 * torch.rand(64, generator=torch.Generator().manual_seed(0)) - 20
    out = Mara(sigma=128, tau=0.5)(logp_ref, torch.linspace(0, 1, 64))
    assert out.log_target.dtype == torch.float32
    assert out.hit.sum() == 32
    assert out.log_target[out.hit].unique().numel() == 1


def test_algorithm_1_is_the_same_target_as_a_reward(batch):
    out = Mara(beta=0.5, tau=0.8)(batch.logp_ref, batch.reward)
    # hits R(z) + beta (lr(z) - lr): .8 + .5 (-5 + 8), .8, .8 + .5 (-5 + 11)
    augmented = augmented_reward(out.log_target, batch.logp_ref, 0.5)
    same(augmented, 0.1, 2.3, 0.8, 0.79, 3.8, 0.0)


def test_an_augmentation_with_another_beta_leaves_the_hits_uneven(fig5):
    """With c beta in the augmentation and beta in the KL, hits go as pi_ref^(1 - c)."""
    beta, c = 0.2, 0.25
    target = Mara(beta=c * beta, tau=1.0)(fig5.logp_ref, fig5.reward)
    augmented = augmented_reward(target.log_target, fig5.logp_ref, c * beta)
    p = reverse_kl_optimum(augmented, fig5.logp_ref, beta)
    expected = (1 - c) * (fig5.logp_ref[0] - fig5.logp_ref[74])
    assert (p[0] / p[74]).log().item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "on_hits"),
    [
        # hits (1 - .25) lr + .25 (-5) + .8/.5: -7.25 + 1.6, -5 + 1.6, -9.5 + 1.6
        ({"alpha": 0.25}, [-5.65, -3.4, -7.9]),
        # row 1 is 3 nats below the anchor: lifted by 3; row 4 is 6 below: lifted by 4 only
        ({"cap": 4.0}, [-3.4, -3.4, -7.0 + 1.6]),
        # with alpha .5 the lifts are 1.5 and 3, and a cap of 2 binds on the second
        ({"alpha": 0.5, "cap": 2.0}, [-6.5 + 1.6, -3.4, -9.0 + 1.6]),
    ],
)
def test_alpha_and_cap(batch, options, on_hits):
    out = Mara(beta=0.5, tau=0.8, **options)(batch.logp_ref, batch.reward)
    same(out.log_target, -1.8, *on_hits[:2], -1.42, on_hits[2], -4.0)


@pytest.mark.parametrize(
    ("reward_on_hits", "on_hits"),
    [("anchor", [0.8, 0.8, 0.8]), ("own", [0.9, 0.8, 1.0]), ("tau", [0.75, 0.75, 0.75])],
)
def test_reward_on_hits(batch, reward_on_hits, on_hits):
    """With the hits' own rewards their ranking comes back."""
    hit_reward = batch.reward * (batch.reward != 0.79)
    out = Mara(beta=0.5, tau=0.75, reward_on_hits=reward_on_hits)(batch.logp_ref, hit_reward)
    same(out.log_target[[1, 2, 4]], *[-5 + 2 * value for value in on_hits])


def test_a_batch_without_hits_is_gibbs(batch):
    mara = Mara(beta=0.5, tau=1.01)(batch.logp_ref, batch.reward)
    gibbs = Gibbs(beta=0.5)(batch.logp_ref, batch.reward)
    same(mara.log_target, *gibbs.log_target.tolist())
    assert not mara.hit.any()
    assert not mara.anchor.any()
    assert mara.anchor_logp_ref.isnan().all()


def test_a_quantile_and_its_floor():
    # the 0.5-quantile of a reward that is mostly 0 is 0: without the floor all rows would be hits
    logp_ref, reward = rows(-1.0, -2.0, -3.0, -4.0, -5.0, -6.0), rows(0, 0, 0, 0, 0.3, 0.4)
    out = Mara(beta=1.0, tau_quantile=0.5, tau_floor=0.2)(logp_ref, reward)
    assert out.hit.tolist() == [False] * 4 + [True] * 2
    same(out.log_target, -1.0, -2.0, -3.0, -4.0, -4.7, -4.7)
    # linear 0.6-quantile of five: position 2.4, so .5 + .4 * .2 = .58
    target = Mara(beta=1.0, tau_quantile=0.6, tau_floor=0.2, reward_on_hits="tau")
    out = target(logp_ref[:5], rows(0.1, 0.3, 0.5, 0.7, 0.9))
    same(out.log_target, -0.9, -1.7, -2.5, -4 + 0.58, -4 + 0.58)
    # fewer than two hits: gibbs
    target = Mara(beta=1.0, tau_quantile=0.9, tau_floor=0.2, reward_on_hits="tau")
    out = target(logp_ref[:3], rows(0.0, 0.5, 0.1))
    same(out.log_target, -1.0, -1.5, -2.9)
    assert not out.hit.any()
    # each group separately: the second one has two hits
    out = target(logp_ref[:4], rows(0.0, 0.5, 0.5, 0.5), torch.tensor([0, 0, 1, 1]))
    assert out.hit.tolist() == [False, False, True, True]


def test_the_first_row_of_a_tie_is_the_anchor():
    out = Mara(beta=1.0, tau=0.8)(rows(-5.0, -2.0, -2.0), rows(0.9, 0.85, 0.95))
    assert out.anchor.tolist() == [False, True, False]
    same(out.log_target, *[-2 + 0.85] * 3)


def test_each_group_has_its_own_anchor():
    logp_ref = rows(-1.0, -2.0, -3.0, -4.0, -5.0)
    reward = rows(0.9, 1.0, 0.9, 0.9, 0.1)
    # group 7: rows 0 and 2, anchor 0; group -3: rows 1 and 3, anchor 1; group 4: no hit
    out = Mara(beta=1.0, tau=0.8)(logp_ref, reward, torch.tensor([7, -3, 7, -3, 4]))
    assert out.anchor.tolist() == [True, True, False, False, False]
    same(out.log_target, -0.1, -1.0, -0.1, -1.0, -4.9)
    same(out.anchor_logp_ref, -1.0, -2.0, -1.0, -2.0, NAN)


def test_hits_are_found_in_the_precision_of_the_reward():
    # just below .8 in float64, .8 itself in float32: the row is no hit, as in the stored reward
    reward = rows(0.8 - 1e-9, 0.8)
    out = Mara(beta=1.0, tau=0.8)(torch.tensor([-1.0, -2.0]), reward)
    assert out.hit.tolist() == [False, True]
    assert out.log_target.dtype == torch.float32
    assert Mara(beta=1.0, tau=0.8)(torch.tensor([-1.0]), torch.tensor([0.8])).hit.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tau is missing: give tau .* or tau_quantile"),
        ({"tau": 0.8, "tau_quantile": 0.9, "tau_floor": 0.1}, "got tau=0.8 and tau_quantile=0.9"),
        ({"tau_quantile": 0.9}, "tau_quantile and tau_floor go together"),
        ({"tau": 0.8, "tau_floor": 0.1}, "tau_quantile and tau_floor go together"),
        ({"tau": NAN}, "tau must be a finite number, or be None, got nan"),
        ({"tau_quantile": 1.0, "tau_floor": 0.1}, r"tau_quantile must lie strictly in \(0, 1\)"),
        ({"tau": 0.8, "alpha": 1.1}, r"alpha must lie in \[0, 1\], got 1.1"),
        ({"tau": 0.8, "cap": 0.0}, "cap must be a finite number above 0, or be None, got 0.0"),
        ({"tau": 0.8, "anchor_quantile": 1.0}, "anchor_quantile must lie strictly"),
        ({"tau": 0.8, "reward_on_hits": "mean"}, "one of anchor, own, tau, got 'mean'"),
        ({"tau": 0.8, "anchor": "best"}, "anchor must be one of batch, running, got 'best'"),
        ({"tau": 0.8, "alpha": -1, "cap": -1}, "alpha must .*; cap must"),
    ],
)
def test_bad_mara_options(options, message):
    with pytest.raises(ValueError, match=message):
        Mara(beta=0.1, **options)


# ---- its anchor


@pytest.mark.parametrize("anchor", ["batch", "running"])
def test_copies_do_not_move_the_anchor(batch, anchor):
    order = [0, 1, 2, 3, 4, 5, 1, 1, 1, 4, 4, 2, 1, 1]
    alone = Mara(beta=0.5, tau=0.8, anchor=anchor)(batch.logp_ref, batch.reward)
    copied = Mara(beta=0.5, tau=0.8, anchor=anchor)(batch.logp_ref[order], batch.reward[order])
    same(copied.log_target, *alone.log_target[order].tolist())
    assert copied.anchor.sum() == alone.anchor.sum()


def test_running_anchor_is_a_quantile_of_the_distinct_hits_and_never_the_likeliest():
    target = Mara(beta=1.0, tau=0.8, anchor="running", anchor_quantile=0.5)
    # one hit so far: itself
    same(target(rows(-4.0, -1.0), rows(0.9, 0.1)).log_target, -3.1, -0.9)
    # hits -6, -4, -2: number floor(.5 * 2) = 1 from below is -4, with its reward .9
    out = target(rows(-2.0, -6.0), rows(0.8, 1.0))
    same(out.log_target, -3.1, -3.1)
    same(out.anchor_logp_ref, -4.0, -4.0)
    assert out.hit.all()
    assert not out.anchor.any()  # the anchor is not a row of this batch
    # two more, -1 and -0.5: floor(.5 * 4) = 2 is still below the top of -6 -4 -2 -1 -.5
    same(target(rows(-1.0, -0.5), rows(1.0, 1.0)).anchor_logp_ref, -2.0, -2.0)


def test_running_anchor_is_never_the_all_time_maximum():
    for n in range(2, 40):
        target = Mara(beta=1.0, tau=0.5, anchor="running", anchor_quantile=0.99)
        assert target(-torch.arange(1.0, n + 1), torch.ones(n)).anchor_logp_ref[0] == -2.0


def test_running_anchor_is_used_in_a_batch_with_a_single_hit():
    target = Mara(beta=1.0, tau=0.8, anchor="running")
    target(rows(-3.0, -2.0), rows(1.0, 1.0))
    # the hits so far are -9, -3, -2: floor(.95 * 2) = 1 is -3
    same(target(rows(-9.0, -1.0), rows(0.8, 0.0)).log_target, -2.0, -1.0)


def test_running_anchor_keeps_groups_apart():
    target = Mara(beta=1.0, tau=0.8, anchor="running", anchor_quantile=0.5)
    target(rows(-3.0, -5.0), rows(0.9, 1.0), torch.tensor([0, 1]))
    out = target(rows(-8.0, -9.0, -7.0), rows(0.1, 0.1, 0.1), torch.tensor([1, 0, 2]))
    same(out.anchor_logp_ref, -5.0, -3.0, NAN)
    same(out.log_target, -7.9, -8.9, -6.9)


def test_a_resumed_running_anchor_is_identical():
    generator = torch.Generator().manual_seed(3)
    batches = [
        (-torch.rand(32, generator=generator) * 40, torch.rand(32, generator=generator))
        for _ in range(6)
    ]
    groups = torch.arange(32) % 3

    def fresh():
        return Mara(sigma=10.0, tau=0.6, anchor="running")

    through, first, second = fresh(), fresh(), fresh()
    expected = [through(*rows, groups).log_target for rows in batches]
    for some in batches[:3]:
        first(*some, groups)
    second.load_state_dict(first.state_dict())
    for some, log_target in zip(batches[3:], expected[3:], strict=True):
        assert torch.equal(second(*some, groups).log_target, log_target)
    # without the state the target is another one
    assert not torch.equal(fresh()(*batches[3], groups).log_target, expected[3])


def test_a_state_of_another_target_is_refused():
    running = Mara(beta=1.0, tau=0.8, anchor="running")
    running(rows(-3.0), rows(1.0))
    with pytest.raises(ValueError, match="lacks reward"):
        running.load_state_dict({"group": rows(0), "logp_ref": rows(-1)})
    for stateless in (Gibbs(beta=1.0), Mara(beta=1.0, tau=0.8)):
        assert stateless.state_dict() == {}
        stateless.load_state_dict({})
        with pytest.raises(ValueError, match=r"remembers nothing.*saved with another target"):
            stateless.load_state_dict(running.state_dict())
