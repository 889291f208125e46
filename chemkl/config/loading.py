"""The one way from what the user wrote to a checked config: files, mappings and overrides."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from chemkl.config.document import Document
from chemkl.config.errors import InputError
from chemkl.config.overrides import Override, apply
from chemkl.config.problems import AFTER_THE_FILE, render

Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model: type[Model],
    source: object,
    overrides: Iterable[str | Override] = (),
    folder: str | Path | None = None,
    *,
    also: Iterable[Path] = (),
    promised: Iterable[Path] = (),
) -> Model:
    """Read and check a config.

    Args:
        model: the config's class.
        source: an instance of it, a mapping, or the path of a YAML file.
        overrides: settings to change, as ``dotted.key=value``.
        folder: where relative paths are looked up first; default: the file's own folder. The
            working directory comes last.
        also: further folders to look in, before the working directory.
        promised: output folders of earlier jobs; paths within need not exist yet.

    Returns:
        The checked config.

    Raises:
        InputError: with a line for every problem there is.
    """
    overrides = list(overrides)
    if isinstance(source, model) and not overrides:
        return source
    if isinstance(source, BaseModel):
        source = _data_of(source, model)
    document = Document.of(source, model.__name__, None if folder is None else Path(folder))
    problems: list[tuple[int, str]] = [
        (
            line,
            f"{document.name}:{line}: {'.'.join(map(str, keys))}: given twice, first in line "
            f"{first}; keep one",
        )
        for keys, line, first in document.repeated_keys()
    ]
    changes, bad = _parsed(overrides)
    data, misplaced = apply(document.data, changes)
    problems += [(AFTER_THE_FILE, str(error)) for error in (*bad, *misplaced)]
    context = {"folder": document.folder, "also": tuple(also), "promised": tuple(promised)}
    try:
        config = model.model_validate(data, context=context)
    except ValidationError as error:
        problems += render(error, model, document, changes)
    if problems:
        raise InputError("\n".join(text for _, text in sorted(problems, key=lambda p: p[0])))
    return config


def _data_of(source: BaseModel, model: type[BaseModel]) -> dict[str, object]:
    if not isinstance(source, model):
        raise InputError(f"expected a {model.__name__}, got a {type(source).__name__}.")
    return source.model_dump()


def _parsed(overrides: Iterable[str | Override]) -> tuple[list[Override], list[InputError]]:
    changes, problems = [], []
    for override in overrides:
        try:
            changes.append(override if isinstance(override, Override) else Override.parse(override))
        except InputError as error:
            problems.append(error)
    return changes, problems
