"""A forecast: a row for each target (kind x beta x tau), and what training gave beside it.

Rows, sentences and tables; runs are seen through as many samples as what is forecast of them.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError
from rich.table import Table

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import DEFAULT_TAU, ForecastConfig
from chemkl.config.objective import EstimatorConfig, ShaperConfig, TargetConfig
from chemkl.config.reward import RewardConfig
from chemkl.display import Column, short, table
from chemkl.evaluation import forecast as estimates
from chemkl.evaluation.comparison import posttrain_manifest
from chemkl.evaluation.forecast import FAMILY_ESS, Crossover, Family, Floats, Points, describe
from chemkl.evaluation.tables import SCAFFOLD_WIDTH, Rows
from chemkl.losses import TARGETS, Mara, Target
from chemkl.policies import read_header
from chemkl.results import InputFile, find_trace, read_trace
from chemkl.results.columns import described_schema
from chemkl.results.inspection import valid_rows
from chemkl.results.provenance import ABSENT, as_json, at_the_end, differences, method_settings

KINDS = ("gibbs", "mara")
"""Targets that are always looked at; the config's own comes with them."""
TOP = 0.01
"""Where no sample is a hit, the reward is named at which so large a share of the best begins."""
ALIKE = 1e-3
"""Effective sample sizes and hit shares that differ by a smaller share look the same in a table."""
DOUBTED, MOVED = "?", "!"
"""Mark a row that is not trustworthy, and a run that is not trained towards its forecast target."""
MOST_TAUS = 4
"""Up to so many, each tau has a column of its own for the hits; more do not fit a line."""
REDRAWS = 50
"""Redraws over which a prediction is averaged: what a few hundred samples show varies by chance."""
COMPARED = ("top_share", "effective_scaffolds", "acyclic_share", "hit_share", "mean_reward")
TRACE_COLUMNS = ("valid", "scaffold", "reward", "logp_ref", "is_replay", "origin")

FORECAST_SCHEMA = described_schema("""
target string: prior, gibbs, mara or filter.
beta double: KL coefficient, reward units per nat; null for the prior.
sigma double: 1/beta.
tau double: Reward from which on a molecule is a hit.
own bool: Whether this is the target of the config that is forecast.
hit_rate double: Share of the prior's samples with R >= tau.
hit_rate_low double: Lower end of its 95 % interval (Wilson).
hit_rate_high double: Upper end of its 95 % interval (Wilson).
ess double: Effective sample size of the weights, (sum w)^2 / sum w^2.
ess_share double: The same as a share of all samples, 0 to 1.
trusted bool: Whether ess is at least min_ess; else shares are unreliable.
top_scaffold string: Bemis-Murcko scaffold with the largest mass; null where no sample has a
  scaffold.
top_share double: Its share of the mass of molecules with a scaffold.
top_share_error double: Standard error of top_share from the finite sample; null where ess is below
  min_ess: so few points do not tell it.
effective_scaffolds double: exp of the entropy (nats) of the mass over scaffolds.
acyclic_share double: Mass of valid molecules without a scaffold, 0 to 1.
invalid_share double: Mass of strings that are no molecules, 0 to 1.
hit_share double: Mass of hits (R >= tau), 0 to 1.
mean_reward double: Expected reward under the target.
kl_to_prior double: KL(target || prior), nats; n samples cannot show more than log n.
bonus_mean double: Mean over the prior's hits of MARA's bonus beta (log mara - log gibbs), reward
  units; null for other targets and without hits.
bonus_std double: Standard deviation of that bonus.
bonus_largest double: Largest such bonus.
reward_std double: Standard deviation of R over all samples of the prior.
reward_range double: Largest minus smallest R among them.
sentence string: The row in plain words.
""")
SAMPLES_SCHEMA = described_schema("""
smiles string: SMILES as sampled from the prior.
canonical_smiles string: RDKit canonical SMILES; null: invalid.
valid bool: Whether RDKit parses and sanitises the string.
scaffold string: Bemis-Murcko scaffold; empty: acyclic; null: invalid.
logp_ref double: log pi_ref of the sequence, nats, end token included.
reward double: Raw reward R; 0 when invalid or failed.
""")


# ---- the rows


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
        crossings = [{**asdict(one), "trusted": one.trusted} for one in self.crossovers]
        families = [asdict(family) for family in self.families]
        tables = {"targets": self.rows, "families": families, "crossovers": crossings}
        return {**tables, "sentences": self.sentences}


