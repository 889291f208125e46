"""One objective out of a target and an estimator, with the combinations refused that go wrong.

Legend: B rows of a batch.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from chemkl.losses.estimators import ESTIMATORS, Estimator
from chemkl.losses.metrics import describe
from chemkl.losses.reductions import Groups
from chemkl.losses.registry import nearest_names
from chemkl.losses.targets import TARGETS, Target, resolve_beta
from chemkl.losses.types import LossInputs, LossOutput

Duplicates = Literal["keep", "drop"]


@dataclass(frozen=True)
class Objective:
    """A loss over batches: evaluates the target, then lets the estimator walk to it.

    Attributes:
        target: its beta is the only one there is.
        estimator: the loss function and what it is good for.
        duplicates: "keep": a sequence counts as often as it was sampled, which is what an
            expectation under the policy asks for. "drop": only its first row counts in the loss
            (not in target or metrics); a group of copies of one sequence keeps them, and its
            advantages are zero by themselves.
    """

    target: Target
    estimator: Estimator
    duplicates: Duplicates = "keep"

    @property
    def beta(self) -> float:
        """The KL coefficient, that of the target."""
        return self.target.beta

    @property
    def off_policy(self) -> bool:
        """Whether rows that another policy sampled (replay) may go in without weights."""
        return self.estimator.off_policy

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch (of the rows of all ranks), its metrics and its target."""
        target = self.target(inputs.logp_ref.detach(), inputs.reward.detach(), inputs.group)
        available: dict[str, Any] = {
            "logp_policy_B": inputs.logp_policy,
            "log_target_B": target.log_target,
            "group_B": inputs.group,
            "beta": self.beta,
        }
        if self.duplicates == "drop":
            kept_B = _first_occurrences(inputs)
            available = {
                name: value[kept_B] if isinstance(value, Tensor) else value
                for name, value in available.items()
            }
        wanted = {name: available[name] for name in self.estimator.inputs}
        loss, own_metrics = self.estimator.function(**wanted)
        metrics = {"loss": loss, **describe(inputs, target, self.beta), **own_metrics}
        detached = {name: value.detach() for name, value in metrics.items()}
        return LossOutput(loss, detached, target)

    def state_dict(self) -> dict[str, Any]:
        """Return what the target remembers from batch to batch, for the checkpoint of a run."""
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        self.target.load_state_dict(state["target"])


def build_objective(
    target: Target | str,
    estimator: str = "rloo",
    *,
    beta: float | None = None,
    sigma: float | None = None,
    duplicates: Duplicates = "keep",
    **target_options: Any,
) -> Objective:
    """Put an objective together.

    Args:
        target: a target, or the name of one: "gibbs", "mara", "filter".
        estimator: "reinvent", "rloo" or "log_variance".
        beta: the KL coefficient; not needed with a target that has one, and then the same.
        sigma: 1/beta, in place of beta.
        duplicates: "keep" or "drop", see ``Objective``.
        **target_options: of the target given by name, for example ``tau=0.8``.

    Raises:
        ValueError: an unknown name or option, two different betas, a target that the estimator
            cannot walk to.
    """
    chosen = ESTIMATORS[estimator]
    if isinstance(target, str):
        built = _build_target(target, {"beta": beta, "sigma": sigma, **target_options})
    else:
        built = target
        _check_instance(built, beta, sigma, target_options)
    if chosen.needs_full_support and not built.full_support:
        able = [name for name in ESTIMATORS if not ESTIMATORS[name].needs_full_support]
        others = f", or one of these estimators: {', '.join(able)}" if able else ""
        raise ValueError(
            f"estimator {estimator!r} cannot walk to a {type(built).__name__} target, which is "
            "-inf outside of the hits: the score of every other row would be infinite. "
            f"Use the target gibbs or mara{others}"
        )
    if duplicates not in get_args(Duplicates):
        raise ValueError(f"duplicates must be 'keep' or 'drop', got {duplicates!r}")
    return Objective(built, chosen, duplicates)


def objective_from_config(config: Mapping[str, Any]) -> Objective:
    """Put an objective together from plain values, as a config file has them.

    Args:
        config: ``{"target": {"kind": "mara", "tau": 0.8, "beta": 0.1}, "estimator": "rloo"}``; the
            estimator may also be a mapping, ``{"kind": "rloo", "duplicates": "drop"}``. Options
            that are None count as not given.
    """
    unknown = sorted(config.keys() - {"target", "estimator"})
    if unknown or "target" not in config:
        raise ValueError(f"an objective has the keys target and estimator, got {sorted(config)}")
    target = _options(config["target"])
    estimator = _options(config.get("estimator", {"kind": "rloo"}))
    return build_objective(target.pop("kind"), estimator.pop("kind"), **target, **estimator)


def _options(section: Mapping[str, Any] | str) -> dict[str, Any]:
    """Read a section of a config, or a bare kind, without the options left open."""
    given = {"kind": section} if isinstance(section, str) else section
    if "kind" not in given:
        raise ValueError(f"kind is missing beside {', '.join(given)}")
    return {name: value for name, value in given.items() if value is not None}


def _build_target(name: str, options: dict[str, Any]) -> Target:
    """Make the target of that name, with a message of ours for an option that it does not have."""
    kind = TARGETS[name]
    allowed = inspect.signature(kind).parameters
    for option in options:
        if option not in allowed:
            tail = nearest_names(option, allowed)
            raise ValueError(f"target {name!r} has no option {option!r}{tail}")
    missing = [
        option
        for option, parameter in allowed.items()
        if parameter.default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise ValueError(f"target {name!r} needs {', '.join(missing)}")
    return kind(**options)


def _check_instance(
    target: Target, beta: float | None, sigma: float | None, options: dict[str, Any]
) -> None:
    """Refuse a second beta, or options, beside a target that has been made already."""
    if options:
        raise ValueError(
            f"{', '.join(sorted(options))}: options go with a target's name; give them to "
            f"{type(target).__name__}(...) instead"
        )
    if beta is None and sigma is None:
        return
    stated = resolve_beta(beta, sigma)
    if not math.isclose(stated, target.beta, rel_tol=1e-9):
        raise ValueError(
            f"two betas: the target has {target.beta}, build_objective was given {stated}. "
            "The hits are flat only when target and score share one beta: leave it out here"
        )


def _first_occurrences(inputs: LossInputs) -> Tensor:
    """The rows that stay when copies are dropped."""
    if inputs.duplicate is None:
        raise ValueError(
            'duplicates="drop" needs LossInputs(duplicate=...): True at each row whose sequence '
            "stands in an earlier row of the batch"
        )
    first_B = ~inputs.duplicate
    groups = Groups.of(inputs.group, inputs.reward)
    return first_B | (groups.sum_B(first_B.long()) < 2)
