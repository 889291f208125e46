"""The objective: a target, an estimator that trains towards it, and an optional shaper.

Legend: B rows of a batch; P fresh samples of the reference.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from chemkl.losses.estimators import (
    ESTIMATORS,
    INPUTS,
    STATES,
    Chains,
    Estimator,
    Shape,
    State,
    unshaped,
)
from chemkl.losses.registry import check_names, check_options, options_of
from chemkl.losses.shapers import BoundShaper, build_shaper
from chemkl.losses.targets import TARGETS, Target, gibbs_log_target, moved, resolve_beta
from chemkl.losses.types import Groups, LossInputs, LossOutput, TargetOutput, any_row, check_finite

Duplicates = Literal["keep", "drop"]
_OF_PRIOR = "logp_policy_of_prior_P"


@dataclass(frozen=True)
class Objective:
    """A loss over batches: evaluates the target, then the estimator's loss.

    Attributes:
        target: the target; its beta is the KL coefficient of the estimator, too.
        estimator: the loss function and its properties.
        options: options of the estimator; others have their defaults.
        shaper: changes the advantage of an estimator that has one; None: no shaper.
        duplicates: "keep": a sequence counts as often as it was sampled, as in an expectation under
            the policy. "drop": only its first row counts in the loss (not in target or metrics). A
            group that consists of copies of one sequence keeps them; its advantages are zero.
        states: the state of the estimator across batches, by parameter name.
    """

    target: Target
    estimator: Estimator
    options: Mapping[str, Any] = field(default_factory=dict)
    shaper: BoundShaper | None = None
    duplicates: Duplicates = "keep"
    states: Mapping[str, State] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inputs = self.estimator.signature.inputs
        states = {name: STATES[name]() for name in inputs if name in STATES}
        object.__setattr__(self, "states", states)

    @property
    def beta(self) -> float:
        """The KL coefficient, that of the target."""
        return self.target.beta

    @property
    def needs_prior_samples(self) -> bool:
        """Whether it needs ``LossInputs.logp_policy_of_prior``, always or because of an option."""
        always = _OF_PRIOR in self.estimator.signature.required
        return always or self.options.get("reference") == "prior"

    def move(self, **values: float) -> None:
        """Change tau or beta of the target from now on."""
        if any(getattr(self.target, name) != value for name, value in values.items()):
            object.__setattr__(self, "target", moved(self.target, **values))

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameters to optimise in addition to the policy's: a learned log Z."""
        for state in self.states.values():
            yield from state.parameters()

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Compute loss, metrics and target of one batch, which has the rows of all ranks.

        Raises:
            ValueError: a missing input of the estimator or the shaper, or a non-finite loss.
        """
        target = self.target(inputs.logp_ref.detach(), inputs.reward.detach(), inputs.group)
        log_target_B = torch.where(target.log_target == -torch.inf, 0.0, target.log_target)
        fix = "a log density is finite, or -inf where the target has no mass"
        check_finite(f"log_target of {type(self.target).__name__}", log_target_B, fix)
        of_loss = of_metrics = (inputs, target)
        if self.duplicates == "drop":
            kept_B = _first_occurrences(inputs)
            of_loss = (inputs.where(kept_B), target.where(kept_B))
        loss, estimator_metrics = self._estimate(*of_loss)
        chains = self.states.get("chains")
        carry_B = chains.carry_B if isinstance(chains, Chains) else None
        if carry_B is not None and self.duplicates == "drop":  # as rows of the whole batch
            carry_B = torch.zeros_like(kept_B).masked_scatter(kept_B, carry_B)
        if inputs.retained is not None:
            of_metrics = (inputs.where(~inputs.retained), target.where(~inputs.retained))
        metrics = {"loss": loss, **describe(*of_metrics, self.beta), **estimator_metrics}
        detached = {name: value.detach() for name, value in metrics.items()}
        return LossOutput(loss, detached, target, carry_B)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of target, estimator and shaper, for a checkpoint."""
        return {"target": self.target.state_dict()} | {
            part: {name: state.state_dict() for name, state in states.items()}
            for part, states in self._states.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        self.target.load_state_dict(state["target"])
        for part, states in self._states.items():
            for name, part_state in states.items():
                part_state.load_state_dict(state[part][name])

    @property
    def _states(self) -> dict[str, Mapping[str, State]]:
        of_shaper = {} if self.shaper is None else self.shaper.states
        return {"estimator": self.states, "shaper": of_shaper}

    def _estimate(
        self, inputs: LossInputs, target: TargetOutput
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Call the estimator, and check its result: a custom one may return anything."""
        logp_B, behaviour_B = inputs.logp_policy.detach(), inputs.logp_behaviour
        shape: Shape = unshaped
        if self.shaper is not None:
            shape = partial(
                self.shaper,
                hit_B=target.hit,
                logp_policy_B=logp_B,
                kernel_BB=inputs.kernel,
                outcome_B=inputs.outcome,
                features_BF=inputs.features,
                group_B=inputs.group,
            )
        available = {
            "logp_policy_B": inputs.logp_policy,
            "log_target_B": target.log_target,
            "beta": self.beta,
            "group_B": inputs.group,
            "logp_behaviour_B": logp_B if behaviour_B is None else behaviour_B.detach(),
            "logp_anchored_B": target.logp_anchored,
            "reward_anchored_B": target.reward_anchored,
            "retained_B": inputs.retained,
            _OF_PRIOR: inputs.logp_policy_of_prior,
            "shape": shape,
            **self.states,
        }
        name, signature = self.estimator.name, self.estimator.signature
        required = signature.required | ({_OF_PRIOR} if self.needs_prior_samples else set())
        for missing in (n for n in signature.inputs if n in required and available[n] is None):
            field_name = missing.rpartition("_")[0]
            raise ValueError(
                f"estimator {name!r} needs {field_name} and the batch has none: pass "
                f"LossInputs({field_name}=...), {INPUTS[missing]}"
            )
        arguments = {n: available[n] for n in signature.inputs}
        result = self.estimator.function(**arguments, **self.options)
        is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
        problem = ""
        if not is_pair or result[0].numel() != 1:
            got = f"a loss of shape {tuple(result[0].shape)}" if is_pair else type(result).__name__
            what = "(loss, metrics), a scalar tensor to minimise and a dict of scalars"
            problem = f"estimator {name!r} must return {what}; got {got}"
        elif any_row(~torch.isfinite(result[0].detach())):
            problem = (
                f"the loss of {name} is {result[0].item()}: a log-ratio is beyond what its "
                "precision holds. Has the policy diverged (log_ratio_std in the metrics), or is "
                "beta very small? Lower the learning rate, clip gradients, or take a larger beta"
            )
        if problem:
            raise ValueError(problem)
        return result


def _first_occurrences(inputs: LossInputs) -> Tensor:
    """Mark the rows that stay when copies are dropped."""
    if inputs.duplicate is None:
        raise ValueError(
            'duplicates="drop" needs LossInputs(duplicate=...): True at each row whose sequence '
            "occurs in an earlier row of the batch"
        )
    first_B = ~inputs.duplicate
    groups = Groups.of(inputs.group, inputs.reward)
    return first_B | (groups.sum_B(first_B.long()) < 2)


METRICS = {
    "loss": "the loss that was minimised; its value means little, its gradient does",
    "reward_mean": "mean reward over all rows",
    "hit_rate": "share of rows that the target treats as hits; 0 for gibbs, which has no hit test",
    "logp_policy_mean": "mean log-probability under the policy, nats",
    "logp_ref_mean": "mean log-probability under the reference, nats",
    "logp_ref_hits_mean": "the same over the hits: falling means ever odder sequences",
    "anchor_logp_ref": "mean over the hits of log pi_ref of the anchor that they are lifted to",
    "log_target_mean": "mean unnormalised log target, nats",
    "log_ratio_mean": "mean of log target - log policy: log Z when the policy is the target",
    "log_ratio_std": "its standard deviation, over all rows: 0 when the policy is the target",
    "kl": "mean of log policy - log reference: KL(policy || reference) on the policy's own rows",
    "mara_bonus_mean": "mean over the hits of beta (log target - gibbs log target), reward units",
    "mara_bonus_std": "its standard deviation over the hits; below 1, the range of the reward",
}
"""Every name of ``describe`` and of the objective itself, with its meaning."""


def describe(inputs: LossInputs, target: TargetOutput, beta: float) -> dict[str, Tensor]:
    """Compute the metrics of a batch that do not depend on the estimator."""
    logp_policy_B = inputs.logp_policy.detach()
    logp_ref_B = inputs.logp_ref.detach()
    reward_B = inputs.reward.detach()
    hit_B = target.hit
    log_ratio_B = target.log_target - logp_policy_B
    bonus_B = beta * (target.log_target - gibbs_log_target(logp_ref_B, reward_B, beta))

    def over_hits(values_B: Tensor) -> Tensor:
        return torch.where(hit_B, values_B, 0).sum() / hit_B.sum()

    bonus_mean = over_hits(bonus_B)
    return {
        "reward_mean": reward_B.mean(),
        "hit_rate": hit_B.to(logp_ref_B).mean(),
        "logp_policy_mean": logp_policy_B.mean(),
        "logp_ref_mean": logp_ref_B.mean(),
        "logp_ref_hits_mean": over_hits(logp_ref_B),
        "anchor_logp_ref": over_hits(target.anchor_logp_ref),
        "log_target_mean": target.log_target.mean(),
        "log_ratio_mean": log_ratio_B.mean(),
        "log_ratio_std": log_ratio_B.std(correction=0),
        "kl": (logp_policy_B - logp_ref_B).mean(),
        "mara_bonus_mean": bonus_mean,
        "mara_bonus_std": over_hits((bonus_B - bonus_mean) ** 2).sqrt(),
    }


Options = Mapping[str, Any]


def build_objective(
    target: Target | str,
    estimator: str = "rloo",
    *,
    beta: float | None = None,
    sigma: float | None = None,
    duplicates: Duplicates = "keep",
    estimator_options: Options | None = None,
    shaper: BoundShaper | str | Options | None = None,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
    **target_options: Any,
) -> Objective:
    """Build an objective.

    Args:
        target: a target, or its name: "gibbs", "mara", "filter".
        estimator: a name in ``ESTIMATORS``.
        beta: the KL coefficient; if the target is an object, leave it out or give the same.
        sigma: 1/beta, instead of beta.
        duplicates: "keep" or "drop", see ``Objective``.
        estimator_options: for example ``{"divergence": "js"}`` of "f_dpg".
        shaper: a shaper, its name, or ``{"kind": name, **options}``.
        reward_range: the reward of a failure, and the highest possible reward, if known.
        **target_options: options of a target given by name, for example ``tau=0.8``.

    Raises:
        ValueError: an unknown name or option, or two different betas; or, a line each, a target
            that does not suit the estimator, a shaper without effect, a tau that no reward or every
            reward reaches.
    """
    chosen = ESTIMATORS[estimator]
    target = _resolve_target(target, beta, sigma, target_options)
    options = dict(estimator_options or {})
    check_options("estimator", estimator, chosen.signature.options, options)
    if shaper is not None and not isinstance(shaper, BoundShaper):
        shaper_options = _options(shaper)
        shaper = build_shaper(shaper_options.pop("kind"), **shaper_options)
    problems = [
        text for _, text in objective_problems(target, chosen, options, shaper, reward_range)
    ]
    if duplicates not in get_args(Duplicates):
        problems.append(f"duplicates must be 'keep' or 'drop', got {duplicates!r}")
    if problems:
        raise ValueError("\n".join(problems))
    return Objective(target, chosen, options, shaper, duplicates)


def objective_from_config(
    config: Mapping[str, Any], reward_range: tuple[float, float] = (-math.inf, math.inf)
) -> Objective:
    """Build an objective from plain values, as in a config file.

    Args:
        config: ``{"target": {"kind": "mara", "tau": 0.8, "beta": 0.1}, "estimator": "rloo"}``; the
            estimator may also be a mapping with its options, ``{"kind": "f_dpg", "divergence":
            "js", "duplicates": "drop"}``, and so may a "shaper". Options of None are ignored.
        reward_range: the reward of a failure, and the highest possible reward, if known.

    Raises:
        ValueError: a missing or unknown key or kind, and what ``build_objective`` refuses.
    """
    if "target" not in config or config.keys() - {"target", "estimator", "shaper"}:
        raise ValueError(
            f"an objective has the keys target, estimator and shaper, got {sorted(config)}"
        )
    target = _options(config["target"])
    estimator = _options(config.get("estimator", "rloo"))
    return build_objective(
        target.pop("kind"),
        estimator.pop("kind"),
        duplicates=estimator.pop("duplicates", "keep"),
        estimator_options=estimator,
        shaper=config.get("shaper"),
        reward_range=reward_range,
        **target,
    )


def _options(section: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return a section of a config, or a bare kind, as a dict without options of None."""
    options = {"kind": section} if isinstance(section, str) else section
    if "kind" not in options:
        raise ValueError(f"kind is missing (got {', '.join(options)})")
    return {name: value for name, value in options.items() if value is not None}


def _resolve_target(
    target: Target | str, beta: float | None, sigma: float | None, options: dict[str, Any]
) -> Target:
    """Build a target given by name; refuse options and another beta for a target object."""
    if isinstance(target, str):
        options |= {"beta": beta, "sigma": sigma}
        options = {name: value for name, value in options.items() if value is not None}
        check_names("target", target, options_of(TARGETS[target]), options)
        return TARGETS[target](**options)
    problem = ""
    if options:
        instead = f"options go with a target's name; give them to {type(target).__name__}(...)"
        problem = f"{', '.join(sorted(options))}: {instead} instead"
    elif beta is not None or sigma is not None:
        stated = resolve_beta(beta, sigma)
        if not math.isclose(stated, target.beta, rel_tol=1e-9):
            both = f"the target has {target.beta}, build_objective was given {stated}"
            flat = "The hits are flat only when target and score share one beta: leave it out here"
            problem = f"two betas: {both}. {flat}"
    if problem:
        raise ValueError(problem)
    return target


def objective_problems(
    target: Target,
    estimator: Estimator | None = None,
    options: Options | None = None,
    shaper: BoundShaper | None = None,
    reward_range: tuple[float, float] = (-math.inf, math.inf),
) -> list[tuple[str, str]]:
    """Return what does not go together, as pairs (config key, problem)."""
    failure, most = reward_range
    names = [name for name in TARGETS if TARGETS[name] is type(target)] or [type(target).__name__]
    problems = []
    never = f"no reward is above {most:g}: there would never be a hit"
    always = f"what could not be scored has the reward {failure:g} and would be a hit"
    for name in ("tau", "tau_floor"):
        tau = getattr(target, name, None)
        if tau is not None and not failure < tau <= most:
            text = f"{never if tau > most else always}. Take one above {failure:g}, up to {most:g}"
            problems.append((f"target.{name}", f"{name} is {tau}, but {text}"))
    if estimator is None:
        return problems
    why = estimator.refuses(target, **(options or {}))
    if why is not None:
        suited = [n for n in ESTIMATORS if ESTIMATORS[n].refuses(target) is None]
        able = ", ".join(n for n in suited if n != estimator.name)
        instead = f", or one of these estimators: {able}" if able else ""
        text = f"cannot be used with the target {names[0]!r}, {why}{instead}"
        problems.append(("estimator", f"estimator {estimator.name!r} {text}"))
    if shaper is not None and not estimator.takes_shaper:
        able = ", ".join(name for name in ESTIMATORS if ESTIMATORS[name].takes_shaper)
        text = f"has no advantage that a shaper could change; estimators that have: {able}"
        problems.append(("shaper", f"estimator {estimator.name!r} {text}"))
    if shaper is not None and shaper.needs("hit_B") and not target.has_hits:
        text = (
            f"changes hits only, and the target {names[0]!r} has none: use the target mara or "
            "filter, or no shaper"
        )
        problems.append(("shaper", f"shaper {shaper.shaper.name!r} {text}"))
    return problems