def forecast_targets(config: ForecastConfig, points: Points) -> Forecast:
    """Forecast what the targets of a config ask for; its own beta and tau come with its lists."""
    config_target = config.target
    own_beta, own_tau = config_target.resolved_beta, tau_of([config_target], points, config)
    betas = sorted({*config.resolved_betas, own_beta}, reverse=True)
    taus = sorted({*(config.taus or ()), own_tau})
    rows = [_row("prior", None, tau, points, None, config.min_ess) for tau in taus]
    for kind, beta, tau in product(dict.fromkeys((*KINDS, config_target.kind)), betas, taus):
        target = build_target(config_target, kind, beta, tau)
        row = _row(kind, beta, tau, points, target, config.min_ess)
        rows.append(row | {"own": (kind, beta, tau) == (config_target.kind, own_beta, own_tau)})
    trusted = [row["beta"] for row in rows if row["target"] == "gibbs" and row["trusted"]]
    families = estimates.main_families(points, list(dict.fromkeys(trusted)), config.families)
    crossings = estimates.crossovers(points, [family.scaffold for family in families])
    moved = departures(config.estimator, config.shaper, config.diversity_filter)
    ranked = config_target.kind == "mara" and config_target.reward_on_hits == "own"  # by sigma
    of_prior = [row for row in rows if row["target"] == "prior"]
    at_own = [row for row in rows if row["beta"] in (None, own_beta) and row["tau"] == own_tau]
    sentences = [
        *(hit_sentence(points, row) for row in of_prior),
        *(row["sentence"] for row in at_own),
        *_bonus_sentences(rows, own_beta, own_tau),
        *(() if ranked else _alike_sentence(rows)),
        *(
            f"{why[0].upper()}{why[1:]}: training does not walk to the target that is forecast."
            for why in moved.values()
        ),
        *_crossover_sentences(crossings),
    ]
    return Forecast(rows, families, crossings, list(dict.fromkeys(sentences)))


def tau_of(targets: Sequence[TargetConfig], points: Points, config: ForecastConfig) -> float:
    """The tau of the first target that has one, as far as the prior's samples tell.

    A batch quantile moves with the policy; what is taken for it is that of the prior's samples.
    """
    for target in targets:
        if target.kind == "mara" and target.tau_quantile is not None:
            quantile = float(np.quantile(points.reward_N, target.tau_quantile))
            return quantile if target.tau_floor is None else max(target.tau_floor, quantile)
        if (tau := getattr(target, "tau", None)) is not None:  # gibbs has none
            return float(tau)
    return config.taus[0] if config.taus else DEFAULT_TAU


def build_target(config_target: TargetConfig, kind: str, beta: float, tau: float) -> Target:
    """Make a target of the loss core, with the options of the run's own where that is its kind."""
    if kind == "gibbs":
        return TARGETS[kind](beta=beta)
    if config_target.kind != kind:
        return TARGETS[kind](beta=beta, tau=tau)
    shape = {"kind", "beta", "sigma", "tau", "tau_quantile", "tau_floor", "schedule"}
    options = config_target.model_dump(exclude=shape, exclude_none=True)
    return TARGETS[kind](beta=beta, tau=tau, **options)


def _shares(points: Points, target: Target, tau: float) -> tuple[Floats | None, bool]:
    """The shares of a target, and whether it lives on hits and no sample is one: it is not seen.

    None for one that is nothing but hits, where no sample is one.
    """
    unseen = target.has_hits and not bool((points.reward_N >= tau).any())
    if target.full_support or bool(points.at(target).hit.any()):
        return estimates.target_shares(points, target), unseen
    return None, unseen


def departures(
    estimator: EstimatorConfig, shaper: ShaperConfig | None, diversity_filter: object
) -> dict[str, str]:
    """What moves a trained policy off the target that is forecast: its name, and how."""
    reasons = {}
    if diversity_filter is not None:
        reasons["diversity filter"] = "the diversity filter withdraws rewards as the run goes"
    if shaper is not None:
        reasons[shaper.kind] = f"the shaper {shaper.kind} moves the policy off the target"
    if estimator.kind == "forward_kl":
        reasons["forward_kl"] = (
            "the estimator forward_kl has another optimum, proportional to pi_ref / (L - R)"
        )
    return reasons


