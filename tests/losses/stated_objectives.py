"""The objectives that estimators state, as sums over all sequences, and the expectation of a loss.

Legend: S all sequences; pi the policy, p the normalised target, Z its partition function; lp, lr
their logs and that of the reference, lr and R of a mara hit those of the anchor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from worlds import World

from chemkl.losses import LossInputs, Mara, Objective, Target, build_objective
from chemkl.losses.types import TargetOutput

BETA = 0.4


@dataclass(frozen=True)
class Setting:
    """A policy in a world, and the target at all of its sequences."""

    world: World
    logits: Tensor
    target: Target
    whole: TargetOutput

    def moved_to(self, p: Tensor) -> "Setting":
        """The same world with another policy, given by its probabilities (S,)."""
        return replace(self, logits=self.world.logits_of(p))

    @property
    def log_z(self) -> Tensor:
        return self.whole.log_target.logsumexp(dim=0)

    @property
    def log_p(self) -> Tensor:
        return self.whole.log_target - self.log_z


def setting(kind: str, seed: int, n_steps: int) -> Setting:
    """A random world; three of its sequences are hits, or two of three.

    MARA has the running anchor, which has seen all hits already: then it is the same in every batch
    (the second likeliest of the hits), and there is one target for the expectation to be about.
    """
    world = World.random(seed, n_steps)
    n_hits = min(3, len(world.sequences) - 1)
    tau = world.reward.topk(n_hits).values[-1].item()
    options = {} if kind == "gibbs" else {"tau": tau}
    if kind == "mara":
        options["anchor"] = "running"
    target = build_objective(kind, "f_dpg", beta=BETA, **options).target
    whole = target(world.logp_ref, world.reward)
    if kind == "mara":
        assert isinstance(target, Mara)
        assert whole.hit.sum() == n_hits
        assert whole.anchor_logp_ref[0] < world.logp_ref[whole.hit].max()
    return Setting(world, world.logits(seed + 100), target, whole)


# ---- the objectives, functions of lp (S,) with its graph


def reverse_kl(lp: Tensor, at: Setting) -> Tensor:
    """KL(pi || p)."""
    return (lp.exp() * (lp - at.log_p)).sum()


def forward_kl(lp: Tensor, at: Setting) -> Tensor:
    """KL(p || pi)."""
    p = at.log_p.exp()
    return (torch.special.xlogy(p, p) - p * lp).sum()


def jensen_shannon(lp: Tensor, at: Setting) -> Tensor:
    """KL(pi || m) + KL(p || m) with m their mean: Go et al. leave the usual halves out."""
    pi, p = lp.exp(), at.log_p.exp()
    m = (pi + p) / 2
    return (pi * (lp - m.log())).sum() + (torch.special.xlogy(p, p) - p * m.log()).sum()


def total_variation(lp: Tensor, at: Setting) -> Tensor:
    return (lp.exp() - at.log_p.exp()).abs().sum() / 2


def forward_regularised(lp: Tensor, at: Setting) -> Tensor:
    """-(E_pi[R] - beta sum pi_ref log(pi_ref / pi)); the anchored pi_ref need not sum to 1."""
    reward, lr = at.whole.reward_anchored, at.whole.logp_anchored
    return -(lp.exp() * reward).sum() + BETA * (lr.exp() * (lr - lp)).sum()


def preferences(labels: str) -> Callable[[Tensor, Setting], Tensor]:
    """The mean over pairs of DPO's -log sigmoid(margin), by who wins; rows have no graph."""

    def cost(lp: Tensor, at: Setting) -> Tensor:
        pi, total = lp.detach().exp(), torch.zeros((), dtype=torch.float64)
        reward, lr = at.whole.reward_anchored, at.whole.logp_anchored
        for i in range(len(lp)):
            for j in range(len(lp)):
                margin = BETA * ((lp[i] - lr[i]) - (lp[j] - lr[j]))
                wins = torch.sigmoid(reward[i] - reward[j])
                if labels == "hard":  # one of the two orders of a pair; ties have none
                    wins = (reward[i] > reward[j]).double()
                won, lost = (torch.nn.functional.logsigmoid(m) for m in (margin, -margin))
                lose = 1 - wins if labels == "soft" else (reward[i] < reward[j]).double()
                total = total - pi[i] * pi[j] * (wins * won + lose * lost)
        return total

    return cost


