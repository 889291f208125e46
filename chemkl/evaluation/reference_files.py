"""What runs are compared with, out of files: a corpus, reference sets, a sample of the prior."""

from collections.abc import Iterable

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, did_you_mean
from chemkl.config.evaluate import (
    Corpus,
    EvaluateConfig,
    MosesReference,
    ReferenceSource,
    StatisticsReference,
)
from chemkl.evaluation import reference
from chemkl.evaluation.chemnet import ChemNet
from chemkl.evaluation.metrics import Comparisons
from chemkl.evaluation.sample_files import read_samples
from chemkl.evaluation.samples import Samples
from chemkl.evaluation.statistics_file import read_statistics
from chemkl.files.molecules import Line, MoleculeFile, read_molecules
from chemkl.results.wheels import MOLSETS, fetch_wheel, open_member

SPLIT = "split"
_MEMBERS = {
    "moses_test": "moses/dataset/data/test_stats.npz",
    "moses_test_scaffolds": "moses/dataset/data/test_scaffolds_stats.npz",
}


def load_comparisons(settings: EvaluateConfig) -> Comparisons:
    """Read what the settings name: the corpus, the reference sets, the sample of the prior.

    Raises:
        InputError: a file cannot be used; the message names it.
    """
    chemnet = ChemNet() if settings.fcd else None
    return Comparisons(
        corpus=frozenset(_corpus(settings.corpus)) if settings.corpus else None,
        references=[
            _reference(name, source, chemnet) for name, source in settings.reference.items()
        ],
        chemnet=chemnet,
        prior=_prior(settings),
    )


def _prior(settings: EvaluateConfig) -> Samples | None:
    if settings.prior is None:
        return None
    return read_samples("prior", settings.prior, settings.metrics.workers)


def _corpus(corpus: Corpus) -> Iterable[str]:
    known = MoleculeFile(corpus.path, corpus.column).columns
    if corpus.split is not None and SPLIT not in known:
        raise InputError(
            f"corpus: {corpus.path} has no splits; only the corpus.parquet of the prepare stage "
            f"does. Leave out split: {corpus.split}."
        )
    lines: Iterable[Line] = MoleculeFile(
        corpus.path, corpus.column, [] if corpus.split is None else [SPLIT]
    )
    if corpus.split is not None:
        lines = list(lines)
        splits = {str(line.values[SPLIT]) for line in lines}
        if corpus.split not in splits:
            raise InputError(
                f"corpus: {corpus.path} has no split {corpus.split!r}"
                f"{did_you_mean(corpus.split, splits)}"
            )
        lines = [line for line in lines if line.values[SPLIT] == corpus.split]
    texts = (line.smiles for line in lines if line.smiles)
    if corpus.canonical:
        return texts
    return (text for text in map(canonicalise, texts) if text is not None)


def _reference(name: str, source: ReferenceSource, chemnet: ChemNet | None) -> reference.Reference:
    if isinstance(source, MosesReference):
        wheel = fetch_wheel(MOLSETS, source.cache)
        member = _MEMBERS[source.kind]
        with open_member(wheel, member) as stream:
            statistics = read_statistics(stream, f"{wheel.name}:{member}")
        return reference.from_statistics(name, statistics)
    if isinstance(source, StatisticsReference):
        statistics = read_statistics(source.path, str(source.path))
        return reference.from_statistics(name, statistics)
    lines = read_molecules(source.path, source.column)
    return reference.from_smiles(name, (line.smiles for line in lines if line.smiles), chemnet)