def _row(
    kind: str, beta: float | None, tau: float, points: Points, target: Target | None, min_ess: float
) -> dict[str, Any]:
    """One target; None stands for the prior itself."""
    sigma = None if beta is None else 1 / beta
    row: dict[str, Any] = {"target": kind, "beta": beta, "sigma": sigma, "tau": tau, "own": False}
    row |= estimates.hit_rate(points, tau) | {"trusted": False}
    share_N, unseen = (points.prior_N, False) if target is None else _shares(points, target, tau)
    if share_N is not None:
        row |= describe(points, share_N, tau)
        row["trusted"] = row["ess"] >= min_ess and not unseen
        if row["ess"] < min_ess:
            row["top_share_error"] = None
        if isinstance(target, Mara):
            row |= estimates.mara_bonus(points, target)
    if share_N is None or unseen:
        return row | {"sentence": hit_sentence(points, row)}
    return row | {"sentence": _target_sentence(row, len(points))}


# ---- in words


def _target_sentence(row: Mapping[str, Any], n: int) -> str:
    """Say in a sentence or two what a target asks for, by n points."""
    kind, tau = row["target"], f"tau {row['tau']:.3g}"
    subject = "The prior"
    if row["beta"] is not None:
        sigma = f"sigma {row['sigma']:.4g}"
        place = {"gibbs": sigma, "filter": tau}.get(kind, f"{sigma} and {tau}")
        subject = f"At {place} the {kind} target"
    said = f"{subject} has no mass on any scaffold that was sampled."
    if row["top_scaffold"] is not None:
        said = (
            f"{subject} puts {row['top_share']:.1%} on one scaffold "
            f"({short(row['top_scaffold'], SCAFFOLD_WIDTH)}); its effective number of scaffolds is "
            f"at least {number(row['effective_scaffolds'])}, and {row['hit_share']:.1%} of it are "
            f"hits (R >= {row['tau']:.3g})."
        )
    if row["trusted"]:
        return said
    fix = "take more samples (n), or a smaller sigma"
    if kind == "mara":
        fix = (
            "MARA weighs each hit by 1 / pi_ref, over many nats, so that more samples help slowly; "
            "alpha below 1 or a cap in the target tame it"
        )
    return (
        f"{said} Not trustworthy: {number(row['ess'])} of {n:,} samples carry the weight, so the "
        f"top share is likely too high and the number of scaffolds too low; {fix}."
    )


def hit_sentence(points: Points, row: Mapping[str, Any]) -> str:
    """Say how often the prior reaches tau, or how near its samples come and which tau they tell."""

    def down(reward: float) -> str:
        """A reward with three digits, never rounded up: from there on there are samples."""
        step = 10.0 ** (math.floor(math.log10(reward)) - 2)
        return f"{math.floor(reward / step + 1e-6) * step:.3g}"

    place = f"R >= {row['tau']:.3g}"
    interval = f"95 % interval {row['hit_rate_low']:.2%} to {row['hit_rate_high']:.2%}"
    if row["hit_rate"] > 0:
        return f"The prior hits {place} with {row['hit_rate']:.2%} of its samples ({interval})."
    best, top = float(points.reward_N.max()), float(np.quantile(points.reward_N, 1 - TOP))
    nearest = "The reward is 0 on every sample."
    if best:
        nearest = f"The best reward seen is {down(best)}" + (
            f", and the top {100 * TOP:g} % begins at {down(top)}: take tau about there."
            if top
            else f"; fewer than {100 * TOP:g} % of the samples have a reward above 0."
        )
    return (
        f"No sample of the prior is a hit at {place} ({interval}): the forecast "
        "cannot say what a target has on hits, and the rows of mara are those of gibbs, from "
        f"which it differs on hits alone. {nearest}"
    )


def _bonus_sentences(rows: Rows, beta: float, tau: float) -> Iterator[str]:
    """Say how large MARA's bonus is beside the reward, and where it is larger than that can be."""
    with_bonus = [row for row in rows if row["tau"] == tau and row.get("bonus_mean") is not None]
    for row in with_bonus:
        if row["beta"] == beta:
            yield (
                f"At sigma {row['sigma']:.4g} and tau {tau:.3g} the MARA bonus on hits is "
                f"{row['bonus_mean']:.3f} +- {row['bonus_std']:.3f} (at most "
                f"{row['bonus_largest']:.3f}), beside a reward of standard deviation "
                f"{row['reward_std']:.3f} and range {row['reward_range']:.3f}."
            )
    larger = [r for r in with_bonus if r["bonus_largest"] > r["reward_range"]]
    if larger:
        sigmas = ", ".join(f"{row['sigma']:.4g}" for row in larger)
        yield f"At sigma {sigmas} the largest MARA bonus exceeds the whole range of the reward."


