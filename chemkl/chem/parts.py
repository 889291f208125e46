"""Parts that molecules must hold, written so that a model can finish them: scaffolds, pairs, seeds.

They are the parts of `chemkl.policies.constrained`, which asks each what there is to finish, how to
go on from what a model wrote, and whether the part is still there.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from chemkl.chem.molecules import (
    SMILES_TOKEN,
    MoleculeError,
    as_mol,
    parse,
    read_molecule,
    step,
)
from chemkl.chem.operators import propose
from chemkl.chem.scaffolds import DecoratedScaffold
from chemkl.config import InputError

TRIES = 8
"""Random spellings that are tried for each one that is wanted: half of them end at the point."""


class Way(NamedTuple):
    """A way to begin or to go on."""

    text: str  # a SMILES to be finished, or a finished one
    state: tuple[int, ...] = ()  # what the part must know to go on from it
    given: str = ""  # what it begins with: ways are compared by what comes behind it
    compared: str | None = None  # what then comes, of which the rest follows; None: all, and an end
    finished: bool = False


class Scaffold:
    """A scaffold with attachment points, each to be decorated: one round a point.

    Args:
        smiles: with ``*`` at the points, as `DecoratedScaffold` takes it.
        key: where it stands in a config.

    Raises:
        InputError: it is no molecule, or its points are none.
    """

    one_bond = True

    def __init__(self, smiles: str, key: str = "") -> None:
        self.name, self.key = smiles, key
        self._decorated = DecoratedScaffold(smiles)
        self.opened = Opened(smiles)
        self.rounds = len(self.opened.points)

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return up to n spellings with one of the points, at random, last; `state`: the others."""
        return self.opened.spellings(seed, n)

    def go_on(self, way: Way, completion: str, seed: int, n: int) -> Sequence[Way]:
        """Return the same of what was made of it, for the points that are left."""
        mol = parse(way.text + completion) if way.state else None
        return [] if mol is None else Opened(mol, way.state).spellings(seed, n)

    def problem(self, _way: Way, text: str) -> str | None:
        """Say so where the text is not this scaffold with one decoration at each point."""
        mol = parse(text)
        if mol is None or self._decorated.bonds(mol):
            return None
        return "fixed part: not the scaffold with one decoration at each attachment point"


