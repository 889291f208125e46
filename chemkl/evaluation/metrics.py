"""The table of metrics: one row defines a metric, its computation and its display.

Parquet columns and their descriptions, `metrics.json`, the tables in the terminal and the report,
the comparison of methods and `chemkl show metrics` all read this table. To add a metric, write a
function of a `MoleculeSet` and one row.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import special

from chemkl.chem.fingerprints import folded, tanimoto_matrix, unpacked
from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseWindow
from chemkl.display import Column, is_missing
from chemkl.evaluation import diversity
from chemkl.evaluation.reference import Comparisons, compare
from chemkl.evaluation.samples import Molecule, Samples, moses_bits, pairs_bits, sample
from chemkl.processes import n_cores
from chemkl.results.columns import columns_of, described_schema
from chemkl.results.outcome import Alarm, spread

Direction = Literal["higher", "lower"]
OB_SIZES = AUC_SIZES = (1, 10, 100)


@dataclass(frozen=True)
class Metric(Column):
    """A metric; `how` is the number format, and a format ending in `d` means whole numbers.

    `meaning` is the exact definition, with placeholders such as `{late_samples}` for the options.
    """

    unit: str = ""
    better: Direction | None = None  # None if that depends on the purpose
    # all: all distinct molecules, and the hits at each threshold; hits: the hits only; run: the
    # whole run; text: texts
    scope: Literal["all", "hits", "run", "text"] = "all"
    # computes the value from a `MoleculeSet`; returns None where it is undefined
    value: Callable[..., Any] = lambda _: None
    tables: Sequence[str] = ()  # tables of the terminal and the report that show it
    short: str | None = None  # label in the terminal; None: same as label; empty: hidden
    brief: str = ""  # explanation in the legend below a table in the terminal
    # what it requires: a corpus, reference or prior to compare with, or the calls of a whole run;
    # for texts the kind of measure; empty: nothing
    needs: str = ""

    @property
    def on_screen(self) -> "Metric":
        """The metric with its label for the terminal."""
        return self if self.short is None else replace(self, label=self.short)

    @property
    def field(self) -> tuple[pa.DataType, str]:
        """Arrow type and description of the column."""
        return pa.int64() if str(self.how).endswith("d") else pa.float64(), self.meaning


@dataclass(frozen=True, eq=False)
class MoleculeSet:
    """The distinct molecules of one row, with cached values that several metrics share.

    These are all molecules of the samples, in the order first scored, or the hits at a threshold.
    """

    samples: Samples
    threshold: float | None
    molecules: Sequence[Molecule]
    options: MetricOptions
    comparisons: Comparisons

    @cached_property
    def chosen(self) -> Sequence[Molecule]:
        """The molecules, or a random sample of them, for metrics over pairs and references."""
        return sample(self.molecules, self.options.max_molecules, self.options.seed)

    @cached_property
    def bits(self) -> np.ndarray:
        """Morgan fingerprints of `chosen`, 2048 bits."""
        return pairs_bits(self.chosen)

    @cached_property
    def bits_moses(self) -> np.ndarray:
        """Morgan fingerprints of all molecules, 1024 bits."""
        return moses_bits(self.molecules)

    @cached_property
    def int_div(self) -> dict[int, float | None]:
        """IntDiv of MOSES by power p."""
        return diversity.int_div_moses(folded(self.bits), workers=self.options.workers or n_cores())

    @cached_property
    def similarity(self) -> np.ndarray:
        """Tanimoto similarity matrix of the molecules, or of a random sample of them."""
        chosen = sample(self.molecules, self.options.max_matrix, self.options.seed)
        return tanimoto_matrix([unpacked(molecule.packed) for molecule in chosen])

    @cached_property
    def scaffold_sizes(self) -> np.ndarray:
        """Molecules per non-empty Bemis-Murcko scaffold, in ascending order."""
        counts = Counter(molecule.scaffold for molecule in self.molecules if molecule.scaffold)
        return np.array(sorted(counts.values()), dtype=float)

    @cached_property
    def scaffold_entropy(self) -> float | None:
        """Entropy of the scaffold sizes, in nats."""
        sizes = self.scaffold_sizes
        return float(special.entr(sizes / sizes.sum()).sum()) if len(sizes) else None

    @cached_property
    def late(self) -> dict[str, Any]:
        """Repeats and scaffolds of the last valid samples, which show whether it collapsed."""
        return window_at(self.samples, len(self.samples.valid), self.options.late_samples)

    @cached_property
    def auc_calls(self) -> int | None:
        """Calls that AUC top-k covers: the run's budget or last call, at most `auc_calls`."""
        samples = self.samples
        if not samples.is_scored or not samples.molecules:
            return None
        return min(self.options.auc_calls, samples.budget or samples.molecules[-1].call)

    @cached_property
    def first_calls(self) -> list[int]:
        """The first call of each scaffold, in ascending order."""
        first: dict[str, int] = {}
        for molecule in self.molecules:
            if molecule.scaffold:
                first.setdefault(molecule.scaffold, molecule.call)
        return sorted(first.values())

    @cached_property
    def prior_families(self) -> set[str] | None:
        """Families of the prior's sample, or of its hits; None without a (scored) sample."""
        prior = self.comparisons.prior
        if prior is None or not (self.threshold is None or prior.is_scored):
            return None
        return families(prior.molecules if self.threshold is None else prior.hits(self.threshold))

    @cached_property
    def likeness(self) -> list[dict[str, float | None]]:
        """FCD, SNN, Scaf and Frag for each reference."""
        smiles = [molecule.smiles for molecule in self.chosen]
        return [
            compare(smiles, folded(self.bits), reference, self.comparisons.chemnet)
            for reference in self.comparisons.references
        ]


