"""Where files are: paths that a config names, and data that comes through a pipe."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from chemkl.config import shipped
from chemkl.config.base import InputError, did_you_mean, utf8


def at_home(path: str | Path) -> Path:
    """A path with ~ filled in; XDG_CACHE_HOME stands for ~/.cache where it is set."""
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
    patterns of the files that its job writes; none: they are not known), ``kept`` (files that may
    be gone) and ``kind`` (the folder of shipped files that a name alone is looked up in).
    """
    context = info.context or {}
    kinds = [context["kind"]] if "kind" in context else []
    promised, problem, there = context.get("promised", frozenset()), "", None
    try:
        path = path.expanduser()
        places = places_of(path, context)
        made = [place for place in places if not promised.isdisjoint((place, *place.parents))]
        there = next((place for place in places if place.exists()), None)
        if there is not None:
            if there.is_char_device() or there.is_block_device():
                problem = f"a device, not a file or a folder: {there}"
        elif gone := [place for place in places if place in context.get("kept", ())]:
            there = gone[0]
        elif made:
            there, problem = made[0], _unwritten(made[0], context.get("earlier", {}))
        elif (there := shipped.find(path, *kinds)) is None:
            if path.parts[:1] == ("..",) and str(path) not in context.get("typed", ()):
                # whoever wrote .. into a file meant the file's folder, not where we work
                places = places[:-1] or places
            looked = " nor ".join(str(place) for place in dict.fromkeys(places))
            near = shipped.near(path, *kinds)
            hint = f"; did you mean {near!r}, which comes with chemkl?" if near else ""
            problem = f"no such file or folder: {looked}{hint}"
    except (OSError, RuntimeError) as error:  # a name too long, a folder closed to us, ~nobody
        problem = f"no such file or folder: {path} ({error})"
    if there is None or problem:
        raise ValueError(utf8(problem))
    return there


def _unwritten(place: Path, earlier: Mapping[Path, Sequence[str]]) -> str:
    """Say where the job that fills a folder will not write this there."""
    for folder in place.parents:
        patterns, name = earlier.get(folder), place.relative_to(folder).as_posix()
        if patterns and not any(fnmatch(name, p) or p.startswith(f"{name}/") for p in patterns):
            job = f"the job that fills {folder} will not write {name!r}"
            return f"no such file or folder: {place}; {job}{did_you_mean(name, patterns)}"
    return ""


InputPath = Annotated[Path, AfterValidator(_find)]
"""A file or folder that must exist; relative paths are looked up beside the config file first,
then in the working directory, then among the files that come with chemkl. Within a pipeline, what
an earlier job will write counts as there."""


def _find_model(path: Path, info: ValidationInfo) -> Path:
    beside = [place for place in places_of(path, info.context or {}) if place.is_file()]
    named = shipped.model(path)
    if named != path and not beside:
        return named
    try:
        return _find(path, info)
    except ValueError as error:
        known = f". No prior that comes with chemkl{did_you_mean(str(path), shipped.priors())}"
        raise ValueError(f"{error}{known if str(path) == path.name else ''}") from None


ModelPath = Annotated[Path, AfterValidator(_find_model)]
"""The same of a model file, or the name of a prior that comes with chemkl: chembl, moses."""


def _find_data(path: Path, info: ValidationInfo) -> Path:
    if not is_piped(path):
        return _find(path, info)
    local(path)  # read now: whether the work is done already depends on what comes
    return path


DataPath = Annotated[Path, AfterValidator(_find_data)]
"""The same of a file with data, which may also be a pipe, or - for standard input."""

Folder = Annotated[
    Path | None, BeforeValidator(lambda given, info: given or (info.context or {}).get("folder"))
]
"""Where relative paths are looked up; by default the folder of the config file."""


def standing_for(key: str) -> BeforeValidator:
    """Let a path or text alone stand for a section that has nothing but this key."""
    return BeforeValidator(lambda given: {key: given} if isinstance(given, str | Path) else given)


STDIN = Path("-")
"""Stands for standard input."""

_copies: dict[Path, IO[bytes]] = {}


def label_of(path: Path) -> str:
    """The name of a file in messages."""
    return "standard input" if path == STDIN else str(path)


def local(path: Path) -> Path:
    """Give a file that can be read more than once: standard input and pipes are copied into one.

    The copy lives as long as this process. A folder or a device is refused.
    """
    if path in _copies:
        return Path(_copies[path].name)
    problem = ""
    try:
        if path == STDIN:
            if sys.stdin is not None and not sys.stdin.isatty():
                return _copied(path, sys.stdin.buffer)
            problem = "-: standard input is closed or a terminal; pipe a file into it"
        elif path.is_dir():
            problem = f"{path}: this is a folder; expected a file"
        elif path.is_char_device() or path.is_block_device():
            problem = f"{path}: this is a device; expected a file, or - for standard input"
        elif stat.S_ISREG(path.stat().st_mode):
            return path
        else:
            with path.open("rb") as stream:
                return _copied(path, stream)
    except OSError as error:
        problem = f"{label_of(path)}: cannot be read ({error.strerror or error})"
    raise InputError(problem)


def is_piped(path: Path) -> bool:
    """Whether a path stands for something that can be read only once."""
    try:
        return path == STDIN or path in _copies or path.is_fifo()
    except (OSError, ValueError):  # a name that is too long, or no name
        return False


def is_copied(path: Path) -> bool:
    """Whether this process has read a pipe."""
    return path in _copies


def _copied(path: Path, stream: IO[bytes]) -> Path:
    copy = tempfile.NamedTemporaryFile(prefix="chemkl-")  # noqa: SIM115 - removed when closed
    shutil.copyfileobj(stream, copy)
    copy.flush()
    _copies[path] = copy
    return Path(copy.name)
