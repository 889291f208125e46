"""The interface of policies: sample sequences, and compute log-probabilities.

Shape legend: B sequences, A of them not ended yet, T tokens (start token included), V vocabulary.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.config import InputError, did_you_mean
from chemkl.policies.tokenizer import END_ID, START_ID, Vocabulary

ALL = slice(None)
"""All rows."""
CUT_OFF = -(1 << 40)
"""Marks the end of a row of several rounds that was truncated, in place of its end token."""
CHECK_EVERY = {"cpu": 1}
"""Tokens between checks for ended rows, by the kind of device; 16 on others."""


@dataclass(frozen=True)
class Written:
    """The part of a row that the policy chose, where other tokens were fixed."""

    completion: str  # the chosen text, rounds joined by |
    problem: str | None  # why the row is invalid whatever its text; None: no such reason


@dataclass(frozen=True)
class Rollout:
    """Sequences sampled from a policy, one row each."""

    # the text of each sequence; of a truncated one, the part that was sampled. A start token in the
    # middle shows as ``^`` (no valid SMILES)
    smiles: list[str]
    tokens: Tensor  # token_BT, int64: start token, tokens, end token, then end tokens as padding
    logp: Tensor  # logp_B, float32, nats: sum over the tokens, end token included
    truncated: Tensor  # bool_B: the row reached the maximum length before its end token
    # int64_B: the number of the prompt that the row answers; None: there are no prompts
    group: Tensor | None = None
    end_id: int = END_ID  # the id of the end token
    # the chosen part of each row, if some of its tokens were fixed
    written: list[Written] | None = None

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.smiles)

    @property
    def texts(self) -> list[str]:
        """An alias of `smiles`, for language models."""
        return self.smiles

    @property
    def n_tokens(self) -> Tensor:
        """Sampled tokens of each row, end token included: int64_B."""
        counts_BT = counted(self.tokens, self.end_id) & (self.tokens[:, 1:] >= -START_ID)
        return counts_BT.sum(dim=1)

    def head(self, n: int) -> "Rollout":
        """Return the first n rows."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "end_id"}
        first: dict[str, Any] = {k: None if v is None else v[:n] for k, v in columns.items()}
        return replace(self, **first)


