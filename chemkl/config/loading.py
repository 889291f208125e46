"""The one way from what the user wrote to a checked config: files, mappings and overrides.

`render` turns pydantic's errors into lines "file:line: key.path: problem; did you mean ...".
"""

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from chemkl.config.base import SAID, InputError, Keys, cut, did_you_mean, shown
from chemkl.config.document import MOST_LEVELS, QUOTE_HINT, Document, dump, parse
from chemkl.config.paths import InputPath

Model = TypeVar("Model", bound=BaseModel)

AFTER_THE_FILE = 1_000_000_000
"""Problems of overrides are listed after the last line of any file."""

_OF_A_KIND = ("target", "estimator", "shaper", "diversity_filter", "transform")
"""Sections that may be the name of a kind alone."""
_MAPPING = "should be a mapping, one 'key: value' a line"
_LIST = "should be a list, one '- item' a line, or [a, b]"
_PLAIN_WORDS = {
    **dict.fromkeys(["model_type", "model_attributes_type", "dict_type", "mapping_type"], _MAPPING),
    **dict.fromkeys(["list_type", "tuple_type"], _LIST),
    **dict.fromkeys(["int_type", "int_parsing", "int_from_float"], "should be a whole number"),
    "int_parsing_size": "should be a whole number of at most 18 digits",
    **dict.fromkeys(["float_type", "float_parsing"], "should be a number"),
    **dict.fromkeys(["bool_type", "bool_parsing"], "should be true or false"),
    "string_type": "should be text",
    "path_type": "should be a path",
    "missing": "required, and not given",
    "extra_forbidden": "not a known key",
}
"""What pydantic's kinds of error mean, in plain words."""


