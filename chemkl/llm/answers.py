"""A completion, and how the answer is read out of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_AROUND = " \t\r\n.,:;!'\"`“”"


@dataclass(frozen=True)
class Completion:
    """What a language model wrote.

    Attributes:
        group: number of the prompt.
        prompt: its text.
        text: the completion, without the end token.
        cut: why it counts as cut off; None: it has an end.
    """

    group: int
    prompt: str
    text: str
    cut: str | None


def build_reader(parse: str) -> Callable[[str], str | None]:
    """Build what reads the answer of a completion (None: no answer) by ``parse``.

    That is strict, lenient, or a regular expression with one group.
    """
    if parse == "strict":
        return lambda text: text or None
    if parse == "lenient":
        return lambda text: text.strip(_AROUND) or None
    pattern = re.compile(parse)
    return lambda text: match[1] if (match := pattern.search(text)) else None


def misread(answers: Sequence[str], parse: str) -> list[str]:
    """Say of which answers another is read when they are the whole completion.

    Nothing is said where parse is a regular expression: the answer may want other text around it.
    """
    read = build_reader(parse)
    return [
        f"valid answer {answer!r} is read as {'no answer' if seen is None else repr(seen)} with "
        f"parse: {parse}, so it can never be given; write it as it is read, or take parse: strict"
        for answer in answers
        if (seen := read(answer)) != answer and parse in ("strict", "lenient")
    ]


def check_answers(
    answers: Sequence[str], tokenizer: Any, max_new_tokens: int, end_id: int, parse: str
) -> list[str]:
    """Look whether a model can write answers as its tokenizer cuts them; a line for each it cannot.

    Around an answer there may stand what parse leaves out.
    """
    is_plain = parse in ("strict", "lenient")
    problems = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        same = build_reader(parse)(decoded) == answer if is_plain else answer in decoded
        if end_id in ids:
            wrong = f"it holds {tokenizer.decode([end_id])!r}, which ends a completion"
        elif not same:
            wrong = f"the model's tokenizer makes {decoded!r} of it; spell it as it writes it"
        elif len(ids) >= max_new_tokens:
            wrong = (
                f"it has {len(ids)} tokens, and with the end token {len(ids) + 1}: raise "
                f"max_new_tokens = {max_new_tokens}"
            )
        else:
            continue
        problems.append(f"answer {answer!r} can never be given: {wrong}")
    return problems
