"""Targets of KL-regularised RL, as functions (log pi_ref, R) -> log target.

Legend: B rows of a batch; lr log pi_ref; R reward; beta the KL coefficient. Source: GX-Chen et al.,
arXiv 2510.20817.
"""

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from chemkl.losses.registry import (
    ABOVE_0,
    FINITE,
    INSIDE,
    Range,
    Registry,
    check_options,
    options_of,
)
from chemkl.losses.types import Groups, TargetOutput, check_rows, check_values

_UNSET: Any = None


def resolve_beta(beta: float | None, sigma: float | None) -> float:
    """Return the KL coefficient from either beta or REINVENT's sigma = 1/beta."""
    pairs = (("beta", beta), ("sigma", sigma))
    stated = {name: value for name, value in pairs if value is not None}
    bad = [name for name, value in stated.items() if not 0 < value < math.inf]
    problem = ""
    if len(stated) == 2:
        both = "beta and sigma are both given; sigma is 1/beta: give beta or sigma, not both"
        problem = f"{both}: got {beta=} and {sigma=}"
    elif bad:
        problem = (
            f"{bad[0]} must be a finite number above 0, got {stated[bad[0]]}: beta = 1/sigma "
            "weighs the KL to the reference; without it there is no target, and MARA would change "
            "nothing. For a weak pull to the reference take a small beta such as 0.001"
        )
    elif not stated:
        problem = (
            "beta or sigma (= 1/beta) is missing: give beta, or sigma, for example 0.1, or a sigma "
            "of 128 as in REINVENT"
        )
    if problem:
        raise ValueError(problem)
    return stated["beta"] if "beta" in stated else 1 / stated["sigma"]


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """A target with a KL coefficient beta (or sigma), and by default without state.

    ``full_support``: log_target is finite wherever log pi_ref is. ``has_hits``: it distinguishes
    hits from other rows.

    Attributes:
        beta: weight of the KL to the prior, in reward units per nat: a small one trusts the reward,
            a large one the prior. Give beta or sigma.
        sigma: 1/beta, the name in REINVENT (whose default is 128). Give beta or sigma.
    """

    beta: Annotated[float, ABOVE_0] = _UNSET  # a float from __post_init__ on
    sigma: InitVar[Annotated[float | None, ABOVE_0]] = None

    full_support: ClassVar[bool] = True
    has_hits: ClassVar[bool] = True

    def __post_init__(self, sigma: float | None) -> None:
        object.__setattr__(self, "beta", resolve_beta(self.beta, sigma))
        options = options_of(type(self))
        values = {name: getattr(self, name) for name in options if name != "sigma"}
        check_options("target", type(self).__name__, options, values)

    @abstractmethod
    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state across batches: none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Accept the empty state only."""
        if state:
            raise ValueError(
                f"this {type(self).__name__} target remembers nothing, but the state to load has "
                f"{', '.join(sorted(state))}: it was saved with another target"
            )


TARGETS: Registry[Callable[..., Target]] = Registry("target")


@TARGETS.register("gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(Target):
    """log_target = lr + R/beta: the optimum of reverse-KL RL, and REINVENT's augmented likelihood.

    Maximises E_pi[R] - beta KL(pi || pi_ref) (arXiv 2510.20817; REINVENT, arXiv 1704.07555, with
    sigma = 1/beta). Sequences of equal reward keep the reference's ratio at every beta. It has no
    hits and no anchor, and groups have no effect.
    """

    has_hits: ClassVar[bool] = False

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        log_target_B = gibbs_log_target(logp_ref_B, reward_B, self.beta)
        no_B = torch.zeros_like(reward_B, dtype=torch.bool)
        none_B = torch.full_like(logp_ref_B, torch.nan)
        return TargetOutput(log_target_B, no_B, no_B, none_B, logp_ref_B, reward_B)


@TARGETS.register("filter")
@dataclass(frozen=True, kw_only=True)
class Filtered(Target):
    """log_target = lr on hits (R >= tau), -inf elsewhere: the reference, restricted to the hits.

    The target of alpha-DPG. There is no anchor, and groups have no effect. beta only scales the
    score, and is 1 by default. An estimator whose score must be finite refuses this target.

    Attributes:
        tau: lowest reward of a hit.
    """

    tau: Annotated[float, FINITE]

    full_support: ClassVar[bool] = False

    def __post_init__(self, sigma: float | None) -> None:
        if self.beta is None and sigma is None:
            sigma = 1.0
        super().__post_init__(sigma)

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        hit_B = reward_B >= self.tau
        log_target_B = torch.where(hit_B, logp_ref_B, -torch.inf)
        no_B = torch.zeros_like(hit_B)
        none_B = torch.full_like(logp_ref_B, torch.nan)
        return TargetOutput(log_target_B, hit_B, no_B, none_B, logp_ref_B, reward_B)


def gibbs_log_target(logp_ref_B: Tensor, reward_B: Tensor, beta: float) -> Tensor:
    """Return lr + R/beta, in the precision of the log-probabilities."""
    return logp_ref_B + (reward_B / beta).to(logp_ref_B)


def augmented_reward(log_target_B: Tensor, logp_ref_B: Tensor, beta: float) -> Tensor:
    """Return the reward whose gibbs target is a target: Rbar = beta (log_target - lr).

    For MARA this is Algorithm 1 of arXiv 2510.20817: hits have R(z) + beta (lr(z) - lr), others R.
    It is the reward for a trainer that computes KL(pi || pi_ref) itself. Under the forward KL it
    would put most of the mass on the rarest hit: there, anchor the reference instead (Algorithm 2).

    Args:
        log_target_B: log target from a target of the same beta.
        logp_ref_B: log pi_ref.
        beta: coefficient of the trainer's KL; with any other one the hits are not flat.
    """
    return beta * (log_target_B - logp_ref_B)


def check_target_inputs(logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None) -> None:
    """Refuse invalid rows; shapes are checked first."""
    check_rows(logp_ref=logp_ref_B, reward=reward_B, group=group_B)
    check_values("logp", logp_ref=logp_ref_B)
    check_values("reward", reward=reward_B)
    check_values("whole", group=group_B)


_LOGP_DIGITS = 3  # one sequence's log pi_ref varies by about 1e-5 nats with the batch it is in
_REWARD_DIGITS = 6


def batch_anchor(
    logp_ref_B: Tensor, reward_B: Tensor, hit_B: Tensor, groups: Groups
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the likeliest hit under the reference in each group; the first row of a tie.

    Returns:
        Three (B,) tensors: True at the row that is its group's anchor, and log pi_ref(z) and R(z)
        of the row's group (NaN if the group has no hit).
    """
    n_rows = hit_B.numel()
    z_B = groups.best_row_N(logp_ref_B, hit_B)[groups.index_B]
    anchor_B = torch.arange(n_rows, device=hit_B.device) == z_B
    safe_z_B = z_B.clamp(max=n_rows - 1)
    logp_z_B, reward_z_B = (
        torch.where(z_B < n_rows, values_B[safe_z_B], torch.nan)
        for values_B in (logp_ref_B, reward_B)
    )
    return anchor_B, logp_z_B, reward_z_B


