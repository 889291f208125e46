"""Properties of molecules as tags in front of their SMILES: which prompt each molecule answers."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from chemkl.chem.molecules import parse, silenced
from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.pretrain_llm import ConditionConfig
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.registry import find_component, placed

UNKNOWN = -1
"""The prompt of a molecule that a property could not be computed of."""
AT_A_TIME = 1_000
"""Molecules in memory at a time."""


class Conditions:
    """Conditions, ready to be computed.

    Args:
        configs: at least one.

    Raises:
        InputError: with every problem of the components.
    """

    def __init__(self, configs: Sequence[ConditionConfig]) -> None:
        self.configs = tuple(configs)
        self.tags = [tag for each in configs for tag in each.tags]
        self.prompts = [" ".join(tags) for tags in product(*(each.tags for each in configs))]
        """Every combination of tags, one of each condition, the last one changing fastest."""
        self._values = [_values_of(each) for each in _built(configs)]

    def prompts_of(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the number of each molecule's prompt; UNKNOWN where there is none.

        What is no molecule, and what a component fails on, has no prompt.
        """
        number = np.full(len(smiles), UNKNOWN)
        for start in range(0, len(smiles), AT_A_TIME):
            number[start : start + AT_A_TIME] = self._numbers(smiles[start : start + AT_A_TIME])
        return number

    def without(self, number: np.ndarray) -> list[str]:
        """Say which levels no molecule has; a line for each.

        Args:
            number: what `prompts_of` gave.
        """
        shape = [len(each.names) for each in self.configs]
        levels = np.unravel_index(number[number != UNKNOWN], shape)
        return [
            f"conditions.{place}: no molecule is {tag} ({condition.band(level)})"
            for place, (condition, found) in enumerate(zip(self.configs, levels, strict=True))
            for level, tag in enumerate(condition.tags)
            if level not in found
        ]

    def _numbers(self, smiles: Sequence[str]) -> np.ndarray:
        mols = [parse(each) for each in smiles]
        known = [i for i, mol in enumerate(mols) if mol is not None]
        number = np.full(len(smiles), UNKNOWN)
        number[known] = 0
        with silenced():
            for condition, values_of in zip(self.configs, self._values, strict=True):
                values = values_of([mols[i] for i in known])
                for i, value in zip(known, values, strict=True):
                    if math.isnan(value) or number[i] == UNKNOWN:
                        number[i] = UNKNOWN
                    else:
                        number[i] = number[i] * len(condition.names) + condition.level(value)
        return number


def _built(configs: Sequence[ConditionConfig]) -> list[tuple[Any, bool]]:
    """Build the components: each score function, and whether it takes many molecules."""
    problems: list[str] = []
    built: list[tuple[Any, bool]] = []
    document = Document({}, "")
    for place, config in enumerate(configs):
        keys = ("conditions", place)
        try:
            component = find_component(config.kind)
        except InputError as error:
            problems.append(placed(document, (*keys, "kind"), error))
            continue
        try:
            score = component.build(config.parameters, document.at((*keys, "parameters"), {}))
            built.append((score, component.batched))
        except InputError as error:
            problems += str(error).splitlines()
    if problems:
        raise InputError("\n".join(problems))
    return built


def _values_of(built: tuple[Any, bool]) -> Callable[[Sequence[Any]], list[float]]:
    """Make a function of molecules that gives NaN where the component fails."""
    score, batched = built

    def one(mol: Any) -> float:
        try:
            value = float(score(mol))
        except Exception:  # noqa: BLE001 - a component may raise anything for a molecule
            return math.nan
        return value if math.isfinite(value) else math.nan

    def many(mols: Sequence[Any]) -> list[float]:
        answers = score(mols) if mols else []
        return [float(each) if isinstance(each, int | float) else math.nan for each in answers]

    return many if batched else lambda mols: [one(mol) for mol in mols]
