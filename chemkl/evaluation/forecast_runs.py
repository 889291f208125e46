"""What training gave, beside what was forecast: both seen through equally many samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError
from rich.table import Table

from chemkl.config import InputError
from chemkl.config.evaluate import ForecastConfig
from chemkl.config.objective import EstimatorConfig, ShaperConfig, TargetConfig
from chemkl.config.reward import RewardConfig
from chemkl.display import Column, table
from chemkl.evaluation.comparison import posttrain_manifest
from chemkl.evaluation.forecast import Floats, Points, describe
from chemkl.evaluation.forecast_targets import (
    DOUBTED,
    Forecast,
    build_target,
    default_tau,
    departures,
    family_table,
    hits_unseen,
    legend,
    number,
    shares_or_none,
    target_table,
    tau_of,
)
from chemkl.results import InputFile, find_trace, read_trace
from chemkl.results.inspection import sampled_rows
from chemkl.results.provenance import ABSENT, as_json, differences, method_settings

REDRAWS = 50
"""Redraws over which a prediction is averaged: what a few hundred samples show varies by chance."""
COMPARED = ("top_share", "effective_scaffolds", "acyclic_share", "hit_share", "mean_reward")
MOVED = "!"
"""Marks a run that is not trained towards the target that is forecast for it."""
COLUMNS = ("valid", "scaffold", "reward", "logp_ref", "is_replay")


@dataclass(frozen=True)
class Trained:
    """A posttrain run to compare with; `moved`: what moved it off its target (`departures`)."""

    folder: Path
    target: TargetConfig
    moved: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_runs(folders: Sequence[Path], prior: Path | None, reward: RewardConfig) -> list[Trained]:
    """Read the manifests of the runs to compare with; traces are looked for, not read.

    They must have been trained from the model file `prior` (None: not made yet) and paid `reward`.

    Raises:
        InputError: with a line for every folder that is no such run, and one for all those that
            have another prior or reward.
    """
    runs, problems = [], []
    differing: dict[str, list[Path]] = {}
    sha256 = InputFile.of(prior).sha256 if folders and prior is not None else None
    for folder in folders:
        try:
            run, other = _read_run(folder, reward, sha256)
            runs.append(run)
            if other:
                differing.setdefault(other, []).append(folder)
            else:
                find_trace(folder)
        except InputError as error:
            problems.append(str(error))
    problems += [
        f"{', '.join(map(str, named))}: trained with {other} than the config to forecast; a "
        "forecast holds for one prior and one reward. Leave out of runs what has others."
        for other, named in differing.items()
    ]
    if problems:
        raise InputError("\n".join(problems))
    return runs


def compare(
    runs: Mapping[str, Trained], points: Points, config: ForecastConfig
) -> list[dict[str, Any]]:
    """Three rows for each run: the prior, the forecast of the run's own target, and the training.

    All are seen through equally many valid samples, as many as the shortest run has: how many
    scaffolds one sees, and how large the largest is, depends on that.

    Raises:
        InputError: a run has no valid sample.
    """
    late, n_valid = {}, {}
    for name, run in runs.items():
        trace = read_trace(run.folder, COLUMNS)
        late[name] = last_valid(trace, config.late_samples)
        n_valid[name] = len(last_valid(trace, len(trace)))
    empty = [str(runs[name].folder) for name, rows in late.items() if rows.empty]
    if empty:
        raise InputError(
            f"{', '.join(empty)}: no valid sample in the trace to compare with; leave out of runs."
        )
    n = min((len(rows) for rows in late.values()), default=0)
    labels = run_labels(runs)
    return [
        {**row, "n_valid": n_valid[name]}
        for name, run in runs.items()
        for row in _rows_of(name, labels[name], run, points_of(late[name].tail(n)), points, config)
    ]


def _rows_of(
    name: str, label: str, run: Trained, late: Points, points: Points, config: ForecastConfig
) -> Iterator[dict[str, Any]]:
    target, n = run.target, len(late)
    tau = tau_of(target, points, tau_of(config.target, points, default_tau(config)))
    built = build_target(target, target.kind, target.resolved_beta, tau)
    share_N = shares_or_none(points, built)
    head = {
        "run": name,
        "folder": str(run.folder),
        "label": label,
        "target": target.kind,
        "sigma": None if target.kind == "filter" else 1 / target.resolved_beta,
        "tau": tau,
        "moved": dict(run.moved),
        "n": n,
    }
    shown = expected_view(points, points.prior_N, tau, n, config.seed)
    yield {**head, "source": "prior", **shown, "ess": float(len(points)), "trusted": True}
    if share_N is None:
        nothing: dict[str, Any] = dict.fromkeys(COMPARED)
        yield {**head, "source": "forecast", **nothing, "ess": 0.0, "trusted": False}
    else:
        shown = expected_view(points, share_N, tau, n, config.seed)
        ess = describe(points, share_N, tau).ess
        trusted = ess >= config.min_ess and not hits_unseen(points, built, tau)
        yield {**head, "source": "forecast", **shown, "ess": ess, "trusted": trusted}
    yield {**head, "source": "trained", **observed_view(late, tau), "ess": None, "trusted": None}


def run_labels(runs: Mapping[str, Trained]) -> dict[str, str]:
    """Label runs by target and what moved them off it, and where these are alike by what is not."""
    labels = {
        name: " + ".join([target_label(run.target), *run.moved]) for name, run in runs.items()
    }
    for label in set(labels.values()):
        alike = {name: runs[name].settings for name, own in labels.items() if own == label}
        for key, values in differences(alike).items():
            for name, value in values.items():
                if value is not ABSENT:
                    labels[name] += f", {key} {as_json(value)}"
    return labels


def target_label(target: TargetConfig) -> str:
    """A target in a few words, with every setting that is not the default.

    A filter has no sigma: its beta scales the loss alone.
    """
    name = (
        target.kind if target.kind == "filter" else f"{target.kind} {1 / target.resolved_beta:.4g}"
    )
    settings = target.model_dump(exclude={"kind", "beta", "sigma"}, exclude_defaults=True)
    return ", ".join([name, *(f"{key} {_plain(value)}" for key, value in settings.items())])


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def points_of(rows: pd.DataFrame) -> Points:
    """Take the points out of scored rows: the columns valid, scaffold, logp_ref and reward.

    A valid molecule whose scaffold failed counts as one without a scaffold.
    """
    scaffolds = [
        None if not valid else scaffold if isinstance(scaffold, str) else ""
        for valid, scaffold in zip(rows["valid"], rows["scaffold"], strict=True)
    ]
    return Points(rows["logp_ref"].to_numpy(float), rows["reward"].to_numpy(float), scaffolds)


def last_valid(trace: pd.DataFrame, n: int) -> pd.DataFrame:
    """The last n valid samples of a run, repeats included; replayed rows were not sampled."""
    sampled = sampled_rows(trace)
    return sampled[sampled["valid"].astype(bool)].tail(n)


def observed_view(points: Points, tau: float) -> dict[str, float | None]:
    """What samples show, each counted once."""
    view = describe(points, points.prior_N, tau)
    return {name: getattr(view, name) for name in COMPARED}


def expected_view(
    points: Points, share_N: Floats, tau: float, n: int, seed: int
) -> dict[str, float | None]:
    """What n valid samples of a target, given by its shares of the points, would show on average.

    A number of scaffolds, or a largest share, depends on how many samples one looks at: n of them
    are drawn from the weighted points again and again, and described as those of a run are.
    """
    chance_N = np.where(points.valid_N, share_N, 0.0)
    if chance_N.sum() == 0:
        return dict.fromkeys(COMPARED)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n, chance_N / chance_N.sum(), size=REDRAWS)
    views = [describe(points, drawn_N / n, tau) for drawn_N in draws]
    values = {name: [getattr(view, name) for view in views] for name in COMPARED}
    defined = {name: [v for v in own if v is not None] for name, own in values.items()}
    return {name: float(np.mean(own)) if own else None for name, own in defined.items()}


def _read_run(folder: Path, reward: RewardConfig, sha256: str | None) -> tuple[Trained, str]:
    """Read a run's manifest; also return what is another than that of the forecast, in words."""
    manifest = posttrain_manifest(folder)
    try:
        run = _RunConfig.model_validate(manifest.config)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(
            f"{folder}: its target, estimator, shaper or reward cannot be read: {problem}"
        ) from error
    differing = []
    if run.reward.model_dump() != reward.model_dump():  # without what is no part of its identity
        differing.append("another reward")
    prior = manifest.inputs.get("prior")
    if sha256 is not None and (prior is None or prior.sha256 != sha256):
        differing.append("another prior")
    moved = departures(run.estimator, run.shaper, filtered=run.diversity_filter is not None)
    settings = method_settings(manifest.config, manifest.inputs)
    return Trained(folder, run.target, moved, settings), " and ".join(differing)


