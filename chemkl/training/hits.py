"""What the hits of a batch look like: a flat target over strings may favour long, odd molecules."""

import math

import pandas as pd

from chemkl.chem.molecules import parse
from chemkl.rewards.asking import Term, ask
from chemkl.rewards.registry import Failure, find_component

_SA_SCORE = "sa_score"


def describe_hits(hits: pd.DataFrame) -> dict[str, float]:
    """Return the mean length, size and synthetic accessibility of hits; NaN without hits.

    Args:
        hits: rows with ``canonical_smiles`` (missing for an invalid row, which is a hit where tau
            is 0 or below) and ``n_tokens``.

    Returns:
        n_tokens (tokens), heavy_atoms (atoms), sa_score (1 easy to 10 hard), over distinct
        molecules for the last two; one that RDKit cannot read or score is left out.
    """
    sa_score = Term(_SA_SCORE, 1.0, find_component(_SA_SCORE).build({}), float)
    molecules = hits["canonical_smiles"].dropna().unique()
    mols = [mol for smiles in molecules if (mol := parse(smiles)) is not None]
    return {
        "n_tokens": _mean(hits["n_tokens"].tolist()),
        "heavy_atoms": _mean([mol.GetNumHeavyAtoms() for mol in mols]),
        "sa_score": _mean([s for s in ask(sa_score, mols) if not isinstance(s, Failure)]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