# ---- functions of the metrics


def uniqueness(valid: Sequence[str], k: int | None = None) -> float | None:
    """Share of distinct SMILES among the first k valid samples (MOSES, arXiv 1811.12823).

    None with fewer than k valid samples or none at all; without k all samples count.
    """
    k = len(valid) if k is None else k
    return len(set(valid[:k])) / k if valid and len(valid) >= k else None


def oracle_burden(calls: Sequence[int], n: int) -> int | None:
    """OB_N: the n-th call of a hit (or of a hit with a new scaffold); None: fewer than n."""
    return sorted(calls)[n - 1] if len(calls) >= n else None


def top_auc(molecules: Sequence[Molecule], k: int, *, calls: int, every: int) -> float | None:
    """AUC top-k of PMO (arXiv 2206.12411), computed as in `top_auc` of mol_opt.

    The curve is the mean of the k best rewards so far (of all, while there are fewer than k), every
    `every` calls and at the last call, with straight lines between these points and from 0 at call
    0. If the run ended early, the last value holds up to `calls`. The result is the area divided by
    `calls`. A failed reward counts as 0. None without a scored molecule within these calls.
    """
    within = [m for m in molecules if m.call <= calls and m.reward is not None]
    if not within:
        return None
    call = np.array([molecule.call for molecule in within])
    reward = np.nan_to_num(np.array([m.reward for m in within], dtype=float), nan=0.0)
    last = int(call[-1])
    points = [0, *range(every, last, every), last]
    tops, best = [], np.empty(0)
    for start, end in pairwise([0, *np.searchsorted(call, points, side="right").tolist()]):
        best = np.sort(np.concatenate([best, reward[start:end]]))[-k:]
        tops.append(float(best.mean()) if len(best) else 0.0)
    return float((np.trapezoid(tops, points) + (calls - last) * tops[-1]) / calls)


def window_at(samples: Samples, end: int, size: int) -> dict[str, Any]:
    """Compute the late metrics on the `size` valid samples before position `end`."""
    valid = samples.valid[max(end - size, 0) : end]
    window = spread(valid, [samples.molecule_of[smiles].scaffold for smiles in valid])
    return {
        "late_uniqueness": window.uniqueness,
        "late_scaffolds": window.labels,
        "late_effective_scaffolds": window.effective_labels,
        "late_top_share": window.top_share,
    }


def collapsed_at_call(samples: Samples, limits: CollapseWindow) -> int | None:
    """Oracle calls when the newest valid samples first reached a collapse limit; None: never.

    In a file calls count distinct molecules. Nothing is checked before the window is full.
    """
    alarm = Alarm(limits, limits.window)
    call = 0
    for molecule in (samples.molecule_of[smiles] for smiles in samples.valid):
        call = max(call, molecule.call)
        if alarm.add(molecule.smiles, molecule.scaffold):
            return call
    return None


def families(molecules: Sequence[Molecule]) -> set[str]:
    """Return the scaffold families of molecules, that is, their generic scaffolds."""
    return {molecule.generic for molecule in molecules if molecule.generic}


# ---- the table

_SET = "of the set (all distinct valid molecules, or the hits at the threshold)"
_R2_1024 = "Morgan fingerprint, radius 2, 1024 bits, Tanimoto"
_R2_2048 = "Morgan fingerprint, radius 2, 2048 bits, Tanimoto"
_BOTH = ("whole", "hits")

