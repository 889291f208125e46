import pytest
import torch

from chemkl.losses import Gibbs, Mara, build_objective
from chemkl.losses.exact import mara_optimum, reverse_kl_optimum

# Distances are total variation to the exact optimum, in training from uniform logits (batch 64,
# AdamW 5e-3). Uniform logits are .47 to .71 away, and the gibbs and mara optima .45 apart, so a
# bound of 0.1 tells them apart. Seen at 1,000 steps, two seeds: mara .03 to .07.


def distance(p, q):
    return 0.5 * (p - q).abs().sum().item()


@pytest.mark.parametrize("name", ["rloo", "log_variance", "reinvent"])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_mara_reaches_its_target(fig5, train, name, beta):
    """The anchor is that of each batch, the target is that of the whole space; 1,000 steps do."""
    optimum = mara_optimum(fig5.reward, fig5.logp_ref, beta, tau=1.0)
    gibbs = reverse_kl_optimum(fig5.reward, fig5.logp_ref, beta)
    objective = build_objective(Mara(beta=beta, tau=1.0), name)
    p, output = train(fig5, objective, 1000, 0)
    assert distance(p, optimum) < 0.1
    assert distance(p, gibbs) > 0.25
    # both blocks of hits are held, and evenly
    assert p[:25].sum().item() == pytest.approx(optimum[:25].sum().item(), abs=0.06)
    assert p[50:75].sum().item() == pytest.approx(optimum[50:75].sum().item(), abs=0.06)
    assert output.metrics["hit_rate"].item() > 0.8


@pytest.mark.parametrize("name", ["rloo", "log_variance"])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gibbs_goes_back_to_the_mode_of_the_reference(fig5, train, name, beta):
    """2,000 steps; the second block, of the same reward, nearly vanishes."""
    optimum = reverse_kl_optimum(fig5.reward, fig5.logp_ref, beta)
    p, _ = train(fig5, build_objective(Gibbs(beta=beta), name), 2000, 0)
    assert distance(p, optimum) < 0.04
    assert p[0].item() == pytest.approx(optimum[0].item(), rel=0.1)
    assert p[50:75].sum() < 0.05
    assert p[:25].sum() / p[50:75].sum() > 20


def test_mara_with_a_tiny_beta_holds_all_hits(fig5, train):
    """beta 0.01: the reward is 100 nats deep, and still all 50 hits stay near 1/50."""
    p, _ = train(fig5, build_objective(Mara(beta=0.01, tau=1.0), "log_variance"), 1000, 0)
    hit = fig5.reward == 1
    optimum = mara_optimum(fig5.reward, fig5.logp_ref, 0.01, tau=1.0)
    assert distance(p, optimum) < 0.12
    assert p[hit].min() > 0.01
    entropy = torch.special.entr(p).sum().item()
    assert entropy > 3.8  # ln 50 = 3.91; the gibbs optimum has 3.33
