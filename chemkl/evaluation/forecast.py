"""Estimates of a target distribution from samples of the prior and their rewards.

A sample y of pi_ref gets the importance weight w = exp(log_target(y) - log pi_ref(y)); the weighted
samples of the prior represent the target. The effective sample size of the weights shows how
reliable the estimates are.

Under the gibbs target the mass of a scaffold family is the sum of pi_ref exp(R/beta) over its
members, so which of two families is larger may change with beta. If each has a single reward, R1
and R2, they cross once, at beta* = (R2 - R1) / (log pi_ref(1) - log pi_ref(2)) (arXiv 2510.20817);
if their rewards vary, they may cross never or several times.

Legend: N points; lr log pi_ref in nats; R reward; the shares of a target sum to 1 over the N.
`FORECAST_SCHEMA` in forecast_targets defines the values that functions here return by name.
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
"""Range searched for crossovers: beyond it a reward in [0, 1] has no effect, or decides all."""
GRID = np.geomspace(1 / LARGEST_BETA, 1 / SMALLEST_BETA, 701)
"""Grid of sigmas, 100 per decade: two crossovers closer than that are missed."""
FAMILY_ESS = 10
"""Effective sample size needed of each family: the log of its mass then varies by 0.3."""


@dataclass(frozen=True, eq=False)
class Points:
    """Draws from the prior, at least one; repeated draws are separate points.

    `logp_ref_N` is in nats; `reward_N` is 0 for an invalid string; `scaffold_N` is empty for an
    acyclic molecule, None for an invalid string.
    """

    logp_ref_N: Floats
    reward_N: Floats
    scaffold_N: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.reward_N)

    @property
    def prior_N(self) -> Floats:
        """The share of the prior that each point represents, equal for all."""
        return np.full(len(self), 1 / len(self))

    @cached_property
    def valid_N(self) -> NDArray[np.bool_]:
        """Which points are valid molecules."""
        return np.array([scaffold is not None for scaffold in self.scaffold_N])

    @cached_property
    def scaffolds(self) -> list[str]:
        """The distinct non-empty scaffolds, in order of first appearance."""
        return list(dict.fromkeys(scaffold for scaffold in self.scaffold_N if scaffold))

    @cached_property
    def family_N(self) -> NDArray[np.int64]:
        """Index of each point's scaffold in `scaffolds`; -1 for a point without one."""
        position = {scaffold: i for i, scaffold in enumerate(self.scaffolds)}
        return np.array([position.get(s, -1) if s else -1 for s in self.scaffold_N], np.int64)

    def by_scaffold(self, share_N: Floats) -> Floats:
        """Sum the shares of the points over each of `scaffolds`."""
        has_N = self.family_N >= 0
        n = len(self.scaffolds)
        return np.bincount(self.family_N[has_N], share_N[has_N], minlength=n).astype(float)

    def at(self, target: Target) -> TargetOutput:
        """Evaluate a target on all points as one batch, so that MARA has one anchor."""
        columns = self.logp_ref_N, self.reward_N
        return target(*(torch.tensor(values, dtype=torch.float64) for values in columns))


def hit_rate(points: Points, tau: float) -> dict[str, float]:
    """Compute the share of the prior that reaches tau, with its 95 % interval (Wilson)."""
    hit_N = points.reward_N >= tau
    test = stats.binomtest(int(hit_N.sum()), len(points))
    low, high = map(float, test.proportion_ci(CONFIDENCE, method="wilson"))
    return {"hit_rate": float(hit_N.mean()), "hit_rate_low": low, "hit_rate_high": high}


def target_shares(points: Points, target: Target) -> Floats:
    """Compute the share of a target's mass per point; at least one point must have mass."""
    log_target_N = points.at(target).log_target.numpy()
    return np.asarray(special.softmax(log_target_N - points.logp_ref_N))


