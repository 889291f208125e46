"""What a target will look like, by samples of the prior and their rewards alone.

A sample y of pi_ref gets the importance weight w = exp(log_target(y) - log pi_ref(y)); weighted so,
samples of the prior stand for samples of the target. How many of them carry the weight (the
effective sample size) says how far that can be trusted.

Under the gibbs target the mass of a scaffold family is the sum of pi_ref exp(R/beta) over its
members, so which of two is larger may change with beta: once where each has a single reward, R1 and
R2, and that is at beta* = (R2 - R1) / (log pi_ref(1) - log pi_ref(2)) (arXiv 2510.20817); never or
several times where their rewards spread.

Legend: N points; lr log pi_ref in nats; R reward; the shares of a target sum to 1 over the N.
`FORECAST_SCHEMA` in forecast_targets says what the values are that functions here give by name.
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
    """Draws from the prior, at least one; a repeated draw is a point again.

    `logp_ref_N` in nats; `reward_N` is 0 for an invalid one; `scaffold_N` is empty for an acyclic
    molecule, None for an invalid one.
    """

    logp_ref_N: Floats
    reward_N: Floats
    scaffold_N: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.reward_N)

    @property
    def prior_N(self) -> Floats:
        """The share of the prior that each point stands for, equal for all."""
        return np.full(len(self), 1 / len(self))

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
        """Evaluate a target, all points as one batch: MARA's anchor is that of all of them."""
        columns = self.logp_ref_N, self.reward_N
        return target(*(torch.tensor(values, dtype=torch.float64) for values in columns))


def hit_rate(points: Points, tau: float) -> dict[str, float]:
    """How much of the prior reaches tau, with its 95 % interval (Wilson)."""
    hit_N = points.reward_N >= tau
    counted = stats.binomtest(int(hit_N.sum()), len(points))
    low, high = map(float, counted.proportion_ci(CONFIDENCE, method="wilson"))
    return {"hit_rate": float(hit_N.mean()), "hit_rate_low": low, "hit_rate_high": high}


def target_shares(points: Points, target: Target) -> Floats:
    """The share of a target's mass that each point stands for; the target has some on one."""
    log_target_N = points.at(target).log_target.numpy()
    return np.asarray(special.softmax(log_target_N - points.logp_ref_N))


def describe(points: Points, share_N: Floats, tau: float) -> dict[str, Any]:
    """Describe a distribution over the points by its shares, which sum to 1.

    `ess_share` is 1 / (1 + chi-square of target to prior); N draws cannot show more of
    `kl_to_prior` than log N. What is of scaffolds is None where there is none; they are counted as
    the evaluate stage counts those of molecules.
    """
    some_N = share_N > 0
    ratio_N = share_N[some_N] / points.prior_N[some_N]
    ess_share = 1 / float(share_N[some_N] @ ratio_N)
    mass = points.by_scaffold(share_N)
    names = ("top_scaffold", "top_share", "top_share_error", "effective_scaffolds")
    of_scaffolds: dict[str, Any] = dict.fromkeys(names)
    if total := float(mass.sum()):
        top, has_N = int(mass.argmax()), points.family_N >= 0
        share = float(mass[top]) / total
        off_N = np.where(has_N, share_N * ((points.family_N == top) - share), 0.0)
        error = float(np.sqrt(off_N @ off_N)) / total
        effective = float(np.exp(stats.entropy(mass)))
        values = points.scaffolds[top], share, error, effective
        of_scaffolds = dict(zip(names, values, strict=True))
    return {
        "ess": ess_share * len(points),
        "ess_share": ess_share,
        **of_scaffolds,
        "acyclic_share": float(share_N[points.valid_N & (points.family_N < 0)].sum()),
        "invalid_share": float(share_N[~points.valid_N].sum()),
        "hit_share": float(share_N[points.reward_N >= tau].sum()),
        "mean_reward": float(share_N @ points.reward_N),
        "kl_to_prior": float(share_N[some_N] @ np.log(ratio_N)),
    }


