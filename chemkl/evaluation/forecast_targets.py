"""A forecast: one row for each target (kind x beta x tau), in numbers, sentences and tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from chemkl.config.evaluate import DEFAULT_TAU, ForecastConfig
from chemkl.config.objective import EstimatorConfig, ShaperConfig, TargetConfig
from chemkl.display import Column, short, table
from chemkl.evaluation.forecast import (
    FAMILY_ESS,
    Crossover,
    Family,
    Floats,
    HitRate,
    Points,
    Prediction,
    crossovers,
    describe,
    hit_rate,
    main_families,
    mara_bonus,
    target_shares,
)
from chemkl.evaluation.tables import SHOWN_SCAFFOLD
from chemkl.losses import TARGETS, Mara, Target
from chemkl.results.columns import described_schema

KINDS = ("gibbs", "mara")
"""Targets that are always looked at; the config's own comes with them."""
TOP = 0.01
"""Where no sample is a hit, the reward is named at which so large a share of the best begins."""
ALIKE = 1e-3
"""Effective sample sizes and hit shares that differ by a smaller share look the same in a table."""
DOUBTED = "?"
"""Marks a row that is not trustworthy."""
MOST_TAUS = 4
"""Up to so many, each tau has a column of its own for the hits; more do not fit a line."""
_SHAPE = ("kind", "beta", "sigma", "tau", "tau_quantile", "tau_floor")
_TEXT, _FLOAT, _BOOL = pa.string(), pa.float64(), pa.bool_()
_SEEN = {
    "top_scaffold": (
        _TEXT,
        "Bemis-Murcko scaffold with the largest mass; null where no sample has a scaffold.",
    ),
    "top_share": (_FLOAT, "Its share of the mass of molecules with a scaffold."),
    "top_share_error": (
        _FLOAT,
        "Standard error of top_share from the finite sample; null where ess is below min_ess: so "
        "few points do not tell it.",
    ),
    "effective_scaffolds": (_FLOAT, "exp of the entropy (nats) of the mass over scaffolds."),
    "acyclic_share": (_FLOAT, "Mass of valid molecules without a scaffold, 0 to 1."),
    "invalid_share": (_FLOAT, "Mass of strings that are no molecules, 0 to 1."),
    "hit_share": (_FLOAT, "Mass of hits (R >= tau), 0 to 1."),
    "mean_reward": (_FLOAT, "Expected reward under the target."),
    "kl_to_prior": (_FLOAT, "KL(target || prior), nats; n samples cannot show more than log n."),
}

FORECAST_SCHEMA = described_schema(
    {
        "target": (_TEXT, "prior, gibbs, mara or filter."),
        "beta": (_FLOAT, "KL coefficient, reward units per nat; null for the prior."),
        "sigma": (_FLOAT, "1/beta."),
        "tau": (_FLOAT, "Reward from which on a molecule is a hit."),
        "own": (_BOOL, "Whether this is the target of the config that is forecast."),
        "hit_rate": (_FLOAT, "Share of the prior's samples with R >= tau."),
        "hit_rate_low": (_FLOAT, "Lower end of its 95 % interval (Wilson)."),
        "hit_rate_high": (_FLOAT, "Upper end of its 95 % interval (Wilson)."),
        "ess": (_FLOAT, "Effective sample size of the weights, (sum w)^2 / sum w^2."),
        "ess_share": (_FLOAT, "The same as a share of all samples, 0 to 1."),
        "trusted": (_BOOL, "Whether ess is at least min_ess; else shares are unreliable."),
        **_SEEN,
        "bonus_mean": (
            _FLOAT,
            "Mean over the prior's hits of MARA's bonus beta (log mara - log gibbs), reward units; "
            "null for other targets and without hits.",
        ),
        "bonus_std": (_FLOAT, "Standard deviation of that bonus."),
        "bonus_largest": (_FLOAT, "Largest such bonus."),
        "reward_std": (_FLOAT, "Standard deviation of R over all samples of the prior."),
        "reward_range": (_FLOAT, "Largest minus smallest R among them."),
        "sentence": (_TEXT, "The row in plain words."),
    }
)

SAMPLES_SCHEMA = described_schema(
    {
        "smiles": (_TEXT, "SMILES as sampled from the prior."),
        "canonical_smiles": (_TEXT, "RDKit canonical SMILES; null: invalid."),
        "valid": (_BOOL, "Whether RDKit parses and sanitises the string."),
        "scaffold": (_TEXT, "Bemis-Murcko scaffold; empty: acyclic; null: invalid."),
        "logp_ref": (_FLOAT, "log pi_ref of the sequence, nats, end token included."),
        "reward": (_FLOAT, "Raw reward R; 0 when invalid or failed."),
    }
)


