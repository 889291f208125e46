"""Substructure components: SMARTS patterns, alerts, reactions, decorated scaffolds.

Patterns are compiled when the reward is built, never per molecule.

Reactions are retro-reactions as RDKit reaction SMARTS, with one product on the left and its two
building blocks on the right, for example an amide
``[C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]``. They are applied by reinvent-chemistry 0.0.51
(Fialkova et al., J. Chem. Inf. Model. 62, 2046 (2022)). Behaviour that may surprise:

1. `disconnections` ignores stereochemistry and isotopes, because reinvent-chemistry copies
   molecules through flat SMILES. `reaction_filter` keeps both. (RDKit's reactions match either
   enantiomer in any case.)
2. A disconnection that opens a ring does not count in `disconnections`.
3. Its non-selective filter uses only the last list of reactions; here the lists are joined first.
4. It stores one bond per atom, so a scaffold atom may have at most one attachment point.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field
from rdkit import Chem
from rdkit.Chem import Mol, rdChemReactions
from rdkit.Chem.rdfiltercatalog import FilterCatalog, FilterCatalogParams
from reinvent_chemistry import Conversions
from reinvent_chemistry.library_design.fragment_reactions import FragmentReactions
from reinvent_chemistry.library_design.reaction_filters import ReactionFiltersEnum
from reinvent_chemistry.library_design.reaction_filters.reaction_filter import ReactionFilter
from reinvent_chemistry.library_design.reaction_filters.reaction_filter_configruation import (
    ReactionFilterConfiguration,
)

from chemkl.chem.molecules import one_line, silenced
from chemkl.chem.scaffolds import DecoratedScaffold
from chemkl.config import InputError
from chemkl.rewards.registry import MANY, OneOrMore, Score, component, refuse

MOST_MATCHES = 100_000
"""Limit on the matches of a pattern in a molecule (RDKit's default is 1,000)."""

Smarts = Annotated[OneOrMore, Field(description="SMARTS patterns")]
Chirality = Annotated[
    bool, Field(description="use the stereo marks of a pattern; otherwise both enantiomers match")
]
Unique = Annotated[bool, Field(description="count matches of the same atoms in any order once")]


def compile_smarts(smarts: list[str]) -> list[Mol]:
    """Compile SMARTS patterns."""
    with silenced():
        patterns = [Chem.MolFromSmarts(text) if text.isascii() else None for text in smarts]
    refuse(
        [
            f"smarts[{index}] = {text!r} is not a SMARTS pattern"
            for index, (text, pattern) in enumerate(zip(smarts, patterns, strict=True))
            if pattern is None or pattern.GetNumAtoms() == 0
        ]
    )
    return [pattern for pattern in patterns if pattern is not None]


def _counter(
    *, unique: bool, use_chirality: bool, most: int = MOST_MATCHES
) -> Callable[[Mol, Mol], int]:
    """Return a function that counts the matches of a pattern in a molecule, up to `most`."""
    settings = Chem.SubstructMatchParameters()
    settings.uniquify = unique  # type: ignore[assignment] # RDKit's stubs
    settings.useChirality = use_chirality  # type: ignore[assignment] # RDKit's stubs
    settings.maxMatches = most  # type: ignore[assignment] # RDKit's stubs
    return lambda mol, pattern: len(mol.GetSubstructMatches(pattern, settings))


@component("required_smarts", range=(0, 1), source="RDKit substructure search")
def required_smarts(
    smarts: Smarts,
    *,
    combine: Literal["all", "any"] = "all",
    min_matches: Annotated[int, Field(ge=0)] = 1,
    max_matches: Annotated[int | None, Field(ge=0)] = None,
    unique: Unique = True,
    use_chirality: Chirality = False,
) -> Score:
    """1 when the molecule has the required substructures, else 0.

    A molecule costs a few µs per pattern.

    Args:
        smarts: SMARTS patterns
        combine: whether all patterns are required, or any one
        min_matches: least number of matches of a pattern
        max_matches: largest number of matches of a pattern; null: no limit
        unique: count matches of the same atoms once
        use_chirality: use the stereo marks of patterns
    """
    patterns = compile_smarts(smarts)
    if max_matches is not None and max_matches < min_matches:
        raise InputError(
            f"max_matches = {max_matches} is below min_matches = {min_matches}: nothing can pass"
        )
    enough = all if combine == "all" else any
    limit = 1 if (min_matches, max_matches) == (1, None) else MOST_MATCHES
    count = _counter(unique=unique, use_chirality=use_chirality, most=limit)
    most = math.inf if max_matches is None else max_matches
    return lambda mol: float(
        enough(min_matches <= count(mol, pattern) <= most for pattern in patterns)
    )


@component("forbidden_smarts", range=(0, 1), source="RDKit substructure search")
def forbidden_smarts(smarts: Smarts, *, use_chirality: Chirality = False) -> Score:
    """1 when the molecule has none of the forbidden substructures, else 0.

    A molecule costs a few µs per pattern.
    """
    has_any = required_smarts(smarts, combine="any", use_chirality=use_chirality)
    return lambda mol: 1 - has_any(mol)


@component("smarts_count", unit="matches", range=MANY, source="RDKit substructure search")
def smarts_count(
    smarts: Smarts, *, unique: Unique = True, use_chirality: Chirality = False
) -> Score:
    """Number of matches of the patterns in the molecule, added up.

    A molecule costs a few µs per pattern.
    """
    patterns = compile_smarts(smarts)
    count = _counter(unique=unique, use_chirality=use_chirality)
    return lambda mol: float(sum(count(mol, pattern) for pattern in patterns))


# ---- structural alerts

CatalogName = Literal[
    "PAINS", "PAINS_A", "PAINS_B", "PAINS_C", "BRENK", "NIH", "ZINC", "CHEMBL", "CHEMBL_BMS",
    "CHEMBL_Dundee", "CHEMBL_Glaxo", "CHEMBL_Inpharmatica", "CHEMBL_LINT", "CHEMBL_MLSMR",
    "CHEMBL_SureChEMBL", "ALL",
]  # fmt: skip
"""RDKit's names of its catalogs."""

_SINGLE = [name for name in get_args(CatalogName) if name not in ("PAINS", "CHEMBL", "ALL")]

Catalogs = Annotated[
    list[CatalogName],
    Field(
        min_length=1,
        description="PAINS (480 alerts; PAINS_A, _B, _C), BRENK (105), NIH (180), ZINC (50), "
        "CHEMBL (770 of seven companies and institutes; each alone as CHEMBL_<name>), ALL",
    ),
]

_ALERTS_SOURCE = (
    "RDKit FilterCatalog: PAINS, Baell and Holloway, J. Med. Chem. 53, 2719 (2010); BRENK, Brenk "
    "et al., ChemMedChem 3, 435 (2008); NIH, Jadhav et al., J. Med. Chem. 53, 37 (2010) and "
    "Doveston et al., Org. Biomol. Chem. 13, 859 (2015); ZINC; CHEMBL, the sets of ChEMBL 23"
)


def _catalog(names: Sequence[str]) -> FilterCatalog:
    """Join catalogs, each part once even if it is named several times."""
    parameters = FilterCatalogParams()
    for part in _SINGLE:
        if any(name in ("ALL", part) or part.startswith(f"{name}_") for name in names):
            parameters.AddCatalog(FilterCatalogParams.FilterCatalogs.names[part])
    return FilterCatalog(parameters)


@component("alert_count", unit="alerts", range=MANY, source=_ALERTS_SOURCE)
def alert_count(catalogs: Catalogs) -> Score:
    """Number of structural alerts in the molecule; high values are bad.

    An alert counts once even if its pattern occurs several times. A pattern that is in several
    catalogs counts once for each. A molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up to 1 ms
    with any other.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(len(catalog.GetMatches(mol)))


@component("no_alerts", range=(0, 1), source=_ALERTS_SOURCE)
def no_alerts(catalogs: Catalogs) -> Score:
    """1 when the molecule has no structural alert of these catalogs, else 0.

    Intended as a filter. A clean molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up to 1 ms with
    any other; the search ends at the first alert.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(not catalog.HasMatch(mol))


# ---- reactions and decorated scaffolds

BOND = "bondNum"  # the atom property in which reinvent-chemistry numbers the ends of a bond

ORIGIN = "react_atom_idx"
"""The atom property in which RDKit stores an atom's index before the reaction."""

Scaffold = Annotated[
    str, Field(description="SMILES with * (or [*:0], [*:1], ...) at its attachment points")
]

_LIBINVENT = "Fialkova et al., J. Chem. Inf. Model. 62, 2046 (2022); reinvent-chemistry 0.0.51"


def check_reactions(smarts: Sequence[str], place: str = "reactions") -> list[str]:
    """Return a line for each retro-reaction that cannot be used."""
    problems = []
    for index, text in enumerate(smarts):
        problem = "is not a reaction SMARTS: not ASCII"
        try:
            with silenced():
                reaction = rdChemReactions.ReactionFromSmarts(text) if text.isascii() else None
        except (ValueError, RuntimeError) as error:
            reaction, problem = None, f"is not a reaction SMARTS: {one_line(error)}"
        if reaction is not None:
            n_left, n_right = reaction.GetNumReactantTemplates(), reaction.GetNumProductTemplates()
            problem = ""
            if (n_left, n_right) != (1, 2):
                problem = (
                    f"is not a disconnection: it has {n_left} and {n_right} molecules left and "
                    "right of >>; write 1 and 2 (the product, then its two building blocks)"
                )
            elif reaction.Validate(True)[1]:
                problem = "is not a valid reaction: its atom maps do not match"
        if problem:
            problems.append(f"{place}[{index}] = {text!r} {problem}")
    return problems


@component("decorated_scaffold", range=(0, 1), source=_LIBINVENT)
def decorated_scaffold(scaffold: Scaffold) -> Score:
    """1 when the molecule is the scaffold, decorated at its attachment points and nowhere else.

    Every attachment point needs its own decoration of one heavy atom or more, with no second bond
    to the scaffold or to another decoration. A molecule costs 20 µs.
    """
    decorated = DecoratedScaffold(scaffold)
    return lambda mol: float(bool(decorated.bonds(mol)))


@component("reaction_filter", range=(0, 1), source=_LIBINVENT)
def reaction_filter(
    scaffold: Scaffold,
    reactions: Annotated[list[OneOrMore | list[str]], Field(min_length=1)],
    *,
    mode: Literal["selective", "non_selective"] = "selective",
) -> Score:
    """Whether reactions can form the bonds between the scaffold and its decorations.

    LibINVENT's filter for molecules of any origin: those that are not the decorated scaffold (see
    decorated_scaffold) score 0. For the others, p is the share of attachment points whose bond one
    of the reactions forms; the score is 0.5 + p / 2 in mode selective and p in mode non_selective.
    If the scaffold matches in several ways, the best counts. A molecule with the scaffold costs
    0.1 ms per reaction, any other 20 µs.

    Args:
        scaffold: SMILES with its attachment points
        reactions: lists of retro-reactions; selective: one list for each attachment point in the
            order of their numbers, where an empty list allows any bond
        mode: whether each attachment point has its own list, or all lists apply to all points
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
        problems.append("reactions: no reaction; mode non_selective needs at least one")
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
            marked = Chem.Mol(mol)  # LibINVENT marks the ends of bonds to decorations
            for number, ends in enumerate(bonds):
                for atom in ends:
                    marked.GetAtomWithIdx(atom).SetIntProp(BOND, number)
            best = max(best, float(evaluate(marked)))
        return best

    return score


@component("disconnections", unit="bonds", range=MANY, source=_LIBINVENT)
def disconnections(reactions: Annotated[OneOrMore, Field(description="retro-reactions")]) -> Score:
    """Number of bonds that one of the reactions can form and that connect two parts.

    A molecule costs 0.2 ms, and 0.5 ms for each matching reaction.
    """
    refuse(check_reactions(reactions))
    chemistry, conversions = FragmentReactions(), Conversions()
    with silenced():
        compiled = chemistry.create_reactions_from_smirks(reactions)

    def bonds_between(mol: Mol, blocks: Sequence[Mol]) -> frozenset[int]:
        """Return the bonds of the product between its two building blocks."""
        side = {
            atom.GetIntProp(ORIGIN): index
            for index, block in enumerate(blocks)
            for atom in block.GetAtoms()
            if atom.HasProp(ORIGIN)
        }
        return frozenset(
            bond.GetIdx()
            for bond in mol.GetBonds()
            if {side.get(bond.GetBeginAtomIdx()), side.get(bond.GetEndAtomIdx())} == {0, 1}
        )

    def score(mol: Mol) -> float:
        flat = conversions.copy_mol(mol)  # apply_reactions_on_molecule uses this copy
        matching = [
            reaction
            for reaction in compiled
            if flat.HasSubstructMatch(reaction.chemical_reaction.GetReactantTemplate(0))
        ]
        cuts = {
            bonds_between(outcome.targeted_molecule, blocks)
            for outcome in chemistry.apply_reactions_on_molecule(flat, matching)
            for blocks in outcome.reaction_outcomes
        }
        return float(len(cuts - {frozenset()}))

    return score
