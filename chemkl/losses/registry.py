"""Names for targets, estimators and shapers, filled by decorators, and what a function asks for."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

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
            raise ValueError(f"the {self.kind} {name!r} exists already; choose another name")
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


@dataclass(frozen=True)
class Wanted:
    """What a registered function asks for, read off its signature.

    Attributes:
        inputs: its ordinary parameters, filled by name from what there is at each batch.
        required: those of them without a default.
        options: its keyword-only parameters with their defaults: settings of the user.
    """

    inputs: tuple[str, ...]
    required: frozenset[str]
    options: Mapping[str, Any]

    @classmethod
    def by(cls, function: Callable[..., Any], what: str, available: Iterable[str]) -> "Wanted":
        """Read a signature.

        Args:
            function: what is to be registered.
            what: its name in messages: "estimator 'rloo'".
            available: the names that inputs may have.

        Raises:
            ValueError: an input that is not available, or an option without a default.
        """
        parameters = inspect.signature(function).parameters.values()
        settings = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        ordinary = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        unknown = [p.name for p in ordinary if p.name not in available]
        if unknown:
            raise ValueError(
                f"{what} asks for {', '.join(unknown)}; it can have {', '.join(available)}"
            )
        bare = [p.name for p in settings if p.default is inspect.Parameter.empty]
        if bare:
            raise ValueError(f"{what}: the option {', '.join(bare)} needs a default")
        return cls(
            tuple(p.name for p in ordinary),
            frozenset(p.name for p in ordinary if p.default is inspect.Parameter.empty),
            {p.name: p.default for p in settings},
        )

    def check_options(self, what: str, given: Mapping[str, Any]) -> None:
        """Refuse options that the function does not have.

        Raises:
            ValueError: naming the first of them and the near ones.
        """
        for option in given:
            if option not in self.options:
                known = nearest_names(option, self.options) if self.options else ": it has none"
                raise ValueError(f"{what} has no option {option!r}{known}")


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Say which names are known, the nearest one first: the tail of a 'not known' message."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"
