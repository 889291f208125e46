"""Names for targets, estimators and shapers, and what each asks for, read off its signature.

A function's keyword-only parameters are settings of the user: type, range, default and (from the
docstring) meaning stand there and nowhere else. ``chemkl.config`` makes config keys of them.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass
from difflib import get_close_matches
from numbers import Real
from types import NoneType
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
U = TypeVar("U")

REQUIRED: Any = inspect.Parameter.empty
"""The default of an option without one."""


@dataclass(frozen=True)
class Range:
    """Which finite numbers an option takes.

    Attributes:
        low: the lower end.
        high: the upper end.
        ends: "[" or "]" where the end belongs to the range, "(" or ")" where it does not.
        hint: what to do with a number outside of it.
    """

    low: float
    high: float
    ends: str = "()"
    hint: str = ""

    @property
    def bounds(self) -> dict[str, float]:
        """The finite ends, as gt or ge and lt or le."""
        low, high = ("ge" if "[" in self.ends else "gt"), ("le" if "]" in self.ends else "lt")
        return {
            name: end for name, end in ((low, self.low), (high, self.high)) if math.isfinite(end)
        }

    def __contains__(self, number: float) -> bool:
        above = number > self.low or (number == self.low and "[" in self.ends)
        below = number < self.high or (number == self.high and "]" in self.ends)
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        if (self.low, self.high, self.ends) == (0, math.inf, "()"):
            return "be a finite number above 0"
        if self.low == -math.inf and self.high == math.inf:
            return "be a finite number"
        strictly = "strictly " if self.ends == "()" else ""
        return f"lie {strictly}in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


FINITE = Range(-math.inf, math.inf)
ABOVE_0 = Range(0, math.inf)
INSIDE = Range(0, 1)
BELOW_1 = Range(0, 1, "[)")
SHARE = Range(0, 1, "(]")


@dataclass(frozen=True)
class Option:
    """A setting of the user.

    Attributes:
        name: as in a config.
        type: float, int, bool or a Literal; with None where that is allowed.
        range: of a number; None for anything else.
        default: ``REQUIRED`` where there is none.
        meaning: from the docstring.
    """

    name: str
    type: Any
    range: Range | None
    default: Any
    meaning: str

    @property
    def members(self) -> list[Any]:
        """The types that it may have."""
        return list(_members(self.type))

    @property
    def choices(self) -> list[Any]:
        """The values that it may have, where these can be listed."""
        return [c for m in self.members if get_origin(m) is Literal for c in get_args(m)]

    def problem(self, value: object) -> str | None:
        """Say what is wrong with a value; None: nothing."""
        numbers = self.range or FINITE
        if value is None and NoneType in self.members:
            return None
        if self.choices:
            fits, must = value in self.choices, f"be one of {', '.join(map(str, self.choices))}"
        elif bool in self.members:
            fits, must = isinstance(value, bool), "be True or False"
        elif {int, float}.isdisjoint(self.members):
            return None
        else:
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            fits, must = is_number and value in numbers, str(numbers)  # type: ignore[operator]
        none = ", or be None" if NoneType in self.members else ""
        hint = f"; {numbers.hint}" if numbers.hint else ""
        return None if fits else f"{self.name} must {must}{none}, got {value!r}{hint}"


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is None or get_origin(kind) is Literal:
        yield kind
    else:
        for member in get_args(kind):
            yield from _members(member)


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Read the keyword-only parameters of a function, or of a dataclass, as options."""
    hints = get_type_hints(function, include_extras=True)
    documented = reversed(getattr(function, "__mro__", (function,)))
    meanings = {k: v for part in documented for k, v in _meanings(part.__doc__).items()}
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, limits = hints.get(name, Any), None
        if isinstance(kind, InitVar):
            kind = kind.type
        if get_origin(kind) is Annotated:
            kind, limits = get_args(kind)
        options[name] = Option(name, kind, limits, parameter.default, meanings.get(name, ""))
    return options


def _meanings(docstring: str | None) -> dict[str, str]:
    """What the sections Args, Attributes and Options of a docstring say of each name."""
    heading = r"^(?:Args|Attributes|Options):\n((?:    .*\n|\n)+)"
    entry = r"^    (\w+): ((?:.*\n)(?:        .*\n)*)"
    sections = re.findall(heading, inspect.cleandoc(docstring or "") + "\n", re.M)
    entries = [pair for section in sections for pair in re.findall(entry, section, re.M)]
    return {name: " ".join(text.split()) for name, text in entries}


def check_options(
    kind: str, name: str, options: Mapping[str, Option], given: Mapping[str, Any]
) -> None:
    """Refuse options that there are not, and values out of range, of the ``kind`` called ``name``.

    Raises:
        ValueError: naming all of them.
    """
    for option in given:
        if option not in options:
            near = nearest_names(option, options) if options else ": it has none"
            raise ValueError(f"{kind} {name!r} has no option {option!r}{near}")
    problems = [problem for o, value in given.items() if (problem := options[o].problem(value))]
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Wanted:
    """What a registered function asks for, read off its signature.

    Attributes:
        inputs: its ordinary parameters, filled by name from what there is at each batch.
        required: those of them without a default.
        options: its keyword-only parameters: settings of the user.
    """

    inputs: tuple[str, ...]
    required: frozenset[str]
    options: Mapping[str, Option]

    @classmethod
    def by(cls, function: Callable[..., Any], what: str, available: Iterable[str]) -> "Wanted":
        """Read a signature; ``available`` are the names that inputs may have.

        Raises:
            ValueError: an input that is not available, or an option without a default.
        """
        parameters = inspect.signature(function).parameters.values()
        ordinary = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        unknown = [p.name for p in ordinary if p.name not in available]
        if unknown:
            raise ValueError(
                f"{what} asks for {', '.join(unknown)}; it can have {', '.join(available)}"
            )
        options = options_of(function)
        bare = [name for name, option in options.items() if option.default is REQUIRED]
        if bare:
            raise ValueError(f"{what}: the option {', '.join(bare)} needs a default")
        required = frozenset(p.name for p in ordinary if p.default is REQUIRED)
        return cls(tuple(p.name for p in ordinary), required, options)


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


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Say which names are known, the nearest one first: the tail of a 'not known' message."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"
