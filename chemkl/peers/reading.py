"""Reading a config of REINVENT4: TOML, JSON or YAML, with lines, its keys taken out one by one."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.base import Keys, nearest, quoted
from chemkl.config.loading import MOST_CHARACTERS, Document, parse, read_text

ENDINGS = (".toml", ".json", ".yaml", ".yml")
"""How configs of REINVENT4 end."""

_BARE = r"[A-Za-z0-9_\-]+"
_NAME = rf"{_BARE}(?:\s*\.\s*{_BARE})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_NAME})\s*\]")
_PAIR = re.compile(rf"\s*({_NAME})\s*=")


@dataclass
class Notes:
    """What is to be told of a translation, each a line with its place in the file."""

    problems: list[str] = field(default_factory=list)
    """Why it cannot be translated at all."""
    gaps: list[str] = field(default_factory=list)
    """What has no counterpart, and would be left out."""
    differences: list[str] = field(default_factory=list)
    """What is another than there, though nothing is left out."""
    needless: list[str] = field(default_factory=list)
    """Keys that need no counterpart."""


@dataclass
class Section:
    """A table of the config; what is not taken out of it is a gap."""

    document: Document
    data: dict[str, Any]
    keys: Keys
    notes: Notes
    asked: list[str] = field(default_factory=list)
    """The keys that were looked for."""

    def where(self, key: str = "") -> str:
        """Place and name of a key, for example ``run.toml:12: stage.0.max_steps``."""
        keys = (*self.keys, key) if key else self.keys
        return f"{self.document.where(keys)}: {'.'.join(map(str, keys))}"

    def take(self, key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        """Take out a value; one of another type than wanted is a problem, as if not given."""
        self.asked.append(key)
        if key not in self.data:
            if required:
                self.problem(key, "required, and not given")
            return default
        value = self.data.pop(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = {str: "text", list: "a list", dict: "a table", bool: "true or false"}
            self.problem(key, f"should be {wanted.get(kind, 'a number')} (got {quoted(value)})")
            return default
        return value

    def table(self, key: str) -> "Section":
        """Take out a table; an empty one where there is none."""
        return self.inner(self.take(key, dict, {}), key)

    def tables(self, key: str) -> Iterator["Section"]:
        """Take out a list of tables."""
        for n, data in enumerate(self.take(key, list, [])):
            if isinstance(data, dict):
                yield self.inner(data, key, n)
            else:
                self.problem(key, "should be a list of tables")

    def inner(self, data: dict[str, Any], *keys: str | int) -> "Section":
        """A table within this one."""
        return Section(self.document, dict(data), (*self.keys, *keys), self.notes)

    def problem(self, key: str, text: object) -> None:
        """Note why this cannot be translated."""
        self.notes.problems.append(f"{self.where(key)}: {text}")

    def gap(self, key: str, why: str) -> None:
        """Note that something has no counterpart."""
        self.notes.gaps.append(f"{self.where(key)}: {why}")

    def difference(self, key: str, text: str) -> None:
        """Note what is another than there."""
        self.notes.differences.append(f"{self.where(key)}: {text}")

    def needless(self, **reasons: str) -> None:
        """Take out keys that need no counterpart, where they are given."""
        self.asked += reasons
        for key, why in reasons.items():
            if self.data.pop(key, None) is not None:
                self.notes.needless.append(f"{self.where(key)}: {why}")

    def only(self, key: str, usual: Any, why: str) -> None:
        """Take out a key that has no counterpart, and whose usual value is what is done here."""
        self.asked.append(key)
        value = self.data.pop(key, usual)
        if value != usual and value is not None:
            self.gap(key, f"{quoted(value)}: {why}")

    def end(self) -> None:
        """Note all that was not taken out."""
        for key in self.data:
            near = nearest(key, self.asked)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.gap(key, f"no key that is known here{hint}")


def read_config(path: Path, notes: Notes) -> Section:
    """Read a config of REINVENT4.

    Raises:
        InputError: no such file, or not TOML, JSON or YAML with a table at its top.
    """
    text = read_text(path)
    if path.suffix.lower() == ".toml":
        if len(text) > MOST_CHARACTERS:
            raise InputError(f"{path}: larger than {MOST_CHARACTERS:,} characters")
        try:
            data: Any = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"{path}: not valid TOML: {error}") from None
        lines = toml_lines(text)
    else:  # JSON is YAML
        parsed = parse(text.replace("\t", " "), str(path))
        data, lines = parsed.data, parsed.lines
        InputError.refuse(
            f"{path}:{line}: the key {keys[-1]} is given twice, first in line {first}"
            for keys, line, first in parsed.repeated
        )
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected a config of REINVENT4, with keys and tables")
    document = Document(data, str(path), path.parent, lines, file=path)
    return Section(document, dict(data), (), notes)


def toml_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table and key of a TOML file, by the way to it; bare keys only."""
    lines: dict[tuple[str, ...], int] = {(): 1}
    last: dict[tuple[str, ...], int] = {}  # position of the newest table of a list
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            *outer, name = re.split(r"\s*\.\s*", header[2])
            table = ()
            for key in outer:
                table = (*table, key)
                table += (str(last[table]),) if table in last else ()
            table = (*table, name)
            lines.setdefault(table, number)
            if header[1] == "[[":
                last[table] = last.get(table, -1) + 1
                table = (*table, str(last[table]))
            lines.setdefault(table, number)
        elif pair := _PAIR.match(line):
            way = table
            for key in re.split(r"\s*\.\s*", pair[1]):
                way = (*way, key)
                lines.setdefault(way, number)
    return lines
