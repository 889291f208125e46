"""Policies over V tokens, and their training on batches that they sample themselves.

Legend: B tokens of a batch; P fresh samples of the reference; V tokens.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from chemkl.didactic.config import LearningConfig
from chemkl.didactic.worlds import World, places
from chemkl.losses import LossInputs, Objective

Family = Literal["categorical", "gaussian"]


class Categorical(nn.Module):
    """A logit for every token: it can be any distribution. Starts uniform."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.logits_V = nn.Parameter(torch.zeros(n_tokens))

    def forward(self) -> Tensor:
        """Return log p (V,)."""
        return torch.log_softmax(self.logits_V, dim=0)


class Gaussian(nn.Module):
    """A mean and a deviation over the places i/(V-1): one mode, whatever the target has.

    Starts between the modes of Fig. 1. The reverse KL has several minima here: from a mean of 0.5
    and a deviation of 0.25 training ends on a wide one, from a mean of 0.7 on the lighter mode.

    Args:
        n_tokens: V.
        mean: to start from.
        deviation: to start from, above 0.
    """

    def __init__(self, n_tokens: int, mean: float = 0.5, deviation: float = 0.1) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.mean = nn.Parameter(torch.tensor(mean))
        self.log_deviation = nn.Parameter(torch.tensor(deviation).log())

    def forward(self) -> Tensor:
        """Return log p (V,)."""
        return gaussian_logp(places(self.n_tokens), self.mean, self.log_deviation)


def gaussian_logp(place_V: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return log p (V,) of a Gaussian, normalised over the places."""
    return torch.log_softmax(-0.5 * ((place_V - mean) / log_deviation.exp()) ** 2, dim=0)


def policy_of(family: Family, n_tokens: int) -> nn.Module:
    """Make the untrained policy of a family."""
    return Categorical(n_tokens) if family == "categorical" else Gaussian(n_tokens)


def learn(
    policy: nn.Module,
    world: World,
    objective: Objective,
    settings: LearningConfig,
    generator: Generator,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Train a policy, which gives log p (V,) when called, in place on its own samples.

    The objective sees rewards and reference at the sampled tokens only.

    Returns:
        The probabilities (V,) at the end, in float64.
    """
    reward_V, logp_ref_V = world.reward_V.float(), world.logp_ref_V.float()
    optimizer = torch.optim.AdamW(
        [*policy.parameters(), *objective.parameters()],
        lr=settings.learning_rate,
        betas=(0.9, settings.second_moment),
        weight_decay=settings.weight_decay,
    )
    falls_from = settings.constant_share * settings.steps
    falls_for = max(1.0, settings.steps - falls_from)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (settings.steps - step) / falls_for)
    )
    for _ in range(settings.steps):
        # 1. sample a batch, and what the reference would have sampled if it is asked for
        logp_V = policy()
        token_B = _draw(logp_V, settings.batch_size, generator)
        logp_of_prior_P = None
        if objective.needs_prior_samples:
            logp_of_prior_P = logp_V[_draw(logp_ref_V, settings.batch_size, generator)]
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


def _draw(logp_V: Tensor, n: int, generator: Generator) -> Tensor:
    return torch.multinomial(logp_V.detach().exp(), n, replacement=True, generator=generator)
