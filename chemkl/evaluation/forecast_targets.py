"""A forecast: one row per target (kind x beta x tau), its sentences, and a comparison with runs.

Forecast and trained runs are compared at the same number of samples.
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
"""Targets that are always forecast, in addition to the config's."""
TOP = 0.01
"""Without a hit, the message gives the reward that this share of the samples reaches."""
TOLERANCE = 1e-3
"""Relative difference of effective sample sizes and hit shares that counts as none."""
UNTRUSTED, OFF_TARGET = "?", "!"
"""Marks of an unreliable row, and of a run that is not trained towards its forecast target."""
MAX_TAUS = 4
"""Up to this number, each tau has its own column of hits; more do not fit on a line."""
REDRAWS = 50
"""Resamplings that a prediction is averaged over, since a few hundred samples vary by chance."""
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
    """The forecast of a config from samples of the prior.

    `rows` are those of `forecast.parquet`: the prior, then every kind, beta and tau. `families` are
    the largest under the prior and the reliable gibbs targets, `crossovers` the betas where one
    overtakes another, `sentences` the findings for the config's beta and tau.
    """

    rows: list[dict[str, Any]]
    families: list[Family]
    crossovers: list[Crossover]
    sentences: list[str]

    def plain(self) -> dict[str, Any]:
        """Convert to the values of `forecast.json`."""
        crossings = [{**asdict(c), "trusted": c.trusted} for c in self.crossovers]
        families = [asdict(family) for family in self.families]
        tables = {"targets": self.rows, "families": families, "crossovers": crossings}
        return {**tables, "sentences": self.sentences}


def forecast_targets(config: ForecastConfig, points: Points) -> Forecast:
    """Forecast the targets of a config, at its own beta and tau and those it lists."""
    config_target = config.target
    beta_0, tau_0 = config_target.resolved_beta, tau_of([config_target], points, config)
    betas = sorted({*config.resolved_betas, beta_0}, reverse=True)
    taus = sorted({*(config.taus or ()), tau_0})
    rows = [_row("prior", None, tau, points, None, config.min_ess) for tau in taus]
    for kind, beta, tau in product(dict.fromkeys((*KINDS, config_target.kind)), betas, taus):
        target = build_target(config_target, kind, beta, tau)
        row = _row(kind, beta, tau, points, target, config.min_ess)
        rows.append(row | {"own": (kind, beta, tau) == (config_target.kind, beta_0, tau_0)})
    trusted = [row["beta"] for row in rows if row["target"] == "gibbs" and row["trusted"]]
    families = estimates.main_families(points, list(dict.fromkeys(trusted)), config.families)
    crossings = estimates.crossovers(points, [family.scaffold for family in families])
    reasons = departures(config.estimator, config.shaper, config.diversity_filter).values()
    # with reward_on_hits: own, sigma ranks the hits
    ranked = config_target.kind == "mara" and config_target.reward_on_hits == "own"
    prior_rows = [row for row in rows if row["target"] == "prior"]
    config_rows = [row for row in rows if row["beta"] in (None, beta_0) and row["tau"] == tau_0]
    sentences = [
        *(hit_sentence(points, row) for row in prior_rows),
        *(row["sentence"] for row in config_rows),
        *_bonus_sentences(rows, beta_0, tau_0),
        *(() if ranked else _equal_sigmas_sentence(rows)),
        *(
            f"{reason[0].upper()}{reason[1:]}: training does not converge to the forecast target."
            for reason in reasons
        ),
        *_crossover_sentences(crossings),
    ]
    return Forecast(rows, families, crossings, list(dict.fromkeys(sentences)))


def tau_of(targets: Sequence[TargetConfig], points: Points, config: ForecastConfig) -> float:
    """Return the tau of the first target that has one.

    A batch quantile changes with the policy; here it is that of the prior's samples.
    """
    for target in targets:
        if target.kind == "mara" and target.tau_quantile is not None:
            quantile = float(np.quantile(points.reward_N, target.tau_quantile))
            return quantile if target.tau_floor is None else max(target.tau_floor, quantile)
        if (tau := getattr(target, "tau", None)) is not None:  # gibbs has none
            return float(tau)
    return config.taus[0] if config.taus else DEFAULT_TAU


