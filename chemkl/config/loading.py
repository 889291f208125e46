"""Read settings from a file, a mapping and overrides: a checked config, or every problem at once.

`Document` holds the data as the user wrote it, with the line of each key. `render` turns pydantic's
errors into lines "file:line: key.path: problem; did you mean ...".
"""

import math
import os
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from chemkl.config.base import COMPLETE, InputError, Keys, did_you_mean, quoted, shortened
from chemkl.config.paths import (
    MOST_CHARACTERS,
    TOO_LONG,
    InputPath,
    find_shipped,
    read_text,
    shipped_root,
)

MOST_VALUES = 20_000
"""Limit of the values in a file, including those that aliases repeat."""
MOST_LEVELS = 50
"""Depth limit of nested lists and mappings."""
MOST_DIGITS = 18
"""Limit for whole numbers: they must fit into 64 bits."""

QUOTE_HINT = " (text that begins with one of [ { * & ! @ % ` must be quoted: '[#6]')"
_NEEDS_QUOTES = re.compile(r"(?:^|[:\-=\[,])\s*[\[{*&!@%`]")

# ---- files and mappings


@dataclass(frozen=True)
class Document:
    """Settings as the user wrote them, with the line of each part.

    The name is for messages: the file, or what the settings are for. Relative paths are looked up
    in the folder first.
    """

    data: Any
    name: str
    folder: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """Line of each key and item of the file, by the keys that lead to it."""
    repeated: tuple[tuple[Keys, int, int], ...] = ()
    """Keys that occur twice in a mapping, with the line of the second and of the first."""
    file: Path | None = None
    prefix: Keys = ()
    """The keys that lead to the data in the file."""

    @classmethod
    def of(
        cls, source: object, name: str, folder: Path | None = None, kinds: Iterable[str] = ()
    ) -> Self:
        """Return a document as it is, wrap a mapping, or read a YAML file."""
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            return cls(dict(source), name, folder)
        if isinstance(source, str | Path):
            return cls.read(source, folder, kinds)
        raise InputError(
            f"{name}: expected a mapping or the path of a YAML file, got {type(source).__name__}."
        )

    @classmethod
    def read(cls, path: str | Path, folder: Path | None = None, kinds: Iterable[str] = ()) -> Self:
        """Read a YAML file that holds one mapping.

        Args:
            path: the file, or the name of a shipped one.
            folder: where relative paths in it are looked up; default: its own folder.
            kinds: folders of shipped files, see `find_shipped`.
        """
        file = Path(os.path.expanduser(path))
        shipped = None if os.path.exists(file) else find_shipped(file, *kinds)
        if shipped is not None:
            file, path = shipped, shipped.relative_to(shipped_root())
        text = read_text(file, kinds)
        InputError.refuse(_other_format(file, text, str(path)))
        data, lines, repeated = parse(text, str(path))
        problem = ""
        if not isinstance(data, dict):
            content = "nothing" if data is None else f"a {type(data).__name__}"
            problem = f":1: expected settings, one 'key: value' a line; found {content}."
        elif "run_type" in data and "parameters" in data:
            problem = f": a config of REINVENT4; convert it with: {_conversion(str(path))}."
        if problem:
            raise InputError(f"{path}{problem}")
        file = file.resolve()
        return cls(data, str(path), folder or file.parent, lines, tuple(repeated), file)

    def at(self, keys: Keys, data: object) -> Self:
        """Return a document for the part at these keys, with the given data."""
        return replace(self, data=data, prefix=(*self.prefix, *keys))

    def nearest(self, keys: Keys) -> tuple[int, int | None]:
        """Return how many of these keys, from the first on, the file has, and the last one's line.

        Without a file: all of them, and None.
        """
        path = tuple(map(str, (*self.prefix, *keys)))
        for n in range(len(path), -1, -1):
            if path[:n] in self.lines:
                return max(n - len(self.prefix), 0), self.lines[path[:n]]
        return len(keys), None

    def where(self, keys: Keys = ()) -> str:
        """Return file and line, for example ``configs/posttrain/mara.yaml:7``."""
        line = self.nearest(keys)[1]
        return self.name if line is None else f"{self.name}:{line}"


