"""What --fresh does: output is moved aside, if it is output, at rest, and nobody's input."""

from collections.abc import Iterable
from pathlib import Path

from chemkl.config import Config, InputError
from chemkl.results.atomic import claim, is_further_rank
from chemkl.results.manifest import FILE_NAME, Manifest
from chemkl.stages.planning import paths_of
from chemkl.stages.terminal import say

TABLES = (".parquet", ".csv")
"""Endings of files that are a whole output, where a command writes such."""


def check_movable(
    out: Path, config: Config | None = None, *, also: Iterable[Path] = (), tables: bool = False
) -> None:
    """Refuse to move what must stay where it is; nothing is moved yet.

    Args:
        out: folder of the output.
        config: the settings of the stage that is to write there; what they name stays.
        also: further files that stay, for example the config's own.
        tables: whether the output may be a table, a single file.

    Raises:
        InputError: it is, holds or lies in an input, or the working directory; it is a file, or a
            folder that no stage has written; or another process is running in it.
    """
    if is_further_rank():  # the first process of this training moves all
        return
    inputs = [] if config is None else paths_of(config.model_dump())  # without caches and the like
    _check_apart(out, inputs, also)
    if _is_output(out, tables=tables) and out.is_dir():
        earlier = Manifest.load(out)
        if earlier is not None:
            _check_apart(out, (), [Path(file.path) for file in earlier.inputs.values()])
        lock = claim(out, shared=False)
        if lock is not None:
            lock.close()


def move_aside(
    out: Path, config: Config | None = None, *, also: Iterable[Path] = (), tables: bool = False
) -> Path | None:
    """Rename output to the first free ``<out>.old-N``, and say so; nothing is ever deleted.

    The arguments are those of `check_movable`.

    Returns:
        Where it is now; None where there was nothing, or no more than an empty folder.

    Raises:
        InputError: see `check_movable`; or the system refuses.
    """
    check_movable(out, config, also=also, tables=tables)
    if is_further_rank() or not _is_output(out, tables=tables):
        return None
    lock = claim(out, shared=False) if out.is_dir() else None  # it goes along, and is let go behind
    try:
        if not _is_output(out, tables=tables):
            return None  # another process was quicker
        aside = free_name(out)
        out.rename(aside)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be moved aside ({error.strerror}); choose another --out"
        ) from error
    finally:
        if lock is not None:
            lock.close()
    say(f"moved {out} aside, to {aside}")
    return aside


def _is_output(out: Path, *, tables: bool) -> bool:
    """Whether there is output of chemkl in a place; False where there is nothing to speak of.

    Raises:
        InputError: there is something else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        if tables and out.name.lower().endswith(TABLES):
            return True
        raise InputError(f"{out}: this is a file, not an output folder; choose another --out")
    if (out / FILE_NAME).is_file():
        Manifest.load(out)
        return True
    foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise InputError(
            f"{out}: not the output of chemkl: it holds {shown}, but no {FILE_NAME}. --fresh moves "
            "nothing else aside: choose another --out, or go without --fresh"
        )
    return False


def _check_apart(out: Path, inputs: Iterable[Path], files: Iterable[Path]) -> None:
    """Refuse output that overlaps with inputs, or in which one of certain files lies.

    Raises:
        InputError: with the first that is found.
    """
    place, fix = out.resolve(), "choose another --out"
    here = Path.cwd()
    if here.is_relative_to(place):
        raise InputError(f"{out}: cannot be moved aside, for you work in it; {fix}")
    for path in dict.fromkeys(each.expanduser().resolve() for each in inputs):
        if path == place:
            raise InputError(f"{out}: is an input of this config; {fix}")
        if path.is_relative_to(place):
            raise InputError(f"{out}: holds an input of this config, {path}; {fix}")
        if place.is_relative_to(path):
            raise InputError(f"{out}: lies in an input of this config, {path}; {fix}")
    for path in files:
        if path.exists() and place in path.resolve().parents:
            raise InputError(
                f"{out}: cannot be moved aside, for {path}, which is read, would go with it; "
                f"{fix}, or put that file elsewhere"
            )


def free_name(out: Path) -> Path:
    """The first name beside a folder under which it may be set aside."""
    place = out.resolve() if out.name in ("", "..") else out
    number = 1
    while (aside := place.with_name(f"{place.name}.old-{number}")).exists():
        number += 1
    return aside
