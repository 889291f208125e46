"""The base of every config model, the exceptions for what the user gave, and did-you-mean."""

import multiprocessing
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings and positions in lists."""

_KNOWN_ERRORS = set(get_args(ErrorType))

SAID = "said"
"""The type of an error whose message is complete as it stands."""

BESIDE = "<"
"""First of the keys that `complain` is given: they begin beside the field that is validated."""

LONGEST_VALUE = 80
"""A value in a message is cut to this many characters."""

MOST_NAMES = 12
"""Of more names than this, a message has the nearest eight."""


class Config(BaseModel):
    """A frozen config: unknown keys are errors, and the text under a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @classmethod
    def with_fields(
        cls, name: str, fields: Mapping[str, Any], meaning: str | None = None
    ) -> type[Self]:
        """Make a config of this class with more fields, whose descriptions they bring along.

        There is no source to read them from: pydantic would look for it through every module that
        is loaded, a second a model beside torch.
        """
        made: type[Self] = create_model(
            name,
            __base__=cls,
            __doc__=meaning,
            __cls_kwargs__={"use_attribute_docstrings": False},
            **fields,
        )
        return made

    @model_validator(mode="wrap")
    @classmethod
    def _with_names(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Say of an unknown key which are near, of a missing one what it means."""
        if isinstance(values, Mapping):
            values = {name: cls._no_switch(name, value) for name, value in values.items()}
        try:
            config = handler(values)
            complain(config.problems())
        except ValidationError as error:
            errors = error.errors(include_url=False)
            unknown = [e["loc"] for e in errors if e["type"] == "extra_forbidden"]
            meant = {name for (key, *_) in unknown for name in nearest(str(key), cls.model_fields)}
            # no problem is told of a default that stands where a misspelt key was meant
            absent = {(BESIDE, name) for name in meant if name not in values}
            problems = [cls._named(e) for e in errors if e["loc"][1:3] not in absent]
            raise ValidationError.from_exception_data(cls.__name__, problems) from None
        return config

    def problems(self) -> Iterator[tuple[str, str]]:
        """What of the settings does not go together: a dotted key, or "" for all, and a text."""
        yield from ()

    @classmethod
    def _no_switch(cls, name: Any, value: Any) -> Any:
        """Make a word of true and false where a number is meant: pydantic would take 1 and 0."""
        field = cls.model_fields.get(name) if isinstance(value, bool) else None
        if field is not None and {*_members(field.annotation)} <= {int, float, NoneType}:
            return str(value).lower()
        return value

    @classmethod
    def _named(cls, details: Any) -> InitErrorDetails:
        place = details["loc"][2:] if details["loc"][1:2] == (BESIDE,) else details["loc"]
        key = str(place[0]) if place else ""
        field = cls.model_fields.get(key)
        sentence = " ".join(((field and field.description) or "").split()).split(". ")[0]
        meaning = f" ({sentence.rstrip('.')})" if sentence else ""
        match details["type"]:
            case "extra_forbidden" if len(place) == 1:
                text = f"not a known key{did_you_mean(key, cls.model_fields)}"
            case "missing":  # deeper: an item of a tuple, where it is no key
                text = f"required, and not given{meaning if len(place) == 1 else ''}"
            case "string_pattern_mismatch" if place:
                text = f"has not the form that is wanted here{meaning}"
                text = f"{text} (got {shown(details['input'])})"
            case kind:
                text = details["msg"] if kind == SAID else ""
        kind = _said(text) if text else details["type"]
        if kind not in _KNOWN_ERRORS and not text:  # made by pydantic's Python part
            kind = PydanticCustomError(details["type"], "{text}", {"text": details["msg"]})
        return InitErrorDetails(
            type=kind, loc=place, input=details["input"], ctx=details.get("ctx", {})
        )


def _members(kind: Any) -> Iterator[Any]:
    """The types of which a value may have one."""
    if get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    else:
        yield kind


def _said(text: str) -> PydanticCustomError:
    return PydanticCustomError(SAID, "{text}", {"text": text})


def twice_in(values: Iterable[Any]) -> str:
    """The values that stand several times, in order; empty where none does."""
    counts = Counter(values)
    return ", ".join(sorted(str(value) for value, n in counts.items() if n > 1))


def _once_each(values: Sequence[Any]) -> Sequence[Any]:
    complain(each_once(values))
    return values


Distinct = AfterValidator(_once_each)
"""Of a list or tuple: no value stands twice."""
CalledByKind = BeforeValidator(lambda name, info: name or info.data.get("kind", ""))
"""Of a field behind kind: that is its default."""


def later(default: Any = None, **limits: Any) -> Any:
    """A key that came after the first runs: at its default it is left out of what tells runs apart.

    So a run begun before the key was there is the same one with it.
    """
    return Field(default, exclude_if=lambda value: value == default, **limits)


def each_once(values: Iterable[Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Ask for values that differ, as one of the `Config.problems`."""
    if twice := twice_in(values):
        yield key, f"{twice}: given more than once; keep each once"


def just_one(settings: Config, first: str, second: str) -> Iterator[tuple[str, str]]:
    """Ask for one of two keys, as one of the `Config.problems`."""
    given = [name for name in (first, second) if getattr(settings, name)]
    if len(given) != 1:
        which = "both are" if given else "neither is"
        yield "", f"give {first} or {second}, one of the two: {which} given"


def complain(problems: Iterable[tuple[str, str]]) -> None:
    """Within a validator: refuse a value, with a text for each place in it, see `Config.problems`.

    Where there is none, go on.
    """
    lines = []
    for key, text in problems:
        way = tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)
        lines.append(InitErrorDetails(type=_said(text), loc=way, input=None))
    if lines:
        raise ValidationError.from_exception_data("settings", lines)