def build_target(config_target: TargetConfig, kind: str, beta: float, tau: float) -> Target:
    """Build a target of the loss core, with the config's options if it has the config's kind."""
    if kind == "gibbs":
        return TARGETS[kind](beta=beta)
    if config_target.kind != kind:
        return TARGETS[kind](beta=beta, tau=tau)
    replaced = {"kind", "beta", "sigma", "tau", "tau_quantile", "tau_floor", "schedule"}
    options = config_target.model_dump(exclude=replaced, exclude_none=True)
    return TARGETS[kind](beta=beta, tau=tau, **options)


def _shares(points: Points, target: Target, tau: float) -> tuple[Floats | None, bool]:
    """Return the shares of a target, and whether it depends on hits but no sample is a hit.

    The shares are None if the target has mass on hits only and no sample is a hit.
    """
    unseen = target.has_hits and not bool((points.reward_N >= tau).any())
    if target.full_support or bool(points.at(target).hit.any()):
        return estimates.target_shares(points, target), unseen
    return None, unseen


def departures(
    estimator: EstimatorConfig, shaper: ShaperConfig | None, diversity_filter: object
) -> dict[str, str]:
    """Return the settings that keep training from the forecast target, by name with the reason."""
    reasons = {}
    if diversity_filter is not None:
        reasons["diversity filter"] = "the diversity filter removes rewards during the run"
    if shaper is not None:
        reasons[shaper.kind] = f"the shaper {shaper.kind} shifts the policy from the target"
    if estimator.kind == "forward_kl":
        reasons["forward_kl"] = (
            "the estimator forward_kl has a different optimum, proportional to pi_ref / (L - R)"
        )
    return reasons


def _row(
    kind: str, beta: float | None, tau: float, points: Points, target: Target | None, min_ess: float
) -> dict[str, Any]:
    """Make the row of a target; None: the prior itself."""
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


# ---- sentences


def _target_sentence(row: Mapping[str, Any], n: int) -> str:
    """Describe a target, estimated from n points, in one or two sentences."""
    kind, tau = row["target"], f"tau {row['tau']:.3g}"
    subject = "The prior"
    if row["beta"] is not None:
        sigma = f"sigma {row['sigma']:.4g}"
        place = {"gibbs": sigma, "filter": tau}.get(kind, f"{sigma} and {tau}")
        subject = f"At {place} the {kind} target"
    text = f"{subject} has no mass on any sampled scaffold."
    if row["top_scaffold"] is not None:
        text = (
            f"{subject} puts {row['top_share']:.1%} on one scaffold "
            f"({short(row['top_scaffold'], SCAFFOLD_WIDTH)}); its effective number of scaffolds is "
            f"at least {number(row['effective_scaffolds'])}, and {row['hit_share']:.1%} of its "
            f"mass is on hits (R >= {row['tau']:.3g})."
        )
    if row["trusted"]:
        return text
    fix = "use more samples (n) or a smaller sigma"
    if kind == "mara":
        fix = (
            "MARA weights each hit by 1 / pi_ref, which varies by many nats, so more samples help "
            "only slowly; alpha below 1 or a cap in the target reduces this"
        )
    return (
        f"{text} Unreliable: the effective sample size is {number(row['ess'])} of {n:,}, so the "
        f"top share is probably too high and the number of scaffolds too low; {fix}."
    )