@dataclass(frozen=True)
class Override:
    """One setting changed from outside: the way to it, its new value, and who says so.

    A whole number among the keys is a position in a list, counted from 0.
    """

    keys: Keys
    value: Any
    where: str

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Read ``dotted.key=value``; the value is YAML: a number, text, or a list in brackets."""
        where = f"override {shown(text)}"
        name, equals, value = text.partition("=")
        keys = dotted(name, where) if equals else ()
        parsed = parse(value, where)
        if not (keys and parsed.lines):
            problem = (
                "no value after '='; write null for none, and put empty text, or text that begins "
                "with #, in quotes."
            )
            expected = "expected key=value, for example target.beta=0.1."
            raise InputError(f"{where}: {problem if keys else expected}")
        return cls(keys, parsed.data, where)


def dotted(name: str, where: str) -> Keys:
    """Split ``reward.components.0.weight`` into keys and positions."""
    parts = [part.strip() for part in name.split(".")]
    if not all(parts) or len(parts) > MOST_LEVELS:
        form = f"names joined by dots, at most {MOST_LEVELS}"
        raise InputError(f"{where}: {shown(name)} is not a key; expected {form}.")
    return tuple(int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in parts)


def _replaced(data: Any, override: Override, depth: int) -> Any:
    """A copy of the data with the override put in, the containers on the way copied."""
    if depth == len(override.keys):
        return override.value
    key = override.keys[depth]
    if data is None or isinstance(data, dict):
        data = data or {}
        name = key if key in data else str(key)
        return {**data, name: _replaced(data.get(name), override, depth + 1)}
    if isinstance(data, list | tuple) and isinstance(key, int) and key < len(data):
        return [*data[:key], _replaced(data[key], override, depth + 1), *data[key + 1 :]]
    problem = f"is {shown(data)}, which has no keys inside it"
    if isinstance(data, str) and override.keys[depth - 1] in _OF_A_KIND:
        whole = shlex.quote(dump({"kind": data, key: override.value}, one_line=True))
        problem += f"; with keys write {'.'.join(map(str, override.keys[:depth]))}={whole}"
    if isinstance(data, list | tuple):
        positions = f"{key!r} is not one of its positions 0 to {len(data) - 1}"
        problem = f"is a list of {len(data)}; {positions}"
    raise InputError(f"{override.where}: {'.'.join(map(str, override.keys[:depth]))} {problem}.")


def place_of(
    keys: Keys, document: Document, overrides: Sequence[Override] = (), text: str = ""
) -> tuple[str, int, bool]:
    """Say where what stands at some keys was written: in the file, or in overrides.

    Of overrides that changed a part of it, those are named that the ``text`` of the problem names.
    It gives what the user reads before a problem, a number to sort by, and whether it is the file.
    """
    wanted = [str(key) for key in keys]
    in_file, line = document.nearest(keys)
    ill_fitting = text.startswith(("not a known key", "required"))
    there, gave_all = in_file, False
    authors: list[tuple[int, Override]] = []
    for number, override in enumerate(overrides):
        names = [str(key) for key in override.keys]
        shared = max(n for n in range(len(names) + 1) if names[:n] == wanted[:n])
        is_named = not ill_fitting and names[-1] in re.findall(r"\w+", text)
        if keys and shared == len(names):
            gave_all, authors = True, [(number, override)]
            there = shared + _depth(override.value, wanted[shared:])
        elif (
            shared > there  # it made a section that was not there
            or (shared == len(wanted) and names[-1] in re.findall(r"\w+", text))
            or (is_named and names[:-1] == wanted[: len(names) - 1])
            or (ill_fitting and names == [*wanted[:-1], "kind"])
        ):
            authors.append((number, override))
    joined = " and ".join(dict.fromkeys(override.where for _, override in authors))
    if gave_all or (authors and in_file < len(keys)):
        return joined, AFTER_THE_FILE + authors[-1][0], False
    where = " with ".join(filter(None, [document.where(keys), joined]))
    return where, line or 0, True


def _depth(data: Any, wanted: Sequence[str]) -> int:
    """How many of these keys, from the first one on, the data of an override has."""
    for place, key in enumerate(wanted):
        if not isinstance(data, Mapping) or key not in data:
            return place
        data = data[key]
    return len(wanted)


_TYPES = ("str", "int", "float", "bool")
"""How pydantic labels the plain members of a union."""


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic, at the keys as the user wrote them.

    ``choice`` is where the user may choose between types; None: nowhere on the way.
    """

    error: ErrorDetails
    keys: Keys
    choice: Keys | None


def render(
    error: ValidationError, document: Document, overrides: Sequence[Override] = ()
) -> list[tuple[int, str]]:
    """Describe each problem as ``file:line: key.path: problem``, with its line for sorting.

    The document holds the data that pydantic looked at, the overrides put in.
    """
    placed = [_placed(document.data, details) for details in error.errors(include_url=False)]
    lines = []
    for keys, text in _settled(placed):
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
            own_words = error["type"] in (SAID, "missing", "value_error")
            if not (is_last and own_words and step.isidentifier() and step not in _TYPES):
                choice = keys if choice is None else choice
                continue  # a label; else it is the key that should be there
        keys = (*keys, step)
    return _Problem(error, keys, choice)


def _settled(problems: list[_Problem]) -> Iterator[tuple[Keys, str]]:
    """Texts by place; where any of several types would do, only what the nearest one lacks.

    Left out is a list that pydantic calls too short as it did not count the items that are wrong.
    """
    choices: dict[Keys, list[_Problem]] = {}
    inside = {problem.keys[:n] for problem in problems for n in range(len(problem.keys))}
    for problem in problems:
        error = problem.error
        is_short = error["type"] == "too_short" and problem.keys in inside
        if is_short and len(error["input"]) >= error["ctx"]["min_length"]:
            continue
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
    complete = bool(kinds & {SAID, "missing", "extra_forbidden"})
    if kinds & {"value_error", "literal_error"}:
        complete = complete or whole or repr(given).strip("'") in text
    return text if complete else f"{text} (got {shown(given)})"


