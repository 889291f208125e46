"""Fixed parts of constrained generation: scaffolds, pairs of fragments, and leads.

Each part gives `chemkl.policies.constrained` beginnings of SMILES for a model to complete, ways to
continue from a completion, and a check that the finished molecule still holds the part.
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
"""Random spellings to try per requested one; about half of them end at the attachment point."""


class Way(NamedTuple):
    """A way to begin or to continue a molecule."""

    text: str  # a SMILES to complete, or a complete one
    state: tuple[int, ...] = ()  # the part's own state, needed to continue
    prefix: str = ""  # fixed part of the text; ways are compared by the likelihood of the rest
    compared: str | None = None  # characters after the prefix to compare by; None: all and the end
    finished: bool = False


class Scaffold:
    """A scaffold whose attachment points are decorated one after the other, one round each.

    Args:
        smiles: SMILES with ``*`` at the points, as `DecoratedScaffold` takes it.
        key: The scaffold's key in a config.

    Raises:
        InputError: The SMILES or its attachment points are invalid.
    """

    one_bond = True

    def __init__(self, smiles: str, key: str = "") -> None:
        self.name, self.key = smiles, key
        self._decorated = DecoratedScaffold(smiles)
        self.opened = Opened(smiles)
        self.rounds = len(self.opened.points)

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return up to n spellings that end at a random point; `state` has the other points."""
        return self.opened.spellings(seed, n)

    def go_on(self, way: Way, completion: str, seed: int, n: int) -> Sequence[Way]:
        """Return spellings of the completed text that end at one of the remaining points."""
        mol = parse(way.text + completion) if way.state else None
        return [] if mol is None else Opened(mol, way.state).spellings(seed, n)

    def problem(self, _way: Way, text: str) -> str | None:
        """Return a message unless the text is the scaffold with one decoration at each point."""
        mol = parse(text)
        if mol is None or self._decorated.bonds(mol):
            return None
        return "fixed part: not the scaffold with one decoration at each attachment point"


