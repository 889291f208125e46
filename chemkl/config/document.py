"""What a config is read from: data as the user wrote it, and the line where each part stands."""

import codecs
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, Self

import yaml

from chemkl.config import shipped
from chemkl.config.base import InputError, shown

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings and positions in lists."""

NEEDS_QUOTES = re.compile(r"(?:^|[:\-=\[,])\s*[\[{*&!@%`]")
MOST_CHARACTERS = 100_000
"""A longer file or value is not read: it takes seconds. Long lists go into files of their own."""
MOST_VALUES = 20_000
"""So many values a file may hold, those that aliases repeat included."""
MOST_LEVELS = 50
"""Lists and mappings may stand in one another so deep."""
MOST_DIGITS = 18
"""Of a whole number: it then fits into 64 bits, as the seeds and counts of every library must."""

_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in _PLAIN}
_MERGE = "tag:yaml.org,2002:merge"

QUOTE_HINT = " (text that begins with one of [ { * & ! @ % ` must be quoted: '[#6]')"


class _Loader(yaml.SafeLoader):
    """Safe YAML with the plain scalars of YAML 1.2.

    PyYAML reads YAML 1.1, where 1e-4 is text, no and on are booleans, 1:30 is ninety and 010 is
    eight; here they are 0.0001, text, text and ten.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own name and type for this table

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make the value of a node; one that its type does not have is an error with its line."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str) and b"\0" in value.encode():  # "\0", "\ud800"
                raise ValueError("text without zero bytes is expected")  # noqa: TRY301 - told below
        except (KeyError, ValueError) as error:  # !!bool x, !!int x, "\\ud800"
            _refuse(node, f"{shown(node.value)} cannot be read: {error}")
        return value


_SCALARS = {
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    "int": (r"[-+]?[0-9][0-9_]*\Z", "-+0123456789"),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        "-+.0123456789",
    ),
    "null": (r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))

_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = loader.construct_scalar(node).replace("_", "")
    if len(digits.lstrip("+-0")) > MOST_DIGITS:
        raise ValueError(f"a whole number has at most {MOST_DIGITS} digits here")
    return int(digits)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    number = loader.construct_yaml_float(node)
    if math.isinf(number) and "inf" not in node.value.lower():
        raise ValueError("a number goes up to 1.7e308 here")
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


@dataclass(frozen=True)
class Document:
    """Data as the user wrote it, and where each part of it stands."""

    data: Any
    """The plain data."""
    name: str
    """What the user calls it: the file, or the kind of config for data without a file."""
    folder: Path | None = None
    """Where relative paths are looked up first."""
    root: yaml.Node | None = None
    """The parsed file; None for data without one."""
    file: Path | None = None
    """Where that is."""
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
        """Read a YAML file that holds one mapping.

        Args:
            path: of a file; where there is none, of one that comes with chemkl, or its name.
            folder: where relative paths are looked up; default: the file's own folder.
            kinds: folders of shipped files that a name alone is looked up in, see `shipped.find`.

        Raises:
            InputError: no such file, no regular file, too large, not text, not YAML, empty, or not
                a mapping.
        """
        file = Path(os.path.expanduser(path))
        ours = None if os.path.exists(file) else shipped.find(file, *kinds)
        if ours is not None:
            file, path = ours, ours.relative_to(shipped.root())
        root, data = parse(_text_of(file, kinds), str(path))
        if not isinstance(data, dict):
            found = "nothing" if data is None else f"a {type(data).__name__}"
            raise InputError(
                f"{path}:1: the file should hold settings, one 'key: value' a line; found {found}."
            )
        file = file.resolve()
        return cls(data, str(path), folder or file.parent, root, file=file)

    def at(self, keys: Keys, data: object) -> Self:
        """The part under some keys, holding that data, as a document of its own."""
        return replace(self, data=data, prefix=(*self.prefix, *keys))

    def line(self, keys: Keys = ()) -> int | None:
        """The line of the deepest of these keys that the file has; None without a file."""
        if self.root is None:
            return None
        node: yaml.Node | None = self.root
        line = self.root.start_mark.line
        for key in (*self.prefix, *keys):
            mark, node = _entry(node, key)
            if mark is None:
                break
            line = mark.line
        return line + 1

    def where(self, keys: Keys = ()) -> str:
        """File and line, for example ``configs/posttrain/mara.yaml:7``."""
        line = self.line(keys)
        return self.name if line is None else f"{self.name}:{line}"

    def repeated_keys(self) -> Iterator[tuple[Keys, int, int]]:
        """Keys that a mapping of the file has twice, with the line of the second and the first."""
        if self.root is not None:
            yield from _repeated(self.root, (), set())


