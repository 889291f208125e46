"""Genetic operators: new molecules made of molecules that are there, by crossover and mutation.

The operators are those of graph GA (Jensen, Chem. Sci. 10, 3567, 2019) as the package mol_ga keeps
them, and BRICS (Degen et al., ChemMedChem 3, 1503, 2008) as RDKit knows it; here is what is asked
of their results, and who the parents were.
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
from chemkl.config.base import install

Origin = Literal["crossover", "mutation", "neighbour", "fragments"]
SHARES: Mapping[Origin, float] = {
    "crossover": 0.25, "mutation": 0.125, "neighbour": 0.125, "fragments": 0.5
}  # fmt: skip
OF_TWO = ("crossover", "fragments")
"""Operators that need two parents."""
MOST_ATOMS = 70
"""Heavy atoms of a proposal; a crossover can join two large halves."""
TRIES = 20
"""Attempts a wanted proposal, after which fewer are given."""


class Proposal(NamedTuple):
    """A molecule that no parent is, its canonical SMILES, and where it comes from."""

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
    """Propose new molecules: n distinct ones, none of them a parent, or fewer if n cannot be found.

    Each is one connected molecule without radicals. A crossover joins a part of one parent with a
    part of another one (and needs two); a mutation inserts, deletes or changes an atom, a bond or a
    ring of one; a neighbour is a mutation that stays similar to its parent; fragments are a
    crossover at bonds that chemists can make, which BRICS knows. Parents are chosen
    alike: give the ones to prefer more than once, or alone. A function of its arguments alone.

    Args:
        parents: SMILES.
        n: how many.
        rng: decides everything that is left to chance.
        shares: how often each operator is tried; they need not sum to 1.
        similarity: least Tanimoto similarity (Morgan, radius 2) of a neighbour to its parent.
        most_atoms: heavy atoms of a proposal.

    Raises:
        InputError: a parent that is no molecule; no parents; mol_ga is not installed.
    """
    molecules = [_read_parent(smiles) for smiles in parents]
    problems = [
        f"parent {number}, {molecule.smiles!r}, is not a molecule: {molecule.reason}"
        for number, molecule in enumerate(molecules)
        if not molecule.valid
    ]
    if not molecules:
        problems = ["propose: no parents are given, of which new molecules could be made"]
    InputError.refuse(problems)
    known = [str(molecule.canonical_smiles) for molecule in molecules]
    if any(share for origin, share in shares.items() if origin != "fragments"):
        graph_ga()
    numbers = random.Random(int(rng.integers(2**63)))  # mol_ga's kind of random numbers
    origins = [o for o in shares if o not in OF_TWO or len(set(known)) > 1]
    weights = [shares[origin] for origin in origins]
    found: dict[str, Proposal] = {}
    for _ in range(TRIES * n if any(weights) else 0):
        if len(found) == n:
            break
        origin = numbers.choices(origins, weights)[0]
        chosen = [numbers.choice(known)]
        if origin in OF_TWO:
            chosen.append(numbers.choice([other for other in known if other != chosen[0]]))
        smiles = _child(origin, chosen, numbers, most_atoms)
        if smiles is None or smiles in found or smiles in known:
            continue
        if origin != "neighbour" or _similarity(smiles, chosen[0]) >= similarity:
            found[smiles] = Proposal(smiles, origin, tuple(chosen))
    return list(found.values())


_read_parent = lru_cache(4096)(read_molecule)
"""Most parents of a step are those of the step before."""


def _child(
    origin: Origin, parents: Sequence[str], numbers: random.Random, most_atoms: int
) -> str | None:
    """The canonical SMILES of what an operator makes of copies of one or two parents; or None."""
    with silenced():
        try:
            if origin == "fragments":
                child = _joined(parents[0], parents[1], numbers)
            else:
                crossover, mutate = graph_ga()
                mols = [Chem.MolFromSmiles(smiles) for smiles in parents]
                child = (mutate if len(mols) == 1 else crossover)(*mols, numbers)
            text = "" if child is None else Chem.MolToSmiles(child)
        except (ValueError, RuntimeError):  # RDKit's, of a graph that it cannot make sense of
            return None
    molecule = read_molecule(text, max_atoms=most_atoms) if text else None
    if molecule is None or molecule.mol is None or "." in text:
        return None
    radicals = any(atom.GetNumRadicalElectrons() for atom in molecule.mol.GetAtoms())
    return None if radicals else molecule.canonical_smiles


def _joined(one: str, other: str, numbers: random.Random) -> Chem.Mol | None:
    """A piece of one molecule and one of the other that BRICS would join, joined; or None."""
    if not (pieces := _pieces(one)):
        return None
    kind, begun = numbers.choice(pieces)
    ends = [text for end, text in _pieces(other) if frozenset((kind, end)) in _joins()]
    return Chem.molzip(Chem.MolFromSmiles(f"{begun}.{numbers.choice(ends)}")) if ends else None


@lru_cache(4096)
def _pieces(smiles: str) -> list[tuple[int, str]]:
    """The pieces of a molecule, two for each bond that BRICS would cut: kind of end, SMILES.

    RDKit's own BreakBRICSBonds and BRICSBuild turn some stereocentres at the bond round. A double
    bond that is E or Z stays whole: its halves would not know.
    """
    mol, pieces = Chem.MolFromSmiles(smiles), set[tuple[int, str]]()
    for (begin, end), kinds in BRICS.FindBRICSBonds(mol):  # type: ignore[no-untyped-call]
        bond = mol.GetBondBetweenAtoms(begin, end)
        if bond.GetStereo() != Chem.BondStereo.STEREONONE:
            continue
        labels = (int(kinds[1]), int(kinds[0]))  # of what each atom is left with: the other's end
        if bond.GetBeginAtomIdx() != begin:
            labels = labels[::-1]
        cut = Chem.FragmentOnBonds(mol, [bond.GetIdx()], dummyLabels=[labels])
        for text in Chem.MolToSmiles(cut).split("."):
            if ends := _END.findall(text):  # else it is a salt beside
                pieces.add((int(ends[0]), _END.sub("[*:1]", text)))
    return sorted(pieces)


_END = re.compile(r"\[(\d+)\*\]")


@cache
def _joins() -> set[frozenset[int]]:
    """Kinds of ends that BRICS joins with each other."""
    pairs = [pair for group in BRICS.reactionDefs for pair in group]
    return {frozenset(int(kind.strip("ab")) for kind in (one, other)) for one, other, _ in pairs}


def _similarity(one: str, other: str) -> float:
    mols = [parse(smiles) for smiles in (one, other)]
    try:
        first, second = (morgan_fingerprint(mol) for mol in mols if mol is not None)
    except MoleculeError:
        return 0.0
    return float(tanimoto(first, [second])[0])


@cache
def graph_ga() -> tuple[Any, Any]:
    """Crossover and mutation of mol_ga, which on import switches RDKit's error log off for good.

    Raises:
        InputError: it is not installed.
    """
    was_on = "rdApp.error:enabled" in rdBase.LogStatus()
    try:
        from mol_ga.graph_ga.crossover import crossover  # optional
        from mol_ga.graph_ga.mutate import mutate
    except ImportError as error:
        raise InputError(
            f"genetic operators need the package mol_ga: {install('genetic')}"
        ) from error
    finally:
        if was_on:
            rdBase.EnableLog("rdApp.error")
    return crossover, mutate