class _RunConfig(BaseModel):
    """What a forecast needs of the settings of a run."""

    target: TargetConfig
    estimator: EstimatorConfig = Field("rloo", validate_default=True)
    shaper: ShaperConfig | None = None
    reward: RewardConfig
    diversity_filter: Any = None


# ---- in words and on the screen


def run_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which of the runs beside the forecast were not trained towards their target, and why."""
    by_why: dict[str, dict[str, None]] = {}
    for row in rows:
        for why in row["moved"].values():
            by_why.setdefault(why, {})[row["run"]] = None
    return [
        f"{MOVED} {', '.join(names)}: {why}, so training did not walk to the target that is "
        "forecast beside it."
        for why, names in by_why.items()
    ]


def run_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For each run what was predicted for its own target and what training gave."""
    n = rows[0]["n"]
    title = f"What was forecast, and what training gave: {n:,} valid samples each"
    shortest = list(dict.fromkeys(row["run"] for row in rows if row["n_valid"] == n))
    if shortest:
        title = f"{title} (all that there are of {', '.join(shortest)})"
    columns = (
        Column("run", "run"),
        Column("label", "target"),
        Column("source", ""),
        Column("top_share", "top", ".1%"),
        Column("effective_scaffolds", "eff.", ",.0f"),
        Column("acyclic_share", "acyclic", ".1%"),
        Column("tau", "tau", ".3g"),
        Column("hit_share", "hits", ".1%"),
        Column("mean_reward", "mean R", ".3f"),
        Column("ess", "ESS", number),
        Column("mark", ""),
    )
    shown = []
    for row in rows:
        mark = DOUBTED if row["trusted"] is False else ""
        if row["source"] == "trained" and row["moved"]:
            mark = MOVED
        once = {} if row["source"] == "prior" else {"run": "", "label": ""}
        shown.append({**row, **once, "mark": mark})
    return table(title, columns, shown, keep_empty=True)


def page(
    forecast: Forecast,
    runs: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    *,
    min_ess: float,
) -> Iterator[Table | str]:
    """Everything, in the order in which it is to be read: tables, how to read them, sentences."""
    yield (
        f"{counts['samples']:,} samples of the prior, {counts['valid']:,} valid, for "
        f"{counts['calls']:,} oracle calls"
    )
    yield target_table(forecast.rows)
    yield family_table(forecast.families)
    beside = ""
    if runs:
        yield run_table(runs)
        beside = (
            " Of each run the last samples are counted; prior and forecast are what as many of "
            f"theirs show on average. {MOVED}: not trained towards the target that is forecast, "
            "see below."
        )
    yield legend(min_ess, beside)
    yield "\n".join(["", *forecast.sentences])
