"""Components that predict absorption, distribution, metabolism, excretion and toxicity."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rdkit.Chem import Mol

from chemkl.config import InputError, did_you_mean
from chemkl.rewards.admet import ENDPOINTS, load_ensemble
from chemkl.rewards.registry import BatchScore, component


def _listed(kind: str) -> str:
    of_kind = ((name, each.unit) for name, each in ENDPOINTS.items() if each.kind == kind)
    return ", ".join(f"{name} ({unit})" if unit else name for name, unit in of_kind)


@component(
    "admet",
    unit="of the endpoint",
    range=(-math.inf, math.inf),
    source=(
        "ADMET-AI 2.0.1: Swanson et al., Bioinformatics 40, btae416 (2024); networks of chemprop: "
        "Heid et al., J. Chem. Inf. Model. 64, 9 (2024); data: TDC"
    ),
    batched=True,
    costly=True,
)
def admet(
    endpoint: Annotated[
        str,
        Field(
            description=f"What to predict. Probabilities: {_listed('classification')}. "
            f"Values: {_listed('regression')}."
        ),
    ],
    *,
    cache: Annotated[
        Path, Field(description="Folder for the wheel that the models come from.")
    ] = Path("~/.cache/chemkl"),
) -> BatchScore:
    """A property that ADMET-AI predicts: a probability between 0 and 1, or a value with a unit.

    A probability is that of the thing named: hERG blocking, mutagenicity in the Ames test, being a
    substrate or an inhibitor of an enzyme, crossing the blood-brain barrier; so for toxicity and
    inhibition low is good. The mean of five networks, computed in NumPy from the weights in the
    wheel admet-ai (14 MB, MIT), which pip fetches at the first molecule; it is not installed, and
    nothing in it is run.

    Cost: 2 ms of one core for a molecule; further probabilities, or values, of the same molecule
    cost next to nothing.
    """
    if endpoint not in ENDPOINTS:
        raise InputError(
            f"endpoint: unknown endpoint {endpoint!r}{did_you_mean(endpoint, ENDPOINTS)}"
        )
    kind = ENDPOINTS[endpoint].kind

    def score(mols: Sequence[Mol]) -> list[float]:
        # here, not above: checking a config must not download anything
        ensemble = load_ensemble(kind, cache)
        column = ensemble.endpoints.index(endpoint)
        return [float(ensemble.predict(mol)[column]) for mol in mols]

    return score
