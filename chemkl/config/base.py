"""The base of every config model, and the types that several of them share."""

import multiprocessing
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """A frozen config: unknown keys are errors, and the text under a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, values: Any) -> Any:
        """Make a word of true and false where a number is meant: pydantic would take 1 and 0."""
        if not isinstance(values, dict):
            return values
        words = {
            name: str(value).lower()
            for name, value in values.items()
            if isinstance(value, bool)
            and name in cls.model_fields
            and {*_alternatives(cls.model_fields[name].annotation)} <= {int, float, NoneType}
        }
        return {**values, **words} if words else values


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types of which a value may have one."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


MOST_NAMES = 12
"""Of more names than this, a message has the nearest eight."""


def did_you_mean(
    name: str,
    allowed: Iterable[str],
    *,
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
    listed: str = "",
) -> str:
    """Say which names are allowed, the nearest one first: the tail of a 'not known' message.

    Args:
        name: the unknown one.
        allowed: those that are known.
        also: what else these are called, see `nearest`.
        meanings: a sentence on each.
        listed: a command that lists them; then the message does not.

    Returns:
        For example ``"; did you mean 'qed'? Known: logp, qed, tpsa"``.
    """
    names = sorted(allowed)
    if not names:
        return ": there is none."
    near = nearest(name, names, also, meanings)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    if meanings and near:
        hint += f" ({'; '.join(meanings[each] for each in near)})"
    if listed:
        return f"{hint} {listed} lists all {len(names)}"
    if len(names) > MOST_NAMES:
        some = get_close_matches(name, names, n=8, cutoff=0)
        return f"{hint} Known: {', '.join(some)} and {len(names) - len(some)} more"
    return f"{hint} Known: {', '.join(names)}"


LONGEST_VALUE = 80
"""A value in a message is cut to this many characters."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is complete as it stands.

    The message says what is wrong, where it stands, what is allowed and how to fix it; several
    problems are several lines. The command line prints it without a traceback and exits with 2.
    """


class StorageError(OSError):
    """A disk is full, cannot be written, or a folder has gone in the middle of a run.

    It is nobody's mistake in a config: the command line prints the message, which is complete as it
    stands, without a traceback and exits with 1.
    """


def utf8(text: object) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as \udcff, as all else is."""
    return str(text).encode(errors="backslashreplace").decode()


def complaints(*checks: tuple[Callable[..., object], *tuple[Any, ...]]) -> list[str]:
    """Make several checks and collect what they complain of.

    Args:
        *checks: each a function that raises InputError, and its arguments; one whose first
            argument is None, for there is nothing to look into, is left out.

    Returns:
        The lines of all messages, each once.
    """
    lines: dict[str, None] = {}
    for complain, *arguments in checks:
        if arguments and arguments[0] is None:
            continue
        try:
            complain(*arguments)
        except InputError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    return list(lines)


def shown(value: object) -> str:
    """A value as it may stand in a message."""
    return cut(repr(value))


def cut(value: object) -> str:
    """A text as it may stand in a message: not too long."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


WEAK = frozenset(
    re.findall(
        r"\w+", "a an and by count for from in is mol molecule num number of or score the to"
    )
)
"""Words that say nothing of which name was meant."""


def nearest(
    name: str,
    allowed: Iterable[str],
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> list[str]:
    """Find the names that were probably meant, at most two.

    Args:
        name: the unknown name.
        allowed: the known ones.
        also: what else these are called; then case, blanks and signs are passed over.
        meanings: a sentence on each; one that shares a word with the name may be it.
    """
    names = list(allowed)
    called = {each: {_plain(each), *map(_plain, (also or {}).get(each, ()))} for each in names}
    same = [each for each in names if _plain(name) in called[each]]
    if same:
        return same[:2]
    near = get_close_matches(name, names, n=1, cutoff=0.6 if also is None else 0.75)
    by_plain = {plain: each for each in names for plain in called[each]}
    if not near:
        near = [by_plain[p] for p in get_close_matches(_plain(name), by_plain, n=1, cutoff=0.75)]
    near = near or _of_like_meaning(name, names, also or {}, meanings or {})
    return near or get_close_matches(name, names, n=1, cutoff=0.6)


def _of_like_meaning(
    name: str,
    names: Iterable[str],
    also: Mapping[str, Iterable[str]],
    meanings: Mapping[str, str],
) -> list[str]:
    wanted = _words(name)
    shared = {
        each: (
            len(wanted & _words(" ".join([each, *also.get(each, ())]))),
            len(wanted & _words(meanings.get(each, ""))),
        )
        for each in names
    }
    best = sorted(shared, key=lambda each: shared[each], reverse=True)[:2]
    return [each for each in best if any(shared[each])]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(text: str) -> set[str]:
    """The words of a text or of a name such as numHBDonors or ring_count, in the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    words = {part.lower() for part in parts if len(part) > 1}
    return {word.removesuffix("s") if len(word) > 3 else word for word in words} - WEAK


def install(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml brings, for a message.

    It names the packages, not the extra: chemkl is in no index that pip could look it up in.

    Args:
        extra: its name, for example fcd.

    Returns:
        For example ``pip install 'fcd_torch>=1.0.7'``.
    """
    try:
        asked = requires("chemkl") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        asked = []
    parts = [each.partition(";") for each in asked]
    names = [name.strip() for name, _, when in parts if f'extra == "{extra}"' in when]
    return f"pip install {' '.join(map(repr, names))}" if names else f"pip install -e '.[{extra}]'"


@cache
def say_once(line: str) -> None:
    """Say a line, once in a run: its workers meet the same things again, and are silent."""
    if multiprocessing.parent_process() is None:
        sys.stderr.write(" ".join(line.split()) + "\n")
