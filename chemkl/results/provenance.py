"""What a run was made of (config, inputs, versions), and where several runs differ in it.

The config in a manifest is the identity of a run: settings that cannot change a row (workers,
caches, the progress bar) are not in it. A method is the same without what may differ from run to
run of it: the seed, and what is logged and saved how often.
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
"""The value of a key that a config has not."""
_OF_TRAINER = ("devices", "enable_model_summary", "enable_progress_bar", "log_every_n_steps")
OF_ONE_RUN = {"seed", "callbacks.checkpoint_every", "trainer.profiler"} | {
    f"trainer.{name}" for name in _OF_TRAINER
}
"""Settings by dotted key that may differ between the runs of a method."""
SHOWN = 12
"""So many differences are told at most."""
_SAME_AS_NULL = {"trainer.gradient_clip_val": (0,)}
_BEFORE_ITS_SEAL = {
    "4bab8aaf322cc676941fd549bf666e2ed2043d4ec7392e99876e82ec2452e5fd": (
        "7c6d37afbe6be7a9929d149284830f776b0458c97c01d57747095c09281082f5"  # priors/moses
    ),
    "9c1266cbadc7485f166b86a6f529b80be5719740c24a18a7e1decf6fa65bf087": (
        "e2dcc5f76234ea4bf087d20dc55be7a97987bd013827a6861466373b1b20aca0"  # moses_sample
    ),
}


class UsedPrecision(BaseModel):
    """The precision of a training run, why it was taken, and with how many threads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    used: Literal["32-true", "bf16-mixed"]
    why: str
    device: str  # kind, for example cpu or cuda
    speedup: float | None = None  # of bf16-mixed over 32-true on it; None: not measured
    threads: int | None = None  # of torch: other numbers may round differently
    devices: int | None = None  # of all processes; None: of an earlier version

    def __str__(self) -> str:
        """Say it on the screen."""
        return f"precision {self.used} ({self.why})"


def current_sha256(digest: str) -> str:
    """The SHA-256 of a shipped file or folder that held the same before it got its seal."""
    return _BEFORE_ITS_SEAL.get(digest, digest)


class InputFile(BaseModel):
    """One input of a stage: where it was and what it contained."""

    path: str
    sha256: Annotated[str, AfterValidator(current_sha256)]
    kept: str | None = Field(None, exclude_if=lambda name: name is None)
    """A copy of it in the folder of the run, in another format; a relative name. None: no copy."""
    kept_sha256: str | None = Field(None, exclude_if=lambda digest: digest is None)

    @classmethod
    def of(cls, path: Path) -> "InputFile":
        """Describe a file or a folder as it is now; one that comes with chemkl by its name."""
        real = local(path) if is_piped(path) else path
        return cls(path=shipped_name(path) or utf8(path), sha256=sha256_of(real))

    @property
    def place(self) -> Path:
        """Where it is here: what comes with chemkl is kept by its name alone."""
        raw = re.sub(r"\\(udc[89a-f][0-9a-f])", lambda m: chr(int(m[1][1:], 16)), self.path)
        return shipped_path(self.path) or Path(raw)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, the hash over its files' names and hashes.

    Names that begin with a dot are left out: they hold what is in progress or set aside.
    """
    if not path.is_dir():
        return sha256_of_file(path)
    inside = sorted((p, p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    visible = [pair for pair in inside if not any(part[0] == "." for part in pair[1].parts)]
    lines = [f"{sha256_of_file(p)}  {utf8(name)}\n" for p, name in visible]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def installed_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions from the packages' metadata: nothing is imported for them."""
    versions = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


# ---- one config


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON types; what comes with chemkl stands in it by its name."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [named(inner) for inner in value]
        is_place = isinstance(value, str) and os.path.isabs(value)
        return (shipped_name(value) or value) if is_place else value

    return dict(named(finite(config)))


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as sorted, compact JSON: independent of the order of the keys."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def at_the_end(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with the settings of its last stage, by which it is judged."""
    last = (config.get("stages") or [{}])[-1]
    own = {key: value for key, value in last.items() if key in config}
    return {**config, **{key: value for key, value in own.items() if value is not None}}


def tau_of(config: Mapping[str, Any]) -> float | None:
    """The tau of a run's target, at the end of a staircase; None: none, or a quantile."""
    target = at_the_end(config).get("target")
    if not isinstance(target, Mapping):
        return None
    moves = (target.get("schedule") or {}).get("tau")
    tau = moves.get("values", [None])[-1] if moves else target.get("tau")
    return None if tau is None else float(tau)


def method_settings(config: Mapping[str, Any], inputs: Mapping[str, InputFile]) -> dict[str, Any]:
    """The settings of a run that make a method; null is as good as absent.

    A file is known by what it holds, wherever it lies.
    """
    content = {file.path: f"sha256 {file.sha256[:12]}" for file in inputs.values()}

    def kept(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [kept(inner, f"{key}.{n}") for n, inner in enumerate(value)]
        if not isinstance(value, Mapping):
            return content.get(value, value) if isinstance(value, str) else value
        settings = {}
        for name, inner in value.items():
            place = f"{key}.{name}".removeprefix(".")
            if place not in OF_ONE_RUN:
                plain = kept(inner, place)
                if plain not in (None, {}, *_SAME_AS_NULL.get(place, ())):
                    settings[name] = plain
        return settings

    settings: dict[str, Any] = kept(config, "")
    return settings


# ---- several configs


def differences(configs: Mapping[str, Any], key: str = "") -> dict[str, dict[str, Any]]:
    """By dotted key the values, or `ABSENT`, that are not alike in all configs, by owner.

    A value is told apart further where all have a mapping there, or lists of equal length that
    hold mappings.
    """
    values = list(configs.values())
    of_settings = (isinstance(v, list) and any(isinstance(i, Mapping) for i in v) for v in values)
    if all(of_settings) and len({*map(len, values)}) == 1:
        configs = {owner: dict(enumerate(value)) for owner, value in configs.items()}
    if not all(isinstance(value, Mapping) for value in configs.values()):
        return {key: dict(configs)} if len({*map(as_json, values)}) > 1 else {}
    names = dict.fromkeys(name for value in configs.values() for name in value)
    inside = {name: {o: v.get(name, ABSENT) for o, v in configs.items()} for name in names}
    differing: dict[str, dict[str, Any]] = {}
    for name, of_owners in inside.items():
        differing |= differences(of_owners, f"{key}.{name}".removeprefix("."))
    return differing


def as_json(value: Any) -> str:
    """Write a value as JSON, or say that there is none."""
    return "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def describe_differences(differing: Mapping[str, Mapping[str, Any]]) -> str:
    """Differences as indented lines: each value of a key, null for none, and who has it."""
    lines = []
    for key, values in differing.items():
        owners: dict[str, list[str]] = {}
        for owner, value in values.items():
            owners.setdefault(as_json(None if value is ABSENT else value), []).append(owner)
        of_value = (f"{value} in {', '.join(names)}" for value, names in owners.items())
        lines.append(f"  {key}: {'; '.join(of_value)}")
    return first_lines(lines)


def first_lines(lines: Sequence[str]) -> str:
    """Put lines below each other; those behind the first `SHOWN` are counted."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def mixed_settings(method: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where runs of one method differ in more than the seed; a message, or nothing."""
    told = describe_differences(differences(settings))
    problem = f"methods.{method}: its runs differ in more than the seed. Give each setting a method"
    return [f"{problem} of its own:\n{told}"] if told else []
