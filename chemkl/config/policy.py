"""Settings of a policy's network."""

from typing import Literal

from pydantic import Field

from chemkl.config.base import Config


class RnnConfig(Config):
    """A recurrent generator; the defaults are REINVENT's architecture (5.8 million weights)."""

    kind: Literal["rnn"] = "rnn"
    """A stack of recurrent layers."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell."""
    embedding_size: int = Field(256, ge=1, le=65_536)
    """Numbers that stand for a token, 1 to 65,536."""
    hidden_size: int = Field(512, ge=1, le=65_536)
    """Units of each layer, 1 to 65,536."""
    n_layers: int = Field(3, ge=1, le=64)
    """Stacked layers, 1 to 64."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit between layers while training, 0 to 1."""
    max_length: int = Field(256, ge=2, le=65_536)
    """Most tokens of a sampled sequence, end token included; a longer one is truncated and counts
    as invalid."""
