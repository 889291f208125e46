"""Recurrent SMILES generators: LSTM and GRU, REINVENT's architecture among them.

Shape legend: B sequences, A of them not ended yet, T tokens (start token included), V vocabulary,
H hidden units.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from chemkl.config import InputError, did_you_mean
from chemkl.policies.base import FixedTokens, Policy, draw
from chemkl.policies.lstm import Cells, logp_of_walk
from chemkl.policies.tokenizer import END_ID, START_ID, Vocabulary

State = tuple[Tensor, Tensor] | Tensor

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}

_FROZEN: "WeakKeyDictionary[RnnPolicy, tuple[Any, Cells]]" = WeakKeyDictionary()
"""Packed weights of frozen policies, with the identity of the weights they were made from."""
_STAYING: "ContextVar[dict[tuple[RnnPolicy, torch.dtype], Cells] | None]" = ContextVar("staying")
"""Packed weights of trainable policies within `weights_stay`."""
_SPARE: "WeakKeyDictionary[RnnPolicy, list[Tensor]]" = WeakKeyDictionary()
"""Memory of each policy for its next passes."""


class RnnPolicy(Policy):
    """Embedding, stacked LSTM or GRU cells, linear layer (REINVENT, arXiv 1704.07555).

    The defaults are REINVENT's: embedding 256, three layers of 512.

    Args:
        vocabulary: the tokens.
        cell: "lstm" or "gru".
        embedding_size: numbers per token.
        hidden_size: units per layer.
        n_layers: stacked layers.
        projection_size: to which an LSTM's hidden units are projected; None: no projection.
        dropout: probability between layers, in training mode only.
        max_length: maximum length of a sampled sequence, end token included.

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
        projection_size: int | None = None,
        dropout: float = 0.0,
        max_length: int = 256,
    ) -> None:
        projects = projection_size is not None
        super().__init__(
            vocabulary,
            cell=cell,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            n_layers=n_layers,
            dropout=dropout,
            max_length=max_length,
            **({"projection_size": projection_size} if projects else {}),
        )
        if cell not in CELLS:
            raise InputError(f"cell: {cell!r} is not known{did_you_mean(str(cell), CELLS)}")
        self.embedding = nn.Embedding(len(vocabulary), embedding_size)
        self.rnn = CELLS[cell](
            embedding_size,
            hidden_size,
            num_layers=n_layers,
            dropout=dropout if n_layers > 1 else 0.0,
            batch_first=True,
            **({"proj_size": projection_size} if projects else {}),
        )
        self.linear = nn.Linear(projection_size or hidden_size, len(vocabulary))

    def forward(self, token_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits_BTV of the next token after each token, and the last state."""
        with in_float32(token_BT.device):
            hidden_BTH, state = self.rnn(self.embedding(token_BT), state)
        return self.linear(hidden_BTH), state

    def select(self, state: State, keep_A: Tensor) -> State:
        """Select rows of a state (layers, A, H)."""
        if isinstance(state, tuple):
            return state[0][:, keep_A].contiguous(), state[1][:, keep_A].contiguous()
        return state[:, keep_A].contiguous()

    def logp_tokens(self, token_BT: Tensor, fixed: FixedTokens | None = None) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""
        cells = self._cells()
        if cells is None:
            return super().logp_tokens(token_BT, fixed)
        return logp_of_walk(cells, partial(cells.read, token_BT, fixed=fixed))

    def _sample(
        self, uniform_TB: Tensor, fixed: FixedTokens | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        cells = self._cells()
        if cells is None:
            return super()._sample(uniform_TB, fixed)
        token_BT = torch.full((uniform_TB.shape[1], self.max_length + 1), END_ID)
        token_BT[:, 0] = START_ID

        def choose(t: int, row_A: Tensor, logp_AV: Tensor) -> Tensor:
            token_A = draw(logp_AV, uniform_TB[t - 1].index_select(0, row_A))
            if fixed is not None:
                token_A = fixed.insert(t, row_A, token_A)
            token_BT[row_A, t] = token_A
            return token_A

        walk = partial(cells.walk, token_BT[:, 0], self.max_length, choose, fixed=fixed)
        logp_B = logp_of_walk(cells, walk)
        return token_BT, logp_B, ~(token_BT[:, 1:] == END_ID).any(dim=1)

    def _cells(self) -> Cells | None:
        """Return the weights packed for the CPU; None: use torch's layers."""
        weight = self.embedding.weight
        has_dropout = self.training and self.rnn.dropout > 0
        on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
        if not isinstance(self.rnn, nn.LSTM) or self.rnn.proj_size or has_dropout or not on_cpu:
            return None
        is_autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_autocast else weight.dtype
        pack = partial(
            Cells, self.embedding, self.rnn, self.linear, dtype, _SPARE.setdefault(self, [])
        )
        if any(weight.requires_grad for weight in self.parameters()):
            staying = _STAYING.get(None)
            if staying is None:
                return pack()
            if (self, dtype) not in staying:
                staying[self, dtype] = pack()
            return staying[self, dtype]
        key = (dtype, *((weight.data_ptr(), weight._version) for weight in self.parameters()))
        last_key, cells = _FROZEN.get(self, (None, None))
        if cells is None or last_key != key:
            cells = pack()
            _FROZEN[self] = key, cells
        return cells


@contextmanager
def weights_stay() -> Iterator[None]:
    """Promise that no weight changes in this scope: trainable networks pack theirs once in it.

    Torch does not count the steps of a fused Adam as changes, so they cannot be detected.
    """
    token = _STAYING.set({})
    try:
        yield
    finally:
        _STAYING.reset(token)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast for recurrent layers on a GPU in this scope.

    cuDNN would cast them to float16, whatever autocast's type, and their gradient underflows in it
    without loss scaling.
    """
    return torch.autocast("cuda", enabled=False) if device.type == "cuda" else nullcontext()
