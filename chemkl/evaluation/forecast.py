"""What a target will look like, by samples of the prior and their rewards alone.

A sample y of pi_ref gets the importance weight w = exp(log_target(y) - log pi_ref(y)); weighted so,
samples of the prior stand for samples of the target. How many of them carry the weight (the
effective sample size) says how far that can be trusted.

Under the gibbs target the mass of a scaffold family is the sum of pi_ref exp(R/beta) over its
members, so which of two is larger may change with beta: once where each has a single reward, R1 and
R2, and that is at beta* = (R2 - R1) / (log pi_ref(1) - log pi_ref(2)) (arXiv 2510.20817); never or
several times where their rewards spread.

Legend: N points; lr log pi_ref in nats; R reward; the shares of a target sum to 1 over the N.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats

from chemkl.losses import Gibbs, Mara, Target, TargetOutput

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
LARGEST_BETA, SMALLEST_BETA = 1e3, 1e-4
"""Where crossovers are looked for: beyond, a reward of 0 to 1 means nothing, or everything."""
GRID = np.geomspace(1 / LARGEST_BETA, 1 / SMALLEST_BETA, 701)
"""Sigmas to look at, 100 a decade: two crossovers nearer to each other are not seen."""
FAMILY_ESS = 10
"""Effective points that each family of a crossover needs: the log of its mass varies by 0.3."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points of the space, drawn from the prior or enumerated; a repeated draw is a point again.

    `logp_ref_N` in nats; `reward_N` is 0 for an invalid one; `scaffold_N` is empty for an acyclic
    molecule, None for an invalid one. `log_weight_N` is the log of how much of the prior each
    stands for; None: draws, all the same; log pi_ref itself where the points are the whole space:
    then nothing is estimated.
    """

    logp_ref_N: Floats
    reward_N: Floats
    scaffold_N: Sequence[str | None]
    log_weight_N: Floats | None = None

    def __post_init__(self) -> None:
        shapes = {
            "logp_ref": np.shape(self.logp_ref_N),
            "reward": np.shape(self.reward_N),
            "scaffold": (len(self.scaffold_N),),
        }
        if self.log_weight_N is not None:
            shapes["log_weight"] = np.shape(self.log_weight_N)
        if len(set(shapes.values())) > 1 or len(shapes["reward"]) != 1 or (0,) in shapes.values():
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"one value for each of at least one point is needed; got {listed}")

    def __len__(self) -> int:
        return len(self.reward_N)

    @cached_property
    def prior_N(self) -> Floats:
        """The share of the prior that each point stands for."""
        if self.log_weight_N is None:
            return np.full(len(self), 1 / len(self))
        return np.asarray(special.softmax(self.log_weight_N.astype(np.float64)))

    @cached_property
    def valid_N(self) -> NDArray[np.bool_]:
        """Which points are molecules."""
        return np.array([scaffold is not None for scaffold in self.scaffold_N])

    @cached_property
    def scaffolds(self) -> list[str]:
        """The scaffolds there are, in the order of first appearance; the empty one is none."""
        return list(dict.fromkeys(scaffold for scaffold in self.scaffold_N if scaffold))

    @cached_property
    def family_N(self) -> NDArray[np.int64]:
        """Position of each point's scaffold in `scaffolds`; -1 for a point without one."""
        position = {scaffold: i for i, scaffold in enumerate(self.scaffolds)}
        return np.array([position.get(s, -1) if s else -1 for s in self.scaffold_N], np.int64)

    def by_scaffold(self, share_N: Floats) -> Floats:
        """Shares of the points, summed over each of `scaffolds`."""
        has = self.family_N >= 0
        n_scaffolds = len(self.scaffolds)
        return np.bincount(self.family_N[has], share_N[has], minlength=n_scaffolds).astype(float)

    def at(self, target: Target) -> TargetOutput:
        """Evaluate a target, all points as one batch."""
        logp_ref_N, reward_N = (
            torch.tensor(values, dtype=torch.float64) for values in (self.logp_ref_N, self.reward_N)
        )
        return target(logp_ref_N, reward_N)


@dataclass(frozen=True)
class HitRate:
    """How often the prior reaches tau, with its 95 % interval (Wilson); exact for enumerations."""

    tau: float
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """A target as the weighted points show it; `FORECAST_SCHEMA` says what each value is.

    `ess_share` is 1 / (1 + chi-square of target to prior); N draws cannot show more of
    `kl_to_prior` than log N. None where there is no scaffold.
    """

    ess: float
    ess_share: float
    top_scaffold: str | None
    top_share: float | None
    top_share_error: float | None
    effective_scaffolds: float | None
    acyclic_share: float
    invalid_share: float
    hit_share: float
    mean_reward: float
    kl_to_prior: float


