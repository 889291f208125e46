"""What a TRL trainer may not be told when its rewards are those of MARA, and why."""

import math
from collections.abc import Mapping
from typing import Any

from chemkl.config import InputError
from chemkl.losses import Mara

LEAST_GENERATIONS = 4
"""Completions of a prompt below which MARA is refused.

A hit is lifted to the likeliest hit beside it, so a hit alone in its group has the plain target. At
a hit rate of a half that happens to one hit in two with 2 completions, one in eight with 4, and one
in 128 with 8.
"""

_PLAIN_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "top_p": (None, 1.0),
    "top_k": (None, -1, 0),
    "min_p": (0.0, None),
    "repetition_penalty": (None, 1.0),
    "num_beams": (None, 1),
    "do_sample": (None, True),
}
"""Values under which the samples are those of the policy whose log-probabilities are computed."""


def build_target(args: Any, **options: Any) -> Mara:
    """Check a config of TRL and make the target that goes with it.

    Args:
        args: a ``trl.RLOOConfig``.
        **options: of ``chemkl.losses.Mara``, without beta and anchor; None counts as not given.

    Raises:
        InputError: a line for each setting that goes wrong under MARA.
    """
    problems = [
        *_kl_problems(args),
        *_scale_problems(args),
        *_group_problems(args, options.get("tau_quantile")),
        *_sampling_problems(args),
    ]
    beta = (
        args.beta if _is_beta(args.beta) else 1.0
    )  # so that the options are looked at all the same
    try:
        target = Mara(beta=beta, **options)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return target


def refuse_other_methods(args: Any) -> None:
    """Accept the config of RLOO only.

    Raises:
        InputError: saying why GRPO is refused, or that no config was given.
    """
    kind = "no config" if args is None else f"a {type(args).__name__}"
    why = (
        ""
        if "GRPO" not in kind
        else " GRPO divides the rewards by their standard deviation and keeps the KL in the loss: "
        "the KL coefficient is then beta times that deviation, the bonus was made for beta, and "
        "the policy collapses."
    )
    raise InputError(
        f"MaraRLOOTrainer was given {kind}: it needs args=trl.RLOOConfig(...), with "
        f"num_generations of {LEAST_GENERATIONS} or more (the default of trl is 2).{why}"
    )


def _is_beta(beta: Any) -> bool:
    return isinstance(beta, int | float) and 0 < beta < math.inf


def _kl_problems(args: Any) -> list[str]:
    """The reference has to be there, and to stay where it is."""
    problems = []
    if not _is_beta(args.beta):
        problems.append(
            f"beta is {args.beta}: it must be a finite number above 0. Without the KL to the "
            "reference there is no target for MARA to change, and trl loads no reference model; "
            "for a weak pull take a small beta such as 0.001"
        )
    if args.sync_ref_model:
        problems.append(
            "sync_ref_model is True: the reference would follow the policy, and the hits would be "
            "lifted to a probability that the run itself has made. Leave it False"
        )
    return problems


def _scale_problems(args: Any) -> list[str]:
    """Nothing may change the scale of reward and KL after the bonus."""
    problems = []
    if args.normalize_advantages:
        problems.append(
            "normalize_advantages is True: a batch whose hits have become equally likely has only "
            "noise left, and dividing by its standard deviation makes that noise large. Leave it "
            "False"
        )
    if args.reward_clip_range:
        problems.append(
            f"reward_clip_range is {args.reward_clip_range}: trl would cut off the bonus of the "
            "rare hits with it. Leave it out; clip inside the reward function, or limit the bonus "
            "with cap (nats)"
        )
    return problems


def _group_problems(args: Any, quantile: float | None) -> list[str]:
    """A group has to be large enough to hold an anchor and something to lift to it."""
    n = args.num_generations
    if n < LEAST_GENERATIONS:
        return [
            f"num_generations is {n}: MARA needs {LEAST_GENERATIONS} or more. A hit is lifted to "
            "the likeliest hit among the completions of the same prompt; with fewer it is mostly "
            "alone there and nothing changes. 8 to 16 are better"
        ]
    if quantile is None or not 0 < quantile < 1:  # the second is the target's to refuse
        return []
    least = math.ceil(1 + 1 / (1 - quantile) - 1e-9)
    if n < least:
        return [
            f"num_generations is {n}: with tau_quantile {quantile:g} only the best of {n} "
            f"different rewards is a hit, and it takes two. Take {least} or more, "
            "a lower tau_quantile, or tau in its place"
        ]
    return []


def _sampling_problems(args: Any) -> list[str]:
    """The samples have to be those of the policy whose log-probabilities trl computes."""
    more = args.generation_kwargs if isinstance(args.generation_kwargs, Mapping) else {}
    given = {name: more.get(name, getattr(args, name, None)) for name in _PLAIN_SAMPLING}
    problems = [
        f"{name} is {value}: the rare completions that MARA is to lift would be sampled less "
        f"often than their log-probability says. Take {name}={_PLAIN_SAMPLING[name][-1]}"
        for name, value in given.items()
        if value not in _PLAIN_SAMPLING[name]
    ]
    temperature = more.get("temperature", args.temperature)
    if temperature != args.temperature:
        problems.append(
            f"temperature is {temperature} in generation_kwargs and {args.temperature} beside it: "
            "trl computes log-probabilities at the latter. Give it once, as temperature"
        )
    return problems
