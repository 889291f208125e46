"""Components that look for substructures, given as SMARTS.

Patterns are compiled when the reward is built, never per molecule.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from rdkit import Chem

from chemkl.chem.molecules import silenced
from chemkl.config import InputError
from chemkl.rewards.parameters import OneOrMore
from chemkl.rewards.registry import Score, component

MOST_MATCHES = 100_000
"""The search for one pattern in one molecule ends here (RDKit's own limit is 1,000)."""

Smarts = Annotated[OneOrMore, Field(description="SMARTS patterns")]
Chirality = Annotated[
    bool, Field(description="let the stereo marks of a pattern count; else they match either hand")
]
Unique = Annotated[
    bool, Field(description="matches on the same atoms, in whatever order, are one match")
]


def compile_smarts(smarts: list[str]) -> list[Chem.Mol]:
    """Compile the patterns of a component, once.

    Raises:
        InputError: patterns that RDKit cannot parse; each is named with its place in the list.
    """
    with silenced():
        patterns = [Chem.MolFromSmarts(text) if text.isascii() else None for text in smarts]
    problems = [
        f"smarts[{index}] = {text!r} is not a SMARTS pattern"
        for index, (text, pattern) in enumerate(zip(smarts, patterns, strict=True))
        if pattern is None or pattern.GetNumAtoms() == 0
    ]
    if problems:
        raise InputError("\n".join(problems))
    return [pattern for pattern in patterns if pattern is not None]


def _counter(*, unique: bool, use_chirality: bool) -> Callable[[Chem.Mol, Chem.Mol], int]:
    """Give the function that counts how often a pattern occurs in a molecule."""
    settings = Chem.SubstructMatchParameters()
    settings.uniquify = unique  # type: ignore[assignment] # RDKit's stubs
    settings.useChirality = use_chirality  # type: ignore[assignment] # RDKit's stubs
    settings.maxMatches = MOST_MATCHES  # type: ignore[assignment] # RDKit's stubs
    return lambda mol, pattern: len(mol.GetSubstructMatches(pattern, settings))


@component("required_smarts", range=(0, 1), source="RDKit substructure search")
def required_smarts(
    smarts: Smarts,
    *,
    combine: Annotated[
        Literal["all", "any"], Field(description="whether every pattern must be there, or any one")
    ] = "all",
    min_matches: Annotated[
        int, Field(ge=0, description="a pattern is there when it occurs at least so often")
    ] = 1,
    max_matches: Annotated[
        int | None, Field(ge=0, description="and at most so often; null: no limit")
    ] = None,
    unique: Unique = True,
    use_chirality: Chirality = False,
) -> Score:
    """1 when the molecule has the wanted substructures, else 0.

    A molecule costs a few µs a pattern.

    Raises:
        InputError: an unparsable pattern, or limits that no number can meet.
    """
    patterns = compile_smarts(smarts)
    if max_matches is not None and max_matches < min_matches:
        raise InputError(
            f"max_matches = {max_matches} is below min_matches = {min_matches}: nothing can pass"
        )
    enough = all if combine == "all" else any
    if (min_matches, max_matches) == (1, None):  # the first match settles it
        return lambda mol: float(
            enough(mol.HasSubstructMatch(each, useChirality=use_chirality) for each in patterns)
        )
    count = _counter(unique=unique, use_chirality=use_chirality)
    most = math.inf if max_matches is None else max_matches
    return lambda mol: float(enough(min_matches <= count(mol, each) <= most for each in patterns))


@component("forbidden_smarts", range=(0, 1), source="RDKit substructure search")
def forbidden_smarts(smarts: Smarts, *, use_chirality: Chirality = False) -> Score:
    """1 when the molecule has none of the unwanted substructures, else 0.

    A molecule costs a few µs a pattern.

    Raises:
        InputError: an unparsable pattern.
    """
    patterns = compile_smarts(smarts)
    return lambda mol: float(
        not any(mol.HasSubstructMatch(each, useChirality=use_chirality) for each in patterns)
    )


@component("smarts_count", unit="matches", range=(0, math.inf), source="RDKit substructure search")
def smarts_count(
    smarts: Smarts, *, unique: Unique = True, use_chirality: Chirality = False
) -> Score:
    """How often the substructures occur in the molecule, added up over the patterns.

    A molecule costs a few µs a pattern.

    Raises:
        InputError: an unparsable pattern.
    """
    patterns = compile_smarts(smarts)
    count = _counter(unique=unique, use_chirality=use_chirality)
    return lambda mol: float(sum(count(mol, each) for each in patterns))