def _alike_sentence(rows: Rows) -> Iterator[str]:
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
    if alike:
        yield (
            f"At tau {', '.join(alike)} the mara rows of all sigmas agree but for the bonus: sigma "
            "sets how much the hits have beside all other molecules, not how they share it, and "
            "here they have all of it at every sigma."
        )


def _crossover_sentences(crossings: Sequence[Crossover]) -> Iterator[str]:
    """Say which family overtakes which, and where, by the digits that the error leaves.

    Of crossovers that are not known well the number is told.
    """
    if not crossings:
        yield "No crossover among the main families: their order is the same at every beta."
    for crossing in (one for one in crossings if one.trusted):
        error = crossing.sigma_error
        decimals = max(0, 1 - math.floor(math.log10(error)))
        below, above = (short(s, SCAFFOLD_WIDTH) for s in (crossing.below, crossing.above))
        yield (
            f"Below beta {crossing.beta:.2g} (sigma {crossing.sigma:.{decimals}f} +- "
            f"{error:.{decimals}f}; family ESS {number(crossing.ess)}) {below} has more of the "
            f"gibbs target than {above}."
        )
    unsure = sum(not crossing.trusted for crossing in crossings)
    if unsure:
        yield f"Crossovers that too few molecules tell: {unsure}; they are in the JSON file."


def number(value: float) -> str:
    """An effective number without digits that mean nothing: whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# ---- runs beside the forecast


@dataclass(frozen=True)
class Trained:
    """A posttrain run to compare with; `moved`: what moved it off its target (`departures`)."""

    folder: Path
    target: TargetConfig
    moved: Mapping[str, str]
    settings: Mapping[str, Any]


class _RunConfig(BaseModel):
    """What a forecast needs of the settings of a run."""

    target: TargetConfig
    estimator: EstimatorConfig = Field("rloo", validate_default=True)
    shaper: ShaperConfig | None = None
    reward: RewardConfig
    diversity_filter: Any = None


def read_runs(folders: Sequence[Path], prior: Path | None, reward: RewardConfig) -> list[Trained]:
    """Read the manifests of the runs to compare with; traces are looked for, not read.

    They must have been trained from the model file `prior` (None: not made yet) and paid `reward`.
    """
    runs: list[Trained] = []
    differing: dict[str, list[Path]] = {}
    ours = _hashes(prior) if folders and prior is not None else None

    def look(folder: Path) -> None:
        run, other = _read_run(folder, reward, ours)
        runs.append(run)
        if other:
            differing.setdefault(other, []).append(folder)
        else:
            find_trace(folder)

    problems = complaints(*((look, folder) for folder in folders))
    problems += [
        f"{', '.join(map(str, named))}: trained with {other} than the config to forecast; a "
        "forecast holds for one prior and one reward. Leave out of runs what has others."
        for other, named in differing.items()
    ]
    InputError.refuse(problems)
    return runs


def _hashes(model: Path) -> set[str | None]:
    """SHA-256 of a model file, and of the file of REINVENT that it was made of."""
    known: set[str | None] = {InputFile.of(model).sha256}
    with suppress(InputError):  # no model, of which others tell
        known.add(read_header(model)["provenance"].get("sha256"))
    return known - {None}


def _read_run(
    folder: Path, reward: RewardConfig, ours: Collection[str | None] | None
) -> tuple[Trained, str]:
    """Read a run's manifest; also return what is another than that of the forecast, in words."""
    manifest = posttrain_manifest(folder)
    try:
        run = _RunConfig.model_validate(at_the_end(manifest.config))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(
            f"{folder}: its target, estimator, shaper or reward cannot be read: {problem}"
        ) from error
    prior, theirs = manifest.inputs.get("prior"), set[str | None]()
    if prior is not None:
        now = _hashes(prior.place) if prior.place.is_file() else set()
        theirs = {prior.sha256, prior.kept_sha256} | (now if prior.sha256 in now else set())
    others = {  # model_dump leaves out what is no part of a reward's identity
        "another reward": run.reward.model_dump() != reward.model_dump(),
        "another prior": ours is not None and theirs.isdisjoint(ours),
    }
    moved = departures(run.estimator, run.shaper, run.diversity_filter)
    settings = method_settings(manifest.config, manifest.inputs)
    other = " and ".join(name for name, differs in others.items() if differs)
    return Trained(folder, run.target, moved, settings), other