def hit_sentence(points: Points, row: Mapping[str, Any]) -> str:
    """Say how often the prior reaches tau; without a hit, suggest a tau that samples reach."""

    def down(reward: float) -> str:
        """Round a reward down to three digits, so that samples reach it."""
        step = 10.0 ** (math.floor(math.log10(reward)) - 2)
        return f"{math.floor(reward / step + 1e-6) * step:.3g}"

    hit = f"R >= {row['tau']:.3g}"
    interval = f"95 % interval {row['hit_rate_low']:.2%} to {row['hit_rate_high']:.2%}"
    if row["hit_rate"] > 0:
        return f"{row['hit_rate']:.2%} of the prior's samples are hits, {hit} ({interval})."
    best, top = float(points.reward_N.max()), float(np.quantile(points.reward_N, 1 - TOP))
    advice = "The reward of every sample is 0."
    if best:
        advice = f"The highest reward is {down(best)}" + (
            f", and the top {100 * TOP:g} % of the samples reach {down(top)}: set tau near that."
            if top
            else f"; fewer than {100 * TOP:g} % of the samples have a reward above 0."
        )
    return (
        f"No sample of the prior is a hit, {hit} ({interval}): the mass of a target on hits cannot "
        "be estimated, and the rows of mara equal those of gibbs, from which mara differs on hits "
        f"only. {advice}"
    )


def _bonus_sentences(rows: Rows, beta: float, tau: float) -> Iterator[str]:
    """Compare MARA's bonus with the reward, and name the sigmas at which it exceeds its range."""
    with_bonus = [row for row in rows if row["tau"] == tau and row.get("bonus_mean") is not None]
    for row in with_bonus:
        if row["beta"] == beta:
            yield (
                f"At sigma {row['sigma']:.4g} and tau {tau:.3g} the MARA bonus on hits is "
                f"{row['bonus_mean']:.3f} +- {row['bonus_std']:.3f} (at most "
                f"{row['bonus_largest']:.3f}); the reward has standard deviation "
                f"{row['reward_std']:.3f} and range {row['reward_range']:.3f}."
            )
    larger = [r for r in with_bonus if r["bonus_largest"] > r["reward_range"]]
    if larger:
        sigmas = ", ".join(f"{row['sigma']:.4g}" for row in larger)
        yield f"At sigma {sigmas} the largest MARA bonus exceeds the range of the reward."


def _equal_sigmas_sentence(rows: Rows) -> Iterator[str]:
    """Explain rows of mara that do not depend on sigma, if there are any.

    If the target gives all hits the same reward, the ratio of the weights of two hits does not
    depend on sigma; only their weight relative to other molecules does. Without a hit the rows
    equal those of gibbs, and there is no sentence.
    """
    by_tau: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["target"] == "mara" and row["hit_rate"] > 0:
            by_tau.setdefault(row["tau"], []).append(row)
    equal = [
        f"{tau:.3g}"
        for tau, group in by_tau.items()
        if len(group) > 1
        and min(row["hit_share"] for row in group) > 1 - TOLERANCE
        and min(row["ess"] for row in group) > (1 - TOLERANCE) * max(row["ess"] for row in group)
    ]
    if equal:
        yield (
            f"At tau {', '.join(equal)} the mara rows of all sigmas are equal except for the "
            "bonus: sigma sets the mass of the hits relative to other molecules, not its "
            "distribution over the hits, and here the hits have all the mass at every sigma."
        )


def _crossover_sentences(crossings: Sequence[Crossover]) -> Iterator[str]:
    """Describe the reliable crossovers, to the precision of their errors, and count the others."""
    if not crossings:
        yield "No crossover among the main families: their order is the same at every beta."
    for crossing in (c for c in crossings if c.trusted):
        error = crossing.sigma_error
        decimals = max(0, 1 - math.floor(math.log10(error)))
        below, above = (short(s, SCAFFOLD_WIDTH) for s in (crossing.below, crossing.above))
        yield (
            f"Below beta {crossing.beta:.2g} (sigma {crossing.sigma:.{decimals}f} +- "
            f"{error:.{decimals}f}; family ESS {number(crossing.ess)}) {below} has more of the "
            f"gibbs target than {above}."
        )
    uncertain = sum(not crossing.trusted for crossing in crossings)
    if uncertain:
        yield f"Crossovers with too few molecules: {uncertain}; they are in forecast.json."


