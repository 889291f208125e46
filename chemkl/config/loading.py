"""The one way from what the user wrote to a checked config: files, mappings and overrides.

`render` turns pydantic's errors into lines "file:line: key.path: problem; did you mean ...".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from chemkl.config.base import SAID, InputError, Keys, cut, did_you_mean, shown
from chemkl.config.document import MOST_LEVELS, QUOTE_HINT, Document, parse
from chemkl.config.paths import InputPath

Model = TypeVar("Model", bound=BaseModel)

AFTER_THE_FILE = 1_000_000_000
"""Problems of overrides are listed after the last line of any file."""

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
        parsed = parse(value, where)
        if not parsed.lines:
            raise InputError(
                f"{where}: no value after '='; write null for none, and put empty text, or text "
                "that begins with #, in quotes."
            )
        return cls(keys, parsed.data, where)


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


def apply(
    data: Any, overrides: Iterable[str | Override]
) -> tuple[Any, list[Override], list[InputError]]:
    """Put the overrides into the data, later ones last; the data given stays as it is.

    Returns:
        The new data, the overrides, and the problems of those that have no place to go.
    """
    changes, problems = [], []
    for given in overrides:
        try:
            change = given if isinstance(given, Override) else Override.parse(given)
            changes.append(change)
            data = _replaced(data, change, 0)
        except InputError as error:
            problems.append(error)
    return data, changes, problems


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


def place_of(
    keys: Keys, document: Document, overrides: Sequence[Override] = (), text: str = ""
) -> tuple[str, int, bool]:
    """Say where what stands at some keys was written: in the file, or in overrides.

    Args:
        keys: where the problem is.
        document: the file.
        overrides: all of them, in order.
        text: the problem; of overrides that changed a part of it those are named that it has.

    Returns:
        What the user reads in front of a problem, a number to sort by, and whether it is the file.
    """
    wanted = [str(key) for key in keys]
    in_file = document.depth(keys)
    authors: list[tuple[int, Override]] = []
    for number, override in enumerate(overrides):
        names = [str(key) for key in override.keys]
        pairs = zip(names, wanted, strict=False)  # one way may be longer
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if keys and shared == len(names):  # it gave the whole of this
            authors = [(number, override)]
        elif shared > in_file or (  # it made a section that the file does not have
            shared == len(wanted) and names[-1] in re.findall(r"\w+", text)
        ):
            authors.append((number, override))
    joined = " and ".join(dict.fromkeys(override.where for _, override in authors))
    whole = any(len(override.keys) <= len(keys) for _, override in authors)
    if authors and (whole or in_file < len(keys)):
        return joined, AFTER_THE_FILE + authors[-1][0], False
    where = " with ".join(filter(None, [document.where(keys), joined]))
    return where, document.line(keys) or 0, True


_TYPES = ("str", "int", "float", "bool")
"""How pydantic labels the plain members of a union."""


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic, placed in what the user wrote."""

    error: ErrorDetails
    keys: Keys
    """The keys as the user wrote them, without pydantic's labels for the members of a union."""
    choice: Keys | None
    """Where the user may choose between types; None: nowhere on the way."""


def render(
    error: ValidationError, document: Document, overrides: Sequence[Override] = ()
) -> list[tuple[int, str]]:
    """Describe each problem as ``file:line: key.path: problem``, with its line for sorting.

    Args:
        error: what pydantic found.
        document: holds the data that it looked at, overrides included.
        overrides: what changed the file.
    """
    placed = [_placed(document.data, details) for details in error.errors(include_url=False)]
    lines = []
    for keys, text in _settled([problem for problem in placed if not _is_echo(problem, placed)]):
        where, order, inside = place_of(keys, document, overrides, text)
        path = document.prefix + keys if inside else keys
        prefix = ": ".join(filter(None, [where, ".".join(map(cut, path))]))
        lines += [(order, f"{prefix}: {part}") for part in text.splitlines()]
    return lines


