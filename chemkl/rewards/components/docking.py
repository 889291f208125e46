"""The component that docks the molecule into a protein with AutoDock Vina.

Receptors are dockstring's 58 prepared proteins, or a user's PDBQT file. The steps are dockstring's
(Garcia-Ortegon et al., JCIM 62, 3486 (2022)): RDKit removes charges, Open Babel protonates at a pH,
RDKit embeds (ETKDG) and refines (MMFF94, else UFF), Open Babel adds Gasteiger charges and torsions,
Vina searches. Deviations from its code:

1. The embedding is limited by the molecule's remaining time, too, not only by attempts.
2. The pH may be null: then the molecule is docked with the charges of its SMILES.
"""

import hashlib
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Annotated, Any

from pydantic import Field, FiniteFloat
from rdkit import Chem
from rdkit.Chem import Mol, rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.MolStandardize.rdMolStandardize import Uncharger

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.base import install_command
from chemkl.results.provenance import sha256_of
from chemkl.rewards.components.programs import find_program
from chemkl.rewards.registry import (
    REAL,
    InputFile,
    Score,
    component,
    needed_package,
    one_of,
    package_folder,
)

ATTEMPTS = 10  # attempts to embed per atom, as in RDKit and dockstring
MAX_STEPS = 1000  # steps of the force field, as in dockstring
START = 60.0  # seconds a program may take to print its version

Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Edge = Annotated[FiniteFloat, Field(gt=0)]

_NAMES = """
    ABL1 ACHE ADAM17 ADORA2A ADRB1 ADRB2 AKT1 AKT2 AR BACE1 CA2 CASP3 CDK2 CSF1R CYP2C9 CYP3A4 DHFR
    DPP4 DRD2 DRD3 EGFR ESR1 ESR2 F10 F2 FGFR1 GBA HMGCR HSD11B1 HSP90AA1 IGF1R JAK2 KDR KIT LCK
    MAOB MAP2K1 MAPK1 MAPK14 MAPKAPK2 MET MMP13 NOS1 NR3C1 PARP1 PDE5A PGR PLK1 PPARA PPARD PPARG
    PTGS2 PTK2 PTPN1 REN ROCK1 SRC THRB
"""
TARGETS = tuple(_NAMES.split())
"""Gene names of the prepared proteins (Garcia-Ortegon et al., JCIM 62, 3486 (2022))."""

_SETTING = re.compile(r"^\s*(center|size)_([xyz])\s*=\s*(\S+)\s*$", re.MULTILINE)
_RESULT = re.compile(r"^REMARK VINA RESULT:\s+(\S+)", re.MULTILINE)
_VINA = {("Linux", "x86_64"): "vina_linux", ("Darwin", "x86_64"): "vina_mac_catalina"}
"""dockstring's AutoDock Vina 1.1.2, by system and processor."""


# ---- programs


class DockingError(RuntimeError):
    """A molecule cannot be docked; the message says why."""


