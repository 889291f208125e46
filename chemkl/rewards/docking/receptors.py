"""Receptors to dock into: dockstring's 58 prepared proteins, or a PDBQT file of your own."""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from chemkl.config import InputError, did_you_mean
from chemkl.rewards.docking.programs import dockstring_folder

Point = tuple[float, float, float]

_NAMES = """
    ABL1 ACHE ADAM17 ADORA2A ADRB1 ADRB2 AKT1 AKT2 AR BACE1 CA2 CASP3 CDK2 CSF1R CYP2C9 CYP3A4 DHFR
    DPP4 DRD2 DRD3 EGFR ESR1 ESR2 F10 F2 FGFR1 GBA HMGCR HSD11B1 HSP90AA1 IGF1R JAK2 KDR KIT LCK
    MAOB MAP2K1 MAPK1 MAPK14 MAPKAPK2 MET MMP13 NOS1 NR3C1 PARP1 PDE5A PGR PLK1 PPARA PPARD PPARG
    PTGS2 PTK2 PTPN1 REN ROCK1 SRC THRB
"""
TARGETS = tuple(_NAMES.split())
"""Gene names of the prepared proteins (Garcia-Ortegon et al., JCIM 62, 3486 (2022))."""

_SETTING = re.compile(r"^\s*(center|size)_([xyz])\s*=\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Box:
    """Where poses are searched for, in angstrom.

    Attributes:
        center: Its middle, in the receptor's coordinates.
        size: Its edges.
    """

    center: Point
    size: Point

    @property
    def arguments(self) -> list[str]:
        """As AutoDock Vina takes it."""
        named = (("center", self.center), ("size", self.size))
        pairs = [
            (f"--{name}_{axis}", v) for name, at in named for axis, v in zip("xyz", at, strict=True)
        ]
        return [text for flag, value in pairs for text in (flag, repr(float(value)))]


@dataclass(frozen=True)
class Receptor:
    """A rigid protein.

    Attributes:
        path: Its PDBQT file.
        box: Where poses are searched for.
    """

    path: Path
    box: Box

    @property
    def identity(self) -> str:
        """What it is, in 64 characters."""
        text = f"{self.box} {hashlib.sha256(self.path.read_bytes()).hexdigest()}"
        return hashlib.sha256(text.encode()).hexdigest()


def published_receptor(target: str) -> Receptor:
    """Give one of dockstring's receptors with its box.

    Raises:
        InputError: no such target, or dockstring is not installed.
    """
    if target not in TARGETS:
        raise InputError(f"target: unknown target {target!r}{did_you_mean(target, TARGETS)}")
    folder = dockstring_folder() / "targets"
    text = (folder / f"{target}_conf.txt").read_text(encoding="utf-8")
    found = {(name, axis): float(value) for name, axis, value in _SETTING.findall(text)}
    center, size = (
        (found[name, "x"], found[name, "y"], found[name, "z"]) for name in ("center", "size")
    )
    return Receptor(folder / f"{target}_target.pdbqt", Box(center, size))


def own_receptor(path: Path, center: Point, size: Point) -> Receptor:
    """Give a receptor of the user's.

    Raises:
        InputError: the file is no PDBQT of a rigid receptor, or the box is none.
    """
    problems = []
    if not all(map(math.isfinite, (*center, *size))) or min(size) <= 0:
        problems.append(f"size = {list(size)}, center = {list(center)}: edges in angstrom, above 0")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    # column 78 on holds AutoDock's atom type, which a plain PDB file lacks: there an element may be
    # in 77-78, and the charge in 71-76 is missing
    if not atoms or not all(_is_number(line[70:76]) and line[77:].strip() for line in atoms):
        problems.append(
            f"receptor: {path} is not a PDBQT file (atoms with partial charges and types): "
            "prepare it, for example with obabel protein.pdb -xr -O receptor.pdbqt -p 7.4"
        )
    elif any(line.startswith(("ROOT", "BRANCH")) for line in lines):
        problems.append(
            f"receptor: {path} has ROOT or BRANCH records, so it is a ligand, or flexible: a rigid "
            "receptor is needed (obabel writes one with -xr)"
        )
    if problems:
        raise InputError("\n".join(problems))
    return Receptor(path.absolute(), Box(center, size))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
