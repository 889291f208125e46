"""Recurrent SMILES generators: LSTM and GRU, REINVENT's architecture among them.

Shape legend: B sequences, T tokens (start token included), V vocabulary, H hidden units.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chemkl.config import InputError, did_you_mean
from chemkl.policies.base import Policy, Rollout, sequence_logp, widened
from chemkl.policies.tokenizer import END_ID, START_ID, Vocabulary

State = tuple[Tensor, Tensor] | Tensor

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RnnPolicy(Policy):
    """Embedding, stacked LSTM or GRU cells, linear layer (REINVENT, arXiv 1704.07555).

    The defaults are REINVENT's: embedding 256, three layers of 512.

    Args:
        vocabulary: the tokens it speaks.
        cell: "lstm" or "gru".
        embedding_size: numbers per token.
        hidden_size: units per layer.
        n_layers: stacked layers.
        dropout: probability between layers, in training mode only.
        max_length: most tokens of a sampled sequence, end token included.

    Raises:
        InputError: an unknown cell.
    """

    kind = "rnn"

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        embedding_size: int = 256,
        hidden_size: int = 512,
        n_layers: int = 3,
        dropout: float = 0.0,
        max_length: int = 256,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length)
        if cell not in CELLS:
            raise InputError(f"cell: {cell!r} is not known{did_you_mean(str(cell), CELLS)}")
        self._sizes: dict[str, Any] = {
            "cell": cell,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "n_layers": n_layers,
            "dropout": dropout,
            "max_length": max_length,
        }
        self.embedding = nn.Embedding(len(vocabulary), embedding_size)
        self.rnn = CELLS[cell](
            embedding_size,
            hidden_size,
            num_layers=n_layers,
            dropout=dropout if n_layers > 1 else 0.0,
            batch_first=True,
        )
        self.linear = nn.Linear(hidden_size, len(vocabulary))

    @property
    def architecture(self) -> dict[str, Any]:
        """Keyword arguments that build the same network, and the kind of it."""
        return {"kind": self.kind, **self._sizes}

    def forward(self, token_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits_BTV of the next token after each given token, and the last state."""
        hidden_BTH, state = self.rnn(self.embedding(token_BT), state)
        return self.linear(hidden_BTH), state

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""
        logits_BTV, _ = self(token_BT[:, :-1])
        return sequence_logp(logits_BTV, token_BT)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Rollout:
        """Draw n sequences token by token; finished rows leave the batch.

        One uniform number per row and step is drawn whether the row is finished or not, so a row
        depends on the generator and on its index, not on when its neighbours end. Units are never
        dropped, in training mode neither.

        Args:
            n: how many.
            generator: a CPU generator; None uses torch's global one.
        """
        with _evaluating(self):
            token_BT, logp_B, truncated_B = self._sample(n, generator)
        width = 2 + int((token_BT[:, 1:] != END_ID).sum(dim=1).max()) if n else 2
        token_BT = token_BT[:, :width]
        smiles = [self.vocabulary.decode(row) for row in token_BT.tolist()]
        device = self.device
        return Rollout(smiles, token_BT.to(device), logp_B.to(device), truncated_B.to(device))

    def _sample(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return token_BT at full width, logp_B and truncated_B, all on the CPU."""
        token_BT = torch.full((n, self.max_length + 1), END_ID, dtype=torch.long)
        token_BT[:, 0] = START_ID
        logp_B = torch.zeros(n, dtype=torch.float64)
        active_A = torch.arange(n)  # indices of the rows that have not ended
        last_A = token_BT[:, 0].to(self.device)
        state: State | None = None
        for t in range(1, self.max_length + 1):
            if not len(active_A):
                break
            logits_A1V, state = self(last_A[:, None], state)
            logp_AV = logits_A1V[:, 0].float().log_softmax(dim=-1)
            uniform_B = torch.rand(n, generator=generator)
            last_A = _draw(logp_AV, uniform_B[active_A].to(self.device))
            logp_B[active_A] += logp_AV.gather(1, last_A[:, None]).squeeze(1).cpu().double()
            token_BT[active_A, t] = last_A.cpu()
            going_A = last_A != END_ID
            if not bool(going_A.all()):
                last_A, state = last_A[going_A], _select(state, going_A)
                active_A = active_A[going_A.cpu()]
        truncated_B = torch.zeros(n, dtype=torch.bool)
        truncated_B[active_A] = True
        return token_BT, logp_B.float(), truncated_B


def _draw(logp_AV: Tensor, uniform_A: Tensor) -> Tensor:
    """Pick a token per row by inverting the cumulative distribution: int64_A."""
    cumulative_AV = widened(logp_AV).exp().cumsum(dim=1)
    threshold_A1 = (widened(uniform_A) * cumulative_AV[:, -1])[:, None]
    token_A1 = torch.searchsorted(cumulative_AV, threshold_A1, right=True)
    return token_A1.squeeze(1).clamp_max(logp_AV.shape[1] - 1)


def _select(state: State, keep_A: Tensor) -> State:
    """Keep the rows of a recurrent state (layers, A, H)."""
    if isinstance(state, tuple):
        return state[0][:, keep_A].contiguous(), state[1][:, keep_A].contiguous()
    return state[:, keep_A].contiguous()


@contextmanager
def _evaluating(policy: Policy) -> Iterator[None]:
    """Put a policy into evaluation mode in this scope."""
    was_training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(was_training)