# ---- the rows


def tau_of(target: TargetConfig, points: Points, default: float) -> float:
    """The tau of a run's target, as far as the prior's samples tell.

    A batch quantile moves with the policy; what is taken for it is that of the prior's samples.
    """
    if target.kind == "mara" and target.tau_quantile is not None:
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
class Forecast:
    """All that samples of the prior say about a config.

    `rows` are those of `forecast.parquet`: the prior, then every kind, beta and tau. `families` are
    the main ones under the prior and the gibbs targets that can be trusted, `crossovers` where one
    overtakes another, `sentences` the findings for the run's own beta and tau in plain words.
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


def forecast_targets(config: ForecastConfig, points: Points) -> Forecast:
    """Forecast what the targets of a config ask for; its own beta and tau come with its lists."""
    own = config.target
    own_beta, own_tau = own.resolved_beta, tau_of(own, points, default_tau(config))
    betas = sorted({*config.resolved_betas, own_beta}, reverse=True)
    taus = sorted({*(config.taus or ()), own_tau})
    rows = [_row("prior", None, tau, points, None, config.min_ess) for tau in taus]
    for kind, beta, tau in product(dict.fromkeys((*KINDS, own.kind)), betas, taus):
        target = build_target(own, kind, beta, tau)
        row = _row(kind, beta, tau, points, target, config.min_ess)
        rows.append(row | {"own": (kind, beta, tau) == (own.kind, own_beta, own_tau)})
    trusted = [row["beta"] for row in rows if row["target"] == "gibbs" and row["trusted"]]
    families = main_families(points, list(dict.fromkeys(trusted)), config.families)
    crossings = crossovers(points, [family.scaffold for family in families])
    sentences = [hit_sentence(points, hit_rate(points, tau)) for tau in taus]
    sentences += [
        row["sentence"] for row in rows if row["beta"] in (None, own_beta) and row["tau"] == own_tau
    ]
    sentences += bonus_sentences(rows, own_beta, own_tau)
    if not (own.kind == "mara" and own.reward_on_hits == "own"):
        sentences += alike_sentence(rows)
    moved = departures(
        config.estimator, config.shaper, filtered=config.diversity_filter is not None
    )
    sentences += [
        f"{why[0].upper()}{why[1:]}: training does not walk to the target that is forecast."
        for why in moved.values()
    ]
    sentences += crossover_sentences(crossings)
    return Forecast(rows, families, crossings, list(dict.fromkeys(sentences)))


def departures(
    estimator: EstimatorConfig, shaper: ShaperConfig | None, *, filtered: bool
) -> dict[str, str]:
    """What moves a trained policy off the target that is forecast: its name, and how."""
    reasons = {}
    if filtered:
        reasons["diversity filter"] = "the diversity filter withdraws rewards as the run goes"
    if shaper is not None:
        reasons[shaper.kind] = f"the shaper {shaper.kind} moves the policy off the target"
    if estimator.kind == "forward_kl":
        reasons["forward_kl"] = (
            "the estimator forward_kl has another optimum, proportional to pi_ref / (L - R)"
        )
    return reasons


def default_tau(config: ForecastConfig) -> float:
    """The tau of a target that has none."""
    return config.taus[0] if config.taus else DEFAULT_TAU


def _row(
    kind: str, beta: float | None, tau: float, points: Points, target: Target | None, min_ess: float
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
        return row | {"sentence": hit_sentence(points, rate)}
    prediction = describe(points, share_N, tau)
    unseen = hits_unseen(points, target, tau)
    trusted = prediction.ess >= min_ess and not unseen
    row |= {**asdict(prediction), "trusted": trusted}
    if prediction.ess < min_ess:
        row["top_share_error"] = None
    if isinstance(target, Mara):
        bonus = mara_bonus(points, target)
        row |= {
            "bonus_mean": bonus.mean,
            "bonus_std": bonus.std,
            "bonus_largest": bonus.largest,
            "reward_std": bonus.reward_std,
            "reward_range": bonus.reward_range,
        }
    if unseen:
        return row | {"sentence": hit_sentence(points, rate)}
    n = len(points)
    return row | {"sentence": target_sentence(kind, beta, tau, prediction, n, trusted=trusted)}


# ---- in words


def target_sentence(
    kind: str, beta: float | None, tau: float, p: Prediction, n: int, *, trusted: bool
) -> str:
    """Say in a sentence or two what a target asks for, by n points; beta None: the prior."""
    if beta is None:
        subject = "The prior"
    else:
        sigma = f"{1 / beta:.4g}"
        where = {"gibbs": f"sigma {sigma}", "filter": f"tau {tau:.3g}"}
        place = where.get(kind, f"sigma {sigma} and tau {tau:.3g}")
        subject = f"At {place} the {kind} target"
    if p.top_scaffold is None or p.effective_scaffolds is None:
        said = f"{subject} has no mass on any scaffold that was sampled."
    else:
        said = (
            f"{subject} puts {p.top_share:.1%} on one scaffold "
            f"({short(p.top_scaffold, SHOWN_SCAFFOLD)}); its effective number of scaffolds is "
            f"at least {number(p.effective_scaffolds)}, and {p.hit_share:.1%} of it are "
            f"hits (R >= {tau:.3g})."
        )
    if trusted:
        return said
    fix = (
        "MARA weighs each hit by 1 / pi_ref, over many nats, so that more samples help slowly; "
        "alpha below 1 or a cap in the target tame it"
        if kind == "mara"
        else "take more samples (n), or a smaller sigma"
    )
    return (
        f"{said} Not trustworthy: {number(p.ess)} of {n:,} samples carry the weight, so the "
        f"top share is likely too high and the number of scaffolds too low; {fix}."
    )


def hit_sentence(points: Points, rate: HitRate) -> str:
    """Say how often the prior reaches tau, or how near its samples come and which tau they tell."""
    interval = f"95 % interval {rate.low:.2%} to {rate.high:.2%}"
    if rate.rate > 0:
        return (
            f"The prior hits R >= {rate.tau:.3g} with {rate.rate:.2%} of its samples ({interval})."
        )
    best, top = float(points.reward_N.max()), float(np.quantile(points.reward_N, 1 - TOP))
    if not best:
        nearest = "The reward is 0 on every sample."
    else:
        nearest = f"The best reward seen is {_down(best)}" + (
            f", and the top {100 * TOP:g} % begins at {_down(top)}: take tau about there."
            if top
            else f"; fewer than {100 * TOP:g} % of the samples have a reward above 0."
        )
    return (
        f"No sample of the prior is a hit at R >= {rate.tau:.3g} ({interval}): the forecast "
        "cannot say what a target has on hits, and the rows of mara are those of gibbs, from "
        f"which it differs on hits alone. {nearest}"
    )


def _down(reward: float) -> str:
    """A reward with three digits, never rounded up: from there on there are samples."""
    step = 10.0 ** (math.floor(math.log10(reward)) - 2)
    return f"{math.floor(reward / step + 1e-6) * step:.3g}"


def bonus_sentences(rows: Sequence[Mapping[str, Any]], beta: float, tau: float) -> list[str]:
    """Say how large MARA's bonus is beside the reward, and where it is larger than that can be."""
    with_bonus = [row for row in rows if row["tau"] == tau and row.get("bonus_mean") is not None]
    said = [
        f"At sigma {row['sigma']:.4g} and tau {tau:.3g} the MARA bonus on hits is "
        f"{row['bonus_mean']:.3f} +- {row['bonus_std']:.3f} (at most {row['bonus_largest']:.3f}), "
        f"beside a reward of standard deviation {row['reward_std']:.3f} and range "
        f"{row['reward_range']:.3f}."
        for row in with_bonus
        if row["beta"] == beta
    ]
    larger = [r for r in with_bonus if r["bonus_largest"] > r["reward_range"]]
    if larger:
        sigmas = ", ".join(f"{row['sigma']:.4g}" for row in larger)
        said.append(
            f"At sigma {sigmas} the largest MARA bonus exceeds the whole range of the reward."
        )
    return said