def describe(points: Points, share_N: Floats, tau: float) -> dict[str, Any]:
    """Describe a distribution over the points, given its shares, which sum to 1.

    `ess_share` is 1 / (1 + chi-square of target to prior). N draws cannot show a `kl_to_prior`
    above log N. Values about scaffolds are None without a scaffold, and are otherwise computed as
    in the evaluate stage.
    """
    positive_N = share_N > 0
    ratio_N = share_N[positive_N] / points.prior_N[positive_N]
    ess_share = 1 / float(share_N[positive_N] @ ratio_N)
    mass = points.by_scaffold(share_N)
    names = ("top_scaffold", "top_share", "top_share_error", "effective_scaffolds")
    scaffold_values: dict[str, Any] = dict.fromkeys(names)
    if total := float(mass.sum()):
        top, has_N = int(mass.argmax()), points.family_N >= 0
        share = float(mass[top]) / total
        deviation_N = np.where(has_N, share_N * ((points.family_N == top) - share), 0.0)
        error = float(np.sqrt(deviation_N @ deviation_N)) / total
        effective = float(np.exp(stats.entropy(mass)))
        values = points.scaffolds[top], share, error, effective
        scaffold_values = dict(zip(names, values, strict=True))
    return {
        "ess": ess_share * len(points),
        "ess_share": ess_share,
        **scaffold_values,
        "acyclic_share": float(share_N[points.valid_N & (points.family_N < 0)].sum()),
        "invalid_share": float(share_N[~points.valid_N].sum()),
        "hit_share": float(share_N[points.reward_N >= tau].sum()),
        "mean_reward": float(share_N @ points.reward_N),
        "kl_to_prior": float(share_N[positive_N] @ np.log(ratio_N)),
    }


def mara_bonus(points: Points, mara: Mara) -> dict[str, float | None]:
    """Compute the bonus that MARA adds to the reward of a hit; all in reward units.

    The bonus of a hit is beta (log mara - log gibbs) = R(z) - R + beta (lr(z) - lr). Its statistics
    are over the hits among the points; None without a hit. The standard deviation and the range of
    R are over all points.
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
    """A scaffold with its share of the prior and its largest share under prior and gibbs targets.

    `beta` is that of the target with the largest share; None: the prior. Shares are relative to all
    molecules with a scaffold.
    """

    scaffold: str
    prior_share: float
    largest_share: float
    beta: float | None
    best_reward: float


@dataclass(frozen=True)
class Crossover:
    """A beta (1/sigma) at which two families have the same mass under gibbs.

    `above` has more mass at larger betas (closer to the prior), `below` at smaller ones (closer to
    the reward). `sigma_error` is the standard error due to the finite sample, `ess` the smaller
    effective sample size of the two families.
    """

    above: str
    below: str
    beta: float
    sigma: float
    sigma_error: float
    ess: float

    @property
    def trusted(self) -> bool:
        """Whether the error is below half of sigma and both families have enough points."""
        return self.sigma_error < self.sigma / 2 and self.ess >= FAMILY_ESS


def main_families(points: Points, betas: Sequence[float], n: int) -> list[Family]:
    """Find the n scaffolds with the largest share under the prior or any of the gibbs targets."""
    if not points.scaffolds:
        return []
    shares = [points.prior_N, *(target_shares(points, Gibbs(beta=beta)) for beta in betas)]
    mass = np.array([points.by_scaffold(share_N) for share_N in shares])
    total = mass.sum(axis=1, keepdims=True)  # 0 if no molecule with mass has a scaffold
    share = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
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
    """Find every crossover of every pair of families, largest beta first."""
    members = {
        name: points.reward_N[points.family_N == points.scaffolds.index(name)] for name in scaffolds
    }

    def log_mass(name: str, sigma: float) -> float:
        """Return the log of a family's unnormalised gibbs mass."""
        return float(special.logsumexp(sigma * members[name]))

    def crossing(first: str, second: str, sigma: float) -> Crossover:
        """Describe a crossover by the gibbs shares of the points within each family.

        E[R] under these shares is the slope of log_mass. The effective sample size of log_mass is
        1 / sum share^2, and its variance 1 over that.
        """
        means, ess = [], []
        for reward in (members[first], members[second]):
            share_N = special.softmax(sigma * reward)
            means.append(float(share_N @ reward))
            ess.append(1 / float(share_N @ share_N))
        slope = means[0] - means[1]
        above, below = (second, first) if slope > 0 else (first, second)
        noise = math.sqrt(1 / ess[0] + 1 / ess[1])
        error = noise / abs(slope) if slope else math.inf  # delta method
        return Crossover(above, below, 1 / sigma, sigma, error, min(ess))

    on_grid = {name: np.array([log_mass(name, sigma) for sigma in GRID]) for name in scaffolds}
    crossings = []
    for first, second in combinations(scaffolds, 2):
        values = on_grid[first] - on_grid[second]
        # a grid point with equal masses is skipped: its neighbours show the change of sign
        for i, j in pairwise(np.flatnonzero(values)):
            if values[i] * values[j] < 0:
                root = optimize.brentq(
                    lambda sigma, a, b: log_mass(a, sigma) - log_mass(b, sigma),
                    *(GRID[i], GRID[j], (first, second)),
                    xtol=1e-14,
                    rtol=1e-14,
                )
                crossings.append(crossing(first, second, root))
    return sorted(crossings, key=lambda crossing: -crossing.beta)
