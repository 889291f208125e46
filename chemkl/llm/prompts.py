"""Prompts of a language model, rendered, checked and saved; answers, read from completions."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from jinja2 import TemplateSyntaxError
from pydantic import Field, TypeAdapter

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.llm import Message
from chemkl.display import counted
from chemkl.results.atomic import write_bytes
from chemkl.results.seal import SEAL, check_seal


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        number: its index among the prompts of the run, from 0.
        text: its last message, or the rendered prompt if another prompt ends with the same
            message; the argument of reward functions, and the column of the trace.
        rendered: the text that the model reads.
        token_ids: the ids that the model reads.
    """

    number: int
    text: str
    rendered: str
    token_ids: Annotated[tuple[int, ...], Field(min_length=1)]


def render_prompts(
    conversations: Sequence[Sequence[Message]],
    tokenizer: Any,
    *,
    template: str | Path = "chat",
    context: int | None = None,
    max_new_tokens: int = 0,
) -> tuple[Prompt, ...]:
    """Render conversations as the text and ids that a model reads.

    Args:
        conversations: the prompts, each a list of messages.
        tokenizer: of the model.
        template: chat (the tokenizer's own), none, or the path of a Jinja template.
        context: the model's context length in tokens; None: unknown.
        max_new_tokens: tokens of a completion, which must fit into the context too.

    Raises:
        InputError: no template, one that cannot be read or refuses the messages, or prompts that
            are empty or too long; with a line for each.
    """
    source = _template(tokenizer, template)
    last = [messages[-1].content for messages in conversations]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):  # some have one token for all
        unknown = None
    prompts, problems = [], []
    refusals: dict[str, list[int]] = {}
    for number, messages in enumerate(conversations):
        try:
            rendered, ids = _rendered(messages, tokenizer, source)
        except TemplateSyntaxError as error:  # the same for all prompts
            file = template if isinstance(template, Path) else "the tokenizer's own"
            raise InputError(
                f"template: {file}, line {error.lineno}: not a Jinja template: {error.message}"
            ) from error
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            refusals.setdefault(f"{type(error).__name__}: {one_line(error)}", []).append(number)
            continue
        text = last[number] if last.count(last[number]) == 1 else rendered
        prompts.append(Prompt(number, text, rendered, ids))
        if not ids:
            problems.append(f"prompts.{number}: no tokens: a prompt needs one or more")
        if context is not None and len(ids) + max_new_tokens > context:
            problems.append(
                f"prompts.{number}: {len(ids):,} tokens, and max_new_tokens = {max_new_tokens:,} "
                f"more do not fit into the model's context of {context:,}; shorten one of the two"
            )
        if unknown in ids and tokenizer.unk_token not in rendered:  # else it was written on purpose
            problems.append(
                f"prompts.{number}: {text!r} has a part for which the model has no token, and "
                f"which it reads as {tokenizer.unk_token!r}; spell it as in the training data"
            )
    for reason, numbers in refusals.items():
        more = f" (and {counted(len(numbers) - 1, 'more prompt')})" if len(numbers) > 1 else ""
        problems.append(f"prompts.{numbers[0]}: the chat template refuses it{more}: {reason}")
    InputError.refuse(problems)
    return tuple(prompts)


def _template(tokenizer: Any, template: str | Path) -> str | None:
    """Return the Jinja source of a template; None for plain text."""
    if template == "none":
        return None
    source = getattr(tokenizer, "chat_template", None)
    problem = "chat, but the model's tokenizer has no chat template (a base model?)"
    if isinstance(template, Path):
        try:
            source = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            source, problem = None, f"{template}: cannot be read as text in UTF-8 ({error})"
    if not isinstance(source, str):
        raise InputError(
            f"template: {problem}; give chat, none (plain text), or the path of a Jinja template"
        )
    return source


