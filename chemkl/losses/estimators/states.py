"""What estimators remember from batch to batch: it is saved and restored with a run.

Legend: B rows of a batch, N groups.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from chemkl.losses.reductions import Groups


class State(Protocol):
    """What an objective needs of an estimator's memory."""

    def parameters(self) -> Iterator[Tensor]:
        """Return what the optimizer is to learn beside the policy."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a later run needs to continue."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""


class LearnedLogZ:
    """The learned log partition function: one number, trained by the optimizer with the policy.

    It starts at the first value that it is asked for, which is the batch's own estimate. The
    parameter is log Z / rate: an optimizer with steps of a given size, as Adam, moves log Z faster
    than the policy's weights by that factor.
    """

    def __init__(self) -> None:
        self._parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self._started = False

    def value(self, first: Tensor, rate: float) -> Tensor:
        """Return log Z, a float64 scalar with graph; ``first`` is where it starts."""
        if not self._started:
            with torch.no_grad():
                self._parameter.copy_(first.double() / rate)
            self._started = True
        return self._parameter * rate

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameter."""
        yield self._parameter

    def state_dict(self) -> dict[str, Any]:
        """Return the parameter and whether it has started."""
        return {"parameter": self._parameter.detach().clone(), "started": self._started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        with torch.no_grad():
            self._parameter.copy_(state["parameter"])
        self._started = bool(state["started"])


class AverageLogZ:
    """The moving average of the partition function, in the log domain, for each group number.

    Z of a group is the mean of exp(log_target - lp) over rows of the policy. The average gives the
    batch i steps back the weight decay^i, and is divided by the sum of the weights, so that it is
    not drawn to 0 in the beginning. The batch itself is part of it. Group numbers must keep their
    meaning from batch to batch; each one seen takes two numbers for good.
    """

    def __init__(self) -> None:
        self._log_sum: dict[int, float] = {}
        self._weight: dict[int, float] = {}

    def update(self, log_ratio_B: Tensor, groups: Groups, decay: float) -> Tensor:
        """Take a batch in; return log Z of each row's group: (B,), no graph; -inf without mass."""
        log_z_N = groups.log_mean_exp_N(log_ratio_B.detach()).tolist()
        ids = groups.ids_N.tolist()
        for group, log_z in zip(ids, log_z_N, strict=True):
            kept = torch.tensor([self._log_sum.get(group, -torch.inf), log_z], dtype=torch.float64)
            share = torch.tensor([decay, 1 - decay], dtype=torch.float64).log()
            self._log_sum[group] = float(torch.logsumexp(kept + share, dim=0))
            self._weight[group] = decay * self._weight.get(group, 0.0) + 1 - decay
        mean_N = torch.tensor([self._log_sum[g] for g in ids], dtype=torch.float64)
        mean_N = mean_N - torch.tensor([self._weight[g] for g in ids], dtype=torch.float64).log()
        return mean_N.to(log_ratio_B)[groups.index_B]

    def parameters(self) -> Iterator[Tensor]:
        """Return nothing: it is computed, not learned."""
        yield from ()

    def state_dict(self) -> dict[str, Any]:
        """Return group numbers, log sums and weights."""
        return {
            "group": torch.tensor(list(self._log_sum), dtype=torch.int64),
            "log_sum": torch.tensor(list(self._log_sum.values()), dtype=torch.float64),
            "weight": torch.tensor(list(self._weight.values()), dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        groups = state["group"].tolist()
        self._log_sum = dict(zip(groups, state["log_sum"].tolist(), strict=True))
        self._weight = dict(zip(groups, state["weight"].tolist(), strict=True))


class Chains:
    """The Markov chains of ``msc``: draws the row of each group that the next batch is to retain.

    It has random numbers of its own, so that a resumed run draws what it would have drawn.
    """

    def __init__(self) -> None:
        self._generator: torch.Generator | None = None
        self.carry_B: Tensor | None = None

    def draw(self, log_weight_B: Tensor, groups: Groups, seed: int) -> None:
        """Choose one row of each group with probability ~ exp(log_weight); none where all are -inf.

        Sets ``carry_B``, True at the chosen rows. The largest of log weight plus Gumbel noise is
        such a draw.
        """
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(seed)
        uniform_B = torch.rand(log_weight_B.numel(), generator=self._generator, dtype=torch.float64)
        gumbel_B = -(-uniform_B.clamp(min=1e-300).log()).log()
        noisy_B = log_weight_B.detach().double() + gumbel_B.to(log_weight_B.device)
        possible_B = log_weight_B > -torch.inf
        best_B = groups.max_N(noisy_B, possible_B)[groups.index_B]
        row_N = groups.first_row_N(possible_B & (noisy_B == best_B))
        row_B = torch.arange(log_weight_B.numel(), device=log_weight_B.device)
        self.carry_B = row_B == row_N[groups.index_B]

    def parameters(self) -> Iterator[Tensor]:
        """Return nothing."""
        yield from ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the random numbers; the sequences are kept by who sampled them."""
        return {} if self._generator is None else {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        if "generator" in state:
            self._generator = torch.Generator()
            self._generator.set_state(state["generator"])


STATES: dict[str, type[State]] = {
    "learned_log_z": LearnedLogZ,
    "average_log_z": AverageLogZ,
    "chains": Chains,
}
"""Memories by the name of the parameter with which an estimator asks for one of its own."""
