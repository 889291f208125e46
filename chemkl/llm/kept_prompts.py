"""What the model of a run reads, kept with the run: a template may insert the date of the day."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.llm.prompts import Prompt
from chemkl.results.atomic import write_bytes
from chemkl.results.seal import SEAL, is_whole

FILE = "prompts.json"

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
    write_bytes(folder / FILE, f"[\n{text}\n]\n".encode(), sealed=True)


def kept_prompts(folder: Path, n: int) -> tuple[Prompt, ...] | None:
    """Read what `keep_prompts` wrote.

    Args:
        folder: of a run.
        n: how many prompts the run has.

    Returns:
        The prompts; None: the folder keeps none.

    Raises:
        InputError: it is something else.
    """
    path = folder / FILE
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
    """Make prompts of JSON.

    Args:
        plain: a list with an object for each.
        n: how many there should be.

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
    if not all(prompt.token_ids for prompt in prompts):
        raise ValueError("a prompt without tokens")
    return prompts
