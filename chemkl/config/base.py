"""The base class of all configs, exceptions for wrong input, and did-you-mean."""

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
"""The path to a value: keys of mappings and positions in lists."""

COMPLETE = "complete"
"""The type of a validation error whose message is shown as it is, without the value."""

SIBLING = "<"
"""First key of a problem that a field validator finds in another field of the same model."""

LONGEST_VALUE = 80
"""Values in messages are cut to this many characters."""

MOST_NAMES = 12
"""If more names than this are allowed, a message lists only the eight nearest."""


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
        """Make a subclass with more fields, each with its description.

        Attribute docstrings are off: pydantic would search the source of every loaded module for
        them, which takes a second a model once torch is loaded.
        """
        model: type[Self] = create_model(
            name,
            __base__=cls,
            __doc__=meaning,
            __cls_kwargs__={"use_attribute_docstrings": False},
            **fields,
        )
        return model

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, then reword the errors: near names of an unknown key, meaning of a missing one.

        An error in a default is dropped if a misspelt key was meant to replace that default.
        """
        if isinstance(values, Mapping):
            values = {name: cls._switch_as_text(name, value) for name, value in values.items()}
        try:
            config = handler(values)
            raise_problems(config.problems())
        except ValidationError as error:
            errors = error.errors(include_url=False)
            unknown = [e["loc"] for e in errors if e["type"] == "extra_forbidden"]
            meant = {name for (key, *_) in unknown for name in nearest(str(key), cls.model_fields)}
            replaced = {(SIBLING, name) for name in meant if name not in values}
            problems = [cls._reworded(e) for e in errors if e["loc"][1:3] not in replaced]
            raise ValidationError.from_exception_data(cls.__name__, problems) from None
        return config

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield settings that contradict each other, as (dotted key or "" for all, message)."""
        yield from ()

    @classmethod
    def _switch_as_text(cls, name: Any, value: Any) -> Any:
        """Turn true and false into text where a number is due: pydantic would take 1 and 0."""
        field = cls.model_fields.get(name) if isinstance(value, bool) else None
        if field is not None and {*_union_members(field.annotation)} <= {int, float, NoneType}:
            return str(value).lower()
        return value

    @classmethod
    def _reworded(cls, details: Any) -> InitErrorDetails:
        place = details["loc"][2:] if details["loc"][1:2] == (SIBLING,) else details["loc"]
        key = str(place[0]) if place else ""
        field = cls.model_fields.get(key)
        sentence = " ".join(((field and field.description) or "").split()).split(". ")[0]
        meaning = f" ({sentence.rstrip('.')})" if sentence else ""
        error_type = details["type"]
        match error_type:
            case "extra_forbidden" if len(place) == 1:
                text = f"not a known key{did_you_mean(key, cls.model_fields)}"
            case "missing":  # deeper it is an item of a tuple, which has no meaning of its own
                text = f"required, and not given{meaning if len(place) == 1 else ''}"
            case "string_pattern_mismatch" if place:
                text = f"does not have the required form{meaning} (got {quoted(details['input'])})"
            case _:
                text = details["msg"] if error_type == COMPLETE else ""
        if text:
            error_type = _complete(text)
        elif error_type not in get_args(ErrorType):  # from the Python part of pydantic
            error_type = PydanticCustomError(error_type, "{text}", {"text": details["msg"]})
        return InitErrorDetails(
            type=error_type, loc=place, input=details["input"], ctx=details.get("ctx", {})
        )


def _union_members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _union_members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _union_members(member)
    else:
        yield annotation


def _complete(text: str) -> PydanticCustomError:
    return PydanticCustomError(COMPLETE, "{text}", {"text": text})


# ---- parts of models


def added_later(default: Any = None, **limits: Any) -> Any:
    """Declare a key added after the first release; at its default it is no part of the identity.

    A run that began before the key existed therefore continues with it.
    """
    return Field(default, exclude_if=lambda value: value == default, **limits)


def _check_distinct(values: Sequence[Any]) -> Sequence[Any]:
    raise_problems(duplicate_problems(values))
    return values


