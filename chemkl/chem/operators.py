"""Genetic operators: new molecules from existing ones, by crossover and mutation.

The operators are those of graph GA (Jensen, Chem. Sci. 10, 3567, 2019) in the package mol_ga, and
BRICS (Degen et al., ChemMedChem 3, 1503, 2008) in RDKit. This module chooses parents, checks the
children and records their origin.
"""

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto
from chemkl.chem.molecules import MoleculeError, parse, read_molecule, silenced
from chemkl.config import InputError
from chemkl.config.base import install_command

Origin = Literal["crossover", "mutation", "neighbour", "fragments"]
SHARES: Mapping[Origin, float] = {
    "crossover": 0.25, "mutation": 0.125, "neighbour": 0.125, "fragments": 0.5
}  # fmt: skip
OF_TWO = ("crossover", "fragments")
"""Operators that need two parents."""
MOST_ATOMS = 70
"""Default limit on the heavy atoms of a proposal; a crossover can join two large halves."""
TRIES = 20
"""Attempts per requested proposal before fewer are returned."""


class Proposal(NamedTuple):
    """A new molecule, as canonical SMILES, with its origin and its parents."""

    smiles: str
    origin: Origin | Literal["prior"]
    parents: tuple[str, ...]  # canonical SMILES


def propose(
    parents: Sequence[str],
    n: int,
    rng: np.random.Generator,
    *,
    shares: Mapping[Origin, float] = SHARES,
    similarity: float = 0.5,
    most_atoms: int = MOST_ATOMS,
) -> list[Proposal]:
    """Propose up to n distinct new molecules, none of which is a parent.

    Each is one connected molecule without radicals. A crossover joins parts of two parents; a
    mutation inserts, deletes or changes an atom, a bond or a ring of one; a neighbour is a mutation
    that stays similar to its parent; fragments are a crossover at the synthetically accessible
    bonds of BRICS. Parents are drawn uniformly: repeat a parent to prefer it. The result depends on
    the arguments only.

    Args:
        parents: SMILES.
        n: Number of proposals; fewer are returned if `TRIES` attempts for each do not suffice.
        rng: Source of all randomness.
        shares: Relative frequency of each operator; they need not sum to 1.
        similarity: Least Tanimoto similarity (Morgan, radius 2) of a neighbour to its parent.
        most_atoms: Most heavy atoms of a proposal.

    Raises:
        InputError: A parent is not a molecule, there are no parents, or mol_ga is not installed.
    """
    molecules = [_read_parent(smiles) for smiles in parents]
    problems = [
        f"parent {number}, {molecule.smiles!r}, is not a molecule: {molecule.reason}"
        for number, molecule in enumerate(molecules)
        if not molecule.valid
    ]
    if not molecules:
        problems = ["propose: no parents; give one or more"]
    InputError.refuse(problems)
    canonical = [str(molecule.canonical_smiles) for molecule in molecules]
    if any(share for origin, share in shares.items() if origin != "fragments"):
        graph_ga()
    numbers = random.Random(int(rng.integers(2**63)))  # mol_ga takes Python's generator
    origins = [o for o in shares if o not in OF_TWO or len(set(canonical)) > 1]
    weights = [shares[origin] for origin in origins]
    proposals: dict[str, Proposal] = {}
    for _ in range(TRIES * n if any(weights) else 0):
        if len(proposals) == n:
            break
        origin = numbers.choices(origins, weights)[0]
        chosen = [numbers.choice(canonical)]
        if origin in OF_TWO:
            chosen.append(numbers.choice([parent for parent in canonical if parent != chosen[0]]))
        smiles = _child(origin, chosen, numbers, most_atoms)
        if smiles is None or smiles in proposals or smiles in canonical:
            continue
        if origin != "neighbour" or _similarity(smiles, chosen[0]) >= similarity:
            proposals[smiles] = Proposal(smiles, origin, tuple(chosen))
    return list(proposals.values())


_read_parent = lru_cache(4096)(read_molecule)
"""Cached because most parents of a step are also parents of the next one."""


