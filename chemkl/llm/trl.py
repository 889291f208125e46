"""TRL's RLOO with the target of MARA: all good completions of a prompt become equally likely.

MARA is mode-anchored reward augmentation (GX-Chen et al., arXiv 2510.20817), not the alignment
method of the same name. Legend: B rows, the completions of a generation batch on all ranks; E
reward functions.
"""

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from scipy.stats import entropy
from torch import Tensor, nn

from chemkl.config import InputError
from chemkl.config.base import install_command
from chemkl.llm.anchored import Anchored, anchor_rewards
from chemkl.llm.extra import package
from chemkl.losses import Mara

_trl, _ranks = package("trl", "trl"), package("accelerate.utils", "trl")
_RLOOTrainer: Any = _trl.RLOOTrainer

__all__ = ["METRICS", "MaraRLOOTrainer"]


class MaraRLOOTrainer(_RLOOTrainer):  # type: ignore[misc]  # a base without types
    """``trl.RLOOTrainer`` whose rewards are those of Algorithm 1 of arXiv 2510.20817.

    A completion is a hit if its reward (the weighted sum of the reward functions) is at least tau.
    A hit gets R(z) + beta (log pi_ref(z) - log pi_ref), z the likeliest hit under the reference
    among the completions of the same prompt, on all ranks; every other completion keeps its reward.
    trl then subtracts beta KL as usual. ``chemkl.losses.Mara`` implements the rule. The logs show
    the bonus as a reward function, ``rewards/mara_bonus/mean``; ``METRICS`` lists further metrics.

    Differences from the paper's algorithm, or from trl:
        1. A completion cut off before its end token is neither hit nor anchor, whether or not
           ``mask_truncated_completions`` removes it from the loss.
        2. A completion for which all reward functions return None or NaN is neither hit nor anchor,
           and trl learns nothing from it. If only some return None, the sum of the others counts.
        3. With ``num_iterations`` or ``steps_per_generation`` above their defaults the later
           updates are off-policy, as in trl; the bonus depends only on the frozen reference and
           stays correct.
        4. At a temperature other than 1 trl computes both log-probabilities at that temperature:
           the hits become equally likely under the policy at that temperature.

    Args:
        model: as in trl.
        reward_funcs: as in trl.
        args: with beta above 0, num_generations of 4 or more, no normalisation and no clipping;
            disable_dropout if the model or its adapter has dropout.
        tau: the minimum reward of a hit; or give tau_quantile and tau_floor.
        **options: of ``chemkl.losses.Mara`` (tau_quantile, of a prompt's completions, tau_floor,
            alpha, cap, reward_on_hits), and the other arguments of ``trl.RLOOTrainer``.

    Raises:
        InputError: a line for each setting that MARA does not work with.
    """

    def __init__(
        self, model: Any, reward_funcs: Any, args: Any, *, tau: float | None = None, **options: Any
    ) -> None:
        names = {"tau_quantile", "tau_floor", "alpha", "cap", "reward_on_hits"} & options.keys()
        of_target = {name: options.pop(name) for name in names}
        self.target = build_target(args, options.get("peft_config"), tau=tau, **of_target)
        super().__init__(model, reward_funcs, args, **options)
        _refuse_dropout(self.model)
        self._logps: list[tuple[Any, Tensor]] | None = None
        self._warned: set[str] = set()
        self.reward_funcs: list[Any] = [*self.reward_funcs, mara_bonus]
        self.reward_func_names: list[str] = [*self.reward_func_names, mara_bonus.__name__]
        self.reward_processing_classes: list[Any] = [*self.reward_processing_classes, None]
        self.reward_weights: Tensor = torch.cat([self.reward_weights, torch.ones(1)])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """Record log-probabilities from here to the rewards, but not those of the loss."""
        self._logps = []
        return super()._generate_and_score_completions(inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Record the log-probabilities, summed over the tokens of each completion."""
        result = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        if self._logps is not None:
            completion_mask = attention_mask[:, -logits_to_keep:]
            self._logps.append((model, (result[0].double() * completion_mask).sum(dim=1)))
        return result

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Fill in the column of the bonus."""
        columns: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        # 1. R as trl sums it: without functions that returned None; NaN where all of them did
        column_BE = columns[:, :-1]
        infinite = column_BE.isinf().any(dim=0).nonzero().flatten().tolist()
        InputError.refuse(
            f"the reward function {self.reward_func_names[i]} returned an infinite reward: return "
            "a finite number, or None if the completion cannot be scored"
            for i in infinite
        )
        reward_B = (column_BE * self.reward_weights[:-1].to(columns.device)).nansum(dim=1)
        reward_B = reward_B.where(~column_BE.isnan().all(dim=1), torch.nan)
        # 2. log pi_ref on all ranks, and whether there is an end token, by trl's own test
        logp_ref_B = _ranks.gather(self._reference_logps())
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        is_complete = [bool(ids) and ids[-1] in ends for ids in completion_ids_list]
        complete_B = _ranks.gather(torch.tensor(is_complete).to(columns.device))
        ids = [tuple(row) for row in _ranks.gather_object(completion_ids_list)]
        # 3. target, 4. bonus
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        group_B = torch.arange(len(reward_B), device=reward_B.device) // size
        anchored = anchor_rewards(self.target, reward_B, logp_ref_B, group_B, complete_B)
        columns[:, -1] = anchored.bonus.where(~reward_B.isnan(), torch.nan).to(columns)
        # 5. metrics, and a warning if MARA is too strong or has no effect
        metrics = _describe(anchored, reward_B, logp_ref_B, complete_B, ids, size)
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        highest, beta = float(reward_B.nan_to_num().abs().max()), self.target.beta
        spread, problems = metrics["mara/bonus_std"], {}
        if spread > highest:
            problems["mara/bonus_std"] = (
                f"mara/bonus_std = {spread:.2g}, above the highest reward of the batch "
                f"({highest:.2g}): log pi_ref of the hits varies by {spread / beta:.3g} nats, and "
                f"with beta = {beta:g} that outweighs the reward. Take a smaller beta, or cap or "
                "alpha."
            )
        if not bool(complete_B.any()):
            problems["mara/truncated_rate"] = (
                "mara/truncated_rate = 1: no completion of the batch has an end token, so none "
                "is a hit and MARA has no effect. Raise max_completion_length, or ask for less."
            )
        for metric in problems.keys() - self._warned:
            warnings.warn(problems[metric], stacklevel=2)
        self._warned |= problems.keys()
        return columns

    def _reference_logps(self) -> Tensor:
        """Return log pi_ref of this rank's rows, as trl computed it just before the rewards."""
        logps, self._logps = self._logps or [], None
        models = [self.model, self.model if self.ref_model is None else self.ref_model]
        if len(logps) != 2 or any(a is not b for (a, _), b in zip(logps, models, strict=True)):
            raise RuntimeError(
                "trl did not compute the log-probabilities of policy and reference, in this order, "
                "before the rewards: MaraRLOOTrainer was written for another version of trl. "
                f"{install_command('trl')} installs that one"
            )
        return logps[1][1]


def mara_bonus(completions: list[Any], **_columns: Any) -> list[None]:
    """Stand for the bonus among the reward functions; it is filled in after they have run."""
    return [None] * len(completions)


# ---- settings

LEAST_GENERATIONS = 4
"""Minimum of num_generations. A hit that is alone in its group has the plain target; at a hit rate
of a half that is one hit in two with 2 completions, one in eight with 4, one in 128 with 8."""

_PLAIN_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "top_p": (None, 1.0),
    "top_k": (None, -1, 0),
    "min_p": (0.0, None),
    "repetition_penalty": (None, 1.0),
    "num_beams": (None, 1),
    "do_sample": (None, True),
    "vllm_structured_outputs_regex": (None,),
}
"""Settings with which the policy is sampled unchanged; the last value is the recommended one."""

