"""How good and how diverse a run's molecules are: quality, yields, diversity, likeness."""

from chemkl.evaluation.columns import metrics_schema
from chemkl.evaluation.metrics import Comparisons, evaluate
from chemkl.evaluation.samples import Molecule, Samples, from_smiles, from_trace

__all__ = [
    "Comparisons",
    "Molecule",
    "Samples",
    "evaluate",
    "from_smiles",
    "from_trace",
    "metrics_schema",
]