def _rendered(
    messages: Sequence[Message], tokenizer: Any, template: str | None
) -> tuple[str, tuple[int, ...]]:
    """Return a conversation as the text and the ids that the model reads.

    Some tokenizers append an end token to plain text. It is removed, as the model should continue
    the text. An end token that is a part of the text stays.
    """
    if template is None:
        text = messages[-1].content
        ids = tokenizer(text)["input_ids"]
        n_ends, n_own_ends = (
            len(list(takewhile(lambda i: i == tokenizer.eos_token_id, reversed(row))))
            for row in (ids, tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        return text, tuple(ids[: max(1, len(ids) - n_ends + n_own_ends)])
    is_prefilled = messages[-1].role == "assistant"
    rendered = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=not is_prefilled,
        continue_final_message=is_prefilled,
    )
    # the template has all special tokens
    return rendered, tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def check_ids(
    tokenizer: Any, n_ids: int, prompts: Sequence[Prompt], answers: Sequence[str], end_id: int
) -> None:
    """Refuse a tokenizer whose ids go beyond the n_ids that the model reads.

    A model may read more ids, as padding; and a tokenizer may have a few special tokens beyond, if
    neither prompts nor answers (texts whose probability is computed) use them.
    """
    largest = {f"prompts.{prompt.number} has": max(prompt.token_ids) for prompt in prompts}
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        largest[f"answer {answer!r} has"] = max(ids, default=0)
    largest["the token that ends a completion is"] = end_id
    beyond = [f"; {what} id {i:,}" for what, i in largest.items() if i >= n_ids]
    if beyond or tokenizer.vocab_size > n_ids:
        raise InputError(
            f"model: the tokenizer has {len(tokenizer):,} ids, the model reads {n_ids:,} "
            f"(vocab_size in its config.json{''.join(beyond[:1])}): take both from the same model"
        )


# ---- the prompts of a run, on disk

PROMPTS_FILE = "prompts.json"

_PROMPTS: TypeAdapter[tuple[Prompt, ...]] = TypeAdapter(tuple[Prompt, ...])


def write_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    """Write ``prompts.json``, one line for each attribute of a prompt.

    The first prompt holds the checksum of the file, see `chemkl.results.seal`.
    """
    blocks: list[str] = []
    for prompt in prompts:
        parts = asdict(prompt) | ({} if blocks else {"sha256": SEAL.decode()})
        lines = [
            f'    "{name}": {json.dumps(part, ensure_ascii=False)}' for name, part in parts.items()
        ]
        blocks.append("  {\n" + ",\n".join(lines) + "\n  }")
    text = "[\n" + ",\n".join(blocks) + "\n]\n"
    write_bytes(folder / PROMPTS_FILE, text.encode(), sealed=True)


def read_run_prompts(folder: Path, n: int) -> tuple[Prompt, ...] | None:
    """Read the n prompts of a run from ``prompts.json``; None: there is no such file."""
    path = folder / PROMPTS_FILE
    if not path.exists():
        return None
    try:
        check_seal(path)
        return as_prompts(json.loads(path.read_bytes()), n)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not the prompts of this run ({one_line(error)}). Restore a good copy, or "
            "start the run again with --fresh."
        ) from error


def as_prompts(plain: Any, n: int) -> tuple[Prompt, ...]:
    """Convert a list of n JSON objects to prompts; raises ValueError."""
    prompts = _PROMPTS.validate_python(plain)
    if [prompt.number for prompt in prompts] != list(range(n)):
        raise ValueError(f"it should have the prompts 0 to {n - 1}, each once and in this order")
    return prompts


# ---- answers

_MARGIN = " \t\r\n.,:;!'\"`“”"
"""Characters around an answer that lenient parsing strips."""


class Completion(NamedTuple):
    """A completion, with its prompt."""

    group: int  # number of the prompt
    prompt: str  # its text
    text: str  # the completion, without the end token
    cut: str | None  # why it counts as truncated; None: it is complete


def build_reader(parse: str) -> Callable[[str], str | None]:
    """Build the function that reads the answer of a completion (None: no answer).

    Args:
        parse: strict, lenient, or a regular expression with one group.
    """
    if parse == "strict":
        return lambda text: text or None
    if parse == "lenient":
        return lambda text: text.strip(_MARGIN) or None
    pattern = re.compile(parse)
    return lambda text: match[1] if (match := pattern.search(text)) else None


def misread(answers: Sequence[str], parse: str) -> list[str]:
    """List the answers that are read as another one when they are the whole completion.

    Regular expressions are not checked: they may need other text around the answer.
    """
    read = build_reader(parse)
    return [
        f"valid answer {answer!r} is read as {'no answer' if got is None else repr(got)} with "
        f"parse: {parse}, so it can never be given; write it as it is read, or take parse: strict"
        for answer in answers
        if (got := read(answer)) != answer and parse in ("strict", "lenient")
    ]


def check_answers(
    answers: Sequence[str], tokenizer: Any, max_new_tokens: int, end_id: int, parse: str
) -> list[str]:
    """List the answers that the model cannot write with its tokenizer."""
    is_plain = parse in ("strict", "lenient")
    problems = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        same = build_reader(parse)(decoded) == answer if is_plain else answer in decoded
        if end_id in ids:
            problem = f"it has {tokenizer.decode([end_id])!r} in it, which ends a completion"
        elif not same:
            problem = f"the model's tokenizer turns it into {decoded!r}; spell it like that"
        elif len(ids) >= max_new_tokens:
            problem = (
                f"it has {len(ids)} tokens, and with the end token {len(ids) + 1}: raise "
                f"max_new_tokens = {max_new_tokens}"
            )
        else:
            continue
        problems.append(f"answer {answer!r} can never be given: {problem}")
    return problems
