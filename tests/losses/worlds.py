"""Small languages to enumerate, the objectives that estimators state, and expected gradients.

Legend: S all sequences; P prefixes before a next token; V = 3 tokens a, b and the end token $; N
rows of a batch; pi the policy, p the normalised target, Z its partition function; lp, lr log pi and
log pi_ref; lr and R of a mara hit are those of the anchor.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import factorial, prod
from typing import Any

import torch
from torch import Tensor

from chemkl.losses import LossInputs, Mara, Objective, Target, build_objective
from chemkl.losses.types import TargetOutput

TOKENS = "ab$"
BETA = 0.4


def close(got: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class World:
    """Sequences with rewards and a reference, in float64.

    A sequence ends with $, or without it once it is ``n_steps`` tokens long: 15 sequences and 7
    prefixes for three steps, 7 and 3 for two. A policy is a table of logits (P, V).
    """

    sequences: tuple[str, ...]
    prefixes: tuple[str, ...]
    reward: Tensor
    logp_ref: Tensor

    @classmethod
    def random(cls, seed: int, n_steps: int = 3, *, spread: float = 1.0) -> "World":
        """Rewards uniform in [0, 1); reference logits normal with the given standard deviation."""
        prefixes = tuple("".join(p) for n in range(n_steps) for p in product("ab", repeat=n))
        ended = tuple(prefix + "$" for prefix in prefixes)
        full = tuple("".join(p) for p in product("ab", repeat=n_steps))
        generator = torch.Generator().manual_seed(seed)
        zeros = torch.zeros(len(ended + full), dtype=torch.float64)
        blank = cls(ended + full, prefixes, zeros, zeros)
        reward = torch.rand(zeros.shape, dtype=torch.float64, generator=generator)
        logits = spread * torch.randn(blank.shape, dtype=torch.float64, generator=generator)
        return cls(ended + full, prefixes, reward, blank.logp(logits))

    @property
    def shape(self) -> tuple[int, int]:
        """(P, V) of a table of logits."""
        return len(self.prefixes), len(TOKENS)

    def logits(self, seed: int, *, spread: float = 1.0) -> Tensor:
        """A random policy that requires a gradient."""
        generator = torch.Generator().manual_seed(seed)
        table = spread * torch.randn(self.shape, dtype=torch.float64, generator=generator)
        return table.requires_grad_()

    @cached_property
    def choices(self) -> Tensor:
        """(S, P V), 1 where a sequence has that token after that prefix."""
        table = torch.zeros((len(self.sequences), *self.shape), dtype=torch.float64)
        for row, sequence in enumerate(self.sequences):
            for t, token in enumerate(sequence):
                table[row, self.prefixes.index(sequence[:t]), TOKENS.index(token)] = 1
        return table.flatten(start_dim=1)

    def logp(self, logits: Tensor) -> Tensor:
        """The log-probability (S,) of every sequence: the sum over its tokens."""
        return self.choices @ torch.log_softmax(logits, dim=1).flatten()

    def logits_of(self, p: Tensor) -> Tensor:
        """The policy with the given probabilities (S,), which sum to 1 and are above 0."""
        mass = (self.choices * p[:, None]).sum(dim=0).reshape(self.shape)
        return mass.log().requires_grad_()

    def sample(self, logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Indices (N,) of n sequences drawn from the policy."""
        p = self.logp(logits.detach()).exp()
        return torch.multinomial(p, n, replacement=True, generator=generator)

    def batches(self, n_rows: int, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Every batch (N,) of rows drawn from p, up to the order of its rows, with its probability.

        The number of orders of a batch is the multinomial coefficient of its counts.
        """
        for rows in combinations_with_replacement(range(len(self.sequences)), n_rows):
            counts = Counter(rows).values()
            orders = factorial(n_rows) // prod(factorial(count) for count in counts)
            batch = torch.tensor(rows)
            yield batch, float(orders) * p[batch].prod()


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
    def at_target(self) -> "Setting":
        """The same world with the policy that is the target."""
        return self.moved_to(self.log_p.exp())

    @property
    def lp(self) -> Tensor:
        return self.world.logp(self.logits)

    @property
    def log_z(self) -> Tensor:
        return self.whole.log_target.logsumexp(dim=0)

    @property
    def log_p(self) -> Tensor:
        return self.whole.log_target - self.log_z


def setting(kind: str, seed: int, n_steps: int) -> Setting:
    """A random world; three of its sequences are hits, or two of three.

    MARA has a running anchor that has seen all hits already, so it is the same in every batch (the
    second likeliest of the hits), and the expectation is about one target.
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

Stated = Callable[[Tensor, Setting], Tensor]


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


def preferences(labels: str) -> Stated:
    """The mean over pairs of DPO's -log sigmoid(margin); probabilities of rows have no graph."""

    def cost(lp: Tensor, at: Setting) -> Tensor:
        pi, total = lp.detach().exp(), torch.zeros((), dtype=torch.float64)
        reward, lr = at.whole.reward_anchored, at.whole.logp_anchored
        for i, j in product(range(len(lp)), repeat=2):
            margin = BETA * ((lp[i] - lr[i]) - (lp[j] - lr[j]))
            wins = torch.sigmoid(reward[i] - reward[j])
            loses = 1 - wins
            if labels == "hard":  # one of the two orders of a pair; ties have none
                wins, loses = (reward[i] > reward[j]).double(), (reward[i] < reward[j]).double()
            won, lost = (torch.nn.functional.logsigmoid(m) for m in (margin, -margin))
            total = total - pi[i] * pi[j] * (wins * won + loses * lost)
        return total

    return cost


def alpha_divergence(alpha: float, most: float) -> Stated:
    """(1 - alpha) sum p f(pi/p), f = (t^alpha - alpha t - 1 + alpha) / (alpha (alpha - 1)).

    Where -(1 - alpha) f' would be above ``most``, f continues as a straight line: still convex, so
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


# ---- the state of an estimator before a batch

Prepare = Callable[[Objective, Setting], None]


def average_z(objective: Objective, at: Setting, log_weight: float = 60.0) -> None:
    """The true Z, averaged over so many batches that one more changes nothing.

    With a log weight of 0 it is the steady state, in which a batch has the weight 1 - decay.
    """
    weight = double(log_weight)
    log_sum = at.log_z.detach()[None] + weight
    state = {"group": torch.tensor([0]), "log_sum": log_sum, "weight": weight.exp()}
    objective.states["average_log_z"].load_state_dict(state)


def steady_z(objective: Objective, at: Setting) -> None:
    average_z(objective, at, 0.0)


def log_z_at(value: float | None) -> Prepare:
    """A learned log Z at a value; None: the target's own."""

    def prepare(objective: Objective, at: Setting) -> None:
        log_z = at.log_z.detach() if value is None else torch.tensor(value, dtype=torch.float64)
        state = {"parameter": log_z / 100, "started": True}
        objective.states["learned_log_z"].load_state_dict(state)

    return prepare


def unprepared(objective: Objective, at: Setting) -> None:
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
    objective: Stated
    factor: float | Callable[[int], float] = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Prepare = unprepared
    extra: str | None = None

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.estimator}({options})-{self.target}-{self.prepare.__name__}"


def exact_slope(row: Row, at: Setting) -> Tensor:
    """The gradient of the stated objective, by autograd on a sum over all sequences."""
    return torch.autograd.grad(row.objective(at.lp, at), at.logits)[0]


def expected_slope(row: Row, at: Setting, n_rows: int, q: Tensor | None = None) -> Tensor:
    """The gradient of the shipped loss, averaged over all batches with their probabilities.

    Args:
        row: which loss.
        at: the policy and the target.
        n_rows: of a batch, without an extra one.
        q: the probabilities (S,) of another policy that samples the rows; None: this one does.
    """
    world, lp = at.world, at.lp
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


def inputs_of(
    at: Setting, lp: Tensor, fresh: Tensor, extra: str | None = None, place: int = 0
) -> LossInputs:
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
