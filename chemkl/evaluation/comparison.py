"""Comparison of methods with a baseline, paired by seed: checks of the runs, tests, result rows.

Each test is the one-sided Welch t-test of arXiv 2510.20817; all tests of a table are corrected
together by Holm's step-down method (Scand. J. Statist. 6, 65-70, 1979).
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from scipy import stats

from chemkl.config import InputError, complaints, did_you_mean
from chemkl.config.evaluate import CompareConfig
from chemkl.config.reward import RewardConfig
from chemkl.display import is_missing
from chemkl.evaluation.metrics import IDENTITY, Direction, metric_of
from chemkl.results import Manifest
from chemkl.results.columns import columns_of, described_schema
from chemkl.results.provenance import (
    SHOWN,
    as_json,
    at_the_end,
    describe_differences,
    differences,
    method_settings,
    mixed_settings,
)

Values = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
"""By method and seed: the rows of the evaluation of that run, one per threshold."""

Verdict = Literal["better", "not shown", "not resolved"]

MIN_SEEDS = 5
"""With fewer pairs of runs there is no verdict: spread and tests are unreliable."""

_SHARED = ("budget", "max_samples", "prior", "reward")
"""Settings that all compared runs must share; the other settings define a method."""

VALUES_SCHEMA = described_schema("""
method string: Name of the method.
seed int64: Seed of the run.
metric string: Column of the evaluation.
threshold double: Hits are molecules with R >= this. Null: all molecules or the run.
value double: As it enters the comparison. Null: not defined, as without any hit.
not_reached bool: Whether an oracle burden was not reached and enters as budget + 1, its lower
  bound.
""")
COMPARISON_SCHEMA = described_schema(
    columns_of("""
method string: Name of the method.
baseline string: Name of the method that it is compared with.
metric string: Column of the evaluation.
threshold double: Hits are molecules with R >= this. Null: all molecules or the run.
better string: Which values are better: higher or lower.
""")
    | {"seeds": (pa.list_(pa.int64()), "Seeds of the pairs of runs.")}
    | columns_of("""
n int64: Pairs of runs in which the metric is defined for both.
n_undefined int64: Pairs left out: the metric is null in one, as without any hit.
n_not_reached int64: Runs of the method whose oracle burden entered as budget + 1.
baseline_not_reached int64: The same of the baseline.
mean double: Mean of the method over the pairs.
sd double: Standard deviation of the method, n - 1 in the denominator.
baseline_mean double: Mean of the baseline over the same pairs.
baseline_sd double: Standard deviation of the baseline.
difference double: Mean of method minus baseline over the pairs.
low double: Lower end of the percentile interval of the difference over resampled pairs; null below
  two pairs. Too narrow for few pairs: 95 % nominal covers 84 % at 5 normal ones.
high double: Upper end of that interval.
t double: Welch's t; null below two pairs, or where neither method varies.
df double: Its degrees of freedom (Welch-Satterthwaite).
p double: One-sided p value; the alternative is that the method is better.
p_holm double: p corrected by Holm's method for all tests of this table.
verdict string: better: p_holm is below alpha; not shown: it is not; not resolved: fewer than 5
  pairs, or nothing varies.