def _phrase(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error" | "enum":
            words = re.split(", | or ", context["expected"])
            allowed = ["null" if word == "None" else word.strip("'") for word in words]
            hint = did_you_mean(str(error["input"]), allowed)
            return f"{shown(error['input'])} is not allowed{hint}"
        case "value_error":
            return str(context["error"])
        case "string_type" if isinstance(error["input"], list):
            return f"should be text{QUOTE_HINT}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long" as kind:
            bound = "at least" if kind.endswith("short") else "at most"
            number = context["min_length" if kind.endswith("short") else "max_length"]
            one, several = ("character", "characters") if "string" in kind else ("entry", "entries")
            return f"should have {bound} {number} {one if number == 1 else several}"
        case kind:
            plain = error["msg"].replace("Input should be", "should be", 1)
            return _PLAIN_WORDS.get(kind, plain)


@dataclass(frozen=True)
class Draft:
    """Settings as plain data, overrides put in, that do not fit the schema of the model.

    A stage still looks into the parts that can be read, so that the user hears of every problem.
    The context says where paths are looked up, see `InputPath`.
    """

    model: type[BaseModel]
    document: Document
    data: Any
    overrides: Sequence[Override]
    context: Mapping[str, Any]

    def get(self, key: str, kind: Any = None) -> Any:
        """One setting as the schema, or another type, would have it.

        None where it is missing or does not fit, or is the path of something not made yet.
        """
        field = self.model.model_fields[key]
        value = self.data.get(key, field.get_default())
        kind = kind or Annotated[field.annotation, *field.metadata, None]
        try:
            setting = TypeAdapter(kind).validate_python(value, context=dict(self.context))
        except ValidationError:
            return None
        if isinstance(setting, Path):
            remade = any(setting.is_relative_to(folder) for folder in self.context["earlier"])
            return setting if setting.exists() and not remade else None
        return setting

    def mapping(self, key: str) -> dict[str, Any] | None:
        """One setting as the user wrote it, if it is a mapping."""
        value = self.data.get(key)
        return dict(value) if isinstance(value, Mapping) else None

    def section(self, key: str) -> Document | Path | None:
        """A section that stands here, or in a file that is named here."""
        within = self.mapping(key)
        path: Path | None = self.get(key, InputPath) if within is None else None
        return path if within is None else self.document.at((key,), within)

    def placed(self, key: str, lines: Iterable[str]) -> list[str]:
        """Say where the setting stands that the lines are about."""
        keys = tuple(int(name) if name.isdigit() else name for name in key.split("."))
        return [
            f"{place_of(keys, self.document, self.overrides, line)[0]}: {line}" for line in lines
        ]


def load_config(
    model: type[Model],
    source: object,
    overrides: Iterable[str | Override] = (),
    folder: str | Path | None = None,
    *,
    also: Iterable[Path] = (),
    promised: Iterable[Path] = (),
    earlier: Mapping[Path, Sequence[str]] | None = None,
    kept: Collection[Path] = (),
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
        kept: files that may be gone, as a run keeps copies of them.
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
    problems: list[tuple[int, str]] = []
    for keys, line, first in document.repeated:
        key = ".".join(map(str, keys))
        text = f"{document.name}:{line}: {key}: given twice, first in line {first}; keep one"
        problems.append((line, text))
    data, changes = document.data, []
    for given in overrides:
        try:
            change = given if isinstance(given, Override) else Override.parse(given)
            changes.append(change)
            data = _replaced(data, change, 0)
        except InputError as error:
            problems.append((AFTER_THE_FILE, str(error)))
    earlier = earlier or {}
    context = {
        "folder": document.folder,
        "also": tuple(also),
        "typed": {str(change.value) for change in changes},
        "promised": frozenset((*promised, *earlier)),
        "earlier": earlier,
        "kept": kept,
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
