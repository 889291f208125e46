import dataclasses

import pytest
import torch

from chemkl.losses import Filtered, Gibbs, Mara
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
    gibbs = Gibbs(beta=beta)(fig5.logp_ref, fig5.reward).log_target
    torch.testing.assert_close(
        torch.softmax(gibbs, 0),
        reverse_kl_optimum(fig5.reward, fig5.logp_ref, beta),
        atol=1e-12,
        rtol=0,
    )
    mara = Mara(beta=beta, tau=0.9)(fig5.logp_ref, fig5.reward).log_target
    torch.testing.assert_close(
        torch.softmax(mara, 0),
        mara_optimum(fig5.reward, fig5.logp_ref, beta, tau=0.9),
        atol=1e-12,
        rtol=0,
    )


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


def test_beta_is_asked_for_where_it_shapes_the_target():
    for make in (MAKERS["gibbs"], MAKERS["mara"]):
        with pytest.raises(ValueError, match="give beta, or sigma"):
            make()
    assert Filtered(tau=0.8).beta == 1.0


def test_filter_refuses_a_tau_that_is_no_number():
    with pytest.raises(ValueError, match="tau must be a finite number, got inf"):
        Filtered(tau=float("inf"))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_targets_check_their_rows(make):
    target = make(beta=1.0)
    with pytest.raises(ValueError, match=r"got logp_ref \(1,\), reward \(2,\)"):
        target(rows(-1.0), rows(1.0, 2.0))
    with pytest.raises(ValueError, match="the batch is empty"):
        target(rows(), rows())
    with pytest.raises(ValueError, match="logp_ref is not finite"):
        target(rows(-torch.inf), rows(1.0))
    with pytest.raises(ValueError, match="group must be a tensor of whole numbers"):
        target(rows(-1.0), rows(1.0), rows(0.0))