class SequenceModel(nn.Module, ABC):
    """A distribution over rows of token ids that can be sampled, scored and trained.

    The interface that post-training needs of a policy and of its reference.
    """

    @abstractmethod
    def sample(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw n sequences, or `part` of them.

        Rows depend on the state of the generator (on the CPU) and on their index, not on `part`:
        several processes share a batch by drawing a part each.
        """

    def sample_to_learn(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw as `sample` does; logp has a graph if that is cheaper than `logp_tokens`."""
        return self.sample(n, generator, part)

    @abstractmethod
    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def memory(self) -> dict[str, Tensor]:
        """Return the state, other than weights, that a bit-exact resume needs."""
        return {}

    def restore_memory(self, memory: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``memory``."""
        if memory:
            raise ValueError(f"{type(self).__name__} has no memory, but got {list(memory)}")


class Policy(SequenceModel):
    """A distribution over SMILES that can be sampled, scored and (being a module) trained.

    A subclass defines its constructor's arguments (`sizes`), the next-token logits (`forward`) and
    the selection of rows of its state (`select`); this class samples and scores with them.

    Args:
        vocabulary: the tokens.
        max_length: maximum length of a sampled sequence, end token included.
        **sizes: the other keyword arguments that build the same network.
    """

    kind: str

    def __init__(self, vocabulary: Vocabulary, *, max_length: int, **sizes: Any) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.max_length = max_length
        self._sizes = {**sizes, "max_length": max_length}

    @property
    def architecture(self) -> dict[str, Any]:
        """Its kind and the keyword arguments that build the same network: JSON values."""
        return {"kind": self.kind, **self._sizes}

    @abstractmethod
    def forward(self, token_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return logits_BTV of the next token after each one, and the state after the last.

        Args:
            token_BT: ids that continue the sequences of the state.
            state: returned by an earlier call; None at the start of the sequences.
        """

    @abstractmethod
    def select(self, state: Any, keep_A: Tensor) -> Any:
        """Select rows of a state: bool_A."""

    def operations(self, n_tokens: float) -> float:
        """Return the floating-point operations of a pass over a sequence.

        Counts the matrix products: two operations per weight and token. Embedding look-ups and
        element-wise operations are not counted.
        """
        looked_up = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        matrices = (w for w in self.parameters() if w.dim() == 2 and id(w) not in looked_up)
        return 2 * n_tokens * sum(weight.numel() for weight in matrices)

    def logp_tokens(self, token_BT: Tensor, fixed: "FixedTokens | None" = None) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable.

        Args:
            token_BT: ids with the start token.
            fixed: the fixed tokens, which do not count.
        """
        logits_BTV, _ = self(token_BT[:, :-1])
        if fixed is not None:
            place_T = torch.arange(1, token_BT.shape[1], device=token_BT.device)
            logits_BTV = fixed.barred(place_T, ALL, logits_BTV)
        return sequence_logp(logits_BTV, token_BT, fixed=fixed)

    def complete(
        self, uniform_TB: Tensor, fixed: "FixedTokens | None" = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the tokens after the fixed ones, by inverting the CDF at numbers of [0, 1).

        Returns:
            token_BT at full width, fixed tokens included; logp_B of the drawn tokens, with its
            graph if that is cheaper than `logp_tokens`; truncated_B.
        """
        was_training = {module: module.training for module in self.modules()}
        self.eval()
        try:
            return self._sample(uniform_TB, fixed)
        finally:
            for module, mode in was_training.items():
                module.training = mode

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw n sequences token by token; finished rows leave the batch.

        One uniform number per row and step is drawn ahead, whether or not the row will have ended,
        so a row depends on the generator and on its index, not on when other rows end. There is no
        dropout, even in training mode.

        Args:
            n: how many.
            generator: a CPU generator; None uses torch's global one.
            part: which of the n rows to draw.
        """
        return self.sample_to_learn(n, generator, part)

    def sample_to_learn(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw as `sample` does; logp has the graph of `complete`, if any."""
        uniform_TB = torch.rand(self.max_length, n, generator=generator)[:, part]
        token_BT, logp_B, truncated_B = self.complete(uniform_TB)
        width = 2 + int((token_BT[:, 1:] != END_ID).sum(dim=1).max()) if len(token_BT) else 2
        token_BT = token_BT[:, :width]
        smiles = [self.vocabulary.decode(row) for row in token_BT.tolist()]
        device = self.device
        return Rollout(smiles, token_BT.to(device), logp_B.to(device), truncated_B.to(device))

    @torch.no_grad()
    def _sample(
        self, uniform_TB: Tensor, fixed: "FixedTokens | None" = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return token_BT at full width, logp_B and truncated_B; see `complete`.

        Checking for ended rows makes the host wait for a GPU, so on a GPU it is done every few
        tokens; until then ended rows stay in the batch and draw end tokens.
        """
        n_steps, n = uniform_TB.shape
        check_every = CHECK_EVERY.get(self.device.type, 16)
        if self.device.type == "cuda":  # the host continues while the copy is under way
            uniform_TB = uniform_TB.pin_memory()
        uniform_TB = uniform_TB.to(self.device, non_blocking=self.device.type == "cuda")
        token_BT = torch.full((n, n_steps + 1), END_ID, device=self.device)
        token_BT[:, 0] = START_ID
        logp_B = widened(torch.zeros(n, device=self.device))
        row_A = torch.arange(n, device=self.device)  # the rows in the batch
        last_A, ended_A = token_BT[:, 0], torch.zeros_like(row_A, dtype=torch.bool)
        state: Any = None
        for t in range(1, n_steps + 1):
            if not len(row_A):
                break
            logits_A1V, state = self(last_A[:, None], state)
            logits_AV = logits_A1V[:, 0].float()
            if fixed is not None:
                logits_AV = fixed.barred(t, row_A, logits_AV)
            logp_AV = logits_AV.log_softmax(dim=-1)
            drawn_A = draw(logp_AV, uniform_TB[t - 1].index_select(0, row_A))
            if fixed is not None:
                drawn_A = fixed.insert(t, row_A, drawn_A)
            last_A = drawn_A.masked_fill(ended_A, END_ID)
            token_BT[row_A, t] = last_A
            logp_A = logp_AV.gather(1, last_A[:, None]).squeeze(1).masked_fill(ended_A, 0.0)
            if fixed is not None:
                logp_A = logp_A * fixed.is_free(t, row_A)
            logp_B.index_add_(0, row_A, logp_A.to(logp_B))
            ended_A = ended_A | (last_A == END_ID)
            if t % check_every == 0 and bool(ended_A.any()):
                active_A = ~ended_A
                row_A, last_A, ended_A = row_A[active_A], last_A[active_A], ended_A[active_A]
                state = self.select(state, active_A)
        truncated_B = ~(token_BT[:, 1:] == END_ID).any(dim=1)
        return token_BT, logp_B.float(), truncated_B

    def logp(self, smiles: Sequence[str]) -> Tensor:
        """Return log p of each SMILES: float32_B, nats, end token included.

        The value is that of the encoding by `Vocabulary.encode`. With fragments as tokens a SMILES
        has several encodings: the logp of a rollout is that of the sampled tokens, and each is a
        lower bound of the log-probability of the SMILES over all encodings.

        Raises:
            UnknownTokenError: a SMILES has a token that is not in the vocabulary.
            TypeError: one string instead of several.
        """
        if isinstance(smiles, str):
            raise TypeError(f"logp takes several SMILES: write [{smiles!r}]")
        if not len(smiles):
            return torch.zeros(0, device=self.device)
        return self.logp_tokens(pad([self.vocabulary.encode(s) for s in smiles], self.device))


@dataclass(frozen=True)
class FixedTokens:
    """The fixed tokens at the start of rows, and the tokens that are barred right after them."""

    token_BT: Tensor  # ids with the start token
    n_B: Tensor  # how many are fixed, start token not included
    bar_V: Tensor  # bool: the tokens of the vocabulary that cannot come next

    def is_free(self, t: int | Tensor, row_A: Tensor | slice = ALL) -> Tensor:
        """Whether token t of each row is not fixed; of several t: bool (A, T)."""
        n_A = self.n_B[row_A]
        return (n_A[:, None] if isinstance(t, Tensor) else n_A) < t

    def insert(self, t: int, row_A: Tensor, drawn_A: Tensor) -> Tensor:
        """Return token t of each row: the fixed token if there is one, else the drawn one."""
        fixed_A = self.token_BT[row_A, min(t, self.token_BT.shape[1] - 1)]
        return torch.where(self.is_free(t, row_A), drawn_A, fixed_A)

    def barred(self, t: int | Tensor, row_A: Tensor | slice, logits: Tensor) -> Tensor:
        """Mask barred tokens in the logits (A, V) of token t, or (A, T, V) of several t."""
        is_first = self.is_free(t, row_A) & ~self.is_free(t - 1, row_A)
        return logits.masked_fill(is_first[..., None] & self.bar_V, -torch.inf)


def counted(token_BT: Tensor, end_id: int = END_ID) -> Tensor:
    """Mark the predicted positions that belong to a sequence: bool (B, T-1).

    Position t stands for token t + 1. The first end token counts, the padding after it does not;
    all positions of a truncated row count.
    """
    is_end = (token_BT[:, 1:] == end_id) | (token_BT[:, 1:] == CUT_OFF)
    return is_end.cumsum(dim=1) - is_end.long() == 0


def joined(upper_BT: Tensor, lower_BT: Tensor, end_id: int = END_ID) -> Tensor:
    """Stack two sets of rows of ids of unequal width; the narrower is padded with the end token."""
    width = max(upper_BT.shape[1], lower_BT.shape[1])
    parts = [functional.pad(t, (0, width - t.shape[1]), value=end_id) for t in (upper_BT, lower_BT)]
    return torch.cat(parts)


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Stack rows of ids of unequal length into token_BT, padded with the end token.

    Without rows the shape is (0, 2), on which a network can be run.
    """
    width = max(map(len, rows), default=2)
    token_BT = torch.full((len(rows), width), END_ID, dtype=torch.long)
    for i, row in enumerate(rows):
        token_BT[i, : len(row)] = torch.as_tensor(row)
    return token_BT.to(device)


def sequence_logp(
    logits_BTV: Tensor,
    token_BT: Tensor,
    end_id: int = END_ID,
    fixed: FixedTokens | None = None,
) -> Tensor:
    """Sum the log-probabilities of the tokens of each sequence: float32_B, nats.

    The log-softmax is computed in float32 whatever the logits' type, and summed in float64: in
    float32 the last digits of the sum would depend on the amount of padding. Logits are those of
    token t + 1 given the tokens up to t: (B, T-1, V) for ids with the start token (B, T). Fixed
    tokens do not count.

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
    counts_BT = counted(token_BT, end_id)
    if fixed is not None:
        place_T = torch.arange(1, token_BT.shape[1], device=token_BT.device)
        counts_BT = counts_BT & fixed.is_free(place_T)
    return widened(logp_BT.masked_fill(~counts_BT, 0.0)).sum(dim=1).float()


def widened(tensor: Tensor) -> Tensor:
    """Convert a tensor to float64 if its device has it (Apple's GPUs do not)."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def draw(logp_AV: Tensor, uniform_A: Tensor) -> Tensor:
    """Pick a token per row by inverting the cumulative distribution: int64_A."""
    cumulative_AV = widened(logp_AV).exp().cumsum(dim=1)
    threshold_A1 = (widened(uniform_A) * cumulative_AV[:, -1])[:, None]
    token_A1 = torch.searchsorted(cumulative_AV, threshold_A1, right=True)
    return token_A1.squeeze(1).clamp_max(logp_AV.shape[1] - 1)


def stream(seed: int, step: int, rank: int = 0, purpose: str = "") -> torch.Generator:
    """Return a CPU generator for one step of one process.

    Args:
        seed: of the run.
        step: of the training, from 0.
        rank: of the process.
        purpose: of the numbers; each purpose has a stream of its own.
    """
    name = f"{seed}/{step}/{rank}{purpose}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))


# ---- device

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of device to suggest; others of torch's may work as well."""
ALIASES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}
"""Other names of devices, for suggestions."""


def check_device(device: str) -> None:
    """Write a number to a device and read it back.

    Raises:
        InputError: there is no such device here, or it cannot be used.
    """
    name = device.partition(":")[0].strip().lower()
    problem = f"no such device{did_you_mean(ALIASES.get(name, name), DEVICES)}"
    try:
        torch.device(device)
        problem = ""
        torch.zeros(1, device=device).item()
    except (RuntimeError, ValueError, AssertionError, ImportError) as error:
        why = problem or str(error).splitlines()[0]
        raise InputError(f"device: {device!r} cannot be used here: {why}") from None
