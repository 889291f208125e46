"""The shapers: each is a function of tensors that returns a new advantage A (B,), without graph.

Legend: B rows of a batch; F features of a row; H the rows that are hits; O outputs of a network.
Ordinary parameters are filled by name from ``SHAPER_INPUTS``, keyword-only ones are options. A
shaper that scales A (ucpo, ips) is meant for A > 0: rows of negative A that it favours are pushed
down harder.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor

from chemkl.losses.estimators import State, against_the_others
from chemkl.losses.registry import (
    ABOVE_0,
    SHARE,
    Range,
    Registry,
    Signature,
    check_options,
    with_check,
)
from chemkl.losses.types import Groups, check_finite, check_rows, check_values

F = TypeVar("F", bound=Callable[..., Tensor])

_HIDDEN, _OUT = 64, 32
"""Widths of the networks of random network distillation."""


class Distillation(State):
    """A fixed random network, and a predictor of the same shape that learns its output.

    Both have a hidden layer with biases, and their weights in one float32 vector on the CPU. They
    are initialised at the first batch, from the seed. The state is the predictor and its Adam's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._predictor = torch.zeros(0)

    def novelty(self, features_HF: Tensor, rate: float, seed: int) -> Tensor:
        """Return the error at these rows (H,) relative to the untrained one; then learn them."""
        features_HF = features_HF.detach().float().cpu()
        if not self._predictor.numel():
            self._begin(features_HF.shape[1], rate, seed)
        target_HO = _network(self._target, features_HF)
        untrained_H = (_network(self._untrained, features_HF) - target_HO).square().sum(dim=1)
        with torch.enable_grad():  # the caller may have disabled it
            error_H = (_network(self._predictor, features_HF) - target_HO).square().sum(dim=1)
            (self._predictor.grad,) = torch.autograd.grad(error_H.mean(), self._predictor)
        self._adam.step()
        return (error_H / untrained_H).detach()

    def _begin(self, n_features: int, rate: float, seed: int) -> None:
        shapes = ((_HIDDEN, n_features + 1), (_OUT, _HIDDEN + 1))
        generator = torch.Generator().manual_seed(seed)
        layers = [
            torch.randn(n_out * n_in, generator=generator) / math.sqrt(n_in)
            for _ in range(2)
            for n_out, n_in in shapes
        ]
        self._target, self._untrained = torch.cat(layers[:2]), torch.cat(layers[2:])
        self._predictor = self._untrained.clone().requires_grad_()
        self._adam = torch.optim.Adam([self._predictor], lr=rate)
        if self.memory:
            with torch.no_grad():
                self._predictor.copy_(self.memory["predictor"])
            adam_state = {name: self.memory[name].clone() for name in _ADAM}
            self._adam.state[self._predictor] = adam_state

    def state_dict(self) -> dict[str, Any]:
        """Return the predictor and the state of its Adam; nothing before the first hit."""
        if not self._predictor.numel():
            return super().state_dict()
        adam_state = self._adam.state[self._predictor]
        state = {"predictor": self._predictor.detach()} | {n: adam_state[n] for n in _ADAM}
        return {name: value.clone() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        super().load_state_dict(state)
        self._predictor = torch.zeros(0)


_ADAM = ("step", "exp_avg", "exp_avg_sq")


def _network(weights: Tensor, features_HF: Tensor) -> Tensor:
    """Return the output (H, O): one hidden layer of ReLUs; each row of weights ends with a bias."""
    n_hidden = _HIDDEN * (features_HF.shape[1] + 1)
    first = weights[:n_hidden].view(_HIDDEN, -1)
    second = weights[n_hidden:].view(_OUT, -1)
    hidden = (features_HF @ first[:, :-1].T + first[:, -1]).relu()
    return hidden @ second[:, :-1].T + second[:, -1]


SHAPER_STATES: dict[str, type[State]] = {"distillation": Distillation}
"""State classes by the parameter name with which a shaper requests one."""

SHAPER_INPUTS = {
    "advantage_B": "the estimator's, (B,)",
    "hit_B": "the target's hits, bool (B,)",
    "logp_policy_B": "log pi_theta of the rows, (B,)",
    "kernel_BB": "a (B, B) similarity of the rows in [0, 1] with ones on the diagonal, such as "
    "Tanimoto's",
    "outcome_B": "an int64 number (B,) for each row's outcome, such as its scaffold; -1 for none",
    "group_B": "group labels, int64 (B,); None: the batch is one group",
    "features_BF": "numbers (B, F) that describe a row, such as the bits of its fingerprint",
    **{name: kind.__doc__ or "" for name, kind in SHAPER_STATES.items()},
}
"""The inputs that a shaper may have, with their meanings."""


@dataclass(frozen=True)
class Shaper:
    """A registered shaper."""

    name: str
    function: Callable[..., Tensor]
    signature: Signature


@dataclass(frozen=True)
class BoundShaper:
    """A shaper with its options and state."""

    shaper: Shaper
    options: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, State] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inputs = self.shaper.signature.inputs
        states = {name: SHAPER_STATES[name]() for name in inputs if name in SHAPER_STATES}
        object.__setattr__(self, "states", states)

    def needs(self, name: str) -> bool:
        """Whether a call needs an input of ``SHAPER_INPUTS``.

        A shaper that needs hit_B changes hits only, so it does nothing for a target without hits.
        """
        return name in self.shaper.signature.required

    def __call__(self, advantage_B: Tensor, **available: Tensor | None) -> Tensor:
        """Return the new advantage, without graph.

        Args:
            advantage_B: the estimator's.
            **available: other inputs by the names of ``SHAPER_INPUTS``; unused ones are ignored,
                and None counts as missing.

        Raises:
            ValueError: an input is missing or invalid.
        """
        everything = {"advantage_B": advantage_B, **available, **self.states}
        signature = self.shaper.signature
        inputs = {n: everything[n] for n in signature.inputs if everything.get(n) is not None}
        if missing := sorted(signature.required - inputs.keys()):
            how = " and ".join(f"{name}, {SHAPER_INPUTS[name]}" for name in missing)
            raise ValueError(
                f"shaper {self.shaper.name!r} needs {how}, and the batch has none: pass it, or "
                "take no shaper"
            )
        return self.shaper.function(**inputs, **self.options)


