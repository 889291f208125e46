"""Components that dock the molecule into a protein."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat
from rdkit.Chem import Mol

from chemkl.config import InputError, InputPath
from chemkl.rewards.docking import (
    TARGETS,
    Clock,
    Receptor,
    dock,
    find_obabel,
    find_vina,
    own_receptor,
    published_receptor,
)
from chemkl.rewards.docking.programs import START, Tool
from chemkl.rewards.registry import Score, component

Axes = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None, Field()]


@component(
    "vina",
    unit="kcal/mol",
    range=(-math.inf, math.inf),
    source=(
        "AutoDock Vina: Trott and Olson, J. Comput. Chem. 31, 455 (2010), Eberhardt et al., "
        "J. Chem. Inf. Model. 61, 3891 (2021); receptors and preparation: dockstring, "
        "Garcia-Ortegon et al., J. Chem. Inf. Model. 62, 3486 (2022)"
    ),
    costly=True,
)
def vina(
    target: Annotated[
        str | None,
        Field(description=f"A protein that dockstring has prepared: {', '.join(TARGETS)}."),
    ] = None,
    *,
    receptor: Annotated[
        InputPath | None,
        Field(description="Instead of a target: the PDBQT file of a rigid receptor of your own."),
    ] = None,
    center: Annotated[
        Axes, Field(description="Middle of the search box for your receptor: x, y, z in angstrom.")
    ] = None,
    size: Annotated[
        Axes, Field(description="Edges of the search box for your receptor, in angstrom.")
    ] = None,
    exhaustiveness: Annotated[
        int,
        Field(
            ge=1,
            description="How many searches are made, of which the best counts; the cost grows with "
            "it. 8 is the program's default, and dockstring's.",
        ),
    ] = 8,
    seed: Annotated[
        int,
        Field(
            ge=0,
            lt=2**31,
            description="Of the embedding and of the search; the default is dockstring's.",
        ),
    ] = 974528263,
    ph: Annotated[
        float | None,
        Field(
            ge=0,
            le=14,
            description="Open Babel protonates the molecule at this pH, whatever charges its "
            "SMILES has; null: the charges of the SMILES.",
        ),
    ] = 7.4,
    cpu: Annotated[
        int,
        Field(ge=1, description="Threads for one molecule; the value does not depend on them."),
    ] = 1,
    timeout: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="How long one molecule may take, in seconds; then it has failed.",
        ),
    ] = 600.0,
    program: Annotated[
        InputPath | None,
        Field(
            description="Another AutoDock Vina, 1.1 or 1.2; null: the 1.1.2 that dockstring brings "
            "and its published scores were made with."
        ),
    ] = None,
) -> Score:
    """Vina's estimate of the free energy of binding to a protein; more negative binds better.

    Drug-like molecules lie between -5 and -12, fragments above -5. The estimate grows with the
    size of the molecule, and is off by 2 to 3 kcal/mol against experiment (Trott and Olson 2010):
    use it with components that keep molecules small and drug-like.

    One conformation of one protonation state is docked; of stereocentres that the SMILES leaves
    open, one form. Salts, radicals, and what no force field knows fail. Values are reproducible
    for a seed and the same programs; with other versions of RDKit or Open Babel than dockstring's
    the search takes another course, and single molecules differ from its published scores, by
    some tenths of a kcal/mol as a rule.

    Cost: at exhaustiveness 8 a fragment takes 4 s of one core, a molecule of 20 to 25 heavy atoms
    25 to 40 s, one with many rotatable bonds minutes; it grows in proportion to exhaustiveness.
    """
    place = _receptor(target, receptor, center, size)
    return Docking(place, find_vina(program), find_obabel(), exhaustiveness, seed, ph, cpu, timeout)


@dataclass(frozen=True)
class Docking:
    """Docks one molecule at a time.

    Attributes:
        receptor: Where to.
        vina: AutoDock Vina.
        obabel: Open Babel.
        exhaustiveness: How many searches.
        seed: Of the embedding and of the search.
        ph: At which molecules are protonated.
        cpu: Threads.
        timeout: Seconds for one molecule.
    """

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
        """What decides the values beside the settings: the receptor and the programs."""
        program = hashlib.sha256(Path(self.vina.path).read_bytes()).hexdigest()
        return f"{self.receptor.identity} {program} {self.obabel.run(['-V'], Clock(START))}"

    def __call__(self, mol: Mol) -> float:
        """Give the energy of the best pose.

        Raises:
            DockingError: there is none; the text says why.
        """
        return dock(
            mol,
            self.receptor,
            vina=self.vina,
            obabel=self.obabel,
            exhaustiveness=self.exhaustiveness,
            seed=self.seed,
            ph=self.ph,
            cpu=self.cpu,
            timeout=self.timeout,
        )


def _receptor(target: str | None, receptor: Path | None, center: Axes, size: Axes) -> Receptor:
    """Find out where to dock.

    Raises:
        InputError: not exactly one of a target, and a receptor with its box.
    """
    if (target is None) == (receptor is None):
        raise InputError(
            "give either target, a protein that dockstring has prepared, or receptor, a PDBQT file "
            "of your own, with center and size"
        )
    if target is not None:
        if center is not None or size is not None:
            raise InputError("center and size belong to receptor: a target has its own box")
        return published_receptor(target)
    if receptor is None or center is None or size is None:
        raise InputError("receptor needs center and size: where in it poses are searched for")
    return own_receptor(receptor, center, size)
