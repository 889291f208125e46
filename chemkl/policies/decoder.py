"""SMILES generators of residual blocks: a transformer, and a linear recurrence (minGRU).

Both compute all tokens of known sequences at once, and sample with a state: the keys and values of
the tokens so far, or the units of the recurrence.

Shape legend: B sequences, T new tokens, S tokens so far including the new ones, V vocabulary, D
hidden size, N heads, K size of a head, H units of a recurrence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.config import InputError
from chemkl.policies.base import Policy
from chemkl.policies.tokenizer import Vocabulary

State = tuple[Tensor, ...]
"""The state of a block, rows first: keys and values, or units."""
ROTARY_BASE = 10_000.0


class Block(nn.Module):
    """Pre-norm residual block: a mixer over the tokens, then a SwiGLU layer for each token.

    Args:
        size: hidden size.
        inner_size: units of the SwiGLU layer (Shazeer, arXiv 2002.05202).
        mixer: maps x_BTD and a state to the same shape and the next state.
        dropout: on both residual branches, in training mode only.
    """

    def __init__(self, size: int, inner_size: int, mixer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm_mixer, self.norm_inner = nn.RMSNorm(size), nn.RMSNorm(size)
        self.inner = nn.Linear(size, 2 * inner_size, bias=False)
        self.out = nn.Linear(inner_size, size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the output of the block, and its next state."""
        mixed_BTD, state = self.mixer(self.norm_mixer(x_BTD), state)
        x_BTD = x_BTD + self.dropout(mixed_BTD)
        gate, value = self.inner(self.norm_inner(x_BTD)).chunk(2, dim=-1)
        return x_BTD + self.dropout(self.out(functional.silu(gate) * value)), state


class Attention(nn.Module):
    """Causal attention with rotary positions (RoPE, Su et al., arXiv 2104.09864).

    Raises:
        InputError: the size is not a multiple of twice the number of heads.
    """

    def __init__(self, size: int, n_heads: int) -> None:
        super().__init__()
        if size % (2 * n_heads):
            raise InputError(
                f"hidden_size = {size} should be a multiple of {2 * n_heads}: "
                f"n_heads = {n_heads} heads share it, and a head rotates pairs of numbers"
            )
        self._n_heads = n_heads
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Attend from every token to itself and to earlier tokens."""
        q, k, v = self.qkv(x_BTD).unflatten(2, (3, self._n_heads, -1)).transpose(1, 3).unbind(2)
        n_before = state[0].shape[2] if state else 0
        q, k = rotated(q, n_before), rotated(k, n_before)
        if state:
            k, v = torch.cat([state[0], k], dim=2), torch.cat([state[1], v], dim=2)
        n_new, mask_TS = q.shape[2], None
        if n_before and n_new > 1:
            mask_TS = q.new_ones(n_new, k.shape[2], dtype=torch.bool).tril(n_before)
        device = q.device.type
        if device == "cpu":  # its attention in bfloat16 takes four times as long as in float32
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(device, enabled=device != "cpu" and torch.is_autocast_enabled(device)):
            mixed_BNTK = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask_TS, is_causal=not n_before
            )
        return self.out(mixed_BNTK.transpose(1, 2).flatten(2)), (k, v)


def rotated(x_BNTK: Tensor, start: int) -> Tensor:
    """Rotate each pair of numbers (i, i + K/2) by position / 10,000^(2i/K), from `start` on."""
    half = x_BNTK.shape[-1] // 2
    position_T = torch.arange(start, start + x_BNTK.shape[2], device=x_BNTK.device)
    rate_K = ROTARY_BASE ** (-torch.arange(half, device=x_BNTK.device) / half)
    angle_TK = position_T[:, None] * rate_K
    cos, sin = (f(angle_TK).to(x_BNTK.dtype) for f in (torch.cos, torch.sin))
    left, right = x_BNTK.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class MinGru(nn.Module):
    """A recurrence whose gates do not depend on its units (Feng et al., arXiv 2410.01201).

    h_t = (1 - z_t) h_(t-1) + z_t n_t with z_t = sigmoid(W_z x_t) and n_t = W_n x_t, h_0 = 0: the
    paper's vanilla minGRU (section 3.1). All products are over all tokens at once; only the
    interpolation is sequential. Two additions: an output gate, silu(W_g x_t), and an output matrix.
    """

    def __init__(self, size: int, n_units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(size, 3 * n_units)
        self.out = nn.Linear(n_units, size, bias=False)

    def forward(self, x_BTD: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Update the units token by token."""
        update, new, gate = self.gates(x_BTD).chunk(3, dim=-1)
        z, new = update.float().sigmoid().unbind(1), new.float().unbind(1)
        h_BH = state[0] if state else torch.zeros_like(new[0])
        units = []
        for z_BH, new_BH in zip(z, new, strict=True):
            h_BH = torch.lerp(h_BH, new_BH, z_BH)
            units.append(h_BH)
        return self.out(functional.silu(gate) * torch.stack(units, dim=1)), (h_BH,)


class DecoderPolicy(Policy):
    """Embedding, residual blocks, a norm and a linear layer.

    Args:
        vocabulary: the tokens.
        hidden_size: numbers that represent a token.
        n_layers: blocks.
        inner_size: units of a block's SwiGLU layer.
        dropout: on the residual branches, in training mode only.
        max_length: maximum length of a sampled sequence, end token included.
        **mixing: further arguments of the mixer.
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
            if weight.dim() == 2:  # residual branches start small, the more so in a deep network
                is_residual = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / (2 * n_layers) ** 0.5 if is_residual else 0.02)

    def forward(
        self, token_BT: Tensor, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """Return logits_BTV of the next token after each token, and the last state."""
        x_BTD = self.embedding(token_BT)
        states = []
        for i, block in enumerate(self.blocks):
            x_BTD, block_state = block(x_BTD, state[i] if state else None)
            states.append(block_state)
        return self.linear(self.norm(x_BTD)), states

    def select(self, state: list[State], keep_A: Tensor) -> list[State]:
        """Select rows of the states."""
        return [tuple(tensor[keep_A] for tensor in block_state) for block_state in state]


class TransformerPolicy(DecoderPolicy):
    """A decoder-only transformer with Llama's layers (RMSNorm, RoPE, SwiGLU)."""

    kind, mixer = "transformer", Attention

    def operations(self, n_tokens: float) -> float:
        """Return those of the weights and of the attention to the tokens so far."""
        pairs = n_tokens * (n_tokens + 1) / 2
        width = self.linear.in_features * len(self.blocks)
        return super().operations(n_tokens) + 4 * pairs * width


class MinGruPolicy(DecoderPolicy):
    """A linear recurrence, minGRU: parallel over known tokens, with a small state in sampling."""

    kind, mixer = "mingru", MinGru
