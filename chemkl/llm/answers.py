"""Reading the answer out of a completion."""

import re
from collections.abc import Callable

_AROUND = " \t\r\n.,:;!'\"`“”"

Reader = Callable[[str], str | None]


def build_reader(parse: str) -> Reader:
    """Build what reads an answer.

    Args:
        parse: strict, lenient, or a regular expression with one group.

    Returns:
        A function of a completion; it gives None where there is no answer.
    """
    if parse == "strict":
        return lambda completion: completion or None
    if parse == "lenient":
        return lambda completion: completion.strip(_AROUND) or None
    pattern = re.compile(parse)

    def search(completion: str) -> str | None:
        match = pattern.search(completion)
        return match[1] if match else None

    return search
