"""Config, inputs and versions of a run, and how runs differ in them.

The config in a manifest is the identity of a run: it leaves out settings that cannot change a row
(workers, caches, the progress bar). A method also leaves out what may differ between its runs: the
seed, and how often they log and save.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from chemkl.config.base import utf8
from chemkl.config.paths import is_piped, local, shipped_name, shipped_path
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
ABSENT = object()
"""The value of a key that a config does not have."""
_OF_TRAINER = ("devices", "enable_model_summary", "enable_progress_bar", "log_every_n_steps")
OF_ONE_RUN = {"seed", "callbacks.checkpoint_every", "trainer.profiler"} | {
    f"trainer.{name}" for name in _OF_TRAINER
}
"""Settings, by dotted key, that may differ between the runs of a method."""
SHOWN = 12
"""Number of differences in a message."""
_SAME_AS_NULL = {"trainer.gradient_clip_val": (0,)}
_SEALED_SHA256 = {
    "4bab8aaf322cc676941fd549bf666e2ed2043d4ec7392e99876e82ec2452e5fd": (
        "7c6d37afbe6be7a9929d149284830f776b0458c97c01d57747095c09281082f5"  # priors/moses
    ),
    "9c1266cbadc7485f166b86a6f529b80be5719740c24a18a7e1decf6fa65bf087": (
        "e2dcc5f76234ea4bf087d20dc55be7a97987bd013827a6861466373b1b20aca0"  # moses_sample
    ),
}


class UsedPrecision(BaseModel):
    """The precision of a training run, the reason for it, and the number of threads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    used: Literal["32-true", "bf16-mixed"]
    why: str
    device: str  # kind, for example cpu or cuda
    speedup: float | None = None  # of bf16-mixed over 32-true on it; None: not measured
    threads: int | None = None  # of torch; another number may round differently
    devices: int | None = None  # of all processes; None: written by an earlier version

    def __str__(self) -> str:
        """Describe the precision for the screen."""
        return f"precision {self.used} ({self.why})"


def current_sha256(digest: str) -> str:
    """Map the SHA-256 of a shipped file before it was sealed to its present one."""
    return _SEALED_SHA256.get(digest, digest)


class InputFile(BaseModel):
    """One input of a stage: its path and its SHA-256."""

    path: str
    sha256: Annotated[str, AfterValidator(current_sha256)]
    kept: str | None = Field(None, exclude_if=lambda name: name is None)
    """Relative name of a converted copy in the folder of the run; None without a copy."""
    kept_sha256: str | None = Field(None, exclude_if=lambda digest: digest is None)

    @classmethod
    def of(cls, path: Path) -> "InputFile":
        """Hash a file or folder; one that is shipped with chemkl is recorded by its name."""
        real = local(path) if is_piped(path) else path
        return cls(path=shipped_name(path) or utf8(path), sha256=sha256_of(real))

    @property
    def place(self) -> Path:
        """The path on this machine; a shipped file is recorded by its name only."""
        raw = re.sub(r"\\(udc[89a-f][0-9a-f])", lambda m: chr(int(m[1][1:], 16)), self.path)
        return shipped_path(self.path) or Path(raw)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and hashes of a folder's files.

    Names that begin with a dot are left out: they are drafts or were set aside.
    """
    if not path.is_dir():
        return sha256_of_file(path)
    inside = sorted((p, p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    visible = [pair for pair in inside if not any(part[0] == "." for part in pair[1].parts)]
    lines = [f"{sha256_of_file(p)}  {utf8(name)}\n" for p, name in visible]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def installed_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Read the versions of packages from their metadata, without importing them."""
    versions = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


# ---- one config


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as JSON types, with the names of shipped files instead of their paths."""

    def with_names(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_names(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [with_names(inner) for inner in value]
        is_place = isinstance(value, str) and os.path.isabs(value)
        return (shipped_name(value) or value) if is_place else value

    return dict(with_names(finite(config)))


def config_hash(config: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a config as sorted, compact JSON, whatever the order of its keys."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def at_the_end(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run with the settings of its last stage, by which it is judged."""
    last = (config.get("stages") or [{}])[-1]
    return {**config, **{k: v for k, v in last.items() if k in config and v is not None}}


def tau_of(config: Mapping[str, Any]) -> float | None:
    """Return the tau of a run's target, or the last one of a schedule; None without a fixed tau."""
    target = at_the_end(config).get("target")
    if not isinstance(target, Mapping):
        return None
    moves = (target.get("schedule") or {}).get("tau")
    tau = moves.get("values", [None])[-1] if moves else target.get("tau")
    return None if tau is None else float(tau)


def method_settings(config: Mapping[str, Any], inputs: Mapping[str, InputFile]) -> dict[str, Any]:
    """Return the settings that identify a method; null is the same as absent.

    A file is identified by its content, not by its path.
    """
    content = {file.path: f"sha256 {file.sha256[:12]}" for file in inputs.values()}

    def reduced(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [reduced(inner, f"{key}.{n}") for n, inner in enumerate(value)]
        if not isinstance(value, Mapping):
            return content.get(value, value) if isinstance(value, str) else value
        settings = {}
        for name, inner in value.items():
            place = f"{key}.{name}".removeprefix(".")
            if place not in OF_ONE_RUN:
                plain = reduced(inner, place)
                if plain not in (None, {}, *_SAME_AS_NULL.get(place, ())):
                    settings[name] = plain
        return settings

    settings: dict[str, Any] = reduced(config, "")
    return settings


# ---- several configs


def differences(configs: Mapping[str, Any], key: str = "") -> dict[str, dict[str, Any]]:
    """Return the values (or `ABSENT`) that differ, by dotted key and owner of the config.

    Mappings, and lists of equal length that contain mappings, are compared element by element.
    """
    values = list(configs.values())
    comparable = (isinstance(v, list) and any(isinstance(i, Mapping) for i in v) for v in values)
    if all(comparable) and len({*map(len, values)}) == 1:
        configs = {owner: dict(enumerate(value)) for owner, value in configs.items()}
    if not all(isinstance(value, Mapping) for value in configs.values()):
        return {key: dict(configs)} if len({*map(as_json, values)}) > 1 else {}
    names = dict.fromkeys(name for value in configs.values() for name in value)
    differing: dict[str, dict[str, Any]] = {}
    for name in names:
        by_owner = {owner: value.get(name, ABSENT) for owner, value in configs.items()}
        differing |= differences(by_owner, f"{key}.{name}".removeprefix("."))
    return differing


def as_json(value: Any) -> str:
    """Encode a value as JSON; `ABSENT` as (absent)."""
    return "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def describe_differences(differing: Mapping[str, Mapping[str, Any]]) -> str:
    """Format differences as indented lines: each value of a key (null if absent) and its owners."""
    lines = []
    for key, values in differing.items():
        owners: dict[str, list[str]] = {}
        for owner, value in values.items():
            owners.setdefault(as_json(None if value is ABSENT else value), []).append(owner)
        parts = (f"{value} in {', '.join(names)}" for value, names in owners.items())
        lines.append(f"  {key}: {'; '.join(parts)}")
    return first_lines(lines)


def first_lines(lines: Sequence[str]) -> str:
    """Join the first `SHOWN` lines and count the rest."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def mixed_settings(method: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a message if runs of one method differ in more than the seed; else nothing."""
    lines = describe_differences(differences(settings))
    problem = f"methods.{method}: its runs differ in more than the seed. Give each setting a method"
    return [f"{problem} of its own:\n{lines}"] if lines else []