def compare(
    runs: Mapping[str, Trained], points: Points, config: ForecastConfig
) -> list[dict[str, Any]]:
    """Three rows for each run: the prior, the forecast of the run's own target, and the training.

    All are seen through equally many valid samples, as many as the shortest run has: how many
    scaffolds one sees, and how large the largest is, depends on that.
    """
    valid = {name: valid_rows(read_trace(run.folder, TRACE_COLUMNS)) for name, run in runs.items()}
    empty = [str(runs[name].folder) for name, rows in valid.items() if rows.empty]
    if empty:
        raise InputError(
            f"{', '.join(empty)}: no valid sample in the trace to compare with; leave out of runs."
        )
    n = min([config.late_samples, *map(len, valid.values())])
    labels, rows = run_labels(runs), []
    for name, run in runs.items():
        target, late = run.target, points_of(valid[name].tail(n))
        tau = tau_of([target, config.target], points, config)
        built = build_target(target, target.kind, target.resolved_beta, tau)
        share_N, unseen = _shares(points, built, tau)
        ess = 0.0 if share_N is None else describe(points, share_N, tau)["ess"]
        trusted = ess >= config.min_ess and not unseen
        of_prior = expected_view(points, points.prior_N, tau, n, config.seed)
        seen = describe(late, late.prior_N, tau)  # each sample counts once
        observed = {name: seen[name] for name in COMPARED}
        forecast: dict[str, Any] = dict.fromkeys(COMPARED)
        if share_N is not None:
            forecast = expected_view(points, share_N, tau, n, config.seed)
        head = {
            "run": name,
            "folder": str(run.folder),
            "label": labels[name],
            "target": target.kind,
            "sigma": None if target.kind == "filter" else 1 / target.resolved_beta,
            "tau": tau,
            "moved": dict(run.moved),
            "n": n,
            "n_valid": len(valid[name]),
        }
        rows += [
            {**head, "source": "prior", **of_prior, "ess": float(len(points)), "trusted": True},
            {**head, "source": "forecast", **forecast, "ess": ess, "trusted": trusted},
            {**head, "source": "trained", **observed, "ess": None, "trusted": None},
        ]
    return rows


def run_labels(runs: Mapping[str, Trained]) -> dict[str, str]:
    """Label runs by target and what moved them off it, and where these are alike by what is not."""
    labels = {
        name: " + ".join([target_label(run.target), *run.moved]) for name, run in runs.items()
    }
    for label in set(labels.values()):
        alike = {name: runs[name].settings for name, other in labels.items() if other == label}
        for key, values in differences(alike).items():
            for name, value in values.items():
                if value is not ABSENT:
                    labels[name] += f", {key} {as_json(value)}"
    return labels


def target_label(target: TargetConfig) -> str:
    """A target in a few words, with every setting that is not the default.

    A filter has no sigma: its beta scales the loss alone.
    """
    name = "filter" if target.kind == "filter" else f"{target.kind} {1 / target.resolved_beta:.4g}"
    left_out = {"kind", "beta", "sigma", "schedule"}
    settings = target.model_dump(exclude=left_out, exclude_defaults=True)
    values = (f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in settings.items())
    return ", ".join([name, *values])


def points_of(rows: pd.DataFrame) -> Points:
    """Take the points out of scored rows: the columns valid, scaffold, logp_ref and reward.

    A valid molecule whose scaffold failed counts as one without a scaffold.
    """
    scaffolds = [
        None if not valid else scaffold if isinstance(scaffold, str) else ""
        for valid, scaffold in zip(rows["valid"], rows["scaffold"], strict=True)
    ]
    return Points(rows["logp_ref"].to_numpy(float), rows["reward"].to_numpy(float), scaffolds)


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
    values = {name: [v[name] for v in views if v[name] is not None] for name in COMPARED}
    return {name: float(np.mean(shown)) if shown else None for name, shown in values.items()}


def run_sentences(rows: Rows) -> list[str]:
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


# ---- on the screen

_SPREAD = (
    Column("top_share", "top", ".1%"),
    Column("top_share_error", "+-", ".1%"),
    Column("effective_scaffolds", "eff.", ",.0f"),
    Column("acyclic_share", "acyclic", ".1%"),
)


