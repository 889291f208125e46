"""Who is to be named for a problem: the line of a file, or the overrides that changed it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chemkl.config.document import Document, Keys
from chemkl.config.overrides import Override

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
