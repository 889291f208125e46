"""Components about how a molecule is made: bonds that reactions form, a scaffold and decorations.

The reactions are RDKit reaction SMARTS read backwards, one product on the left and its two
building blocks on the right, for example an amide
``[C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]``. They are applied by reinvent-chemistry 0.0.51
(Fialkova et al., J. Chem. Inf. Model. 62, 2046 (2022)). What it does, so that nobody is surprised:

1. `disconnections` looks at the molecule without stereochemistry and isotopes: reinvent-chemistry
   copies molecules by way of flat SMILES. `reaction_filter` keeps both. (RDKit's reactions match
   either hand in any case.)
2. A disconnection that opens a ring does not count in `disconnections`.
3. Its non-selective filter forgets all lists of reactions but the last; here they are joined first.
4. It keeps one bond for each atom, so a scaffold atom has one attachment point at most.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from rdkit import Chem
from rdkit.Chem import Mol, rdChemReactions
from reinvent_chemistry import Conversions
from reinvent_chemistry.library_design.fragment_reactions import FragmentReactions
from reinvent_chemistry.library_design.reaction_filters import ReactionFiltersEnum
from reinvent_chemistry.library_design.reaction_filters.reaction_filter import ReactionFilter
from reinvent_chemistry.library_design.reaction_filters.reaction_filter_configruation import (
    ReactionFilterConfiguration,
)

from chemkl.chem.molecules import one_line, silenced
from chemkl.chem.scaffolds import DecoratedScaffold
from chemkl.rewards.registry import MANY, OneOrMore, Score, component, refuse

BOND = "bondNum"
"""The atom property by which reinvent-chemistry knows the ends of a bond."""

ORIGIN = "react_atom_idx"
"""The atom property in which RDKit keeps an atom's index before the reaction."""

Scaffold = Annotated[
    str,
    Field(description="SMILES with * (or [*:0], [*:1], ...) at its attachment points"),
]

_SOURCE = "Fialkova et al., J. Chem. Inf. Model. 62, 2046 (2022); reinvent-chemistry 0.0.51"


def check_reactions(smarts: Sequence[str], place: str = "reactions") -> list[str]:
    """Say what is wrong with retro-reactions, one line each; nothing when all can be used."""
    with silenced():
        problems = [_reaction_problem(text) for text in smarts]
    return [
        f"{place}[{index}] = {text!r} {problem}"
        for index, (text, problem) in enumerate(zip(smarts, problems, strict=True))
        if problem
    ]


def _reaction_problem(text: str) -> str | None:
    try:
        reaction = rdChemReactions.ReactionFromSmarts(text) if text.isascii() else None
    except (ValueError, RuntimeError) as error:
        return f"is not a reaction SMARTS: {one_line(error)}"
    if reaction is None:
        return "is not a reaction SMARTS: not ASCII"
    sides = (reaction.GetNumReactantTemplates(), reaction.GetNumProductTemplates())
    if sides != (1, 2):
        return (
            "is not a disconnection: it has {} and {} molecules left and right of >>, needed are "
            "1 and 2 (the product first, then its building blocks)"
        ).format(*sides)
    if reaction.Validate(True)[1]:
        return "is not a valid reaction: its atom maps do not fit together"
    return None


@component("decorated_scaffold", range=(0, 1), source=_SOURCE)
def decorated_scaffold(scaffold: Scaffold) -> Score:
    """1 when the molecule is the scaffold, decorated at its attachment points and nowhere else.

    Every attachment point needs a decoration of its own, of one heavy atom or more; none may be
    tied to the scaffold or another decoration once more. A molecule costs 20 µs.
    """
    decorated = DecoratedScaffold(scaffold)
    return lambda mol: float(bool(decorated.bonds(mol)))


