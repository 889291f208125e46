"""Components that look at rings: how many, of what sort, of what size."""

import math
from typing import Annotated

from pydantic import Field
from rdkit.Chem import Mol, rdMolDescriptors

from chemkl.rewards.registry import Score, component
from chemkl.rewards.table import Row, register

MANY = (0, math.inf)

Sizes = Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]


def ring_sizes(mol: Mol) -> list[int]:
    """Give the number of atoms of every ring (RDKit's symmetrised smallest set of rings)."""
    return [len(ring) for ring in mol.GetRingInfo().AtomRings()]


def largest_ring(mol: Mol) -> int:
    """Give the size of the largest ring; 0 without one."""
    return max(ring_sizes(mol), default=0)


def _ring_systems(mol: Mol) -> list[set[int]]:
    """Join rings that share an atom: fused, bridged and spiro rings are one system."""
    systems: list[set[int]] = []
    for ring in map(set, mol.GetRingInfo().AtomRings()):
        apart = [system for system in systems if not system & ring]
        systems = [*apart, ring.union(*(system for system in systems if system & ring))]
    return systems


def _rings_in_largest_system(mol: Mol) -> int:
    rings = [set(ring) for ring in mol.GetRingInfo().AtomRings()]
    return max((sum(ring <= system for ring in rings) for system in _ring_systems(mol)), default=0)


register(
    [
        Row(
            f"{name}s",
            function,
            "rings",
            MANY,
            f"RDKit {function.__name__}",
            f"Number of {name.replace('_', ' ')}s: {meaning}.",
        )
        for name, function, meaning in [
            ("aromatic_ring", rdMolDescriptors.CalcNumAromaticRings, "all bonds aromatic"),
            (
                "aromatic_heterocycle",
                rdMolDescriptors.CalcNumAromaticHeterocycles,
                "aromatic rings with an atom that is not carbon",
            ),
            (
                "aromatic_carbocycle",
                rdMolDescriptors.CalcNumAromaticCarbocycles,
                "aromatic rings of carbon alone",
            ),
            (
                "aliphatic_ring",
                rdMolDescriptors.CalcNumAliphaticRings,
                "at least one bond not aromatic",
            ),
            (
                "aliphatic_heterocycle",
                rdMolDescriptors.CalcNumAliphaticHeterocycles,
                "aliphatic rings with an atom that is not carbon",
            ),
            (
                "aliphatic_carbocycle",
                rdMolDescriptors.CalcNumAliphaticCarbocycles,
                "aliphatic rings of carbon alone",
            ),
            ("saturated_ring", rdMolDescriptors.CalcNumSaturatedRings, "single bonds alone"),
            (
                "saturated_heterocycle",
                rdMolDescriptors.CalcNumSaturatedHeterocycles,
                "saturated rings with an atom that is not carbon",
            ),
            (
                "saturated_carbocycle",
                rdMolDescriptors.CalcNumSaturatedCarbocycles,
                "saturated rings of carbon alone",
            ),
            (
                "heterocycle",
                rdMolDescriptors.CalcNumHeterocycles,
                "rings of any sort with an atom that is not carbon",
            ),
        ]
    ],
    __name__,
)

register(
    [
        Row(
            "spiro_atoms",
            rdMolDescriptors.CalcNumSpiroAtoms,
            "atoms",
            MANY,
            "RDKit CalcNumSpiroAtoms",
            "Number of spiro atoms: shared by two rings that have nothing else in common.",
        ),
        Row(
            "bridgehead_atoms",
            rdMolDescriptors.CalcNumBridgeheadAtoms,
            "atoms",
            MANY,
            "RDKit CalcNumBridgeheadAtoms",
            "Number of bridgehead atoms: ends of a path of two or more bonds that rings share.",
        ),
        Row(
            "largest_ring",
            largest_ring,
            "atoms",
            MANY,
            "RDKit ring perception (symmetrised SSSR)",
            "Number of atoms of the largest ring; 0 without rings.",
        ),
        Row(
            "ring_systems",
            lambda mol: len(_ring_systems(mol)),
            "systems",
            MANY,
            "RDKit ring perception (symmetrised SSSR)",
            "Number of ring systems: rings that share an atom (fused, bridged, spiro) are one.",
        ),
        Row(
            "largest_ring_system",
            _rings_in_largest_system,
            "rings",
            MANY,
            "RDKit ring perception (symmetrised SSSR)",
            "Number of rings of the ring system that has most of them; 0 without rings.",
        ),
    ],
    __name__,
)


@component(
    "macrocycles",
    unit="rings",
    range=MANY,
    source="Driggers et al., Nat. Rev. Drug Discov. 7, 608 (2008)",
)
def macrocycles(
    smallest: Annotated[
        int, Field(ge=3, description="Fewest atoms of a ring that counts as a macrocycle.")
    ] = 12,
) -> Score:
    """Number of macrocycles: rings of twelve atoms or more, or of another smallest size.

    Rings that differ by the side on which they pass a bridged ring all count: a paracyclophane
    has two.
    """
    return lambda mol: sum(size >= smallest for size in ring_sizes(mol))


@component("rings_of_size", unit="rings", range=MANY, source="RDKit ring perception")
def rings_of_size(
    sizes: Annotated[Sizes, Field(description="The sizes that count, in atoms, 3 or more each.")],
) -> Score:
    """Number of rings of certain sizes."""
    counted = frozenset(sizes)
    return lambda mol: sum(size in counted for size in ring_sizes(mol))


@component("rings_outside_sizes", unit="rings", range=MANY, source="RDKit ring perception")
def rings_outside_sizes(
    allowed: Annotated[
        Sizes, Field(description="The sizes that do not count, in atoms, 3 or more each.")
    ],
) -> Score:
    """Number of rings that break a rule of sizes: 0 keeps it, each further ring breaks it more."""
    passed = frozenset(allowed)
    return lambda mol: sum(size not in passed for size in ring_sizes(mol))
