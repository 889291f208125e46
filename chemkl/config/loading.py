"""The one way from what the user wrote to a checked config: files, mappings and overrides."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from chemkl.config.document import Document
from chemkl.config.draft import Draft
from chemkl.config.errors import InputError
from chemkl.config.origin import AFTER_THE_FILE
from chemkl.config.overrides import Override, apply
from chemkl.config.problems import render

Model = TypeVar("Model", bound=BaseModel)


def load_config(
    model: type[Model],
    source: object,
    overrides: Iterable[str | Override] = (),
    folder: str | Path | None = None,
    *,
    also: Iterable[Path] = (),
    promised: Iterable[Path] = (),
    earlier: Mapping[Path, Sequence[str]] | None = None,
    beside: Callable[[Draft], Iterable[str]] | None = None,
    kinds: Iterable[str] = (),
) -> Model:
    """Read and check a config.

    Args:
        model: the config's class.
        source: an instance of it, a mapping, or the path of a YAML file.
        overrides: settings to change, as ``dotted.key=value``.
        folder: where relative paths are looked up first; default: the file's own folder. The
            working directory comes last.
        also: further folders to look in, before the working directory.
        promised: folders whose content need not exist yet.
        earlier: output folders of jobs that run before, and the names of what each writes, see
            `InputPath`; what is in them now is not looked into.
        beside: finds what the schema cannot see in settings that do not fit it; it is asked only
            then, and what the schema has said already is not said again.
        kinds: folders of files that come with chemkl, for a name alone, see `shipped.find`.

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
    document = Document.of(source, model.__name__, None if folder is None else Path(folder), kinds)
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
    earlier = earlier or {}
    context = {
        "folder": document.folder,
        "also": tuple(also),
        "typed": {str(change.value) for change in changes},
        "promised": (*promised, *earlier),
        "earlier": earlier,
    }
    try:
        config = model.model_validate(data, context=context)
    except ValidationError as error:
        problems += render(error, model, document, changes)
    if not problems:
        return config
    lines = [text for _, text in sorted(problems, key=lambda p: p[0])]
    if beside is not None:
        found = beside(Draft(model, document, data, changes, context))
        lines += [line for line in found if not any(line in known for known in lines)]
    raise InputError("\n".join(dict.fromkeys(lines)))


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
