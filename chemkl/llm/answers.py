"""Reading the answer out of a completion."""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from chemkl.rewards.model import FailureCount

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


def misread(answers: Sequence[str], parse: str) -> list[str]:
    """Say of which answers another is read when they are the whole completion.

    Nothing is said where parse is a regular expression: the answer may want other text around it.
    """
    if parse not in ("strict", "lenient"):
        return []
    read = build_reader(parse)
    pairs = [(each, read(each)) for each in answers]
    return [
        f"valid answer {each!r} is read as {'no answer' if found is None else repr(found)} with "
        f"parse: {parse}, so it can never be given; write it as it is read, or take parse: strict"
        for each, found in pairs
        if found != each
    ]


def check_answers(
    answers: Sequence[str], tokenizer: Any, *, max_new_tokens: int, end_id: int, parse: str
) -> list[str]:
    """Look whether a model can write answers as its tokenizer cuts them.

    Args:
        answers: the answers.
        tokenizer: of the model.
        max_new_tokens: most tokens of a completion, end token included.
        end_id: the token that ends a completion.
        parse: how answers are read.

    Returns:
        A line for each answer that it cannot write; none: it can write all.
    """
    problems = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        wrong = None
        if end_id in ids:
            wrong = f"it holds {tokenizer.decode([end_id])!r}, which ends a completion"
        elif not _is_same(answer, written, parse):
            wrong = f"the model's tokenizer makes {written!r} of it; spell it as it writes it"
        elif len(ids) >= max_new_tokens:
            wrong = (
                f"it has {len(ids)} tokens, and with the end token {len(ids) + 1}: raise "
                f"max_new_tokens = {max_new_tokens}"
            )
        if wrong is not None:
            problems.append(f"answer {answer!r} can never be given: {wrong}")
    return problems


def _is_same(answer: str, written: str, parse: str) -> bool:
    """Whether an answer survives the tokenizer; around it there may be what parse leaves out."""
    if parse in ("strict", "lenient"):
        return build_reader(parse)(written) == answer
    return answer in written


@dataclass(frozen=True)
class Written:
    """A completion.

    Attributes:
        group: number of the prompt.
        prompt: its text.
        text: what was written, without the end token.
        cut: why it counts as cut off; None: it has an end.
    """

    group: int
    prompt: str
    text: str
    cut: str | None


class TextReward(Protocol):
    """What a ledger of texts asks of a reward."""

    component_names: list[str]
    """Components that have columns of their own in the trace."""
    bounds: tuple[float, float]
    """The reward of a failure, which no other is below, and the highest that there can be."""
    files: Mapping[str, Path]
    """Files that decide the rewards, by role."""

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """How often each component was asked, and how often it failed, and why."""

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions: a row for each, in order.

        Returns:
            Columns smiles, canonical_smiles, valid, reason, scaffold, answer (missing where there
            is no valid one), raw_<c> and score_<c> for each component, and reward.
        """

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Say what is paid once in rows that `score` gave, or in a trace; None: nothing valid."""

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Say the same before scoring."""

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid."""

    def close(self) -> None:
        """Give free what scoring holds; nothing can be scored any more."""
