"""Registries of targets, estimators and shapers; inputs and options are read off signatures.

A function's keyword-only parameters are options of the user. Type, range, default and (from the
docstring) meaning are defined there only; ``chemkl.config`` makes config keys of them.
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
    """The finite numbers that an option accepts, and a hint for values outside.

    In ``ends``, "[" and "]" include an end of the range, "(" and ")" exclude it.
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
    """An option of the user.

    The type is float, int, bool or a Literal, optionally with None. The default of a required
    option is ``REQUIRED``. The meaning is from the docstring.
    """

    name: str
    type: Any
    range: Range | None
    default: Any
    meaning: str

    def problem(self, value: object) -> str | None:
        """Describe what is wrong with a value; None if it is valid."""
        numbers = self.range or FINITE
        is_union = get_origin(self.type) not in (None, Literal)
        members = get_args(self.type) if is_union else (self.type,)
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


def check_names(kind: str, name: str, options: Mapping[str, Option], names: Iterable[str]) -> None:
    """Refuse unknown options, and missing required ones."""
    tails = {o: nearest_names(o, options) if options else ": it has none" for o in names}
    problems = [f"has no option {o!r}{tail}" for o, tail in tails.items() if o not in options]
    needed = [o for o in options if options[o].default is REQUIRED and o not in tails]
    if needed:
        problems.append(f"needs {', '.join(needed)}")
    if problems:
        raise ValueError("\n".join(f"{kind} {name!r} {problem}" for problem in problems))


def check_options(
    kind: str, name: str, options: Mapping[str, Option], values: Mapping[str, Any]
) -> None:
    """Refuse what ``check_names`` refuses; then all invalid values at once."""
    check_names(kind, name, options, values)
    problems = [problem for o, value in values.items() if (problem := options[o].problem(value))]
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Signature:
    """The inputs and options of a registered function.

    Inputs are its ordinary parameters, filled by name at each batch; those without a default are
    required. Options are its keyword-only parameters.
    """

    inputs: tuple[str, ...]
    required: frozenset[str]
    options: Mapping[str, Option]

    @classmethod
    def of(cls, function: Callable[..., Any], what: str, available: Iterable[str]) -> "Signature":
        """Read a signature; refuse unavailable inputs, and options without a default."""
        parameters = inspect.signature(function).parameters.values()
        ordinary = {p.name: p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY}
        options = options_of(function)
        unknown = [name for name in ordinary if name not in available]
        bare = [name for name, option in options.items() if option.default is REQUIRED]
        if unknown:
            names = f"{', '.join(unknown)}; available: {', '.join(available)}"
            raise ValueError(f"{what} has unknown inputs: {names}")
        if bare:
            raise ValueError(f"{what} needs a default for the option {', '.join(bare)}")
        required = frozenset(name for name, p in ordinary.items() if p.default is REQUIRED)
        return cls(tuple(ordinary), required, options)


def with_check(function: F, check: Callable[[Mapping[str, Any]], None]) -> F:
    """Wrap a function so that its arguments are checked first, by name."""
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        check(signature.bind(*args, **options).arguments)
        return function(*args, **options)

    return cast("F", checked)


class Registry(dict[str, T]):
    """Objects of one kind by name; messages name the kind, such as "target"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that registers its argument and returns it unchanged."""

        def decorate(thing: U) -> U:
            if name in self:
                raise ValueError(f"the {self.kind} {name!r} exists already; choose another name")
            self[name] = thing  # type: ignore[assignment]  # U is T, and keeps its own type
            return thing

        return decorate

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(f"{self.kind} {name!r} is not known{nearest_names(name, self)}")


def nearest_names(name: str, known_names: Iterable[str]) -> str:
    """Return the end of a 'not known' message: the nearest name, and all names."""
    names = sorted(known_names)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"
