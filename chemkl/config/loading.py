"""The one way from what the user wrote to a checked config: files, mappings and overrides."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from chemkl.config.base import InputError, cut, did_you_mean, shown
from chemkl.config.document import MOST_LEVELS, QUOTE_HINT, Document, Keys, parse
from chemkl.config.paths import InputPath


@dataclass(frozen=True)
class Override:
    """One setting changed from outside: the way to it, its new value, and who says so."""

    keys: Keys
    """The way to the setting; a whole number is a position in a list, counted from 0."""
    value: Any
    """The new value."""
    where: str
    """What the user reads in front of a problem with it."""

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Read ``dotted.key=value``; the value is YAML: a number, text, or a list in brackets.

        Raises:
            InputError: no equals sign, no key, no value, or a value that is not YAML.
        """
        where = f"override {shown(text)}"
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{where}: expected key=value, for example target.beta=0.1.")
        keys = dotted(name, where)
        root, plain = parse(value, where)
        if root is None:
            raise InputError(
                f"{where}: no value after '='; write null for none, and put empty text, or text "
                "that begins with #, in quotes."
            )
        return cls(keys, plain, where)


def dotted(name: str, where: str) -> Keys:
    """Split ``reward.components.0.weight`` into keys and positions.

    Raises:
        InputError: the name, or a part of it between dots, is empty, or it has too many parts.
    """
    parts = [part.strip() for part in name.split(".")]
    if not all(parts):
        raise InputError(f"{where}: {shown(name)} is not a key; expected names joined by dots.")
    if len(parts) > MOST_LEVELS:
        raise InputError(f"{where}: a key of {len(parts):,} parts; at most {MOST_LEVELS} exist.")
    return tuple(int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in parts)


def apply(data: Any, overrides: Iterable[Override]) -> tuple[Any, list[InputError]]:
    """Put the overrides into the data, later ones last; the data given stays as it is.

    Returns:
        The new data, and the problems of overrides that had no place to go.
    """
    problems = []
    for override in overrides:
        try:
            data = _replaced(data, override, 0)
        except InputError as error:
            problems.append(error)
    return data, problems


