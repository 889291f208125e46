"""What `chemkl show` prints: tables of what can stand in a config."""

import sys
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType

from chemkl.config import InputError, did_you_mean
from chemkl.rewards import catalogue

PIPED_WIDTH = 120

SHOWN: dict[str, Callable[[str | None], Iterable[RenderableType]]] = {
    "rewards": catalogue.rewards,
    "transforms": catalogue.transforms,
}
"""What can be shown by name; each gives all of it, or one part in detail."""


def show(what: str, name: str | None = None, *, console: Console | None = None) -> None:
    """Print what there is of a sort.

    Args:
        what: one of `SHOWN`.
        name: one of these, in detail; None: all of them.
        console: where it is printed; standard output when not given.

    Raises:
        InputError: an unknown sort or name.
    """
    if what not in SHOWN:
        raise InputError(f"cannot show {what!r}{did_you_mean(what, SHOWN)}")
    console = console or Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for part in SHOWN[what](name):
        console.print(part, highlight=False)
