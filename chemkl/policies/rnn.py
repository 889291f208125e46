"""Recurrent SMILES generators: LSTM and GRU, REINVENT's architecture among them.

Shape legend: B sequences, A of them not ended yet, T tokens (start token included), V vocabulary,
H hidden units.
"""

from typing import Any, Literal

from torch import Tensor, nn

from chemkl.config import InputError, did_you_mean
from chemkl.policies.base import Policy
from chemkl.policies.tokenizer import Vocabulary

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

    def select(self, state: State, keep_A: Tensor) -> State:
        """Keep some rows of a state (layers, A, H)."""
        if isinstance(state, tuple):
            return state[0][:, keep_A].contiguous(), state[1][:, keep_A].contiguous()
        return state[:, keep_A].contiguous()
