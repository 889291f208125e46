"""Components of molecular shape, from one 3D conformer with hydrogens (ETKDGv3).

An embedding takes 10 to 50 ms for a drug-sized molecule and is shared by the components of a
reward. With equal settings every spelling of a molecule has the same conformer.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from rdkit import Chem
from rdkit.Chem import Mol, rdDistGeom, rdMolDescriptors
from rdkit.Chem.AllChem import ComputeMolVolume

from chemkl.chem.molecules import parse, silenced
from chemkl.rewards.registry import MANY, Score, component, register_table

CACHE_SIZE = 1024  # conformers to cache, so that the components of a reward share an embedding


class Embedding(NamedTuple):
    """Settings of the embedding, shared by the components.

    Args:
        seed: Random seed of the embedding.
        attempts: Attempts from each of the two kinds of start before it fails.
        timeout: Seconds after which it fails.
        max_heavy_atoms: Larger molecules fail at once, because one attempt may take minutes.
    """

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    attempts: Annotated[int, Field(ge=1)] = 20
    timeout: Annotated[int, Field(ge=1)] = 10
    max_heavy_atoms: Annotated[int, Field(ge=1)] = 100


EMBEDDING = Embedding()


def conformer(mol: Mol, embedding: Embedding) -> Mol:
    """Return the molecule with hydrogens and one conformer, equal for every spelling."""
    embedded = _conformer(Chem.MolToSmiles(mol), embedding)
    if isinstance(embedded, str):
        raise ValueError(embedded)  # noqa: TRY004 - the molecule is unsuitable, not its type
    return embedded


@lru_cache(maxsize=CACHE_SIZE)
def _conformer(smiles: str, embedding: Embedding) -> Mol | str:
    """Embed a molecule, or return the reason, so that failures are cached too.

    The first start is from distances, as usual, the second from random coordinates, which suits
    long chains. A timeout in the first start is final: the conformer of a molecule must not depend
    on the load of the machine.
    """
    with silenced():
        parsed = parse(smiles)
        if parsed is None:
            return "RDKit cannot read its canonical SMILES"
        mol = Chem.AddHs(parsed)
        n_fragments, n_heavy = len(Chem.GetMolFrags(mol)), mol.GetNumHeavyAtoms()
        if n_fragments > 1:
            return f"{n_fragments} fragments have no common shape"
        if mol.GetNumAtoms() == 1:
            return "a single atom has no shape"
        if n_heavy > embedding.max_heavy_atoms:
            return f"{n_heavy} heavy atoms, and max_heavy_atoms = {embedding.max_heavy_atoms}"
        deadline = time.monotonic() + embedding.timeout
        for random_start, share in ((False, 0.5), (True, 1.0)):
            settings: Any = rdDistGeom.ETKDGv3()
            settings.randomSeed = embedding.seed
            settings.maxIterations = embedding.attempts
            settings.useRandomCoords = random_start
            started = time.monotonic()
            settings.timeout = math.ceil((deadline - started) * share)  # whole seconds; 0: no limit
            out_of_time = settings.timeout < 1
            if not out_of_time and rdDistGeom.EmbedMolecule(mol, settings) == 0:
                return mol
            if out_of_time or time.monotonic() - started >= settings.timeout:
                return f"no conformer found in {embedding.timeout} s"
        return f"no conformer found in {embedding.attempts} attempts"


@component(
    "molecular_volume",
    unit="Å³",
    range=MANY,
    source="RDKit ComputeMolVolume (van der Waals radii), ETKDGv3",
    costly=True,
)
def molecular_volume(
    *,
    embedding: Embedding = EMBEDDING,
    grid_spacing: Annotated[float, Field(ge=0.05, le=1, description="Grid spacing in Å.")] = 0.2,
    box_margin: Annotated[
        float, Field(ge=1, le=10, description="Margin of the grid around the atoms, in Å.")
    ] = 2.0,
) -> Score:
    """Volume inside the van der Waals radii of the atoms, counted on a grid."""
    volume: Callable[..., float] = ComputeMolVolume
    return lambda mol: volume(
        conformer(mol, embedding), gridSpacing=grid_spacing, boxMargin=box_margin
    )


def _of_conformer(function: Score) -> Callable[..., Score]:
    def factory(*, embedding: Embedding = EMBEDDING) -> Score:
        return lambda mol: function(conformer(mol, embedding))

    return factory


# fmt: off
_RDKIT = "; RDKit {}, ETKDGv3"
_SAUER = "Sauer and Schwarz, J. Chem. Inf. Comput. Sci. 43, 987 (2003)" + _RDKIT
_ARTECA = "Arteca, Rev. Comput. Chem. 9, 191 (1996)" + _RDKIT
_MOMENT = "principal moment of inertia: high for heavy and spread-out molecules."
register_table(__name__, [
    ("pmi1", rdMolDescriptors.CalcPMI1, "Da Å²", MANY, _SAUER, f"The smallest {_MOMENT}"),
    ("pmi2", rdMolDescriptors.CalcPMI2, "Da Å²", MANY, _SAUER, f"The middle {_MOMENT}"),
    ("pmi3", rdMolDescriptors.CalcPMI3, "Da Å²", MANY, _SAUER, f"The largest {_MOMENT}"),
    ("npr1", rdMolDescriptors.CalcNPR1, "", (0, 1), _SAUER,
     "Smallest over largest moment of inertia: 0 for a rod, 0.5 for a disc, 1 for a ball."),
    ("npr2", rdMolDescriptors.CalcNPR2, "", (0.5, 1), _SAUER,
     "Middle over largest moment of inertia: 1 for a rod, 0.5 for a disc, 1 for a ball."),
    ("asphericity", rdMolDescriptors.CalcAsphericity, "", (0, 1),
     "Baumgaertner, J. Chem. Phys. 98, 7496 (1993)" + _RDKIT,
     "Asphericity: 0 for a ball, 0.25 for a disc, 1 for a rod."),
    ("eccentricity", rdMolDescriptors.CalcEccentricity, "", (0, 1), _ARTECA,
     "sqrt(1 - NPR1^2): 0 for a ball, 0.87 for a disc, 1 for a rod."),
    ("spherocity", rdMolDescriptors.CalcSpherocityIndex, "", (0, 1),
     "Todeschini and Consonni, Handbook of Molecular Descriptors (2000)" + _RDKIT,
     "Spherocity index: 1 for a ball, 0 for a flat molecule."),
    ("radius_of_gyration", rdMolDescriptors.CalcRadiusOfGyration, "Å", MANY, _ARTECA,
     "Root mean square distance from the centre of mass: high for large, stretched molecules."),
    ("pbf", rdMolDescriptors.CalcPBF, "Å", MANY,
     "Firth et al., J. Chem. Inf. Model. 52, 2516 (2012)" + _RDKIT,
     "Plane of best fit: mean distance of the atoms from it; 0 for a flat molecule."),
], _of_conformer, costly=True)
# fmt: on
