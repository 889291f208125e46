"""What every policy offers: it samples sequences, and it says how probable a sequence is.

Shape legend: B sequences, T tokens (start token included), V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chemkl.policies.tokenizer import END_ID, Vocabulary


@dataclass(frozen=True)
class Rollout:
    """Sequences sampled from a policy, one row each.

    Attributes:
        smiles: the text of each sequence; of a truncated one, the part that was sampled. A start
            token in the middle shows as ``^`` (no valid SMILES).
        tokens: token_BT, int64: start token, tokens, end token, then end tokens as padding.
        logp: logp_B, float32, nats: sum over the tokens, end token included.
        truncated: bool_B: the row reached the maximum length before its end token.
    """

    smiles: list[str]
    tokens: Tensor
    logp: Tensor
    truncated: Tensor

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.smiles)

    @property
    def n_tokens(self) -> Tensor:
        """Tokens of each row, end token included and start token not: int64_B."""
        return counted(self.tokens).sum(dim=1)

    def head(self, n: int) -> "Rollout":
        """Return the first n rows."""
        return Rollout(self.smiles[:n], self.tokens[:n], self.logp[:n], self.truncated[:n])


class Policy(nn.Module, ABC):
    """A distribution over SMILES that can be sampled, scored and (being a module) trained.

    Args:
        vocabulary: the tokens it speaks.
        max_length: most tokens of a sampled sequence, end token included.
    """

    def __init__(self, vocabulary: Vocabulary, *, max_length: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.max_length = max_length

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Its kind and the keyword arguments that build the same network: JSON values."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Rollout:
        """Draw n sequences; with a generator (on the CPU) the draw is reproducible."""

    @abstractmethod
    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def logp(self, smiles: Sequence[str]) -> Tensor:
        """Return log p of each SMILES: float32_B, nats, end token included.

        Raises:
            UnknownTokenError: a SMILES holds a token that the vocabulary does not know.
            TypeError: one string instead of several.
        """
        if isinstance(smiles, str):
            raise TypeError(f"logp takes several SMILES: write [{smiles!r}]")
        if not len(smiles):
            return torch.zeros(0, device=self.device)
        return self.logp_tokens(pad([self.vocabulary.encode(s) for s in smiles], self.device))


def counted(token_BT: Tensor) -> Tensor:
    """Mark the predicted positions that belong to a sequence: bool (B, T-1).

    Position t stands for token t + 1. The first end token counts, the padding behind it does not;
    a truncated row has no end token and counts whole.
    """
    is_end = token_BT[:, 1:] == END_ID
    return is_end.cumsum(dim=1) - is_end.long() == 0


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Stack rows of ids of unequal length into token_BT, filled up with the end token.

    No rows give the shape of no empty SMILES, (0, 2), which a network can still be run on.
    """
    width = max(map(len, rows), default=2)
    token_BT = torch.full((len(rows), width), END_ID, dtype=torch.long)
    for i, row in enumerate(rows):
        token_BT[i, : len(row)] = torch.as_tensor(row)
    return token_BT.to(device)


def sequence_logp(logits_BTV: Tensor, token_BT: Tensor) -> Tensor:
    """Sum the log-probabilities of the tokens of each sequence: float32_B, nats.

    The log-softmax is computed in float32 whatever the logits' type, and added up more widely: in
    float32 the sum would depend, in its last digits, on how much padding there is.

    Args:
        logits_BTV: scores of token t + 1 given the tokens up to t: (B, T-1, V).
        token_BT: ids with the start token: (B, T).

    Raises:
        ValueError: the shapes do not belong together.
    """
    if logits_BTV.shape[:2] != (token_BT.shape[0], token_BT.shape[1] - 1):
        raise ValueError(
            f"logits of shape {tuple(logits_BTV.shape)} do not predict tokens of shape "
            f"{tuple(token_BT.shape)}: expected (B, T-1, V) for (B, T)"
        )
    logp_BTV = logits_BTV.float().log_softmax(dim=-1)
    logp_BT = logp_BTV.gather(2, token_BT[:, 1:, None]).squeeze(2)
    return widened(logp_BT.masked_fill(~counted(token_BT), 0.0)).sum(dim=1).float()


def widened(tensor: Tensor) -> Tensor:
    """Turn a tensor into float64 where its device has that (Apple's GPUs do not)."""
    return tensor if tensor.device.type == "mps" else tensor.double()
