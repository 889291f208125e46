"""The rows of a comparison: each metric of each method against the baseline, seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from chemkl.config import InputError, did_you_mean
from chemkl.config.evaluate import CompareConfig
from chemkl.display import is_missing
from chemkl.evaluation.columns import YIELDS
from chemkl.evaluation.statistics import Direction, holm, judge, paired_difference

Values = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
"""By method and seed: the rows of the evaluation of that run, one for each threshold."""

_HIGHER = (
    "yield",
    "scaffold_yield",
    "validity",
    "uniqueness",
    "late_uniqueness",
    "late_scaffolds",
    "late_effective_scaffolds",
    "novelty",
    "int_div",
    "circles",
    "murcko",
    "generic",
    "scaffold_entropy",
    "scaffold_evenness",
    "effective_scaffolds",
    "sediv",
    "vendi",
    "hamiltonian",
    "clusters",
    "auc_top",
    "snn",
    "scaf",
    "frag",
    "n_molecules",
    "prior_coverage",
)
_BURDENS = tuple(name for name in YIELDS if name.startswith("ob"))
_LOWER = (*_BURDENS, "top_share", "late_top_share", "gini", "fcd")
_OF_THE_RUN = (
    "n_sampled",
    "n_valid",
    "validity",
    "uniqueness",
    "late",
    "collapsed_at_call",
    "auc_calls",
    "auc_top",
)
_COMPARED_WITH = ("novelty", "fcd", "snn", "scaf", "frag", "prior")
"""Metrics that need a corpus, a reference or samples of the prior: a comparison has none."""
_NO_METRIC = ("run", "threshold")


def direction_of(metric: str, given: Mapping[str, Direction]) -> Direction | None:
    """Which values of a metric are better; None where that is not known."""
    if metric in given:
        return given[metric]
    if _is_one_of(metric, _LOWER):
        return "lower"
    return "higher" if _is_one_of(metric, _HIGHER) else None


def check_metrics(
    metrics: Sequence[str],
    columns: Sequence[str],
    thresholds: Sequence[float | None],
    direction: Mapping[str, Direction],
    *,
    from_table: bool,
) -> None:
    """Look at the metrics of a comparison.

    Args:
        metrics: to be compared.
        columns: of the evaluation.
        thresholds: at which they are compared.
        direction: what is better, where the user says it.
        from_table: whether their values are in a table already.

    Raises:
        InputError: with every metric that is not known, cannot be computed here, has no direction,
            or none of the thresholds.
    """
    known = [name for name in columns if name not in _NO_METRIC]
    problems = []
    for metric in metrics:
        if metric not in known:
            problems.append(f"metrics: {metric!r} is not a metric{did_you_mean(metric, known)}")
        elif not from_table and _is_one_of(metric, _COMPARED_WITH):
            problems.append(
                f"metrics: {metric} needs a corpus, a reference or samples of the prior: evaluate "
                "the runs with them, and name that diversity.parquet under table."
            )
        elif direction_of(metric, direction) is None:
            problems.append(
                f"metrics: whether {metric} should be high or low is not known; say it, as in "
                f"direction: {{{metric}: higher}}"
            )
        elif not places_of(metric, thresholds):
            problems.append(f"metrics: {metric} is of hits: thresholds needs a number, not null")
    problems += [
        f"direction: {name} is not compared{did_you_mean(name, metrics)}"
        for name in direction
        if name not in metrics
    ]
    if problems:
        raise InputError("\n".join(problems))


def places_of(metric: str, thresholds: Sequence[float | None]) -> list[float | None]:
    """The thresholds at which a metric is compared; None alone for a metric of the whole run."""
    if _is_one_of(metric, _OF_THE_RUN):
        return [None]
    if metric in YIELDS:
        return [each for each in thresholds if each is not None]
    return list(thresholds)


def value_rows(values: Values, budget: int, config: CompareConfig) -> list[dict[str, Any]]:
    """One row for each run, metric and threshold, as it enters the comparison.

    Args:
        values: evaluations by method and seed.
        budget: of every run, in oracle calls.
        config: of the comparison.
    """
    rows = []
    for (method, seed), evaluated in values.items():
        at = {_key(row["threshold"]): row for row in evaluated}
        for metric in config.metrics:
            for threshold in places_of(metric, config.thresholds):
                value = at[threshold][metric]
                missing = is_missing(value)
                not_reached = missing and metric in _BURDENS
                entered = budget + 1 if not_reached else value
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "metric": metric,
                        "threshold": threshold,
                        "value": None if missing and not not_reached else float(entered),
                        "not_reached": not_reached,
                    }
                )
    return rows


def compare_rows(
    rows: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, Sequence[int]],
    config: CompareConfig,
) -> list[dict[str, Any]]:
    """One row for each metric, threshold and method but the baseline.

    Args:
        rows: of `value_rows`.
        pairs: for each method the seeds that it shares with the baseline.
        config: of the comparison.
    """
    by_place = {(r["method"], r["seed"], r["metric"], r["threshold"]): r for r in rows}
    found: list[dict[str, Any]] = []
    for metric in config.metrics:
        for threshold in places_of(metric, config.thresholds):
            for method, seeds in pairs.items():
                couples = [
                    (
                        by_place[method, seed, metric, threshold],
                        by_place[config.baseline, seed, metric, threshold],
                    )
                    for seed in seeds
                ]
                head = {"method": method, "metric": metric, "threshold": threshold}
                found.append(head | _compare(couples, metric, config))
    corrected = holm([row["p"] for row in found])
    return [
        {**row, "p_holm": p, "verdict": judge(row["n"], p, config.alpha)}
        for row, p in zip(found, corrected, strict=True)
    ]


def _compare(
    couples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    metric: str,
    config: CompareConfig,
) -> dict[str, Any]:
    """Everything about one comparison but what depends on the others."""
    better = direction_of(metric, config.direction)
    if better is None:
        raise ValueError(f"{metric}: which values are better is not known")
    defined = [(a, b) for a, b in couples if a["value"] is not None and b["value"] is not None]
    difference = paired_difference(
        [a["value"] for a, _ in defined],
        [b["value"] for _, b in defined],
        better,
        confidence=config.confidence,
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
    return {
        "baseline": config.baseline,
        "better": better,
        "seeds": [a["seed"] for a, _ in defined],
        "n_undefined": len(couples) - len(defined),
        "n_not_reached": sum(a["not_reached"] for a, _ in defined),
        "baseline_not_reached": sum(b["not_reached"] for _, b in defined),
        **asdict(difference),
    }


def _is_one_of(metric: str, names: Sequence[str]) -> bool:
    """Whether a metric has one of these names, or one with something after it: scaf_<reference>."""
    return any(metric == name or metric.startswith(f"{name}_") for name in names)


def _key(threshold: Any) -> float | None:
    missing = is_missing(threshold) or math.isnan(threshold)
    return None if missing else float(threshold)