""")
)


# ---- the statistics


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    better: Direction,
    *,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the values of a method with those of the baseline, in the same order of seeds.

    Keys are columns of `COMPARISON_SCHEMA`; values are None with too few pairs or without variance.
    The interval is the percentile interval over resampled pairs, which is too narrow for few pairs:
    for normal differences a nominal 95 % interval covers 84 % at 5 pairs, 91 % at 10, 93 % at 20.
    """
    x_N, y_N = np.array(values, dtype=float), np.array(baseline, dtype=float)
    names = ("mean", "sd", "baseline_mean", "baseline_sd", "difference", "low", "high")
    result: dict[str, Any] = {"n": len(x_N), **dict.fromkeys((*names, "t", "df", "p"))}
    if len(x_N) > 0:
        result |= {"mean": float(x_N.mean()), "baseline_mean": float(y_N.mean())}
        result["difference"] = float((x_N - y_N).mean())
    if len(x_N) > 1:
        interval = stats.bootstrap(
            (x_N, y_N),
            lambda x, y, axis=-1: np.mean(x - y, axis=axis),
            paired=True,
            confidence_level=confidence,
            n_resamples=n_resamples,
            method="percentile",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        result |= {"low": float(interval.low), "high": float(interval.high)}
        result |= {"sd": float(x_N.std(ddof=1)), "baseline_sd": float(y_N.std(ddof=1))}
        if np.ptp(x_N) > 0 or np.ptp(y_N) > 0:
            alternative = "greater" if better == "higher" else "less"
            with warnings.catch_warnings():
                # scipy warns that equal values may have an imprecise variance; it is exactly 0
                warnings.simplefilter("ignore", RuntimeWarning)
                test = stats.ttest_ind(x_N, y_N, equal_var=False, alternative=alternative)
            result |= {"t": float(test.statistic), "df": float(test.df), "p": float(test.pvalue)}
    return result


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values by Holm's method; None means that there was no test, and stays None.

    The i-th smallest of m values, from i = 0, is multiplied by m - i and then raised to the
    adjusted value of the one before it if that is larger; the maximum is 1.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = largest
    return adjusted


def judge(n: int, p_holm: float | None, alpha: float) -> Verdict:
    """Return the verdict of a test: not resolved below MIN_SEEDS pairs or without variance."""
    if n < MIN_SEEDS or p_holm is None:
        return "not resolved"
    return "better" if p_holm < alpha else "not shown"


# ---- the rows


def direction_of(metric: str, settings: Mapping[str, Direction]) -> Direction | None:
    """Return which values of a metric are better, from the settings or the table; None: unknown."""
    row = metric_of(metric)
    return settings.get(metric, row.better if row else None)


def check_metrics(
    metrics: Sequence[str],
    columns: Sequence[str],
    thresholds: Sequence[float | None],
    direction: Mapping[str, Direction],
    *,
    from_table: bool,
) -> None:
    """Check the metrics of a comparison; `from_table`: a table already has their values."""
    names = [name for name in columns if name not in IDENTITY]
    problems = []
    for metric in metrics:
        row = metric_of(metric)
        if metric not in names:
            problems.append(f"metrics: {metric!r} is not a metric{did_you_mean(metric, names)}")
        elif not from_table and row and row.needs in ("corpus", "reference", "prior"):
            problems.append(
                f"metrics: {metric} needs a corpus, a reference or samples of the prior: evaluate "
                "the runs with these, and set table to the resulting diversity.parquet."
            )
        elif direction_of(metric, direction) is None:
            problems.append(
                f"metrics: it is unknown whether higher or lower values of {metric} are better; "
                f"set it, for example direction: {{{metric}: higher}}"
            )
        elif not places_of(metric, thresholds):
            problems.append(f"metrics: {metric} is a metric of hits: thresholds needs a number")
    problems += [
        f"direction: {name} is not compared{did_you_mean(name, metrics)}"
        for name in direction
        if name not in metrics
    ]
    InputError.refuse(problems)


def places_of(metric: str, thresholds: Sequence[float | None]) -> list[float | None]:
    """Return the thresholds at which a metric is compared; [None] for one of the whole run."""
    row = metric_of(metric)
    if row and row.scope == "run":
        return [None]
    return [t for t in thresholds if t is not None or not (row and row.scope == "hits")]


def value_rows(values: Values, budget: int, config: CompareConfig) -> list[dict[str, Any]]:
    """Make one row for each run, metric and threshold, with the value used in the comparison."""
    rows = []
    for (method, seed), evaluated in values.items():
        at = {None if is_missing(t := row["threshold"]) else float(t): row for row in evaluated}
        for key in config.metrics:
            metric = metric_of(key)
            is_burden = metric and (metric.scope, metric.unit) == ("hits", "oracle calls")
            for threshold in places_of(key, config.thresholds):
                value = at[threshold][key]
                not_reached = bool(is_burden) and is_missing(value)
                if not_reached:
                    value = budget + 1
                head = {"method": method, "seed": seed, "metric": key, "threshold": threshold}
                number = None if is_missing(value) else float(value)
                rows.append(head | {"value": number, "not_reached": not_reached})
    return rows


def compare_rows(
    rows: Sequence[Mapping[str, Any]], pairs: Mapping[str, Sequence[int]], config: CompareConfig
) -> list[dict[str, Any]]:
    """Make one row for each metric, threshold and method other than the baseline.

    `pairs` has the seeds that each method shares with the baseline; every metric has a direction.
    """
    by_place = {(r["method"], r["seed"], r["metric"], r["threshold"]): r for r in rows}
    compared: list[dict[str, Any]] = []
    for metric in config.metrics:
        better = direction_of(metric, config.direction) or "higher"
        for threshold, (method, seeds) in product(
            places_of(metric, config.thresholds), pairs.items()
        ):
            run_pairs = [
                tuple(by_place[name, seed, metric, threshold] for name in (method, config.baseline))
                for seed in seeds
            ]
            defined = [pair for pair in run_pairs if None not in {row["value"] for row in pair}]
            difference = paired_difference(
                [a["value"] for a, _ in defined],
                [b["value"] for _, b in defined],
                better,
                confidence=config.confidence,
                n_resamples=config.n_resamples,
                seed=config.seed,
            )
            compared.append(
                {
                    "method": method,
                    "metric": metric,
                    "threshold": threshold,
                    "baseline": config.baseline,
                    "better": better,
                    "seeds": [a["seed"] for a, _ in defined],
                    "n_undefined": len(run_pairs) - len(defined),
                    "n_not_reached": sum(a["not_reached"] for a, _ in defined),
                    "baseline_not_reached": sum(b["not_reached"] for _, b in defined),
                    **difference,
                }
            )
    corrected = holm([row["p"] for row in compared])
    return [
        {**row, "p_holm": p, "verdict": judge(row["n"], p, config.alpha)}
        for row, p in zip(compared, corrected, strict=True)
    ]


# ---- the runs


@dataclass(frozen=True)
class ComparedRun:
    """A finished posttrain run.

    `shared` are the settings that all compared runs must share, `settings` the others, both
    by dotted key; `precision` is empty if it is not recorded.
    """

    folder: Path
    seed: int
    budget: int
    shared: Mapping[str, Any]
    settings: Mapping[str, Any]
    precision: str


def read_methods(methods: Mapping[str, Sequence[Path]]) -> dict[str, dict[int, ComparedRun]]:
    """Read the manifests of all runs, by method and seed; traces are not read."""
    runs: dict[str, list[ComparedRun]] = {method: [] for method in methods}

    def add(method: str, folder: Path) -> None:
        runs[method].append(_read_run(folder))

    problems = complaints(
        *((add, m, folder) for m, folders in methods.items() for folder in folders)
    )
    methods_of: dict[Path, dict[str, None]] = {}
    for method, members in runs.items():
        by_seed: dict[int, list[str]] = {}
        for run in members:
            by_seed.setdefault(run.seed, []).append(str(run.folder))
            methods_of.setdefault(run.folder.resolve(), {})[method] = None
        problems += [
            f"methods.{method}: several runs have seed {seed}: {', '.join(folders)}. Keep one."
            for seed, folders in by_seed.items()
            if len(folders) > 1
        ]
    problems += [
        f"{folder}: listed under several methods: {', '.join(names)}. Keep it in one."
        for folder, names in methods_of.items()
        if len(names) > 1
    ]
    shared = {str(run.folder): run.shared for members in runs.values() for run in members}
    if differing := differences(shared):
        problems.append(
            "methods: runs with different rewards, priors or budgets cannot be compared. Remove "
            f"the runs that differ:\n{describe_differences(differing)}"
        )
    for method, members in runs.items():
        problems += mixed_settings(method, {str(run.folder): run.settings for run in members})
    InputError.refuse(dict.fromkeys(problems))
    return {method: {run.seed: run for run in members} for method, members in runs.items()}


def what_differs(methods: Mapping[str, Mapping[int, ComparedRun]], baseline: str) -> Iterator[str]:
    """Yield how the settings of each method differ from the baseline, and mixed precisions."""
    settings_of = {name: next(iter(runs.values())).settings for name, runs in methods.items()}
    base = settings_of[baseline]
    for name, settings in settings_of.items():
        if name == baseline:
            continue
        lines = [
            f"{key} {as_json(values[name])}, not {as_json(values[baseline])}"
            for key, values in differences({name: settings, baseline: base}).items()
        ]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"{len(lines) - SHOWN} more"]
        text = "; ".join(lines) or "nothing: both methods have the same settings"
        yield f"{name} differs from {baseline} in {text}"
    used: dict[str, list[str]] = {}
    for name, runs in methods.items():
        for seed, run in runs.items():
            if run.precision:
                used.setdefault(run.precision, []).append(f"{name} seed {seed}")
    if len(used) > 1:  # precision: auto differs between machines
        lines = [f"{precision} by {', '.join(names)}" for precision, names in used.items()]
        yield f"not all runs were trained in the same precision: {'; '.join(lines)}"


