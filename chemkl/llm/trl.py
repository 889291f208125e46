"""RLOO of TRL with the target of MARA: every good completion of a prompt equally likely.

MARA is mode-anchored reward augmentation (GX-Chen et al., arXiv 2510.20817), not the alignment
method of the same name. Legend: B rows, the completions of a generation batch, of all ranks; E
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

    A completion is a hit when its reward (the weighted sum of the reward functions) is tau or more.
    A hit gets R(z) + beta (log pi_ref(z) - log pi_ref), z being the likeliest hit under the
    reference among the completions of the same prompt, on all ranks; every other completion keeps
    its reward. trl then subtracts beta KL as it always does. The rule itself is that of
    ``chemkl.losses.Mara``. In the logs the bonus is a reward function of its own,
    ``rewards/mara_bonus/mean``; ``METRICS`` says what else there is.

    What differs from the paper's algorithm, or from trl:
        1. A completion cut off before its end token is neither hit nor anchor, whether or not
           ``mask_truncated_completions`` takes it out of the loss.
        2. A completion that every reward function gives None or NaN is neither hit nor anchor, and
           trl learns nothing from it. Where some functions give None, the others' sum counts.
        3. With ``num_iterations`` or ``steps_per_generation`` above their defaults the later
           updates are off-policy, as in trl; the bonus depends on the frozen reference alone and
           stays right.
        4. At a temperature other than 1 trl computes both log-probabilities at it: then it is the
           policy at that temperature whose hits become equally likely.

    Args:
        model: as in trl.
        reward_funcs: as in trl.
        args: with beta above 0, num_generations of 4 or more, no normalisation and no clipping;
            disable_dropout where the model or its adapter has dropout.
        tau: the reward from which on a completion is a hit; or give tau_quantile and tau_floor.
        **options: of ``chemkl.losses.Mara`` (tau_quantile, of a prompt's completions, tau_floor,
            alpha, cap, reward_on_hits), and everything else that ``trl.RLOOTrainer`` takes.

    Raises:
        InputError: a line for each setting that goes wrong under MARA.
    """

    def __init__(
        self, model: Any, reward_funcs: Any, args: Any, *, tau: float | None = None, **options: Any
    ) -> None:
        names = {"tau_quantile", "tau_floor", "alpha", "cap", "reward_on_hits"} & options.keys()
        of_target = {name: options.pop(name) for name in names}
        self.target = build_target(args, options.get("peft_config"), tau=tau, **of_target)
        super().__init__(model, reward_funcs, args, **options)
        InputError.refuse(_dropout(self.model))
        self._logps: list[tuple[Any, Tensor]] | None = None
        self._warned: set[str] = set()
        self.reward_funcs: list[Any] = [*self.reward_funcs, mara_bonus]
        self.reward_func_names: list[str] = [*self.reward_func_names, mara_bonus.__name__]
        self.reward_processing_classes: list[Any] = [*self.reward_processing_classes, None]
        self.reward_weights: Tensor = torch.cat([self.reward_weights, torch.ones(1)])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """Keep log-probabilities from here to the rewards, and not those of the loss."""
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
        """Keep what is computed, summed over the tokens of each completion."""
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
        given = (inputs, prompts, completions, completion_ids_list)
        columns: Tensor = super()._calculate_rewards(*given)
        # 1. R as trl sums it: functions that gave None are left out; NaN where all of them did
        column_BE = columns[:, :-1]
        infinite = column_BE.isinf().any(dim=0).nonzero().flatten().tolist()
        InputError.refuse(
            f"the reward function {self.reward_func_names[i]} returned an infinite reward: return "
            "a finite number, or None for what could not be scored"
            for i in infinite
        )
        reward_B = (column_BE * self.reward_weights[:-1].to(columns.device)).nansum(dim=1)
        reward_B = reward_B.where(~column_BE.isnan().all(dim=1), torch.nan)
        # 2. log pi_ref, and by trl's own test whether there is an end token, of all ranks
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
        # 5. metrics, and a warning where MARA is too strong or does nothing
        metrics = _describe(anchored, reward_B, logp_ref_B, complete_B, ids, size)
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        most, beta = float(reward_B.nan_to_num().abs().max()), self.target.beta
        spread, told = metrics["mara/bonus_std"], {}
        if spread > most:
            told["mara/bonus_std"] = (
                f"mara/bonus_std = {spread:.2g}, above the highest reward of the batch ({most:.2g})"
                f": log pi_ref of the hits varies by {spread / beta:.3g} nats, and beta = {beta:g} "
                "makes more of that than of the reward. Take a smaller beta, or cap or alpha."
            )
        if not bool(complete_B.any()):
            told["mara/truncated_rate"] = (
                "mara/truncated_rate = 1: no completion of the batch has an end token, so none "
                "is a hit and MARA does nothing. Raise max_completion_length, or ask for less."
            )
        for metric in told.keys() - self._warned:
            warnings.warn(told[metric], stacklevel=2)
        self._warned |= told.keys()
        return columns

    def _reference_logps(self) -> Tensor:
        """Return log pi_ref of this rank's rows, as trl computed it just before the rewards."""
        kept, self._logps = self._logps or [], None
        models = [self.model, self.model if self.ref_model is None else self.ref_model]
        if len(kept) != 2 or any(a is not b for (a, _), b in zip(kept, models, strict=True)):
            raise RuntimeError(
                "trl did not compute the log-probabilities of policy and reference, in this order, "
                "before the rewards: this version of trl works otherwise than the one that "
                f"MaraRLOOTrainer was written for. {install_command('trl')} installs that one"
            )
        return kept[1][1]


