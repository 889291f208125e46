"""Worlds of a few tokens, the policies trained in them, and their exact optima.

Legend: V tokens, each a whole sequence; B tokens of a batch; P fresh samples of the reference.
Source: GX-Chen et al., arXiv 2510.20817, Figs 1-5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from scipy.optimize import minimize
from torch import Generator, Tensor, nn

from chemkl.didactic.config import LearningConfig
from chemkl.losses import Gibbs, LossInputs, Mara, Objective, build_objective
from chemkl.losses.exact import forward_kl_optimum, mara_optimum, reverse_kl_optimum

KL = Literal["reverse", "forward"]
Family = Literal["categorical", "gaussian"]
MODES = (20, 79)
"""The tokens nearest to the peaks of Fig. 2; the second has the higher reward."""
HITS = (*range(25), *range(50, 75))
"""The two blocks of hits of Fig. 5."""

# ---- worlds


@dataclass(frozen=True, eq=False)
class World:
    """All tokens, in float64.

    Attributes:
        reward_V: R of each token.
        logp_ref_V: log-probability under the reference, nats; normalised.
        tau: lowest reward of a hit; infinity: no hits.
    """

    reward_V: Tensor
    logp_ref_V: Tensor
    tau: float = math.inf


def worlds() -> dict[int, World]:
    """Return the world of each figure; rewards and references are the paper's, except for Fig. 1.

    1. A fixed distribution with two modes, as the reward log p under a uniform reference: at
       beta = 1 its gibbs target is p itself. The paper shows such a target without its numbers;
       here it is 0.6 N(0.3, 0.06^2) + 0.4 N(0.7, 0.06^2) at the places i/99.
    2. Peaks of reward 0.75 and 1; the reference prefers the lower one.
    3. Rewards 0, 0.9 and 1 under a uniform reference.
    4. Two answers of reward 1, one of them 15 times as likely under the reference.
    5. Reward 1 on two blocks of 25 tokens, under a reference that falls off steeply.
    """
    token_V = torch.arange(100, dtype=torch.float64)
    place_V = places(100, torch.float64)

    def log_peak(mean: float, deviation: float) -> Tensor:
        return -0.5 * ((place_V - mean) / deviation) ** 2

    left, right = torch.tensor([0.6, 0.4]).double().log()
    log_p_V = torch.logaddexp(left + log_peak(0.3, 0.06), right + log_peak(0.7, 0.06))
    peak_V = 0.75 * log_peak(0.2, 0.03).exp() + log_peak(0.8, 0.03).exp()
    block_V = torch.zeros_like(token_V)
    block_V[list(HITS)] = 1
    three_V = torch.tensor([0.0, 0.9, 1.0], dtype=torch.float64)
    return {
        1: World(log_p_V.log_softmax(dim=0), torch.full_like(token_V, 1 / 100).log()),
        2: World(peak_V, torch.log_softmax(-0.0322 * token_V, dim=0)),
        3: World(three_V, torch.full_like(three_V, 1 / 3).log()),
        4: World(
            torch.tensor([0.0, 1.0, 1.0]).double(),
            torch.tensor([0.68, 0.30, 0.02], dtype=torch.float64).log(),
        ),
        5: World(block_V, torch.log_softmax(4 * torch.log1p(-token_V / 100), dim=0), tau=1.0),
    }


def places(n_tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the place of each token (V,), from 0 to 1."""
    return torch.arange(n_tokens, dtype=dtype) / (n_tokens - 1)


# ---- policies


class Policy(nn.Module):
    """A distribution over V tokens: a logit for every token, or a mean and a deviation.

    A categorical policy can be any distribution, and starts uniform. A Gaussian over the places
    i/(V-1) has a single mode, and starts between the modes of Fig. 1. The reverse KL has several
    minima there: from a mean of 0.5 and a deviation of 0.25 training ends on a wide one, from a
    mean of 0.7 on the lighter mode.
    """

    def __init__(self, family: Family, n_tokens: int) -> None:
        super().__init__()
        self._family, self._n_tokens = family, n_tokens
        zero_V = torch.zeros(n_tokens)
        start = zero_V if family == "categorical" else torch.tensor([0.5, math.log(0.1)])
        self.numbers = nn.Parameter(start)

    def forward(self) -> Tensor:
        """Return log p (V,)."""
        if self._family == "categorical":
            return torch.log_softmax(self.numbers, dim=0)
        return gaussian_logp(self._n_tokens, *self.numbers)