def _replaced(data: Any, override: Override, depth: int) -> Any:
    """A copy of the data with the override put in, the containers on the way copied."""
    if depth == len(override.keys):
        return override.value
    key = override.keys[depth]
    way = ".".join(map(str, override.keys[:depth]))
    if isinstance(data, list | tuple):
        if not isinstance(key, int) or key >= len(data):
            raise InputError(
                f"{override.where}: {way} is a list of {len(data)}; "
                f"{key!r} is not one of its positions 0 to {len(data) - 1}."
            )
        return [*data[:key], _replaced(data[key], override, depth + 1), *data[key + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"{override.where}: {way} is {shown(data)}, which has no keys inside it.")
    name = key if key in data else str(key)
    return {**data, name: _replaced(data.get(name), override, depth + 1)}


AFTER_THE_FILE = 1_000_000_000
"""Problems of overrides are listed after the last line of any file."""

UNKNOWN = "not a known key"
REQUIRED = "required"
"""How problems begin that a change of `kind` can make."""


def origin(
    keys: Keys, document: Document, overrides: Sequence[Override], text: str = ""
) -> tuple[str, int, bool]:
    """Say who wrote what stands at some keys: the file, or overrides.

    It is the last override that gave the whole of it; for a section that the file does not have,
    those that made it and come nearest to the keys; else the file. Overrides that changed part of
    what these wrote are named with them, as the problem may lie in how the parts go together.

    Args:
        keys: where the problem is.
        document: the settings before any override.
        overrides: all of them, in order.
        text: the problem; of several overrides those are named whose keys it mentions.

    Returns:
        What the user reads in front of a problem, a number to sort by, and whether it is the file.
    """
    wanted, numbered = _names(keys), list(enumerate(overrides))
    whole = [n for n, each in numbered if wanted[: len(each.keys)] == _names(each.keys)]
    made = _names(_made(document.data, keys))
    if whole:
        authors = [whole[-1], *_changing(wanted, overrides, text, after=whole[-1])]
    elif made and any(_names(each.keys)[: len(made)] == made for each in overrides):
        shared = {n: _shared(_names(each.keys), wanted) for n, each in numbered}
        nearest = [n for n, depth in shared.items() if depth == max(shared.values())]
        authors = _mentioned(nearest, overrides, text)
    else:
        authors = _changing(wanted, overrides, text)
        if not authors or _is_of_the_file(
            document.data, keys, text, [overrides[n] for n in authors]
        ):
            where = " with ".join(filter(None, [document.where(keys), _joined(overrides, authors)]))
            return where, document.line(keys) or 0, True
    return _joined(overrides, authors), AFTER_THE_FILE + authors[-1], False


def _is_of_the_file(data: Any, keys: Keys, text: str, changes: Iterable[Override]) -> bool:
    """Whether the file has a part in the problem of a section that overrides have changed."""
    changed = {str(each.keys[-1]) for each in changes}
    if text.startswith((UNKNOWN, REQUIRED)) or not changed & _words(text):
        return True
    for key in keys:
        data = _inside(data, key)
    own = set(map(str, data)) - changed if isinstance(data, Mapping) else set()
    return bool(own & _words(text))


def _changing(
    wanted: list[str], overrides: Sequence[Override], text: str, after: int = -1
) -> list[int]:
    """Which overrides changed part of what stands at the keys, or which keys there should be."""
    unknown, required = text.startswith(UNKNOWN), text.startswith(REQUIRED)
    changing = []
    for number, override in enumerate(overrides[after + 1 :], start=after + 1):
        names = _names(override.keys)
        inside = not unknown and len(names) > len(wanted) and names[: len(wanted)] == wanted
        kind = (unknown or required) and names == [*wanted[:-1], "kind"]
        if inside or kind:
            changing.append(number)
    # everything is inside a whole config: there an override has to be spoken of
    return _mentioned(changing, overrides, text, otherwise_all=bool(wanted))


def _mentioned(
    numbers: list[int], overrides: Sequence[Override], text: str, *, otherwise_all: bool = True
) -> list[int]:
    """Those whose last key the text has in it as a word; all of them where it has none."""
    found = [n for n in numbers if str(overrides[n].keys[-1]) in _words(text)]
    return found or (numbers if otherwise_all else [])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _joined(overrides: Sequence[Override], numbers: Iterable[int]) -> str:
    return " and ".join(dict.fromkeys(overrides[n].where for n in numbers))


def _shared(some: list[str], others: list[str]) -> int:
    """How many keys two ways have in common from their beginning."""
    depth = 0
    for one, other in zip(some, others, strict=False):  # one way may be longer
        if one != other:
            break
        depth += 1
    return depth


def _made(data: Any, keys: Keys) -> Keys:
    """The way to the first thing that the data has nothing at; no keys where it has all of it."""
    for depth, key in enumerate(keys, start=1):
        data = _inside(data, key)
        if data is None:
            return keys[:depth]
    return ()


def _inside(data: Any, key: str | int) -> Any:
    """What the data has at a key or position; None where it has nothing."""
    if isinstance(data, Mapping):
        return data.get(key, data.get(str(key)))
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


def _names(keys: Keys) -> list[str]:
    return [str(key) for key in keys]


@dataclass(frozen=True)
class Draft:
    """Settings as plain data, overrides put in.

    Where they do not fit the schema, a stage still looks into the parts that can be read, so that
    the user hears of every problem at once.
    """

    model: type[BaseModel]
    """The config's class."""
    document: Document
    """Where the settings stand."""
    data: Any
    """The settings themselves."""
    overrides: Sequence[Override]
    """What changed them from outside."""
    context: Mapping[str, Any]
    """Where paths are looked up, see `InputPath`."""

    def get(self, key: str) -> Any:
        """One setting as the schema would have it.

        Returns:
            None where it is missing or does not fit, or is the path of something not made yet.
        """
        field = self.model.model_fields[key]
        # not the field itself: its discriminator would come before its validators
        kind: Any = Annotated[field.annotation, *field.metadata, None]
        return self._fitting(kind, self.data.get(key, field.get_default()))

    def mapping(self, key: str) -> dict[str, Any] | None:
        """One setting as the user wrote it, if it is a mapping."""
        value = self.data.get(key)
        return dict(value) if isinstance(value, Mapping) else None

    def section(self, key: str) -> Document | Path | None:
        """A section that stands here, or in a file that is named here."""
        within = self.mapping(key)
        if within is not None:
            return self.document.at((key,), within)
        path: Path | None = self._fitting(InputPath, self.data.get(key))
        return path

    def placed(self, key: str, lines: Iterable[str]) -> list[str]:
        """Say where the setting stands that the lines are about."""
        return [
            f"{origin((key,), self.document, self.overrides, line)[0]}: {line}" for line in lines
        ]

    def _fitting(self, kind: Any, value: Any) -> Any:
        try:
            found = TypeAdapter(kind).validate_python(value, context=dict(self.context))
        except ValidationError:
            return None
        waits = isinstance(found, Path) and (not found.exists() or self._is_remade(found))
        return None if waits else found

    def _is_remade(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.context["earlier"])


def members_of(expected: Any) -> list[Any]:
    """The types that a union allows beside None; one for everything else."""
    while get_origin(expected) is Annotated:
        expected = get_args(expected)[0]
    if get_origin(expected) in (Union, UnionType):
        allowed = [member for member in get_args(expected) if member is not NoneType]
        return members_of(allowed[0]) if len(allowed) == 1 else allowed
    return [expected]


def member_of(members: list[Any], label: str) -> tuple[Any, bool]:
    """The member with that label, and whether the user named it by its `kind`."""
    for member in members:
        if label in map(str, kinds_of(member)):
            return member, True
    for member in members:
        nested = len(members_of(member)) > 1 and "union[" in label
        literal = get_origin(members_of(member)[0]) is Literal and label.startswith("literal[")
        named = inspect.isclass(member) and label in (member.__name__, member.__name__.lower())
        if nested or literal or named:
            return member, False
    return Any, False


def kinds_of(member: Any) -> tuple[Any, ...]:
    """The values of `kind` by which a config is chosen in a tagged union."""
    kind = member.model_fields.get("kind") if is_model(member) else None
    return get_args(kind.annotation) if kind is not None else ()


def type_inside(expected: Any, step: str | int) -> Any:
    """The type wanted at a key or position of something of the expected type."""
    if is_model(expected):
        field = expected.model_fields.get(step)
        return Any if field is None else field.annotation
    inner = get_args(expected)
    if not inner or not inspect.isclass(origin := get_origin(expected)):
        return Any
    if issubclass(origin, Mapping):
        return inner[1]
    if origin is tuple and Ellipsis not in inner:
        return inner[step] if isinstance(step, int) and step < len(inner) else Any
    return inner[0]


def is_model(expected: Any) -> bool:
    """Whether a mapping with known keys is wanted."""
    return inspect.isclass(expected) and issubclass(expected, BaseModel)


def allowed_values(expected: Any) -> list[str]:
    """The values of a Literal or of an enumeration."""
    members = members_of(expected)
    values = [value for m in members if get_origin(m) is Literal for value in get_args(m)]
    return ["null" if value is None else str(value) for value in values]


def meaning_of(owner: Any, name: str) -> str:
    """The first sentence of a field's description."""
    field = owner.model_fields.get(name) if is_model(owner) else None
    if field is None or not field.description:
        return ""
    sentence = " ".join(field.description.split()).split(". ")[0].rstrip(".")
    return f" ({sentence})"


_MAPPING = "should be a mapping, one 'key: value' a line"
_LIST = "should be a list, one '- item' a line, or [a, b]"
_INTEGER = "should be a whole number"
_NUMBER = "should be a number"
_SWITCH = "should be true or false"
PLAIN_WORDS = {
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "string_type": "should be text",
    "path_type": "should be a path",
}
"""What pydantic's kinds of error mean, in plain words."""

WITHOUT_VALUE = {"missing", "extra_forbidden", "union_tag_not_found", "union_tag_invalid"}
"""Kinds of error that the value at the place does not explain."""


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic, placed in what the user wrote."""

    error: ErrorDetails
    keys: Keys
    """The keys as the user wrote them, without pydantic's labels for the members of a union."""
    owner: Any
    """The type in which the last key stands."""
    expected: Any
    """The type wanted at the keys."""
    choice: Keys | None
    """Where the user may choose between types that have no `kind`; None: nowhere on the way."""


def render(
    error: ValidationError,
    model: type[BaseModel],
    document: Document,
    overrides: Sequence[Override] = (),
) -> list[tuple[int, str]]:
    """Describe each problem as ``file:line: key.path: problem``, with its line for sorting."""
    placed = [_place(model, details) for details in error.errors(include_url=False)]
    lines = []
    for keys, text in _settled(_without_echoes(placed)):
        where, order, inside = origin(keys, document, overrides, text)
        path = document.prefix + keys if inside else keys
        prefix = ": ".join(filter(None, [where, ".".join(map(cut, path))]))
        lines += [(order, f"{prefix}: {part}") for part in text.splitlines()]
    return lines


def _place(model: type[BaseModel], error: ErrorDetails) -> _Problem:
    """Follow pydantic's location through the types of the model."""
    keys: Keys = ()
    owner: Any = None
    expected: Any = model
    choice: Keys | None = None
    for step in error["loc"]:
        members = members_of(expected)
        if len(members) > 1:  # the step is pydantic's label of one member
            expected, by_kind = member_of(members, str(step))
            choice = keys if choice is None and not by_kind else choice
        elif step != "[key]":
            owner, expected = members[0], type_inside(members[0], step)
            keys = (*keys, step)
    if error["type"] == "union_tag_invalid":
        keys = (*keys, error["ctx"]["discriminator"].strip("'"))
    return _Problem(error, keys, owner, expected, choice)


def _without_echoes(problems: list[_Problem]) -> list[_Problem]:
    """Leave out that a value is too short where pydantic only missed the items that are wrong.

    It does not count these, and then complains of [6] that there should be at least 1 entry.
    """
    return [
        problem
        for problem in problems
        if problem.error["type"] != "too_short"
        or len(problem.error["input"]) < problem.error["ctx"]["min_length"]
        or not any(_is_inside(other, problem) for other in problems)
    ]


def _is_inside(inner: _Problem, outer: _Problem) -> bool:
    return len(inner.keys) > len(outer.keys) and inner.keys[: len(outer.keys)] == outer.keys


def _settled(problems: list[_Problem]) -> Iterator[tuple[Keys, str]]:
    """Texts by place; where any of several types would do, only what the nearest one lacks."""
    choices: dict[Keys, list[_Problem]] = {}
    for problem in problems:
        if problem.choice is None:
            yield problem.keys, _text([problem])
        else:
            choices.setdefault(problem.choice, []).append(problem)
    for choice, rivals in choices.items():
        deeper = [p for p in rivals if p.keys != choice]
        right_type = [p for p in rivals if not p.error["type"].endswith("_type")]
        places: dict[Keys, list[_Problem]] = {}
        for problem in deeper or right_type or rivals:
            places.setdefault(problem.keys, []).append(problem)
        for keys, same_place in places.items():
            yield keys, _text(same_place)


def _text(same_place: list[_Problem]) -> str:
    """What is wrong at one place, and the value unless the text has it already."""
    text = ", or ".join(dict.fromkeys(_phrase(problem) for problem in same_place))
    kinds = {problem.error["type"] for problem in same_place}
    given = same_place[0].error["input"]
    whole = isinstance(given, dict | BaseModel)
    own_words = kinds & {"value_error", "assertion_error", "literal_error"}
    if kinds & WITHOUT_VALUE or (own_words and (whole or repr(given).strip("'") in text)):
        return text
    return f"{text} (got {shown(given)})"


def _phrase(problem: _Problem) -> str:
    error, context = problem.error, problem.error.get("ctx", {})
    name = str(problem.keys[-1]) if problem.keys else ""
    match error["type"]:
        case "missing":
            return f"{REQUIRED}, and not given{meaning_of(problem.owner, name)}"
        case "extra_forbidden":
            known = problem.owner.model_fields if is_model(problem.owner) else ()
            return f"{UNKNOWN}{did_you_mean(name, known)}"
        case "union_tag_invalid" | "union_tag_not_found":
            return _tag_phrase(problem, context)
        case "literal_error" | "enum":
            allowed = allowed_values(problem.expected)
            hint = did_you_mean(str(error["input"]), allowed) if allowed else ""
            return f"{shown(error['input'])} is not allowed{hint or ': ' + error['msg']}"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "string_type" if isinstance(error["input"], list):
            return f"should be text{QUOTE_HINT}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            return _length_phrase(error["type"], context)
        case "string_pattern_mismatch":
            return f"has not the form that is wanted here{meaning_of(problem.owner, name)}"
        case kind if kind in PLAIN_WORDS:
            return PLAIN_WORDS[kind]
        case _:
            return error["msg"].replace("Input should be", "should be", 1)


def _length_phrase(kind: str, context: dict[str, Any]) -> str:
    bound, limit = (
        ("at least", "min_length") if kind.endswith("short") else ("at most", "max_length")
    )
    thing = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
    number = context[limit]
    return f"should have {bound} {number} {thing[number != 1]}"


def _tag_phrase(problem: _Problem, context: dict[str, Any]) -> str:
    kinds = {str(kind) for member in members_of(problem.expected) for kind in kinds_of(member)}
    if problem.error["type"] == "union_tag_not_found":
        known = ", ".join(sorted(kinds))
        return f"required key {context['discriminator']} is not given. Known: {known}"
    return f"{shown(context['tag'])} is not known{did_you_mean(str(context['tag']), kinds)}"


Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model: type[Model],
    source: object,
    overrides: Iterable[str | Override] = (),
    folder: str | Path | None = None,
    *,
    also: Iterable[Path] = (),
    promised: Iterable[Path] = (),
    earlier: Mapping[Path, Sequence[str]] | None = None,
    beside: Callable[[Draft], Iterable[str]] | None = None,
    kinds: Iterable[str] = (),
) -> Model:
    """Read and check a config.

    Args:
        model: the config's class.
        source: an instance of it, a mapping, or the path of a YAML file.
        overrides: settings to change, as ``dotted.key=value``.
        folder: where relative paths are looked up first; default: the file's own folder. The
            working directory comes last.
        also: further folders to look in, before the working directory.
        promised: folders whose content need not exist yet.
        earlier: output folders of jobs that run before, and the names of what each writes, see
            `InputPath`; what is in them now is not looked into.
        beside: finds what the schema cannot see in settings that do not fit it; it is asked only
            then, and what the schema has said already is not said again.
        kinds: folders of files that come with chemkl, for a name alone, see `shipped.find`.

    Returns:
        The checked config.

    Raises:
        InputError: with a line for every problem there is.
    """
    overrides = list(overrides)
    if isinstance(source, model) and not overrides:
        return source
    if isinstance(source, BaseModel):
        source = _data_of(source, model)
    document = Document.of(source, model.__name__, None if folder is None else Path(folder), kinds)
    problems: list[tuple[int, str]] = [
        (
            line,
            f"{document.name}:{line}: {'.'.join(map(str, keys))}: given twice, first in line "
            f"{first}; keep one",
        )
        for keys, line, first in document.repeated_keys()
    ]
    changes, bad = _parsed(overrides)
    data, misplaced = apply(document.data, changes)
    problems += [(AFTER_THE_FILE, str(error)) for error in (*bad, *misplaced)]
    earlier = earlier or {}
    context = {
        "folder": document.folder,
        "also": tuple(also),
        "typed": {str(change.value) for change in changes},
        "promised": frozenset((*promised, *earlier)),
        "earlier": earlier,
    }
    try:
        config = model.model_validate(data, context=context)
    except ValidationError as error:
        problems += render(error, model, document, changes)
    if not problems:
        return config
    lines = [text for _, text in sorted(problems, key=lambda p: p[0])]
    if beside is not None:
        found = beside(Draft(model, document, data, changes, context))
        lines += [line for line in found if not any(line in known for known in lines)]
    raise InputError("\n".join(dict.fromkeys(lines)))


def _data_of(source: BaseModel, model: type[BaseModel]) -> dict[str, object]:
    if not isinstance(source, model):
        raise InputError(f"expected a {model.__name__}, got a {type(source).__name__}.")
    return source.model_dump()


def _parsed(overrides: Iterable[str | Override]) -> tuple[list[Override], list[InputError]]:
    changes, problems = [], []
    for override in overrides:
        try:
            changes.append(override if isinstance(override, Override) else Override.parse(override))
        except InputError as error:
            problems.append(error)
    return changes, problems