def choose_kind(
    kinds: Mapping[str, Any], value: Any, context: Mapping[str, Any] | None, what: str = ""
) -> Any:
    """Check settings against the model that their key ``kind`` names; a bare name stands for it.

    Of ``kinds`` the values are models, or functions that give them; ``what`` is for messages.
    """
    if isinstance(value, Config):
        return value
    section = {"kind": value} if isinstance(value, str) else value
    names = ", ".join(sorted(kinds))
    if not isinstance(section, Mapping):
        complain([("", f"should be a mapping with kind, one of: {names} (got {shown(value)})")])
    if "kind" not in section:
        near = [key for key in map(str, section) if nearest(key, ["kind"])]
        misspelt = [(key, f"not a known key{did_you_mean(key, ['kind'])}") for key in near]
        complain([("", f"required key 'kind' is not given. Known: {names}"), *misspelt])
    kind = section["kind"]
    if kind not in list(kinds):
        text = f"{what} {kind!r} is not known{did_you_mean(str(kind), kinds)}".strip()
        complain([("kind" if section is value else "", text)])
    model = kinds[kind] if isinstance(kinds[kind], type) else kinds[kind]()
    return model.model_validate(section, context=context)


def by_kind(*models: type[Config], default: str | None = None) -> WrapValidator:
    """Tell models apart by their key ``kind``, see `choose_kind`; for an Annotated union.

    Settings without the key are of the default kind, where there is one.
    """
    kinds = {
        kind: model for model in models for kind in get_args(model.model_fields["kind"].annotation)
    }

    def choose(value: Any, _handler: Any, info: ValidationInfo) -> Any:
        if default and isinstance(value, Mapping) and "kind" not in value:
            value = {"kind": default, **value}
        return choose_kind(kinds, value, info.context)

    return WrapValidator(choose)


