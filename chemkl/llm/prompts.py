"""Prompts as a model reads them: messages through a chat template, or plain text; checked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from jinja2 import TemplateSyntaxError
from pydantic import Field, TypeAdapter, ValidationError

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.llm import Message
from chemkl.results.atomic import write_bytes
from chemkl.results.seal import SEAL, is_whole


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
    prompts, problems = [], []
    refused: dict[str, list[int]] = {}
    for number, messages in enumerate(conversations):
        try:
            prompt = _rendered(number, messages, tokenizer, source)
        except TemplateSyntaxError as error:  # the same for all prompts
            file = template if isinstance(template, Path) else "the tokenizer's own"
            raise InputError(
                f"template: {file}, line {error.lineno}: not a Jinja template: {error.message}"
            ) from error
        except InputError as error:
            refused.setdefault(str(error), []).append(number)
            continue
        if last.count(prompt.text) > 1:
            prompt = replace(prompt, text=prompt.rendered)
        length = len(prompt.token_ids)
        if not length:
            problems.append(f"prompts.{number}: no tokens: the model has nothing to go on with")
        if context is not None and length + max_new_tokens > context:
            problems.append(
                f"prompts.{number}: {length:,} tokens, and max_new_tokens = {max_new_tokens:,} "
                f"more do not fit into the model's context of {context:,}; shorten one of the two"
            )
        if _is_unknown_in(prompt, tokenizer):
            problems.append(
                f"prompts.{number}: {prompt.text!r} holds something that the model has no token "
                f"for and reads as {tokenizer.unk_token!r}; spell it as the model was trained on it"
            )
        prompts.append(prompt)
    for reason, numbers in refused.items():  # what a template has against several is told once
        more = len(numbers) - 1
        others = f" (and {more:,} more {'prompt' if more == 1 else 'prompts'})" if more else ""
        problems.append(f"prompts.{numbers[0]}: the chat template refuses it{others}: {reason}")
    InputError.refuse(problems)
    return tuple(prompts)


def check_ids(
    tokenizer: Any,
    n_read: int,
    *,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    end_id: int,
) -> None:
    """Refuse a tokenizer that writes ids which the model, with so many, does not read.

    A model may read more ids, as padding; and a tokenizer may have a few special tokens too many,
    if neither prompts nor answers (texts whose probability is asked for) use them.

    Raises:
        InputError: saying how many ids the two have.
    """
    used: dict[str, Sequence[int]] = {
        f"prompts.{prompt.number} has": prompt.token_ids for prompt in prompts
    }
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        used[f"answer {answer!r} has"] = ids
    used["the token that ends a completion is"] = (end_id,)
    beyond = [
        f"{what} id {max(ids):,}" for what, ids in used.items() if max(ids, default=0) >= n_read
    ]
    if beyond or tokenizer.vocab_size > n_read:
        example = f"; {beyond[0]}" if beyond else ""
        raise InputError(
            f"model: the tokenizer has {len(tokenizer):,} ids, the model reads {n_read:,} "
            f"(vocab_size in its config.json{example}): take both from the same model"
        )


def _is_unknown_in(prompt: Prompt, tokenizer: Any) -> bool:
    """Whether a part of a prompt became the token for what is unknown, and was not written so.

    Some tokenizers take one token for that and for the beginning or the end of a text.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return False
    return unknown in prompt.token_ids and tokenizer.unk_token not in prompt.rendered


def _template(tokenizer: Any, template: str | Path) -> str | None:
    """The Jinja source of a template; None for plain text."""
    if template == "none":
        return None
    if isinstance(template, Path):
        try:
            return template.read_text(encoding="utf-8")
        except IsADirectoryError:
            said = "this is a folder"
        except (OSError, UnicodeDecodeError) as error:
            said = f"cannot be read as text in UTF-8 ({error})"
        raise InputError(
            f"template: {template}: {said}; give chat, none, or the path of a Jinja template, a "
            "text file in UTF-8"
        )
    chat = getattr(tokenizer, "chat_template", None)
    if not isinstance(chat, str):
        raise InputError(
            "template: chat, but the model's tokenizer has no chat template (a base model?): take "
            "template: none and plain text, or give the path of a Jinja template"
        )
    return chat


def _rendered(
    number: int, messages: Sequence[Message], tokenizer: Any, template: str | None
) -> Prompt:
    text = messages[-1].content
    if template is None:
        return Prompt(number, text, text, _begun(text, tokenizer))
    goes_on = messages[-1].role == "assistant"
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    except TemplateSyntaxError:
        raise
    except Exception as error:
        said = one_line(error)
        raise InputError(f"{type(error).__name__}: {said}") from error
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]  # the template has them all
    return Prompt(number, text, rendered, tuple(ids))


def _begun(text: str, tokenizer: Any) -> tuple[int, ...]:
    """Ids of a plain text, with what a tokenizer puts in front of it.

    The end token that some put behind is left out: the model is to go on with the text, not to
    begin another one. An end token that is written in the text itself stays.
    """
    end = tokenizer.eos_token_id
    ids: list[int] = tokenizer(text)["input_ids"]
    written: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = _n_last(ids, end) - _n_last(written, end)
    return tuple(ids[: max(1, len(ids) - added)])


def _n_last(ids: Sequence[int], token: int | None) -> int:
    """How many of the last ids are that token."""
    return len(list(takewhile(lambda i: i == token, reversed(ids))))


PROMPTS_FILE = "prompts.json"

_PROMPTS: TypeAdapter[tuple[Prompt, ...]] = TypeAdapter(tuple[Prompt, ...])


def keep_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    """Write ``prompts.json``, a line for each part of a prompt, so that people can read it.

    The first prompt holds the checksum of the file, see `chemkl.results.seal`.
    """
    seals = [{"sha256": SEAL.decode()}, *({} for _ in prompts[1:])]
    blocks = [
        ",\n    ".join(
            f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in (asdict(prompt) | seal).items()
        )
        for prompt, seal in zip(prompts, seals, strict=True)
    ]
    text = ",\n".join(f"  {{\n    {block}\n  }}" for block in blocks)
    write_bytes(folder / PROMPTS_FILE, f"[\n{text}\n]\n".encode(), sealed=True)


def kept_prompts(folder: Path, n: int) -> tuple[Prompt, ...] | None:
    """Read the n prompts that `keep_prompts` wrote for a run; None: the folder keeps none.

    Raises:
        InputError: it is something else.
    """
    path = folder / PROMPTS_FILE
    try:
        if not is_whole(path):
            raise ValueError("its checksum does not fit")  # noqa: TRY301 - one message for all
        return as_prompts(json.loads(path.read_bytes()), n)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not the prompts of this run ({one_line(error)}). Put back a good copy, or "
            "begin the run anew with --fresh."
        ) from error


def as_prompts(plain: Any, n: int) -> tuple[Prompt, ...]:
    """Make n prompts of JSON: a list with an object for each.

    Raises:
        ValueError: they are not prompts, or not so many.
    """
    try:
        prompts = _PROMPTS.validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise ValueError(f"{place}: {first['msg']}") from error
    if [prompt.number for prompt in prompts] != list(range(n)):
        raise ValueError(f"it should have the prompts 0 to {n - 1}, each once and in this order")
    return prompts