def pair_seeds(
    seeds: Mapping[str, Collection[int]], baseline: str
) -> tuple[dict[str, list[int]], list[str]]:
    """Return the seeds that each method shares with the baseline, and lines about unpaired ones."""

    def text(numbers: Collection[int]) -> str:
        return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"

    paired: dict[str, list[int]] = {}
    unpaired, problems = [], []
    base = set(seeds[baseline])
    for method, its_seeds in seeds.items():
        if method == baseline:
            continue
        paired[method] = sorted(set(its_seeds) & base)
        if not paired[method]:
            problems.append(
                f"methods.{method}: no seed in common with the baseline {baseline}: it has "
                f"{text(its_seeds)}, the baseline {text(base)}. Runs are compared seed "
                "by seed: train it with the baseline's seeds."
            )
        alone = {method: set(its_seeds) - base, baseline: base - set(its_seeds)}
        lines = [f"{text(numbers)} of {name}" for name, numbers in alone.items() if numbers]
        if lines:
            unpaired.append(f"{method} against {baseline}: without a pair: {'; '.join(lines)}")
    InputError.refuse(problems)
    return paired, unpaired


def posttrain_manifest(folder: Path) -> Manifest:
    """Read the manifest of a posttrain run."""
    manifest = Manifest.load(folder)
    if manifest is None or manifest.stage != "posttrain":
        raise InputError(
            f"{folder}: not the folder of a posttrain run, according to its manifest.json."
        )
    return manifest