_RANDOM = (
    "trl computes log-probabilities in training mode, also those of an adapter's reference, so KL, "
    "anchors and bonus would be random"
)


def build_target(args: Any, peft_config: Any = None, **options: Any) -> Mara:
    """Check TRL's config and that of a new adapter, and build the target for it.

    MARA needs a fixed reference; rewards and KL that are not rescaled after the bonus; several hits
    in a group; samples from the policy whose log-probabilities trl computes; and no dropout.
    """
    if not isinstance(args, _trl.RLOOConfig):
        kind = "no config" if args is None else f"a {type(args).__name__}"
        raise InputError(
            f"MaraRLOOTrainer was given {kind}: it needs args=trl.RLOOConfig(...), with "
            f"num_generations of {LEAST_GENERATIONS} or more (the default of trl is 2). GRPO "
            "divides the rewards by their standard deviation and keeps the KL in the loss: the "
            "coefficient is then no longer the beta of the bonus, and the policy collapses."
        )
    n, quantile = args.num_generations, options.get("tau_quantile")
    is_beta = isinstance(args.beta, int | float) and 0 < args.beta < math.inf
    of_target, least = [], 0
    try:  # the options are checked even if beta is wrong
        target = Mara(beta=args.beta if is_beta else 1.0, **options)
    except ValueError as error:
        of_target = [str(error)]
    else:
        if quantile is not None:  # of so many, the two best are at the quantile or above it
            least = math.ceil(1 + 1 / (1 - quantile) - 1e-9)
    further = args.generation_kwargs if isinstance(args.generation_kwargs, Mapping) else {}
    temperature = further.get("temperature", args.temperature)
    checks = {
        f"beta is {args.beta}: it must be a finite number above 0. Without the KL to the reference "
        "there is no target for MARA to change, and trl loads no reference model; for a weak "
        "penalty take a small beta such as 0.001": not is_beta,
        "sync_ref_model is True: the reference would follow the policy, and the run itself would "
        "set the probability of its hits. Leave it False": args.sync_ref_model,
        "normalize_advantages is True: once the hits of a batch are equally likely only noise is "
        "left, and dividing by its standard deviation would amplify it. Leave it False": (
            args.normalize_advantages
        ),
        f"reward_clip_range is {args.reward_clip_range}: trl would cut off the bonus of the rare "
        "hits with it. Leave it out; clip inside the reward function, or limit the bonus with cap "
        "(nats)": args.reward_clip_range,
        f"num_generations is {n}: MARA needs {LEAST_GENERATIONS} or more. A hit is raised to the "
        "likeliest hit of the same prompt; with fewer it is mostly the only one and nothing "
        "changes. 8 to 16 are better": n < LEAST_GENERATIONS,
        f"num_generations is {n}: with tau_quantile {quantile} only the best of {n} different "
        f"rewards is a hit, and it takes two. Take {least} or more, a lower tau_quantile, or tau "
        "instead": LEAST_GENERATIONS <= n < least,
        f"temperature is {temperature} in generation_kwargs, but {args.temperature} in the "
        "RLOOConfig: trl computes log-probabilities at the latter. Set temperature alone": (
            temperature != args.temperature
        ),
    }
    for name, allowed in _PLAIN_SAMPLING.items():
        value = further.get(name, getattr(args, name, None))
        text = (
            f"{name} is {value}: the rare completions that MARA should raise would not be sampled "
            f"as often as their log-probability says. Take {name}={allowed[-1]}"
        )
        checks[text] = value not in allowed
    for name, value in _drop_settings(peft_config).items():
        text = f"{name} is {value} in peft_config: {_RANDOM}. Take {name}=0.0, or disable_dropout="
        checks[f"{text}True in the RLOOConfig"] = not args.disable_dropout
    InputError.refuse([*(text for text, is_wrong in checks.items() if is_wrong), *of_target])
    return target