@dataclass(frozen=True)
class Bonus:
    """What MARA adds to the reward of a hit, beside the reward itself; all in reward units.

    The bonus of a hit is beta (log mara - log gibbs): R(z) - R + beta (lr(z) - lr). It is taken
    over the hits as the prior samples them; None throughout where there is no hit. The standard
    deviation and the range of R are over all points.
    """

    mean: float | None
    std: float | None
    largest: float | None
    reward_std: float
    reward_range: float


def hit_rate(points: Points, tau: float) -> HitRate:
    """How much of the prior reaches tau."""
    hit_N = points.reward_N >= tau
    if points.log_weight_N is not None:
        rate = float(points.prior_N[hit_N].sum())
        return HitRate(tau, rate, rate, rate)
    counted = stats.binomtest(int(hit_N.sum()), len(points))
    interval = counted.proportion_ci(CONFIDENCE, method="wilson")
    return HitRate(tau, float(hit_N.mean()), float(interval.low), float(interval.high))


def target_shares(points: Points, target: Target) -> Floats:
    """The share of a target's mass that each point stands for."""
    log_weight_N = points.at(target).log_target.numpy() - points.logp_ref_N
    if np.all(np.isneginf(log_weight_N)):
        raise ValueError("the target has no mass on any of the points: no sample is a hit")
    with np.errstate(divide="ignore"):
        return np.asarray(special.softmax(log_weight_N + np.log(points.prior_N)))


def predict(points: Points, target: Target, tau: float) -> Prediction:
    """Predict a target, evaluated at all points as one batch: MARA's anchor is that of all of them.

    Raises:
        ValueError: the target has no mass on any of the points.
    """
    return describe(points, target_shares(points, target), tau)


def describe(points: Points, share_N: Floats, tau: float) -> Prediction:
    """Describe a distribution over the points by its shares, which sum to 1."""
    some_N = share_N > 0
    ratio_N = share_N[some_N] / points.prior_N[some_N]
    ess_share = 1 / float(share_N[some_N] @ ratio_N)
    acyclic_N = points.valid_N & (points.family_N < 0)
    return Prediction(
        ess=ess_share * len(points),
        ess_share=ess_share,
        **_scaffolds(points, share_N),
        acyclic_share=float(share_N[acyclic_N].sum()),
        invalid_share=float(share_N[~points.valid_N].sum()),
        hit_share=float(share_N[points.reward_N >= tau].sum()),
        mean_reward=float(share_N @ points.reward_N),
        kl_to_prior=float(share_N[some_N] @ np.log(ratio_N)),
    )


def mara_bonus(points: Points, mara: Mara) -> Bonus:
    """How large MARA's bonus is beside the reward."""
    output = points.at(mara)
    hit_N, prior_N, reward_N = output.hit.numpy(), points.prior_N, points.reward_N
    spread = _mean_and_std(reward_N, prior_N)[1]
    extent = float(np.ptp(reward_N))
    if not hit_N.any():
        return Bonus(None, None, None, spread, extent)
    gain_N = (output.log_target - points.at(Gibbs(beta=mara.beta)).log_target).numpy()
    bonus = mara.beta * gain_N[hit_N]
    return Bonus(*_mean_and_std(bonus, prior_N[hit_N]), float(bonus.max()), spread, extent)


def _mean_and_std(values: Floats, weights: Floats) -> tuple[float, float]:
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def _scaffolds(points: Points, share_N: Floats) -> dict[str, Any]:
    """How the mass spreads over scaffolds, counted as the evaluate stage counts molecules."""
    mass = points.by_scaffold(share_N)
    total = float(mass.sum())
    if total == 0:
        names = ("top_scaffold", "top_share", "top_share_error", "effective_scaffolds")
        return dict.fromkeys(names)
    top = int(mass.argmax())
    share = float(mass[top]) / total
    has_N = points.family_N >= 0
    off_N = np.where(has_N, share_N * ((points.family_N == top) - share), 0.0)
    error = 0.0 if points.log_weight_N is not None else float(np.sqrt(off_N @ off_N)) / total
    return {
        "top_scaffold": points.scaffolds[top],
        "top_share": share,
        "top_share_error": error,
        "effective_scaffolds": float(np.exp(stats.entropy(mass))),
    }


# ---- crossovers of scaffold families


@dataclass(frozen=True)
class Family:
    """A scaffold, its share of the prior, and its largest share under prior and gibbs targets.

    `beta` is that of the target where it is largest; None: the prior. Shares are of all molecules
    with a scaffold.
    """

    scaffold: str
    prior_share: float
    largest_share: float
    beta: float | None
    best_reward: float