class Pair:
    """Two fragments to link: a model continues from one, and the other is added to the molecule.

    Args:
        fragments: Two SMILES with one ``*`` each.
        key: The pair's key in a config.

    Raises:
        InputError: A fragment is invalid or does not have exactly one attachment point.
    """

    rounds, one_bond = 1, True

    def __init__(self, fragments: Sequence[str], key: str = "") -> None:
        self.name, self.key = "|".join(fragments), key
        self._decorated = [DecoratedScaffold(smiles, what="fragment") for smiles in fragments]
        for smiles, decorated in zip(fragments, self._decorated, strict=True):
            if decorated.n_points != 1:
                raise InputError(
                    f"fragment {smiles!r} has {decorated.n_points} attachment points; a fragment "
                    "that is linked has one *"
                )
        self.opened = [Opened(smiles) for smiles in fragments]
        self._endings = [opened.ending() for opened in self.opened]

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return up to n spellings of a random fragment; `state` has its index."""
        first = seed % 2
        return [way._replace(state=(first,)) for way in self.opened[first].spellings(seed, n)]

    def go_on(self, way: Way, completion: str, seed: int, n: int) -> Sequence[Way]:
        """Return up to n molecules with the other fragment added at a random place.

        After an atom of the main chain the fragment ends the molecule and replaces the rest of the
        completion; inside a ring or a branch it becomes a branch.
        """
        ending = self._endings[1 - way.state[0]]
        places = Walk(completion).places
        ways: list[Way] = []
        for i in np.random.default_rng(seed).permutation(len(places)):
            place = places[i]
            prefix, rest = way.text + completion[: place.stop], completion[place.stop :]
            bond = "-" if place.is_aromatic and _is_aromatic(ending) else ""
            new = bond + ending if place.is_main else f"({bond}{_renumbered(ending, place.rings)})"
            text = prefix + new + ("" if place.is_main else rest)
            mol = parse(text)
            if mol is not None and self._is_linked(mol):
                compared = None if place.is_main else new
                ways.append(Way(text, way.state, prefix, compared, finished=True))
            if len(ways) == n:
                break
        return ways

    def problem(self, _way: Way, text: str) -> str | None:
        """Return a message unless the text is both fragments with one linker between them."""
        mol = parse(text)
        if mol is None or self._is_linked(mol):
            return None
        return "fixed part: not the two fragments with one linker between them"

    def _is_linked(self, mol: Chem.Mol) -> bool:
        sizes = [opened.mol.GetNumAtoms() for opened in self.opened]
        firsts, seconds = (decorated.bonds(mol) for decorated in self._decorated)
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
    """A molecule whose analogues keep the beginning of one of its random SMILES.

    With mutants, the SMILES may also be one of a fixed set of mutated neighbours.

    Args:
        smiles: SMILES of the molecule.
        key: The molecule's key in a config.
        keep: Least and largest share of the SMILES to keep, 0 to 1.
        mutants: Number of neighbours; fewer are used if fewer are found.

    Raises:
        InputError: The SMILES is invalid; or mutants are set and mol_ga is not installed.
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
        molecule = read_molecule(smiles)
        if molecule.mol is None:
            raise InputError(f"molecule {smiles!r}: {molecule.reason}")
        if any(atom.GetAtomicNum() == 0 for atom in molecule.mol.GetAtoms()):
            raise InputError(
                f"molecule {smiles!r} has an attachment point; use generator: {{kind: decorate}}"
            )
        texts = [molecule.canonical_smiles or ""]
        if mutants:
            neighbours = propose(texts, mutants, np.random.default_rng(0), shares={"neighbour": 1})
            texts += [neighbour.smiles for neighbour in neighbours]
        self._mols = [molecule.mol, *map(as_mol, texts[1:])]
        self._n_tokens = [len(SMILES_TOKEN.findall(text)) for text in texts]

    def begin(self, seed: int, n: int) -> Sequence[Way]:
        """Return the beginnings of n random spellings, with one random length in tokens."""
        rng = np.random.default_rng(seed)
        share = rng.uniform(*self._keep)
        which = int(rng.integers(len(self._mols))) if len(self._mols) > 1 else 0
        mol, n_kept = self._mols[which], max(1, round(share * self._n_tokens[which]))
        ways = []
        for _ in range(n):
            order = rng.permutation(mol.GetNumAtoms()).tolist()
            text, _atoms = _write(mol, order, 0)
            tokens = list(SMILES_TOKEN.finditer(text))
            ways.append(Way(text[: tokens[min(n_kept, len(tokens)) - 1].end()]))
        return ways

    def go_on(self, _way: Way, _completion: str, _seed: int, _n: int) -> Sequence[Way]:
        """Return nothing: there is only one round."""
        return []

    def problem(self, way: Way, text: str) -> str | None:
        """Return a message unless the text holds the atoms and bonds of the beginning."""
        mol = parse(text)
        if mol is None or mol.HasSubstructMatch(_pattern(Walk(way.text))):
            return None
        return "fixed part: not the atoms and bonds that were kept of the molecule"


# ---- writing