def _drop_settings(owner: Any) -> dict[str, float]:
    """Return the dropout rates above 0 of a config, layer or adapter, by attribute name."""
    numbers = [
        (name, number)
        for name, value in getattr(owner, "__dict__", {}).items()
        if "drop" in name  # attention_dropout, layerdrop, resid_pdrop
        for number in (value.values() if isinstance(value, Mapping) else [value])  # an adapter's
    ]
    return {name: n for name, n in numbers if isinstance(n, float) and n > 0}


def _refuse_dropout(model: nn.Module) -> None:
    """Refuse a model with dropout, naming its settings."""
    rates: dict[str, str] = {}
    for where, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            rates.setdefault("a layer", f"{module.p:g} in {where}")
        for name, number in _drop_settings(module).items():
            rates.setdefault(name, f"{number:g} in {where}")
    if rates:
        listed = ", ".join(f"{name} {rate}" for name, rate in rates.items())
        settings = ", ".join(f"{name}=0.0" for name in rates if name != "a layer") or "none"
        raise InputError(
            f"the model has dropout ({listed}): {_RANDOM}. Take disable_dropout=True in the "
            "RLOOConfig; it does not reach all dropout, such as an attention's, which is a setting "
            f"of the model or its adapter: load it with {settings} (where trl loads it, through "
            "model_init_kwargs)"
        )