_ROWS = (
    Metric(
        "n_sampled", "sampled", ",d",
        "Strings that the policy sampled, valid or not; replayed and explored rows are left out.",
        "strings", None, "run", lambda s: s.samples.n_sampled, ("whole",),
    ),
    Metric(
        "n_valid", "", ",d", "Sampled strings that RDKit parses, repeats included.",
        "strings", None, "run", lambda s: len(s.samples.valid),
    ),
    Metric(
        "n_molecules", "distinct", ",d",
        f"Distinct canonical SMILES {_SET}, in the order first scored; explored ones among them.",
        "molecules", "higher", "all", lambda s: len(s.molecules), ("whole",),
    ),
    Metric(
        "n_pairwise", "", ",d",
        "Molecules that IntDiv, FCD, SNN, Scaf, Frag and clusters_sphere were computed on: all of "
        "the set, or a random sample of it where the set is larger than max_molecules.",
        "molecules", None, "all", lambda s: len(s.chosen),
    ),
    Metric(
        "n_matrix", "", ",d",
        "Molecules that Vendi, Hamiltonian and Butina were computed on: all of the set, or a "
        "random sample of it where the set is larger than max_matrix.",
        "molecules", None, "all", lambda s: len(s.similarity),
    ),
    Metric(
        "validity", "valid", ".1%", "n_valid / n_sampled.", "share", "higher", "run",
        lambda s: len(s.samples.valid) / s.samples.n_sampled if s.samples.n_sampled else None,
        ("whole",),
    ),
    Metric(
        "uniqueness", "unique", ".1%",
        "Distinct canonical SMILES among the valid samples / n_valid.",
        "share", "higher", "run", lambda s: uniqueness(s.samples.valid), ("whole",),
    ),
    Metric(
        "late_uniqueness", "late unique", ".1%",
        "Distinct canonical SMILES among the last {late_samples} valid samples / their number.",
        "share", "higher", "run", lambda s: s.late["late_uniqueness"], ("late",), "unique",
    ),
    Metric(
        "late_scaffolds", "late scaffolds", ",d",
        "Distinct non-empty Bemis-Murcko scaffolds among the last {late_samples} valid samples.",
        "scaffolds", "higher", "run", lambda s: s.late["late_scaffolds"], ("late",), "scaf.",
    ),
    Metric(
        "late_effective_scaffolds", "late effective", ",.0f",
        "exp of the entropy over the scaffolds of the last {late_samples} valid samples, repeats "
        "included, acyclic ones left out.",
        "scaffolds", "higher", "run", lambda s: s.late["late_effective_scaffolds"],
        ("late",), "eff.",
    ),
    Metric(
        "late_top_share", "late top share", ".1%",
        "Share of the largest scaffold among the last {late_samples} valid samples, repeats "
        "included, acyclic ones left out.",
        "share", "lower", "run", lambda s: s.late["late_top_share"], ("late",), "top",
    ),
    Metric(
        "collapsed_at_call", "collapsed at", ",d",
        "Oracle calls when the run first collapsed: its newest valid samples reached a limit of "
        "its callbacks.collapse (by default half of 1,000 are duplicates, or 30 % share one "
        "scaffold). Null: never, or there were never so many.",
        "oracle calls", None, "run",
        lambda s: collapsed_at_call(
            s.samples, s.samples.collapse or CollapseWindow(window=max(2, s.options.late_samples))
        ),
        ("late",), needs="calls",
    ),
    Metric(
        "novelty", "novel", ".1%",
        f"Share {_SET} that is not in the corpus. Null without a corpus.",
        "share", "higher", "all",
        lambda s: None if s.comparisons.corpus is None or not s.molecules
        else sum(m.smiles not in s.comparisons.corpus for m in s.molecules) / len(s.molecules),
        ("whole",), needs="corpus",
    ),
    Metric(
        "auc_calls", "", ",d",
        "Oracle calls that AUC top-k is over: {auc_calls}, or the run's budget where that is "
        "smaller (without one, all of its calls). Null where nothing is scored.",
        "oracle calls", None, "run", lambda s: s.auc_calls, short="over calls", needs="calls",
    ),
    *(
        Metric(
            f"auc_top_{k}", f"AUC top-{k}", ".3f",
            f"AUC top-{k} of PMO: area under the mean of the {k} best rewards so far, taken every "
            "{auc_every} calls, over auc_calls calls; an early end holds the last value.",
            "reward", "higher", "run",
            lambda s, k=k: top_auc(
                s.samples.molecules, k, calls=s.auc_calls or 1, every=s.options.auc_every
            ),
            ("auc",), f"top-{k}", needs="calls",
        )
        for k in AUC_SIZES
    ),
    Metric(
        "yield", "Yield", ",d",
        "Distinct molecules with R >= threshold. Null where nothing is scored.",
        "molecules", "higher", "hits", lambda s: len(s.molecules), ("hits",),
    ),
    Metric(
        "scaffold_yield", "", ",d", "Distinct non-empty Bemis-Murcko scaffolds among the hits.",
        "scaffolds", "higher", "hits", lambda s: len(s.scaffold_sizes),
    ),
    *(
        Metric(
            f"ob{n}", f"OB{n}", ",d",
            f"Call index (1-based) of hit number {n}. Null: fewer hits.",
            "oracle calls", "lower", "hits",
            lambda s, n=n: oracle_burden([m.call for m in s.molecules], n), ("hits",),
        )
        for n in OB_SIZES
    ),
    *(
        Metric(
            f"ob{n}_scaffolds", "", ",d",
            f"Call index of the hit that brings scaffold number {n}. Null: fewer scaffolds.",
            "oracle calls", "lower", "hits", lambda s, n=n: oracle_burden(s.first_calls, n),
        )
        for n in OB_SIZES
    ),
    Metric(
        "int_div_moses_1", "IntDiv", ".3f",
        f"IntDiv_1 of MOSES: 1 - mean_i mean_j T_ij, j includes i; {_R2_1024}.",
        "distance", "higher", "all", lambda s: s.int_div[1], _BOTH,
        brief="MOSES, p = 1, Morgan r2, 1024 bits",
    ),
    Metric(
        "int_div_moses_2", "", ".3f",
        f"IntDiv_2 of MOSES: 1 - mean_i (mean_j T_ij^2)^(1/2), j includes i; {_R2_1024}.",
        "distance", "higher", "all", lambda s: s.int_div[2],
    ),
    Metric(
        "int_div_pairs", "", ".3f",
        "Mean over pairs i < j of 1 - T_ij; Morgan fingerprint, radius 2, 2048 bits, Tanimoto.",
        "distance", "higher", "all",
        lambda s: diversity.int_div_pairs(s.bits, workers=s.options.workers or n_cores()),
    ),
    Metric(
        "circles", "#Circles", ",d",
        "#Circles: molecules taken by RDKit's LeaderPicker in the order first scored, all "
        f"pairwise distances above {{circles_distance:g}}; {_R2_1024}; the whole set.",
        "molecules", "higher", "all",
        lambda s: len(diversity.leaders(s.bits_moses, s.options.circles_distance)), _BOTH,
        brief="LeaderPicker in the order first scored, Tanimoto distance > "
        "{circles_distance:g}, Morgan r2, 1024 bits",
    ),
    Metric(
        "murcko", "scaffolds", ",d",
        "Distinct non-empty Bemis-Murcko scaffolds (RDKit, no stereochemistry).",
        "scaffolds", "higher", "all", lambda s: len(s.scaffold_sizes), _BOTH, "scaf.",
        "Bemis-Murcko scaffolds",
    ),
    Metric(
        "generic", "generic", ",d",
        "Distinct non-empty generic scaffolds: MakeScaffoldGeneric, Murcko again.",
        "scaffolds", "higher", "all", lambda s: len(families(s.molecules)), _BOTH, "",
    ),
    Metric(
        "acyclic", "", ",d", "Molecules with the empty scaffold; they enter no scaffold metric.",
        "molecules", None, "all", lambda s: sum(not m.scaffold for m in s.molecules),
    ),
    Metric(
        "scaffold_entropy", "", ".3f",
        "H = -sum p ln p over the molecules per scaffold, in nats.",
        "nats", "higher", "all", lambda s: s.scaffold_entropy,
    ),
    Metric(
        "scaffold_evenness", "", ".3f",
        "H / ln(number of scaffolds). Null below two scaffolds.", "0 to 1", "higher", "all",
        lambda s: float(s.scaffold_entropy / np.log(len(s.scaffold_sizes)))
        if s.scaffold_entropy and len(s.scaffold_sizes) > 1 else None,
    ),
    Metric(
        "effective_scaffolds", "effective", ",.0f",
        "exp(H): the number of equally large scaffolds with the same entropy.",
        "scaffolds", "higher", "all",
        lambda s: None if s.scaffold_entropy is None else float(np.exp(s.scaffold_entropy)),
        _BOTH, "eff.", "exp of the entropy over them",
    ),
    Metric(
        "top_share", "top share", ".1%",
        "Share of the largest scaffold among the molecules with a scaffold.",
        "share", "lower", "all",
        lambda s: float(s.scaffold_sizes[-1] / s.scaffold_sizes.sum())
        if len(s.scaffold_sizes) else None,
        _BOTH, "top", "share of the largest",
    ),
    Metric(
        "gini", "", ".3f", "Gini coefficient of the molecules per scaffold: 0 is even.",
        "0 to 1", "lower", "all", lambda s: diversity.gini(s.scaffold_sizes),
    ),
    Metric(
        "sediv", "", ".3f",
        "SEDiv@1k: LeaderPicker at distance 0.65 on 1,000 random molecules / 1000; "
        f"{_R2_1024}. Null below 1,000 molecules.",
        "share", "higher", "all", lambda s: diversity.sphere_exclusion(s.bits_moses),
    ),
    Metric(
        "vendi", "", ".1f",
        "Vendi score: exp of the entropy of the eigenvalues of K / n, K the similarities of "
        f"n_matrix molecules; {_R2_2048}.",
        "molecules", "higher", "all", lambda s: diversity.vendi_score(s.similarity),
    ),
    Metric(
        "hamiltonian", "", ".1f",
        "Hamiltonian diversity: length of a closed tour over the distances of n_matrix molecules, "
        f"nearest neighbour and 2-opt; {_R2_2048}.",
        "distance", "higher", "all", lambda s: diversity.hamiltonian_diversity(1 - s.similarity),
    ),
    Metric(
        "clusters_butina", "", ",d",
        "Clusters of Butina among n_matrix molecules, members within {cluster_distance:g} of the "
        f"centre; {_R2_2048}.",
        "clusters", "higher", "all",
        lambda s: len(diversity.butina_clusters(1 - s.similarity, s.options.cluster_distance)),
    ),
    Metric(
        "clusters_sphere", "", ",d",
        "Clusters by sphere exclusion among n_pairwise molecules: LeaderPicker in the order first "
        f"scored, centres further apart than {{cluster_distance:g}}; {_R2_2048}.",
        "clusters", "higher", "all",
        lambda s: len(diversity.leaders(s.bits, s.options.cluster_distance)),
    ),
    Metric(
        "prior_families", "", ",d",
        "Generic scaffolds of the prior's sample (of its hits at the threshold). Null without a "
        "sample of the prior, or where it is not scored.",
        "scaffolds", None, "all",
        lambda s: None if s.prior_families is None else len(s.prior_families), needs="prior",
    ),
    Metric(
        "prior_coverage", "of prior", ".1%",
        f"Share of these that are also generic scaffolds {_SET}.",
        "share", "higher", "all",
        lambda s: len(s.prior_families & families(s.molecules)) / len(s.prior_families)
        if s.prior_families else None,
        _BOTH, "cover",
        "share of the generic scaffolds of the prior's sample, or of its hits, that it recovered",
        needs="prior",
    ),
    *(
        Metric(
            key, label, ".3f", text, unit, "lower" if key == "fcd" else "higher", "all",
            lambda s, number=0, key=key: s.likeness[number][key] if s.likeness else None,
            ("reference",), needs="reference",
        )
        for key, label, unit, text in (
            ("fcd", "FCD", "distance", "Frechet ChemNet Distance over n_pairwise molecules "
             "(biased in n: compare at equal n)"),
            ("snn", "SNN", "similarity",
             f"Mean similarity to the nearest reference molecule; {_R2_1024}"),
            ("scaf", "Scaf", "cosine", "Cosine of the counts of scaffolds with two rings or more"),
            ("frag", "Frag", "cosine", "Cosine of the counts of BRICS fragments"),
        )
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ROWS}
UNIQUENESS_AT = "uniqueness_at_"
RUN = Column("run", "run")
IDENTITY: dict[str, tuple[pa.DataType, str]] = columns_of("""
run string: Name of the run or file.
threshold double: Hits are molecules with raw reward R >= this. Null: all molecules.
""")
"""Columns that identify a row."""


def metrics_of(options: MetricOptions, reference_names: Sequence[str] = ()) -> list[Metric]:
    """Return the metrics as columns: uniqueness at each k, and likeness to each reference."""
    uniqueness_at = [
        Metric(
            f"{UNIQUENESS_AT}{k}", f"@{k:,}", ".2%",
            f"Distinct canonical SMILES among the first {k} valid samples / {k}. Null: fewer.",
            "share", "higher", "run", lambda s, k=k: uniqueness(s.samples.valid, k),
            brief="unique among the first k valid samples",
        )
        for k in options.uniqueness_at
    ]  # fmt: skip
    names = list(reference_names) or ["a reference set (none was given)"]
    likeness = [
        replace(
            metric,
            key=f"{metric.key}_{name}" if number else metric.key,
            meaning=f"{metric.meaning}. Reference: {name}.".replace("{", "{{").replace("}", "}}"),
            value=partial(metric.value, number=number),
        )
        for number, name in enumerate(names)
        for metric in METRICS.values()
        if metric.needs == "reference"
    ]
    return [*(m for m in METRICS.values() if m.needs != "reference"), *uniqueness_at, *likeness]


def metric_of(column: str) -> Metric | None:
    """Return the metric of a column, whose name may end in a number or a reference's name."""
    if column in METRICS:
        return METRICS[column]
    return next((m for key, m in METRICS.items() if column.startswith(f"{key}_")), None)


def shown_in(table: str, options: MetricOptions) -> list[Metric]:
    """Return the metrics of a table of the report or the terminal, with the options filled in."""
    settings = options.model_dump()
    return [
        replace(m, meaning=m.meaning.format(**settings), brief=m.brief.format(**settings))
        for m in METRICS.values()
        if table in m.tables
    ]


def key_of(metrics: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the legend of the metrics that have a value."""
    parts = [
        f"{metric.label}: {metric.brief}"
        for metric in metrics
        if metric.brief and any(not is_missing(row.get(metric.key)) for row in rows)
    ]
    return f"{'; '.join(parts)}." if parts else ""


def metrics_schema(options: MetricOptions, reference_names: Sequence[str] = ()) -> pa.Schema:
    """Return the schema of `diversity.parquet`, with a description in every field."""
    columns = {metric.key: metric.field for metric in metrics_of(options, reference_names)}
    return described_schema({**IDENTITY, **columns}, **options.model_dump())


# ---- the rows


def evaluate(
    samples: Samples,
    thresholds: Sequence[float],
    options: MetricOptions,
    comparisons: Comparisons | None = None,
) -> list[dict[str, Any]]:
    """Compute the rows of one run: all its molecules first, then its hits at each threshold.

    Returns:
        One mapping from column to value per row; None where a metric is undefined.
    """
    comparisons = comparisons or Comparisons()
    metrics = metrics_of(options, [reference.name for reference in comparisons.references])
    rows: list[dict[str, Any]] = []
    for threshold in (None, *(thresholds if samples.is_scored else ())):
        molecules = samples.molecules if threshold is None else samples.hits(threshold)
        molecule_set = MoleculeSet(samples, threshold, molecules, options, comparisons)
        row: dict[str, Any] = {"run": samples.name, "threshold": threshold}
        for metric in metrics:
            if metric.scope == "run" and rows:
                row[metric.key] = rows[0][metric.key]
            else:
                hits_only = metric.scope == "hits" and threshold is None
                row[metric.key] = None if hits_only else metric.value(molecule_set)
        rows.append(row)
    return rows


def frame(table: pa.Table) -> pd.DataFrame:
    """Convert to pandas with nullable integers, so that a call index never shows as 12.0."""
    types = {pa.int64(): pd.Int64Dtype()}
    result: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return result


def nested(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Nest the rows of one run as in `metrics.json`: all molecules, then hits by threshold."""
    whole, *by_threshold = rows
    at = {key.removeprefix(UNIQUENESS_AT): key for key in whole if key.startswith(UNIQUENESS_AT)}
    scopes = {
        key: metric.scope
        for key in whole.keys() - at.values()
        if (metric := metric_of(key)) is not None
    }
    scopes["collapsed_at_call"] = "all"  # metrics.json repeats it at each threshold
    return {
        **{key: value for key, value in whole.items() if scopes.get(key) in ("run", "all")},
        "uniqueness_at": {size: whole[key] for size, key in at.items()},
        "thresholds": {
            threshold_key(row["threshold"]): {
                key: value for key, value in row.items() if scopes.get(key) in ("hits", "all")
            }
            for row in by_threshold
        },
    }


def threshold_key(threshold: float) -> str:
    """Format a threshold as a key, as short as possible: `0.8`."""
    return f"{threshold:.12g}"