class Opened:
    """A molecule with hydrogens in place of its attachment points.

    Args:
        molecule: A SMILES with ``*`` at its points; or a molecule with hydrogens there.
        points: With a molecule, the atoms that have a point; an atom with two points twice.
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
                "on a double bond whose configuration would be lost; leave it unmarked",
            ),
            (
                any(atom.GetBonds()[0].GetBondType() != Chem.BondType.SINGLE for atom in at),
                "that is bound by more than a single bond; write the double bond into the part, "
                "and * after it",
            ),
        )
        InputError.refuse(
            f"{molecule!r} has an attachment point {problem}"
            for applies, problem in problems
            if applies
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
        """Return up to n random SMILES that end at one random point.

        RDKit writes the neighbours of an atom in the order of their numbers, those in its rings
        last. So atoms are numbered by falling distance from the point, with some noise. The first
        atom is likely to be near the point, because from across a ring the point cannot be last.
        """
        rng = np.random.default_rng(seed)
        remaining = list(self.points)
        at = remaining.pop(int(rng.integers(len(remaining))))
        try:
            mol, point = self._with_star(at)
        except MoleculeError:  # the atom has no free valence
            return []
        far_N = Chem.GetDistanceMatrix(mol)[at]
        ways: dict[str, Way] = {}
        for _ in range(TRIES * n):
            key_N = 1.5 * rng.random(point + 1) - far_N
            key_N[point] = np.inf
            order = np.argsort(key_N).tolist()
            nearness_N = rng.gumbel(size=point) - far_N[:point]
            if point > 1:
                nearness_N[at] = -np.inf
            first = int(np.argmax(nearness_N))
            text, atoms = _write(mol, order, order.index(first))
            if text.endswith("*"):
                ways[text] = Way(text[:-1], tuple(sorted(map(atoms.index, remaining))))
            if len(ways) == n:
                break
        return list(ways.values())

    def ending(self) -> str:
        """Return the SMILES that starts at the first point, without its ``*``."""
        mol, point = self._with_star(self.points[0])
        return Chem.MolToSmiles(mol, rootedAtAtom=point)[1:]

    @step("attachment point")
    def _with_star(self, at: int) -> tuple[Chem.Mol, int]:
        """Turn a hydrogen of an atom into ``*``; return the molecule and the index of the ``*``."""
        point = self.mol.GetNumAtoms()
        mol = Chem.AddHs(self.mol, onlyOnAtoms=[at])
        mol.GetAtomWithIdx(point).SetAtomicNum(0)
        return Chem.RemoveHs(mol), point


def _write(mol: Chem.Mol, order: list[int], root: int) -> tuple[str, list[int]]:
    """Write a molecule with renumbered atoms from a root; return the atoms in written order too."""
    numbered = Chem.RenumberAtoms(mol, order)
    text = Chem.MolToSmiles(numbered, canonical=False, rootedAtAtom=root)
    output_order = re.findall(r"\d+", numbered.GetProp("_smilesAtomOutputOrder"))
    return text, [order[int(i)] for i in output_order]


# ---- reading incomplete SMILES


class Place(NamedTuple):
    """A position in a SMILES where a substituent can be bound to an atom."""

    stop: int  # the position after the atom
    is_aromatic: bool
    is_main: bool  # all branches and rings are closed here
    rings: frozenset[str]  # numbers of the open rings


class Walk:
    """The atoms and bonds of a piece of a SMILES, whose beginning or end may be missing.

    Attributes:
        atoms: Tokens of the atoms.
        bonds: Pairs of bound atoms; ring bonds once the ring is closed.
        places: Places after each atom with its ring numbers, and after its branches.
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
                opener = rings.pop(token.group(), None)
                if opener is None:
                    rings[token.group()] = last
                elif min(opener, last) >= 0:
                    self.bonds.append((opener, last))
            if kind == "ring" and self.places and self.places[-1].stop == token.start():
                self.places.pop()
            if kind not in ("open", "bond") and last >= 0:
                is_main = not branches and not rings
                aromatic = _is_aromatic(self.atoms[last])
                self.places.append(Place(token.end(), aromatic, is_main, frozenset(rings)))


def _renumbered(text: str, rings: frozenset[str]) -> str:
    """Renumber the rings of a SMILES so that they differ from the open rings around it."""
    free = [number for number in map(str, range(1, 10)) if number not in rings]
    new = dict(zip(map(str, range(1, 10)), free, strict=False))
    parts = SMILES_TOKEN.finditer(text)
    return "".join(
        new.get(p.group(), p.group()) if p.lastgroup == "ring" else p.group() for p in parts
    )


def _is_aromatic(text: str) -> bool:
    """Return whether the first atom of a SMILES is aromatic."""
    return text.lstrip("[0123456789")[:1].islower()


def _pattern(walk: Walk) -> Chem.Mol:
    """Build a query of a walk's elements and bonds, whatever the bond orders."""
    pattern = Chem.RWMol()
    for token in walk.atoms:
        number = Chem.AtomFromSmiles(token).GetAtomicNum()
        pattern.AddAtom(Chem.AtomFromSmarts(f"[#{number}]"))
    for begin, end in walk.bonds:
        n_bonds = pattern.AddBond(begin, end, Chem.BondType.SINGLE)
        pattern.ReplaceBond(n_bonds - 1, Chem.BondFromSmarts("~"))
    return pattern.GetMol()
