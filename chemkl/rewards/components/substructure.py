"""Components that look for substructures, given as SMARTS."""

from typing import Literal

from rdkit import Chem

from chemkl.chem.molecules import silenced
from chemkl.config import InputError
from chemkl.rewards.parameters import OneOrMore
from chemkl.rewards.registry import Score, component


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


@component("required_smarts", range=(0, 1), source="RDKit substructure search")
def required_smarts(smarts: OneOrMore, *, combine: Literal["all", "any"] = "all") -> Score:
    """1 when the molecule has the wanted substructures, else 0.

    Args:
        smarts: The patterns.
        combine: Whether all of them must be there, or any one.
    """
    patterns = compile_smarts(smarts)
    enough = all if combine == "all" else any
    return lambda mol: float(enough(mol.HasSubstructMatch(pattern) for pattern in patterns))


@component("forbidden_smarts", range=(0, 1), source="RDKit substructure search")
def forbidden_smarts(smarts: OneOrMore) -> Score:
    """1 when the molecule has none of the unwanted substructures, else 0.

    Args:
        smarts: The patterns.
    """
    patterns = compile_smarts(smarts)
    return lambda mol: float(not any(mol.HasSubstructMatch(pattern) for pattern in patterns))