class Pair:
    """Two fragments to be linked: a model writes on from one, and the other ends the molecule.

    Args:
        fragments: two SMILES, each with one ``*``.
        key: where they stand in a config.

    Raises:
        InputError: one is no molecule, or has not just one attachment point.
    """

    rounds, one_bond = 1, True

    def __init__(self, fragments: Sequence[str], key: str = "") -> None:
        self.name, self.key = "|".join(fragments), key
        self._decorated = [DecoratedScaffold(smiles, what="fragment") for smiles in fragments]
        for smiles, one in zip(fragments, self._decorated, strict=True):
            if one.n_points != 1:
                raise InputError(
                    f"fragment {smiles!r} has {one.n_points} attachment points; a fragment that is "
                    "linked has one *"
                )
        self.opened = [Opened(smiles) for smiles in fragments]
        self._endings = [one.ending() for one in self.opened]

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return up to n spellings of one of the two, at random; `state`: which."""
        first = seed % 2
        return [way._replace(state=(first,)) for way in self.opened[first].spellings(seed, n)]

    def go_on(self, way: Way, completion: str, seed: int, n: int) -> Sequence[Way]:
        """Return up to n places, at random, where the other fragment fits.

        Behind an atom of the main chain it ends the molecule, and what stood there is dropped; in a
        ring or a branch it becomes a branch.
        """
        ending = self._endings[1 - way.state[0]]
        places = Walk(completion).places
        ways: list[Way] = []
        for i in np.random.default_rng(seed).permutation(len(places)):
            place = places[i]
            given, rest = way.text + completion[: place.stop], completion[place.stop :]
            bond = "-" if place.is_aromatic and _is_aromatic(ending) else ""
            new = bond + ending if place.is_main else f"({bond}{_within(ending, place.rings)})"
            text = given + new + ("" if place.is_main else rest)
            mol = parse(text)
            if mol is not None and self._is_linked(mol):
                compared = None if place.is_main else new
                ways.append(Way(text, way.state, given, compared, finished=True))
            if len(ways) == n:
                break
        return ways

    def problem(self, _way: Way, text: str) -> str | None:
        """Say so where the text is not both fragments, with one linker between them."""
        mol = parse(text)
        if mol is None or self._is_linked(mol):
            return None
        return "fixed part: not the two fragments with one linker between them"

    def _is_linked(self, mol: Chem.Mol) -> bool:
        sizes = [one.mol.GetNumAtoms() for one in self.opened]
        firsts, seconds = (one.bonds(mol) for one in self._decorated)
        for (first,) in firsts:
            for (second,) in seconds:
                bonds = {mol.GetBondBetweenAtoms(*ends).GetIdx() for ends in (first, second)}
                cut = Chem.FragmentOnBonds(mol, sorted(bonds), addDummies=False)
                parts = [frozenset(part) for part in Chem.GetMolFrags(cut)]
                ends = [next(p for p in parts if pair[0] in p) for pair in (first, second)]
                if len(parts) == 3 and ends[0] != ends[1] and [*map(len, ends)] == sizes:
                    return True
        return False


class Lead:
    """A molecule whose analogues keep the beginning of one of its SMILES, as a model ends it.

    With mutants it is one of the SMILES of these as well; of a molecule they are always the same.

    Args:
        smiles: of the molecule.
        key: where it stands in a config.
        keep: the least and the largest share of the SMILES that is kept, 0 to 1.
        mutants: so many of its neighbours, or all that are found.

    Raises:
        InputError: it is no molecule; or mutants are wanted, and mol_ga is not installed.
    """

    rounds, one_bond = 1, False

    def __init__(
        self,
        smiles: str,
        key: str = "",
        keep: tuple[float, float] = (0.5, 0.9),
        mutants: int = 0,
    ) -> None:
        self.name, self.key, self._keep = smiles, key, keep
        read = read_molecule(smiles)
        problem = f": {read.reason}" if read.mol is None else ""
        if read.mol is not None and any(atom.GetAtomicNum() == 0 for atom in read.mol.GetAtoms()):
            problem = " has an attachment point; generator: {kind: decorate} takes such"
        if read.mol is None or problem:
            raise InputError(f"molecule {smiles!r}{problem}")
        texts = [read.canonical_smiles or ""]
        if mutants:
            rng = np.random.default_rng(0)
            texts += [one.smiles for one in propose(texts, mutants, rng, shares={"neighbour": 1})]
        self._mols = [read.mol, *map(as_mol, texts[1:])]
        self._n_tokens = [len(SMILES_TOKEN.findall(text)) for text in texts]

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return the beginnings of n random spellings, all of so many tokens, at random."""
        rng = np.random.default_rng(seed)
        share = rng.uniform(*self._keep)
        which = int(rng.integers(len(self._mols))) if len(self._mols) > 1 else 0
        mol, n_kept = self._mols[which], max(1, round(share * self._n_tokens[which]))
        ways = []
        for _ in range(n):
            order = rng.permutation(mol.GetNumAtoms()).tolist()
            text, _atoms = _written(mol, order, 0)
            tokens = list(SMILES_TOKEN.finditer(text))
            ways.append(Way(text[: tokens[min(n_kept, len(tokens)) - 1].end()]))
        return ways

    def go_on(self, _way: Way, _completion: str, _seed: int, _n: int) -> Sequence[Way]:
        """There is no second round."""
        return []

    def problem(self, way: Way, text: str) -> str | None:
        """Say so where the text does not hold the atoms and bonds of the beginning."""
        mol = parse(text)
        if mol is None or mol.HasSubstructMatch(_pattern(Walk(way.text))):
            return None
        return "fixed part: not the atoms and bonds that were kept of the molecule"


# ---- writing


class Opened:
    """A molecule whose attachment points are free valences.

    Args:
        molecule: a SMILES with ``*`` at its points; or a molecule, with hydrogens there.
        points: then, the atoms that have them, one with two of them twice.
    """

    def __init__(self, molecule: Chem.Mol | str, points: Sequence[int] = ()) -> None:
        self.points = list(points)
        if not isinstance(molecule, str):
            self.mol = molecule
            return
        mol = Chem.Mol(as_mol(molecule))
        at = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]
        ends = [atom.GetNeighbors()[0] for atom in at]
        bonds = [bond for end in ends for bond in end.GetBonds()]
        problems = (
            (
                any(end.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for end in ends),
                "on a stereocentre, whose configuration would be lost; leave it unmarked",
            ),
            (
                any(bond.GetStereo() != Chem.BondStereo.STEREONONE for bond in bonds),
                "on a double bond whose configuration is marked, and would be lost; leave it "
                "unmarked",
            ),
            (
                any(atom.GetBonds()[0].GetBondType() != Chem.BondType.SINGLE for atom in at),
                "that is bound by more than a single bond; write the double bond into the part, "
                "and * behind it",
            ),
        )
        InputError.refuse(
            f"{molecule!r} has an attachment point {problem}"
            for is_there, problem in problems
            if is_there
        )
        for atom, end in zip(at, ends, strict=True):
            end.SetIntProp("points", 1 + (end.HasProp("points") and end.GetIntProp("points")))
            atom.SetAtomicNum(1)
            atom.SetAtomMapNum(0)
            atom.SetIsotope(0)
        self.mol = Chem.RemoveHs(mol)
        for atom in self.mol.GetAtoms():
            if atom.HasProp("points"):
                self.points += [atom.GetIdx()] * atom.GetIntProp("points")

    def spellings(self, seed: int, n: int) -> list[Way]:
        """Write it in up to n ways at random, so that one of its points, at random, is open last.

        RDKit writes the neighbours of an atom in the order of their numbers, those in its rings
        last. So atoms are numbered from the farthest one to that point, with some noise, and near
        ones are more likely to be written first: from across a ring the point cannot be last.
        """
        rng = np.random.default_rng(seed)
        left = list(self.points)
        at = left.pop(int(rng.integers(len(left))))
        try:
            mol, point = self._with_star(at)
        except MoleculeError:  # no valence is left there
            return []
        far_N = Chem.GetDistanceMatrix(mol)[at]
        found: dict[str, Way] = {}
        for _ in range(TRIES * n):
            key_N = 1.5 * rng.random(point + 1) - far_N
            key_N[point] = np.inf
            order = np.argsort(key_N).tolist()
            nearness_N = rng.gumbel(size=point) - far_N[:point]
            if point > 1:
                nearness_N[at] = -np.inf
            first = int(np.argmax(nearness_N))
            text, atoms = _written(mol, order, order.index(first))
            if text.endswith("*"):
                found[text] = Way(text[:-1], tuple(sorted(map(atoms.index, left))))
            if len(found) == n:
                break
        return list(found.values())

    def ending(self) -> str:
        """Write it as RDKit does, from its first point on."""
        mol, point = self._with_star(self.points[0])
        return Chem.MolToSmiles(mol, rootedAtAtom=point)[1:]

    @step("attachment point")
    def _with_star(self, at: int) -> tuple[Chem.Mol, int]:
        """Turn a hydrogen of an atom into ``*``: the molecule, and the number of that."""
        point = self.mol.GetNumAtoms()
        mol = Chem.AddHs(self.mol, onlyOnAtoms=[at])
        mol.GetAtomWithIdx(point).SetAtomicNum(0)
        return Chem.RemoveHs(mol), point


