"""Ligands for docking: protonated, folded into three dimensions, written as PDBQT.

The steps are dockstring's (Garcia-Ortegon et al., JCIM 62, 3486 (2022)): RDKit takes the charges
off, Open Babel protonates at a pH, RDKit embeds (ETKDG) and refines (MMFF94, else UFF), Open Babel
adds Gasteiger charges and torsions. Deviations from its code:

1. The embedding has the time that is left for the molecule, not a number of attempts only.
2. The pH may be left out: then the molecule is docked with the charges that its SMILES has.
"""

from collections.abc import Callable
from math import ceil
from pathlib import Path

from rdkit.Chem import (
    AddHs,
    GetMolFrags,
    KekulizeException,
    Mol,
    MolFromSmiles,
    MolToMolBlock,
    MolToSmiles,
)
from rdkit.Chem.Descriptors import NumRadicalElectrons
from rdkit.Chem.MolStandardize.rdMolStandardize import Uncharger
from rdkit.Chem.rdDistGeom import EmbedMolecule, ETKDGv3
from rdkit.Chem.rdForceFieldHelpers import (
    MMFFHasAllMoleculeParams,
    MMFFOptimizeMolecule,
    UFFHasAllMoleculeParams,
    UFFOptimizeMolecule,
)

from chemkl.chem.molecules import one_line
from chemkl.rewards.docking.programs import Clock, DockingError, Tool

ATTEMPTS = 10
"""So many attempts to embed for each atom, as RDKit and dockstring have it."""
MAX_STEPS = 1000
"""Of the force field, as dockstring has it."""


def prepare_ligand(
    mol: Mol, pdbqt: Path, obabel: Tool, ph: float | None, seed: int, clock: Clock
) -> None:
    """Write the PDBQT file of a molecule.

    Args:
        mol: the molecule.
        pdbqt: the file to write; a .mol file is left beside it.
        obabel: Open Babel.
        ph: at which it is protonated; None: the charges as they are.
        seed: of the embedding.
        clock: the time that there is.

    Raises:
        DockingError: one of the steps failed; the text says which and why.
    """
    check_ligand(mol)
    if ph is not None:
        mol = _protonated(Uncharger().uncharge(mol), obabel, ph, clock)
        check_ligand(mol)
    placed = _refined(_embedded(AddHs(mol), seed, clock))
    block = pdbqt.with_suffix(".mol")
    block.write_text(MolToMolBlock(placed), encoding="utf-8")
    arguments = ["-imol", str(block), "-opdbqt", "-O", str(pdbqt), "--partialcharge", "gasteiger"]
    obabel.run(arguments, clock)
    if not pdbqt.exists() or pdbqt.stat().st_size == 0:
        raise DockingError("Open Babel could not write it as PDBQT")


def check_ligand(mol: Mol) -> None:
    """Refuse what cannot be docked as one ligand.

    Raises:
        DockingError: several fragments, radicals, or hydrogen atoms that stay explicit.
    """
    n_fragments = len(GetMolFrags(mol))
    if n_fragments != 1:
        raise DockingError(f"{n_fragments} fragments: one ligand is docked at a time")
    if NumRadicalElectrons(mol):  # type: ignore[no-untyped-call]  # RDKit's own is untyped
        raise DockingError("a radical: AutoDock Vina has no type for it")
    if any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()):
        raise DockingError("hydrogen atoms that cannot be made implicit, such as isotopes")


def _protonated(mol: Mol, obabel: Tool, ph: float, clock: Clock) -> Mol:
    smiles = MolToSmiles(mol)
    written = obabel.run([f"-:{smiles}", "-ismi", "-ocan", f"-p{ph:g}"], clock).split()
    protonated = MolFromSmiles(written[0]) if written else None
    if protonated is None:
        raise DockingError(f"Open Babel could not protonate it at pH {ph:g}")
    return protonated


def _embedded(mol: Mol, seed: int, clock: Clock) -> Mol:
    settings = ETKDGv3()
    settings.randomSeed = seed  # type: ignore[assignment]  # RDKit's stub is wrong
    settings.maxIterations = ATTEMPTS * mol.GetNumAtoms()  # type: ignore[assignment]  # RDKit's stub is wrong
    settings.timeout = ceil(clock.left())  # type: ignore[assignment]  # RDKit's stub is wrong
    if EmbedMolecule(mol, settings) < 0:
        clock.left()
        raise DockingError("embedding failed: no conformation was found")
    return mol


def _refined(mol: Mol) -> Mol:
    if MMFFHasAllMoleculeParams(mol):
        try:
            return _minimised(mol, MMFFOptimizeMolecule, "MMFF94")
        except KekulizeException:
            pass  # MMFF94's own view of aromaticity; UFF has none
    if not UFFHasAllMoleculeParams(mol):
        raise DockingError("no force field has parameters for all of its atoms")
    return _minimised(mol, UFFOptimizeMolecule, "UFF")


def _minimised(mol: Mol, optimize: Callable[..., int], name: str) -> Mol:
    mol = Mol(mol)
    try:
        ended = optimize(mol, maxIters=MAX_STEPS)
    except RuntimeError as error:  # RDKit's invariants
        raise DockingError(f"{name} failed: {one_line(error)}") from None
    if ended != 0:
        raise DockingError(f"{name} did not converge in {MAX_STEPS} steps")
    return mol
