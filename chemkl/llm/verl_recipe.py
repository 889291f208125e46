r"""Recipe: MARA in verl, by a wrapper of the one function that sees both log-probabilities.

MARA is mode-anchored reward augmentation (arXiv 2510.20817). Written against the source of verl
0.9.0 and tested here on a record of the same fields; verl itself was NOT run, and is no dependency.
Try it on a small model first, and look at ``mara/bonus_std`` and at the diversity of the answers.

verl's advantage estimators get no reference log-probabilities, so the bonus goes in where the KL is
subtracted from the rewards, in ``apply_kl_penalty``. The trainer that verl 0.9 uses by default has
that name in ``verl.trainer.ppo.v1.trainer_base``. Put this into a file mara_verl.py on PYTHONPATH::

    from verl.trainer.ppo.v1 import trainer_base
    from chemkl.llm.verl_recipe import anchored_kl_penalty

    trainer_base.apply_kl_penalty = anchored_kl_penalty(
        trainer_base.apply_kl_penalty, tau=1.0, max_response_length=1024
    )

and start verl with it (it is to be imported in the Ray process of the trainer; on a cluster the
variable goes into ``ray_kwargs.ray_init.runtime_env.env_vars`` as well)::

    VERL_USE_EXTERNAL_MODULES=mara_verl python -m verl.trainer.main_ppo \
        algorithm.adv_estimator=rloo \
        algorithm.use_kl_in_reward=True \
        algorithm.kl_penalty=kl \
        algorithm.kl_ctrl.type=fixed \
        algorithm.kl_ctrl.kl_coef=0.05 \
        actor_rollout_ref.actor.use_kl_loss=False \
        actor_rollout_ref.actor.entropy_coeff=0 \
        actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum \
        actor_rollout_ref.rollout.n=8 \
        data.max_response_length=1024 ...

Why these:
    1. rloo: it sums the rewards over the tokens and takes the leave-one-out mean off. grpo divides
       by the standard deviation, and the KL coefficient is no longer the beta of the bonus.
    2. kl_penalty=kl is the log-ratio whose sum is that of the sequences; the others are not.
    3. A fixed coefficient: the bonus takes beta from verl's controller at each step, but with an
       adaptive one the target would move with it.
    4. seq-mean-token-sum: with token-mean, the default, long answers would weigh more.
    5. n=8: the anchor is the likeliest good answer to the same prompt; 4 is the least.
    6. temperature 1, top_p 1, top_k -1 in rollout, so that the samples are those of the policy.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chemkl.llm.anchored import anchor_rewards
from chemkl.losses import Mara

KLPenalty = Callable[..., tuple[Any, dict[str, Any]]]


def anchored_kl_penalty(
    apply_kl_penalty: KLPenalty, *, max_response_length: int, **options: Any
) -> KLPenalty:
    """Return verl's ``apply_kl_penalty`` with the bonus of MARA added to its rewards.

    Args:
        apply_kl_penalty: of verl 0.9.
        max_response_length: of the data config; an answer that fills it was cut off, or as good as
            that: it is neither hit nor anchor.
        **options: of ``chemkl.losses.Mara``, for example ``tau=1.0``; beta comes from verl.
    """

    def with_bonus(data: Any, kl_ctrl: Any, kl_penalty: str = "kl") -> tuple[Any, dict[str, Any]]:
        if kl_penalty not in ("kl", "k1"):
            raise ValueError(
                f"algorithm.kl_penalty is {kl_penalty!r}: MARA needs 'kl', the log-ratio, whose "
                "sum over the tokens is the log-ratio of the answers"
            )
        target = Mara(beta=kl_ctrl.value, **options)  # before the controller moves on
        data, metrics = apply_kl_penalty(data, kl_ctrl, kl_penalty)
        batch = data.batch
        mask_BT = batch["response_mask"].to(torch.bool)
        anchored = anchor_rewards(
            target,
            reward_B=(batch["token_level_scores"] * mask_BT).sum(dim=1),
            logp_ref_B=(batch["ref_log_prob"].double() * mask_BT).sum(dim=1),
            group_B=_numbers(data.non_tensor_batch["uid"]).to(mask_BT.device),
            complete_B=mask_BT.any(dim=1) & (mask_BT.sum(dim=1) < max_response_length),
        )
        rewards_BT = batch["token_level_rewards"].clone()
        rows_B, last_B = torch.arange(len(mask_BT), device=mask_BT.device), _last_true(mask_BT)
        rewards_BT[rows_B, last_B] += anchored.bonus.to(rewards_BT)
        batch["token_level_rewards"] = rewards_BT
        metrics["mara/hit_rate"] = float(anchored.hit.double().mean())
        if bool(anchored.hit.any()):
            bonus_of_hits = anchored.bonus[anchored.hit]
            metrics["mara/bonus_mean"] = float(bonus_of_hits.mean())
            metrics["mara/bonus_std"] = float(bonus_of_hits.std(correction=0))
        return data, metrics

    return with_bonus


def _numbers(names: Any) -> Tensor:
    """Number the prompts in the order in which their names turn up."""
    known: dict[Any, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])


def _last_true(mask_BT: Tensor) -> Tensor:
    """The last marked position of each row; the last one of all where none is marked."""
    return mask_BT.shape[1] - 1 - mask_BT.flip(1).to(torch.int64).argmax(dim=1)
