"""A reward for one short sentence on a subject: how many of four plain constraints it meets."""

import re

WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")  # noqa: RUF001 - the typographer's apostrophe
COMMON = re.compile("a|an|and|as|at|by|for|from|in|into|is|it|its|of|on|or|over|the|to|with")
"""Words that may stand twice."""


def one_sentence(
    _prompt: str, completion: str, word: str = "sea", fewest: int = 6, most: int = 16
) -> float:
    """Score a sentence; the same text has the same score always.

    Args:
        completion: what was written.
        word: the subject, which must stand in it as a word of its own, in any case.
        fewest: words that it has at least.
        most: words that it has at most.

    Returns:
        The mean of four parts, each 0 to 1: the subject is named; it is one sentence of words and
        commas that begins with a capital letter and ends with a full stop; its length is within the
        bounds (less, the farther off it is); and no word is repeated (the share of different ones).
    """
    words = [each.lower() for each in WORD.findall(completion)]
    if not words:
        return 0.0
    length = len(words)
    rest = WORD.sub("", completion.strip())
    telling = [each for each in words if not COMMON.fullmatch(each)]
    parts = (
        float(word.lower() in words),
        float(completion[:1].isupper() and re.fullmatch(r"[ ,]*\.", rest) is not None),
        min(1.0, length / fewest, most / length),
        len(set(telling)) / len(telling) if telling else 0.0,
    )
    return sum(parts) / len(parts)