def number(value: float) -> str:
    """Format an effective number with significant digits only: whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# ---- comparison with runs


@dataclass(frozen=True)
class TrainedRun:
    """A posttrain run to compare with; `departures` as returned by the function of that name."""

    folder: Path
    target: TargetConfig
    departures: Mapping[str, str]
    settings: Mapping[str, Any]


class _RunConfig(BaseModel):
    """The settings of a run that a forecast uses."""

    target: TargetConfig
    estimator: EstimatorConfig = Field("rloo", validate_default=True)
    shaper: ShaperConfig | None = None
    reward: RewardConfig
    diversity_filter: Any = None


def read_runs(
    folders: Sequence[Path], prior: Path | None, reward: RewardConfig
) -> list[TrainedRun]:
    """Read the manifests of the runs to compare with, and check that they have traces.

    They must have been trained from the model file `prior` (None: it does not exist yet) with
    `reward`.
    """
    runs: list[TrainedRun] = []
    differing: dict[str, list[Path]] = {}
    prior_hashes = _hashes(prior) if folders and prior is not None else None

    def read(folder: Path) -> None:
        run, difference = _read_run(folder, reward, prior_hashes)
        runs.append(run)
        if difference:
            differing.setdefault(difference, []).append(folder)
        else:
            find_trace(folder)

    problems = complaints(*((read, folder) for folder in folders))
    problems += [
        f"{', '.join(map(str, group))}: trained with {difference} than the config to forecast; a "
        "forecast holds for one prior and one reward. Remove these from runs."
        for difference, group in differing.items()
    ]
    InputError.refuse(problems)
    return runs


def _hashes(model: Path) -> set[str | None]:
    """Return the SHA-256 of a model file, and of the REINVENT file it was converted from."""
    hashes: set[str | None] = {InputFile.of(model).sha256}
    with suppress(InputError):  # another check reports a file that is no model
        hashes.add(read_header(model)["provenance"].get("sha256"))
    return hashes - {None}


def _read_run(
    folder: Path, reward: RewardConfig, prior_hashes: Collection[str | None] | None
) -> tuple[TrainedRun, str]:
    """Read a run's manifest; also say whether it has another reward or prior, empty if neither."""
    manifest = posttrain_manifest(folder)
    try:
        run = _RunConfig.model_validate(at_the_end(manifest.config))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(
            f"{folder}: its target, estimator, shaper or reward cannot be read: {problem}"
        ) from error
    prior, run_hashes = manifest.inputs.get("prior"), set[str | None]()
    if prior is not None:
        now = _hashes(prior.place) if prior.place.is_file() else set()
        run_hashes = {prior.sha256, prior.kept_sha256} | (now if prior.sha256 in now else set())
    checks = {  # model_dump excludes settings that are not part of a reward's identity
        "another reward": run.reward.model_dump() != reward.model_dump(),
        "another prior": prior_hashes is not None and run_hashes.isdisjoint(prior_hashes),
    }
    reasons = departures(run.estimator, run.shaper, run.diversity_filter)
    settings = method_settings(manifest.config, manifest.inputs)
    difference = " and ".join(name for name, differs in checks.items() if differs)
    return TrainedRun(folder, run.target, reasons, settings), difference


