"""The exception for a mistake in what the user gave, and the one for a disk that fails."""

from collections.abc import Callable
from typing import Any

LONGEST_VALUE = 80
"""A value in a message is cut to this many characters."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is complete as it stands.

    The message says what is wrong, where it stands, what is allowed and how to fix it; several
    problems are several lines. The command line prints it without a traceback and exits with 2.
    """


class StorageError(OSError):
    """A disk is full, cannot be written, or a folder has gone in the middle of a run.

    It is nobody's mistake in a config: the command line prints the message, which is complete as it
    stands, without a traceback and exits with 1.
    """


def utf8(text: object) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as \udcff, as all else is."""
    return str(text).encode(errors="backslashreplace").decode()


def complaints(*checks: tuple[Callable[..., object], *tuple[Any, ...]]) -> list[str]:
    """Make several checks and collect what they complain of.

    Args:
        *checks: each a function that raises InputError, and its arguments; one whose first
            argument is None, for there is nothing to look into, is left out.

    Returns:
        The lines of all messages, each once.
    """
    lines: dict[str, None] = {}
    for complain, *arguments in checks:
        if arguments and arguments[0] is None:
            continue
        try:
            complain(*arguments)
        except InputError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    return list(lines)


def shown(value: object) -> str:
    """A value as it may stand in a message."""
    return cut(repr(value))


def cut(value: object) -> str:
    """A text as it may stand in a message: not too long."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
