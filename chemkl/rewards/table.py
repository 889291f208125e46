"""Components without parameters, written as rows of a table instead of one function each."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from chemkl.rewards.registry import Score, component


class Row(NamedTuple):
    """One component: a function of the molecule alone.

    Attributes:
        kind: Its name in configs.
        score: The function.
        unit: Of the value; empty for a pure number.
        range: Smallest and largest value possible.
        source: Paper or program that defines it.
        meaning: What it is and what a high value means, in one or two sentences.
        version: Raised when the value of any molecule changes; see `component`.
    """

    kind: str
    score: Score
    unit: str
    range: tuple[float, float]
    source: str
    meaning: str
    version: int = 1


def register(rows: Iterable[Row], module: str) -> None:
    """Register every row as a component that takes no parameters.

    Args:
        rows: The table.
        module: The module where the table stands (its ``__name__``), for messages.
    """
    for row in rows:
        component(row.kind, unit=row.unit, range=row.range, source=row.source, version=row.version)(
            _factory(row, module)
        )


def _factory(row: Row, module: str) -> Callable[[], Score]:
    def factory() -> Score:
        return row.score

    factory.__name__ = factory.__qualname__ = row.kind
    factory.__doc__ = row.meaning
    factory.__module__ = module
    return factory
