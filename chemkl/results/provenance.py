"""Where an output comes from: hashes of its config and inputs, versions of what computed it."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from chemkl.config import shipped
from chemkl.config.base import utf8
from chemkl.config.paths import is_piped, local
from chemkl.results.atomic import finite
from chemkl.results.seal import sha256_of_file

PACKAGES = (
    "chemkl",
    "torch",
    "lightning",
    "rdkit",
    "reinvent-chemistry",
    "numpy",
    "pandas",
    "pyarrow",
)


class UsedPrecision(BaseModel):
    """The precision of a training run, and why it was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    used: Literal["32-true", "bf16-mixed"]
    why: str
    device: str
    """Kind of device that it was taken for, for example cpu or cuda."""
    speedup: float | None = None
    """How many times as fast as 32-true bf16-mixed was on it; None: not measured."""

    def __str__(self) -> str:
        """Say it on the screen."""
        return f"precision {self.used} ({self.why})"


_BEFORE_ITS_SEAL = {
    "4bab8aaf322cc676941fd549bf666e2ed2043d4ec7392e99876e82ec2452e5fd": (
        "7c6d37afbe6be7a9929d149284830f776b0458c97c01d57747095c09281082f5"  # priors/moses
    ),
    "9c1266cbadc7485f166b86a6f529b80be5719740c24a18a7e1decf6fa65bf087": (
        "e2dcc5f76234ea4bf087d20dc55be7a97987bd013827a6861466373b1b20aca0"  # moses_sample
    ),
}


def current_sha256(digest: str) -> str:
    """The SHA-256 of a shipped file or folder that held the same before it got its seal."""
    return _BEFORE_ITS_SEAL.get(digest, digest)


class InputFile(BaseModel):
    """One input of a stage: where it was and what it contained."""

    path: str
    sha256: Annotated[str, AfterValidator(current_sha256)]

    @classmethod
    def of(cls, path: Path) -> "InputFile":
        """Describe a file or a folder as it is now; one that comes with chemkl by its name."""
        real = local(path) if is_piped(path) else path
        return cls(path=shipped.name_of(path) or utf8(path), sha256=sha256_of(real))

    @property
    def place(self) -> Path:
        """Where it is here: what comes with chemkl is kept by its name alone."""
        raw = re.sub(r"\\(udc[89a-f][0-9a-f])", lambda m: chr(int(m[1][1:], 16)), self.path)
        return shipped.place_of(self.path) or Path(raw)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON types, and what comes with chemkl by its name, wherever that is installed.

    A run from a checkout and one from an installed package are the same one.
    """
    plain: dict[str, Any] = _named(finite(config))
    return plain


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    if isinstance(value, str) and os.path.isabs(value):
        return shipped.name_of(value) or value
    return value


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as sorted, compact JSON: independent of the order of the keys."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, the hash over its files' names and hashes.

    Names that begin with a dot are left out: they hold what is in progress or set aside.
    """
    if path.is_dir():
        lines = [f"{sha256_of(p)}  {utf8(p.relative_to(path))}\n" for p in _visible_files(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return sha256_of_file(path)


def installed_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions from the packages' metadata: nothing is imported for them."""
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _visible_files(folder: Path) -> Iterable[Path]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(
        p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


# ---- differences

ABSENT = object()
"""The value of a key that a config has not."""
OF_ONE_RUN = frozenset(
    {
        "seed",
        "callbacks.checkpoint_every",
        "trainer.devices",
        "trainer.enable_model_summary",
        "trainer.enable_progress_bar",
        "trainer.log_every_n_steps",
        "trainer.profiler",
    }
)
"""Settings by dotted key that may differ between the runs of a method."""
SHOWN = 12
"""So many differences are told at most."""
_NONE = {"trainer.gradient_clip_val": (0,)}
"""Further values that mean the same as null, by key."""


def differences(configs: Mapping[str, Any], key: str = "") -> dict[str, dict[str, Any]]:
    """Find the keys whose values are not alike in all configs.

    Args:
        configs: by the name of their owner.
        key: of these values, where they are part of something.

    Returns:
        By dotted key the value of each owner, or `ABSENT`. A value is told apart further where all
        have a mapping there, or lists of equal length that hold mappings.
    """
    values = list(configs.values())
    found: dict[str, dict[str, Any]] = {}
    if all(isinstance(value, Mapping) for value in values):
        names: Iterable[Any] = dict.fromkeys(name for value in values for name in value)
        inside = {name: {o: v.get(name, ABSENT) for o, v in configs.items()} for name in names}
    elif all(_holds_mappings(value) for value in values) and len({*map(len, values)}) == 1:
        inside = {n: {o: v[n] for o, v in configs.items()} for n in range(len(values[0]))}
    else:
        return {key: dict(configs)} if len({*map(written, values)}) > 1 else {}
    for name, own in inside.items():
        found |= differences(own, f"{key}.{name}" if key else str(name))
    return found


def method_settings(config: Mapping[str, Any], inputs: Mapping[str, InputFile]) -> dict[str, Any]:
    """Take the settings that make a method out of a run's config; null is as good as absent.

    Args:
        config: of the run's manifest.
        inputs: of the same; a file is known by what it holds, wherever it lies.
    """
    content = {file.path: f"sha256 {file.sha256[:12]}" for file in inputs.values()}

    def kept(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            places = {name: f"{key}.{name}" if key else str(name) for name in value}
            own = {
                n: kept(value[n], place) for n, place in places.items() if place not in OF_ONE_RUN
            }
            return {n: v for n, v in own.items() if v not in (None, {}, *_NONE.get(places[n], ()))}
        if isinstance(value, list):
            return [kept(each, f"{key}.{n}") for n, each in enumerate(value)]
        return content.get(value, value) if isinstance(value, str) else value

    settings: dict[str, Any] = kept(config, "")
    return settings


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in value)


def written(value: Any) -> str:
    """Write a value as JSON, or say that there is none."""
    return "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def told(found: Mapping[str, Mapping[str, Any]], most: int = SHOWN) -> str:
    """Write differences as indented lines: each value of a key, null for none, and who has it.

    Args:
        found: as `differences` gives them.
        most: lines at most; further ones are counted.
    """
    lines = []
    for key, values in found.items():
        owners: dict[str, list[str]] = {}
        for owner, value in values.items():
            owners.setdefault(written(None if value is ABSENT else value), []).append(owner)
        each = (f"{value} in {', '.join(some)}" for value, some in owners.items())
        lines.append(f"  {key}: {'; '.join(each)}")
    return listed(lines, most)


def listed(lines: Sequence[str], most: int = SHOWN) -> str:
    """Put lines below each other; further ones than so many are counted."""
    more = len(lines) - most
    return "\n".join([*lines[:most], *([f"  ... and {more} more"] if more > 0 else [])])


def mixed(method: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where runs that are to be of one method differ in more than the seed.

    Args:
        method: its name.
        settings: of each run, see `method_settings`.

    Returns:
        A message, or nothing.
    """
    found = differences(settings)
    if not found:
        return []
    return [
        f"methods.{method}: its runs differ in more than the seed. Give each setting a method of "
        f"its own:\n{told(found)}"
    ]
