"""From a file, a mapping and overrides to a checked config, or to one message with every problem.

`Document` holds the data as the user wrote it, with the line of each key. `render` turns pydantic's
errors into lines "file:line: key.path: problem; did you mean ...".
"""

import codecs
import math
import os
import re
import shlex
import stat
import tomllib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
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
from chemkl.config.paths import InputPath, find_shipped, nearest_shipped, shipped_root

MOST_CHARACTERS = 100_000
"""A longer file or value is not read: it takes seconds. Long lists go into files of their own."""
MOST_VALUES = 20_000
"""So many values a file may hold, those that aliases repeat included."""
MOST_LEVELS = 50
"""Lists and mappings may stand in one another so deep."""
MOST_DIGITS = 18
"""Of a whole number: it then fits into 64 bits, as the seeds and counts of every library must."""

_TOO_LONG = (
    f"larger than {MOST_CHARACTERS:,} characters, the most that settings may have; put a long list "
    "into a file of its own and give its path."
)
QUOTE_HINT = " (text that begins with one of [ { * & ! @ % ` must be quoted: '[#6]')"
NEEDS_QUOTES = re.compile(r"(?:^|[:\-=\[,])\s*[\[{*&!@%`]")

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
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
"""Scalars without quotes, by YAML 1.2: 1e-4 is a number; no, on, 1:30 and 0x10 are text."""


class _Resolver(VersionedResolver):
    """Gives a scalar without quotes and tag the type that it looks like."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            name = next(name for name, form in _PLAIN.items() if form.fullmatch(value))
            return Tag(suffix=_TAG + name)
        return super().resolve(kind, value, implicit)


@dataclass(frozen=True)
class Document:
    """Data as the user wrote it, and where each part of it stands.

    The name is what the user calls it: the file, or what the settings are of where there is none;
    relative paths are looked up in the folder first.
    """

    data: Any
    name: str
    folder: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """The line of each key and item of the file, by the way to it."""
    repeated: tuple[tuple[Keys, int, int], ...] = ()
    """Keys that a mapping of the file has twice, with the line of the second and the first."""
    file: Path | None = None
    prefix: Keys = ()
    """The keys under which the data stands in its file."""

    @classmethod
    def of(
        cls, source: object, name: str, folder: Path | None = None, kinds: Iterable[str] = ()
    ) -> Self:
        """Take a mapping, or read a YAML file."""
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
        """Read a YAML file that holds one mapping, or one that comes with chemkl of that name.

        Relative paths in it are looked up in the folder, by default its own; of ``kinds`` see
        `find_shipped`.
        """
        file = Path(os.path.expanduser(path))
        ours = None if os.path.exists(file) else find_shipped(file, *kinds)
        if ours is not None:
            file, path = ours, ours.relative_to(shipped_root())
        text = read_text(file, kinds)
        InputError.refuse(_other_format(file, text, str(path)))
        data, lines, repeated = parse(text, str(path))
        problem = ""
        if not isinstance(data, dict):
            found = "nothing" if data is None else f"a {type(data).__name__}"
            problem = f":1: the file should hold settings, one 'key: value' a line; found {found}."
        elif "run_type" in data and "parameters" in data:
            problem = f": a config of another program. {_converted(str(path))}."
        if problem:
            raise InputError(f"{path}{problem}")
        file = file.resolve()
        return cls(data, str(path), folder or file.parent, lines, tuple(repeated), file)

    def at(self, keys: Keys, data: object) -> Self:
        """The part under some keys, holding that data, as a document of its own."""
        return replace(self, data=data, prefix=(*self.prefix, *keys))

    def nearest(self, keys: Keys) -> tuple[int, int | None]:
        """How many of these keys, from the first one on, the file has, and the line of the last.

        Without a file: all of them, and None.
        """
        way = tuple(map(str, (*self.prefix, *keys)))
        for n in range(len(way), -1, -1):
            if way[:n] in self.lines:
                return max(n - len(self.prefix), 0), self.lines[way[:n]]
        return len(keys), None

    def where(self, keys: Keys = ()) -> str:
        """File and line, for example ``configs/posttrain/mara.yaml:7``."""
        line = self.nearest(keys)[1]
        return self.name if line is None else f"{self.name}:{line}"


class Parsed(NamedTuple):
    """Plain data; the line of each part, none of an empty text; keys that are given twice."""

    data: Any
    lines: dict[tuple[str, ...], int]
    repeated: list[tuple[Keys, int, int]]


def parse(text: str, name: str) -> Parsed:
    """Read YAML text: plain values only, within the bounds named at the top of this file."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{name}: {_TOO_LONG}")
    reader = _Reader()
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            root = yaml.compose(text)
        data = None if root is None else reader.value(root, ())
    except _NO_CONFIG as error:
        raise InputError(f"{name}:{_explained(error, text, reader.line)}.") from error
    return Parsed(data, reader.lines, reader.repeated)