def _read_run(folder: Path) -> ComparedRun:
    manifest = posttrain_manifest(folder)
    config = manifest.config
    budget, prior = config.get("budget"), manifest.inputs.get("prior")
    problem, reward = "", None
    if manifest.status != "complete":
        problem = (
            f"the run is {manifest.status}, not complete, so its numbers are not those of its full "
            "budget. Finish it, or remove it from the comparison."
        )
    else:
        try:
            reward = RewardConfig.model_validate(at_the_end(config).get("reward"))
        except ValidationError as error:
            problem = f"its reward cannot be read: {error.errors()[0]['msg']}"
    if problem or manifest.seed is None or not isinstance(budget, int) or prior is None:
        problem = problem or "its manifest.json lacks the seed, the budget or the prior."
        raise InputError(f"{folder}: {problem}")
    reward_config = None if reward is None else reward.model_dump(mode="json")
    resolved = config | {
        "reward": reward_config,
        "max_samples": config.get("max_samples") or 10 * budget,
    }
    settings = method_settings(resolved, manifest.inputs)
    of_method = {key: value for key, value in settings.items() if key not in _SHARED}
    shared = {key: settings[key] for key in _SHARED if key in settings and key != "prior"}
    files = {role: f for role, f in manifest.inputs.items() if role.startswith("reward.")}
    shared |= {f"{role} (sha256)": f.sha256 for role, f in {"prior": prior, **files}.items()}
    used = manifest.precision.used if manifest.precision else ""
    return ComparedRun(folder, manifest.seed, budget, shared, of_method, used)
