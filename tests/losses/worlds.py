"""A language small enough to write down: every sequence of an autoregressive policy, by prefix.

Legend: S sequences; P prefixes that a next token is drawn after; V = 3 tokens a, b and the end
token $; N rows sampled.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor

TOKENS = "ab$"


@dataclass(frozen=True)
class World:
    """Sequences with rewards and a reference, in float64.

    A sequence ends with $, or without it once it is ``n_steps`` tokens long: 15 sequences and 7
    prefixes for three steps, 7 and 3 for two. A policy is a table of logits (P, V).
    """

    sequences: tuple[str, ...]
    prefixes: tuple[str, ...]
    reward: Tensor
    logp_ref: Tensor

    @classmethod
    def random(cls, seed: int, n_steps: int = 3, *, spread: float = 1.0) -> "World":
        """Rewards uniform in [0, 1); reference logits normal with the given standard deviation."""
        prefixes = tuple("".join(p) for n in range(n_steps) for p in product("ab", repeat=n))
        ended = tuple(prefix + "$" for prefix in prefixes)
        full = tuple("".join(p) for p in product("ab", repeat=n_steps))
        generator = torch.Generator().manual_seed(seed)
        nothing = torch.zeros(len(ended + full), dtype=torch.float64)
        blank = cls(ended + full, prefixes, nothing, nothing)
        reward = torch.rand(nothing.shape, dtype=torch.float64, generator=generator)
        logits = spread * torch.randn(blank.shape, dtype=torch.float64, generator=generator)
        return cls(ended + full, prefixes, reward, blank.logp(logits))

    @property
    def shape(self) -> tuple[int, int]:
        """(P, V) of a table of logits."""
        return len(self.prefixes), len(TOKENS)

    def logits(self, seed: int, *, spread: float = 1.0) -> Tensor:
        """A random policy that wants a gradient."""
        generator = torch.Generator().manual_seed(seed)
        table = spread * torch.randn(self.shape, dtype=torch.float64, generator=generator)
        return table.requires_grad_()

    @cached_property
    def taken(self) -> Tensor:
        """(S, P V), 1 where a sequence takes that token after that prefix."""
        table = torch.zeros((len(self.sequences), *self.shape), dtype=torch.float64)
        for row, sequence in enumerate(self.sequences):
            for t, token in enumerate(sequence):
                table[row, self.prefixes.index(sequence[:t]), TOKENS.index(token)] = 1
        return table.flatten(start_dim=1)

    def logp(self, logits: Tensor) -> Tensor:
        """The log-probability (S,) of every sequence: the sum over its tokens."""
        return self.taken @ torch.log_softmax(logits, dim=1).flatten()

    def logits_of(self, p: Tensor) -> Tensor:
        """The policy that has the given probabilities (S,), which sum to 1 and are above 0."""
        mass = (self.taken * p[:, None]).sum(dim=0).reshape(self.shape)
        return mass.log().requires_grad_()

    def sample(self, logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Places (N,) in ``sequences`` of n sequences drawn from the policy."""
        p = self.logp(logits.detach()).exp()
        return torch.multinomial(p, n, replacement=True, generator=generator)

    def expected_slope(self, per_row: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
        """The gradient (P, V) of a loss per row, (S,) to (S,), on rows that the policy samples.

        The probability of sampling a row is a weight without graph, as it is in training.
        """
        logp = self.logp(logits)
        return torch.autograd.grad((logp.detach().exp() * per_row(logp)).sum(), logits)[0]

    def batches(self, n_rows: int, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Every batch (N,) of rows drawn from p, up to the order of its rows, with its probability.

        The number of orders of a batch is the multinomial coefficient of its counts.
        """
        for rows in combinations_with_replacement(range(len(self.sequences)), n_rows):
            counts = Counter(rows).values()
            orders = factorial(n_rows) // prod(factorial(count) for count in counts)
            batch = torch.tensor(rows)
            yield batch, float(orders) * p[batch].prod()
