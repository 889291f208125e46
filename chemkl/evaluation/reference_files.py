"""What runs are compared with, out of files: a corpus, reference sets, a sample of the prior."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, did_you_mean
from chemkl.config.evaluate import (
    Corpus,
    EvaluateConfig,
    MosesReference,
    ReferenceSource,
    StatisticsReference,
)
from chemkl.corpus.reading import Line, read_table
from chemkl.evaluation import reference
from chemkl.evaluation.chemnet import ChemNet
from chemkl.evaluation.metrics import Comparisons
from chemkl.evaluation.sample_files import read_scored_samples
from chemkl.evaluation.samples import Samples
from chemkl.evaluation.statistics_file import read_statistics
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
    return read_scored_samples("prior", settings.prior, settings.metrics.workers)


def _corpus(corpus: Corpus) -> Iterable[str]:
    lines: Iterable[Line] = read_table(corpus.path, corpus.column)
    if corpus.split is not None:
        splits = _splits(corpus.path)
        if not splits:
            raise InputError(
                f"corpus: {corpus.path} has no splits; only the corpus.parquet of the prepare "
                f"stage does. Leave out split: {corpus.split}."
            )
        if corpus.split not in splits:
            raise InputError(
                f"corpus: {corpus.path} has no split {corpus.split!r}"
                f"{did_you_mean(corpus.split, set(splits))}"
            )
        pairs = zip(lines, splits, strict=True)
        lines = (line for line, split in pairs if split == corpus.split)
    texts = (line.smiles for line in lines if line.smiles)
    if corpus.canonical:
        return texts
    return (text for text in map(canonicalise, texts) if text is not None)


def _splits(path: Path) -> list[str]:
    """The split of every row of a prepared corpus; empty where the file has no such column."""
    if path.suffix != ".parquet" or SPLIT not in pq.read_schema(path).names:
        return []
    return [str(split) for split in pq.read_table(path, columns=[SPLIT])[SPLIT].to_pylist()]


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
    lines = read_table(source.path, source.column)
    return reference.from_smiles(name, (line.smiles for line in lines if line.smiles), chemnet)
