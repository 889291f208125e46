"""Estimators: losses whose gradient walks the policy to a target.

Legend: B rows of a batch; lp log pi_theta (with graph); log_target the unnormalised target; beta
the KL coefficient; s = beta (log_target - lp.detach()) the score. Each is a function of tensors
and floats and returns (loss, metrics). To add one, write the function and register it here: its
parameters are filled by name from ``INPUTS``.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from chemkl.losses.reductions import Groups, mean_over_rows
from chemkl.losses.registry import Registry
from chemkl.losses.types import check_rows

Metrics = dict[str, Tensor]
EstimatorFunction = Callable[..., tuple[Tensor, Metrics]]
F = TypeVar("F", bound=EstimatorFunction)

INPUTS = ("logp_policy_B", "log_target_B", "group_B", "beta")


@dataclass(frozen=True)
class Estimator:
    """An estimator and what it is good for.

    Attributes:
        name: as in a config.
        function: the loss.
        inputs: the names of its parameters, out of ``INPUTS``.
        off_policy: the gradient stays right on rows that another policy sampled (replay), without
            importance weights.
        needs_full_support: it goes with targets that are finite wherever the reference is
            (gibbs, mara) only, not with one that is -inf outside of the hits (filter).
    """

    name: str
    function: EstimatorFunction
    inputs: tuple[str, ...]
    off_policy: bool
    needs_full_support: bool


ESTIMATORS: Registry[Estimator] = Registry("estimator")


def estimator(name: str, *, off_policy: bool, needs_full_support: bool) -> Callable[[F], F]:
    """Register a loss function under ``name``; see ``Estimator`` for what is declared."""

    def decorate(function: F) -> F:
        inputs = tuple(inspect.signature(function).parameters)
        unknown = [wanted for wanted in inputs if wanted not in INPUTS]
        if unknown:
            raise ValueError(
                f"estimator {name!r} asks for {', '.join(unknown)}; it can have {', '.join(INPUTS)}"
            )
        ESTIMATORS.add(name, Estimator(name, function, inputs, off_policy, needs_full_support))
        return function

    return decorate


@estimator("reinvent", off_policy=True, needs_full_support=True)
def reinvent(logp_policy_B: Tensor, log_target_B: Tensor) -> tuple[Tensor, Metrics]:
    """REINVENT's difference between augmented and posterior: mean (log_target - lp)^2.

    With the gibbs target log_target = lr + sigma R is the augmented likelihood of REINVENT
    (Olivecrona et al., arXiv 1704.07555; "DAP" in later versions). On rows of the policy itself its
    expected gradient is 2/beta that of -J, the reverse-KL objective, at the value log Z = 0 of the
    partition function: there is no baseline, hence more variance than the other two.

    Deviations:
        1. The target may be any of full support.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B)
    return mean_over_rows((log_target_B - logp_policy_B) ** 2), {}


@estimator("rloo", off_policy=False, needs_full_support=True)
def rloo(
    logp_policy_B: Tensor, log_target_B: Tensor, beta: float, group_B: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Reverse-KL policy gradient, leave-one-out baseline: -mean((s - mean of the others' s) lp).

    Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!"); Ahmadian et al., arXiv
    2402.14740. Its expected gradient is that of -J = beta KL(pi || G) + constant, for the
    normalised target G. The baseline is that of the row's group. On rows that another policy
    sampled it is not: there the score function needs importance weights.

    Deviations:
        1. The KL is inside the score, as -beta lp + beta lr, for the whole sequence at once.
        2. The target may be any of full support.

    Metrics: advantage_std, the standard deviation of s minus its baseline.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    advantage_B = _against_the_others("rloo", score_B, groups)
    loss = -mean_over_rows(advantage_B * logp_policy_B)
    return loss, {"advantage_std": advantage_B.std(correction=0)}


@estimator("log_variance", off_policy=True, needs_full_support=True)
def log_variance(
    logp_policy_B: Tensor, log_target_B: Tensor, group_B: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """The variance of the log-ratio log_target - lp over the batch; 0 when lp is the target.

    VarGrad: Richter et al., arXiv 2010.10436. The unbiased variance, with a gradient that is 2/beta
    times that of ``rloo`` on the same rows, to rounding. As a loss it is right on rows from
    anywhere: it is 0 at the target and positive elsewhere, whatever distribution covers the space.

    Deviations:
        1. The variance itself, not half of it.
        2. Groups: the mean of the groups' variances, weighted by their numbers of rows.
        3. The target may be any of full support.
    """
    check_rows(logp_policy=logp_policy_B, log_target=log_target_B, group=group_B)
    groups = Groups.of(group_B, logp_policy_B)
    log_ratio_B = log_target_B - logp_policy_B
    deviation_B = log_ratio_B - groups.mean_B(log_ratio_B)
    size_B = _sizes("log_variance", groups)
    return mean_over_rows(deviation_B**2 * size_B / (size_B - 1)), {}


def _against_the_others(name: str, values_B: Tensor, groups: Groups) -> Tensor:
    """Each value minus the mean of the other values of its group."""
    size_B = _sizes(name, groups)
    # n/(n-1) (x - mean) equals x - mean of the others, and loses no digits when n is large
    return (values_B - groups.mean_B(values_B)) * size_B / (size_B - 1)


def _sizes(name: str, groups: Groups) -> Tensor:
    """Each row's group size, where every group has two rows or more."""
    size_B = groups.size_B()
    if bool((size_B < 2).any()):
        alone = int(groups.ids_N[groups.index_B][size_B < 2][0])
        raise ValueError(
            f"{name} compares a row with the others of its group, but group {alone} has 1 row "
            f"(the batch has {size_B.numel()}): raise the batch size, or the number of samples per "
            "prompt, to 2 or more; or use the estimator 'reinvent', which compares nothing"
        )
    return size_B
