"""RLOO of TRL with the target of MARA: every good completion of a prompt equally likely.

MARA is mode-anchored reward augmentation (GX-Chen et al., arXiv 2510.20817), not the alignment
method of the same name. Legend: B rows, the completions of a generation batch, of all ranks; E
reward functions.
"""

import math
import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from chemkl.config import InputError
from chemkl.config.base import install
from chemkl.llm.anchored import anchor_rewards
from chemkl.llm.trl_metrics import METRICS, describe
from chemkl.llm.trl_settings import build_target, refuse_dropout, refuse_other_methods
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
            refuse_other_methods(args)
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
        refuse_dropout(self.model)
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
        metrics = describe(anchored, reward_B, logp_ref_B, complete_B, ids, size)
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