Distinct = AfterValidator(_check_distinct)
"""Refuses a list or tuple with a repeated value."""
NamedByKind = BeforeValidator(lambda name, info: name or info.data.get("kind", ""))
"""Fills in an empty name with the field `kind`, which must come before it."""


def repeated(values: Iterable[Any]) -> str:
    """List the values that occur more than once, sorted; empty if there are none."""
    counts = Counter(values)
    return ", ".join(sorted(str(value) for value, n in counts.items() if n > 1))


def duplicate_problems(values: Iterable[Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Refuse repeated values, for `Config.problems`."""
    if names := repeated(values):
        yield key, f"{names}: given more than once; keep each once"


def exactly_one(settings: Config, first: str, second: str) -> Iterator[tuple[str, str]]:
    """Require exactly one of two keys, for `Config.problems`."""
    n_set = sum(bool(getattr(settings, name)) for name in (first, second))
    if n_set != 1:
        yield "", f"give either {first} or {second}: {'both are' if n_set else 'neither is'} given"


def raise_problems(problems: Iterable[tuple[str, str]]) -> None:
    """Raise a ValidationError for problems as in `Config.problems`; without any, do nothing."""
    errors = []
    for key, text in problems:
        keys = tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)
        errors.append(InitErrorDetails(type=_complete(text), loc=keys, input=None))
    if errors:
        raise ValidationError.from_exception_data("settings", errors)


def choose_kind(
    kinds: Mapping[str, Any], value: Any, context: Mapping[str, Any] | None, what: str = ""
) -> Any:
    """Validate settings with the model that their key ``kind`` names.

    Args:
        kinds: models by kind, or functions that return them.
        value: the settings; a text stands for a kind without further settings.
        context: of the validation.
        what: what the kinds are of, for messages.
    """
    if isinstance(value, Config):
        return value
    section = {"kind": value} if isinstance(value, str) else value
    names = ", ".join(sorted(kinds))
    if not isinstance(section, Mapping):
        raise_problems(
            [("", f"should be a mapping with kind, one of: {names} (got {quoted(value)})")]
        )
    if "kind" not in section:
        near = [key for key in map(str, section) if nearest(key, ["kind"])]
        misspelt = [(key, f"not a known key{did_you_mean(key, ['kind'])}") for key in near]
        raise_problems([("", f"required key 'kind' is not given. Known: {names}"), *misspelt])
    kind = section["kind"]
    if kind not in list(kinds):
        text = f"{what} {kind!r} is not known{did_you_mean(str(kind), kinds)}".strip()
        raise_problems([("kind" if section is value else "", text)])
    model = kinds[kind] if isinstance(kinds[kind], type) else kinds[kind]()
    return model.model_validate(section, context=context)


def by_kind(*models: type[Config], default: str | None = None) -> WrapValidator:
    """Choose a model of an Annotated union by the key ``kind``, see `choose_kind`.

    Settings without the key have the default kind, if there is one.
    """
    kinds = {
        kind: model for model in models for kind in get_args(model.model_fields["kind"].annotation)
    }

    def choose(value: Any, _handler: Any, info: ValidationInfo) -> Any:
        if default and isinstance(value, Mapping) and "kind" not in value:
            value = {"kind": default, **value}
        return choose_kind(kinds, value, info.context)

    return WrapValidator(choose)


# ---- exceptions


class InputError(ValueError):
    """The user's input cannot be used.

    The message says what is wrong, where, what is allowed and how to fix it, with one line for each
    problem. The command line prints it without a traceback and exits with 2.
    """

    @classmethod
    def refuse(cls, problems: Iterable[str]) -> None:
        """Raise the problems, one a line; without any, do nothing."""
        lines = list(problems)
        if lines:
            raise cls("\n".join(lines))


class StorageError(OSError):
    """A disk is full or read-only, or a folder disappeared during a run.

    The command line prints the message without a traceback and exits with 1.
    """


class LostError(RuntimeError):
    """Another process of a run on several devices has ended, so this one must end too.

    The command line prints the message without a traceback and exits with 1.
    """


def complaints(*checks: tuple[Callable[..., object], *tuple[Any, ...]]) -> list[str]:
    """Run several checks and return the lines of all their InputErrors, without repetitions.

    Args:
        *checks: each a function and its arguments; a check whose first argument is None is skipped.
    """
    lines: dict[str, None] = {}
    for check, *arguments in checks:
        if arguments and arguments[0] is None:
            continue
        try:
            check(*arguments)
        except InputError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    return list(lines)


# ---- words in messages


def quoted(value: object) -> str:
    """Format a value for a message: its repr, shortened."""
    return shortened(repr(value))


def shortened(value: object) -> str:
    """Cut a text to `LONGEST_VALUE` characters."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def utf8(text: object) -> str:
    r"""Escape the bytes of a file name that are not UTF-8, as \udcff."""
    return str(text).encode(errors="backslashreplace").decode()


def did_you_mean(
    name: str,
    allowed: Iterable[str],
    *,
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
    listed: str = "",
) -> str:
    """Return the tail of a 'not known' message: the nearest names, then all that are allowed.

    For example ``"; did you mean 'qed'? Known: logp, qed, tpsa"``.

    Args:
        name: the unknown name.
        allowed: the known names.
        also: see `nearest`.
        meanings: see `nearest`.
        listed: a command that lists the names; the message then names it instead of them.
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


STOP_WORDS = {*("a", "an", "and", "by", "count", "for", "from", "in", "is", "mol", "molecule")}
STOP_WORDS |= {*("num", "number", "of", "or", "score", "the", "to")}
"""Words that do not help to find the name that was meant."""


def nearest(
    name: str,
    allowed: Iterable[str],
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> list[str]:
    """Find the names, at most two, that were probably meant.

    Args:
        name: the unknown name.
        allowed: the known names.
        also: synonyms of the known names; case, blanks and punctuation are then ignored.
        meanings: a sentence for each known name; a word shared with it counts as a match.
    """
    names, also, meanings = list(allowed), also or {}, meanings or {}
    spellings = {n: {_plain(n), *map(_plain, also.get(n, ()))} for n in names}
    same = [n for n in names if _plain(name) in spellings[n]]
    if same:
        return same[:2]
    by_spelling = {plain: n for n in names for plain in spellings[n]}
    near = get_close_matches(name, names, n=1, cutoff=0.75 if also else 0.6)
    near = near or [by_spelling[p] for p in get_close_matches(_plain(name), by_spelling, 1, 0.75)]
    if near:
        return near
    words = _words(name)

    def n_shared(n: str) -> tuple[int, int]:
        spelled = _words(" ".join([n, *also.get(n, ())]))
        return len(words & spelled), len(words & _words(meanings.get(n, "")))

    best = sorted(names, key=n_shared, reverse=True)[:2]
    return [n for n in best if any(n_shared(n))] or get_close_matches(name, names, n=1, cutoff=0.6)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(text: str) -> set[str]:
    """Split a text, or a name such as numHBDonors or ring_count, into words in the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    words = {part.lower() for part in parts if len(part) > 1}
    return {word.removesuffix("s") if len(word) > 3 else word for word in words} - STOP_WORDS


def install_command(extra: str) -> str:
    """Return the command that installs an extra, such as ``pip install 'fcd_torch>=1.0.7'``.

    It names the packages, not the extra: chemkl is in no index that pip searches.
    """
    try:
        lines = requires("chemkl") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        lines = []
    parts = [line.partition(";") for line in lines]
    names = [name.strip() for name, _, marker in parts if f'extra == "{extra}"' in marker]
    return f"pip install {' '.join(map(repr, names))}" if names else f"pip install -e '.[{extra}]'"


@cache
def say_once(line: str) -> None:
    """Print a line to the error output, once in a run; worker processes print nothing."""
    if multiprocessing.parent_process() is None:
        sys.stderr.write(" ".join(line.split()) + "\n")