class Clock:
    """The time limit of a molecule."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, monotonic() + seconds

    def remaining(self) -> float:
        """Return the remaining seconds; raise a DockingError if there are none."""
        remaining = self.end - monotonic()
        if remaining <= 0:
            raise DockingError(f"timeout: not docked within {self.seconds:g} s")
        return remaining


@dataclass(frozen=True)
class Tool:
    """A program and its environment variables."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], clock: Clock, folder: str | None = None) -> str:
        """Run the program to its end and return its standard output.

        It stays in this process group, so it is killed with a worker. A DockingError says that it
        failed, or that it was killed after the time limit.
        """
        command, environment = [self.path, *arguments], {**os.environ, **self.environment}
        piped: Any = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": False}
        text: Any = {"text": True, "errors": "replace"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, timeout=clock.remaining(), **piped, **text
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            clock.remaining()  # raises after the time limit
            raise DockingError(f"{self.path} cannot be started ({one_line(error)})") from None
        if done.returncode != 0:
            output = " ".join(f"{done.stdout} {done.stderr}".split())[-300:]
            status = f"{Path(self.path).name} failed (exit status {done.returncode})"
            raise DockingError(f"{status}: {output}")
        return str(done.stdout)


def find_obabel() -> Tool:
    """Find Open Babel's program in the package openbabel-wheel, or else on the PATH."""
    inside, environment = package_folder("openbabel"), {}
    path = shutil.which("obabel")
    if inside is not None and (inside / "bin" / "obabel").is_file():
        path = str(inside / "bin" / "obabel")
        for name, place in (("BABEL_LIBDIR", "lib"), ("BABEL_DATADIR", "share")):
            for folder in (inside / place / "openbabel").glob("3*"):
                environment[name] = str(folder)
    problem = f": install it with {install_command('docking')}"
    if path is not None:
        tool = Tool(path, environment)
        try:
            tool.run(["-V"], Clock(START))
        except DockingError as error:
            problem = f", which cannot be run: {error}"
        else:
            return tool
    raise InputError(f"docking needs Open Babel{problem}")


def find_vina(program: Path | None = None) -> Tool:
    """Find AutoDock Vina: the user's program, or else the one in dockstring."""
    if program is not None:
        return Tool(find_program([str(program)])[0])
    name = _VINA.get((platform.system(), platform.machine()))
    if name is None:
        raise InputError(
            f"dockstring has no AutoDock Vina for {platform.system()} {platform.machine()}: "
            "install AutoDock Vina, and give the path of its program as `program`"
        )
    folder = needed_package("dockstring", "docking", "docking") / "resources" / "bin"
    return Tool(str(folder / name))


# ---- receptors


@dataclass(frozen=True)
class Receptor:
    """A rigid protein: its PDBQT file and the search box, in angstrom."""

    path: Path
    center: Point
    size: Point

    @property
    def identity(self) -> str:
        """A hash of the receptor. It is part of cache keys, so its text must not change."""
        text = f"Box(center={self.center}, size={self.size}) {sha256_of(self.path)}"
        return hashlib.sha256(text.encode()).hexdigest()


def published_receptor(target: str) -> Receptor:
    """Return one of dockstring's receptors with its box."""
    folder = needed_package("dockstring", "docking", "docking") / "resources" / "targets"
    text = (folder / f"{target}_conf.txt").read_text(encoding="utf-8")
    values = {(name, axis): float(value) for name, axis, value in _SETTING.findall(text)}
    center, size = (
        (values[name, "x"], values[name, "y"], values[name, "z"]) for name in ("center", "size")
    )
    return Receptor(folder / f"{target}_target.pdbqt", center, size)


def user_receptor(path: Path, center: Point, size: Point) -> Receptor:
    """Check a user's receptor file and return the receptor."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    # a PDBQT file has the charge in columns 71-76 and AutoDock's atom type from column 78; a plain
    # PDB file may have an element in 77-78, but no charge
    charge = re.compile(r" *[-+]?(\d+\.?\d*|\.\d+) *")
    problem = ""
    if not atoms or not all(charge.fullmatch(line[70:76]) and line[77:].strip() for line in atoms):
        problem = (
            "is not a PDBQT file (atoms with partial charges and types): prepare it, for example "
            "with obabel protein.pdb -xr -O receptor.pdbqt -p 7.4"
        )
    elif any(line.startswith(("ROOT", "BRANCH")) for line in lines):
        problem = (
            "has ROOT or BRANCH records, so it is a ligand or flexible; give a rigid receptor "
            "(obabel writes one with -xr)"
        )
    if problem:
        raise InputError(f"receptor: {path} {problem}")
    return Receptor(path.absolute(), center, size)


# ---- ligands


def prepare_ligand(
    mol: Mol, pdbqt: Path, obabel: Tool, ph: float | None, seed: int, clock: Clock
) -> None:
    """Write the PDBQT file of a molecule, and a .mol file in the same folder."""
    check_ligand(mol)
    if ph is not None:
        smiles = Chem.MolToSmiles(Uncharger().uncharge(mol))
        text = obabel.run([f"-:{smiles}", "-ismi", "-ocan", f"-p{ph:g}"], clock).split()
        protonated: Any = Chem.MolFromSmiles(text[0]) if text else None
        if protonated is None:
            raise DockingError(f"Open Babel could not protonate it at pH {ph:g}")
        check_ligand(mol := protonated)
    mol = Chem.AddHs(mol)
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    settings.maxIterations = ATTEMPTS * mol.GetNumAtoms()
    settings.timeout = math.ceil(clock.remaining())
    is_embedded = rdDistGeom.EmbedMolecule(mol, settings) >= 0
    clock.remaining()
    if not is_embedded:
        raise DockingError("embedding failed: no conformation was found")
    block = pdbqt.with_suffix(".mol")
    block.write_text(Chem.MolToMolBlock(_refined(mol)), encoding="utf-8")
    arguments = ["-imol", str(block), "-opdbqt", "-O", str(pdbqt), "--partialcharge", "gasteiger"]
    obabel.run(arguments, clock)
    if not pdbqt.exists() or pdbqt.stat().st_size == 0:
        raise DockingError("Open Babel could not write it as PDBQT")


def check_ligand(mol: Mol) -> None:
    """Refuse molecules that cannot be docked: fragments, radicals, explicit hydrogen atoms."""
    n_fragments, atoms, problem = len(Chem.GetMolFrags(mol)), [*mol.GetAtoms()], ""
    if n_fragments != 1:
        problem = f"{n_fragments} fragments: one ligand is docked at a time"
    elif any(atom.GetNumRadicalElectrons() for atom in atoms):
        problem = "a radical: AutoDock Vina has no type for it"
    elif any(atom.GetAtomicNum() == 1 for atom in atoms):
        problem = "hydrogen atoms that cannot be made implicit, such as isotopes"
    if problem:
        raise DockingError(problem)


def _refined(mol: Mol) -> Mol:
    """Minimise with the first force field that has parameters for all atoms."""
    problem, fields = "no force field has parameters for all of its atoms", rdForceFieldHelpers
    for name, is_complete, optimize in (
        ("MMFF94", fields.MMFFHasAllMoleculeParams, fields.MMFFOptimizeMolecule),
        ("UFF", fields.UFFHasAllMoleculeParams, fields.UFFOptimizeMolecule),
    ):
        refined = Mol(mol)
        try:
            if not is_complete(refined):
                continue
            if optimize(refined, maxIters=MAX_STEPS) == 0:
                return refined
            problem = f"{name} did not converge in {MAX_STEPS} steps"
        except Chem.KekulizeException:
            continue  # MMFF94 has its own aromaticity model, UFF has none
        except RuntimeError as error:  # a failed invariant of RDKit
            problem = f"{name} failed: {one_line(error)}"
        break
    raise DockingError(problem)


# ---- the component


@component(
    "vina",
    unit="kcal/mol",
    range=REAL,
    source=(
        "AutoDock Vina: Trott and Olson, J. Comput. Chem. 31, 455 (2010), Eberhardt et al., "
        "J. Chem. Inf. Model. 61, 3891 (2021); receptors and preparation: dockstring, "
        "Garcia-Ortegon et al., J. Chem. Inf. Model. 62, 3486 (2022)"
    ),
    costly=True,
)
def vina(
    target: Annotated[
        Annotated[str, one_of(TARGETS, "a known target")] | None,
        Field(description=f"A protein prepared by dockstring: {', '.join(TARGETS)}."),
    ] = None,
    *,
    receptor: InputFile | None = None,
    center: Point | None = None,
    size: tuple[Edge, Edge, Edge] | None = None,
    exhaustiveness: Annotated[int, Field(ge=1)] = 8,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 974528263,
    ph: Annotated[float | None, Field(ge=0, le=14)] = 7.4,
    cpu: Annotated[int, Field(ge=1)] = 1,
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0,
    program: InputFile | None = None,
) -> Score:
    """Vina's estimate of the free energy of binding to a protein; more negative binds better.

    Drug-like molecules lie between -5 and -12, fragments above -5. The estimate grows with the
    size of the molecule, and deviates by 2 to 3 kcal/mol from experiment (Trott and Olson 2010):
    use it with components that keep molecules small and drug-like.

    One conformation, one protonation state and, for unspecified stereocentres, one stereoisomer is
    docked. Salts, radicals, and molecules without force field parameters fail. Values are
    reproducible for a seed and the same programs. With other versions of RDKit or Open Babel than
    dockstring's the search takes another course, and single molecules differ from its published
    scores, usually by some tenths of a kcal/mol.

    Cost: at exhaustiveness 8 a fragment takes 4 s of one core, a molecule of 20 to 25 heavy atoms
    25 to 40 s, one with many rotatable bonds minutes; it grows in proportion to exhaustiveness.

    Args:
        target: A protein prepared by dockstring.
        receptor: Instead of a target: the PDBQT file of your rigid receptor.
        center: Centre of the search box for your receptor: x, y, z in angstrom.
        size: Edges of the search box for your receptor, in angstrom.
        exhaustiveness: Number of searches, of which the best counts; the cost is proportional to
            it. 8 is the default of the program and of dockstring.
        seed: Random seed of the embedding and of the search; the default is dockstring's.
        ph: Open Babel protonates the molecule at this pH, whatever charges its SMILES has; null:
            use the charges of the SMILES.
        cpu: Threads per molecule; the value does not depend on them.
        timeout: Time limit per molecule in seconds, after which it fails.
        program: Another AutoDock Vina, 1.1 or 1.2; null: the 1.1.2 in dockstring, which its
            published scores were computed with.
    """
    if receptor is not None and target is None and center is not None and size is not None:
        place = user_receptor(receptor, center, size)
    elif target is not None and (receptor, center, size) == (None, None, None):
        place = published_receptor(target)
    else:
        raise InputError(
            "give either target, a protein prepared by dockstring, or receptor, the path of your "
            "PDBQT file, with center and size of the search box"
        )
    return Docking(place, find_vina(program), find_obabel(), exhaustiveness, seed, ph, cpu, timeout)


@dataclass(frozen=True)
class Docking:
    """Docks one molecule at a time; the attributes are the component's parameters."""

    receptor: Receptor
    vina: Tool
    obabel: Tool
    exhaustiveness: int
    seed: int
    ph: float | None
    cpu: int
    timeout: float

    @property
    def identity(self) -> str:
        """What values depend on besides the settings: the receptor and the programs."""
        program = sha256_of(Path(self.vina.path))
        return f"{self.receptor.identity} {program} {self.obabel.run(['-V'], Clock(START))}"

    def __call__(self, mol: Mol) -> float:
        """Return the energy of the best pose, in kcal/mol."""
        clock = Clock(self.timeout)
        with TemporaryDirectory(prefix="chemkl-dock-") as folder:
            ligand, poses = Path(folder) / "ligand.pdbqt", Path(folder) / "poses.pdbqt"
            prepare_ligand(mol, ligand, self.obabel, self.ph, self.seed, clock)
            settings: dict[str, object] = {
                **{"receptor": self.receptor.path, "ligand": ligand, "out": poses},
                **{"exhaustiveness": self.exhaustiveness, "seed": self.seed, "cpu": self.cpu},
            }
            for name, point in (("center", self.receptor.center), ("size", self.receptor.size)):
                for axis, length in zip("xyz", point, strict=True):
                    settings[f"{name}_{axis}"] = float(length)
            arguments: list[str] = []
            for name, value in settings.items():
                arguments += [f"--{name}", str(value)]
            self.vina.run(arguments, clock, folder)
            text = poses.read_text(encoding="utf-8", errors="replace") if poses.exists() else ""
        result = _RESULT.search(text)
        if result is None:
            raise DockingError("AutoDock Vina found no pose in the box")
        return float(result.group(1))
