"""Names for targets and estimators: filled by a decorator, no name twice, a miss lists them all."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what the things are, for messages: "target", "estimator".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._by_name: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Give ``thing`` a name that is not taken."""
        if name in self._by_name:
            raise ValueError(f"there is already a {self.kind} named {name!r}; choose another name")
        self._by_name[name] = thing

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that adds what it decorates and gives it back unchanged."""

        def decorate(thing: U) -> U:
            self.add(name, thing)  # type: ignore[arg-type]  # U is T, and keeps its own type
            return thing

        return decorate

    def __getitem__(self, name: str) -> T:
        try:
            return self._by_name[name]
        except KeyError:
            tail = nearest_names(name, self._by_name)
            raise ValueError(f"{self.kind} {name!r} is not known{tail}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Say which names are known, the nearest one first: the tail of a 'not known' message."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"
