"""Names for targets, estimators and shapers, and what each asks for, read off its signature.

A function's keyword-only parameters are settings of the user: type, range, default and (from the
docstring) meaning stand there and nowhere else. ``chemkl.config`` makes config keys of them.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass
from difflib import get_close_matches
from functools import wraps
from numbers import Real
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")
U = TypeVar("U")
F = TypeVar("F", bound=Callable[..., Any])

REQUIRED: Any = inspect.Parameter.empty
"""The default of an option without one."""


@dataclass(frozen=True)
class Range:
    """Which finite numbers an option takes, and a hint what to do with one outside of it.

    Of ``ends``, "[" or "]" is an end that belongs to the range, "(" or ")" one that does not.
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

    The type is float, int, bool or a Literal, with None where that is allowed; the default is
    ``REQUIRED`` where there is none; the meaning is from the docstring.
    """

    name: str
    type: Any
    range: Range | None
    default: Any
    meaning: str

    def problem(self, value: object) -> str | None:
        """Say what is wrong with a value; None: nothing."""
        numbers = self.range or FINITE
        is_one = get_origin(self.type) in (None, Literal)
        members = (self.type,) if is_one else get_args(self.type)
        choices = [c for m in members if get_origin(m) is Literal for c in get_args(m)]
        if value is None and NoneType in members:
            return None
        if choices:
            fits, must = value in choices, f"be one of {', '.join(map(str, choices))}"
        elif bool in members:
            fits, must = isinstance(value, bool), "be True or False"
        elif {int, float}.isdisjoint(members):
            return None
        else:
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            fits, must = is_number and value in numbers, str(numbers)  # type: ignore[operator]
        none = ", or be None" if NoneType in members else ""
        hint = f"; {numbers.hint}" if numbers.hint else ""
        return None if fits else f"{self.name} must {must}{none}, got {value!r}{hint}"


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Read the keyword-only parameters of a function, or of a dataclass, as options."""
    hints = get_type_hints(function, include_extras=True)
    heading = r"^(?:Args|Attributes|Options):\n((?:    .*\n|\n)+)"
    entry = r"^    (\w+): ((?:.*\n)(?:        .*\n)*)"
    meanings: dict[str, str] = {}
    for part in reversed(getattr(function, "__mro__", (function,))):
        for section in re.findall(heading, inspect.cleandoc(part.__doc__ or "") + "\n", re.M):
            meanings |= dict(re.findall(entry, section, re.M))
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, limits = hints.get(name, Any), None
        if isinstance(kind, InitVar):
            kind = kind.type
        if get_origin(kind) is Annotated:
            kind, limits = get_args(kind)
        meaning = " ".join(meanings.get(name, "").split())
        options[name] = Option(name, kind, limits, parameter.default, meaning)
    return options


def check_names(kind: str, name: str, options: Mapping[str, Option], given: Iterable[str]) -> None:
    """Refuse options that ``name`` does not have, and the lack of one that it needs."""
    tails = {o: nearest_names(o, options) if options else ": it has none" for o in given}
    problems = [f"has no option {o!r}{tail}" for o, tail in tails.items() if o not in options]
    needed = [o for o in options if options[o].default is REQUIRED and o not in tails]
    if needed:
        problems.append(f"needs {', '.join(needed)}")
    if problems:
        raise ValueError("\n".join(f"{kind} {name!r} {problem}" for problem in problems))


def check_options(
    kind: str, name: str, options: Mapping[str, Option], given: Mapping[str, Any]
) -> None:
    """Refuse what ``check_names`` refuses, and values out of range, all of them at once."""
    check_names(kind, name, options, given)
    problems = [problem for o, value in given.items() if (problem := options[o].problem(value))]
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Wanted:
    """What a registered function asks for, read off its signature.

    Inputs are its ordinary parameters, filled by name from what there is at each batch; those
    without a default are required. Options, keyword-only, are settings of the user.
    """

    inputs: tuple[str, ...]
    required: frozenset[str]
    options: Mapping[str, Option]

    @classmethod
    def by(cls, function: Callable[..., Any], what: str, available: Iterable[str]) -> "Wanted":
        """Read a signature; ``available`` are the names that inputs may have.

        Any other input is refused, and so is an option without a default.
        """
        parameters = inspect.signature(function).parameters.values()
        ordinary = {p.name: p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY}
        options = options_of(function)
        unknown = [name for name in ordinary if name not in available]
        bare = [name for name, option in options.items() if option.default is REQUIRED]
        if unknown or bare:
            asks = f"asks for {', '.join(unknown)}; it can have {', '.join(available)}"
            lacks = f"has to give the option {', '.join(bare)} a default"
            raise ValueError(f"{what} {asks if unknown else lacks}")
        required = frozenset(name for name, p in ordinary.items() if p.default is REQUIRED)
        return cls(tuple(ordinary), required, options)


def with_check(function: F, check: Callable[[Mapping[str, Any]], None]) -> F:
    """Return the function behind a check of its arguments, which are given by name."""
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        check(signature.bind(*args, **options).arguments)
        return function(*args, **options)

    return cast("F", checked)


class Registry(dict[str, T]):
    """Things of one kind by name; the kind, such as "target", is for messages."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that adds what it decorates and gives it back unchanged."""

        def decorate(thing: U) -> U:
            if name in self:
                raise ValueError(f"the {self.kind} {name!r} exists already; choose another name")
            self[name] = thing  # type: ignore[assignment]  # U is T, and keeps its own type
            return thing

        return decorate

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(f"{self.kind} {name!r} is not known{nearest_names(name, self)}")


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Say which names are known, the nearest one first: the tail of a 'not known' message."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"
