"""Texts of a language model: prompts as it reads them, checked and kept; answers out of it."""

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
        number: its place among the prompts of the run, from 0.
        text: its last message, or all of it where another prompt ends in the same one: what a
            reward function is given, and what the trace holds.
        rendered: all that the model reads.
        token_ids: the same as ids.
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
    """Turn conversations into what a model reads.

    Args:
        conversations: the prompts, each a list of messages.
        tokenizer: of the model.
        template: chat (the tokenizer's own), none, or the path of a Jinja template.
        context: tokens that the model can read; None: not known.
        max_new_tokens: tokens that have to fit in behind.

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
    refused: dict[str, list[int]] = {}
    for number, messages in enumerate(conversations):
        try:
            rendered, ids = _rendered(messages, tokenizer, source)
        except TemplateSyntaxError as error:  # the same for all prompts
            file = template if isinstance(template, Path) else "the tokenizer's own"
            raise InputError(
                f"template: {file}, line {error.lineno}: not a Jinja template: {error.message}"
            ) from error
        except Exception as error:  # noqa: BLE001 - whatever a template raises
            refused.setdefault(f"{type(error).__name__}: {one_line(error)}", []).append(number)
            continue
        text = last[number] if last.count(last[number]) == 1 else rendered
        prompts.append(Prompt(number, text, rendered, ids))
        if not ids:
            problems.append(f"prompts.{number}: no tokens: the model has nothing to go on with")
        if context is not None and len(ids) + max_new_tokens > context:
            problems.append(
                f"prompts.{number}: {len(ids):,} tokens, and max_new_tokens = {max_new_tokens:,} "
                f"more do not fit into the model's context of {context:,}; shorten one of the two"
            )
        if (
            unknown in ids and tokenizer.unk_token not in rendered
        ):  # where it is written, it is meant
            problems.append(
                f"prompts.{number}: {text!r} holds something that the model has no token for and "
                f"reads as {tokenizer.unk_token!r}; spell it as the model was trained on it"
            )
    for reason, numbers in refused.items():  # what a template has against several is told once
        others = f" (and {counted(len(numbers) - 1, 'more prompt')})" if len(numbers) > 1 else ""
        problems.append(f"prompts.{numbers[0]}: the chat template refuses it{others}: {reason}")
    InputError.refuse(problems)
    return tuple(prompts)


def _template(tokenizer: Any, template: str | Path) -> str | None:
    """The Jinja source of a template; None for plain text."""
    if template == "none":
        return None
    source = getattr(tokenizer, "chat_template", None)
    said = "chat, but the model's tokenizer has no chat template (a base model?)"
    if isinstance(template, Path):
        try:
            source = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            source, said = None, f"{template}: cannot be read as text in UTF-8 ({error})"
    if not isinstance(source, str):
        raise InputError(
            f"template: {said}; give chat, none (plain text), or the path of a Jinja template"
        )
    return source


def _rendered(
    messages: Sequence[Message], tokenizer: Any, template: str | None
) -> tuple[str, tuple[int, ...]]:
    """What a model reads of a conversation, as text and as ids.

    Behind a plain text some tokenizers put an end token. It is left out: the model is to go on with
    the text, not to begin another one. An end token that is written in the text itself stays.
    """
    if template is None:
        text = messages[-1].content
        ids = tokenizer(text)["input_ids"]
        ends, written = (
            len(list(takewhile(lambda i: i == tokenizer.eos_token_id, reversed(some))))
            for some in (ids, tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        return text, tuple(ids[: max(1, len(ids) - ends + written)])
    goes_on = messages[-1].role == "assistant"
    rendered = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in messages],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )
    # the template has all special tokens
    return rendered, tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def check_ids(
    tokenizer: Any, n_read: int, prompts: Sequence[Prompt], answers: Sequence[str], end_id: int
) -> None:
    """Refuse a tokenizer that writes ids which the model, with so many, does not read.

    A model may read more ids, as padding; and a tokenizer may have a few special tokens too many,
    if neither prompts nor answers (texts whose probability is asked for) use them.
    """
    used = {f"prompts.{prompt.number} has": max(prompt.token_ids) for prompt in prompts}
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        used[f"answer {answer!r} has"] = max(ids, default=0)
    used["the token that ends a completion is"] = end_id
    beyond = [f"; {what} id {most:,}" for what, most in used.items() if most >= n_read]
    if beyond or tokenizer.vocab_size > n_read:
        raise InputError(
            f"model: the tokenizer has {len(tokenizer):,} ids, the model reads {n_read:,} "
            f"(vocab_size in its config.json{''.join(beyond[:1])}): take both from the same model"
        )


# ---- kept with a run

PROMPTS_FILE = "prompts.json"

_PROMPTS: TypeAdapter[tuple[Prompt, ...]] = TypeAdapter(tuple[Prompt, ...])


def keep_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    """Write ``prompts.json``, a line for each part of a prompt, so that people can read it.

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


def kept_prompts(folder: Path, n: int) -> tuple[Prompt, ...] | None:
    """Read the n prompts that `keep_prompts` wrote for a run; None: the folder keeps none."""
    path = folder / PROMPTS_FILE
    if not path.exists():
        return None
    try:
        check_seal(path)
        return as_prompts(json.loads(path.read_bytes()), n)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not the prompts of this run ({one_line(error)}). Put back a good copy, or "
            "begin the run anew with --fresh."
        ) from error


def as_prompts(plain: Any, n: int) -> tuple[Prompt, ...]:
    """Make n prompts of JSON, a list with an object for each, or raise a ValueError."""
    prompts = _PROMPTS.validate_python(plain)
    if [prompt.number for prompt in prompts] != list(range(n)):
        raise ValueError(f"it should have the prompts 0 to {n - 1}, each once and in this order")
    return prompts


# ---- answers

_AROUND = " \t\r\n.,:;!'\"`“”"


class Completion(NamedTuple):
    """What a language model wrote."""

    group: int  # number of the prompt
    prompt: str  # its text
    text: str  # the completion, without the end token
    cut: str | None  # why it counts as cut off; None: it has an end


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

    A regular expression may want other text around the answer: nothing is said there.
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
    """A line for each answer that a model cannot write, as its tokenizer cuts it."""
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
