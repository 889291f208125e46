"""The rows of the table of metrics: how each is computed from the samples of a run."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from chemkl.chem.fingerprints import folded, tanimoto_matrix
from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseConfig
from chemkl.evaluation import diversity, matrix_diversity, modes, quality
from chemkl.evaluation.alarm import collapsed_at_call
from chemkl.evaluation.chemnet import ChemNet
from chemkl.evaluation.columns import UNIQUENESS_AT, YIELDS, metrics_schema, suffix
from chemkl.evaluation.reference import Reference, compare
from chemkl.evaluation.samples import Molecule, Samples, moses_bits, pairs_bits, sample
from chemkl.evaluation.scaffolds import scaffold_diversity
from chemkl.evaluation.structures import n_workers
from chemkl.evaluation.yields import AUC_SIZES, top_aucs, yields
from chemkl.results.collapse import spread

_LATE = ("late_uniqueness", "late_scaffolds", "late_effective_scaffolds", "late_top_share")
_AUC = tuple(f"auc_top_{k}" for k in AUC_SIZES)
_OF_THE_RUN = ("n_sampled", "n_valid", "validity", "uniqueness", *_LATE, "auc_calls", *_AUC)


@dataclass(frozen=True)
class Comparisons:
    """What the molecules are compared with; empty by default.

    Attributes:
        corpus: canonical SMILES that are not novel.
        references: reference sets by name; the first one's columns have plain names.
        chemnet: the network behind FCD.
        prior: a sample of the prior, whose scaffold families the runs may cover.
    """

    corpus: AbstractSet[str] | None = None
    references: Sequence[Reference] = field(default_factory=tuple)
    chemnet: ChemNet | None = None
    prior: Samples | None = None


def evaluate(
    samples: Samples,
    thresholds: Sequence[float],
    options: MetricOptions,
    comparisons: Comparisons | None = None,
) -> list[dict[str, Any]]:
    """Compute all rows of one run: all its molecules first, then its hits at each threshold.

    Returns:
        One mapping from column to value per row; None where a metric is not defined.
    """
    comparisons = comparisons or Comparisons()
    columns = metrics_schema(options, [ref.name for ref in comparisons.references]).names
    sets: list[tuple[float | None, Sequence[Molecule]]] = [(None, samples.molecules)]
    if samples.is_scored:
        sets += [(threshold, samples.hits(threshold)) for threshold in thresholds]
    watched = samples.collapse or CollapseConfig(window=max(2, options.late_samples))
    auc_calls = _auc_calls(samples, options.auc_calls)
    of_the_run = {
        "run": samples.name,
        "n_sampled": samples.n_sampled,
        "n_valid": len(samples.valid),
        "validity": quality.validity(len(samples.valid), samples.n_sampled),
        "uniqueness": quality.uniqueness(samples.valid),
        **late(samples, options.late_samples),
        "collapsed_at_call": collapsed_at_call(samples, watched, watched.window),
        "auc_calls": auc_calls,
        **top_aucs(samples.molecules, calls=auc_calls or 1, every=options.auc_every),
        **{
            f"{UNIQUENESS_AT}{k}": quality.uniqueness(samples.valid, k)
            for k in options.uniqueness_at
        },
    }
    return [
        {
            **dict.fromkeys(columns),
            **of_the_run,
            "threshold": threshold,
            **({} if threshold is None else yields(molecules)),
            **describe(molecules, options, comparisons),
            **_coverage(molecules, threshold, comparisons.prior),
        }
        for threshold, molecules in sets
    ]


def _auc_calls(samples: Samples, most: int) -> int | None:
    """The calls that AUC top-k is over: those the run had, or all of its molecules', or `most`."""
    if not samples.is_scored or not samples.molecules:
        return None
    return min(most, samples.budget or samples.molecules[-1].call)


def _coverage(
    molecules: Sequence[Molecule], threshold: float | None, prior: Samples | None
) -> dict[str, Any]:
    """The families of the prior's sample, or of its hits, and how many the run has as well."""
    if prior is None or not (threshold is None or prior.is_scored):
        return {}
    reachable = prior.molecules if threshold is None else prior.hits(threshold)
    return modes.coverage(reachable, molecules)