class _UnfitError(Exception):
    """Valid YAML that settings do not use, or not so much of it."""


_NO_CONFIG = (
    *(_UnfitError, MarkedYAMLError, ReaderError, ReusedAnchorWarning),
    *(RecursionError, OverflowError, ValueError),
)


def _explained(error: Exception, text: str, line: int) -> str:
    """The line of an error of YAML, and what is wrong there."""
    if isinstance(error, RecursionError):
        return "1: brackets or indentation are nested too deeply"
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f"{line}: not text: character {code:#06x} is not allowed in YAML"
    if isinstance(error, ReusedAnchorWarning):
        first, *_, second = re.findall(r"line:? (\d+)", str(error))
        name = str(error).strip().splitlines()[0]
        return f"{second}: not valid YAML: {name}, first in line {first}"
    if not isinstance(error, MarkedYAMLError):  # ours, or of "\\Uffffffff"
        line = line if isinstance(error, _UnfitError) else text.count("\n", 0, text.find("\\U")) + 1
        return f"{line}: not valid YAML: {error}"
    lines = [*text.splitlines(), ""]
    unclosed = (error.context or "").startswith("while parsing a flow")
    mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
    line = min(mark.line if mark else 0, len(lines) - 1)
    while unclosed and line and not NEEDS_QUOTES.search(lines[line]):
        line -= 1  # to where the bracket was opened
    what = ", ".join(filter(None, [error.context, error.problem]))
    if text.lstrip().startswith("{"):
        return f"{line + 1}: JSON, and no YAML config: write YAML, one 'key: value' a line ({what})"
    hint = QUOTE_HINT if NEEDS_QUOTES.search(lines[line]) else ""
    return f"{line + 1}: not valid YAML: {what}{hint}"


class _Reader:
    """From the nodes of YAML to plain data, noting lines and keys that are given twice."""

    def __init__(self) -> None:
        self.line = 1
        """Of what is read; within a repetition by an alias that of the alias."""
        self.lines: dict[tuple[str, ...], int] = {}
        self.repeated: list[tuple[Keys, int, int]] = []
        self._n_values = 0
        self._open: list[Node] = []
        self._seen: set[int] = set()

    def value(self, node: Node, way: tuple[str, ...]) -> Any:
        """The data of a node, `way` being the keys that lead to it."""
        is_new = self._enter(node)
        self.lines.setdefault(way, node.start_mark.line + 1)
        if isinstance(node, ScalarNode):
            return _scalar(node)
        is_mapping = isinstance(node, MappingNode)
        problem = ""
        if str(node.tag) != _TAG + ("map" if is_mapping else "seq"):
            problem = _unknown_tag(node)
        elif any(node is outer for outer in self._open):
            problem = "an alias (*name) stands inside of what it repeats; write it out"
        elif len(self._open) == MOST_LEVELS:
            problem = f"lists and mappings are nested too deeply: at most {MOST_LEVELS} levels"
        if problem:
            raise _UnfitError(problem)
        self._open.append(node)
        if is_mapping:
            data: Any = self._mapping(node, way, is_new=is_new)
        else:
            data = [self.value(item, (*way, str(n))) for n, item in enumerate(node.value)]
        self._open.pop()
        return data

    def _enter(self, node: Node) -> bool:
        """Count a node; return whether it is new, and not repeated by an alias."""
        is_new = id(node) not in self._seen
        if is_new:
            self._seen.add(id(node))
            self.line = node.start_mark.line + 1
        self._n_values += 1
        if self._n_values > MOST_VALUES:
            raise _UnfitError(f"more than {MOST_VALUES:,} values, with what aliases (*name) repeat")
        return is_new

    def _mapping(self, node: Node, way: tuple[str, ...], *, is_new: bool) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for name, value in node.value:
            self._enter(name)
            key, line = _scalar(name), name.start_mark.line + 1
            if key is None:
                raise _UnfitError("a key is a name or a number, not null, a list or a mapping")
            before = first.get(key, first.get(str(key)))  # 1 and 1.0, and 1 and '1'
            if before and is_new:
                self.repeated.append(((*way, str(key)), line, before))
            first = {key: line, str(key): line} | first
            self.lines[(*way, str(key))] = line  # of repeated keys the last one counts
            data[key] = self.value(value, (*way, str(key)))
        return data


_READ: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower())),
    "str": lambda text: text.encode().decode(),  # "\ud800" cannot be encoded
}
"""What reads a scalar of each type; a KeyError or ValueError where it is not of that type."""


