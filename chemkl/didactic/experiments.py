"""What is trained for each figure: a world, an objective, and the exact end of the way.

Legend: V tokens. Source: GX-Chen et al., arXiv 2510.20817, Figs 1-5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from scipy.optimize import minimize
from torch import Tensor

from chemkl.didactic import worlds
from chemkl.didactic.config import LearningConfig
from chemkl.didactic.learning import Family, gaussian_logp
from chemkl.didactic.worlds import World, places
from chemkl.losses import Gibbs, Mara, Objective, build_objective
from chemkl.losses.exact import forward_kl_optimum, mara_optimum, reverse_kl_optimum

KL = Literal["reverse", "forward"]
TargetName = Literal["fixed", "gibbs", "mara"]
TARGETS: tuple[TargetName, ...] = ("gibbs", "mara")


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment:
    """One policy to be trained: E_pi[R] - beta KL between policy and reference, or a plain fit.

    Attributes:
        figure: where it is shown.
        world: what it is trained on.
        kl: the direction of the KL.
        beta: its coefficient.
        target: what it walks to: gibbs, mara (Algorithm 2), or fixed (Fig. 1): the world's gibbs
            target as it is, to which the policy is fitted by a KL.
        family: what the policy can be.
    """

    figure: int
    world: World
    kl: KL
    beta: float = 1.0
    target: TargetName = "gibbs"
    family: Family = "categorical"

    @property
    def name(self) -> str:
        """What it is called, once a figure."""
        if self.target == "fixed":
            return f"{self.family}, {self.kl} KL"
        return f"{self.target}, {self.kl} KL, beta {self.beta:g}"

    def objective(self, settings: LearningConfig) -> Objective:
        """Return a fresh objective, without memory; the anchor is that of each batch."""
        is_mara = self.target == "mara"
        target = Mara(beta=self.beta, tau=self.world.tau) if is_mara else Gibbs(beta=self.beta)
        if self.kl == "reverse":
            return build_objective(target, settings.reverse_estimator)
        if self.target == "fixed":  # KL(p || pi)
            return build_objective(target, "f_dpg", estimator_options={"divergence": "kl"})
        reference = "batch" if is_mara else settings.forward_reference
        return build_objective(target, "forward_kl", estimator_options={"reference": reference})

    def optimum(self) -> Tensor:
        """Return the exact optimum (V,), computed from the whole world without sampling."""
        reward_V, logp_ref_V = self.world.reward_V, self.world.logp_ref_V
        if self.target == "mara":
            tau = math.inf if self.world.tau is None else self.world.tau
            return mara_optimum(reward_V, logp_ref_V, self.beta, tau=tau, kl=self.kl)
        is_forward = self.kl == "forward" and self.target == "gibbs"
        formula = forward_kl_optimum if is_forward else reverse_kl_optimum
        p_V = formula(reward_V, logp_ref_V, self.beta)
        return p_V if self.family == "categorical" else nearest_gaussian(p_V, self.kl)


def nearest_gaussian(p_V: Tensor, kl: KL) -> Tensor:
    """Return the Gaussian (V,) of least KL(q || p) (reverse) or KL(p || q) (forward).

    Minimised over all tokens from several starts; the least of the minima found counts.
    """

    def divergence(parameters: Sequence[float]) -> float:
        logq_V = _gaussian(parameters)
        if kl == "reverse":
            return float((logq_V.exp() * (logq_V - p_V.log())).sum())
        return float((p_V * (p_V.log() - logq_V)).sum())

    def _gaussian(parameters: Sequence[float]) -> Tensor:
        mean, log_deviation = torch.tensor(parameters, dtype=p_V.dtype)
        return gaussian_logp(places(p_V.numel(), p_V.dtype), mean, log_deviation)

    starts = [(mean, math.log(0.1)) for mean in (0.1, 0.3, 0.5, 0.7, 0.9)]
    exactly = {"xatol": 1e-10, "fatol": 1e-14}
    minima = [
        minimize(divergence, start, method="Nelder-Mead", options=exactly) for start in starts
    ]
    return _gaussian(min(minima, key=lambda minimum: float(minimum.fun)).x.tolist()).exp()


def experiments() -> list[Experiment]:
    """Every policy that is trained, figure by figure."""
    kls: tuple[tuple[KL, float], ...] = (("reverse", 0.01), ("reverse", 1.0), ("forward", 1.0))
    fit = partial(Experiment, figure=1, world=worlds.bimodal(), target="fixed")
    modes = partial(Experiment, figure=2, world=worlds.two_modes())
    unequal = partial(Experiment, figure=3, world=worlds.unequal_rewards(), kl="reverse")
    equal = partial(Experiment, figure=4, world=worlds.equal_rewards())
    blocks = partial(Experiment, figure=5, world=worlds.two_blocks())
    return [
        fit(kl="reverse", family="gaussian"),
        fit(kl="forward", family="gaussian"),
        fit(kl="reverse"),
        fit(kl="forward"),
        *(modes(kl="reverse", beta=beta) for beta in (0.10, 0.132, 0.15, 0.5)),
        *(modes(kl="forward", beta=beta) for beta in (0.1, 0.3, 1.0, 3.0)),
        *(unequal(beta=beta) for beta in (0.5, 0.05, 1e-3)),
        equal(kl="reverse", beta=1.0),
        equal(kl="reverse", beta=0.01),
        equal(kl="forward", beta=0.1),
        *(blocks(target=target, kl=kl, beta=beta) for target in TARGETS for kl, beta in kls),
    ]
