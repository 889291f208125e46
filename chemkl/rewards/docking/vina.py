"""One docking by AutoDock Vina: a ligand and a receptor in, the energy of the best pose out."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from rdkit.Chem import Mol

from chemkl.rewards.docking.ligands import prepare_ligand
from chemkl.rewards.docking.programs import Clock, DockingError, Tool
from chemkl.rewards.docking.receptors import Receptor

_RESULT = re.compile(r"^REMARK VINA RESULT:\s+(\S+)", re.MULTILINE)


def dock(
    mol: Mol,
    receptor: Receptor,
    *,
    vina: Tool,
    obabel: Tool,
    exhaustiveness: int,
    seed: int,
    ph: float | None,
    cpu: int,
    timeout: float,
) -> float:
    """Dock one molecule.

    Args:
        mol: the molecule.
        receptor: where to.
        vina: AutoDock Vina, 1.1 or 1.2.
        obabel: Open Babel.
        exhaustiveness: how many searches are made.
        seed: of the embedding and of the search.
        ph: at which the molecule is protonated; None: its charges are left.
        cpu: how many threads.
        timeout: seconds for all of it.

    Returns:
        Vina's estimate of the free energy of binding of the best pose, in kcal/mol.

    Raises:
        DockingError: no energy; the text says why.
    """
    clock = Clock(timeout)
    with TemporaryDirectory(prefix="chemkl-dock-") as folder:
        ligand, poses = Path(folder) / "ligand.pdbqt", Path(folder) / "poses.pdbqt"
        prepare_ligand(mol, ligand, obabel, ph, seed, clock)
        arguments = ["--receptor", str(receptor.path), "--ligand", str(ligand), "--out", str(poses)]
        arguments += receptor.box.arguments
        arguments += ["--exhaustiveness", str(exhaustiveness), "--seed", str(seed)]
        vina.run([*arguments, "--cpu", str(cpu)], clock, folder)
        text = poses.read_text(encoding="utf-8", errors="replace") if poses.exists() else ""
    found = _RESULT.search(text)
    if found is None:
        raise DockingError("AutoDock Vina found no pose in the box")
    return float(found.group(1))