def _written(mol: Chem.Mol, order: list[int], root: int) -> tuple[str, list[int]]:
    """Write a molecule, its atoms numbered anew, from one of these; and its atoms as written."""
    numbered = Chem.RenumberAtoms(mol, order)
    text = Chem.MolToSmiles(numbered, canonical=False, rootedAtAtom=root)
    written = re.findall(r"\d+", numbered.GetProp("_smilesAtomOutputOrder"))
    return text, [order[int(i)] for i in written]


# ---- reading what is not finished


class Place(NamedTuple):
    """Where something can be bound to an atom."""

    stop: int  # the position behind it
    is_aromatic: bool
    is_main: bool  # all branches and rings are closed there
    rings: frozenset[str]  # the numbers of the rings that are open


class Walk:
    """The atoms and bonds of a piece of a SMILES, which begins behind an atom or anew.

    Attributes:
        atoms: their tokens.
        bonds: between them; of a ring, once it is closed.
        places: behind each atom with its rings, and behind its branches.
    """

    def __init__(self, text: str) -> None:  # noqa: C901 - one case for each kind of token
        self.atoms: list[str] = []
        self.bonds: list[tuple[int, int]] = []
        self.places: list[Place] = []
        last, branches, rings = -1, list[int](), dict[str, int]()
        for token in SMILES_TOKEN.finditer(text):
            kind = token.lastgroup
            if kind in ("bracket", "atom"):
                self.atoms.append(token.group())
                before, last = last, len(self.atoms) - 1
                if before >= 0:
                    self.bonds.append((before, last))
            elif kind == "open":
                branches.append(last)
            elif kind == "close":
                if not branches:
                    return
                last = branches.pop()
            elif kind == "ring":
                other = rings.pop(token.group(), None)
                if other is None:
                    rings[token.group()] = last
                elif min(other, last) >= 0:
                    self.bonds.append((other, last))
            if kind == "ring" and self.places and self.places[-1].stop == token.start():
                self.places.pop()
            if kind not in ("open", "bond") and last >= 0:
                is_main = not branches and not rings
                aromatic = _is_aromatic(self.atoms[last])
                self.places.append(Place(token.end(), aromatic, is_main, frozenset(rings)))


def _within(text: str, rings: frozenset[str]) -> str:
    """Give the rings of a SMILES other numbers than those of rings that are open around it."""
    free = [number for number in map(str, range(1, 10)) if number not in rings]
    new = dict(zip(map(str, range(1, 10)), free, strict=False))
    parts = SMILES_TOKEN.finditer(text)
    return "".join(
        new.get(p.group(), p.group()) if p.lastgroup == "ring" else p.group() for p in parts
    )


def _is_aromatic(text: str) -> bool:
    """Whether the first atom of a SMILES is written as an aromatic one."""
    return text.lstrip("[0123456789")[:1].islower()


def _pattern(walk: Walk) -> Chem.Mol:
    """The elements of a walk and its bonds, of any order."""
    pattern = Chem.RWMol()
    for token in walk.atoms:
        number = Chem.AtomFromSmiles(token).GetAtomicNum()
        pattern.AddAtom(Chem.AtomFromSmarts(f"[#{number}]"))
    for begin, end in walk.bonds:
        n_bonds = pattern.AddBond(begin, end, Chem.BondType.SINGLE)
        pattern.ReplaceBond(n_bonds - 1, Chem.BondFromSmarts("~"))
    return pattern.GetMol()