def parse(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """Read YAML text: plain values only, within the bounds named at the top of this file.

    Returns:
        The parsed nodes, which know their lines, and the plain data.

    Raises:
        InputError: with the line, and what YAML expected there.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(_too_long(name))
    try:
        loader = _Loader(text)  # only raises the ReaderError below
        root = loader.get_single_node()
        if root is not None:
            _measured(root, {})
        return root, None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        lines = [*text.splitlines(), ""]
        unclosed = (error.context or "").startswith("while parsing a flow")
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        line = min(mark.line if mark else 0, len(lines) - 1)
        while unclosed and line and not NEEDS_QUOTES.search(lines[line]):
            line -= 1  # to where the bracket was opened
        what = ", ".join(filter(None, [error.context, error.problem]))
        quotes = NEEDS_QUOTES.search(lines[line]) and not isinstance(error, _UnfitError)
        raise InputError(
            f"{name}:{line + 1}: not valid YAML: {what}{QUOTE_HINT if quotes else ''}."
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise InputError(
            f"{name}:{line + 1}: not text: character {error.character:#06x} is not allowed in YAML."
        ) from error
    except RecursionError as error:
        raise InputError(f"{name}:1: brackets or indentation are nested too deeply.") from error
    except (OverflowError, ValueError) as error:  # "\\Uffffffff"
        raise InputError(f"{name}:{loader.line + 1}: not valid YAML: {error}.") from error


def _measured(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count the values and the levels of a node, what aliases repeat included.

    Args:
        node: where to begin.
        known: filled with the counts of every node, by identity; zeros while its parts are counted.

    Raises:
        yaml.MarkedYAMLError: one of the bounds is crossed, a node holds itself, or is not plain.
    """
    if id(node) not in known:
        if node.tag == _MERGE:
            _refuse(node, "<< is no key here: write out what it would take from elsewhere")
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"could not determine a constructor for the tag {shown(tag)}; leave it out"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        known[id(node)] = (0, 0)
        parts = [_measured(part, known) for part in _parts(node)]
        size = 1 + sum(size for size, _ in parts)
        known[id(node)] = (size, 1 + max((levels for _, levels in parts), default=0))
    size, levels = known[id(node)]
    if size == 0:
        _refuse(node, "an alias (*name) stands inside of what it repeats; write it out")
    if levels > MOST_LEVELS:
        _refuse(node, f"lists and mappings are nested too deeply: at most {MOST_LEVELS} levels")
    if size > MOST_VALUES:
        _refuse(node, f"more than {MOST_VALUES:,} values, with what aliases (*name) repeat")
    return size, levels


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


class _UnfitError(yaml.MarkedYAMLError):
    """Valid YAML that settings do not use, or not so much of it."""


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise _UnfitError(problem=problem, problem_mark=node.start_mark)


def _too_long(name: str) -> str:
    return (
        f"{name}: larger than {MOST_CHARACTERS:,} characters, the most that settings may have; put "
        "a long list into a file of its own and give its path."
    )


def _text_of(file: Path, kinds: Iterable[str]) -> str:
    try:
        kind = file.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # a pipe may wait for ever
            raise InputError(
                f"{file}: a device, pipe or socket; settings are read from a regular file of at "
                f"most {MOST_CHARACTERS:,} characters."
            )
        with file.open("rb") as stream:
            raw = stream.read(4 * MOST_CHARACTERS + 1)  # a character has up to four bytes
        if len(raw) > 4 * MOST_CHARACTERS:
            raise InputError(_too_long(str(file)))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; {_near_file(file, kinds)}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = getattr(error, "strerror", None) or error  # a ValueError: a zero byte in the name
        raise InputError(f"{file}: cannot be read: {why}.") from error
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Windows PowerShell writes files
    try:
        return raw.decode("utf-16" if raw.startswith(marks) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}:{line}: not UTF-8 text (byte {raw[error.start]:#04x}); save the file as UTF-8."
        ) from error


def _near_file(file: Path, kinds: Iterable[str]) -> str:
    """Name the file of nearly that name beside it, or else among those that come with chemkl.

    Where there is none, it is the place looked at.
    """
    place = file.parent.resolve()
    beside = {path.stem: path.name for path in sorted(place.glob("*.y*ml"))}
    near = get_close_matches(file.stem, beside, n=1, cutoff=0.6)
    if near:
        return f"did you mean {str(file.with_name(beside[near[0]]))!r}?"
    ours = shipped.near(file, *kinds)
    if ours is not None:
        return f"did you mean {ours!r}, which comes with chemkl?"
    where = f"looked in {place}" if place.is_dir() else f"there is no folder {place}"
    return f"{where}; nor does one come with chemkl (chemkl show configs)" if kinds else where


def _entry(node: yaml.Node | None, key: str | int) -> tuple[yaml.Mark | None, yaml.Node | None]:
    """Where an entry of a node begins, and its value."""
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):  # of repeated keys the last one counts
            if name.value == str(key):
                return name.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark, node.value[key]
    return None, None


def _repeated(node: yaml.Node, keys: Keys, seen: set[int]) -> Iterator[tuple[Keys, int, int]]:
    if id(node) in seen:  # an alias: reported where it was first written
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield from _repeated(value, (*keys, position), seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            key = str(name.value)
            if key in first:
                yield (*keys, key), line, first[key]
            first.setdefault(key, line)
            yield from _repeated(value, (*keys, key), seen)
