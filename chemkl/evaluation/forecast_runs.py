"""What training gave, beside what was foretold: both seen through equally many samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from chemkl.config import InputError
from chemkl.config.forecast import ForecastConfig
from chemkl.config.objective import TargetConfig
from chemkl.config.reward import RewardConfig
from chemkl.evaluation.forecast import Floats, Points, Prediction, describe
from chemkl.evaluation.forecast_rows import build_target, default_tau, shares_or_none, tau_of
from chemkl.results import Manifest, find_trace, read_trace, sha256_of

REDRAWS = 50
"""Redraws over which a prediction is averaged: what a few hundred samples show varies by chance."""
COMPARED = ("top_share", "effective_scaffolds", "acyclic_share", "hit_share", "mean_reward")
COLUMNS = ("valid", "scaffold", "reward", "logp_ref", "is_replay")


@dataclass(frozen=True)
class Trained:
    """A posttrain run to compare with.

    Attributes:
        folder: where it is.
        target: its target.
        filtered: whether it had a diversity filter, which moves the target as it goes.
    """

    folder: Path
    target: TargetConfig
    filtered: bool


def read_runs(folders: Sequence[Path], prior: Path | None, reward: RewardConfig) -> list[Trained]:
    """Read the manifests of the runs to compare with; traces are looked for, not read.

    Args:
        folders: of the runs.
        prior: model file that they must have been trained from; None: not made yet.
        reward: what they must have been paid.

    Raises:
        InputError: with a line for every folder that is no such run, or has another prior or
            reward.
    """
    runs, problems = [], []
    sha256 = sha256_of(prior) if folders and prior is not None else None
    for folder in folders:
        try:
            runs.append(_read_run(folder, reward, sha256))
            find_trace(folder)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return runs


def compare(
    name: str, run: Trained, points: Points, config: ForecastConfig
) -> Iterator[dict[str, Any]]:
    """Three rows for a run: the prior, the forecast of the run's own target, and the training.

    Args:
        name: of the run.
        run: its folder and target.
        points: samples of the prior.
        config: of the forecast.
    """
    late = last_valid(read_trace(run.folder, COLUMNS), config.late_samples)
    if late.empty:
        raise InputError(f"{run.folder}: its trace holds no valid sample to compare with.")
    target, n = run.target, len(late)
    tau = tau_of(target, points, tau_of(config.target, points, default_tau(config)))
    built = build_target(target, target.kind, target.resolved_beta, tau)
    share_N = shares_or_none(points, built)
    ess = None if share_N is None else describe(points, share_N, tau).ess
    head = {
        "run": name,
        "folder": str(run.folder),
        "target": target.kind,
        "sigma": 1 / target.resolved_beta,
        "tau": tau,
        "diversity_filter": run.filtered,
        "n": n,
    }
    shown = foreseen(points, points.prior_N, tau, n, config.seed)
    yield {**head, "source": "prior", **shown, "ess": float(len(points)), "trusted": True}
    if share_N is None or ess is None:
        nothing: dict[str, Any] = dict.fromkeys(COMPARED)
        yield {**head, "source": "forecast", **nothing, "ess": 0.0, "trusted": False}
    else:
        shown = foreseen(points, share_N, tau, n, config.seed)
        trusted = ess >= config.min_ess
        yield {**head, "source": "forecast", **shown, "ess": ess, "trusted": trusted}
    yield {**head, "source": "trained", **seen(points_of(late), tau), "ess": None, "trusted": None}


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
    sampled = trace[~trace["is_replay"].astype(bool)]
    return sampled[sampled["valid"].astype(bool)].tail(n)


def seen(points: Points, tau: float) -> dict[str, float | None]:
    """What samples show, each counted once."""
    return _compared(describe(points, points.prior_N, tau))


def foreseen(
    points: Points, share_N: Floats, tau: float, n: int, seed: int
) -> dict[str, float | None]:
    """What n valid samples of a target would show on average.

    A number of scaffolds, or a largest share, depends on how many samples one looks at: n of them
    are drawn from the weighted points again and again, and described as those of a run are.

    Args:
        points: samples of the prior.
        share_N: their shares of the target.
        tau: from which reward on a molecule is a hit.
        n: samples to look at.
        seed: of the redraws.
    """
    chance_N = np.where(points.valid_N, share_N, 0.0)
    if chance_N.sum() == 0:
        return dict.fromkeys(COMPARED)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n, chance_N / chance_N.sum(), size=REDRAWS)
    views = [_compared(describe(points, drawn_N / n, tau)) for drawn_N in draws]
    return {name: _mean([view[name] for view in views]) for name in COMPARED}


def _read_run(folder: Path, reward: RewardConfig, sha256: str | None) -> Trained:
    manifest = Manifest.load(folder)
    if manifest is None or manifest.stage != "posttrain":
        raise InputError(
            f"{folder}: not the folder of a posttrain run (its manifest.json says so)."
        )
    config = manifest.config
    try:
        target: TargetConfig = TypeAdapter(TargetConfig).validate_python(config.get("target"))
        paid = RewardConfig.model_validate(config.get("reward"))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(f"{folder}: its target or reward cannot be read: {problem}") from error
    differing = []
    if paid != reward:
        differing.append("another reward")
    own = manifest.inputs.get("prior")
    if sha256 is not None and (own is None or own.sha256 != sha256):
        differing.append("another prior")
    if differing:
        raise InputError(
            f"{folder}: was trained with {' and '.join(differing)} than the config to forecast; "
            "a forecast holds for one prior and one reward. Leave it out of runs."
        )
    return Trained(folder, target, config.get("diversity_filter") is not None)


def _compared(found: Prediction) -> dict[str, float | None]:
    return {name: getattr(found, name) for name in COMPARED}


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return float(np.mean(given)) if given else None