def alike_sentence(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say why rows of mara do not depend on sigma, where they do not.

    The weights of the hits among one another have no sigma in them, as long as the target gives all
    hits the same reward; only their weight beside the other molecules has. Nothing is said where no
    sample is a hit: there the rows are those of gibbs.
    """
    by_tau: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["target"] == "mara" and row["hit_rate"] > 0:
            by_tau.setdefault(row["tau"], []).append(row)
    alike = [
        f"{tau:.3g}"
        for tau, group in by_tau.items()
        if len(group) > 1
        and min(row["hit_share"] for row in group) > 1 - ALIKE
        and min(row["ess"] for row in group) > (1 - ALIKE) * max(row["ess"] for row in group)
    ]
    if not alike:
        return []
    return [
        f"At tau {', '.join(alike)} the mara rows of all sigmas agree but for the bonus: sigma "
        "sets how much the hits have beside all other molecules, not how they share it, and here "
        "they have all of it at every sigma."
    ]


def crossover_sentences(crossings: Sequence[Crossover]) -> Iterator[str]:
    """Say which family overtakes which, and where, by the digits that the error leaves.

    Of crossovers that are not known well the number is told.
    """
    if not crossings:
        yield "No crossover among the main families: their order is the same at every beta."
    for crossing in crossings:
        error = crossing.sigma_error
        if not crossing.trusted:
            continue
        where = f"beta {crossing.beta:.3g} (sigma {crossing.sigma:.3g})"
        if error > 0:
            decimals = max(0, 1 - math.floor(math.log10(error)))
            sigma = f"sigma {crossing.sigma:.{decimals}f} +- {error:.{decimals}f}"
            where = f"beta {crossing.beta:.2g} ({sigma}; family ESS {number(crossing.ess)})"
        below, above = (short(s, SHOWN_SCAFFOLD) for s in (crossing.below, crossing.above))
        yield f"Below {where} {below} has more of the gibbs target than {above}."
    unsure = sum(not crossing.trusted for crossing in crossings)
    if unsure:
        yield f"Crossovers that too few molecules tell: {unsure}; they are in the JSON file."


def number(value: float) -> str:
    """An effective number without digits that mean nothing: whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# ---- on the screen


def target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each target: what it asks for, and from how many samples that is known.

    Prior and gibbs have no tau: they stand there once, with a column of hits for each tau, where
    there are few of them.
    """
    hits = [Column("hit_share", "hits", ".1%")]
    taus = list(dict.fromkeys(row["tau"] for row in rows))
    shown: Sequence[Mapping[str, Any]] = rows
    if len(taus) <= MOST_TAUS:
        hits = [Column(f"hits at {tau!r}", f">={tau:.3g}", ".1%") for tau in taus]
        joined: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            tau = None if row["target"] in ("prior", "gibbs") else row["tau"]
            one = joined.setdefault((row["target"], row["beta"], tau), {**row, "tau": tau})
            one |= {
                f"hits at {row['tau']!r}": row.get("hit_share"),
                "own": one["own"] or row["own"],
            }
        shown = list(joined.values())
    columns = (
        Column("name", "target"),
        Column("sigma", "sigma", ".4g"),
        Column("tau", "tau", ".3g"),
        Column("top_share", "top", ".1%"),
        Column("top_share_error", "+-", ".1%"),
        Column("effective_scaffolds", "eff.", ",.0f"),
        Column("acyclic_share", "acyclic", ".1%"),
        *hits,
        Column("mean_reward", "mean R", ".3f"),
        Column("kl_to_prior", "KL", ".1f"),
        Column("ess", "ESS", number),
        Column("bonus_mean", "bonus", ".3f"),
        Column("bonus_std", "+-", ".3f"),
        Column("mark", ""),
    )
    named = [
        {
            **row,
            "name": f"{row['target']} *" if row["own"] else row["target"],
            "mark": "" if row["trusted"] else DOUBTED,
        }
        for row in shown
    ]
    return table("The targets, forecast from the prior", columns, named, keep_empty=True)


def family_table(families: Sequence[Family]) -> Table:
    """The main scaffold families."""
    rows = [
        {
            **asdict(family),
            "scaffold": short(family.scaffold, SHOWN_SCAFFOLD),
            "sigma": family.beta or math.inf,
        }
        for family in families
    ]
    columns = (
        Column("scaffold", "scaffold"),
        Column("prior_share", "prior", ".2%"),
        Column("largest_share", "largest", ".2%"),
        Column("sigma", "at sigma", lambda b: "prior" if b == math.inf else f"{1 / b:.4g}"),
        Column("best_reward", "best R", ".3f"),
    )
    return table("The main scaffold families under gibbs", columns, rows, keep_empty=True)


def legend(min_ess: float, beside_runs: str = "") -> str:
    """How the tables are to be read; `beside_runs` says it of those of runs."""
    return (
        "*: the target of this config. top: share of the largest Bemis-Murcko scaffold, with its "
        "standard error; eff.: exp of the entropy over scaffolds; hits, >=: share with R >= tau; "
        "KL: to the prior, nats; ESS: effective sample size; bonus: what MARA adds to R on hits. "
        f"{DOUBTED}: not trustworthy, ESS below {min_ess:g} or a target of hits without a hit."
        f"{beside_runs} A crossover of two families is stated where the standard "
        "error of its sigma is below half of sigma, for which fewer samples do than for shares: "
        f"each family has an ESS of at least {FAMILY_ESS} there."
    )
