"""Settings of what a generator is to hold: scaffolds, pairs of fragments, or molecules."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from chemkl.config.base import Config, by_kind, later
from chemkl.config.paths import DataPath

Fragments = Annotated[
    list[str],
    BeforeValidator(lambda given: given.split("|") if isinstance(given, str) else given),
    Field(min_length=1),
]
"""A list of fragments, or a text ``a|b`` of them."""


class _Generator(Config):
    choices: int = Field(8, ge=1)
    """Spellings (or places to join a fragment at) that are drawn at a time; the one that the prior
    finds most probable is taken. 1: the first is."""
    per_step: int | None = Field(None, ge=1)
    """Parts that a step takes, drawn at random; null: all of them."""

    @property
    def parts(self) -> Path | list[Any]:
        """What the user gave: a file, or the parts themselves."""
        given: Path | list[Any] = getattr(self, self.key)
        return given

    @property
    def key(self) -> str:
        """The key of the parts."""
        return next(name for name in ("scaffolds", "fragments", "molecules") if hasattr(self, name))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse more parts a step than there are."""
        parts = self.parts
        if isinstance(parts, list) and self.per_step and self.per_step > len(parts):
            yield "per_step", f"{self.per_step} is more than there are parts: {len(parts)}"


class DecorateConfig(_Generator):
    """Decorates scaffolds at their attachment points."""

    kind: Literal["decorate"]
    """Scaffolds, each decorated at all of its attachment points, one after another."""
    scaffolds: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES with * where decorations sit, as in *c1ccccc1, or a file of such."""


class LinkConfig(_Generator):
    """Links pairs of fragments."""

    kind: Literal["link"]
    """Pairs of fragments: the model writes on from one of them, and the other is joined where the
    prior finds it most probable."""
    fragments: Annotated[list[Fragments], Field(min_length=1)] | DataPath
    """Pairs of SMILES with one * each: [a, b] or a|b, or a file with a|b in each line."""


class AnaloguesConfig(_Generator):
    """Writes analogues of molecules."""

    kind: Literal["analogues"]
    """Molecules: the beginning of a random spelling is kept, and the model ends it anew."""
    molecules: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES, or a file of such."""
    keep: tuple[float, float] = (0.5, 0.9)
    """The least and the largest share of the SMILES that is kept, above 0 and below 1."""
    mutants: int = later(0, ge=0, le=1000)
    """So many neighbours of each molecule (one mutation of graph GA, Tanimoto similarity 0.5 or
    more) whose spellings are begun with too; 0: none, 1000 at most. Needs the extra genetic."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for shares in order."""
        yield from super().problems()
        if not 0 < self.keep[0] <= self.keep[1] < 1:
            low, high = self.keep
            yield "keep", f"[{low:g}, {high:g}] is not 0 < least <= largest < 1"


Generator = Annotated[
    DecorateConfig | LinkConfig | AnaloguesConfig,
    by_kind(DecorateConfig, LinkConfig, AnaloguesConfig),
]