def mara_bonus(points: Points, mara: Mara) -> dict[str, float | None]:
    """What MARA adds to the reward of a hit, beside the reward itself; all in reward units.

    The bonus of a hit is beta (log mara - log gibbs): R(z) - R + beta (lr(z) - lr). It is taken
    over the hits as the prior samples them; None where there is no hit. The standard deviation and
    the range of R are over all points.
    """
    output, reward_N = points.at(mara), points.reward_N
    gain_N = (output.log_target - points.at(Gibbs(beta=mara.beta)).log_target).numpy()
    bonus = mara.beta * gain_N[output.hit.numpy()]
    return {
        "bonus_mean": float(bonus.mean()) if len(bonus) else None,
        "bonus_std": float(bonus.std()) if len(bonus) else None,
        "bonus_largest": float(bonus.max()) if len(bonus) else None,
        "reward_std": float(reward_N.std()),
        "reward_range": float(np.ptp(reward_N)),
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
    the reward). `sigma_error` is the standard error from the finite sample, `ess` the effective
    number of points of the family that has fewer there.
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
        return self.sigma_error < self.sigma / 2 and self.ess >= FAMILY_ESS


def main_families(points: Points, betas: Sequence[float], n: int) -> list[Family]:
    """The n scaffolds with the largest share under the prior or any of the gibbs targets."""
    if not points.scaffolds:
        return []
    under = [points.prior_N, *(target_shares(points, Gibbs(beta=beta)) for beta in betas)]
    mass = np.array([points.by_scaffold(share_N) for share_N in under])
    whole = mass.sum(axis=1, keepdims=True)  # 0 where all mass is on molecules without a scaffold
    share = np.divide(mass, whole, out=np.zeros_like(mass), where=whole > 0)
    largest = share.max(axis=0)
    return [
        Family(
            points.scaffolds[i],
            prior_share=float(share[0, i]),
            largest_share=float(largest[i]),
            beta=[None, *betas][int(share[:, i].argmax())],
            best_reward=float(points.reward_N[points.family_N == i].max()),
        )
        for i in np.argsort(-largest, kind="stable")[:n]
    ]


def crossovers(points: Points, scaffolds: Sequence[str]) -> list[Crossover]:
    """Find every crossover of every pair of families, the largest beta first."""
    members = {
        name: points.reward_N[points.family_N == points.scaffolds.index(name)] for name in scaffolds
    }

    def log_mass(name: str, sigma: float) -> float:
        """Log of a family's unnormalised gibbs mass."""
        return float(special.logsumexp(sigma * members[name]))

    def crossing(one: str, other: str, sigma: float) -> Crossover:
        """By the shares of the points within each family under gibbs.

        E[R] by them is the slope of log_mass; the effective number of draws behind log_mass is
        1 / sum share^2, and the variance of log_mass is 1 over that.
        """
        means, ess = [], []
        for reward in (members[one], members[other]):
            share_N = special.softmax(sigma * reward)
            means.append(float(share_N @ reward))
            ess.append(1 / float(share_N @ share_N))
        slope = means[0] - means[1]
        above, below = (other, one) if slope > 0 else (one, other)
        noise = math.sqrt(1 / ess[0] + 1 / ess[1])
        error = noise / abs(slope) if slope else math.inf  # the delta method
        return Crossover(above, below, 1 / sigma, sigma, error, min(ess))

    on_grid = {name: np.array([log_mass(name, sigma) for sigma in GRID]) for name in scaffolds}
    crossings = []
    for one, other in combinations(scaffolds, 2):
        values = on_grid[one] - on_grid[other]
        apart = np.flatnonzero(values)  # where they touch on the grid, the neighbours tell
        for i, j in pairwise(apart):
            if values[i] * values[j] < 0:
                root = optimize.brentq(
                    lambda sigma, one, other: log_mass(one, sigma) - log_mass(other, sigma),
                    *(GRID[i], GRID[j], (one, other)),
                    xtol=1e-14,
                    rtol=1e-14,
                )
                crossings.append(crossing(one, other, root))
    return sorted(crossings, key=lambda crossing: -crossing.beta)
