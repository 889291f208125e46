"""Components of the molecular graph: its size, branching, complexity and flexibility."""

import math

from rdkit.Chem import (
    GetDistanceMatrix,
    GetMolFrags,
    GraphDescriptors,
    Mol,
    MolFromSmarts,
    RemoveHs,
    RemoveHsParameters,
)

from chemkl.rewards.registry import Score
from chemkl.rewards.table import Row, register

POSITIVE = (0, math.inf)

bertz_ct: Score = GraphDescriptors.BertzCT
balaban_j: Score = GraphDescriptors.BalabanJ

MOST = 1_000_000
"""RDKit stops at 1,000 matches unless told otherwise, and says nothing."""

_ROTATABLE = MolFromSmarts("[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]")
_STIFF = MolFromSmarts("[#7,#8]-&!@[CX3]=[OX1]")


def _heavy_graph(mol: Mol) -> Mol:
    """Leave out hydrogens that are atoms of their own (isotopes): they distort every index."""
    if all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()):
        return mol
    every = RemoveHsParameters()
    every.removeIsotopes = True  # type: ignore[assignment] # RDKit's stubs
    return RemoveHs(mol, every)


def _balaban_j(mol: Mol) -> float:
    """Give Balaban's J; RDKit makes a number up where it is not defined."""
    graph = _heavy_graph(mol)
    n_fragments = len(GetMolFrags(graph))
    if n_fragments > 1:
        raise ValueError(f"Balaban's J needs one connected molecule, not {n_fragments} fragments")
    return balaban_j(graph)


def graph_length(mol: Mol) -> float:
    """Give the longest of the shortest paths between two atoms, in bonds, within one fragment."""
    distances = GetDistanceMatrix(_heavy_graph(mol))
    return float(distances[distances < mol.GetNumAtoms()].max())  # 1e8 stands for: not connected


def rotatable_chain(mol: Mol) -> int:
    """Give the most rotatable bonds in a row: the longest path made of them alone."""
    neighbours: dict[int, list[int]] = {}
    stiff = {frozenset(match[:2]) for match in mol.GetSubstructMatches(_STIFF, maxMatches=MOST)}
    for first, second in mol.GetSubstructMatches(_ROTATABLE, maxMatches=MOST):
        if {first, second} in stiff:
            continue
        neighbours.setdefault(first, []).append(second)
        neighbours.setdefault(second, []).append(first)

    def farthest(start: int) -> tuple[int, int]:
        """Rotatable bonds close no ring, so each path between two atoms is the only one."""
        depth, ahead = {start: 0}, [start]
        for atom in ahead:
            new = [each for each in neighbours[atom] if each not in depth]
            depth |= dict.fromkeys(new, depth[atom] + 1)
            ahead += new
        return depth[ahead[-1]], ahead[-1]

    return max((farthest(farthest(atom)[1])[0] for atom in neighbours), default=0)


register(
    [
        Row(
            "graph_length",
            graph_length,
            "bonds",
            POSITIVE,
            "RDKit GetDistanceMatrix",
            "Topological length: bonds between the two atoms farthest apart, within a fragment.",
        ),
        Row(
            "rotatable_chain",
            rotatable_chain,
            "bonds",
            POSITIVE,
            "RDKit substructure search",
            "Most rotatable bonds in a row (amides and esters stay rigid): high for floppy chains.",
        ),
        Row(
            "bertz_ct",
            lambda mol: bertz_ct(_heavy_graph(mol)),
            "bits",
            POSITIVE,
            "Bertz, J. Am. Chem. Soc. 103, 3599 (1981); RDKit BertzCT",
            "Complexity of the graph: high for many kinds of atoms and bonds.",
        ),
        Row(
            "balaban_j",
            _balaban_j,
            "",
            POSITIVE,
            "Balaban, Chem. Phys. Lett. 89, 399 (1982); RDKit BalabanJ",
            "Balaban's J: high for compact, branched graphs. A salt fails.",
        ),
    ],
    __name__,
)