def _scalar(node: Node) -> Any:
    """The value of a scalar; None of another node."""
    if not isinstance(node, ScalarNode):
        return None
    kind, text = str(node.tag).removeprefix(_TAG), node.value
    value, problem = None, ""
    try:
        value = _READ[kind](text) if kind in _READ else None
    except (KeyError, ValueError) as error:  # !!bool x, !!int x, "\\ud800"
        problem = str(error)
    if kind == "int" and len(text.replace("_", "").lstrip("+-0")) > MOST_DIGITS:
        problem = f"a whole number has at most {MOST_DIGITS} digits here"
    elif kind == "str" and "\0" in text:
        problem = "text without zero bytes is expected"
    elif isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
        problem = "a number goes up to 1.7e308 here"
    problem = f"{quoted(text)} cannot be read: {problem}" if problem else ""
    if kind not in _READ:
        merge = "<< is no key here: write out what it would take from elsewhere"
        problem = merge if kind == "merge" else _unknown_tag(node)
    if problem:
        raise _UnfitError(problem)
    return value


def _unknown_tag(node: Node) -> str:
    tag = str(node.tag).replace(_TAG, "!!")
    hint = "" if tag.startswith("!!") else QUOTE_HINT
    return f"could not determine a constructor for the tag {quoted(tag)}; leave it out{hint}"


def _other_format(file: Path, text: str, name: str) -> Iterator[str]:
    """Say in one line that a file is TOML, or JSON that is no YAML; REINVENT reads such files."""
    try:
        is_toml = file.suffix.lower() == ".toml" or ("=" in text and bool(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, RecursionError):
        is_toml = False
    if is_toml or ('"run_type"' in text and text.lstrip().startswith("{")):
        said = f"{name}: a {'TOML' if is_toml else 'JSON'} file, not a YAML config"
        yield f"{said}. {_converted(name)}; or write YAML, one 'key: value' a line."


def _converted(name: str) -> str:
    """How a config of REINVENT4 becomes one that can be read."""
    target = Path(name).with_suffix(".yaml")
    if str(target) == name:
        target = target.with_name(f"{target.stem}-chemkl.yaml")
    command = f"chemkl convert {shlex.quote(name)} {shlex.quote(str(target))}"
    return f"A config of REINVENT4 becomes one with: {command}"


def read_text(file: Path, kinds: Iterable[str] = ()) -> str:
    """Read a regular file of settings as UTF-8, or UTF-16 with its mark."""
    most = 4 * MOST_CHARACTERS  # a character has up to four bytes
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Windows PowerShell writes files
    try:
        mode = file.stat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            with open(file, "rb") as stream:
                raw = stream.read(most + 1)
            if len(raw) <= most:
                return raw.decode("utf-16" if raw.startswith(marks) else "utf-8-sig")
            problem = f": {_TOO_LONG}"
        else:  # a pipe may wait for ever
            regular = f"a regular file of at most {MOST_CHARACTERS:,} characters"
            problem = f": a device, pipe or socket; settings are read from {regular}."
    except FileNotFoundError:
        problem = f": no such file; {_near_file(file, kinds)}"
    except UnicodeDecodeError as error:
        byte = f"byte {raw[error.start]:#04x}"
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f":{line}: not UTF-8 text ({byte}); save the file as UTF-8."
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the name
        problem = f": cannot be read: {getattr(error, 'strerror', None) or error}."
    raise InputError(f"{file}{problem}")


def _near_file(file: Path, kinds: Iterable[str]) -> str:
    """The file of nearly that name beside it, or one that comes with chemkl, or where we looked."""
    place = file.parent.resolve()
    beside = {path.stem: path.name for path in sorted(place.glob("*.y*ml"))}
    near = get_close_matches(file.stem, beside, n=1, cutoff=0.6)
    if near:
        return f"did you mean {str(file.with_name(beside[near[0]]))!r}?"
    ours = nearest_shipped(file, *kinds)
    if ours is not None:
        return f"did you mean {ours!r}, which comes with chemkl?"
    where = f"looked in {place}" if place.is_dir() else f"there is no folder {place}"
    return f"{where}; nor does one come with chemkl (chemkl show configs)" if kinds else where


def dump(data: object, *, one_line: bool = False) -> str:
    """Write plain data as YAML, its keys in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = one_line
    yaml.width = 10_000 if one_line else 80
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # of ruamel.yaml
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue().strip().removesuffix("\n...") if one_line else text.getvalue()


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
    problem = f"is {quoted(data)}, which has no keys inside it"
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
        prefix = ": ".join(filter(None, [where, ".".join(map(shortened, path))]))
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
            own_words = error["type"] in (COMPLETE, "missing", "value_error")
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
    complete = bool(kinds & {COMPLETE, "missing", "extra_forbidden"})
    if kinds & {"value_error", "literal_error"}:
        complete = complete or whole or repr(given).strip("'") in text
    return text if complete else f"{text} (got {quoted(given)})"


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
        kinds: folders of files that come with chemkl, for a name alone, see `find_shipped`.

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
