"""What a report shows, and how much of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PageOptions:
    """Settings of the page.

    Attributes:
        title: heading of the page.
        threshold: hits are molecules with R of at least this.
        threshold_source: where that comes from, in a sentence; empty where the user gave it.
        window: valid samples that stand for the beginning and for the end of a run.
        smoothing: width in steps of the running mean over the learning curves.
        n_scaffolds: scaffolds and families shown of each method.
        n_molecules: molecules drawn of each scaffold.
        n_top: rows of the table of the top molecules.
        n_map: molecules on the map.
        seed: of every choice at random.
        note: how the numbers were computed, printed under the tables.
        start_of_families: what the shares at the end are compared with, in words.
        prior: SMILES sampled from the prior, for the map.
        comparison: rows of the compare stage, for the summary.
        settings: of the report, printed at its end.
    """

    title: str
    threshold: float
    threshold_source: str = ""
    window: int = 1000
    smoothing: int = 9
    n_scaffolds: int = 5
    n_molecules: int = 4
    n_top: int = 100
    n_map: int = 1500
    seed: int = 0
    note: str = ""
    start_of_families: str = ""
    prior: Sequence[str] | None = None
    comparison: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
