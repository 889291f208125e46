"""The MARA target (mode-anchored reward augmentation, arXiv 2510.20817): all hits equally likely.

Legend: B rows of a batch, N groups; z the anchor; lr log pi_ref; R reward; beta the KL coefficient.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from chemkl.losses.anchors import RunningAnchor, batch_anchor
from chemkl.losses.reductions import Groups
from chemkl.losses.targets import TARGETS, KLTarget, check_target_inputs, gibbs_log_target
from chemkl.losses.types import TargetOutput

RewardOnHits = Literal["anchor", "own", "tau"]
AnchorKind = Literal["batch", "running"]


@TARGETS.register("mara")
@dataclass(frozen=True, kw_only=True)
class Mara(KLTarget):
    """Every hit has the density of one anchor: hits lr(z) + R(z)/beta, others lr + R/beta.

    This is Algorithm 2 of the paper: reference and reward of a hit are those of the anchor
    (Algorithm 1 puts the same into the reward: ``augmented_reward``). A hit has R >= tau. The
    anchor z is the likeliest hit of its group under the reference, the first row of a tie; copies
    of it change nothing. A group without a hit has the gibbs target.

    Deviations, all off by default:
        1. alpha < 1 tempers: hits (1 - alpha) lr + alpha lr(z) + R/beta.
        2. cap: no hit is lifted by more than so many nats; with alpha < 1 the smaller lift counts.
        3. reward_on_hits: R(z) ("anchor", the paper), the hit's own R ("own"), or tau ("tau").
        4. tau_floor: tau is the larger of it and the group's tau_quantile (linear between
           neighbours). The paper has the quantile alone; on a reward that is mostly 0 that is 0,
           and everything would be a hit. A group with fewer than 2 rows from tau on has the gibbs
           target and no hit.
        5. anchor "running": the hit at a high quantile (anchor_quantile) of lr among the distinct
           hits of the run so far, those of the batch included; see ``RunningAnchor``. The memory
           belongs to the instance: give each run its own, and save ``state_dict``.

    Attributes:
        tau: the reward from which on a sequence is a hit; or give tau_quantile and tau_floor.
        tau_quantile: of the group's rewards, strictly between 0 and 1.
        tau_floor: in reward units, above the reward of a failure.
        alpha: 0 (only the reward is the anchor's) to 1 (the paper).
        cap: nats, above 0; None for no cap.
        reward_on_hits: "anchor", "own" or "tau".
        anchor: "batch" (the paper) or "running".
        anchor_quantile: strictly between 0 and 1, for the running anchor.
        running: the memory of the running anchor.
    """

    tau: float | None = None
    tau_quantile: float | None = None
    tau_floor: float | None = None
    alpha: float = 1.0
    cap: float | None = None
    reward_on_hits: RewardOnHits = "anchor"
    anchor: AnchorKind = "batch"
    anchor_quantile: float = 0.95
    running: RunningAnchor = field(
        default_factory=RunningAnchor, init=False, repr=False, compare=False
    )

    def __post_init__(self, sigma: float | None) -> None:
        super().__post_init__(sigma)
        problems = [*_tau_problems(self), *_option_problems(self)]
        if problems:
            raise ValueError("Mara: " + "; ".join(problems))

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch; a running anchor takes its hits in first."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        groups = Groups.of(group_B, reward_B)
        tau_B, hit_B = self._hits(reward_B, groups)
        anchor_B, logp_z_B, reward_z_B = self._anchor(logp_ref_B, reward_B, hit_B, groups)
        # written so that alpha = 1 without a cap gives every hit the same number, to the bit
        logp_B = (1 - self.alpha) * logp_ref_B + self.alpha * logp_z_B
        if self.cap is not None:
            logp_B = torch.minimum(logp_B, logp_ref_B + self.cap)
        reward_on_hit_B = {"anchor": reward_z_B, "own": reward_B, "tau": tau_B}[self.reward_on_hits]
        logp_anchored_B = torch.where(hit_B, logp_B, logp_ref_B)
        reward_anchored_B = torch.where(hit_B, reward_on_hit_B, reward_B)
        return TargetOutput(
            log_target=gibbs_log_target(logp_anchored_B, reward_anchored_B, self.beta),
            hit=hit_B,
            anchor=anchor_B,
            anchor_logp_ref=logp_z_B,
            logp_anchored=logp_anchored_B,
            reward_anchored=reward_anchored_B,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the memory of the running anchor; nothing for the batch anchor."""
        return self.running.state_dict() if self.anchor == "running" else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``state_dict``."""
        if self.anchor == "running":
            self.running.load_state_dict(state)
        else:
            super().load_state_dict(state)

    def _hits(self, reward_B: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
        """Return tau at each row, and which rows are hits."""
        if self.tau is not None:
            tau_B = torch.full_like(reward_B, self.tau)
            return tau_B, reward_B >= tau_B
        assert self.tau_quantile is not None  # _tau_problems leaves only this case
        assert self.tau_floor is not None
        tau_N = groups.quantile_N(reward_B, self.tau_quantile).clamp(min=self.tau_floor)
        tau_B = tau_N[groups.index_B]
        hit_B = reward_B >= tau_B
        return tau_B, hit_B & (groups.sum_B(hit_B.long()) >= 2)

    def _anchor(
        self, logp_ref_B: Tensor, reward_B: Tensor, hit_B: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the anchor is, and log pi_ref(z) and R(z) of each row's group."""
        if self.anchor == "batch":
            return batch_anchor(logp_ref_B, reward_B, hit_B, groups)
        self.running.update(logp_ref_B, reward_B, hit_B, groups)
        pair = self.running.anchor(self.anchor_quantile, logp_ref_B, reward_B, groups)
        return torch.zeros_like(hit_B), *pair


def _tau_problems(mara: Mara) -> list[str]:
    """Say what is wrong with the ways to give tau."""
    problems = []
    if (mara.tau is None) == (mara.tau_quantile is None):
        problems.append(
            "give tau (a reward, for example 0.8) or tau_quantile (for example 0.9), one of the "
            f"two; got tau={mara.tau} and tau_quantile={mara.tau_quantile}"
        )
    if (mara.tau_quantile is None) != (mara.tau_floor is None):
        problems.append(
            "tau_quantile and tau_floor go together (without the floor, a reward that is mostly 0 "
            f"would make every row a hit); got tau_quantile={mara.tau_quantile} and "
            f"tau_floor={mara.tau_floor}"
        )
    for name, value in (("tau", mara.tau), ("tau_floor", mara.tau_floor)):
        if value is not None and not math.isfinite(value):
            problems.append(f"{name} must be a finite reward, got {value}")
    if mara.tau_quantile is not None and not 0 < mara.tau_quantile < 1:
        problems.append(f"tau_quantile must lie strictly in (0, 1), got {mara.tau_quantile}")
    return problems


def _option_problems(mara: Mara) -> list[str]:
    """Say what is wrong with the options beside tau."""
    problems = []
    if not 0 <= mara.alpha <= 1:
        problems.append(f"alpha must lie in [0, 1], got {mara.alpha}")
    if mara.cap is not None and not 0 < mara.cap < math.inf:
        problems.append(f"cap must be a finite number of nats above 0, got {mara.cap}")
    if not 0 < mara.anchor_quantile < 1:
        problems.append(
            f"anchor_quantile must lie strictly in (0, 1), got {mara.anchor_quantile}: at 1 one "
            "odd sequence would be the anchor for good"
        )
    for name, value, allowed in (
        ("reward_on_hits", mara.reward_on_hits, get_args(RewardOnHits)),
        ("anchor", mara.anchor, get_args(AnchorKind)),
    ):
        if value not in allowed:
            problems.append(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return problems
