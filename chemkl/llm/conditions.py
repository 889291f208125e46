"""Properties of molecules as tags in front of their SMILES: which prompt each molecule answers."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from chemkl.chem.molecules import read_molecule, silenced
from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.pretrain import ConditionConfig
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.asking import Term, ask
from chemkl.rewards.registry import Failure, find_component, placed

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
        self._terms = _built(configs)

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
        parsed = {i: read_molecule(each).mol for i, each in enumerate(smiles)}
        mols = {i: mol for i, mol in parsed.items() if mol is not None}
        number = np.full(len(smiles), UNKNOWN)
        number[[*mols]] = 0
        with silenced():
            for condition, term in zip(self.configs, self._terms, strict=True):
                for i, value in zip(mols, ask(term, [*mols.values()]), strict=True):
                    if isinstance(value, Failure) or number[i] == UNKNOWN:
                        number[i] = UNKNOWN
                    else:
                        number[i] = number[i] * len(condition.names) + condition.level(value)
        return number


def _built(configs: Sequence[ConditionConfig]) -> list[Term]:
    """Build the components, to be asked as those of a reward are; only raw values are wanted."""
    problems: list[str] = []
    built: list[Term] = []
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
            built.append(Term(config.kind, 1.0, score, float, batched=component.batched))
        except InputError as error:
            problems += str(error).splitlines()
    if problems:
        raise InputError("\n".join(problems))
    return built