def _child(
    origin: Origin, parents: Sequence[str], numbers: random.Random, most_atoms: int
) -> str | None:
    """Apply an operator to one or two parents: the child's canonical SMILES, or None."""
    with silenced():
        try:
            if origin == "fragments":
                child = _join_pieces(parents[0], parents[1], numbers)
            else:
                crossover, mutate = graph_ga()
                mols = [Chem.MolFromSmiles(smiles) for smiles in parents]
                child = (mutate if len(mols) == 1 else crossover)(*mols, numbers)
            text = "" if child is None else Chem.MolToSmiles(child)
        except (ValueError, RuntimeError):  # RDKit cannot make a molecule of the graph
            return None
    molecule = read_molecule(text, max_atoms=most_atoms) if text else None
    if molecule is None or molecule.mol is None or "." in text:
        return None
    radicals = any(atom.GetNumRadicalElectrons() for atom in molecule.mol.GetAtoms())
    return None if radicals else molecule.canonical_smiles


def _join_pieces(first: str, second: str, numbers: random.Random) -> Chem.Mol | None:
    """Join random pieces of two molecules whose ends BRICS would join; None if there are none."""
    if not (pieces := _pieces(first)):
        return None
    kind, text = numbers.choice(pieces)
    partners = [piece for end, piece in _pieces(second) if frozenset((kind, end)) in _joins()]
    if not partners:
        return None
    return Chem.molzip(Chem.MolFromSmiles(f"{text}.{numbers.choice(partners)}"))


@lru_cache(4096)
def _pieces(smiles: str) -> list[tuple[int, str]]:
    """Return the pieces on either side of each bond that BRICS would cut, as (kind of end, SMILES).

    RDKit's own BreakBRICSBonds and BRICSBuild invert some stereocentres at the bond. A double bond
    marked E or Z is not cut, because its halves would lose the mark.
    """
    mol, pieces = Chem.MolFromSmiles(smiles), set[tuple[int, str]]()
    for (begin, end), kinds in BRICS.FindBRICSBonds(mol):  # type: ignore[no-untyped-call]
        bond = mol.GetBondBetweenAtoms(begin, end)
        if bond.GetStereo() != Chem.BondStereo.STEREONONE:
            continue
        labels = (int(kinds[1]), int(kinds[0]))  # each atom keeps the label of the other end
        if bond.GetBeginAtomIdx() != begin:
            labels = labels[::-1]
        cut = Chem.FragmentOnBonds(mol, [bond.GetIdx()], dummyLabels=[labels])
        for text in Chem.MolToSmiles(cut).split("."):
            if ends := _END.findall(text):  # otherwise it is a counterion
                pieces.add((int(ends[0]), _END.sub("[*:1]", text)))
    return sorted(pieces)


_END = re.compile(r"\[(\d+)\*\]")


@cache
def _joins() -> set[frozenset[int]]:
    """Return the pairs of end kinds that BRICS joins."""
    rules = [rule for group in BRICS.reactionDefs for rule in group]
    return {frozenset(int(kind.strip("ab")) for kind in rule[:2]) for rule in rules}


def _similarity(*pair: str) -> float:
    mols = [parse(smiles) for smiles in pair]
    try:
        first, second = (morgan_fingerprint(mol) for mol in mols if mol is not None)
    except MoleculeError:
        return 0.0
    return float(tanimoto(first, [second])[0])


@cache
def graph_ga() -> tuple[Any, Any]:
    """Import crossover and mutation from mol_ga, keeping RDKit's error log on, which it disables.

    Raises:
        InputError: mol_ga is not installed.
    """
    was_on = "rdApp.error:enabled" in rdBase.LogStatus()
    try:
        from mol_ga.graph_ga.crossover import crossover  # optional
        from mol_ga.graph_ga.mutate import mutate
    except ImportError as error:
        raise InputError(
            f"genetic operators need the package mol_ga: {install_command('genetic')}"
        ) from error
    finally:
        if was_on:
            rdBase.EnableLog("rdApp.error")
    return crossover, mutate
