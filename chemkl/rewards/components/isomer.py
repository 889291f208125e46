"""Components that compare a molecule's formula with a wanted one."""

import math
from typing import Annotated, Literal

from pydantic import Field
from rdkit.Chem import Mol

from chemkl.chem.molecules import element_counts, parse_formula
from chemkl.rewards.registry import Score, component

ELEMENT_WIDTH = 1.0
TOTAL_WIDTH = 2.0
"""Standard deviations of GuacaMol's Gaussians, in atoms: for one element, and for all together."""

Formula = Annotated[str, Field(description="Molecular formula with hydrogens, e.g. C7H8N2O2.")]


@component(
    "isomer_score",
    range=(0, 1),
    source="Brown et al., J. Chem. Inf. Model. 59, 1096 (2019), GuacaMol's isomer score",
)
def isomer_score(
    formula: Formula,
    *,
    mean: Annotated[
        Literal["geometric", "arithmetic"],
        Field(description="How the parts are joined; GuacaMol's tasks use the geometric mean."),
    ] = "geometric",
) -> Score:
    """Closeness to a molecular formula; 1 for its isomers.

    The mean of exp(-((n - wanted) / width)^2 / 2) over the elements of the formula (width 1 atom)
    and over the number of all atoms, hydrogens included (width 2). An element that the formula
    lacks counts in the number of all atoms only, as in GuacaMol.
    """
    wanted = parse_formula(formula)
    total = wanted.total()

    def score(mol: Mol) -> float:
        counts = element_counts(mol)
        halves = [
            ((counts[element] - number) / ELEMENT_WIDTH) ** 2 / 2
            for element, number in wanted.items()
        ]
        halves.append(((counts.total() - total) / TOTAL_WIDTH) ** 2 / 2)
        if mean == "geometric":
            return math.exp(-sum(halves) / len(halves))
        return sum(math.exp(-half) for half in halves) / len(halves)

    return score


@component("formula_match", range=(0, 1), source="RDKit atoms and hydrogens")
def formula_match(formula: Formula) -> Score:
    """1 when the molecule has exactly this molecular formula, else 0; charge is not looked at."""
    wanted = parse_formula(formula)
    return lambda mol: float(element_counts(mol) == wanted)
