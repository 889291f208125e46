"""Finite worlds that are small enough to enumerate."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from chemkl.losses import LossInputs


@dataclass(frozen=True)
class World:
    """Every sequence of a space: its reward and its reference log-probability, in float64."""

    reward: Tensor
    logp_ref: Tensor


@pytest.fixture
def fig2() -> World:
    """Two Gaussian bumps of reward over 100 tokens under a reference that prefers the lower one."""
    place = torch.arange(100, dtype=torch.float64) / 99
    reward = 0.75 * torch.exp(-0.5 * ((place - 0.2) / 0.03) ** 2)
    reward = reward + torch.exp(-0.5 * ((place - 0.8) / 0.03) ** 2)
    logits = -0.0322 * torch.arange(100, dtype=torch.float64)
    return World(reward, torch.log_softmax(logits, dim=0))


@pytest.fixture
def fig5() -> World:
    """Reward 1 on two blocks of 25 of 100 tokens, under a reference that falls off steeply."""
    token = torch.arange(100)
    reward = ((token < 25) | ((token >= 50) & (token < 75))).double()
    return World(reward, torch.log_softmax(4 * torch.log1p(-token.double() / 100), dim=0))


@pytest.fixture
def small() -> World:
    """Four sequences, two of them with a reward above 0.5."""
    p_ref = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    return World(torch.tensor([0.2, 1.0, 0.0, 0.9], dtype=torch.float64), p_ref.log())


@pytest.fixture
def batch() -> LossInputs:
    """Six rows by hand, in float64; hits at tau 0.8 are rows 1, 2 and 4, row 2 is the anchor."""
    return LossInputs(
        logp_policy=torch.tensor(
            [-4.0, -6.0, -5.0, -9.0, -7.0, -3.0], dtype=torch.float64, requires_grad=True
        ),
        logp_ref=torch.tensor([-2.0, -8.0, -5.0, -3.0, -11.0, -4.0], dtype=torch.float64),
        reward=torch.tensor([0.1, 0.9, 0.8, 0.79, 1.0, 0.0], dtype=torch.float64),
    )
