"""RLOO of TRL with the target of MARA: every good completion of a prompt equally likely.

MARA is mode-anchored reward augmentation (GX-Chen et al., arXiv 2510.20817), not the alignment
method of the same name. Legend: B rows, the completions of a generation batch, of all ranks; E
reward functions.
"""

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from importlib import import_module
from statistics import fmean
from typing import Any

import torch
from scipy.stats import entropy
from torch import Tensor, nn

from chemkl.config import InputError
from chemkl.config.base import install
from chemkl.llm.anchored import Anchored, anchor_rewards
from chemkl.losses import Mara
from chemkl.losses.targets import RewardOnHits


def _package(name: str) -> Any:
    """Import a package of the extra; by name, for mypy knows the types of some only."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"MaraRLOOTrainer needs {error.name or name}, which is not installed: {install('trl')}"
        ) from error


_trl, _ranks = _package("trl"), _package("accelerate.utils")
_RLOOTrainer: Any = _trl.RLOOTrainer

__all__ = ["METRICS", "MaraRLOOTrainer"]


class MaraRLOOTrainer(_RLOOTrainer):  # type: ignore[misc]  # a base without types
    """``trl.RLOOTrainer`` whose rewards are those of Algorithm 1 of arXiv 2510.20817.

    A completion is a hit when its reward (the weighted sum of the reward functions) is tau or more.
    A hit gets R(z) + beta (log pi_ref(z) - log pi_ref), z being the likeliest hit under the
    reference among the completions of the same prompt, on all ranks; every other completion keeps
    its reward. trl then subtracts beta KL as it always does. The rule itself is that of
    ``chemkl.losses.Mara``; the reference's log-probabilities are those that trl computes anyway.

    In the logs the bonus is a reward function of its own, ``rewards/mara_bonus/mean``, and
    ``METRICS`` says what else there is. Everything of trl's trainer works as it does there: peft,
    vLLM, several GPUs, chat templates, evaluation (with the bonus in its rewards, too).

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
        5. GRPO is refused: it divides rewards by their standard deviation and keeps the KL in the
           loss, so that the KL coefficient is no longer the beta of the bonus.

    Args:
        model: as in trl.
        reward_funcs: as in trl.
        args: with beta above 0, num_generations of 4 or more, no normalisation and no clipping;
            disable_dropout where the model or its adapter has dropout.
        tau: the reward from which on a completion is a hit; or give tau_quantile and tau_floor.
        tau_quantile: of the rewards of a prompt's completions, strictly between 0 and 1.
        tau_floor: what the quantile may not fall below, above the reward of a failure.
        alpha: 1 (the paper) to 0, how far a hit is lifted to its anchor.
        cap: nats; the most that a hit is lifted by, None for no cap. For long completions, where
            log pi_ref varies by tens of nats.
        reward_on_hits: the reward that hits have: the "anchor"'s (the paper), their "own", "tau".
        **options: everything else that ``trl.RLOOTrainer`` takes, by name.

    Raises:
        InputError: a line for each setting that goes wrong under MARA.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: Any,
        *,
        tau: float | None = None,
        tau_quantile: float | None = None,
        tau_floor: float | None = None,
        alpha: float = 1.0,
        cap: float | None = None,
        reward_on_hits: RewardOnHits = "anchor",
        **options: Any,
    ) -> None:
        if not isinstance(args, _trl.RLOOConfig):
            kind = "no config" if args is None else f"a {type(args).__name__}"
            raise InputError(
                f"MaraRLOOTrainer was given {kind}: it needs args=trl.RLOOConfig(...), with "
                f"num_generations of {LEAST_GENERATIONS} or more (the default of trl is 2)."
                f"{_WHY_NO_GRPO if 'GRPO' in kind else ''}"
            )
        self.target = build_target(
            args,
            options.get("peft_config"),
            tau=tau,
            tau_quantile=tau_quantile,
            tau_floor=tau_floor,
            alpha=alpha,
            cap=cap,
            reward_on_hits=reward_on_hits,
        )
        super().__init__(model, reward_funcs, args, **options)
        _refuse_dropout(self.model)
        self._logps: list[tuple[Any, Tensor]] | None = None
        self._warned: set[str] = set()
        self.reward_funcs: list[Any] = [*self.reward_funcs, mara_bonus]
        self.reward_func_names: list[str] = [*self.reward_func_names, mara_bonus.__name__]
        self.reward_processing_classes: list[Any] = [*self.reward_processing_classes, None]
        self.reward_weights: Tensor = torch.cat([self.reward_weights, torch.ones(1)])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Keep log-probabilities from here to the rewards, and not those of the loss."""
        self._logps = []
        try:
            scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._logps = None
        return scored

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
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
        """Fill in the column of the bonus.

        1. reward functions, 2. log pi_ref of all ranks, 3. target, 4. bonus, 5. metrics.
        """
        columns: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        reward_B = self._summed(columns[:, :-1])
        logp_ref_B = _ranks.gather(self._reference_logps())
        complete_B = _ranks.gather(self._complete(completion_ids_list, columns.device))
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        group_B = torch.arange(len(reward_B), device=reward_B.device) // size
        anchored = anchor_rewards(self.target, reward_B, logp_ref_B, group_B, complete_B)
        bonus_B = torch.where(reward_B.isnan(), torch.nan, anchored.bonus)
        columns[:, -1] = bonus_B.to(columns)
        ids = [tuple(row) for row in _ranks.gather_object(completion_ids_list)]
        metrics = _describe(anchored, reward_B, logp_ref_B, complete_B, ids, size)
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        self._check_scale(metrics["mara/bonus_std"], reward_B)
        if not bool(complete_B.any()):
            self._warn_once(
                "mara/truncated_rate",
                "mara/truncated_rate = 1: no completion of the batch has an end token, so none "
                "is a hit and MARA does nothing. Raise max_completion_length, or ask for less.",
            )
        return columns

    def _summed(self, column_BE: Tensor) -> Tensor:
        """R as trl sums it: functions that gave None are left out; NaN where all of them did."""
        infinite = column_BE.isinf().any(dim=0).tolist()
        if any(infinite):
            names = [self.reward_func_names[i] for i, bad in enumerate(infinite) if bad]
            raise InputError(
                f"the reward function {', '.join(names)} returned an infinite reward: return a "
                "finite number, or None for what could not be scored"
            )
        weights = self.reward_weights[:-1].to(column_BE.device)
        reward_B = (column_BE * weights).nansum(dim=1)
        return torch.where(column_BE.isnan().all(dim=1), torch.nan, reward_B)

    def _reference_logps(self) -> Tensor:
        """Return log pi_ref of this rank's rows, as trl computed it just before the rewards."""
        kept = self._logps or []
        models = [self.model, self.model if self.ref_model is None else self.ref_model]
        if len(kept) != 2 or any(a is not b for (a, _), b in zip(kept, models, strict=True)):
            raise RuntimeError(
                "trl did not compute the log-probabilities of policy and reference, in this order, "
                "before the rewards: this version of trl works otherwise than the one that "
                f"MaraRLOOTrainer was written for. {install('trl')} installs that one"
            )
        return kept[1][1]

    def _complete(self, completion_ids_list: list[list[int]], device: torch.device) -> Tensor:
        """False where a completion does not end with an end token: trl's own test."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        return torch.tensor([bool(ids) and ids[-1] in ends for ids in completion_ids_list]).to(
            device
        )

    def _check_scale(self, bonus_std: float, reward_B: Tensor) -> None:
        """Warn once where the bonus varies more than any reward is worth."""
        most = float(reward_B[~reward_B.isnan()].abs().max()) if math.isfinite(bonus_std) else 0.0
        if bonus_std > most:
            beta = self.target.beta
            self._warn_once(
                "mara/bonus_std",
                f"mara/bonus_std = {bonus_std:.2g}, above the highest reward of the batch "
                f"({most:.2g}): log pi_ref of the hits varies by {bonus_std / beta:.3g} nats, and "
                f"beta = {beta:g} makes more of that than of the reward. Take a smaller beta, or "
                "cap or alpha.",
            )

    def _warn_once(self, metric: str, text: str) -> None:
        if metric not in self._warned:
            self._warned.add(metric)
            warnings.warn(text, stacklevel=3)


def mara_bonus(completions: list[Any], **_columns: Any) -> list[None]:
    """Hold the place of the bonus among the reward functions; it is filled in after them."""
    return [None] * len(completions)


# ---- settings

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

_WHY_NO_GRPO = (
    " GRPO divides the rewards by their standard deviation and keeps the KL in the loss: the KL "
    "coefficient is then beta times that deviation, the bonus was made for beta, and the policy "
    "collapses."
)
_RANDOM = (
    "trl computes log-probabilities in training mode, those of an adapter's reference too, so that "
    "KL, anchors and bonus would be random"
)


def build_target(args: Any, peft_config: Any = None, **options: Any) -> Mara:
    """Check a config of TRL, and a new adapter's, and make the target that goes with it.

    The options are those of ``chemkl.losses.Mara`` without beta and anchor; None counts as not
    given.

    Raises:
        InputError: a line for each setting that goes wrong under MARA.
    """
    problems = _problems(args, peft_config, options.get("tau_quantile"))
    numbers = [
        f"{name} is {options[name]!r}: it must be a number"
        for name in ("tau", "tau_quantile", "tau_floor", "alpha", "cap")
        if not isinstance(options.get(name), int | float | None)
    ]
    if not numbers:
        beta = args.beta if _is_beta(args.beta) else 1.0  # so that the options are looked at anyway
        try:
            target = Mara(beta=beta, **options)
        except ValueError as error:
            problems.append(str(error))
    InputError.refuse([*problems, *numbers])
    return target


def _is_beta(beta: Any) -> bool:
    return isinstance(beta, int | float) and 0 < beta < math.inf


def _problems(args: Any, peft_config: Any, quantile: float | None) -> list[str]:
    """A line for each setting of trl that goes wrong under MARA.

    The reference has to be there and to stay where it is; nothing may change the scale of reward
    and KL after the bonus; a group has to hold an anchor and something to lift to it; the samples
    have to be those of the policy whose log-probabilities trl computes; and no unit may be dropped.
    """
    n = args.num_generations
    # what the target itself refuses is left to it
    least = math.ceil(1 + 1 / (1 - quantile) - 1e-9) if quantile and 0 < quantile < 1 else 0
    more = args.generation_kwargs if isinstance(args.generation_kwargs, Mapping) else {}
    temperature = more.get("temperature", args.temperature)
    checks = (
        (
            not _is_beta(args.beta),
            f"beta is {args.beta}: it must be a finite number above 0. Without the KL to the "
            "reference there is no target for MARA to change, and trl loads no reference model; "
            "for a weak pull take a small beta such as 0.001",
        ),
        (
            args.sync_ref_model,
            "sync_ref_model is True: the reference would follow the policy, and the hits would be "
            "lifted to a probability that the run itself has made. Leave it False",
        ),
        (
            args.normalize_advantages,
            "normalize_advantages is True: a batch whose hits have become equally likely has only "
            "noise left, and dividing by its standard deviation makes that noise large. Leave it "
            "False",
        ),
        (
            args.reward_clip_range,
            f"reward_clip_range is {args.reward_clip_range}: trl would cut off the bonus of the "
            "rare hits with it. Leave it out; clip inside the reward function, or limit the bonus "
            "with cap (nats)",
        ),
        (
            n < LEAST_GENERATIONS,
            f"num_generations is {n}: MARA needs {LEAST_GENERATIONS} or more. A hit is lifted to "
            "the likeliest hit among the completions of the same prompt; with fewer it is mostly "
            "alone there and nothing changes. 8 to 16 are better",
        ),
        (
            LEAST_GENERATIONS <= n < least,
            f"num_generations is {n}: with tau_quantile {quantile or 0:g} only the best of {n} "
            f"different rewards is a hit, and it takes two. Take {least} or more, "
            "a lower tau_quantile, or tau in its place",
        ),
        *(
            (
                more.get(name, getattr(args, name, None)) not in plain,
                f"{name} is {more.get(name, getattr(args, name, None))}: the rare completions that "
                "MARA is to lift would not be sampled as often as their log-probability says. Take "
                f"{name}={plain[-1]}",
            )
            for name, plain in _PLAIN_SAMPLING.items()
        ),
        (
            temperature != args.temperature,
            f"temperature is {temperature} in generation_kwargs and {args.temperature} beside it: "
            "trl computes log-probabilities at the latter. Give it once, as temperature",
        ),
        *(
            (
                "drop" in name and _is_above_0(value) and not args.disable_dropout,
                f"{name} is {value} in peft_config: {_RANDOM}. Take {name}=0.0, or "
                "disable_dropout=True in the RLOOConfig",
            )
            for name, value in getattr(peft_config, "__dict__", {}).items()
        ),
    )
    return [message for is_wrong, message in checks if is_wrong]


def _refuse_dropout(model: nn.Module) -> None:
    """Refuse a model that drops units: in training mode, which trl asks it in, it is random.

    Raises:
        InputError: naming what drops units, and how to switch it off.
    """
    layers: dict[str, str] = {}
    settings: dict[str, str] = {}
    for where, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            layers.setdefault("a layer", f"{module.p:g} in {where}")
        for name, value in vars(module).items():
            if "drop" in name:  # attention_dropout, layerdrop, resid_pdrop
                numbers = value.values() if isinstance(value, Mapping) else [value]  # an adapter's
                for number in filter(_is_above_0, numbers):
                    settings.setdefault(name, f"{number:g} in {where}")
    if not layers and not settings:
        return
    named = ", ".join(f"{name} {rest}" for name, rest in (layers | settings).items())
    fixes = ["Take disable_dropout=True in the RLOOConfig"] if layers else []
    if settings:
        wanted = ", ".join(f"{name}=0.0" for name in settings)
        fixes.append(
            f"Load the model or its adapter with {wanted}, which disable_dropout does not reach; "
            "where trl loads the model, through model_init_kwargs"
        )
    raise InputError(f"the model has dropout ({named}): {_RANDOM}. {'. '.join(fixes)}")


def _is_above_0(value: Any) -> bool:
    return isinstance(value, float) and value > 0


# ---- metrics

METRICS = {
    "mara/reward_mean": "mean reward of the reward functions over the scored completions, without "
    "the bonus and without the KL; trl's own `reward` has the bonus in it",
    "mara/hit_rate": "share of the completions that are hits",
    "mara/groups_without_hits": "share of the prompts without a hit: plain KL-regularised RL there",
    "mara/anchor_rate": "share of the hits as likely as their anchor (to 1e-3 nats): those that "
    "nothing is added to; 1 says that all hits of a prompt are one completion",
    "mara/anchor_logp_ref": "mean over the prompts with a hit of log pi_ref of the anchor, nats",
    "mara/bonus_mean": "mean over the hits of what MARA adds to the reward",
    "mara/bonus_std": "its standard deviation over the hits: beside a reward of 1, not above it",
    "mara/bonus_max": "the largest one",
    "mara/unique_rate": "different token sequences among the completions of a prompt, as a share "
    "of them; mean over the prompts",
    "mara/hit_entropy": "entropy in nats of the token sequences that are hits, of each prompt, "
    "mean over the prompts with a hit; of n hits it is log n at most",
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
    """Compute the metrics of a batch, from its rewards after and before MARA.

    Rewards are NaN where nothing could be scored, complete_B is False where a completion was cut
    off, and completions are the token sequences of the rows.
    """
    hit_B, bonus_B = anchored.hit, anchored.bonus
    hit_NM = hit_B.view(-1, group_size)
    anchor_B = anchored.anchor
    gap_B = anchored.anchor_logp_ref - logp_ref_B
    scored_B = ~reward_B.isnan()
    values = {
        "reward_mean": reward_B[scored_B].double().mean(),
        "hit_rate": hit_B.double().mean(),
        "groups_without_hits": (~hit_NM.any(dim=1)).double().mean(),
        "anchor_rate": (gap_B[hit_B] < _SAME_LOGP).double().mean(),
        "anchor_logp_ref": anchored.anchor_logp_ref[anchor_B].mean(),
        "bonus_mean": bonus_B[hit_B].mean(),
        "bonus_std": bonus_B[hit_B].std(correction=0) if bool(hit_B.any()) else torch.nan,
        "bonus_max": bonus_B[hit_B].max() if bool(hit_B.any()) else torch.nan,
        "truncated_rate": (~complete_B).double().mean(),
        "unscored_rate": (~scored_B).double().mean(),
    }
    named = {f"mara/{name}": float(value) for name, value in values.items()}
    unique, entropies = [], []
    for start in range(0, len(completions), group_size):
        rows = range(start, start + group_size)
        unique.append(len({completions[row] for row in rows}) / group_size)
        counts = Counter(completions[row] for row in rows if hit_B[row])
        if counts:
            entropies.append(float(entropy(list(counts.values()))))
    named["mara/unique_rate"] = fmean(unique)
    named["mara/hit_entropy"] = fmean(entropies) if entropies else math.nan
    return named