@dataclass(frozen=True)
class Crossover:
    """A beta (1/sigma) at which two families have the same mass under gibbs.

    `above` has more mass at larger betas (trusting the prior), `below` at smaller ones (trusting
    the reward). `sigma_error` is the standard error from the finite sample, 0 for an enumerated
    space; `ess` the effective number of points of the family that has fewer there.
    """

    above: str
    below: str
    beta: float
    sigma: float
    sigma_error: float
    ess: float

    @property
    def trusted(self) -> bool:
        """Whether it is known to within a half of sigma, and not from a few molecules alone."""
        exact = self.sigma_error == 0
        return exact or (self.sigma_error < self.sigma / 2 and self.ess >= FAMILY_ESS)


def main_families(points: Points, betas: Sequence[float], n: int) -> list[Family]:
    """The n scaffolds with the largest share under the prior or any of the gibbs targets."""
    if not points.scaffolds:
        return []
    under = [points.prior_N, *(target_shares(points, Gibbs(beta=beta)) for beta in betas)]
    mass = np.array([points.by_scaffold(share_N) for share_N in under])
    whole = mass.sum(axis=1, keepdims=True)  # 0 where all mass is on molecules without a scaffold
    share = np.divide(mass, whole, out=np.zeros_like(mass), where=whole > 0)
    largest = share.max(axis=0)
    where = [None, *betas]
    main = np.argsort(-largest, kind="stable")[:n]
    best = {i: points.reward_N[points.family_N == i].max() for i in main}
    return [
        Family(
            scaffold=points.scaffolds[i],
            prior_share=float(share[0, i]),
            largest_share=float(largest[i]),
            beta=where[int(share[:, i].argmax())],
            best_reward=float(best[i]),
        )
        for i in main
    ]


def crossovers(points: Points, scaffolds: Sequence[str]) -> list[Crossover]:
    """Find every crossover of every pair of families, the largest beta first."""
    members = {name: _Members.of(points, name) for name in scaffolds}
    exact = points.log_weight_N is not None
    pairs = combinations(scaffolds, 2)
    crossings = [c for pair in pairs for c in _of_pair(*pair, members, exact=exact)]
    return sorted(crossings, key=lambda crossing: -crossing.beta)


@dataclass(frozen=True, eq=False)
class _Members:
    """The points of one family: log shares of the prior, and rewards."""

    log_prior: Floats
    reward: Floats

    @classmethod
    def of(cls, points: Points, scaffold: str) -> "_Members":
        inside = points.family_N == points.scaffolds.index(scaffold)
        return cls(np.log(points.prior_N[inside]), points.reward_N[inside])

    def log_mass(self, sigma: float) -> float:
        """Log of the family's unnormalised gibbs mass."""
        log_N = self.log_prior + sigma * self.reward
        largest = log_N.max()
        return float(largest + np.log(np.exp(log_N - largest).sum()))

    @cached_property
    def on_grid(self) -> Floats:
        """Log mass at each sigma of the grid."""
        return np.array([self.log_mass(sigma) for sigma in GRID])

    def share_N(self, sigma: float) -> Floats:
        """Shares of the points within the family under gibbs.

        E[R] by them is the slope of log_mass; the effective number of draws behind log_mass is
        1 / sum share^2, and the variance of log_mass is 1 over that.
        """
        return np.asarray(special.softmax(self.log_prior + sigma * self.reward))


def _of_pair(one: str, other: str, members: dict[str, _Members], *, exact: bool) -> list[Crossover]:
    a, b = members[one], members[other]

    def lead(sigma: float) -> float:
        return a.log_mass(sigma) - b.log_mass(sigma)

    def crossing(sigma: float) -> Crossover:
        shares = a.share_N(sigma), b.share_N(sigma)
        slope = float(shares[0] @ a.reward) - float(shares[1] @ b.reward)
        above, below = (other, one) if slope > 0 else (one, other)
        ess = [1 / float(share_N @ share_N) for share_N in shares]
        noise = 0.0 if exact else float(np.sqrt(1 / ess[0] + 1 / ess[1]))
        error = noise / abs(slope) if slope else math.inf  # the delta method
        return Crossover(above, below, 1 / sigma, sigma, error, min(ess))

    values = a.on_grid - b.on_grid
    apart = np.flatnonzero(values)  # where they touch on the grid, the neighbours tell
    return [
        crossing(float(optimize.brentq(lead, GRID[i], GRID[j], xtol=1e-14, rtol=1e-14)))
        for i, j in pairwise(apart)
        if values[i] * values[j] < 0
    ]
