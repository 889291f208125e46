"""Settings changed from outside a file: `target.beta=0.1` on the command line, or in a pipeline."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chemkl.config.document import MOST_LEVELS, Keys, parse
from chemkl.config.errors import InputError, shown


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