# ---- metrics

METRICS = {
    "mara/reward_mean": "mean reward of the scored completions, without bonus and KL; trl's own "
    "`reward` has the bonus in it",
    "mara/hit_rate": "share of the completions that are hits",
    "mara/groups_without_hits": "share of the prompts without a hit: plain KL-regularised RL there",
    "mara/anchor_rate": "share of the hits as likely as their anchor (to 1e-3 nats), which get no "
    "bonus; 1: all hits of a prompt are the same completion",
    "mara/anchor_logp_ref": "mean over the prompts with a hit of log pi_ref of the anchor, nats",
    "mara/bonus_mean": "mean bonus of the hits",
    "mara/bonus_std": "standard deviation of the hits' bonus; should be below the largest reward",
    "mara/bonus_max": "largest bonus of a hit",
    "mara/unique_rate": "share of the completions of a prompt that differ, in tokens; mean",
    "mara/hit_entropy": "entropy in nats of the token sequences that are hits, mean over the "
    "prompts with a hit; at most log n for n hits",
    "mara/truncated_rate": "share of the completions cut off before an end token: never a hit",
    "mara/unscored_rate": "share of the completions for which every reward function gave None or "
    "NaN: never a hit, and not learnt from",
}
"""Metrics that are logged in addition to trl's; trl omits NaN, the mean of no values."""

_SAME_LOGP = 1e-3  # log pi_ref of a sequence varies by about 1e-5 nats with its batch


def _describe(
    anchored: Anchored,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    complete_B: Tensor,
    completions: Sequence[Hashable],
    group_size: int,
) -> dict[str, float]:
    """Compute the metrics of a batch; completions are the token sequences of the rows."""
    hit_B, scored_B = anchored.hit, ~reward_B.isnan()
    bonus_H = anchored.bonus[hit_B]
    gap_H = (anchored.anchor_logp_ref - logp_ref_B)[hit_B]
    unique, entropies = [], []
    for start in range(0, len(completions), group_size):
        rows = range(start, start + group_size)
        unique.append(len({completions[row] for row in rows}) / group_size)
        counts = Counter(completions[row] for row in rows if hit_B[row])
        if counts:
            entropies.append(float(entropy(list(counts.values()))))
    values = {
        "reward_mean": reward_B[scored_B].double().mean(),
        "hit_rate": hit_B.double().mean(),
        "groups_without_hits": (~hit_B.view(-1, group_size).any(dim=1)).double().mean(),
        "anchor_rate": (gap_H < _SAME_LOGP).double().mean(),
        "anchor_logp_ref": anchored.anchor_logp_ref[anchored.anchor].mean(),
        "bonus_mean": bonus_H.mean(),
        "bonus_std": bonus_H.std(correction=0) if len(bonus_H) else math.nan,
        "bonus_max": bonus_H.max() if len(bonus_H) else math.nan,
        "unique_rate": fmean(unique),
        "hit_entropy": fmean(entropies) if entropies else math.nan,
        "truncated_rate": (~complete_B).double().mean(),
        "unscored_rate": (~scored_B).double().mean(),
    }
    return {f"mara/{name}": float(value) for name, value in values.items()}