def _placed(data: Any, error: ErrorDetails) -> _Problem:
    """Follow pydantic's location through the data; a step that is not there is a type's label."""
    keys: Keys = ()
    choice: Keys | None = None
    for place, step in enumerate(error["loc"], start=1):
        if isinstance(data, Mapping) and (step in data or str(step) in data):
            data = data[step if step in data else str(step)]
        elif isinstance(data, list | tuple) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif step == "[key]" or (isinstance(data, Mapping) and data.get("kind") == step):
            continue
        elif isinstance(step, str):
            is_last = place == len(error["loc"])
            own_words = error["type"] in (SAID, "missing", "value_error", "assertion_error")
            if not (is_last and own_words and step.isidentifier() and step not in _TYPES):
                choice = keys if choice is None else choice
                continue  # a label; else it is the key that should be there
        keys = (*keys, step)
    if error["type"] == "union_tag_invalid":
        keys = (*keys, error["ctx"]["discriminator"].strip("'"))
    return _Problem(error, keys, choice)


def _is_echo(problem: _Problem, others: list[_Problem]) -> bool:
    """Whether pydantic calls a list too short because it did not count the items that are wrong."""
    error, n = problem.error, len(problem.keys)
    return (
        error["type"] == "too_short"
        and len(error["input"]) >= error["ctx"]["min_length"]
        and any(len(other.keys) > n and other.keys[:n] == problem.keys for other in others)
    )


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
    text = ", or ".join(dict.fromkeys(_phrase(problem.error) for problem in same_place))
    kinds = {problem.error["type"] for problem in same_place}
    given = same_place[0].error["input"]
    whole = isinstance(given, dict | BaseModel)
    own_words = kinds & {"value_error", "assertion_error", "literal_error"}
    if kinds & {SAID, "missing", "extra_forbidden", "union_tag_invalid"} or (
        own_words and (whole or repr(given).strip("'") in text)
    ):
        return text
    return f"{text} (got {shown(given)})"


def _phrase(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error" | "enum":
            words = re.split(", | or ", context["expected"])
            allowed = ["null" if word == "None" else word.strip("'") for word in words]
            hint = did_you_mean(str(error["input"]), allowed)
            return f"{shown(error['input'])} is not allowed{hint}"
        case "missing":  # of a model that is no Config
            return "required, and not given"
        case "extra_forbidden":
            return "not a known key"
        case "union_tag_invalid":
            names = re.findall(r"'([^']*)'", context["expected_tags"])
            return f"{context['tag']!r} is not known{did_you_mean(context['tag'], names)}"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "string_type" if isinstance(error["input"], list):
            return f"should be text{QUOTE_HINT}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long" as kind:
            bound = "at least" if kind.endswith("short") else "at most"
            number = context["min_length" if kind.endswith("short") else "max_length"]
            thing = "character" if kind.startswith("string") else "entr"
            plural = "s" if thing == "character" else "ies"
            singular = "" if thing == "character" else "y"
            return f"should have {bound} {number} {thing}{singular if number == 1 else plural}"
        case kind if kind in PLAIN_WORDS:
            return PLAIN_WORDS[kind]
        case _:
            return error["msg"].replace("Input should be", "should be", 1)


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
            f"{place_of((key,), self.document, self.overrides, line)[0]}: {line}" for line in lines
        ]

    def _fitting(self, kind: Any, value: Any) -> Any:
        try:
            setting = TypeAdapter(kind).validate_python(value, context=dict(self.context))
        except ValidationError:
            return None
        waits = isinstance(setting, Path) and (not setting.exists() or self._is_remade(setting))
        return None if waits else setting

    def _is_remade(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.context["earlier"])


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
        if not isinstance(source, model):
            raise InputError("these are the settings of another stage.")
        source = source.model_dump()
    document = Document.of(source, "settings", None if folder is None else Path(folder), kinds)
    problems: list[tuple[int, str]] = [
        (
            line,
            f"{document.name}:{line}: {'.'.join(map(str, keys))}: given twice, first in line "
            f"{first}; keep one",
        )
        for keys, line, first in document.repeated
    ]
    data, changes, misplaced = apply(document.data, overrides)
    problems += [(AFTER_THE_FILE, str(error)) for error in misplaced]
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
        problems += render(error, replace(document, data=data), changes)
    if not problems:
        return config
    lines = [text for _, text in sorted(problems, key=lambda p: p[0])]
    if beside is not None:
        more = beside(Draft(model, document, data, changes, context))
        lines += [text for text in more if not any(text in line for line in lines)]
    raise InputError("\n".join(dict.fromkeys(lines)))