def alpha_divergence(alpha: float, most: float) -> Callable[[Tensor, Setting], Tensor]:
    """(1 - alpha) sum p f(pi/p), f = (t^alpha - alpha t - 1 + alpha) / (alpha (alpha - 1)).

    Where -(1 - alpha) f' would be above ``most``, f goes on as a straight line: still convex, so
    still smallest at pi = p. Where p is 0, p f(pi/p) is its limit pi f'(infinity) = pi / (1-alpha).
    """

    def f(t: Tensor) -> Tensor:
        if alpha == 0:
            return -t.log() + t - 1
        return (t**alpha - alpha * t - 1 + alpha) / (alpha * (alpha - 1))

    # -(1 - alpha) f' = t^(alpha - 1) - 1 is ``most`` at this t
    kink = torch.tensor((1 + most) ** (-1 / (1 - alpha)), dtype=torch.float64)

    def divergence(lp: Tensor, at: Setting) -> Tensor:
        pi, p = lp.exp(), at.log_p.exp()
        inside = p > 0
        t = pi[inside] / p[inside]
        line = f(kink) - most / (1 - alpha) * (t - kink)
        values = torch.where(t > kink, f(t.clamp(min=kink.item())), line)
        return (1 - alpha) * ((p[inside] * values).sum() + pi[~inside].sum() / (1 - alpha))

    return divergence


# ---- what a row of the table may need beside the policy's own rows


def knows_z(objective: Objective, at: Setting) -> None:
    """The average of Z has so many batches behind it, at the true Z, that one more adds nothing."""
    log_weight = torch.tensor([60.0], dtype=torch.float64)
    state = {
        "group": torch.tensor([0]),
        "log_sum": at.log_z.detach()[None] + log_weight,
        "weight": log_weight.exp(),
    }
    objective.states["average_log_z"].load_state_dict(state)


def log_z_is_true(objective: Objective, at: Setting) -> None:
    """A learned log Z that is the target's own."""
    state = {"parameter": at.log_z.detach() / 100, "started": True}
    objective.states["learned_log_z"].load_state_dict(state)


def log_z_stands_at_2(objective: Objective, at: Setting) -> None:
    """A learned log Z that is not the right one."""
    state = {"parameter": torch.tensor(0.02, dtype=torch.float64), "started": True}
    objective.states["learned_log_z"].load_state_dict(state)


def nothing_to_prepare(objective: Objective, at: Setting) -> None:
    pass


@dataclass(frozen=True)
class Row:
    """A claim: the expected gradient of this estimator is ``factor`` times that of ``objective``.

    Attributes:
        factor: a number, or a function of the batch's number of rows.
        prepare: sets the estimator's memory.
        extra: "retained": one more row comes from the target (a chain at rest); "prior": one sample
            of the reference.
        options: of the estimator.
    """

    estimator: str
    target: str
    objective: Callable[[Tensor, Setting], Tensor]
    factor: float | Callable[[int], float] = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Objective, Setting], None] = nothing_to_prepare
    extra: str | None = None

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.estimator}({options})-{self.target}-{self.prepare.__name__}"


def expected_slope(row: Row, at: Setting, n_rows: int, q: Tensor | None = None) -> Tensor:
    """The gradient of the shipped loss, averaged over all batches with their probabilities.

    Args:
        row: which loss.
        at: the policy and the target.
        n_rows: of a batch, without an extra one.
        q: the probabilities (S,) of another policy, which samples the rows; None: this one does.
    """
    world, lp = at.world, at.world.logp(at.logits)
    extras = {
        None: torch.ones(1, dtype=torch.float64),
        "retained": at.log_p.exp(),
        "prior": world.logp_ref.exp(),
    }[row.extra]
    total = torch.zeros((), dtype=torch.float64)
    for fresh, weight in world.batches(n_rows, lp.detach().exp() if q is None else q):
        for place, weight_of_extra in enumerate(extras):
            if weight_of_extra == 0:
                continue
            objective = build_objective(at.target, row.estimator, estimator_options=row.options)
            row.prepare(objective, at)
            inputs = inputs_of(at, lp, fresh, row.extra, place)
            if q is not None:
                inputs = replace(inputs, logp_behaviour=q[fresh].log())
            total = total + weight * weight_of_extra * objective(inputs).loss
    return torch.autograd.grad(total, at.logits)[0]


def inputs_of(at: Setting, lp: Tensor, fresh: Tensor, extra: str | None, place: int) -> LossInputs:
    """A batch of these sequences, and one of the extra kind."""
    retained = extra == "retained"
    rows = torch.cat([fresh, torch.tensor([place])]) if retained else fresh
    return LossInputs(
        logp_policy=lp[rows],
        logp_ref=at.world.logp_ref[rows],
        reward=at.world.reward[rows],
        retained=torch.arange(len(rows)) == len(fresh) if retained else None,
        logp_policy_of_prior=lp[place : place + 1] if extra == "prior" else None,
    )
