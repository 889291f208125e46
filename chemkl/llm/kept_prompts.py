"""What the model of a run reads, kept with the run: a template may insert the date of the day."""

import hashlib
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

FILE = "prompts.json"

_PROMPTS: TypeAdapter[tuple[Prompt, ...]] = TypeAdapter(tuple[Prompt, ...])


def keep_prompts(prompts: Sequence[Prompt], folder: Path) -> str:
    """Write ``prompts.json``, a line for each part of a prompt, so that people can read it.

    Returns:
        The SHA-256 of the file.
    """
    blocks = [
        ",\n    ".join(
            f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in asdict(prompt).items()
        )
        for prompt in prompts
    ]
    text = ",\n".join(f"  {{\n    {block}\n  }}" for block in blocks)
    content = f"[\n{text}\n]\n".encode()
    write_bytes(folder / FILE, content)
    return hashlib.sha256(content).hexdigest()


def kept_prompts(folder: Path, n: int, sha256: str | None = None) -> tuple[Prompt, ...] | None:
    """Read what `keep_prompts` wrote.

    Args:
        folder: of a run.
        n: how many prompts the run has.
        sha256: what `keep_prompts` returned; None: not known.

    Returns:
        The prompts; None: the folder keeps none.

    Raises:
        InputError: it is something else.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("its checksum does not fit")  # noqa: TRY301 - one message for all
        return as_prompts(json.loads(content), n)
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