def mara_bonus(completions: list[Any], **_columns: Any) -> list[None]:
    """Hold the place of the bonus among the reward functions; it is filled in after them."""
    return [None] * len(completions)


# ---- settings

LEAST_GENERATIONS = 4
"""Completions of a prompt below which MARA is refused: a hit alone in its group has the plain
target, which at a hit rate of a half is one hit in two with 2, in eight with 4, in 128 with 8."""

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

_RANDOM = (
    "trl computes log-probabilities in training mode, those of an adapter's reference too, so that "
    "KL, anchors and bonus would be random"
)


def build_target(args: Any, peft_config: Any = None, **options: Any) -> Mara:
    """Check a config of TRL, and a new adapter's, and make the target that goes with it.

    The reference has to be there and to stay where it is; nothing may change the scale of reward
    and KL after the bonus; a group has to hold an anchor and something to lift to it; the samples
    have to be those of the policy whose log-probabilities trl computes; and no unit may be dropped.
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
    try:  # the options are looked at even if beta is none
        target = Mara(beta=args.beta if is_beta else 1.0, **options)
    except ValueError as error:
        of_target = [str(error)]
    else:
        if quantile is not None:  # the two best of so many are at the quantile or above it
            least = math.ceil(1 + 1 / (1 - quantile) - 1e-9)
    more = args.generation_kwargs if isinstance(args.generation_kwargs, Mapping) else {}
    temperature = more.get("temperature", args.temperature)
    checks = {
        f"beta is {args.beta}: it must be a finite number above 0. Without the KL to the reference "
        "there is no target for MARA to change, and trl loads no reference model; for a weak pull "
        "take a small beta such as 0.001": not is_beta,
        "sync_ref_model is True: the reference would follow the policy, and the hits be lifted to "
        "a probability that the run itself has made. Leave it False": args.sync_ref_model,
        "normalize_advantages is True: a batch whose hits have become equally likely has only "
        "noise left, and its standard deviation would make that large. Leave it False": (
            args.normalize_advantages
        ),
        f"reward_clip_range is {args.reward_clip_range}: trl would cut off the bonus of the rare "
        "hits with it. Leave it out; clip inside the reward function, or limit the bonus with cap "
        "(nats)": args.reward_clip_range,
        f"num_generations is {n}: MARA needs {LEAST_GENERATIONS} or more. A hit is lifted to the "
        "likeliest hit of the same prompt; with fewer it is mostly alone there and nothing "
        "changes. 8 to 16 are better": n < LEAST_GENERATIONS,
        f"num_generations is {n}: with tau_quantile {quantile} only the best of {n} different "
        f"rewards is a hit, and it takes two. Take {least} or more, a lower tau_quantile, or tau "
        "in its place": LEAST_GENERATIONS <= n < least,
        f"temperature is {temperature} in generation_kwargs and {args.temperature} beside it: trl "
        "computes log-probabilities at the latter. Give it once, as temperature": (
            temperature != args.temperature
        ),
    }
    for name, plain in _PLAIN_SAMPLING.items():
        value = more.get(name, getattr(args, name, None))
        text = (
            f"{name} is {value}: the rare completions that MARA is to lift would not be sampled as "
            f"often as their log-probability says. Take {name}={plain[-1]}"
        )
        checks[text] = value not in plain
    for name, value in _drop_settings(peft_config).items():
        text = f"{name} is {value} in peft_config: {_RANDOM}. Take {name}=0.0, or disable_dropout="
        checks[f"{text}True in the RLOOConfig"] = not args.disable_dropout
    InputError.refuse([*(text for text, is_wrong in checks.items() if is_wrong), *of_target])
    return target


def _drop_settings(thing: Any) -> dict[str, float]:
    """Settings of a config, layer or adapter that say how often it drops a unit, above 0."""
    numbers = [
        (name, number)
        for name, value in getattr(thing, "__dict__", {}).items()
        if "drop" in name  # attention_dropout, layerdrop, resid_pdrop
        for number in (value.values() if isinstance(value, Mapping) else [value])  # an adapter's
    ]
    return {name: n for name, n in numbers if isinstance(n, float) and n > 0}


def _dropout(model: nn.Module) -> list[str]:
    """Say what in a model drops units, in training mode, and how to switch it off."""
    found: dict[str, str] = {}
    for where, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            found.setdefault("a layer", f"{module.p:g} in {where}")
        for name, number in _drop_settings(module).items():
            found.setdefault(name, f"{number:g} in {where}")
    named = ", ".join(f"{name} {rest}" for name, rest in found.items())
    wanted = ", ".join(f"{name}=0.0" for name in found if name != "a layer") or "none"
    text = (
        f"the model has dropout ({named}): {_RANDOM}. Take disable_dropout=True in the RLOOConfig; "
        "what that does not reach, an attention's dropout for example, is a setting of the model "
        f"or its adapter: load it with {wanted} (where trl loads it, through model_init_kwargs)"
    )
    return [text] if found else []


# ---- metrics

METRICS = {
    "mara/reward_mean": "mean reward of the scored completions, without bonus and KL; trl's own "
    "`reward` has the bonus in it",
    "mara/hit_rate": "share of the completions that are hits",
    "mara/groups_without_hits": "share of the prompts without a hit: plain KL-regularised RL there",
    "mara/anchor_rate": "share of the hits as likely as their anchor (to 1e-3 nats), to which "
    "nothing is added; 1: all hits of a prompt are one completion",
    "mara/anchor_logp_ref": "mean over the prompts with a hit of log pi_ref of the anchor, nats",
    "mara/bonus_mean": "mean over the hits of what MARA adds to the reward",
    "mara/bonus_std": "its standard deviation over the hits: beside a reward of 1, not above it",
    "mara/bonus_max": "the largest one",
    "mara/unique_rate": "share of the completions of a prompt that differ, in tokens; mean",
    "mara/hit_entropy": "entropy in nats of the token sequences that are hits, mean over the "
    "prompts with a hit; of n hits it is log n at most",
    "mara/truncated_rate": "share of the completions cut off before an end token: never a hit",
    "mara/unscored_rate": "share of the completions for which every reward function gave None or "
    "NaN: never a hit, and not learnt from",
}
"""What is logged beside trl's own metrics; a mean over nothing is NaN, which trl leaves out."""

_SAME_LOGP = 1e-3  # one sequence's log pi_ref varies by about 1e-5 nats with the batch it is in


def _describe(
    anchored: Anchored,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    complete_B: Tensor,
    completions: Sequence[Hashable],
    group_size: int,
) -> dict[str, float]:
    """Compute the metrics of a batch, whose completions are the token sequences of the rows."""
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
