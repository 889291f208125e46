"""Settings of memory and exploration: what a run keeps, and the molecules that are made of it."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from chemkl.config.base import Config
from chemkl.config.paths import DataPath

Draw = Literal["reward", "rank", "hits", "scaffolds", "uniform"]
Purge = Literal["worst", "oldest", "scaffold", "none"]
Screen = Literal["none", "prior", "surrogate"]


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
    """Molecules for which the diversity filter no longer pays anything leave at once, full or not
    (the selective memory purge of Augmented Memory); false: rank and uniform still draw them."""
    repeats: bool = Field(True, exclude_if=lambda repeats: repeats)
    """Whether molecules that a sample repeats are still replayed. false: such a one leaves for
    good, since the policy needs no reminder of it."""
    seed: MemorySeed | None = Field(None, exclude_if=lambda seed: seed is None)
    """Molecules that it begins with, in a run of stages that of the first one alone; null: none."""


class Shares(Config):
    """How often each operator is tried; they need not sum to 1. Those that are not named get 0."""

    crossover: float = Field(0.25, ge=0)
    """A part of one molecule joined with a part of another one."""
    mutation: float = Field(0.125, ge=0)
    """An atom, a bond or a ring of one inserted, deleted or changed."""
    neighbour: float = Field(0.125, ge=0)
    """A mutation that stays similar to its parent: Tanimoto similarity of 0.5 or more."""
    fragments: float = Field(0.5, ge=0)
    """A piece of one molecule joined with a piece of another one, at bonds that chemists can make
    (BRICS)."""
    prior: float = Field(0, ge=0, exclude_if=lambda share: not share)
    """A sample of the prior, which has no parent."""

    @model_validator(mode="before")
    @classmethod
    def _unnamed_get_0(cls, given: Any) -> Any:
        is_some = isinstance(given, dict) and given
        return dict.fromkeys(cls.model_fields, 0) | given if is_some else given

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one operator at least."""
        if not any(self.model_dump().values()):
            names = ", ".join(type(self).model_fields)
            yield "", f"all are 0 ({names}; those that are not named are): give one of them a share"


class ExplorationConfig(Config):
    """Spends some calls on molecules made of the memory's best.

    They are children of the molecules that the diversity filter pays most for today, by the genetic
    operators of graph GA or by BRICS, or samples of the prior. Each costs its call, joins the batch
    of its step, and enters the memory.
    """

    calls: int = Field(16, ge=1, le=1_000)
    """Calls each time, 1 to 1,000; fewer where not so many new molecules are found, and where the
    budget ends."""
    every: int = Field(12, ge=1)
    """It explores every so many steps: many calls at once take less time than as many in as many
    steps."""
    proposals_per_call: int = Field(2, ge=1, le=1_000)
    """Molecules made for each of these calls, of which the screen chooses one; 1 to 1,000. One
    takes about 3 ms, of fragments 1."""
    screen: Screen = "surrogate"
    """Which ones. none: as they come; prior: the likeliest under the prior; surrogate: those for
    which a random forest on what was paid so far expects most, times the share that the diversity
    filter would pay (extra sklearn). What it would pay nothing for is never chosen."""
    parents: int = Field(100, ge=1)
    """So many molecules of the memory are parents, alike: those that are paid most today."""
    shares: Shares = Shares()
    """How often each operator is tried: crossover, mutation, neighbour, fragments, prior; those
    that are not named, never."""
    optimism: float = Field(1.0, ge=0)
    """The forest's expectation is raised by so many standard deviations between its trees."""
    refit: int = Field(48, ge=1)
    """The forest is trained anew after so many steps; once takes about half a second."""
    start: int = Field(0, ge=0)
    """Calls of the run after which it begins; 0: as soon as the memory holds a molecule."""