def compare(
    runs: Mapping[str, TrainedRun], points: Points, config: ForecastConfig
) -> list[dict[str, Any]]:
    """Make three rows per run: the prior, the forecast of the run's target, and the trained policy.

    All use the same number of valid samples, at most that of the shortest run, because the number
    of scaffolds and the share of the largest depend on it.
    """
    valid = {name: valid_rows(read_trace(run.folder, TRACE_COLUMNS)) for name, run in runs.items()}
    empty = [str(runs[name].folder) for name, rows in valid.items() if rows.empty]
    if empty:
        raise InputError(
            f"{', '.join(empty)}: no valid sample in the trace to compare with; remove from runs."
        )
    n = min([config.late_samples, *map(len, valid.values())])
    labels, rows = run_labels(runs), []
    for name, run in runs.items():
        settings, late = run.target, points_of(valid[name].tail(n))
        tau = tau_of([settings, config.target], points, config)
        target = build_target(settings, settings.kind, settings.resolved_beta, tau)
        share_N, unseen = _shares(points, target, tau)
        ess = 0.0 if share_N is None else describe(points, share_N, tau)["ess"]
        trusted = ess >= config.min_ess and not unseen
        of_prior = expected_values(points, points.prior_N, tau, n, config.seed)
        late_values = describe(late, late.prior_N, tau)  # each sample counts once
        observed = {name: late_values[name] for name in COMPARED}
        forecast: dict[str, Any] = dict.fromkeys(COMPARED)
        if share_N is not None:
            forecast = expected_values(points, share_N, tau, n, config.seed)
        head = {
            "run": name,
            "folder": str(run.folder),
            "label": labels[name],
            "target": settings.kind,
            "sigma": None if settings.kind == "filter" else 1 / settings.resolved_beta,
            "tau": tau,
            "moved": dict(run.departures),
            "n": n,
            "n_valid": len(valid[name]),
        }
        rows += [
            {**head, "source": "prior", **of_prior, "ess": float(len(points)), "trusted": True},
            {**head, "source": "forecast", **forecast, "ess": ess, "trusted": trusted},
            {**head, "source": "trained", **observed, "ess": None, "trusted": None},
        ]
    return rows


def run_labels(runs: Mapping[str, TrainedRun]) -> dict[str, str]:
    """Label runs by target and departures from it; equal labels get the settings that differ."""
    labels = {
        name: " + ".join([target_label(run.target), *run.departures]) for name, run in runs.items()
    }
    for label in set(labels.values()):
        same_label = {name: runs[name].settings for name, text in labels.items() if text == label}
        for key, values in differences(same_label).items():
            for name, value in values.items():
                if value is not ABSENT:
                    labels[name] += f", {key} {as_json(value)}"
    return labels


def target_label(target: TargetConfig) -> str:
    """Describe a target by its kind, sigma and all settings that differ from their defaults.

    A filter has no sigma: its beta only scales the loss.
    """
    name = "filter" if target.kind == "filter" else f"{target.kind} {1 / target.resolved_beta:.4g}"
    excluded = {"kind", "beta", "sigma", "schedule"}
    settings = target.model_dump(exclude=excluded, exclude_defaults=True)
    values = (f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in settings.items())
    return ", ".join([name, *values])


def points_of(rows: pd.DataFrame) -> Points:
    """Make points from scored rows with the columns valid, scaffold, logp_ref and reward.

    A valid molecule whose scaffold failed counts as acyclic.
    """
    scaffolds = [
        None if not valid else scaffold if isinstance(scaffold, str) else ""
        for valid, scaffold in zip(rows["valid"], rows["scaffold"], strict=True)
    ]
    return Points(rows["logp_ref"].to_numpy(float), rows["reward"].to_numpy(float), scaffolds)


def expected_values(
    points: Points, share_N: Floats, tau: float, n: int, seed: int
) -> dict[str, float | None]:
    """Compute the mean of the values of `describe` over sets of n valid samples of a target.

    The number of scaffolds and the largest share depend on the number of samples, so sets of n are
    drawn from the points, weighted by the target's shares, and described like those of a run.
    """
    chance_N = np.where(points.valid_N, share_N, 0.0)
    if chance_N.sum() == 0:
        return dict.fromkeys(COMPARED)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n, chance_N / chance_N.sum(), size=REDRAWS)
    sets = [describe(points, count_N / n, tau) for count_N in draws]
    values = {name: [s[name] for s in sets if s[name] is not None] for name in COMPARED}
    return {name: float(np.mean(column)) if column else None for name, column in values.items()}


def run_sentences(rows: Rows) -> list[str]:
    """Say which runs were not trained towards their forecast target, and why."""
    by_reason: dict[str, dict[str, None]] = {}
    for row in rows:
        for reason in row["moved"].values():
            by_reason.setdefault(reason, {})[row["run"]] = None
    return [
        f"{OFF_TARGET} {', '.join(names)}: {reason}, so training did not converge to the forecast "
        "target."
        for reason, names in by_reason.items()
    ]