@component("reaction_filter", range=(0, 1), source=_SOURCE)
def reaction_filter(
    scaffold: Scaffold,
    reactions: Annotated[
        list[OneOrMore | list[str]],
        Field(
            min_length=1,
            description="retro-reactions in lists; selective: one list for each attachment point "
            "in the order of their numbers, an empty one allows any bond",
        ),
    ],
    *,
    mode: Annotated[
        Literal["selective", "non_selective"],
        Field(description="whether each attachment point has its own reactions, or all have all"),
    ] = "selective",
) -> Score:
    """Whether the bonds between the scaffold and its decorations are those that reactions make.

    LibINVENT's filter for molecules of any origin: those that are not the decorated scaffold (see
    decorated_scaffold) have 0; the others, with p the share of their attachment points whose bond
    one of the reactions makes, have 0.5 + p / 2 in mode selective and p in mode non_selective.
    Where the scaffold fits in several ways, the best counts. A molecule that fits costs 0.1 ms a
    reaction; any other 20 µs.
    """
    decorated = DecoratedScaffold(scaffold, one_point_an_atom=True)
    problems = [
        problem
        for index, texts in enumerate(reactions)
        for problem in check_reactions(texts, f"reactions[{index}]")
    ]
    if mode == "selective" and len(reactions) != decorated.n_points:
        problems.append(
            f"reactions: {len(reactions)} lists for {decorated.n_points} attachment points; mode "
            "selective needs one for each"
        )
    if mode == "non_selective" and not any(reactions):
        problems.append("reactions: no reaction at all; mode non_selective needs one")
    refuse(problems)
    lists = reactions if mode == "selective" else [[text for texts in reactions for text in texts]]
    kinds = ReactionFiltersEnum()
    kind = kinds.SELECTIVE if mode == "selective" else kinds.NON_SELECTIVE
    with silenced():
        configuration = ReactionFilterConfiguration(type=kind, reactions=lists)
        evaluate = ReactionFilter(configuration).evaluate

    def score(mol: Mol) -> float:
        best = 0.0
        for bonds in decorated.bonds(mol):
            marked = Chem.Mol(mol)  # the ends of its bonds to decorations, as LibINVENT marks them
            for number, ends in enumerate(bonds):
                for atom in ends:
                    marked.GetAtomWithIdx(atom).SetIntProp(BOND, number)
            best = max(best, float(evaluate(marked)))
        return best

    return score


@component("disconnections", unit="bonds", range=MANY, source=_SOURCE)
def disconnections(
    reactions: Annotated[OneOrMore, Field(description="retro-reactions")],
) -> Score:
    """Number of bonds that one of the reactions could have made; cutting one leaves two parts.

    A molecule costs 0.2 ms, and 0.5 ms for each reaction that fits.
    """
    refuse(check_reactions(reactions))
    chemistry, conversions = FragmentReactions(), Conversions()
    with silenced():
        compiled = chemistry.create_reactions_from_smirks(reactions)

    def score(mol: Mol) -> float:
        flat = conversions.copy_mol(mol)  # what apply_reactions_on_molecule looks at
        fitting = [
            reaction
            for reaction in compiled
            if flat.HasSubstructMatch(reaction.chemical_reaction.GetReactantTemplate(0))
        ]
        cuts = {
            _cut(outcome.targeted_molecule, pair)
            for outcome in chemistry.apply_reactions_on_molecule(flat, fitting)
            for pair in outcome.reaction_outcomes
        }
        return float(len(cuts - {frozenset()}))

    return score


def _cut(mol: Mol, pair: Sequence[Mol]) -> frozenset[int]:
    """Find the bonds of the product that run between its two building blocks."""
    side = {
        atom.GetIntProp(ORIGIN): index
        for index, block in enumerate(pair)
        for atom in block.GetAtoms()
        if atom.HasProp(ORIGIN)
    }
    return frozenset(
        bond.GetIdx()
        for bond in mol.GetBonds()
        if {side.get(bond.GetBeginAtomIdx()), side.get(bond.GetEndAtomIdx())} == {0, 1}
    )