class RunningAnchor:
    """A high quantile of log pi_ref over the hits of the run so far, for each group.

    State: the distinct hits of each group, as pairs (log pi_ref, R) in ascending order. Two hits
    are the same sequence if log pi_ref agrees to 1e-3 nats and R to 1e-6, so a repeated or replayed
    sequence changes nothing, nor does a second call on one batch. It grows by 16 bytes of payload a
    distinct hit. Group labels must keep their meaning from batch to batch.
    """

    def __init__(self) -> None:
        self._hits: dict[int, list[tuple[float, float]]] = {}
        self._keys: set[tuple[int, float, float]] = set()

    def update(self, logp_ref_B: Tensor, reward_B: Tensor, hit_B: Tensor, groups: Groups) -> None:
        """Add the hits of a batch."""
        group_of_hits = groups.ids_N[groups.index_B][hit_B].tolist()
        rows = zip(group_of_hits, logp_ref_B[hit_B].tolist(), reward_B[hit_B].tolist(), strict=True)
        for group, logp_ref, reward in rows:
            self._add(group, logp_ref, reward)

    def anchor(
        self, quantile: float, logp_ref_B: Tensor, reward_B: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor]:
        """Return log pi_ref(z) and R(z) for each row's group (NaN before its first hit).

        Both are of one hit: number floor(q (n - 1)) of n, counted from the rarest. If there are two
        or more it is never the likeliest.
        """
        pair_N = []
        for group in groups.ids_N.tolist():
            hits = self._hits.get(group, [(torch.nan, torch.nan)])
            pair_N.append(hits[int(quantile * (len(hits) - 1))])
        logp_z_N, reward_z_N = torch.tensor(pair_N, dtype=torch.float64).unbind(dim=1)
        index_B = groups.index_B
        return logp_z_N.to(logp_ref_B)[index_B], reward_z_N.to(reward_B)[index_B]

    def forget_below(self, tau: float) -> None:
        """Remove the hits below a tau that has risen."""
        state = self.state_dict()
        is_hit = state["reward"] >= tau
        self.load_state_dict({name: column[is_hit] for name, column in state.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the distinct hits as three columns: group, logp_ref, reward."""
        rows = [(group, *pair) for group, pairs in self._hits.items() for pair in pairs]
        return {
            "group": torch.tensor([row[0] for row in rows], dtype=torch.int64),
            "logp_ref": torch.tensor([row[1] for row in rows], dtype=torch.float64),
            "reward": torch.tensor([row[2] for row in rows], dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the hits by those of ``state``, the result of ``state_dict``."""
        names = ("group", "logp_ref", "reward")
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"the running anchor's state lacks {', '.join(missing)}")
        self._hits.clear()
        self._keys.clear()
        for group, logp_ref, reward in zip(*(state[name].tolist() for name in names), strict=True):
            self._add(group, logp_ref, reward)

    def _add(self, group: int, logp_ref: float, reward: float) -> None:
        key = (group, round(logp_ref, _LOGP_DIGITS), round(reward, _REWARD_DIGITS))
        if key not in self._keys:
            self._keys.add(key)
            insort(self._hits.setdefault(group, []), (logp_ref, reward))


def moved(target: Any, **values: float) -> Any:
    """Return the target with another tau or beta; a running anchor keeps the hits from tau on."""
    new = replace(target, **values)
    if isinstance(new, Mara):
        object.__setattr__(new, "running", target.running)
        if new.tau is not None:
            new.running.forget_below(new.tau)
    return new


RewardOnHits = Literal["anchor", "own", "tau"]
AnchorKind = Literal["batch", "running"]


@TARGETS.register("mara")
@dataclass(frozen=True, kw_only=True)
class Mara(Target):
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
           neighbours). The paper has the quantile only; for a reward that is mostly 0 it is 0, and
           every row would be a hit. A group with fewer than 2 rows from tau on has the gibbs target
           and no hit.
        5. anchor "running": the hit at a high quantile (anchor_quantile) of lr among the distinct
           hits of the run so far, those of the batch included; see ``RunningAnchor``. The state
           belongs to the object: make one for each run, and save ``state_dict``.

    Attributes:
        tau: lowest reward of a hit; best the threshold that you will screen with (0.80 and 0.85 in
            the paper's chemistry). Give tau, or tau_quantile and tau_floor.
        tau_quantile: quantile of a batch's rewards to use as tau if the range of the reward is
            unknown; 0.9 in the paper's creative writing.
        tau_floor: with tau_quantile: tau is never below this. Set it above the reward of a failure,
            or a batch of zeros would consist of hits. Fewer than 2 hits: plain gibbs for that
            batch.
        alpha: how flat the hits are: the log prior of a hit is moved by this share towards the
            anchor's. 1 is the paper; below 1, long and unusual molecules gain less.
        cap: largest gain of a hit in log density, nats; null: no cap, as in the paper.
        reward_on_hits: reward of hits in the target: the anchor's (the paper; ranking above tau is
            lost), the molecule's own, or tau.
        anchor: the hit of the batch that is likeliest under the prior (batch, the paper), or a high
            quantile of the hits of the run so far (running).
        anchor_quantile: with anchor running: the quantile of the log prior among the distinct hits
            so far; at 1 a single odd molecule would be the anchor for good.
        running: the state of the running anchor.
    """

    tau: Annotated[float | None, FINITE] = None
    tau_quantile: Annotated[float | None, INSIDE] = None
    tau_floor: Annotated[float | None, FINITE] = None
    alpha: Annotated[float, Range(0, 1, "[]")] = 1.0
    cap: Annotated[float | None, ABOVE_0] = None
    reward_on_hits: RewardOnHits = "anchor"
    anchor: AnchorKind = "batch"
    anchor_quantile: Annotated[
        float, Range(0, 1, hint="at 1 one odd sequence would be the anchor for good")
    ] = 0.95
    running: RunningAnchor = field(
        default_factory=RunningAnchor, init=False, repr=False, compare=False
    )

    def __post_init__(self, sigma: float | None) -> None:
        super().__post_init__(sigma)
        tau, quantile, floor = self.tau, self.tau_quantile, self.tau_floor
        problems = []
        if (tau is None) == (quantile is None):
            what = "tau is missing" if tau is None else "tau and tau_quantile are both given"
            either = "give tau (a reward, for example 0.8) or tau_quantile (for example 0.9)"
            problems.append(
                f"{what}: {either}, one of the two; got {tau=} and tau_quantile={quantile}"
            )
        if (quantile is None) != (floor is None):
            why = "without the floor, a reward that is mostly 0 would make every row a hit"
            problems.append(
                f"tau_quantile and tau_floor go together ({why}); got tau_quantile={quantile} "
                f"and tau_floor={floor}"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def __call__(
        self, logp_ref_B: Tensor, reward_B: Tensor, group_B: Tensor | None = None
    ) -> TargetOutput:
        """Evaluate the target at the rows of a batch, after updating a running anchor."""
        check_target_inputs(logp_ref_B, reward_B, group_B)
        groups = Groups.of(group_B, reward_B)
        tau_B, hit_B = self._hits(reward_B, groups)
        if self.anchor == "running":
            self.running.update(logp_ref_B, reward_B, hit_B, groups)
            anchor_B = torch.zeros_like(hit_B)
            logp_z_B, reward_z_B = self.running.anchor(
                self.anchor_quantile, logp_ref_B, reward_B, groups
            )
        else:
            anchor_B, logp_z_B, reward_z_B = batch_anchor(logp_ref_B, reward_B, hit_B, groups)
        # in this form alpha = 1 without a cap gives every hit the same number, to the bit
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
        """Return the state of the running anchor."""
        return self.running.state_dict() if self.anchor == "running" else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``state_dict``."""
        if self.anchor == "running":
            self.running.load_state_dict(state)
        else:
            super().load_state_dict(state)

    def _hits(self, reward_B: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
        """Return tau at each row, and mark the hits."""
        if self.tau is not None:
            tau_B = torch.full_like(reward_B, self.tau)
            return tau_B, reward_B >= tau_B
        assert self.tau_quantile is not None  # __post_init__ leaves only this case
        table_NM = groups.table_NM(reward_B, torch.nan)
        tau_N = torch.nanquantile(table_NM, self.tau_quantile, dim=1).clamp(min=self.tau_floor)
        tau_B = tau_N[groups.index_B]
        hit_B = reward_B >= tau_B
        return tau_B, hit_B & (groups.sum_B(hit_B.long()) >= 2)
