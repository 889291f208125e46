"""SMILES generators made of residual blocks: a transformer, and a linear recurrence (minGRU).

Both compute all tokens of given sequences at once and sample with a state: the keys and values of
the tokens so far, or the units of the recurrence.

Shape legend: B sequences, T new tokens, S tokens so far with the new ones, V vocabulary, D numbers
that stand for a token, N heads, K numbers of a head, H units of a recurrence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.config import InputError
from chemkl.policies.base import Policy
from chemkl.policies.tokenizer import Vocabulary

State = tuple[Tensor, ...]
"""What a block keeps, rows first: keys and values, or units."""
ROTARY_BASE = 10_000.0


class Block(nn.Module):
    """Pre-norm residual block: tokens are mixed, then each is passed through a SwiGLU layer.

    Args:
        size: numbers that stand for a token.
        inner_size: units of the SwiGLU layer (Shazeer, arXiv 2002.05202).
        mixer: from x_BTD and its state to the same shape and the state behind it.
        dropout: of what either part adds, in training mode only.
    """

    def __init__(self, size: int, inner_size: int, mixer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm_mixer, self.norm_inner = nn.RMSNorm(size), nn.RMSNorm(size)
        self.inner = nn.Linear(size, 2 * inner_size, bias=False)
        self.out = nn.Linear(inner_size, size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the numbers of the tokens behind the block, and its state."""
        mixed_BTD, state = self.mixer(self.norm_mixer(x_BTD), state)
        x_BTD = x_BTD + self.dropout(mixed_BTD)
        gate, value = self.inner(self.norm_inner(x_BTD)).chunk(2, dim=-1)
        return x_BTD + self.dropout(self.out(functional.silu(gate) * value)), state


class Attention(nn.Module):
    """Causal attention with rotary positions (RoPE, Su et al., arXiv 2104.09864).

    Raises:
        InputError: the heads cannot share the size.
    """

    def __init__(self, size: int, n_heads: int) -> None:
        super().__init__()
        if size % (2 * n_heads):
            raise InputError(
                f"hidden_size = {size} should be a multiple of {2 * n_heads}: "
                f"n_heads = {n_heads} heads share it, and a head's positions come in pairs"
            )
        self._n_heads = n_heads
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Let every token look at itself and at those before it."""
        q, k, v = self.qkv(x_BTD).unflatten(2, (3, self._n_heads, -1)).transpose(1, 3).unbind(2)
        n_before = state[0].shape[2] if state else 0
        q, k = rotated(q, n_before), rotated(k, n_before)
        if state:
            k, v = torch.cat([state[0], k], dim=2), torch.cat([state[1], v], dim=2)
        n_new, mask_TS = q.shape[2], None
        if n_before and n_new > 1:
            mask_TS = q.new_ones(n_new, k.shape[2], dtype=torch.bool).tril(n_before)
        here = q.device.type
        if here == "cpu":  # whose attention in bfloat16 takes four times as long as in float32
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(here, enabled=here != "cpu" and torch.is_autocast_enabled(here)):
            mixed_BNTK = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask_TS, is_causal=not n_before
            )
        return self.out(mixed_BNTK.transpose(1, 2).flatten(2)), (k, v)


def rotated(x_BNTK: Tensor, start: int) -> Tensor:
    """Turn each pair of numbers (i, i + K/2) by position / 10,000^(2i/K), the first at `start`."""
    half = x_BNTK.shape[-1] // 2
    place_T = torch.arange(start, start + x_BNTK.shape[2], device=x_BNTK.device)
    rate_K = ROTARY_BASE ** (-torch.arange(half, device=x_BNTK.device) / half)
    angle_TK = place_T[:, None] * rate_K
    cos, sin = (f(angle_TK).to(x_BNTK.dtype) for f in (torch.cos, torch.sin))
    left, right = x_BNTK.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class MinGru(nn.Module):
    """A recurrence whose gates do not look at its units (Feng et al., arXiv 2410.01201).

    h_t = (1 - z_t) h_(t-1) + z_t n_t with z_t = sigmoid(W_z x_t) and n_t = W_n x_t, h_0 = 0: the
    paper's vanilla minGRU (section 3.1). All products are over all tokens at once; only the
    blending goes from token to token. Two additions: the units leave through a gate, silu(W_g x_t),
    and a matrix.
    """

    def __init__(self, size: int, n_units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(size, 3 * n_units)
        self.out = nn.Linear(n_units, size, bias=False)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Blend each token into the units."""
        keep, new, gate = self.gates(x_BTD).chunk(3, dim=-1)
        z, new = keep.float().sigmoid().unbind(1), new.float().unbind(1)
        h_BH = state[0] if state else torch.zeros_like(new[0])
        units = []
        for z_BH, new_BH in zip(z, new, strict=True):
            h_BH = torch.lerp(h_BH, new_BH, z_BH)
            units.append(h_BH)
        return self.out(functional.silu(gate) * torch.stack(units, dim=1)), (h_BH,)


class DecoderPolicy(Policy):
    """Embedding, residual blocks, a norm and a linear layer.

    Args:
        vocabulary: the tokens it speaks.
        hidden_size: numbers that stand for a token.
        n_layers: blocks.
        inner_size: units of a block's SwiGLU layer.
        dropout: of what a block adds, in training mode only.
        max_length: most tokens of a sampled sequence, end token included.
        **mixing: what the kind's mixer takes.
    """

    mixer: type[nn.Module]

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        hidden_size: int,
        n_layers: int,
        inner_size: int,
        dropout: float = 0.0,
        max_length: int = 256,
        **mixing: int,
    ) -> None:
        super().__init__(
            vocabulary,
            hidden_size=hidden_size,
            n_layers=n_layers,
            inner_size=inner_size,
            **mixing,
            dropout=dropout,
            max_length=max_length,
        )
        self.embedding = nn.Embedding(len(vocabulary), hidden_size)
        self.blocks = nn.ModuleList(
            Block(hidden_size, inner_size, self.mixer(hidden_size, **mixing), dropout)
            for _ in range(n_layers)
        )
        self.norm = nn.RMSNorm(hidden_size)
        self.linear = nn.Linear(hidden_size, len(vocabulary))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # what adds to the tokens starts small, the more so in a deep net
                adds = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / (2 * n_layers) ** 0.5 if adds else 0.02)

    def forward(
        self, token_BT: Tensor, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """Return logits_BTV of the next token after each given token, and the last state."""
        x_BTD = self.embedding(token_BT)
        states = []
        for i, block in enumerate(self.blocks):
            x_BTD, kept = block(x_BTD, state[i] if state else None)
            states.append(kept)
        return self.linear(self.norm(x_BTD)), states

    def select(self, state: list[State], keep_A: Tensor) -> list[State]:
        """Keep some rows of the states."""
        return [tuple(kept[keep_A] for kept in of_block) for of_block in state]


class TransformerPolicy(DecoderPolicy):
    """A decoder-only transformer: Llama's layers (RMSNorm, RoPE, SwiGLU) of torch's parts."""

    kind, mixer = "transformer", Attention

    def operations(self, n_tokens: float) -> float:
        """Return those of a pass; each token's attention reads the keys and values so far."""
        pairs = n_tokens * (n_tokens + 1) / 2
        wide = self.linear.in_features * len(self.blocks)
        return super().operations(n_tokens) + 4 * pairs * wide


class MinGruPolicy(DecoderPolicy):
    """A linear recurrence, minGRU: parallel over the tokens of what is given, small in sampling."""

    kind, mixer = "mingru", MinGru
