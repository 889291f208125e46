"""Files: those that come with chemkl, paths in a config, text of settings, data from a pipe.

The shipped files are the folders configs/, pipelines/ and data/ of the repository; an installed
package has them as chemkl/shipped/ (see setup.py). A file of the user always takes precedence.
"""

import codecs
import filecmp
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePath
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

import chemkl
from chemkl.config.base import InputError, did_you_mean, utf8

# ---- files that come with chemkl

SHIPPED_FOLDERS = ("configs", "data", "pipelines")
OUTPUT_FOLDERS = ("data/cache/", "data/corpora/", "runs/")
"""Where stages write in a checkout; nothing in these folders is shipped."""


@cache
def shipped_root() -> Path:
    """Return the folder that contains configs/, data/ and pipelines/."""
    package = Path(chemkl.__file__).resolve().parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


@cache
def shipped_names() -> tuple[str, ...]:
    """List the shipped files in order, relative to `shipped_root`."""
    files = sorted(
        path.relative_to(shipped_root()).as_posix()
        for folder in SHIPPED_FOLDERS
        for path in (shipped_root() / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo", ".pyd")
    )
    return tuple(name for name in files if "/." not in name and not name.startswith(OUTPUT_FOLDERS))


@cache
def _shipped_names_and_folders() -> frozenset[str]:
    """Return what a config may name: every shipped file, and the folder of each corpus."""
    names = shipped_names()
    folders = {PurePath(name).parent.as_posix() for name in names if name.startswith("data/")}
    return frozenset({*names, *folders} - {"data"})


@cache
def shipped_priors() -> dict[str, Path]:
    """Return the shipped model files by their short names, chembl and moses."""
    files = [PurePath(name) for name in shipped_names() if name.startswith("data/priors/")]
    return {file.stem: shipped_root() / file for file in files if file.suffix == ".safetensors"}


def model_file(path: str | Path) -> Path:
    """Resolve the short name of a shipped prior to its file; return any other path unchanged.

    A file of the user with that name takes precedence, a folder does not.
    """
    prior = shipped_priors().get(str(path))
    return Path(path) if prior is None or Path(path).is_file() else prior


def find_shipped(path: str | Path, *kinds: str) -> Path | None:
    """Find the shipped file for a relative path or a name; None if there is none.

    Args:
        path: as the user wrote it; leading .. are ignored.
        kinds: folders to search for a bare name, for example pipelines or configs/posttrain.
    """
    relative = _without_dots(path)
    for folder in ("", *kinds, "configs") if relative else ():
        for ending in ("", ".yaml"):
            name = (PurePath(folder) / f"{relative}{ending}").as_posix()
            if name in _shipped_names_and_folders():
                return shipped_root() / name
    return None


def nearest_shipped(path: str | Path, *kinds: str) -> str | None:
    """Return the shipped name closest to a path, of the given kinds if there are any."""
    of_kind = {
        name.removeprefix(f"{kind}/").removesuffix(".yaml"): name
        for kind in kinds
        for name in shipped_names()
        if name.startswith(f"{kind}/")
    }
    candidates = of_kind or {name: name for name in shipped_names()}
    relative = _without_dots(path).removesuffix(".yaml") if of_kind else _without_dots(path)
    matches = get_close_matches(relative, candidates, n=1, cutoff=0.7 if of_kind else 0.9)
    return matches[0] if matches else None


def shipped_name(path: str | Path) -> str | None:
    """Return the name of a shipped file, or of an identical copy under the same name.

    Runs are identified by such names, so that a run from a checkout equals one from an installed
    package. None for any other file.
    """
    parts = PurePath(path).parts
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if name not in _shipped_names_and_folders():
            continue
        original = shipped_root() / name
        files, originals = (
            {p.relative_to(place) for p in [place, *place.rglob("*")] if p.is_file()}
            for place in (Path(path), original)
        )
        if files and files == originals:
            pairs = ((Path(path) / file, original / file) for file in files)
            if all(filecmp.cmp(*pair, shallow=False) for pair in pairs):
                return name
    return None


def shipped_path(name: str) -> Path | None:
    """Return the path for a name that `shipped_name` gave; None for any other text."""
    return shipped_root() / name if name in _shipped_names_and_folders() else None


def _without_dots(path: str | Path) -> str:
    """Normalise a relative path without . and leading ..; empty for an absolute one."""
    text = os.path.normpath(path)
    while text.startswith(f"..{os.sep}"):
        text = text[3:]
    return "" if os.path.isabs(text) or text in (".", "..") else PurePath(text).as_posix()


# ---- paths in a config


def expand_home(path: str | Path) -> Path:
    """Expand ~ in a path; XDG_CACHE_HOME replaces ~/.cache if it is set."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "")
    if Path(path).parts[:2] == ("~", ".cache") and os.path.isabs(cache_home):
        return Path(cache_home, *Path(path).parts[2:])
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: there is no home directory; set HOME, or give another folder"
        ) from None


def candidate_paths(path: str | Path, context: Mapping[str, Any]) -> list[Path]:
    """List the places where a relative path is looked up, in order; see `InputPath`.

    The output that a shipped config expects of an earlier stage is under the working directory.
    """
    folders = [folder for folder in (context.get("folder"), *context.get("also", ())) if folder]
    places = [(folder / path).resolve() for folder in folders]
    outputs = []
    for place in filter(lambda place: place.is_relative_to(shipped_root()), places):
        name = place.relative_to(shipped_root())
        if f"{name.as_posix()}/".startswith(OUTPUT_FOLDERS):
            outputs.append(Path.cwd() / name)
    return [*places, *outputs, (Path.cwd() / path).resolve()]


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Resolve a relative path: next to the config file, in the working directory, then shipped.

    The validation context may have these keys:
        folder: of the config file.
        also: further folders to search.
        typed: values that came as overrides.
        promised: folders whose content may be made later.
        earlier: output folders of earlier jobs, a subset of promised, each with the patterns of the
            files that its job writes; no patterns: they are unknown.
        kept: files that may be gone.
        kind: folder of shipped files in which a bare name is looked up.
    """
    context = info.context or {}
    kinds = [context["kind"]] if "kind" in context else []
    promised, problem = context.get("promised", frozenset()), ""
    resolved = None
    try:
        path = path.expanduser()
        places = candidate_paths(path, context)
        future = [place for place in places if not promised.isdisjoint((place, *place.parents))]
        resolved = next((place for place in places if place.exists()), None)
        if resolved is not None:
            if resolved.is_char_device() or resolved.is_block_device():
                problem = f"a device, not a file or a folder: {resolved}"
        elif gone := [place for place in places if place in context.get("kept", ())]:
            resolved = gone[0]
        elif future:
            resolved = future[0]
            problem = _not_an_output(resolved, context.get("earlier", {}))
        elif (resolved := find_shipped(path, *kinds)) is None:
            if path.parts[:1] == ("..",) and str(path) not in context.get("typed", ()):
                # .. in a file is relative to the file, not to the working directory
                places = places[:-1] or places
            searched = " nor ".join(str(place) for place in dict.fromkeys(places))
            near = nearest_shipped(path, *kinds)
            hint = f"; did you mean {near!r}, which comes with chemkl?" if near else ""
            problem = f"no such file or folder: {searched}{hint}"
    except (OSError, RuntimeError) as error:  # a name too long, no permission, ~nobody
        problem = f"no such file or folder: {path} ({error})"
    if resolved is None or problem:
        raise ValueError(utf8(problem))
    return resolved


def _not_an_output(place: Path, earlier: Mapping[Path, Sequence[str]]) -> str:
    """Say that the job that writes to a folder does not write this file; empty if it may."""
    for folder in place.parents:
        patterns, name = earlier.get(folder), place.relative_to(folder).as_posix()
        if patterns and not any(fnmatch(name, p) or p.startswith(f"{name}/") for p in patterns):
            job = f"the job that writes to {folder} does not write {name!r}"
            return f"no such file or folder: {place}; {job}{did_you_mean(name, patterns)}"
    return ""


InputPath = Annotated[Path, AfterValidator(_resolve)]
"""A file or folder that must exist. A relative path is looked up next to the config file, then in
the working directory, then among the files that come with chemkl. In a pipeline, the output of an
earlier job counts as existing."""


def _resolve_model(path: Path, info: ValidationInfo) -> Path:
    prior = model_file(path)
    is_a_file = any(os.path.isfile(place) for place in candidate_paths(path, info.context or {}))
    if prior != path and not is_a_file:
        return prior
    try:
        return _resolve(path, info)
    except ValueError as error:
        names = f". No included prior has this name{did_you_mean(str(path), shipped_priors())}"
        raise ValueError(f"{error}{names if str(path) == path.name else ''}") from None


ModelPath = Annotated[Path, AfterValidator(_resolve_model)]
"""A model file, looked up like an `InputPath`, or the name of a shipped prior: chembl, moses."""


def _resolve_data(path: Path, info: ValidationInfo) -> Path:
    if not is_piped(path):
        return _resolve(path, info)
    local(path)  # read it now: the data decide whether the work is already done
    return path


DataPath = Annotated[Path, AfterValidator(_resolve_data)]
"""A data file, looked up like an `InputPath`; may also be a pipe, or - for standard input."""

Folder = Annotated[
    Path | None, BeforeValidator(lambda value, info: value or (info.context or {}).get("folder"))
]
"""Folder in which relative paths are looked up; default: the folder of the config file."""


def shorthand_for(key: str) -> BeforeValidator:
    """Let a bare path or text stand for a section with only this key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str | Path) else value)


# ---- reading files

MOST_CHARACTERS = 100_000
"""Length limit of a file or value: longer YAML takes seconds. Long lists go into separate files."""
TOO_LONG = (
    f"larger than {MOST_CHARACTERS:,} characters, the limit for settings; put a long list into a "
    "separate file and give its path."
)


def read_text(file: Path, kinds: Iterable[str] = ()) -> str:
    """Read a regular file as UTF-8, or as UTF-16 with a byte order mark."""
    limit = 4 * MOST_CHARACTERS  # a character has up to four bytes
    utf16_marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # written by Windows PowerShell
    try:
        mode = file.stat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            with open(file, "rb") as stream:
                raw = stream.read(limit + 1)
            if len(raw) <= limit:
                return raw.decode("utf-16" if raw.startswith(utf16_marks) else "utf-8-sig")
            problem = f": {TOO_LONG}"
        else:  # reading a pipe may block for ever
            regular = f"a regular file of at most {MOST_CHARACTERS:,} characters"
            problem = f": a device, pipe or socket; settings are read from {regular}."
    except FileNotFoundError:
        problem = f": no such file; {_nearest_file(file, kinds)}"
    except UnicodeDecodeError as error:
        byte = f"byte {raw[error.start]:#04x}"
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f":{line}: not UTF-8 text ({byte}); save the file as UTF-8."
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the name
        problem = f": cannot be read: {getattr(error, 'strerror', None) or error}."
    raise InputError(f"{file}{problem}")


def _nearest_file(file: Path, kinds: Iterable[str]) -> str:
    """Name a similar file in the same folder or a shipped one, or say where the file was sought."""
    folder = file.parent.resolve()
    files = {path.stem: path.name for path in sorted(folder.glob("*.y*ml"))}
    near = get_close_matches(file.stem, files, n=1, cutoff=0.6)
    if near:
        return f"did you mean {str(file.with_name(files[near[0]]))!r}?"
    shipped = nearest_shipped(file, *kinds)
    if shipped is not None:
        return f"did you mean {shipped!r}, which comes with chemkl?"
    where = f"looked in {folder}" if folder.is_dir() else f"there is no folder {folder}"
    return f"{where}; no included file has this name (chemkl show configs)" if kinds else where


# ---- data from a pipe

STDIN = Path("-")
"""The path that means standard input."""

_copies: dict[Path, IO[bytes]] = {}


def label_of(path: Path) -> str:
    """Return the name of a file for messages."""
    return "standard input" if path == STDIN else str(path)


def local(path: Path) -> Path:
    """Return a file that can be read repeatedly; copy standard input or a pipe into one.

    The copy lives as long as this process. A folder or a device is refused.
    """
    if path in _copies:
        return Path(_copies[path].name)
    problem = ""
    try:
        if path == STDIN:
            if sys.stdin is not None and not sys.stdin.isatty():
                return _copy(path, sys.stdin.buffer)
            problem = "-: standard input is closed or a terminal; pipe a file into it"
        elif path.is_dir():
            problem = f"{path}: this is a folder; expected a file"
        elif path.is_char_device() or path.is_block_device():
            problem = f"{path}: this is a device; expected a file, or - for standard input"
        elif stat.S_ISREG(path.stat().st_mode):
            return path
        else:
            with path.open("rb") as stream:
                return _copy(path, stream)
    except OSError as error:
        problem = f"{label_of(path)}: cannot be read ({error.strerror or error})"
    raise InputError(problem)


def _copy(path: Path, stream: IO[bytes]) -> Path:
    copy = tempfile.NamedTemporaryFile(prefix="chemkl-")  # noqa: SIM115 - removed when closed
    shutil.copyfileobj(stream, copy)
    copy.flush()
    _copies[path] = copy
    return Path(copy.name)


def is_piped(path: Path) -> bool:
    """Return whether a path can be read only once."""
    try:
        return path == STDIN or path in _copies or path.is_fifo()
    except (OSError, ValueError):  # not a valid file name
        return False


def is_copied(path: Path) -> bool:
    """Return whether `local` has already copied this pipe."""
    return path in _copies
