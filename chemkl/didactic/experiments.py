"""What is trained for each figure: a world, an objective, and the exact end of the way.

Legend: V tokens. Source: GX-Chen et al., arXiv 2510.20817, Figs 1-5.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import minimize
from torch import Tensor

from chemkl.didactic import worlds
from chemkl.didactic.config import LearningConfig
from chemkl.didactic.learning import Family, gaussian_logp, places
from chemkl.didactic.worlds import World
from chemkl.losses import Gibbs, Mara, Objective, Target, build_objective
from chemkl.losses.exact import forward_kl_optimum, mara_optimum, reverse_kl_optimum

KL = Literal["reverse", "forward"]
TargetName = Literal["fixed", "gibbs", "mara"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment(ABC):
    """One policy to be trained.

    Attributes:
        figure: where it is shown.
        world: what it is trained on.
        kl: the direction of the KL.
        beta: its coefficient.
        target: what it walks to.
        family: what the policy can be.
    """

    figure: int
    world: World
    kl: KL
    beta: float
    target: TargetName
    family: Family = "categorical"

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called, once a figure."""

    @abstractmethod
    def objective(self, settings: LearningConfig) -> Objective:
        """Return a fresh objective, without memory."""

    @abstractmethod
    def optimum(self) -> Tensor:
        """Return the exact optimum (V,), computed from the whole world without sampling."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit(Experiment):
    """Fig. 1: the world's gibbs target is fixed, and the policy is fitted to it by a KL."""

    beta: float = 1.0
    target: TargetName = "fixed"

    @property
    def name(self) -> str:
        """Family and direction."""
        return f"{self.family}, {self.kl} KL"

    def objective(self, settings: LearningConfig) -> Objective:
        """KL(pi || p) by the estimator of the settings, KL(p || pi) by f-DPG."""
        target = Gibbs(beta=self.beta)
        if self.kl == "reverse":
            return build_objective(target, settings.reverse_estimator)
        return build_objective(target, "f_dpg", estimator_options={"divergence": "kl"})

    def optimum(self) -> Tensor:
        """Return the target itself, or the Gaussian with the least KL."""
        p_V = reverse_kl_optimum(self.world.reward_V, self.world.logp_ref_V, self.beta)
        return p_V if self.family == "categorical" else nearest_gaussian(p_V, self.kl)


@dataclass(frozen=True, eq=False, kw_only=True)
class Regularised(Experiment):
    """E_pi[R] - beta KL between policy and reference; with MARA by its Algorithm 2."""

    target: TargetName = "gibbs"

    @property
    def name(self) -> str:
        """Target, direction and beta."""
        return f"{self.target}, {self.kl} KL, beta {self.beta:g}"

    def objective(self, settings: LearningConfig) -> Objective:
        """The estimator of the settings, or forward_kl; the anchor is that of each batch."""
        estimator: str = settings.reverse_estimator
        options: dict[str, str] = {}
        if self.kl == "forward":
            reference = "batch" if self.target == "mara" else settings.forward_reference
            estimator, options = "forward_kl", {"reference": reference}
        target: Target = Gibbs(beta=self.beta)
        if self.target == "mara":
            target = Mara(beta=self.beta, tau=self.world.tau)
        return build_objective(target, estimator, estimator_options=options)

    def optimum(self) -> Tensor:
        """Return the closed form, for mara with the anchor of the whole world."""
        reward_V, logp_ref_V = self.world.reward_V, self.world.logp_ref_V
        if self.target == "mara":
            tau = math.inf if self.world.tau is None else self.world.tau
            return mara_optimum(reward_V, logp_ref_V, self.beta, tau=tau, kl=self.kl)
        formula = reverse_kl_optimum if self.kl == "reverse" else forward_kl_optimum
        return formula(reward_V, logp_ref_V, self.beta)


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
    found = [minimize(divergence, start, method="Nelder-Mead", options=exactly) for start in starts]
    return _gaussian(min(found, key=lambda minimum: float(minimum.fun)).x.tolist()).exp()


def experiments() -> list[Experiment]:
    """Every policy that is trained, figure by figure."""
    return [*_figure_1(), *_figure_2(), *_figure_3(), *_figure_4(), *_figure_5()]


def _figure_1() -> list[Experiment]:
    world = worlds.bimodal()
    return [
        Fit(figure=1, world=world, kl="reverse", family="gaussian"),
        Fit(figure=1, world=world, kl="forward", family="gaussian"),
        Fit(figure=1, world=world, kl="reverse"),
        Fit(figure=1, world=world, kl="forward"),
    ]


def _figure_2() -> list[Experiment]:
    world = worlds.two_modes()
    reverse, forward = (0.10, 0.132, 0.15, 0.5), (0.1, 0.3, 1.0, 3.0)
    return [
        *(Regularised(figure=2, world=world, kl="reverse", beta=beta) for beta in reverse),
        *(Regularised(figure=2, world=world, kl="forward", beta=beta) for beta in forward),
    ]


def _figure_3() -> list[Experiment]:
    world = worlds.unequal_rewards()
    betas = (0.5, 0.05, 1e-3)
    return [Regularised(figure=3, world=world, kl="reverse", beta=beta) for beta in betas]


def _figure_4() -> list[Experiment]:
    world = worlds.equal_rewards()
    return [
        Regularised(figure=4, world=world, kl="reverse", beta=1.0),
        Regularised(figure=4, world=world, kl="reverse", beta=0.01),
        Regularised(figure=4, world=world, kl="forward", beta=0.1),
    ]


def _figure_5() -> list[Experiment]:
    world = worlds.two_blocks()
    settings: tuple[tuple[KL, float], ...] = (("reverse", 0.01), ("reverse", 1.0), ("forward", 1.0))
    targets: tuple[TargetName, ...] = ("gibbs", "mara")
    return [
        Regularised(figure=5, world=world, kl=kl, beta=beta, target=target)
        for target in targets
        for kl, beta in settings
    ]
