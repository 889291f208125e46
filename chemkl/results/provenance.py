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
