"""Read a config of REINVENT4 (TOML, JSON or YAML) with its line numbers, key by key."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.base import Keys, nearest, quoted
from chemkl.config.loading import Document, parse
from chemkl.config.paths import MOST_CHARACTERS, read_text

ENDINGS = (".toml", ".json", ".yaml", ".yml")
"""File endings of REINVENT4 configs."""

_BARE = r"[A-Za-z0-9_\-]+"
_NAME = rf"{_BARE}(?:\s*\.\s*{_BARE})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_NAME})\s*\]")
_PAIR = re.compile(rf"\s*({_NAME})\s*=")


@dataclass
class Notes:
    """Notes on a translation, each with its place in the file."""

    problems: list[str] = field(default_factory=list)  # why it cannot be translated
    gaps: list[str] = field(default_factory=list)  # settings without a counterpart
    differences: list[str] = field(default_factory=list)  # what behaves differently in chemkl
    needless: list[str] = field(default_factory=list)  # keys that need no counterpart


@dataclass
class Section:
    """A table of the config; a key that is not taken out of it is a gap."""

    document: Document
    data: dict[str, Any]
    keys: Keys
    notes: Notes
    known_keys: list[str] = field(default_factory=list)

    def where(self, key: str = "") -> str:
        """Return the place and name of a key, for example ``run.toml:12: stage.0.max_steps``."""
        keys = (*self.keys, key) if key else self.keys
        return f"{self.document.where(keys)}: {'.'.join(map(str, keys))}"

    def take(self, key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        """Take out a value; one of a wrong type is a problem and gives the default."""
        self.known_keys.append(key)
        if key not in self.data:
            if required:
                self.problem(key, "required, but missing")
            return default
        value = self.data.pop(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = {str: "text", list: "a list", dict: "a table", bool: "true or false"}
            self.problem(key, f"should be {names.get(kind, 'a number')} (got {quoted(value)})")
            return default
        return value

    def table(self, key: str) -> "Section":
        """Take out a table; an empty one if it is missing."""
        return self.inner(self.take(key, dict, {}), key)

    def tables(self, key: str) -> Iterator["Section"]:
        """Take out a list of tables."""
        for n, data in enumerate(self.take(key, list, [])):
            if isinstance(data, dict):
                yield self.inner(data, key, n)
            else:
                self.problem(key, "should be a list of tables")

    def inner(self, data: dict[str, Any], *keys: str | int) -> "Section":
        """Make a table within this one."""
        return Section(self.document, dict(data), (*self.keys, *keys), self.notes)

    def problem(self, key: str, text: object) -> None:
        """Note why the config cannot be translated."""
        self.notes.problems.append(f"{self.where(key)}: {text}")

    def gap(self, key: str, why: str) -> None:
        """Note a setting without a counterpart."""
        self.notes.gaps.append(f"{self.where(key)}: {why}")

    def difference(self, key: str, text: str) -> None:
        """Note what behaves differently in chemkl."""
        self.notes.differences.append(f"{self.where(key)}: {text}")

    def needless(self, **reasons: str) -> None:
        """Take out keys that need no counterpart, and note the reasons."""
        self.known_keys += reasons
        for key, why in reasons.items():
            if self.data.pop(key, None) is not None:
                self.notes.needless.append(f"{self.where(key)}: {why}")

    def only(self, key: str, usual: Any, why: str) -> None:
        """Take out a key without a counterpart; only its usual value is what chemkl does."""
        self.known_keys.append(key)
        value = self.data.pop(key, usual)
        if value != usual and value is not None:
            self.gap(key, f"{quoted(value)}: {why}")

    def end(self) -> None:
        """Note the keys that were not taken out."""
        for key in self.data:
            near = nearest(key, self.known_keys)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.gap(key, f"unknown key{hint}")


def read_config(path: Path, notes: Notes) -> Section:
    """Read a config of REINVENT4.

    Raises:
        InputError: no such file, or not TOML, JSON or YAML with a table at the top.
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
    """Return the line of each table and key of a TOML file by its path; bare keys only."""
    lines: dict[tuple[str, ...], int] = {(): 1}
    last: dict[tuple[str, ...], int] = {}  # position of the last table of a list
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
            path = table
            for key in re.split(r"\s*\.\s*", pair[1]):
                path = (*path, key)
                lines.setdefault(path, number)
    return lines
