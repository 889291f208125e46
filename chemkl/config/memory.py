"""Settings of the memory of a post-training run: what it keeps, and what it gives back to learn."""

from typing import Literal

from pydantic import Field

from chemkl.config.base import Config
from chemkl.config.paths import DataPath

Draw = Literal["reward", "rank", "hits", "scaffolds", "uniform"]
Purge = Literal["worst", "oldest", "scaffold", "none"]


class MemorySeed(Config):
    """Molecules that a memory begins with; their origin is seed, and no metric counts them."""

    path: DataPath
    """The molecules: a file as `source.path` of prepare. Those that the prior cannot write
    are left out, and named at the start; of one that stands twice the first row counts."""
    column: str | int | None = None
    """Where the SMILES stand: a column's name, or its number from 0; null: the column called smiles
    or the like."""
    reward: str | None = None
    """Name of the column of their rewards, 0 to 1; these cost no call. null: they are scored when
    the run begins, a call of the budget each."""


class MemoryConfig(Config):
    """Remembers the molecules that a run has found, and replays some of them at each step.

    A molecule is kept once, by its canonical SMILES, with its raw reward and log pi_ref; target and
    diversity filter are asked anew whenever it is replayed, and it costs no call.
    """

    capacity: int = Field(1000, ge=1)
    """Molecules that it keeps at most, 1 or more. 100 in Augmented Memory."""
    rows: int | None = Field(None, ge=1)
    """Molecules that join each sampled batch, at most capacity; null: half of batch_size. Fewer
    join while there are fewer to draw."""
    draw: Draw = "reward"
    """Which ones, none twice in a batch. reward: with a chance in proportion to what the filter
    pays for them today; rank: in proportion to 1 / rank by that; hits: each hit of today alike;
    scaffolds: each scaffold of today's hits alike (of all molecules for a target without hits);
    uniform: each molecule alike, hit or not (REINVENT's inception)."""
    purge: Purge = "worst"
    """What leaves when it is full. worst: the lowest reward; oldest; scaffold: the lowest reward of
    the scaffold with the most molecules; none: nothing, and what comes later is not kept."""
    selective: bool = True
    """Molecules for which the diversity filter no longer pays anything leave first (the selective
    memory purge of Augmented Memory)."""
    seed: MemorySeed | None = Field(None, exclude_if=lambda seed: seed is None)
    """Molecules that it begins with, in a run of stages that of the first one alone; null: none."""
