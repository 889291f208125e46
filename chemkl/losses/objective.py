"""The objective: a target, the estimator that walks to it, and a shaper on the way.

Legend: B rows of a batch; P fresh samples of the reference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from chemkl.losses.estimators import Estimator
from chemkl.losses.estimators.base import INPUTS, unshaped
from chemkl.losses.estimators.states import STATES, Chains, State
from chemkl.losses.metrics import describe
from chemkl.losses.reductions import Groups
from chemkl.losses.shapers import BoundShaper
from chemkl.losses.targets import Target
from chemkl.losses.types import LossInputs, LossOutput, TargetOutput

Duplicates = Literal["keep", "drop"]
_OF_PRIOR = "logp_policy_of_prior_P"


@dataclass(frozen=True)
class Objective:
    """A loss over batches: evaluates the target, then lets the estimator walk to it.

    Attributes:
        target: its beta is the only one there is.
        estimator: the loss function and what it is good for.
        options: of the estimator; what is not given has its default.
        shaper: changes the advantage of an estimator that has one; None leaves it.
        duplicates: "keep": a sequence counts as often as it was sampled, which is what an
            expectation under the policy asks for. "drop": only its first row counts in the loss
            (not in target or metrics); a group of copies of one sequence keeps them, and its
            advantages are zero by themselves.
        states: what the estimator remembers from batch to batch, by the parameter's name.
    """

    target: Target
    estimator: Estimator
    options: Mapping[str, Any] = field(default_factory=dict)
    shaper: BoundShaper | None = None
    duplicates: Duplicates = "keep"
    states: Mapping[str, State] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = {name: STATES[name]() for name in self.estimator.inputs if name in STATES}
        object.__setattr__(self, "states", own)

    @property
    def beta(self) -> float:
        """The KL coefficient, that of the target."""
        return self.target.beta

    @property
    def off_policy(self) -> bool:
        """Whether rows that another policy sampled (replay) may go in."""
        return self.estimator.off_policy

    @property
    def needs_prior_samples(self) -> bool:
        """Whether it wants ``LossInputs.logp_policy_of_prior``: asked for always, or by option."""
        always = _OF_PRIOR in self.estimator.wanted.required
        return always or self.options.get("reference") == "prior"

    def parameters(self) -> Iterator[Tensor]:
        """Return what an optimizer is to learn beside the policy (the log Z of some estimators)."""
        for state in self.states.values():
            yield from state.parameters()

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch (of the rows of all ranks), its metrics and its target.

        Raises:
            ValueError: something is missing that the estimator or the shaper needs; or the loss is
                not finite.
        """
        target = self.target(inputs.logp_ref.detach(), inputs.reward.detach(), inputs.group)
        _check_target(self.target, target)
        counted, target_of_counted = inputs, target
        if self.duplicates == "drop":
            kept_B = _first_occurrences(inputs)
            counted, target_of_counted = inputs.where(kept_B), target.where(kept_B)
        available = self._available(counted, target_of_counted)
        wanted = {name: available[name] for name in self.estimator.inputs}
        _check_given(self.estimator, wanted)
        loss, own_metrics = _estimate(self.estimator, wanted, self.options)
        _check_finite(self.estimator.name, loss)
        fresh_B = None if inputs.retained is None else ~inputs.retained
        seen = (
            (inputs, target) if fresh_B is None else (inputs.where(fresh_B), target.where(fresh_B))
        )
        metrics = {"loss": loss, **describe(*seen, self.beta), **own_metrics}
        detached = {name: value.detach() for name, value in metrics.items()}
        return LossOutput(loss, detached, target, self._carry(inputs))

    def state_dict(self) -> dict[str, Any]:
        """Return what target and estimator remember from batch to batch, for a checkpoint."""
        states = {name: state.state_dict() for name, state in self.states.items()}
        return {"target": self.target.state_dict(), "estimator": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        self.target.load_state_dict(state["target"])
        for name, own in self.states.items():
            own.load_state_dict(state["estimator"][name])

    def _available(self, inputs: LossInputs, target: TargetOutput) -> dict[str, Any]:
        """Everything that an estimator may ask for, by name."""
        logp_B = inputs.logp_policy.detach()
        behaviour_B = inputs.logp_behaviour
        return {
            "logp_policy_B": inputs.logp_policy,
            "log_target_B": target.log_target,
            "beta": self.beta,
            "group_B": inputs.group,
            "logp_behaviour_B": logp_B if behaviour_B is None else behaviour_B.detach(),
            "logp_anchored_B": target.logp_anchored,
            "reward_anchored_B": target.reward_anchored,
            "retained_B": inputs.retained,
            _OF_PRIOR: inputs.logp_policy_of_prior,
            "shape": unshaped if self.shaper is None else self._shape(self.shaper, inputs, target),
            **self.states,
        }

    @staticmethod
    def _shape(shaper: BoundShaper, inputs: LossInputs, target: TargetOutput) -> Any:
        """The shaper as a function of the advantage alone."""

        def shape(advantage_B: Tensor) -> Tensor:
            return shaper(
                advantage_B=advantage_B,
                hit_B=target.hit,
                logp_policy_B=inputs.logp_policy.detach(),
                kernel_BB=inputs.kernel,
                outcome_B=inputs.outcome,
                group_B=inputs.group,
            )

        return shape

    def _carry(self, inputs: LossInputs) -> Tensor | None:
        """The rows that the next batch is to have again, as rows of the whole batch."""
        chains = self.states.get("chains")
        if not isinstance(chains, Chains) or chains.carry_B is None:
            return None
        if self.duplicates == "keep":
            return chains.carry_B
        carry_B = torch.zeros_like(inputs.reward, dtype=torch.bool)
        carry_B[_first_occurrences(inputs)] = chains.carry_B
        return carry_B


def _check_given(estimator: Estimator, wanted: Mapping[str, Any]) -> None:
    """Refuse a batch without something that the estimator cannot do without."""
    for name in estimator.inputs:
        if wanted[name] is None and name in estimator.wanted.required:
            field_name = name.rpartition("_")[0]
            raise ValueError(
                f"estimator {estimator.name!r} needs {field_name} and the batch has none: pass "
                f"LossInputs({field_name}=...), {INPUTS[name]}"
            )


def _check_target(target: Target, output: TargetOutput) -> None:
    """Refuse a target of one's own that is NaN or +inf somewhere."""
    bad_B = torch.isnan(output.log_target) | (output.log_target == torch.inf)
    if bool(bad_B.any()):
        row = int(bad_B.nonzero()[0])
        raise ValueError(
            f"log_target of {type(target).__name__} is {output.log_target[row].item()} in row "
            f"{row}: a log density is finite, or -inf where the target has no mass"
        )


def _estimate(
    estimator: Estimator, wanted: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Call the estimator; what one of the user's own returns may be anything."""
    result = estimator.function(**wanted, **options)
    is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
    if not is_pair or result[0].numel() != 1:
        found = f"a loss of shape {tuple(result[0].shape)}" if is_pair else type(result).__name__
        raise ValueError(
            f"estimator {estimator.name!r} must return (loss, metrics), a scalar tensor to "
            f"minimise and a dict of scalars; got {found}"
        )
    return result


def _check_finite(name: str, loss: Tensor) -> None:
    """Refuse a loss that would make every weight NaN."""
    if not bool(torch.isfinite(loss.detach())):
        raise ValueError(
            f"the loss of {name} is {loss.item()}: a log-ratio is beyond what its precision holds. "
            "Has the policy diverged (log_ratio_std in the metrics), or is beta very small? Lower "
            "the learning rate, clip gradients, or take a larger beta"
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
