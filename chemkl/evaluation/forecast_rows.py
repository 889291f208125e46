"""The targets that a forecast looks at, one row each: kind x beta x tau."""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from chemkl.config.evaluate import DEFAULT_TAU, ForecastConfig
from chemkl.config.objective import EstimatorConfig, MaraConfig, ShaperConfig, TargetConfig
from chemkl.evaluation import forecast_words as words
from chemkl.evaluation.crossovers import Crossover, Family, crossovers, main_families
from chemkl.evaluation.forecast import (
    Bonus,
    Floats,
    HitRate,
    Points,
    describe,
    hit_rate,
    mara_bonus,
    target_shares,
)
from chemkl.losses import TARGETS, Mara, Target

KINDS = ("gibbs", "mara")
"""Targets that are always looked at; the config's own comes with them."""
_SHAPE = ("kind", "beta", "sigma", "tau", "tau_quantile", "tau_floor")


def tau_of(target: TargetConfig, points: Points, default: float) -> float:
    """The tau of a run's target, as far as the prior's samples tell.

    A batch quantile moves with the policy; what is taken for it is that of the prior's samples.
    """
    if isinstance(target, MaraConfig) and target.tau_quantile is not None:
        quantile = float(np.quantile(points.reward_N, target.tau_quantile))
        return quantile if target.tau_floor is None else max(target.tau_floor, quantile)
    tau = getattr(target, "tau", None)  # gibbs has none
    return default if tau is None else float(tau)


def build_target(own: TargetConfig, kind: str, beta: float, tau: float) -> Target:
    """Make a target of the loss core, with the options of the run's own where that is its kind."""
    if kind == "gibbs":
        return TARGETS[kind](beta=beta)
    options = own.model_dump(exclude=set(_SHAPE)) if own.kind == kind else {}
    given = {name: value for name, value in options.items() if value is not None}
    return TARGETS[kind](beta=beta, tau=tau, **given)


def shares_or_none(points: Points, target: Target) -> Floats | None:
    """The shares of a target; None for one that is nothing but hits, where no sample is one."""
    if target.full_support or bool(points.at(target).hit.any()):
        return target_shares(points, target)
    return None


def hits_unseen(points: Points, target: Target | None, tau: float) -> bool:
    """Whether a target lives on hits, and no sample is one: what is seen of it is not the target.

    None stands for the prior.
    """
    return target is not None and target.has_hits and not bool((points.reward_N >= tau).any())


@dataclass(frozen=True)
class Foretold:
    """All that samples of the prior say about a config.

    Attributes:
        rows: the rows of `forecast.parquet`: the prior, then every kind, beta and tau.
        families: the main scaffold families, under the prior and the gibbs targets that can be
            trusted.
        crossovers: where one of them overtakes another under gibbs.
        sentences: the findings for the run's own beta and tau, and the crossovers, in plain words.
    """

    rows: list[dict[str, Any]]
    families: list[Family]
    crossovers: list[Crossover]
    sentences: list[str]

    def plain(self) -> dict[str, Any]:
        """Everything as plain values, as `forecast.json` holds it."""
        return {
            "targets": self.rows,
            "families": [asdict(family) for family in self.families],
            "crossovers": [
                {**asdict(crossing), "trusted": crossing.trusted} for crossing in self.crossovers
            ],
            "sentences": self.sentences,
        }


def foretell(config: ForecastConfig, points: Points) -> Foretold:
    """Foretell what the targets of a config ask for; its own beta and tau come with its lists."""
    own = config.target
    own_beta, own_tau = own.resolved_beta, tau_of(own, points, default_tau(config))
    betas = sorted({*config.resolved_betas, own_beta}, reverse=True)
    taus = sorted({*(config.taus or ()), own_tau})
    rows = [_row("prior", None, tau, points, None, config.min_ess) for tau in taus]
    for kind, beta, tau in product(dict.fromkeys((*KINDS, own.kind)), betas, taus):
        target = build_target(own, kind, beta, tau)
        row = _row(kind, beta, tau, points, target, config.min_ess)
        rows.append(row | {"own": (kind, beta, tau) == (own.kind, own_beta, own_tau)})
    known = dict.fromkeys(
        row["beta"] for row in rows if row["target"] == "gibbs" and row["trusted"]
    )
    families = main_families(points, list(known), config.families)
    found = crossovers(points, [family.scaffold for family in families])
    sentences = [_hit_sentence(points, hit_rate(points, tau)) for tau in taus]
    for row in rows:
        if row["beta"] in (None, own_beta) and row["tau"] == own_tau:
            sentences += [row["sentence"], *words.bonus_sentence(row)]
    sentences += words.drowned_sentence(rows, own_tau)
    if not (isinstance(own, MaraConfig) and own.reward_on_hits == "own"):
        sentences += words.alike_sentence(rows)
    moved = departures(
        config.estimator, config.shaper, filtered=config.diversity_filter is not None
    )
    sentences += [*words.caveats(moved), *words.crossover_sentences(found)]
    return Foretold(rows, families, found, list(dict.fromkeys(sentences)))


def departures(
    estimator: EstimatorConfig, shaper: ShaperConfig | None, *, filtered: bool
) -> dict[str, str]:
    """What moves a trained policy off the target that is forecast: its name, and how."""
    found = {}
    if filtered:
        found["diversity filter"] = "the diversity filter withdraws rewards as the run goes"
    if shaper is not None:
        found[shaper.kind] = f"the shaper {shaper.kind} moves the policy off the target"
    if estimator.kind == "forward_kl":
        found["forward_kl"] = (
            "the estimator forward_kl has another optimum, proportional to pi_ref / (L - R)"
        )
    return found


def default_tau(config: ForecastConfig) -> float:
    """The tau of a target that has none."""
    return config.taus[0] if config.taus else DEFAULT_TAU


def _row(
    kind: str,
    beta: float | None,
    tau: float,
    points: Points,
    target: Target | None,
    min_ess: float,
) -> dict[str, Any]:
    """One target; None stands for the prior itself."""
    rate = hit_rate(points, tau)
    row: dict[str, Any] = {
        "target": kind,
        "beta": beta,
        "sigma": None if beta is None else 1 / beta,
        "tau": tau,
        "own": False,
        "hit_rate": rate.rate,
        "hit_rate_low": rate.low,
        "hit_rate_high": rate.high,
        "trusted": False,
    }
    share_N = points.prior_N if target is None else shares_or_none(points, target)
    if share_N is None:
        return row | {"sentence": _hit_sentence(points, rate)}
    found = describe(points, share_N, tau)
    unseen = hits_unseen(points, target, tau)
    trusted = found.ess >= min_ess and not unseen
    row |= {**asdict(found), "trusted": trusted}
    if found.ess < min_ess:
        row["top_share_error"] = None
    if isinstance(target, Mara):
        row |= _bonus_columns(mara_bonus(points, target))
    if unseen:
        return row | {"sentence": _hit_sentence(points, rate)}
    n = len(points)
    return row | {"sentence": words.target_sentence(kind, beta, tau, found, n, trusted=trusted)}


def _hit_sentence(points: Points, rate: HitRate) -> str:
    top = float(np.quantile(points.reward_N, 1 - words.TOP))
    return words.hit_sentence(rate, best=float(points.reward_N.max()), top=top)


def _bonus_columns(bonus: Bonus) -> dict[str, Any]:
    return {
        "bonus_mean": bonus.mean,
        "bonus_std": bonus.std,
        "bonus_largest": bonus.largest,
        "reward_std": bonus.reward_std,
        "reward_range": bonus.reward_range,
    }