def target_table(rows: Rows) -> Table:
    """One row for each target: what it asks for, and from how many samples that is known.

    Prior and gibbs have no tau: they stand there once, with a column of hits for each tau, where
    there are few of them.
    """
    hits = [Column("hit_share", "hits", ".1%")]
    taus = list(dict.fromkeys(row["tau"] for row in rows))
    shown: Rows = rows
    if len(taus) <= MOST_TAUS:
        hits = [Column(f"hits at {tau!r}", f">={tau:.3g}", ".1%") for tau in taus]
        joined: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            tau = None if row["target"] in ("prior", "gibbs") else row["tau"]
            one = joined.setdefault((row["target"], row["beta"], tau), {**row, "tau": tau})
            one[f"hits at {row['tau']!r}"] = row.get("hit_share")
            one["own"] |= row["own"]
        shown = list(joined.values())
    columns = (
        *(Column("name", "target"), Column("sigma", "sigma", ".4g"), Column("tau", "tau", ".3g")),
        *_SPREAD,
        *hits,
        Column("mean_reward", "mean R", ".3f"),
        Column("kl_to_prior", "KL", ".1f"),
        Column("ess", "ESS", number),
        Column("bonus_mean", "bonus", ".3f"),
        Column("bonus_std", "+-", ".3f"),
        Column("mark", ""),
    )
    named = []
    for row in shown:
        name = f"{row['target']}{' *' if row['own'] else ''}"
        named.append({**row, "name": name, "mark": "" if row["trusted"] else DOUBTED})
    return table("The targets, forecast from the prior", columns, named, keep_empty=True)


def run_table(rows: Rows) -> Table:
    """For each run what was predicted for its own target and what training gave."""
    n = rows[0]["n"]
    title = f"What was forecast, and what training gave: {n:,} valid samples each"
    shortest = list(dict.fromkeys(row["run"] for row in rows if row["n_valid"] == n))
    if shortest:
        title = f"{title} (all that there are of {', '.join(shortest)})"
    columns = (
        *(Column("run", "run"), Column("label", "target"), Column("source", "")),
        *(column for column in _SPREAD if column.label != "+-"),
        Column("tau", "tau", ".3g"),
        Column("hit_share", "hits", ".1%"),
        Column("mean_reward", "mean R", ".3f"),
        Column("ess", "ESS", number),
        Column("mark", ""),
    )
    shown = []
    for row in rows:
        is_moved = row["source"] == "trained" and row["moved"]
        mark = MOVED if is_moved else DOUBTED if row["trusted"] is False else ""
        once = {} if row["source"] == "prior" else {"run": "", "label": ""}
        shown.append({**row, **once, "mark": mark})
    return table(title, columns, shown, keep_empty=True)


def page(
    forecast: Forecast, runs: Rows, counts: Mapping[str, int], *, min_ess: float
) -> Iterator[Table | str]:
    """Everything, in the order in which it is to be read: tables, how to read them, sentences."""
    yield (
        f"{counts['samples']:,} samples of the prior, {counts['valid']:,} valid, for "
        f"{counts['calls']:,} oracle calls"
    )
    yield target_table(forecast.rows)
    columns = (
        Column("scaffold", "scaffold"),
        Column("prior_share", "prior", ".2%"),
        Column("largest_share", "largest", ".2%"),
        Column("sigma", "at sigma", lambda sigma: f"{sigma:.4g}" if sigma else "prior"),
        Column("best_reward", "best R", ".3f"),
    )
    shown = [
        asdict(family)
        | {"scaffold": short(family.scaffold, SCAFFOLD_WIDTH)}
        | {"sigma": 1 / family.beta if family.beta else 0.0}
        for family in forecast.families
    ]
    yield table("The main scaffold families under gibbs", columns, shown, keep_empty=True)
    beside = ""
    if runs:
        yield run_table(runs)
        beside = (
            " Of each run the last samples are counted; prior and forecast are what as many of "
            f"theirs show on average. {MOVED}: not trained towards the target that is forecast, "
            "see below."
        )
    yield (
        "*: the target of this config. top: share of the largest Bemis-Murcko scaffold, with its "
        "standard error; eff.: exp of the entropy over scaffolds; hits, >=: share with R >= tau; "
        "KL: to the prior, nats; ESS: effective sample size; bonus: what MARA adds to R on hits. "
        f"{DOUBTED}: not trustworthy, ESS below {min_ess:g} or a target of hits without a hit."
        f"{beside} A crossover of two families is stated where the standard "
        "error of its sigma is below half of sigma, for which fewer samples do than for shares: "
        f"each family has an ESS of at least {FAMILY_ESS} there."
    )
    yield "\n".join(["", *forecast.sentences])
