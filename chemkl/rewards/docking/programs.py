"""The programs that docking runs, where they are, and how long they may take."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from chemkl.config import InputError
from chemkl.config.base import install

_VINA = {("Linux", "x86_64"): "vina_linux", ("Darwin", "x86_64"): "vina_mac_catalina"}
"""dockstring's AutoDock Vina 1.1.2, by system and processor."""

START = 60.0
"""Seconds that a program may take to say its version."""

_ADVICE = f"install it with {install('docking')}"


class DockingError(RuntimeError):
    """A molecule that cannot be docked; the text says why."""


@dataclass
class Clock:
    """The time that is left for a molecule.

    Attributes:
        seconds: For all of it.
    """

    seconds: float
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = monotonic() + self.seconds

    def left(self) -> float:
        """Give the seconds that are left.

        Raises:
            DockingError: there are none.
        """
        left = self.end - monotonic()
        if left <= 0:
            raise DockingError(f"timeout: not docked within {self.seconds:g} s")
        return left


@dataclass(frozen=True)
class Tool:
    """A program.

    Attributes:
        path: Of its file.
        environment: Variables that it needs.
    """

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], clock: Clock, folder: str | None = None) -> str:
        """Run it to its end and give what it wrote to its standard output.

        It stays in our process group: whatever ends a worker ends it too.

        Raises:
            DockingError: it failed, or it did not end in time and was killed.
        """
        left = clock.left()
        try:
            done = subprocess.run(
                [self.path, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=left,
                cwd=folder,
                env={**os.environ, **self.environment},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DockingError(f"timeout: not docked within {clock.seconds:g} s") from None
        except OSError as error:
            raise DockingError(f"{self.path} cannot be started ({error.strerror})") from None
        if done.returncode != 0:
            said = " ".join(f"{done.stdout} {done.stderr}".split())[-300:]
            name = Path(self.path).name
            raise DockingError(f"{name} failed (exit status {done.returncode}): {said}")
        return done.stdout


def find_obabel() -> Tool:
    """Find Open Babel's program: that of the package openbabel-wheel, else the one on the PATH.

    Raises:
        InputError: there is none, or it cannot be run.
    """
    tool = _obabel()
    try:
        tool.run(["-V"], Clock(START))
    except DockingError as error:
        raise InputError(f"docking needs Open Babel, which cannot be run: {error}") from None
    return tool


def _obabel() -> Tool:
    inside = package_folder("openbabel")
    if inside is not None and (inside / "bin" / "obabel").is_file():
        folders = {"BABEL_LIBDIR": "lib/openbabel", "BABEL_DATADIR": "share/openbabel"}
        environment = {
            name: str(found)
            for name, each in folders.items()
            for found in (inside / each).glob("3*")
        }
        return Tool(str(inside / "bin" / "obabel"), environment)
    found = shutil.which("obabel")
    if found is None:
        raise InputError(f"docking needs Open Babel: {_ADVICE}")
    return Tool(found)


def find_vina(program: Path | None = None) -> Tool:
    """Find AutoDock Vina: a program of the user's, else the one that dockstring brings.

    Raises:
        InputError: there is none for this machine.
    """
    if program is not None:
        if not os.access(program, os.X_OK):
            raise InputError(f"program: {program} may not be run: chmod +x it")
        return Tool(str(program.absolute()))
    name = _VINA.get((platform.system(), platform.machine()))
    if name is None:
        raise InputError(
            f"dockstring brings no AutoDock Vina for {platform.system()} {platform.machine()}: "
            "install AutoDock Vina, and give the path of its program as `program`"
        )
    return Tool(str(dockstring_folder() / "bin" / name))


def dockstring_folder() -> Path:
    """Find the folder with dockstring's receptors and AutoDock Vina; nothing of it is imported.

    Raises:
        InputError: dockstring is not installed.
    """
    inside = package_folder("dockstring")
    if inside is None:
        raise InputError(f"docking needs the package dockstring: {_ADVICE}")
    return inside / "resources"


def package_folder(package: str) -> Path | None:
    """Where an installed package lies; None where there is none."""
    found = find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    return Path(next(iter(folders))) if folders else None
