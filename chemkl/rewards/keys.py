"""What decides a component's values, in one short text: the key under which they are kept."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rdkit

import chemkl
from chemkl.config.reward import ComponentConfig, RewardConfig
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import find_component

DECISIVE = ("chemkl", "rdkit", "reinvent-chemistry", "numpy", "scipy")
"""Packages whose version may change a value."""

SCAFFOLD_KEY = f"Bemis-Murcko scaffold, RDKit {rdkit.__version__}, chemkl {chemkl.__version__}"
"""The key of scaffolds, which are kept beside the values."""


def component_key(
    part: ComponentConfig, score: Callable[[Any], Any], folder: Path | None = None
) -> str:
    """Tell component configurations apart: equal keys mean equal values for every molecule.

    In it are the kind, the parameters, the content of every file that they name, the text of the
    module that the component stands in (of a component of chemkl, that of all of its chemistry),
    what its score function has as ``identity`` (a component that depends on anything else must
    have one), and the versions of chemkl and of what it computes with. Name, weight, role and
    transform are not: they come after the raw value. What a module of the user's imports is not
    looked into: after a change there the cache has to be given up.

    Args:
        part: the component's settings.
        score: its score function.
        folder: where relative paths in the parameters are looked up before the working directory.
    """
    factory = find_component(part.kind).factory
    decisive = {
        "kind": part.kind,
        "parameters": part.parameters,
        "files": [sha256_of(each) for each in named_files(part.parameters, folder)],
        "source": _source(factory),
        "identity": str(getattr(score, "identity", "")),
        "versions": {name: version(name) for name in DECISIVE},
    }
    text = json.dumps(decisive, sort_keys=True, default=str)
    return f"{part.kind} {hashlib.sha256(text.encode()).hexdigest()}"


def reward_files(config: RewardConfig) -> dict[str, Path]:
    """Every file that a reward's parameters name, by a role of its own: inputs for a manifest."""
    return {
        f"reward.{part.name}.{number}": file
        for part in config.components
        for number, file in enumerate(named_files(part.parameters, config.folder))
    }


def _source(factory: Callable[..., Any]) -> str:
    """What a factory's code is: the text of its module, or in a notebook its own, or its name.

    It is the module that the factory says it belongs to: the code object of a row of a table
    (`chemkl.rewards.table`) stands in the table's maker, which is the same for all of them.
    """
    if factory.__module__.startswith("chemkl."):
        return own_sources(Path(chemkl.__file__).parent)
    file = getattr(sys.modules.get(factory.__module__), "__file__", None)
    if file is not None and _is_file(Path(file)):
        return sha256_of(Path(file))
    try:
        return inspect.getsource(factory)
    except (TypeError, OSError):
        return f"{factory.__module__}.{factory.__qualname__}"


@cache
def own_sources(package: Path) -> str:
    """What chemkl's own components are made of: one of them may use any of these modules."""
    files = sorted(file for room in ("chem", "rewards") for file in package.glob(f"{room}/**/*.py"))
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def named_files(value: Any, folder: Path | None) -> Iterator[Path]:
    """Find every file that is named somewhere in parameters, also as ``file.py:function``."""
    if isinstance(value, dict):
        for _, each in sorted(value.items(), key=str):  # the order that the user wrote is of no use
            yield from named_files(each, folder)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from named_files(each, folder)
    elif isinstance(value, str | Path):
        texts = (str(value), str(value).rpartition(":")[0])
        places = [place for text in texts for place in _places(text, folder)]
        yield from [place for place in places if _is_file(place)][:1]


def _places(text: str, folder: Path | None) -> Iterator[Path]:
    """Where a name is looked up, as `chemkl.config.InputPath` does it."""
    with suppress(RuntimeError):  # ~nobody
        path = Path(text).expanduser()
        yield from (each / path for each in (folder or Path.cwd(), Path.cwd()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a SMARTS that is no path
        return False
