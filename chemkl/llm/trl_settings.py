"""What a TRL trainer may not be told when its rewards are those of MARA, and why."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

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
    "vllm_structured_outputs_regex": (None,),
}
"""Values under which the samples are those of the policy whose log-probabilities are computed."""


def build_target(args: Any, peft_config: Any = None, **options: Any) -> Mara:
    """Check a config of TRL and make the target that goes with it.

    Args:
        args: a ``trl.RLOOConfig``.
        peft_config: of the adapter that is to be trained; None: there is none, or not a new one.
        **options: of ``chemkl.losses.Mara``, without beta and anchor; None counts as not given.

    Raises:
        InputError: a line for each setting that goes wrong under MARA.
    """
    problems = [
        *_kl_problems(args),
        *_scale_problems(args),
        *_group_problems(args, options.get("tau_quantile")),
        *_sampling_problems(args),
        *_adapter_problems(args, peft_config),
    ]
    numbers = ("tau", "tau_quantile", "tau_floor", "alpha", "cap")
    no_numbers = [
        f"{name} is {options[name]!r}: it must be a number"
        for name in numbers
        if not isinstance(options.get(name), int | float | None)
    ]
    if no_numbers:
        raise InputError("\n".join([*problems, *no_numbers]))
    beta = args.beta if _is_beta(args.beta) else 1.0  # so that the options are looked at anyway
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


def refuse_dropout(model: nn.Module) -> None:
    """Refuse a model that drops units: in training mode, which trl asks it in, it is random.

    Raises:
        InputError: naming what drops units, and how to switch it off.
    """
    layers: dict[str, str] = {}
    settings: dict[str, str] = {}
    for where, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            layers.setdefault("a layer", f"{module.p:g} in {where}")
        for name, value in _settings_above_0(module):
            settings.setdefault(name, f"{value:g} in {where}")
    if not layers and not settings:
        return
    listed = ", ".join(f"{name} {rest}" for name, rest in (layers | settings).items())
    fixes = ["Take disable_dropout=True in the RLOOConfig"] if layers else []
    if settings:
        wanted = ", ".join(f"{name}=0.0" for name in settings)
        fixes.append(
            f"Load the model or its adapter with {wanted}, which disable_dropout does not reach; "
            "where trl loads the model, through model_init_kwargs"
        )
    raise InputError(f"the model has dropout ({listed}): {_RANDOM}. {'. '.join(fixes)}")


_RANDOM = (
    "trl computes log-probabilities in training mode, those of an adapter's reference too, so that "
    "KL, anchors and bonus would be random"
)


def _settings_above_0(module: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield name and value of each dropout that a module applies itself, without a layer for it."""
    for name, value in vars(module).items():
        if "drop" in name:  # attention_dropout, layerdrop, resid_pdrop
            each = value.values() if isinstance(value, Mapping) else [value]  # one an adapter
            yield from ((name, number) for number in each if _is_above_0(number))


def _is_above_0(value: Any) -> bool:
    return isinstance(value, float) and value > 0


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
        f"{name} is {value}: the rare completions that MARA is to lift would not be sampled as "
        f"often as their log-probability says. Take {name}={_PLAIN_SAMPLING[name][-1]}"
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


def _adapter_problems(args: Any, peft_config: Any) -> list[str]:
    """A new adapter may not drop units, unless trl switches that off."""
    if args.disable_dropout:
        return []
    return [
        f"{name} is {value} in peft_config: {_RANDOM}. Take {name}=0.0, or "
        "disable_dropout=True in the RLOOConfig"
        for name, value in getattr(peft_config, "__dict__", {}).items()
        if "drop" in name and _is_above_0(value)
    ]
