"""What an estimator is, how it is registered, and what several of them share.

An estimator is one function of tensors that returns (loss, metrics). Its ordinary parameters are
filled by name from ``INPUTS``; its keyword-only ones are options with defaults, which the user sets
beside the estimator's name. To add one, write the function and register it with ``estimator``.

Legend: B rows of a batch; P sequences sampled freshly from the reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from chemkl.losses.estimators.states import STATES
from chemkl.losses.reductions import Groups
from chemkl.losses.registry import Registry, Wanted
from chemkl.losses.targets import Target

Metrics = dict[str, Tensor]
EstimatorFunction = Callable[..., tuple[Tensor, Metrics]]
Shape = Callable[[Tensor], Tensor]
Refusal = Callable[..., str | None]
F = TypeVar("F", bound=EstimatorFunction)

INPUTS = {
    "logp_policy_B": "log pi_theta, with its graph",
    "log_target_B": "the unnormalised log target",
    "beta": "the KL coefficient, a float",
    "group_B": "group numbers; None: the batch is one group",
    "logp_behaviour_B": "log-probability under the policy that sampled the row, without graph",
    "logp_anchored_B": "log pi_ref, of a hit that of its anchor: the reference of Algorithm 2",
    "reward_anchored_B": "the reward, of a hit that of its anchor",
    "retained_B": "True at a row that the last batch handed on (``LossOutput.carry``), or None",
    "logp_policy_of_prior_P": "log pi_theta of fresh samples of the reference, with its graph",
    "shape": "the shaper: a function of the advantage_B; changes nothing without one",
    **{name: kind.__doc__ or "" for name, kind in STATES.items()},
}
"""What an estimator may ask for, with its meaning."""


@dataclass(frozen=True)
class Estimator:
    """An estimator and what it is good for.

    Attributes:
        name: as in a config.
        function: the loss.
        wanted: its inputs and options.
        off_policy: its gradient stays right on rows that another policy sampled (replay): without
            importance weights, or with those of ``logp_behaviour``.
        refuses: (target, options) -> why it cannot walk to that target, or None.
    """

    name: str
    function: EstimatorFunction
    wanted: Wanted
    off_policy: bool
    refuses: Refusal

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs, out of ``INPUTS``."""
        return self.wanted.inputs

    @property
    def takes_shaper(self) -> bool:
        """Whether it has an advantage that a shaper can change."""
        return "shape" in self.wanted.inputs


ESTIMATORS: Registry[Estimator] = Registry("estimator")


def any_target(_target: Target, **_options: Any) -> None:
    """Refuse nothing: a row outside of the target's support pushes with a bounded force."""


def full_support_only(target: Target, **_options: Any) -> str | None:
    """Refuse targets that are -inf somewhere: the score of these rows would be infinite."""
    if target.full_support:
        return None
    return (
        "which is -inf outside of the hits: the score of every other row would be infinite. Use "
        "the target gibbs or mara"
    )


def estimator(
    name: str, *, off_policy: bool, refuses: Refusal = full_support_only
) -> Callable[[F], F]:
    """Register a loss function under ``name``; see ``Estimator`` for what is declared.

    Without ``refuses`` it goes with the targets that are finite everywhere; ``any_target`` says
    that it bears one that is not.
    """

    def decorate(function: F) -> F:
        wanted = Wanted.by(function, f"estimator {name!r}", INPUTS)
        ESTIMATORS.add(name, Estimator(name, function, wanted, off_policy, refuses))
        return function

    return decorate


def unshaped(advantage_B: Tensor) -> Tensor:
    """Leave the advantage as it is: the shaper when there is none."""
    return advantage_B


def against_the_others(name: str, values_B: Tensor, groups: Groups) -> Tensor:
    """Each value minus the mean of the other values of its group."""
    size_B = sizes_B(name, groups)
    # n/(n-1) (x - mean) equals x - mean of the others, and loses no digits when n is large
    return (values_B - groups.mean_B(values_B)) * size_B / (size_B - 1)


def sizes_B(name: str, groups: Groups) -> Tensor:
    """Each row's group size, where every group has two rows or more."""
    size_B = groups.size_B()
    if bool((size_B < 2).any()):
        alone = int(groups.ids_N[groups.index_B][size_B < 2][0])
        raise ValueError(
            f"{name} compares a row with the others of its group, but group {alone} has 1 row "
            f"(the batch has {size_B.numel()}): raise the batch size, or the number of samples per "
            "prompt, to 2 or more; or, for the target gibbs or mara, use the estimator 'reinvent', "
            "which compares nothing"
        )
    return size_B


def check_above_0(name: str, **options: float) -> None:
    """Refuse options that are not finite numbers above 0."""
    for option, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {option} must be a finite number above 0, got {value}")