def _other_format(file: Path, text: str, name: str) -> Iterator[str]:
    """Say that a file is TOML, or a JSON config of REINVENT4."""
    try:
        is_toml = file.suffix.lower() == ".toml" or ("=" in text and bool(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, RecursionError):
        is_toml = False
    if is_toml or ('"run_type"' in text and text.lstrip().startswith("{")):
        problem = f"{name}: a {'TOML' if is_toml else 'JSON'} file, not a YAML config"
        convert = f"Convert a config of REINVENT4 with: {_conversion(name)}"
        yield f"{problem}. {convert}; or write YAML, one 'key: value' a line."


def _conversion(name: str) -> str:
    """Return the command that converts a config of REINVENT4."""
    target = Path(name).with_suffix(".yaml")
    if str(target) == name:
        target = target.with_name(f"{target.stem}-chemkl.yaml")
    return f"chemkl convert {shlex.quote(name)} {shlex.quote(str(target))}"


def dump(data: object, *, one_line: bool = False) -> str:
    """Write plain data as YAML, with keys in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = one_line
    yaml.width = 10_000 if one_line else 80
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # of ruamel.yaml
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue().strip().removesuffix("\n...") if one_line else text.getvalue()


# ---- YAML text

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
    "merge": re.compile("<<"),
    "str": re.compile(".*", re.DOTALL),
}
"""Types of unquoted scalars as in YAML 1.2: 1e-4 is a number; no, on, 1:30 and 0x10 are text."""
_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower())),
    "str": lambda text: text.encode().decode(),  # "\ud800" cannot be encoded
}
"""Converts a scalar of each type; a KeyError or ValueError if a tagged one is not of that type."""


class _Resolver(VersionedResolver):
    """Gives a scalar without quotes and tag its type by `_SCALARS`."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            name = next(name for name, form in _SCALARS.items() if form.fullmatch(value))
            return Tag(suffix=_TAG + name)
        return super().resolve(kind, value, implicit)


class Parsed(NamedTuple):
    """Plain data, the line of each part (none for empty text), and repeated keys."""

    data: Any
    lines: dict[tuple[str, ...], int]
    repeated: list[tuple[Keys, int, int]]


class _UnsupportedError(Exception):
    """Valid YAML that settings may not use, or beyond the limits at the top of this file."""


def parse(text: str, name: str) -> Parsed:
    """Read YAML text: plain values only, within the limits at the top of this file."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{name}: {TOO_LONG}")
    reader = _Reader()
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            root = yaml.compose(text)
        data = None if root is None else reader.value(root, ())
    except (
        *(_UnsupportedError, MarkedYAMLError, ReaderError, ReusedAnchorWarning),
        *(RecursionError, OverflowError, ValueError),
    ) as error:
        raise InputError(f"{name}:{_yaml_problem(error, text, reader.line)}.") from error
    return Parsed(data, reader.lines, reader.repeated)


def _yaml_problem(error: Exception, text: str, line: int) -> str:
    """Return the line of an error in YAML text, and what is wrong there."""
    if isinstance(error, RecursionError):
        return "1: brackets or indentation are nested too deeply"
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f"{line}: not text: character {code:#06x} is not allowed in YAML"
    if isinstance(error, ReusedAnchorWarning):
        first, *_, second = re.findall(r"line:? (\d+)", str(error))
        what = str(error).strip().splitlines()[0]
        return f"{second}: not valid YAML: {what}, first in line {first}"
    if not isinstance(error, MarkedYAMLError):
        if not isinstance(error, _UnsupportedError):  # from ruamel.yaml, for "\\Uffffffff"
            line = text.count("\n", 0, text.find("\\U")) + 1
        return f"{line}: not valid YAML: {error}"
    lines = [*text.splitlines(), ""]
    unclosed = (error.context or "").startswith("while parsing a flow")
    mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
    line = min(mark.line if mark else 0, len(lines) - 1)
    while unclosed and line and not _NEEDS_QUOTES.search(lines[line]):
        line -= 1  # to where the bracket was opened
    what = ", ".join(filter(None, [error.context, error.problem]))
    if re.match(r'\s*\{\s*"', text):
        return f"{line + 1}: not valid JSON: {what}; a config is YAML, one 'key: value' a line"
    hint = QUOTE_HINT if _NEEDS_QUOTES.search(lines[line]) else ""
    return f"{line + 1}: not valid YAML: {what}{hint}"


class _Reader:
    """Converts YAML nodes to plain data and records lines and repeated keys."""

    def __init__(self) -> None:
        self.line = 1
        """Current line; within a repetition by an alias, the line of the alias."""
        self.lines: dict[tuple[str, ...], int] = {}
        self.repeated: list[tuple[Keys, int, int]] = []
        self._n_values = 0
        self._open: list[Node] = []
        self._visited: set[int] = set()

    def value(self, node: Node, path: tuple[str, ...]) -> Any:
        """Return the data of a node; `path` holds the keys that lead to it."""
        is_new = self._enter(node)
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, ScalarNode):
            return _scalar(node)
        is_mapping = isinstance(node, MappingNode)
        problem = ""
        if str(node.tag) != _TAG + ("map" if is_mapping else "seq"):
            problem = _unknown_tag(node)
        elif any(node is outer for outer in self._open):
            problem = "an alias (*name) stands inside the value that it repeats; write it out"
        elif len(self._open) == MOST_LEVELS:
            problem = f"lists and mappings are nested too deeply: at most {MOST_LEVELS} levels"
        if problem:
            raise _UnsupportedError(problem)
        self._open.append(node)
        if is_mapping:
            data: Any = self._mapping(node, path, is_new=is_new)
        else:
            data = [self.value(item, (*path, str(n))) for n, item in enumerate(node.value)]
        self._open.pop()
        return data

    def _enter(self, node: Node) -> bool:
        """Count a node; return whether it is new rather than repeated by an alias."""
        is_new = id(node) not in self._visited
        if is_new:
            self._visited.add(id(node))
            self.line = node.start_mark.line + 1
        self._n_values += 1
        if self._n_values > MOST_VALUES:
            limit = f"more than {MOST_VALUES:,} values, counting those that aliases (*name) repeat"
            raise _UnsupportedError(limit)
        return is_new

    def _mapping(self, node: Node, path: tuple[str, ...], *, is_new: bool) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for name, value in node.value:
            self._enter(name)
            key, line = _scalar(name), name.start_mark.line + 1
            if key is None:
                text = "a key must be a name or a number, not null, a list or a mapping"
                raise _UnsupportedError(text)
            before = first.get(key, first.get(str(key)))  # 1 equals 1.0 and '1'
            if before and is_new:
                self.repeated.append(((*path, str(key)), line, before))
            first = {key: line, str(key): line} | first
            self.lines[(*path, str(key))] = line  # of repeated keys the last one counts
            data[key] = self.value(value, (*path, str(key)))
        return data


def _scalar(node: Node) -> Any:
    """Return the value of a scalar, and None for any other node."""
    if not isinstance(node, ScalarNode):
        return None
    kind, text = str(node.tag).removeprefix(_TAG), node.value
    value, problem = None, ""
    try:
        value = _CONVERSIONS[kind](text) if kind in _CONVERSIONS else None
    except (KeyError, ValueError) as error:  # !!bool x, !!int x, "\\ud800"
        problem = str(error)
    if kind == "int" and len(text.replace("_", "").lstrip("+-0")) > MOST_DIGITS:
        problem = f"a whole number may have at most {MOST_DIGITS} digits"
    elif kind == "str" and "\0" in text:
        problem = "text must not contain zero bytes"
    elif isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
        problem = "numbers go up to 1.7e308"
    problem = f"{quoted(text)} cannot be read: {problem}" if problem else ""
    if kind not in _CONVERSIONS:
        merge = "merge keys (<<) are not supported: write the settings out"
        problem = merge if kind == "merge" else _unknown_tag(node)
    if problem:
        raise _UnsupportedError(problem)
    return value


def _unknown_tag(node: Node) -> str:
    tag = str(node.tag).replace(_TAG, "!!")
    return f"unknown tag {quoted(tag)}; leave it out{'' if tag.startswith('!!') else QUOTE_HINT}"


# ---- overrides

_HAS_KINDS = ("target", "estimator", "shaper", "diversity_filter", "transform")
"""Sections for which the name of a kind may stand."""


@dataclass(frozen=True)
class Override:
    """One changed setting: the keys that lead to it, the new value, and its source for messages.

    A whole number among the keys is a position in a list, counted from 0.
    """

    keys: Keys
    value: Any
    where: str

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Read ``dotted.key=value``; the value is YAML: a number, text, or a list in brackets."""
        where = f"override {quoted(text)}"
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
        raise InputError(f"{where}: {quoted(name)} is not a key; expected {form}.")
    return tuple(int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in parts)


def _with_override(data: Any, override: Override, depth: int = 0) -> Any:
    """Return the data with the override applied; the containers that change are copied."""
    if depth == len(override.keys):
        return override.value
    key = override.keys[depth]
    if data is None or isinstance(data, dict):
        data = data or {}
        name = key if key in data else str(key)
        return {**data, name: _with_override(data.get(name), override, depth + 1)}
    if isinstance(data, list | tuple) and isinstance(key, int) and key < len(data):
        return [*data[:key], _with_override(data[key], override, depth + 1), *data[key + 1 :]]
    problem = f"is {quoted(data)}, which has no keys inside it"
    if isinstance(data, str) and override.keys[depth - 1] in _HAS_KINDS:
        section = shlex.quote(dump({"kind": data, key: override.value}, one_line=True))
        problem += f"; with keys write {'.'.join(map(str, override.keys[:depth]))}={section}"
    if isinstance(data, list | tuple):
        positions = f"{key!r} is not one of its positions 0 to {len(data) - 1}"
        problem = f"is a list of {len(data)}; {positions}"
    raise InputError(f"{override.where}: {'.'.join(map(str, override.keys[:depth]))} {problem}.")


# ---- problems

AFTER_THE_FILE = 1_000_000_000
"""Problems of overrides are listed after the last line of any file."""

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
"""Messages for the error types of pydantic."""


class Place(NamedTuple):
    """Where a problem is: text for the user, a number to sort by, and whether it is in the file."""

    text: str
    order: int
    in_file: bool


def place_of(
    keys: Keys, document: Document, overrides: Sequence[Override] = (), text: str = ""
) -> Place:
    """Find where the setting at some keys was written: in the file, or in overrides.

    A problem may concern several settings: those that its ``text`` names are located too.
    """
    path = tuple(map(str, keys))
    inside = (*map(str, document.prefix), *path)
    of_key = text.startswith(("not a known key", "required"))
    lists_names = of_key or "Known: " in text
    named = set() if lists_names else {*re.findall(r"(?<![\w/.~-])[A-Za-z_]\w*(?![\w/])", text)}
    n_in_file, line = document.nearest(keys)
    is_replaced, sources = _sources(path, n_in_file, overrides, named, of_key=of_key)
    joined = " and ".join(dict.fromkeys(override.where for _, override in sources))
    is_section = not keys or any(way[: len(inside)] == inside != way for way in document.lines)
    all_inside = all(tuple(map(str, o.keys))[: len(path)] == path for _, o in sources)
    begins = [len(inside)] if is_section and not is_replaced else range(len(inside))
    overridden = [tuple(map(str, (*document.prefix, *override.keys))) for override in overrides]
    lines = [
        document.lines[way]
        for way in ((*inside[:n], name) for n in begins for name in named)
        if way in document.lines
        and way != inside
        and not any(way[: len(changed)] == changed for changed in overridden)
    ]
    if is_replaced or (sources and (n_in_file < len(keys) or (is_section and all_inside))):
        in_file = f" with {document.name}:{min(lines)}" if lines and is_replaced else ""
        if is_replaced or not lines:
            return Place(joined + in_file, AFTER_THE_FILE + sources[-1][0], in_file=False)
    if is_section and lines:
        line = min(lines)
    where = document.name if line is None else f"{document.name}:{line}"
    return Place(f"{where} with {joined}" if joined else where, line or 0, in_file=True)


def _sources(
    path: tuple[str, ...],
    n_in_file: int,
    overrides: Sequence[Override],
    named: Collection[str],
    *,
    of_key: bool,
) -> tuple[bool, list[tuple[int, Override]]]:
    """Find the overrides, with their numbers, that a problem at a path comes from.

    Also return whether one of them replaced the setting or a section around it.
    """
    is_replaced, n_written = False, n_in_file
    sources: list[tuple[int, Override]] = []
    for number, override in enumerate(overrides):
        names = tuple(map(str, override.keys))
        n_shared = max(n for n in range(len(names) + 1) if names[:n] == path[:n])
        if path and n_shared == len(names):
            is_replaced, sources = True, [(number, override)]
            n_written, data = n_shared, override.value
            while n_written < len(path) and isinstance(data, Mapping) and path[n_written] in data:
                data, n_written = data[path[n_written]], n_written + 1
        elif (
            n_shared > n_written  # it made a section that the file lacks
            or (names[-1] in named and n_shared in (len(path), len(names) - 1))
            or (of_key and names == (*path[:-1], "kind"))
        ):
            sources.append((number, override))
    return is_replaced, sources


class _Problem(NamedTuple):
    """One error of pydantic; the keys as the user wrote them, and those of the outermost union."""

    error: ErrorDetails
    keys: Keys
    union: Keys | None


def render(
    error: ValidationError, document: Document, overrides: Sequence[Override] = ()
) -> list[tuple[int, str]]:
    """Describe each error as ``file:line: key.path: problem``, with its line for sorting.

    The document holds the data that pydantic validated, with the overrides applied.
    """
    located = [_locate(document.data, details) for details in error.errors(include_url=False)]
    lines = []
    for keys, text in _texts(located):
        where, order, in_file = place_of(keys, document, overrides, text)
        path = document.prefix + keys if in_file else keys
        start = ": ".join(filter(None, [where, ".".join(map(shortened, path))]))
        lines += [(order, f"{start}: {part}") for part in text.splitlines()]
    return lines


def _locate(data: Any, error: ErrorDetails) -> _Problem:
    """Follow pydantic's location through the data; skip its labels for the types of a union."""
    keys: Keys = ()
    union: Keys | None = None
    for place, step in enumerate(error["loc"], start=1):
        if isinstance(data, Mapping) and (step in data or str(step) in data):
            data = data[step if step in data else str(step)]
        elif isinstance(data, list | tuple) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif step == "[key]" or (isinstance(data, Mapping) and data.get("kind") == step):
            continue
        elif isinstance(step, str):
            names_a_key = error["type"] in (COMPLETE, "missing", "value_error")
            is_label = not step.isidentifier() or step in ("str", "int", "float", "bool")
            if is_label or not names_a_key or place < len(error["loc"]):
                union = keys if union is None else union
                continue
        keys = (*keys, step)
    return _Problem(error, keys, union)


def _texts(problems: list[_Problem]) -> Iterator[tuple[Keys, str]]:
    """Yield keys and text; of a union only the errors of the type that comes nearest.

    A list that pydantic calls too short because it did not count invalid items is left out.
    """
    unions: dict[Keys, list[_Problem]] = {}
    parents = {problem.keys[:n] for problem in problems for n in range(len(problem.keys))}
    for problem in problems:
        error = problem.error
        is_short = error["type"] == "too_short" and problem.keys in parents
        if is_short and len(error["input"]) >= error["ctx"]["min_length"]:
            continue
        if problem.union is None:
            yield problem.keys, _text([error])
        else:
            unions.setdefault(problem.union, []).append(problem)
    for union, members in unions.items():
        deeper = [p for p in members if p.keys != union]
        right_type = [p for p in members if not p.error["type"].endswith("_type")]
        by_keys: dict[Keys, list[ErrorDetails]] = {}
        for problem in deeper or right_type or members:
            by_keys.setdefault(problem.keys, []).append(problem.error)
        for keys, errors in by_keys.items():
            yield keys, _text(errors)


def _text(errors: list[ErrorDetails]) -> str:
    """Describe the errors at one place, with the value unless the text contains it."""
    text = ", or ".join(dict.fromkeys(map(_phrase, errors)))
    types = {error["type"] for error in errors}
    value = errors[0]["input"]
    is_complete = bool(types & {COMPLETE, "missing", "extra_forbidden"})
    if types & {"value_error", "literal_error"}:
        is_section = isinstance(value, dict | BaseModel)
        is_complete = is_complete or is_section or repr(value).strip("'") in text
    return text if is_complete else f"{text} (got {quoted(value)})"


def _phrase(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error" | "enum":
            words = re.split(", | or ", context["expected"])
            allowed = ["null" if word == "None" else word.strip("'") for word in words]
            hint = did_you_mean(str(error["input"]), allowed)
            return f"{quoted(error['input'])} is not allowed{hint}"
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


# ---- configs

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Draft:
    """Settings with overrides applied that do not fit the schema of the model.

    A stage can still check the parts that are readable, so that all problems are told at once. The
    context says where paths are looked up, see `InputPath`.
    """

    model: type[BaseModel]
    document: Document
    data: Any
    overrides: Sequence[Override]
    context: Mapping[str, Any]

    def get(self, key: str, kind: Any = None) -> Any:
        """Return one setting validated by the schema, or as another type.

        None if it is missing or invalid, or the path of something that does not exist yet.
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
        """Return one setting as the user wrote it if it is a mapping."""
        value = self.data.get(key)
        return dict(value) if isinstance(value, Mapping) else None

    def section(self, key: str) -> Document | Path | None:
        """Return a section that stands in the document, or the path of the file it is in."""
        section = self.mapping(key)
        path: Path | None = self.get(key, InputPath) if section is None else None
        return path if section is None else self.document.at((key,), section)

    def placed(self, key: str, lines: Sequence[str]) -> list[str]:
        """Put the place of the setting that the lines are about in front of each."""
        keys = tuple(int(name) if name.isdigit() else name for name in key.split("."))
        places = (place_of(keys, self.document, self.overrides, line) for line in lines)
        return [f"{place.text}: {line}" for place, line in zip(places, lines, strict=True)]


def _refuse_pipeline(document: Document, model: type[BaseModel]) -> None:
    keys = [*document.data] if isinstance(document.data, Mapping) else []
    if {*keys} == {"name", "stages"} and "name" not in model.model_fields:
        raise InputError(f"{document.name}: a pipeline; use chemkl run {document.name}")


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
    more_problems: Callable[[Draft], Iterable[str]] | None = None,
    kinds: Iterable[str] = (),
) -> Model:
    """Read and check a config.

    Args:
        model: the config's class.
        source: an instance of it, a mapping, or the path of a YAML file.
        overrides: settings to change, as ``dotted.key=value``.
        folder: where relative paths are looked up first; default: the file's own folder. The
            working directory comes last.
        also: further folders to search, before the working directory.
        promised: folders whose content need not exist yet.
        earlier: output folders of jobs that run before, and the patterns of what each writes, see
            `InputPath`; their present content is ignored.
        kept: files that may be gone, because a run keeps copies of them.
        more_problems: finds what the schema cannot see; it is called only if the settings do not
            fit the schema, and lines that the schema's messages contain are dropped.
        kinds: folders of shipped files for a bare name, see `find_shipped`.

    Returns:
        The checked config.

    Raises:
        InputError: with a line for every problem.
    """
    overrides = list(overrides)
    if isinstance(source, model) and not overrides:
        return source
    if isinstance(source, BaseModel):
        if not isinstance(source, model):
            raise InputError("these are the settings of another stage.")
        source = source.model_dump()
    document = Document.of(source, "settings", None if folder is None else Path(folder), kinds)
    _refuse_pipeline(document, model)
    problems: list[tuple[int, str]] = []
    for keys, line, first in document.repeated:
        key = ".".join(map(str, keys))
        text = f"{document.name}:{line}: {key}: given twice, first in line {first}; keep one"
        problems.append((line, text))
    data, changes = document.data, []
    for override in overrides:
        try:
            change = override if isinstance(override, Override) else Override.parse(override)
            changes.append(change)
            data = _with_override(data, change)
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
    if more_problems is not None:
        more = more_problems(Draft(model, document, data, changes, context))
        lines += [text for text in more if not any(text in line for line in lines)]
    raise InputError("\n".join(dict.fromkeys(lines)))