def late(samples: Samples, n: int) -> dict[str, Any]:
    """What the last n valid samples look like, repeats included: has the policy collapsed?"""
    window = samples.valid[-n:]
    wanted = set(window)
    scaffold_of = {m.smiles: m.scaffold for m in samples.molecules if m.smiles in wanted}
    return describe_window(window, scaffold_of)


def describe_window(valid: Sequence[str], scaffold_of: Mapping[str, str]) -> dict[str, Any]:
    """The same of any valid samples: repeats, scaffolds, and the share of the largest of them."""
    found = spread(valid, [scaffold_of[smiles] for smiles in valid])
    return {
        "late_uniqueness": found.uniqueness,
        "late_scaffolds": found.outcomes,
        "late_effective_scaffolds": found.effective_outcomes,
        "late_top_share": found.top_share,
    }


def describe(
    molecules: Sequence[Molecule], options: MetricOptions, comparisons: Comparisons
) -> dict[str, Any]:
    """The metrics of one set of distinct molecules: novelty, diversity, likeness to references."""
    chosen = sample(molecules, options.max_molecules, options.seed)
    workers = n_workers(options.workers)
    bits, bits_moses = pairs_bits(chosen), moses_bits(molecules)
    int_div = diversity.int_div_moses(folded(bits), workers=workers)
    values: dict[str, Any] = {
        "n_molecules": len(molecules),
        "n_pairwise": len(chosen),
        "int_div_moses_1": int_div[1],
        "int_div_moses_2": int_div[2],
        "int_div_pairs": diversity.int_div_pairs(bits, workers=workers),
        "circles": diversity.circles(bits_moses, options.circles_distance),
        "sediv": diversity.sphere_exclusion(bits_moses),
        **scaffold_diversity(molecules),
        **_of_the_matrix(sample(molecules, options.max_matrix, options.seed), options),
        "clusters_sphere": diversity.circles(bits, options.cluster_distance),
    }
    if comparisons.corpus is not None:
        values["novelty"] = quality.novelty([m.smiles for m in molecules], comparisons.corpus)
    smiles = [molecule.smiles for molecule in chosen]
    vectors = [molecule.bits_moses for molecule in chosen] if comparisons.references else []
    for number, reference in enumerate(comparisons.references):
        likeness = compare(smiles, vectors, reference, comparisons.chemnet)
        ending = suffix(number, reference.name)
        values |= {f"{name}{ending}": value for name, value in likeness.items()}
    return values


def _of_the_matrix(molecules: Sequence[Molecule], options: MetricOptions) -> dict[str, Any]:
    """The metrics that need the similarities of all pairs at once."""
    similarity = tanimoto_matrix([molecule.bits_pairs for molecule in molecules])
    distance = 1 - similarity
    clusters = matrix_diversity.butina_clusters(distance, options.cluster_distance)
    return {
        "n_matrix": len(molecules),
        "vendi": matrix_diversity.vendi_score(similarity),
        "hamiltonian": matrix_diversity.hamiltonian_diversity(distance),
        "clusters_butina": len(clusters),
    }


def metrics_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table; a column that no row has is null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def nested(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of one run as `metrics.json` holds them.

    Returns:
        The metrics of all molecules, `uniqueness_at` by the number of first valid samples, and
        `thresholds`: the metrics of the hits under each threshold.
    """
    whole, *by_threshold = rows
    at = {k.removeprefix(UNIQUENESS_AT): k for k in whole if k.startswith(UNIQUENESS_AT)}
    dropped = {"run", "threshold", *at.values()}
    own = {k: v for k, v in whole.items() if k not in dropped and k not in YIELDS}
    thresholds = {
        threshold_key(row["threshold"]): {
            k: v for k, v in row.items() if k not in dropped and k not in _OF_THE_RUN
        }
        for row in by_threshold
    }
    uniqueness = {size: whole[key] for size, key in at.items()}
    return {**own, "uniqueness_at": uniqueness, "thresholds": thresholds}


def threshold_key(threshold: float) -> str:
    """How a threshold is written as a key: the shortest text, `0.8`."""
    return f"{threshold:.12g}"


def frame(table: pa.Table) -> pd.DataFrame:
    """The table with nullable integers, so that a call index is never shown as 12.0."""
    types = {pa.int64(): pd.Int64Dtype()}
    result: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return result
