"""Components that predict activity on a protein, by published classifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rdkit.Chem import Mol

from chemkl.rewards.classifiers import load_classifier
from chemkl.rewards.registry import BatchScore, component


@component(
    "activity",
    range=(0, 1),
    source=(
        "DRD2: Olivecrona et al., J. Cheminform. 9, 48 (2017); GSK3B, JNK3: Li et al., "
        "J. Cheminform. 10, 33 (2018); the files of PyTDC, read from the molscore wheel"
    ),
    batched=True,
)
def activity(
    target: Annotated[
        Literal["drd2", "gsk3b", "jnk3"],
        Field(
            description="Protein: dopamine receptor D2, glycogen synthase kinase 3 beta, or c-Jun "
            "N-terminal kinase 3."
        ),
    ],
    *,
    cache: Annotated[
        Path, Field(description="Folder for the classifiers and the wheel that they come from.")
    ] = Path("~/.cache/chemkl"),
) -> BatchScore:
    """Probability of being active on a protein, from 0 to 1; high means active.

    DRD2 is a support vector machine with Platt's probabilities. They are computed exactly;
    scikit-learn joins two classes by an iteration that stops early, and is off by up to .005, most
    near one half (haloperidol .99954 here, .9999994 there). GSK3B and JNK3 are random forests of
    100 trees.

    Args:
        target: The protein.
        cache: Where the classifier is kept; made there from the molscore wheel when it is not.
    """

    def score(mols: Sequence[Mol]) -> list[float]:
        # here, not above: checking a config must not download 70 MB
        probabilities: list[float] = load_classifier(target, cache).probability(mols).tolist()
        return probabilities

    return score