def did_you_mean(
    name: str,
    allowed: Iterable[str],
    *,
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
    listed: str = "",
) -> str:
    """Say which names are allowed, the nearest one first: the tail of a 'not known' message.

    For example ``"; did you mean 'qed'? Known: logp, qed, tpsa"``. Of ``also`` and ``meanings`` see
    `nearest`; ``listed`` is a command that lists the names, so that the message does not.
    """
    names = sorted(allowed)
    if not names:
        return ": there is none."
    near = nearest(name, names, also, meanings)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    if meanings and near:
        hint += f" ({'; '.join(meanings[n] for n in near)})"
    if listed:
        return f"{hint} {listed} lists all {len(names)}"
    if len(names) > MOST_NAMES:
        some = get_close_matches(name, names, n=8, cutoff=0)
        return f"{hint} Known: {', '.join(some)} and {len(names) - len(some)} more"
    return f"{hint} Known: {', '.join(names)}"


class InputError(ValueError):
    """Something the user gave cannot be used; the message is complete as it stands.

    It says what is wrong, where, what is allowed and how to fix it; several problems are several
    lines. The command line prints it without a traceback and exits with 2.
    """

    @classmethod
    def refuse(cls, problems: Iterable[str]) -> None:
        """Raise it with a line for each problem; where there is none, go on."""
        lines = list(problems)
        if lines:
            raise cls("\n".join(lines))


class StorageError(OSError):
    """A disk is full, cannot be written, or a folder has gone in the middle of a run.

    The command line prints the message, which is complete, without a traceback and exits with 1.
    """


class LostError(RuntimeError):
    """Another process of a run on several devices has ended, so this one has to end too.

    The command line prints the message, which is complete, without a traceback and exits with 1.
    """


def utf8(text: object) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as \udcff, as all else is."""
    return str(text).encode(errors="backslashreplace").decode()


def complaints(*checks: tuple[Callable[..., object], *tuple[Any, ...]]) -> list[str]:
    """Make several checks; return the lines of all that they complain of, each once.

    Args:
        *checks: each a function that raises InputError, and its arguments; one whose first
            argument is None, for there is nothing to look into, is left out.
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

    With ``also``, what else the allowed ones are called, case, blanks and signs are passed over; of
    ``meanings``, a sentence on each, one that shares a word with the name may be it.
    """
    names, also, meanings = list(allowed), also or {}, meanings or {}
    called = {n: {_plain(n), *map(_plain, also.get(n, ()))} for n in names}
    same = [n for n in names if _plain(name) in called[n]]
    if same:
        return same[:2]
    by_plain = {plain: n for n in names for plain in called[n]}
    cutoff = 0.75 if also else 0.6
    near = get_close_matches(name, names, n=1, cutoff=cutoff)
    near = near or [by_plain[p] for p in get_close_matches(_plain(name), by_plain, 1, 0.75)]
    if near:
        return near
    wanted = _words(name)

    def shared(n: str) -> tuple[int, int]:
        called = _words(" ".join([n, *also.get(n, ())]))
        return len(wanted & called), len(wanted & _words(meanings.get(n, "")))

    best = sorted(names, key=shared, reverse=True)[:2]
    return [n for n in best if any(shared(n))] or get_close_matches(name, names, n=1, cutoff=0.6)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(text: str) -> set[str]:
    """The words of a text or of a name such as numHBDonors or ring_count, in the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    words = {part.lower() for part in parts if len(part) > 1}
    return {word.removesuffix("s") if len(word) > 3 else word for word in words} - WEAK


def install(extra: str) -> str:
    """The command that installs what an extra brings, such as ``pip install 'fcd_torch>=1.0.7'``.

    It names the packages, not the extra: chemkl is in no index that pip could look it up in.
    """
    try:
        asked = requires("chemkl") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        asked = []
    parts = [requirement.partition(";") for requirement in asked]
    names = [name.strip() for name, _, when in parts if f'extra == "{extra}"' in when]
    return f"pip install {' '.join(map(repr, names))}" if names else f"pip install -e '.[{extra}]'"


@cache
def say_once(line: str) -> None:
    """Say a line, once in a run: its workers meet the same things again, and are silent."""
    if multiprocessing.parent_process() is None:
        sys.stderr.write(" ".join(line.split()) + "\n")