def gaussian_logp(n_tokens: int, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return log p (V,) of a Gaussian, normalised over the places."""
    place_V = places(n_tokens, mean.dtype)
    return torch.log_softmax(-0.5 * ((place_V - mean) / log_deviation.exp()) ** 2, dim=0)


def learn(
    policy: nn.Module,
    world: World,
    objective: Objective,
    settings: LearningConfig,
    generator: Generator,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Train a policy, which returns log p (V,), in place on its own samples.

    The objective gets rewards and reference at the sampled tokens only. Returns the final
    probabilities (V,), in float64.
    """
    reward_V, logp_ref_V = world.reward_V.float(), world.logp_ref_V.float()
    optimizer = torch.optim.AdamW(
        [*policy.parameters(), *objective.parameters()],
        lr=settings.learning_rate,
        betas=(0.9, settings.second_moment),
        weight_decay=settings.weight_decay,
    )
    falls_for = max(1.0, settings.steps - settings.constant_share * settings.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (settings.steps - step) / falls_for)
    )
    size = settings.batch_size
    draw = partial(torch.multinomial, num_samples=size, replacement=True, generator=generator)
    for _ in range(settings.steps):
        # 1. sample a batch, and fresh samples of the reference if the objective needs them
        logp_V = policy()
        token_B = draw(logp_V.detach().exp())
        of_prior = objective.needs_prior_samples
        logp_of_prior_P = logp_V[draw(logp_ref_V.exp())] if of_prior else None
        # 2. score it
        inputs = LossInputs(
            logp_policy=logp_V[token_B],
            logp_ref=logp_ref_V[token_B],
            reward=reward_V[token_B],
            logp_policy_of_prior=logp_of_prior_P,
        )
        # 3. estimate, 4. update
        loss = objective(inputs).loss
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        on_step()
    with torch.no_grad():
        return torch.softmax(policy().double(), dim=0)


# ---- experiments


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment:
    """One policy to train: E_pi[R] - beta KL between policy and reference, or a plain fit.

    Attributes:
        figure: number of the figure that shows it.
        world: the world it is trained in.
        kl: direction of the KL.
        beta: coefficient of the KL.
        target: gibbs, mara (Algorithm 2), or fixed (Fig. 1): the policy is fitted by a KL to the
            world's gibbs target.
        family: family of the policy.
    """

    figure: int
    world: World
    kl: KL
    beta: float = 1.0
    target: Literal["fixed", "gibbs", "mara"] = "gibbs"
    family: Family = "categorical"

    @property
    def name(self) -> str:
        """Name, unique within a figure."""
        if self.target == "fixed":
            return f"{self.family}, {self.kl} KL"
        return f"{self.target}, {self.kl} KL, beta {self.beta:g}"

    def objective(self, settings: LearningConfig) -> Objective:
        """Return a new objective; its anchor is that of each batch."""
        is_mara = self.target == "mara"
        target = Mara(beta=self.beta, tau=self.world.tau) if is_mara else Gibbs(beta=self.beta)
        if self.kl == "reverse":
            return build_objective(target, settings.reverse_estimator)
        if self.target == "fixed":  # KL(p || pi)
            return build_objective(target, "f_dpg", estimator_options={"divergence": "kl"})
        reference = "batch" if is_mara else settings.forward_reference
        return build_objective(target, "forward_kl", estimator_options={"reference": reference})

    def optimum(self) -> Tensor:
        """Return the exact optimum (V,), computed without sampling."""
        reward_V, logp_ref_V = self.world.reward_V, self.world.logp_ref_V
        if self.target == "mara":
            return mara_optimum(reward_V, logp_ref_V, self.beta, tau=self.world.tau, kl=self.kl)
        is_forward = self.kl == "forward" and self.target == "gibbs"
        formula = forward_kl_optimum if is_forward else reverse_kl_optimum
        p_V = formula(reward_V, logp_ref_V, self.beta)
        return p_V if self.family == "categorical" else nearest_gaussian(p_V, self.kl)


def nearest_gaussian(p_V: Tensor, kl: KL) -> Tensor:
    """Return the Gaussian (V,) of least KL(q || p) (reverse) or KL(p || q) (forward).

    Minimised from several starts; the lowest minimum counts.
    """

    def logq(parameters: Sequence[float]) -> Tensor:
        return gaussian_logp(p_V.numel(), *torch.tensor(parameters, dtype=p_V.dtype))

    def divergence(parameters: Sequence[float]) -> float:
        logq_V = logq(parameters)
        weight_V, sign = (logq_V.exp(), 1) if kl == "reverse" else (p_V, -1)
        return sign * float((weight_V * (logq_V - p_V.log())).sum())

    tolerances = {"xatol": 1e-10, "fatol": 1e-14}
    minima = [
        minimize(divergence, (mean, math.log(0.1)), method="Nelder-Mead", options=tolerances)
        for mean in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    return logq(min(minima, key=lambda minimum: float(minimum.fun)).x.tolist()).exp()


def experiments() -> list[Experiment]:
    """Return all experiments, figure by figure."""
    fit, modes, unequal, equal, blocks = (
        partial(Experiment, figure=figure, world=world) for figure, world in worlds().items()
    )
    kls: tuple[tuple[KL, float], ...] = (("reverse", 0.01), ("reverse", 1.0), ("forward", 1.0))
    return [
        fit(kl="reverse", target="fixed", family="gaussian"),
        fit(kl="forward", target="fixed", family="gaussian"),
        fit(kl="reverse", target="fixed"),
        fit(kl="forward", target="fixed"),
        *(modes(kl="reverse", beta=beta) for beta in (0.10, 0.132, 0.15, 0.5)),
        *(modes(kl="forward", beta=beta) for beta in (0.1, 0.3, 1.0, 3.0)),
        *(unequal(kl="reverse", beta=beta) for beta in (0.5, 0.05, 1e-3)),
        equal(kl="reverse", beta=1.0),
        equal(kl="reverse", beta=0.01),
        equal(kl="forward", beta=0.1),
        *(blocks(target="gibbs", kl=kl, beta=beta) for kl, beta in kls),
        *(blocks(target="mara", kl=kl, beta=beta) for kl, beta in kls),
    ]
