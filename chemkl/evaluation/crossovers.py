"""At which beta one scaffold family overtakes another under the gibbs target.

The mass of a family is the sum of pi_ref exp(R/beta) over its members, so which of two is larger
may change with beta: once where each has a single reward, R1 and R2, and that is at
beta* = (R2 - R1) / (log pi_ref(1) - log pi_ref(2)) (arXiv 2510.20817); never or several times where
their rewards spread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
from scipy import optimize, special

from chemkl.evaluation.forecast import Floats, Points, target_shares
from chemkl.losses import Gibbs

LARGEST_BETA, SMALLEST_BETA = 1e3, 1e-4
"""Where crossovers are looked for: beyond, a reward of 0 to 1 means nothing, or everything."""
GRID = np.geomspace(1 / LARGEST_BETA, 1 / SMALLEST_BETA, 701)
"""Sigmas to look at, 100 a decade: two crossovers nearer to each other are not seen."""
FAMILY_ESS = 10
"""Effective points that each family of a crossover needs: the log of its mass varies by 0.3."""


@dataclass(frozen=True)
class Family:
    """A scaffold, and its share of the prior and of the target that it is largest under.

    Attributes:
        scaffold: canonical SMILES.
        prior_share: of all molecules with a scaffold.
        largest_share: the largest of its shares under the prior and the gibbs targets looked at.
        beta: of the gibbs target where that is; None: the prior.
        best_reward: largest R among its points.
    """

    scaffold: str
    prior_share: float
    largest_share: float
    beta: float | None
    best_reward: float


@dataclass(frozen=True)
class Crossover:
    """A beta at which two families have the same mass under gibbs.

    Attributes:
        above: the scaffold that has more mass at larger betas (trusting the prior).
        below: the scaffold that has more mass at smaller betas (trusting the reward).
        beta: where they cross.
        sigma: 1/beta.
        sigma_error: standard error of sigma from the finite sample; 0 for an enumerated space.
        ess: effective number of points of the family that has fewer, where they cross.
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
    """The scaffolds with the largest share under the prior or any of the gibbs targets.

    Args:
        points: of the prior.
        betas: of the targets.
        n: at most so many, the largest first.
    """
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
    found = [
        crossing
        for one, other in combinations(scaffolds, 2)
        for crossing in _of_pair(one, other, members, exact=points.log_weight_N is not None)
    ]
    return sorted(found, key=lambda crossing: -crossing.beta)


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

    def mean_reward(self, sigma: float) -> float:
        """E[R] within the family under gibbs: the slope of log_mass."""
        return float(special.softmax(self.log_prior + sigma * self.reward) @ self.reward)

    def ess(self, sigma: float) -> float:
        """Effective number of draws behind log_mass; the variance of log_mass is 1 over that."""
        share = special.softmax(self.log_prior + sigma * self.reward)
        return 1 / float(share @ share)


def _of_pair(one: str, other: str, members: dict[str, _Members], *, exact: bool) -> list[Crossover]:
    a, b = members[one], members[other]

    def lead(sigma: float) -> float:
        return a.log_mass(sigma) - b.log_mass(sigma)

    def crossing(sigma: float) -> Crossover:
        slope = a.mean_reward(sigma) - b.mean_reward(sigma)
        above, below = (other, one) if slope > 0 else (one, other)
        ess = a.ess(sigma), b.ess(sigma)
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