# ---- tables

_SPREAD = (
    Column("top_share", "top", ".1%"),
    Column("top_share_error", "+-", ".1%"),
    Column("effective_scaffolds", "eff.", ",.0f"),
    Column("acyclic_share", "acyclic", ".1%"),
)


def target_table(rows: Rows) -> Table:
    """Make the table of the targets, with a column of hits for each tau unless there are too many.

    Prior and gibbs do not depend on tau: their rows for several taus are joined into one.
    """
    hits = [Column("hit_share", "hits", ".1%")]
    taus = list(dict.fromkeys(row["tau"] for row in rows))
    if len(taus) <= MAX_TAUS:
        hits = [Column(f"hits at {tau!r}", f">={tau:.3g}", ".1%") for tau in taus]
        joined: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            tau = None if row["target"] in ("prior", "gibbs") else row["tau"]
            line = joined.setdefault((row["target"], row["beta"], tau), {**row, "tau": tau})
            line[f"hits at {row['tau']!r}"] = row.get("hit_share")
            line["own"] |= row["own"]
        rows = list(joined.values())
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
    lines = []
    for row in rows:
        name = f"{row['target']}{' *' if row['own'] else ''}"
        lines.append({**row, "name": name, "mark": "" if row["trusted"] else UNTRUSTED})
    return table("Targets, forecast from samples of the prior", columns, lines, keep_empty=True)


def run_table(rows: Rows) -> Table:
    """Make the table of runs: the forecast of each run's target and the result of training."""
    n = rows[0]["n"]
    title = f"Forecast and result of training: {n:,} valid samples each"
    shortest = list(dict.fromkeys(row["run"] for row in rows if row["n_valid"] == n))
    if shortest:
        title = f"{title} (all samples of {', '.join(shortest)})"
    columns = (
        *(Column("run", "run"), Column("label", "target"), Column("source", "")),
        *(column for column in _SPREAD if column.label != "+-"),
        Column("tau", "tau", ".3g"),
        Column("hit_share", "hits", ".1%"),
        Column("mean_reward", "mean R", ".3f"),
        Column("ess", "ESS", number),
        Column("mark", ""),
    )
    lines = []
    for row in rows:
        is_off_target = row["source"] == "trained" and row["moved"]
        mark = OFF_TARGET if is_off_target else UNTRUSTED if row["trusted"] is False else ""
        # run and label only on the first of the three lines
        first = {} if row["source"] == "prior" else {"run": "", "label": ""}
        lines.append({**row, **first, "mark": mark})
    return table(title, columns, lines, keep_empty=True)


def page(
    forecast: Forecast, runs: Rows, counts: Mapping[str, int], *, min_ess: float
) -> Iterator[Table | str]:
    """Yield the parts of the output in order: tables, their legend, sentences."""
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
    lines = [
        asdict(family)
        | {"scaffold": short(family.scaffold, SCAFFOLD_WIDTH)}
        | {"sigma": 1 / family.beta if family.beta else 0.0}
        for family in forecast.families
    ]
    yield table("The main scaffold families under gibbs", columns, lines, keep_empty=True)
    runs_legend = ""
    if runs:
        yield run_table(runs)
        runs_legend = (
            " The rows of a run cover its last samples; prior and forecast are means over sets of "
            f"as many samples. {OFF_TARGET}: not trained towards the forecast target, see below."
        )
    yield (
        "*: the target of this config. top: share of the largest Bemis-Murcko scaffold, with its "
        "standard error; eff.: exp of the entropy over scaffolds; hits, >=: share with R >= tau; "
        "KL: to the prior, nats; ESS: effective sample size; bonus: what MARA adds to R on hits. "
        f"{UNTRUSTED}: unreliable, ESS below {min_ess:g} or no sample is a hit."
        f"{runs_legend} A crossover of two families is reported if the standard error of its sigma "
        "is below half of sigma and each family has an ESS of at least "
        f"{FAMILY_ESS}; this needs fewer samples than shares do."
    )
    yield "\n".join(["", *forecast.sentences])
