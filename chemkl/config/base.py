"""The base of every config model, and the types that several of them share."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, model_validator

from chemkl.config import shipped
from chemkl.config.errors import InputError, utf8
from chemkl.config.nearest import nearest
from chemkl.config.piped import is_piped, local


class Config(BaseModel):
    """A frozen config: unknown keys are errors, and the text under a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, values: Any) -> Any:
        """Make a word of true and false where a number is meant: pydantic would take 1 and 0."""
        if not isinstance(values, dict):
            return values
        words = {
            name: str(value).lower()
            for name, value in values.items()
            if isinstance(value, bool)
            and name in cls.model_fields
            and {*_alternatives(cls.model_fields[name].annotation)} <= {int, float, NoneType}
        }
        return {**values, **words} if words else values


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types of which a value may have one."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


MOST_NAMES = 12
"""Of more names than this, a message has the nearest eight."""


def did_you_mean(
    name: str,
    allowed: Iterable[str],
    *,
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
    listed: str = "",
) -> str:
    """Say which names are allowed, the nearest one first: the tail of a 'not known' message.

    Args:
        name: the unknown one.
        allowed: those that are known.
        also: what else these are called, see `nearest`.
        meanings: a sentence on each.
        listed: a command that lists them; then the message does not.

    Returns:
        For example ``"; did you mean 'qed'? Known: logp, qed, tpsa"``.
    """
    names = sorted(allowed)
    if not names:
        return ": there is none."
    near = nearest(name, names, also, meanings)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    if meanings and near:
        hint += f" ({'; '.join(meanings[each] for each in near)})"
    if listed:
        return f"{hint} {listed} lists all {len(names)}"
    if len(names) > MOST_NAMES:
        some = get_close_matches(name, names, n=8, cutoff=0)
        return f"{hint} Known: {', '.join(some)} and {len(names) - len(some)} more"
    return f"{hint} Known: {', '.join(names)}"


def at_home(path: str | Path) -> Path:
    """A path with ~ filled in; XDG_CACHE_HOME stands for ~/.cache where it is set.

    Raises:
        InputError: there is no home directory.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(path).parts[:2] == ("~", ".cache") and os.path.isabs(cache):
        return Path(cache, *Path(path).parts[2:])
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: there is no home directory to find it in; set HOME, or give another folder"
        ) from None


def places_of(path: str | Path, context: Mapping[str, Any]) -> list[Path]:
    """Where a relative path is looked up, in order; of the context see `InputPath`."""
    folders = [context.get("folder"), *context.get("also", ()), Path.cwd()]
    places = [(folder / path).resolve() for folder in folders if folder]
    places[-1:-1] = filter(None, map(shipped.made_here, places[:-1]))
    return places


def _find(path: Path, info: ValidationInfo) -> Path:
    """Resolve a relative path: beside the config file first, then in the working directory.

    Where there is no such file, it is one that comes with chemkl, if any does (`shipped.find`).

    The validation context may hold ``folder`` (of the config file), ``also`` (further folders to
    look in), ``typed`` (texts that came as overrides), ``promised`` (folders whose content may be
    made later), ``earlier`` (the output folders of earlier jobs among these, each with the
    patterns of the files that its job writes; none: they are not known) and ``kind`` (the folder
    of shipped files that a name alone is looked up in).
    """
    context = info.context or {}
    try:
        path = path.expanduser()
        places = places_of(path, context)
        for place in places:
            if place.is_char_device() or place.is_block_device():
                raise ValueError(f"a device, not a file or a folder: {place}")
            if place.exists():
                return place
    except (OSError, RuntimeError) as error:  # a name too long, a folder closed to us, ~nobody
        raise ValueError(utf8(f"no such file or folder: {path} ({error})")) from error
    for place in places:
        if any(place.is_relative_to(folder) for folder in context.get("promised", ())):
            _check_written(place, context.get("earlier", {}))
            return place
    ours = shipped.find(path, *filter(None, [context.get("kind")]))
    if ours is not None:
        return ours
    if path.parts[:1] == ("..",) and len(places) > 1 and str(path) not in context.get("typed", ()):
        places.pop()  # whoever wrote .. into a file meant the file's folder, not where we work
    looked = " nor ".join(str(place) for place in dict.fromkeys(places))
    raise ValueError(utf8(f"no such file or folder: {looked}{_near_shipped(path, context)}"))


def _near_shipped(path: Path, context: Mapping[str, Any]) -> str:
    near = shipped.near(path, *filter(None, [context.get("kind")]))
    return f"; did you mean {near!r}, which comes with chemkl?" if near else ""


def _check_written(place: Path, earlier: Mapping[Path, Sequence[str]]) -> None:
    """Refuse what the job that fills a folder will not write there."""
    for folder, written in earlier.items():
        if place == folder or not place.is_relative_to(folder) or not written:
            continue
        name = place.relative_to(folder).as_posix()
        if not any(fnmatch(name, each) or each.startswith(f"{name}/") for each in written):
            raise ValueError(
                f"no such file or folder: {place}; the job that fills {folder} will not write "
                f"{name!r}{did_you_mean(name, written)}"
            )


InputPath = Annotated[Path, AfterValidator(_find)]
"""A file or folder that must exist; relative paths are looked up beside the config file first,
then in the working directory, then among the files that come with chemkl. Within a pipeline, what
an earlier job will write counts as there."""


def _find_data(path: Path, info: ValidationInfo) -> Path:
    if not is_piped(path):
        return _find(path, info)
    local(path)  # read now: whether the work is done already depends on what comes
    return path


DataPath = Annotated[Path, AfterValidator(_find_data)]
"""The same of a file with data, which may also be a pipe, or - for standard input."""
