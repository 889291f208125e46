"""What decides a component's values, in one short text: the key under which they are kept."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rdkit

import chemkl
from chemkl.config.reward import ComponentConfig
from chemkl.rewards.registry import find_component

SCAFFOLD_KEY = f"Bemis-Murcko scaffold, RDKit {rdkit.__version__}, chemkl {chemkl.__version__}"
"""The key of scaffolds, which are kept beside the values."""


def component_key(
    part: ComponentConfig, score: Callable[[Any], Any], folder: Path | None = None
) -> str:
    """Tell component configurations apart: equal keys mean equal values for every molecule.

    In it are the kind, the parameters, the content of every file that they name, the text of the
    module that the component stands in, what its score function has as ``identity`` (a component
    that depends on anything else must have one), and the versions of chemkl and RDKit. Name,
    weight, role and transform are not: they come after the raw value.

    Args:
        part: the component's settings.
        score: its score function.
        folder: where relative paths in the parameters are looked up before the working directory.
    """
    factory = find_component(part.kind).factory
    decisive = {
        "kind": part.kind,
        "parameters": part.parameters,
        "files": sorted(_files(part.parameters, folder)),
        "source": _source(factory),
        "identity": str(getattr(score, "identity", "")),
        "chemkl": chemkl.__version__,
        "rdkit": rdkit.__version__,
    }
    text = json.dumps(decisive, sort_keys=True, default=str)
    return f"{part.kind} {hashlib.sha256(text.encode()).hexdigest()}"


def _source(factory: Callable[..., Any]) -> str:
    """The text of the module that a factory stands in; its name where there is no text."""
    try:
        file = inspect.getsourcefile(factory)
        return _sha256(Path(file)) if file is not None else factory.__qualname__
    except (TypeError, OSError):
        return f"{factory.__module__}.{factory.__qualname__}"


def _files(value: Any, folder: Path | None) -> Iterator[str]:
    """Hash every file that is named somewhere in parameters."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _files(each, folder)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _files(each, folder)
    elif isinstance(value, str | Path):
        for place in (folder or Path.cwd(), Path.cwd()):
            file = place / value
            if _is_file(file):
                yield _sha256(file)
                return


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a SMARTS that is no path
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
