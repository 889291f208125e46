"""The files that come with chemkl, found by name wherever it is installed.

They are the folders configs/, pipelines/ and data/ of the repository; an installed package has them
inside, as chemkl/shipped/ (see setup.py). A file of the user's always comes first: these are
for names that have none.
"""

import filecmp
import os
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePath

import chemkl

FOLDERS = ("configs", "data", "pipelines")
MADE = ("data/cache/", "data/corpora/", "runs/")
"""Where stages write in a checkout: what is there is not shipped."""


@cache
def root() -> Path:
    """The folder that has configs/, data/ and pipelines/ in it."""
    package = Path(chemkl.__file__).resolve().parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


@cache
def names() -> tuple[str, ...]:
    """The shipped files, relative to `root`, in order."""
    files = sorted(
        path.relative_to(root()).as_posix()
        for folder in FOLDERS
        for path in (root() / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo", ".pyd")
    )
    return tuple(name for name in files if "/." not in name and not name.startswith(MADE))


@cache
def priors() -> dict[str, Path]:
    """The model files that come with chemkl, by the names that stand for them: chembl, moses."""
    files = [PurePath(name) for name in names() if name.startswith("data/priors/")]
    return {file.stem: root() / file for file in files if file.suffix == ".safetensors"}


def model(path: str | Path) -> Path:
    """A model file; that of a prior that comes with chemkl where its name stands for one.

    A file of the user's of that name comes first, a folder does not.
    """
    named = priors().get(str(path))
    return Path(path) if named is None or Path(path).is_file() else named


@cache
def _known() -> frozenset[str]:
    """What a config may name: every file, and each folder of a corpus."""
    folders = {PurePath(name).parent.as_posix() for name in names() if name.startswith("data/")}
    return frozenset({*names(), *folders} - {"data"})


def find(path: str | Path, *kinds: str) -> Path | None:
    """The shipped file of a relative path or a name, as the user wrote it; None: there is none.

    ``kinds`` are folders to look in for a name alone, for example pipelines or configs/posttrain;
    leading .. are passed over.
    """
    wanted = _plain(path)
    for folder in ("", *kinds, "configs") if wanted else ():
        for ending in ("", ".yaml"):
            name = (PurePath(folder) / f"{wanted}{ending}").as_posix()
            if name in _known():
                return root() / name
    return None


def made_here(place: Path) -> Path | None:
    """Where the working directory has what a shipped config expects a stage to have made.

    That is <root>/data/corpora/moses, say, below the working directory; None for what is not in
    `MADE`.
    """
    name = place.relative_to(root()) if place.is_relative_to(root()) else Path()
    return Path.cwd() / name if f"{name.as_posix()}/".startswith(MADE) else None


def name_of(path: str | Path) -> str | None:
    """The name of a shipped file or of a copy of it in a place of that name; None for another.

    A run is told by such names, so that it is the same one from a checkout, from another one, and
    from an installed package.
    """
    parts = PurePath(path).parts
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if name in _known() and _is_copy(Path(path), root() / name):
            return name
    return None


def place_of(name: str) -> Path | None:
    """Where a file is whose name `name_of` gave; None for another text."""
    return root() / name if name in _known() else None


def near(path: str | Path, *kinds: str) -> str | None:
    """The shipped name nearest to what was wanted; of these kinds, where they are given."""
    of_kind = {
        name.removeprefix(f"{kind}/").removesuffix(".yaml"): name
        for kind in kinds
        for name in names()
        if name.startswith(f"{kind}/")
    }
    by_name = of_kind or {name: name for name in names()}
    wanted = _plain(path).removesuffix(".yaml") if of_kind else _plain(path)
    matches = get_close_matches(wanted, by_name, n=1, cutoff=0.7 if of_kind else 0.9)
    return matches[0] if matches else None


def _plain(path: str | Path) -> str:
    """A relative path without . and leading ..; empty for an absolute one."""
    text = os.path.normpath(path)
    while text.startswith(f"..{os.sep}"):
        text = text[3:]
    return "" if os.path.isabs(text) or text in (".", "..") else PurePath(text).as_posix()


def _is_copy(path: Path, original: Path) -> bool:
    files, originals = (
        {p.relative_to(place) for p in [place, *place.rglob("*")] if p.is_file()}
        for place in (path, original)
    )
    same = bool(files) and files == originals
    return same and all(filecmp.cmp(path / n, original / n, shallow=False) for n in files)
