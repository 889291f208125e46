"""What decides a component's values, in one short text: the key under which they are kept."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rdkit

from chemkl.config.reward import ComponentConfig, RewardConfig
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import find_component

DECISIVE = ("rdkit", "reinvent-chemistry", "numpy", "scipy")
"""Packages whose version may change a value."""

SCAFFOLD_KEY = f"Bemis-Murcko scaffold, version 1, RDKit {rdkit.__version__}"
"""The key of scaffolds, which are kept beside the values; its version is as that of a component."""


def component_key(
    part: ComponentConfig, score: Callable[[Any], Any], folder: Path | None = None
) -> str:
    """Tell component configurations apart: equal keys mean equal values for every molecule.

    In it are the kind, the version that the component was registered with, the parameters with the
    defaults of those not given, the content of every file that they name, what its score function
    has as ``identity`` (a component that depends on anything else must have one), and the versions
    of what it computes with. Of a component that is not chemkl's own, the text of its module is in
    it too. What a module of the user's imports is not looked into: after a change there the version
    has to be raised, or the cache given up. Name, weight, role and transform are not in the key:
    they come after the raw value.

    Args:
        part: the component's settings.
        score: its score function.
        folder: where relative paths in the parameters are looked up before the working directory.
    """
    component = find_component(part.kind)
    fields = component.parameter_model.model_fields
    defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
    decisive = {
        "kind": part.kind,
        "version": component.version,
        "parameters": defaults | part.parameters,
        "files": [sha256_of(each) for each in named_files(part.parameters, folder)],
        "source": _source(component.factory),
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
    """What the code of a user's factory is: the text of its module, or its own, or its name.

    It is the module that the factory says it belongs to: the code object of a row of a table
    (`chemkl.rewards.table`) stands in the table's maker, which is the same for all of them.
    """
    if factory.__module__.startswith("chemkl."):
        return ""  # of chemkl's own components the version tells when their values change
    file = getattr(sys.modules.get(factory.__module__), "__file__", None)
    if file is not None and _is_file(Path(file)):
        return sha256_of(Path(file))
    try:
        return inspect.getsource(factory)
    except (TypeError, OSError):
        return f"{factory.__module__}.{factory.__qualname__}"


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