_ROUNDING = 1e-5  # kernels come as float32


def _check_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuse invalid inputs of a shaper; shapes are checked first."""
    rows = {name: inputs.get(f"{name}_B") for name in ("advantage", "hit", "logp_policy")}
    whole = {name: inputs.get(f"{name}_B") for name in ("outcome", "group")}
    check_rows(**rows, **whole)
    check_values("whole", **whole)
    check_values("bool", hit=rows["hit"])
    fix = "a target of -inf outside of the hits has no advantage there; take gibbs or mara"
    check_finite("advantage", inputs["advantage_B"], fix)
    check_values("logp", logp_policy=rows["logp_policy"])
    n_rows = inputs["advantage_B"].numel()
    if "features_BF" in inputs:
        shape = tuple(inputs["features_BF"].shape)
        if len(shape) != 2 or shape[0] != n_rows or not shape[1]:
            raise ValueError(
                f"features must be ({n_rows}, F), F numbers for each row of the batch, got {shape}:"
                " keep all rows, with zeros for a row without a molecule"
            )
    if "kernel_BB" in inputs:
        _check_kernel(inputs["kernel_BB"], n_rows)


def _check_kernel(kernel_BB: Tensor, n: int) -> None:
    """Refuse a kernel that is no similarity of the n rows."""
    shape = tuple(kernel_BB.shape)
    what = f"kernel ({n}, {n}) must"
    problem = ""
    if shape != (n, n):
        pairs = f"a similarity for each pair of the {n} rows of the batch, got {shape}"
        problem = f"kernel must be ({n}, {n}), {pairs}: keep all rows, invalid ones too"
    elif not kernel_BB.is_floating_point():
        problem = f"kernel must be of floats, got {kernel_BB.dtype}: use .float()"
    elif not (kernel_BB.amin() >= -_ROUNDING and kernel_BB.amax() <= 1 + _ROUNDING):
        got = f"{kernel_BB.amin().item():g} to {kernel_BB.amax().item():g}"
        fix = "pass a similarity such as Tanimoto's, with 0 for a row without a molecule"
        problem = f"{what} lie in [0, 1], got {got}: {fix}"
    elif bool(((kernel_BB.diagonal() - 1).abs() > _ROUNDING).any()):
        fix = "a row's similarity to itself; 1 minus a distance has them, a distance does not"
        problem = f"{what} have ones on its diagonal, {fix}"
    elif bool((apart := (kernel_BB - kernel_BB.T).abs()).amax() > _ROUNDING):
        i, j = divmod(int(apart.argmax()), n)
        got = (
            f"k[{i}, {j}] = {kernel_BB[i, j].item():g} and k[{j}, {i}] = {kernel_BB[j, i].item():g}"
        )
        problem = f"{what} be symmetric, but {got}: average it with its transpose"
    if problem:
        raise ValueError(problem)


SHAPERS: Registry[Shaper] = Registry("shaper")


def shaper(name: str) -> Callable[[F], F]:
    """Register a function under ``name``, with a check of its inputs."""

    def decorate(function: F) -> F:
        signature = Signature.of(function, f"shaper {name!r}", SHAPER_INPUTS)
        checked = with_check(function, _check_inputs)
        SHAPERS.register(name)(Shaper(name, checked, signature))
        return checked

    return decorate


def build_shaper(kind: str, **options: Any) -> BoundShaper:
    """Bind a shaper to its options.

    Raises:
        ValueError: an unknown shaper or option, or a value out of range.
    """
    chosen = SHAPERS[kind]
    check_options("shaper", kind, chosen.signature.options, options)
    values = {name: option.default for name, option in chosen.signature.options.items()} | options
    return BoundShaper(chosen, {name: float(value) for name, value in values.items()})


@shaper("set_diversity")
def set_diversity(
    advantage_B: Tensor,
    hit_B: Tensor,
    kernel_BB: Tensor,
    group_B: Tensor | None = None,
    *,
    weight: Annotated[float, ABOVE_0] = 1.0,
) -> Tensor:
    """Hits gain what they add to the set of hits: A_i + weight (D(S) - D(S without i)).

    SetPO (Li et al., arXiv 2602.01062). S are the hits of the row's group and
    D(S) = mean_i -log(1 + mean_j k(y_i, y_j)); both means run over all of S, j = i included, in
    D(S without i) over the n - 1 others. The gain is of the order of 1/n. It is computed in O(n^2)
    and without cancellation, as
    (mean over j != i of L_j, minus L_i)/n + mean over j != i of
    log(1 + (m_j - k_ij)/((n - 1)(1 + m_j))), with m_j = mean_i k(y_j, y_i) and L_j = log(1 + m_j).

    Deviations:
        1. The kernel is an input, Tanimoto for molecules; the paper compares embeddings of texts.
        2. Other rows are not in S and do not change; with fewer than two hits no row does.

    Options:
        weight: weight of the gain, in units of the advantage.
    """
    if not bool(hit_B.any()):
        return advantage_B.detach().clone()
    groups = Groups.of(group_B, advantage_B)
    index_H = groups.index_B[hit_B]
    pair_HH = index_H[:, None] == index_H[None, :]
    kernel_HH = torch.where(pair_HH, kernel_BB.detach()[hit_B][:, hit_B], 0)
    n_H = pair_HH.sum(dim=1)
    others_H = (n_H - 1).clamp(min=1)
    mass_H = kernel_HH.sum(dim=1) / n_H
    log_H = torch.log1p(mass_H)
    change_HH = torch.log1p((mass_H - kernel_HH) / (others_H * (1 + mass_H)))  # [i, j]: of L_j
    change_HH = torch.where(pair_HH, change_HH, 0).fill_diagonal_(0)
    sum_log_H = torch.where(pair_HH, log_H, 0).sum(dim=1)
    gain_H = ((sum_log_H - log_H) / others_H - log_H) / n_H + change_HH.sum(dim=1) / others_H
    gain_B = torch.zeros_like(advantage_B)
    gain_B[hit_B] = torch.where(n_H >= 2, gain_H, 0).to(advantage_B)
    return advantage_B.detach() + weight * gain_B


@shaper("differential_smoothing")
def differential_smoothing(
    advantage_B: Tensor,
    hit_B: Tensor,
    logp_policy_B: Tensor,
    *,
    gamma: Annotated[float, ABOVE_0] = 0.01,
) -> Tensor:
    """Hits gain more the rarer they are under the policy: A - gamma lp.

    Gai et al., "Differential Smoothing Mitigates Sharpening and Improves LLM Reasoning", arXiv
    2511.19942. On a score without a KL (equal rewards on the hits) gamma = beta makes the score
    MARA's up to a constant. A score that has its KL, such as that of ``rloo``, contains -beta lp
    already, and the hits end at pi_ref^(beta/(beta + gamma)). lp of a whole sequence is tens of
    nats, so a gamma of 0.01 changes A by some tenths.

    Deviations:
        1. Other rows do not change: the paper's term that sharpens among incorrect answers is
           omitted.
        2. A is not centred again.

    Options:
        gamma: reward units per nat.
    """
    shaped_B = advantage_B - (gamma * logp_policy_B).to(advantage_B)
    return torch.where(hit_B, shaped_B, advantage_B).detach()


@shaper("ucpo")
def ucpo(
    advantage_B: Tensor,
    hit_B: Tensor,
    logp_policy_B: Tensor,
    group_B: Tensor | None = None,
    *,
    strength: Annotated[float, SHARE] = 0.2,
    temperature: Annotated[float, ABOVE_0] = 1.0,
) -> Tensor:
    """Hits share their advantage by rarity: A n ((1 - t)/n + t (1/q_i) / sum_j (1/q_j)).

    Uniform-correct policy optimisation (Lochab et al., arXiv 2605.00365), t = strength, 0.2 in the
    paper; n is the number of hits of the row's group and q the softmax of lp over them. The factors
    of a group's hits sum to n, so hits of equal A keep its sum; a single hit keeps its A.

    Deviations:
        1. (1/q_i) / sum (1/q_j) is the softmax of -lp: no floor of q is needed (1e-6 in the
           authors' code).
        2. lp is that of the whole sequence; the authors divide it by the length. So if the rarest
           hit is some nats below the others, its factor is nearly 1 - t + n t.
        3. ``temperature`` divides lp; about the mean number of tokens gives the spread of the
           authors' q.

    Options:
        strength: share of the advantage that is distributed by rarity; 0.2 in the paper.
        temperature: nats; divides log-probabilities before the comparison; at 1 the rarest hit gets
            nearly all of that share, at about the mean number of tokens it is spread.
    """
    groups = Groups.of(group_B, advantage_B)
    n_B = groups.sum_B(hit_B.long())
    rarity_B = -logp_policy_B.detach().double() / temperature
    top_B = groups.max_N(rarity_B, hit_B)[groups.index_B]
    share_B = torch.where(hit_B, rarity_B - top_B, -torch.inf).exp()
    share_B = share_B / groups.sum_B(share_B)
    factor_B = torch.where(hit_B, 1 - strength + strength * (n_B * share_B), 1)
    return (advantage_B * factor_B).to(advantage_B).detach()


@shaper("ips")
def ips(
    advantage_B: Tensor,
    outcome_B: Tensor,
    group_B: Tensor | None = None,
    *,
    eps: Annotated[float, SHARE] = 0.01,
) -> Tensor:
    """Frequent outcomes weigh less: A / max(share of the outcome, eps).

    Inverse probability scaling (Sinha et al., arXiv 2601.21669). The share is the fraction of all
    rows of the group with the row's outcome: for a molecule, its scaffold.

    Deviations:
        1. The advantage is scaled, not the reward before centring.
        2. Rows without an outcome (-1) keep their A.

    Options:
        eps: smallest share to divide by; the factor is at most 1/eps.
    """
    groups = Groups.of(group_B, advantage_B)
    pairs = torch.stack([groups.index_B, outcome_B.long()])
    _, index_B, counts = torch.unique(pairs, dim=1, return_inverse=True, return_counts=True)
    share_B = counts[index_B].to(advantage_B) / groups.size_B
    scaled_B = advantage_B / share_B.clamp(min=eps)
    return torch.where(outcome_B >= 0, scaled_B, advantage_B).detach()


@shaper("entropy")
def entropy(
    advantage_B: Tensor,
    logp_policy_B: Tensor,
    group_B: Tensor | None = None,
    *,
    weight: Annotated[float, ABOVE_0] = 0.01,
) -> Tensor:
    """All rows gain by their rarity under the policy: A - weight (lp - mean of the others' lp).

    The policy gradient of an entropy bonus, J + weight H(pi) (Williams and Peng 1991; Mnih et al.,
    arXiv 1602.01783). With beta and the target p it ends at p^(beta/(beta + weight)), the target at
    a higher temperature: with gibbs pi_ref^(beta/(beta + weight)) exp(R/(beta + weight)). It moves
    mass to rare sequences, hits or not; ``differential_smoothing`` is restricted to hits.

    Deviations:
        1. The entropy of whole sequences, estimated from the sampled rows, not the sum over tokens
           of the next-token entropies.
        2. The baseline is the mean over the other rows of the group.

    Options:
        weight: reward units per nat, like beta.
    """
    groups = Groups.of(group_B, advantage_B)
    logp_B = logp_policy_B.detach().to(advantage_B)
    return advantage_B.detach() - weight * against_the_others("entropy", logp_B, groups)


@shaper("rnd")
def rnd(
    advantage_B: Tensor,
    hit_B: Tensor,
    features_BF: Tensor,
    distillation: Distillation,
    group_B: Tensor | None = None,
    *,
    weight: Annotated[float, ABOVE_0] = 0.1,
    rate: Annotated[float, ABOVE_0] = 1e-3,
    seed: Annotated[int, Range(0, math.inf, "[)")] = 0,
) -> Tensor:
    """Hits gain by their novelty: the error of a network that learns to predict a random one.

    Random network distillation (Burda et al., arXiv 1810.12894), used for molecules as an intrinsic
    reward by Svensson et al., arXiv 2410.10431. The bonus is added to the reward before its
    baseline: A + weight (novelty - mean of the others'), with novelty 0 for rows that are no hits.
    The predictor makes one step of Adam on the hits of each update.

    Deviations:
        1. The networks read features, of a molecule its Morgan fingerprint, not the tokens.
        2. The error is divided by that of the untrained predictor at the same row: 1 for a molecule
           unlike all hits so far, towards 0 for frequent ones. No running scale is needed.

    Options:
        weight: bonus, in reward units, of a hit unlike all others.
        rate: learning rate of the predictor's Adam: how soon a molecule is no longer new.
        seed: seed of the random networks.
    """
    bonus_B = torch.zeros_like(advantage_B)
    if bool(hit_B.any()):
        bonus_B[hit_B] = distillation.novelty(features_BF[hit_B], rate, int(seed)).to(bonus_B)
    groups = Groups.of(group_B, advantage_B)
    return advantage_B.detach() + weight * against_the_others("rnd", bonus_B, groups).detach()
