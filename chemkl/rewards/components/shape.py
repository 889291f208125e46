"""Components of the shape of a molecule: one 3D conformer with hydrogens, embedded by ETKDGv3.

An embedding takes some 10 to 50 ms for a drug-sized molecule; the components of a reward share it.
Equal settings give every spelling of a molecule the same conformer, unless time runs out.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from rdkit.Chem import (
    AddHs,
    GetMolFrags,
    Mol,
    MolToSmiles,
    rdDistGeom,
    rdMolDescriptors,
)
from rdkit.Chem.AllChem import ComputeMolVolume

from chemkl.chem.molecules import parse, silenced
from chemkl.rewards.registry import Score, component

Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Of the embedding.")]
Attempts = Annotated[
    int, Field(ge=1, description="Embeddings tried, from either sort of start, before it fails.")
]
Timeout = Annotated[
    int,
    Field(ge=1, description="Seconds after which no further attempt is made; one under way ends."),
]
HeavyAtoms = Annotated[
    int, Field(ge=1, description="A larger molecule fails at once: one attempt may take minutes.")
]
SEED, ATTEMPTS, TIMEOUT, HEAVY_ATOMS = 0, 20, 10, 100
REMEMBERED = 1024
"""Conformers kept, so that the shape components of one reward share the embedding."""


class Embedding(NamedTuple):
    """How a conformer is made; see the parameters of the components."""

    seed: int
    attempts: int
    timeout: int
    max_heavy_atoms: int


def conformer(mol: Mol, embedding: Embedding) -> Mol:
    """Give the molecule with hydrogens and one conformer; the same one for every spelling of it.

    Raises:
        ValueError: there is none, and why.
    """
    made = _conformer(MolToSmiles(mol), embedding)
    if isinstance(made, str):
        raise ValueError(made)  # noqa: TRY004 - it is the molecule that is unfit, not its type
    return made


@lru_cache(maxsize=REMEMBERED)
def _conformer(smiles: str, embedding: Embedding) -> Mol | str:
    """Embed, or say why not: a failure is remembered like a success."""
    with silenced():
        read = parse(smiles)
        if read is None:
            return "RDKit cannot read its canonical SMILES"
        mol = AddHs(read)
        unfit = _unfit(mol, embedding)
        return unfit or _embedded(mol, embedding)


def _unfit(mol: Mol, embedding: Embedding) -> str | None:
    n_fragments, n_heavy = len(GetMolFrags(mol)), mol.GetNumHeavyAtoms()
    if n_fragments > 1:
        return f"{n_fragments} fragments have no common shape"
    if mol.GetNumAtoms() == 1:
        return "a single atom has no shape"
    if n_heavy > embedding.max_heavy_atoms:
        return f"{n_heavy} heavy atoms, and max_heavy_atoms = {embedding.max_heavy_atoms}"
    return None


def _embedded(mol: Mol, embedding: Embedding) -> Mol | str:
    """Start from distances, as is usual, then from random places, which suits long chains.

    Only attempts without success lead to the second start. Running out of time is a failure: which
    conformer a molecule has must not depend on how busy the machine is.
    """
    deadline = time.monotonic() + embedding.timeout
    for random_start, share in ((False, 0.5), (True, 1.0)):
        settings: Any = rdDistGeom.ETKDGv3()
        settings.randomSeed = embedding.seed
        settings.maxIterations = embedding.attempts
        settings.useRandomCoords = random_start
        started = time.monotonic()
        settings.timeout = math.ceil((deadline - started) * share)  # whole seconds; 0 is no limit
        out_of_time = settings.timeout < 1
        if not out_of_time and rdDistGeom.EmbedMolecule(mol, settings) == 0:
            return mol
        if out_of_time or time.monotonic() - started >= settings.timeout:
            return f"no conformer found in {embedding.timeout} s"
    return f"no conformer found in {embedding.attempts} attempts"


class Shape(NamedTuple):
    """A number that one conformer has."""

    kind: str
    function: Callable[[Mol], float]
    unit: str
    range: tuple[float, float]
    meaning: str
    paper: str = "Sauer and Schwarz, J. Chem. Inf. Comput. Sci. 43, 987 (2003)"


TODESCHINI = "Todeschini and Consonni, Handbook of Molecular Descriptors (2000)"

SHAPES = [
    *(
        Shape(
            f"pmi{order}",
            function,
            "Da Å²",
            (0, math.inf),
            f"The {which} principal moment of inertia: high for heavy and spread-out molecules.",
        )
        for order, which, function in [
            (1, "smallest", rdMolDescriptors.CalcPMI1),
            (2, "middle", rdMolDescriptors.CalcPMI2),
            (3, "largest", rdMolDescriptors.CalcPMI3),
        ]
    ),
    Shape(
        "npr1",
        rdMolDescriptors.CalcNPR1,
        "",
        (0, 1),
        "Smallest over largest moment of inertia: 0 for a rod, 0.5 for a disc, 1 for a ball.",
    ),
    Shape(
        "npr2",
        rdMolDescriptors.CalcNPR2,
        "",
        (0.5, 1),
        "Middle over largest moment of inertia: 1 for a rod, 0.5 for a disc, 1 for a ball.",
    ),
    Shape(
        "asphericity",
        rdMolDescriptors.CalcAsphericity,
        "",
        (0, 1),
        "Asphericity: 0 for a ball, 0.25 for a disc, 1 for a rod.",
        "Baumgaertner, J. Chem. Phys. 98, 7496 (1993)",
    ),
    Shape(
        "eccentricity",
        rdMolDescriptors.CalcEccentricity,
        "",
        (0, 1),
        "sqrt(1 - NPR1^2): 0 for a ball, 0.87 for a disc, 1 for a rod.",
        "Arteca, Rev. Comput. Chem. 9, 191 (1996)",
    ),
    Shape(
        "spherocity",
        rdMolDescriptors.CalcSpherocityIndex,
        "",
        (0, 1),
        "Spherocity index: 1 for a ball, 0 for a flat molecule.",
        TODESCHINI,
    ),
    Shape(
        "radius_of_gyration",
        rdMolDescriptors.CalcRadiusOfGyration,
        "Å",
        (0, math.inf),
        "Root mean square distance from the centre of mass: high for large, stretched molecules.",
        "Arteca, Rev. Comput. Chem. 9, 191 (1996)",
    ),
    Shape(
        "pbf",
        rdMolDescriptors.CalcPBF,
        "Å",
        (0, math.inf),
        "Plane of best fit: mean distance of the atoms from it; 0 for a flat molecule.",
        "Firth et al., J. Chem. Inf. Model. 52, 2516 (2012)",
    ),
]


def _factory(shape: Shape) -> Callable[..., Score]:
    def factory(
        *,
        seed: Seed = SEED,
        attempts: Attempts = ATTEMPTS,
        timeout: Timeout = TIMEOUT,
        max_heavy_atoms: HeavyAtoms = HEAVY_ATOMS,
    ) -> Score:
        embedding = Embedding(seed, attempts, timeout, max_heavy_atoms)
        return lambda mol: shape.function(conformer(mol, embedding))

    factory.__name__ = factory.__qualname__ = shape.kind
    factory.__doc__ = shape.meaning
    return factory


for _shape in SHAPES:
    component(
        _shape.kind,
        unit=_shape.unit,
        range=_shape.range,
        source=f"{_shape.paper}; RDKit {_shape.function.__name__}, ETKDGv3",
        costly=True,
    )(_factory(_shape))


@component(
    "molecular_volume",
    unit="Å³",
    range=(0, math.inf),
    source="RDKit ComputeMolVolume (van der Waals radii), ETKDGv3",
    costly=True,
)
def molecular_volume(
    *,
    seed: Seed = SEED,
    attempts: Attempts = ATTEMPTS,
    timeout: Timeout = TIMEOUT,
    max_heavy_atoms: HeavyAtoms = HEAVY_ATOMS,
    grid_spacing: Annotated[float, Field(ge=0.05, le=1, description="Of the grid, in Å.")] = 0.2,
    box_margin: Annotated[float, Field(ge=1, le=10, description="Round the atoms, in Å.")] = 2.0,
) -> Score:
    """Volume inside the van der Waals radii of the atoms, counted on a grid."""
    embedding = Embedding(seed, attempts, timeout, max_heavy_atoms)
    volume: Callable[..., float] = ComputeMolVolume
    return lambda mol: volume(
        conformer(mol, embedding), gridSpacing=grid_spacing, boxMargin=box_margin
    )
