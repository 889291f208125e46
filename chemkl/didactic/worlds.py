"""The worlds: all tokens there are, each with its reward and its probability under the reference.

Legend: V tokens, each a whole sequence. Rewards and references are those of GX-Chen et al., arXiv
2510.20817, but for Fig. 1, see ``bimodal``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

N_TOKENS = 100
MODES = (20, 79)
"""The tokens nearest to the peaks of ``two_modes``; the second has the higher reward."""
BLOCKS = ((0, 25), (50, 75))
"""First token and the one past the last of the two blocks of hits of ``two_blocks``."""


@dataclass(frozen=True, eq=False)
class World:
    """Reward (V,) and log pi_ref (V,) in float64, pi_ref normalised; tau where hits are flattened.

    Attributes:
        reward_V: R of each token.
        logp_ref_V: its log-probability under the reference, nats.
        tau: reward from which on a token is a hit; None: the world has no hit test.
    """

    reward_V: Tensor
    logp_ref_V: Tensor
    tau: float | None = None

    @property
    def n_tokens(self) -> int:
        """V."""
        return self.reward_V.numel()

    @property
    def hit_V(self) -> Tensor:
        """Whether each token is a hit."""
        if self.tau is None:
            return torch.zeros_like(self.reward_V, dtype=torch.bool)
        return self.reward_V >= self.tau


def bimodal(share: float = 0.6) -> World:
    """Fig. 1: a fixed distribution with two modes, as the reward log p under a uniform reference.

    At beta = 1 its gibbs target is p itself. The paper shows such a target without its numbers;
    here it is 0.6 N(0.3, 0.06^2) + 0.4 N(0.7, 0.06^2) at the places i/99.
    """
    place_V = places(N_TOKENS, torch.float64)
    log_p_V = torch.logaddexp(
        torch.tensor(share).double().log() - 0.5 * ((place_V - 0.3) / 0.06) ** 2,
        torch.tensor(1 - share).double().log() - 0.5 * ((place_V - 0.7) / 0.06) ** 2,
    )
    return World(torch.log_softmax(log_p_V, dim=0), _uniform_V(N_TOKENS))


def two_modes() -> World:
    """Fig. 2: peaks of reward 0.75 and 1; the reference prefers the lower one."""
    place_V = places(N_TOKENS, torch.float64)
    reward_V = 0.75 * torch.exp(-0.5 * ((place_V - 0.2) / 0.03) ** 2)
    reward_V = reward_V + torch.exp(-0.5 * ((place_V - 0.8) / 0.03) ** 2)
    slope_V = -0.0322 * torch.arange(N_TOKENS, dtype=torch.float64)
    return World(reward_V, torch.log_softmax(slope_V, dim=0))


def unequal_rewards() -> World:
    """Fig. 3: rewards 0, 0.9 and 1 under a uniform reference."""
    return World(torch.tensor([0.0, 0.9, 1.0], dtype=torch.float64), _uniform_V(3))


def equal_rewards() -> World:
    """Fig. 4: two answers of reward 1, one of them 15 times as likely under the reference."""
    p_ref_V = torch.tensor([0.68, 0.30, 0.02], dtype=torch.float64)
    return World(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64), p_ref_V.log())


def two_blocks() -> World:
    """Fig. 5: reward 1 on two blocks of 25 tokens, under a reference that falls off steeply."""
    token_V = torch.arange(N_TOKENS)
    reward_V = torch.zeros(N_TOKENS, dtype=torch.float64)
    for first, end in BLOCKS:
        reward_V[first:end] = 1
    logits_V = 4 * torch.log1p(-token_V.double() / N_TOKENS)
    return World(reward_V, torch.log_softmax(logits_V, dim=0), tau=1.0)


def places(n_tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where each token lies (V,), from 0 to 1."""
    return torch.arange(n_tokens, dtype=dtype) / (n_tokens - 1)


def _uniform_V(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64).log()
