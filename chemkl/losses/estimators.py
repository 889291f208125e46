"""The estimators: each is one function of tensors that returns (loss, metrics).

Ordinary parameters are filled by name from ``INPUTS``; keyword-only ones are options with defaults.
To add an estimator, write the function and register it with ``estimator``, which also checks the
shapes of its arguments.

Legend: B rows of a batch; P fresh samples of the reference.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from chemkl.losses.kl import k3_value
from chemkl.losses.registry import ABOVE_0, BELOW_1, INSIDE, Range, Registry, Signature, with_check
from chemkl.losses.targets import Gibbs, Target
from chemkl.losses.types import Groups, any_row, check_rows, mean_over_rows


class State:
    """State of an estimator across batches, saved with a run: plain values and tensors."""

    def __init__(self) -> None:
        self.memory: Mapping[str, Any] = {}

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameters for the optimiser: none."""
        yield from ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return dict(self.memory)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        self.memory = dict(state)


class LearnedLogZ(State):
    """The learned log partition function: one number, trained by the policy's optimiser.

    It starts at the estimate from the first batch. The parameter is log Z / rate, so an optimiser
    with steps of a fixed size, such as Adam, moves log Z faster than the weights by that factor.
    """

    def __init__(self) -> None:
        self._parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self._started = False

    def value(self, first: Tensor, rate: float) -> Tensor:
        """Return log Z, a float64 scalar with graph; ``first`` is its initial value."""
        if not self._started:
            with torch.no_grad():
                self._parameter.copy_(first.double() / rate)
            self._started = True
        return self._parameter * rate

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameter."""
        yield self._parameter

    def state_dict(self) -> dict[str, Any]:
        """Return the parameter and whether it has started."""
        return {"parameter": self._parameter.detach().clone(), "started": self._started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        with torch.no_grad():
            self._parameter.copy_(state["parameter"])
        self._started = bool(state["started"])


class AverageLogZ(State):
    """The moving average of the partition function, in the log domain, for each group.

    Z of a group is the mean of exp(log_target - lp) over rows of the policy. The batch i steps back
    has the weight decay^i, divided by the sum of the weights; the current batch is included. Group
    labels must keep their meaning from batch to batch.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float]] = {}

    def update(self, log_ratio_B: Tensor, groups: Groups, decay: float) -> Tensor:
        """Update with a batch; return log Z of each row's group (B,), without graph."""
        sum_N = groups.table_NM(log_ratio_B.detach(), -torch.inf).logsumexp(dim=1)
        log_z_N = (sum_N - groups.size_N.to(sum_N).log()).tolist()
        share = torch.tensor([decay, 1 - decay], dtype=torch.float64).log()
        ids = groups.ids_N.tolist()
        for group, log_z in zip(ids, log_z_N, strict=True):
            log_sum, weight = self._sums.get(group, (-torch.inf, 0.0))
            both = torch.tensor([log_sum, log_z], dtype=torch.float64) + share
            self._sums[group] = float(torch.logsumexp(both, 0)), decay * weight + 1 - decay
        rows = torch.tensor([self._sums[group] for group in ids], dtype=torch.float64)
        log_sum_N, weight_N = rows.unbind(dim=1)
        return (log_sum_N - weight_N.log()).to(log_ratio_B)[groups.index_B]

    def state_dict(self) -> dict[str, Any]:
        """Return group labels, log sums and weights."""
        group = torch.tensor(list(self._sums), dtype=torch.int64)
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64).reshape(-1, 2)
        return {"group": group, "log_sum": sums[:, 0].clone(), "weight": sums[:, 1].clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of ``state_dict``."""
        columns = (state[name].tolist() for name in ("group", "log_sum", "weight"))
        self._sums = {group: (total, weight) for group, total, weight in zip(*columns, strict=True)}


class Chains(State):
    """The Markov chains of ``msc``: draws one row of each group to retain in the next batch.

    It has its own random generator, so a resumed run makes the same draws. The caller keeps the
    sequences.
    """

    carry_B: Tensor | None = None

    def draw(self, log_weight_B: Tensor, groups: Groups, seed: int) -> None:
        """Mark one row of each group in ``carry_B``, with probability ~ exp(log_weight).

        A group whose log weights are all -inf has no row. The maximum of log weight plus Gumbel
        noise is such a draw.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.memory:
            generator.set_state(self.memory["generator"])
        uniform_B = torch.rand(log_weight_B.numel(), generator=generator, dtype=torch.float64)
        self.memory = {"generator": generator.get_state()}
        gumbel_B = -(-uniform_B.clamp(min=1e-300).log()).log()
        noisy_B = log_weight_B.detach().double() + gumbel_B.to(log_weight_B.device)
        drawn_B = groups.best_row_N(noisy_B, log_weight_B > -torch.inf)[groups.index_B]
        self.carry_B = torch.arange(len(drawn_B), device=drawn_B.device) == drawn_B


STATES: dict[str, type[State]] = {
    "learned_log_z": LearnedLogZ,
    "average_log_z": AverageLogZ,
    "chains": Chains,
}
"""State classes by the parameter name with which an estimator requests one."""


Metrics = dict[str, Tensor]
EstimatorFunction = Callable[..., tuple[Tensor, Metrics]]
Shape = Callable[[Tensor], Tensor]
Refusal = Callable[..., str | None]
F = TypeVar("F", bound=EstimatorFunction)

INPUTS = {
    "logp_policy_B": "log pi_theta, with its graph",
    "log_target_B": "the unnormalised log target",
    "beta": "the KL coefficient, a float",
    "group_B": "group labels; None: the batch is one group",
    "logp_behaviour_B": "log-probability under the policy that sampled the row, without graph",
    "logp_anchored_B": "log pi_ref, of a hit that of its anchor: the reference of Algorithm 2",
    "reward_anchored_B": "the reward, of a hit that of its anchor",
    "retained_B": "True at a row carried over from the last batch (``LossOutput.carry``), or None",
    "logp_policy_of_prior_P": "log pi_theta of fresh samples of the reference, with its graph",
    "shape": "the shaper, a function of the advantage_B; the identity without one",
    **{name: kind.__doc__ or "" for name, kind in STATES.items()},
}
"""The inputs that an estimator may have, with their meanings."""


@dataclass(frozen=True)
class Estimator:
    """An estimator: its loss function, the signature of that, and its properties.

    ``off_policy``: it is valid on rows from any distribution (replay), without importance weights
    or with those of the mixture that proposed them. ``weighs_old``: it weighs each row by pi_theta
    / pi_old of the policy that sampled it (if it has an option ``clip``, only with that), so rows
    of older policies may join. ``refuses`` returns why it does not suit a target and options, or
    None.
    """

    name: str
    function: EstimatorFunction
    signature: Signature
    off_policy: bool
    refuses: Refusal
    weighs_old: bool = False

    @property
    def takes_shaper(self) -> bool:
        """Whether it has an advantage that a shaper can change."""
        return "shape" in self.signature.inputs

    @property
    def weighs(self) -> bool:
        """Whether it uses ``LossInputs.logp_behaviour``."""
        return "logp_behaviour_B" in self.signature.inputs


ESTIMATORS: Registry[Estimator] = Registry("estimator")


def any_target(_target: Target, **_options: Any) -> None:
    """Accept any target: the gradient of a row outside of the support is bounded."""


def full_support_only(
    target: Target,
    *,
    why: str = "the score of every other row would be infinite. Use the target gibbs or mara",
    **_options: Any,
) -> str | None:
    """Refuse targets without full support."""
    return None if target.full_support else f"which is -inf outside of the hits: {why}"


def estimator(
    name: str,
    *,
    off_policy: bool,
    weighs_old: bool = False,
    refuses: Refusal = full_support_only,
) -> Callable[[F], F]:
    """Register a loss function under ``name``; see ``Estimator`` for the properties.

    By default it accepts targets that are finite everywhere; ``refuses=any_target`` accepts all.
    """

    def decorate(function: F) -> F:
        signature = Signature.of(function, f"estimator {name!r}", INPUTS)
        checked = with_check(function, _check_shapes)
        ESTIMATORS.register(name)(
            Estimator(name, checked, signature, off_policy, refuses, weighs_old)
        )
        return checked

    return decorate


def _check_shapes(arguments: Mapping[str, Any]) -> None:
    """Refuse rows of different numbers; P and B need not be equal."""
    for ending in ("_B", "_P"):
        names = [name for name in arguments if name.endswith(ending)]
        check_rows(**{name.removesuffix(ending): arguments[name] for name in names})


def unshaped(advantage_B: Tensor) -> Tensor:
    """Return the advantage: the identity shaper."""
    return advantage_B


def against_the_others(name: str, values_B: Tensor, groups: Groups) -> Tensor:
    """Return each value minus the mean of the other values of its group."""
    size_B = sizes_B(name, groups)
    # n/(n-1) (x - mean) equals x - mean of the others, and loses no digits when n is large
    return (values_B - groups.mean_B(values_B)) * size_B / (size_B - 1)


def _policy_gradient(advantage_B: Tensor, logp_policy_B: Tensor) -> tuple[Tensor, Metrics]:
    """Return the loss -mean(A lp), and the standard deviation of A."""
    loss = -mean_over_rows(advantage_B * logp_policy_B)
    return loss, {"advantage_std": advantage_B.std(correction=0)}


def clipped_policy_gradient(
    advantage_B: Tensor,
    logp_policy_B: Tensor,
    logp_behaviour_B: Tensor,
    clip: float,
    retained_B: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Return PPO's loss -mean min(r A, clip(r) A), r = pi_theta / pi_old of a row.

    The min bounds r only if A > 0. A replayed row with A < 0 that has become likelier has the
    gradient of r = 1: r of an early hit can be e^20.
    """
    log_ratio_B = logp_policy_B - logp_behaviour_B
    up_B = (advantage_B > 0) & (log_ratio_B > math.log1p(clip))
    down_B = (advantage_B < 0) & (log_ratio_B < math.log1p(-clip))
    held_B = up_B | down_B
    if retained_B is not None:
        cut_B = retained_B & (advantage_B < 0) & (log_ratio_B > 0)
        log_ratio_B = torch.where(cut_B, log_ratio_B - log_ratio_B.detach(), log_ratio_B)
    # a held row never enters exp: its overflow would make 0 * inf of the gradient
    ratio_B = torch.where(held_B, 0.0, log_ratio_B).exp()
    bound_B = torch.where(up_B, ratio_B.new_tensor(1 + clip), 1 - clip)
    loss = -mean_over_rows(advantage_B * torch.where(held_B, bound_B, ratio_B))
    spread = advantage_B.std(correction=0)
    return loss, {"advantage_std": spread, "clip_rate": held_B.to(ratio_B).mean()}


def sizes_B(name: str, groups: Groups) -> Tensor:
    """Return each row's group size; refuse groups of one row."""
    size_B = groups.size_B
    if any_row(size_B < 2):
        alone = int(groups.ids_N[groups.index_B][size_B < 2][0])
        raise ValueError(
            f"{name} compares a row with the others of its group, but group {alone} has 1 row "
            f"(the batch has {size_B.numel()}): raise the batch size, or the number of samples per "
            "prompt, to 2 or more; or, for the target gibbs or mara, use the estimator 'reinvent', "
            "which compares nothing"
        )
    return size_B


Divergence = Literal["kl", "reverse_kl", "js", "tv"]


def _f_dpg_refuses(target: Target, *, divergence: Divergence = "kl", **_: Any) -> str | None:
    """Refuse a target without full support if the gradient would not be bounded."""
    why = (
        "with the divergence reverse_kl the score of every other row would be infinite. Use the "
        "divergence kl, js or tv, or the target gibbs or mara"
    )
    return full_support_only(target, why=why) if divergence == "reverse_kl" else None


@estimator("f_dpg", off_policy=False, refuses=_f_dpg_refuses)
def f_dpg(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    divergence: Divergence = "kl",
    decay: Annotated[float, BELOW_1] = 0.99,
    clip: Annotated[float, ABOVE_0] = 20.0,
) -> tuple[Tensor, Metrics]:
    """f-DPG: the policy gradient of D_f(pi || p) = E_p[f(pi/p)], pseudo-reward -f'(e^u).

    Go et al., arXiv 2302.08215. f' is, in their words: "kl" KL(p || pi), -exp(-u); "reverse_kl"
    KL(pi || p), u + 1; "js" Jensen-Shannon, log 2 - softplus(-u); "tv" total variation, sign(u)/2.
    With "kl" it is DPG (Parshakova et al., arXiv 1912.08517); with "reverse_kl" that of ``rloo``
    without the factor beta. Z is a moving average of the batches' mean exp(log_target - lp).

    Deviations:
        1. The baseline is the mean of the others of the group.
        2. Z includes the batch itself, which makes a bias of the order 1/B that averages out as
           ``decay`` goes to 1; the average of old batches is one of an older policy.
        3. exp(-u) is capped at exp(clip): another divergence with the same optimum, which differs
           only for rows that rare under the policy.

    Options:
        divergence: kl covers the target, reverse_kl is that of rloo, js (Jensen-Shannon) and tv
            (total variation) lie between; all but reverse_kl accept the target filter.
        decay: weight of the past in the running estimate of the target's mass; 0: this batch alone.
        clip: nats: bound of exp() for rows to which the policy gives far too low a probability.

    Metrics: advantage_std; log_z, the mean over the rows.
    """
    u_B, log_z_B = _normalised(logp_policy_B, log_target_B, average_log_z, group_B, decay)
    pseudo_reward_B = {
        "kl": lambda: (-u_B).clamp(max=clip).exp(),
        "reverse_kl": lambda: -(u_B + 1),
        "js": lambda: softplus(-u_B) - math.log(2),
        "tv": lambda: torch.where(u_B.isnan(), u_B, -torch.sign(u_B) / 2),  # sign(NaN) is 0
    }[divergence]()
    groups = Groups.of(group_B, logp_policy_B)
    advantage_B = shape(against_the_others("f_dpg", pseudo_reward_B, groups))
    loss, metrics = _policy_gradient(advantage_B, logp_policy_B)
    return loss, {**metrics, "log_z": log_z_B.mean()}


@estimator("alpha_dpg", off_policy=False, refuses=any_target)
def alpha_dpg(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    alpha: Annotated[float, Range(0, 1, "[)", hint="for KL(pi || p) itself take rloo")] = 0.5,
    most: Annotated[float, ABOVE_0] = 10.0,
    decay: Annotated[float, BELOW_1] = 0.99,
) -> tuple[Tensor, Metrics]:
    """alpha-DPG: the alpha-divergence between KL(p || pi) (0) and KL(pi || p) (towards 1).

    Pseudo-reward min(expm1(-(1 - alpha) u), most); that of f = (t^alpha - alpha t - 1 + alpha) /
    (alpha (alpha - 1)) times 1 - alpha, so the step stays of one size as alpha goes to 1.
    Kruszewski et al., arXiv 2512.05962, for the filter target; any other works. Z is that of
    ``f_dpg``.

    Deviations:
        1. The factor 1 - alpha.
        2. Z is a moving average over batches of the policy's own rows, see ``f_dpg``.

    Options:
        alpha: 0 covers the target, towards 1 it seeks its modes.
        most: largest pseudo-reward of a row, the paper's 10: another divergence with the same
            optimum, which differs for rows rare under the policy.
        decay: weight of the past in the running estimate of the target's mass; 0: this batch alone.

    Metrics: advantage_std; log_z; clip_rate, the share of capped rows.
    """
    u_B, log_z_B = _normalised(logp_policy_B, log_target_B, average_log_z, group_B, decay)
    free_B = torch.expm1(-(1 - alpha) * u_B)
    groups = Groups.of(group_B, logp_policy_B)
    advantage_B = shape(against_the_others("alpha_dpg", free_B.clamp(max=most), groups))
    loss, metrics = _policy_gradient(advantage_B, logp_policy_B)
    clip_rate = (free_B > most).to(u_B).mean()
    return loss, {**metrics, "log_z": log_z_B.mean(), "clip_rate": clip_rate}


def _normalised(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    average_log_z: AverageLogZ,
    group_B: Tensor | None,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Return u = lp - log_target + log Z, +inf where the target is -inf, and log Z; no graph."""
    logp_B = logp_policy_B.detach()
    groups = Groups.of(group_B, logp_B)
    log_z_B = average_log_z.update(log_target_B - logp_B, groups, decay)
    outside_B = log_target_B == -torch.inf
    return torch.where(outside_B, torch.inf, logp_B - log_target_B + log_z_B), log_z_B


Reference = Literal["batch", "prior"]


def _forward_kl_refuses(target: Target, *, reference: Reference = "batch", **_: Any) -> str | None:
    """Refuse a target without full support; with reference "prior" any but gibbs."""
    if reference == "prior" and not isinstance(target, Gibbs):
        return (
            "by fresh samples of the prior: whether one of them is a hit would cost an oracle "
            "call, and without it the reference cannot be anchored. Use the reference batch, or "
            "the target gibbs"
        )
    return full_support_only(target)


@estimator("forward_kl", off_policy=False, refuses=_forward_kl_refuses)
def forward_kl(
    logp_policy_B: Tensor,
    logp_anchored_B: Tensor,
    reward_anchored_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    logp_policy_of_prior_P: Tensor | None = None,
    shape: Shape = unshaped,
    *,
    reference: Reference = "batch",
    clip: Annotated[float, ABOVE_0] = 20.0,
) -> tuple[Tensor, Metrics]:
    """RL regularised by the forward KL: the gradient of -(E_pi[R] - beta KL(pi_ref || pi)).

    GX-Chen et al., arXiv 2510.20817. It converges to beta pi_ref / (L - R), which is not the gibbs
    target, and its gradient is not that of a KL to any fixed distribution. With the mara target R
    and pi_ref of a hit are those of its anchor (Algorithm 2), which flattens the hits; an augmented
    reward (Algorithm 1) would not.

    The reward has a leave-one-out baseline. The KL is estimated from the rows of the batch, by the
    gradient of k3 = exp(d) - d - 1 with d = lr - lp, or from fresh samples of the reference, by
    -mean lp.

    Deviations:
        1. exp(d) is capped at exp(clip), see there; the paper does not state a bound.
        2. The anchored reference is not normalised; its mass only shifts L.
        3. ``reference="prior"`` is not in the paper.

    Options:
        reference: source of the KL: the weighted rows of the batch; or, with prior, as many fresh
            samples of the prior a step: unbiased, never clipped, no oracle call, twice the time,
            target gibbs only.
        clip: nats, with reference batch: the weight of a row stops growing where the prior finds it
            likelier than the policy by more than this: biased, and only in that case.

    Metrics: advantage_std; k3, its mean, an estimate of the *reverse* KL to the reference (see
    ``chemkl.losses.kl``); clip_rate, the share of clipped rows.
    """
    groups = Groups.of(group_B, logp_policy_B)
    reward_B = reward_anchored_B.to(logp_policy_B)
    advantage_B = shape(against_the_others("forward_kl", reward_B, groups))
    reward_loss, metrics = _policy_gradient(advantage_B, logp_policy_B)
    d_B = logp_anchored_B - logp_policy_B.detach()
    metrics["k3"] = k3_value(logp_policy_B, logp_anchored_B, clip=clip).mean()
    metrics["clip_rate"] = (d_B > clip).to(d_B).mean()
    if reference == "prior":
        assert logp_policy_of_prior_P is not None  # the objective requires it
        return reward_loss - beta * mean_over_rows(logp_policy_of_prior_P), metrics
    # the gradient of k3 is -(exp(d) - 1) grad lp; in this form a clipped row keeps its weight
    pull_B = d_B.clamp(max=clip).exp() - 1
    return reward_loss - beta * mean_over_rows(pull_B * logp_policy_B), metrics


_EPSILON = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


@estimator("reinvent", off_policy=True)
def reinvent(logp_policy_B: Tensor, log_target_B: Tensor) -> tuple[Tensor, Metrics]:
    """REINVENT's difference between augmented and posterior: mean (log_target - lp)^2.

    With the gibbs target log_target = lr + sigma R is the augmented likelihood of REINVENT
    (Olivecrona et al., arXiv 1704.07555; "DAP" in later versions). On rows of the policy its
    expected gradient is 2/beta that of -J, the reverse-KL objective, at log Z = 0: it has no
    baseline, hence more variance than ``rloo``.

    Deviations:
        1. Any target of full support.
    """
    return mean_over_rows((log_target_B - logp_policy_B) ** 2), {}


@estimator("rloo", off_policy=False, weighs_old=True)
def rloo(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    logp_behaviour_B: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Reverse-KL policy gradient, leave-one-out baseline: -mean(w (s - mean of the others' s) lp).

    Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!"); Ahmadian et al., arXiv
    2402.14740. Its expected gradient is that of -J = beta KL(pi || G) + constant, for the
    normalised target G. The baseline is that of the row's group.

    On rows of an older policy (replay, further updates on a batch) w is the truncated importance
    weight min(pi / pi_old, 1) of the whole sequence, as in V-trace (Espeholt et al., arXiv
    1802.01561) and, for a sequence, Le Roux et al., arXiv 2503.14286; it is 1 on rows of the
    current policy. So a replayed row counts by min(pi, pi_old): a biased gradient, that of -J over
    rows that both policies would sample; a memory that prefers some rows adds to the bias. G is
    still the only stationary point, since all scores are equal there, for any weights above 0. With
    w = 1 on all rows it would be ``log_variance``.

    Deviations:
        1. The KL is part of the score, as -beta lp + beta lr, for the whole sequence at once.
        2. Any target of full support.
        3. A shaper changes s minus its baseline.
        4. The weight is truncated at 1 for rows of either sign, as in V-trace; Le Roux et al. use 1
           for all rows of positive advantage.

    Metrics: advantage_std, the standard deviation of s minus its baseline; weight, the mean of w.
    """
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    advantage_B = shape(against_the_others("rloo", score_B, groups))
    behaviour_B = logp_policy_B.detach() if logp_behaviour_B is None else logp_behaviour_B
    weight_B = (logp_policy_B.detach() - behaviour_B).clamp(max=0).exp()
    loss = -mean_over_rows(weight_B * advantage_B * logp_policy_B)
    return loss, {"advantage_std": advantage_B.std(correction=0), "weight": weight_B.mean()}


@estimator("grpo", off_policy=False, weighs_old=True)
def grpo(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    beta: float,
    group_B: Tensor | None = None,
    shape: Shape = unshaped,
    retained_B: Tensor | None = None,
    *,
    normalise: bool = True,
    clip: Annotated[float | None, INSIDE] = None,
) -> tuple[Tensor, Metrics]:
    """Group-relative policy gradient: -mean(A lp), A = (s - mean of the group) / its deviation.

    Shao et al., arXiv 2402.03300. Without ``normalise`` (Dr. GRPO, Liu et al., arXiv 2503.20783)
    the expected gradient is (n-1)/n that of ``rloo`` for groups of n rows. The division by the
    deviation is a bias: it scales the step of each group by a factor that depends on its rows.

    Deviations:
        1. The TOTAL score, KL included, is centred and divided. With the KL in the loss next to
           normalised rewards the effective coefficient would be beta times the deviation, and the
           target would be another one.
        2. One probability ratio for the whole sequence, not one a token, with ``clip`` only.
        3. Any target of full support.
        4. Replayed rows, with ``clip``, as in RePO (Li et al., arXiv 2506.09340), but in one group
           with the others; see ``ppo``.

    Options:
        normalise: divide by the deviation of the group; a group of equal scores has advantage 0.
            false is Dr. GRPO (arXiv 2503.20783), nearly rloo.
        clip: PPO's bound on the probability ratio: no gain from moving it beyond 1 - clip or
            1 + clip. For replay, and for several updates on one batch; it does not change the first
            update on sampled rows. null: none.

    Metrics: advantage_std, and with ``clip`` clip_rate, the share of clipped rows.
    """
    groups = Groups.of(group_B, logp_policy_B)
    score_B = beta * (log_target_B - logp_policy_B.detach())
    size_B = sizes_B("grpo", groups)
    advantage_B = score_B - groups.mean_B(score_B)
    if normalise:
        variance_B = groups.mean_B(advantage_B**2) * size_B / (size_B - 1)
        # differences below the rounding error of the scores' terms mean nothing
        size_of_terms_B = beta * (log_target_B.abs() + logp_policy_B.detach().abs())
        rounding_B = groups.mean_B(size_of_terms_B) * 8 * _EPSILON[score_B.dtype]
        deviation_B = variance_B.sqrt()
        # in this form NaN stays NaN, which the objective refuses
        advantage_B = torch.where(deviation_B <= rounding_B, 0.0, advantage_B / deviation_B)
    advantage_B = shape(advantage_B)
    if clip is None:
        return _policy_gradient(advantage_B, logp_policy_B)
    return clipped_policy_gradient(advantage_B, logp_policy_B, logp_behaviour_B, clip, retained_B)


@estimator("log_variance", off_policy=True)
def log_variance(
    logp_policy_B: Tensor, log_target_B: Tensor, group_B: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """The variance of the log-ratio log_target - lp over the batch; 0 when lp is the target.

    VarGrad: Richter et al., arXiv 2010.10436. The unbiased variance; its gradient is 2/beta times
    that of ``rloo`` on the same rows, to rounding. As a loss it is valid on rows from any
    distribution that covers the space: it is 0 at the target and positive elsewhere.

    Deviations:
        1. The variance itself, not half of it.
        2. Groups: the mean of the groups' variances, weighted by their numbers of rows.
        3. Any target of full support.
    """
    groups = Groups.of(group_B, logp_policy_B)
    log_ratio_B = log_target_B - logp_policy_B
    deviation_B = log_ratio_B - groups.mean_B(log_ratio_B)
    size_B = sizes_B("log_variance", groups)
    return mean_over_rows(deviation_B**2 * size_B / (size_B - 1)), {}


@estimator("trajectory_balance", off_policy=True)
def trajectory_balance(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    learned_log_z: LearnedLogZ,
    group_B: Tensor | None = None,
    *,
    log_z_rate: Annotated[float, ABOVE_0] = 100.0,
) -> tuple[Tensor, Metrics]:
    """Trajectory balance with a learned constant: mean (log Z + lp - log_target)^2.

    Malkin et al., arXiv 2201.13259; for post-training language models: FlowRL, Zhu et al., arXiv
    2509.15207. It is 0 if the policy is the target and log Z its partition function, for rows from
    any distribution that covers the space. ``reinvent`` is the case log Z = 0; at the best log Z of
    the batch it is ``log_variance`` up to a factor (n-1)/n.

    Deviations:
        1. log Z is one number, not a network of the prompt, so the batch must be one group.
        2. log Z starts at the first batch's mean of log_target - lp.
        3. Any target of full support.

    Options:
        log_z_rate: how much faster than the network's weights log Z is learned.

    Metrics: log_z.
    """
    n_groups = len(Groups.of(group_B, logp_policy_B).ids_N)
    if n_groups > 1:
        raise ValueError(
            f"trajectory_balance learns one log Z, but the batch has {n_groups} groups, each with "
            "a partition function of its own: use log_variance, which estimates it for each group"
        )
    log_ratio_B = log_target_B - logp_policy_B
    log_z = learned_log_z.value(log_ratio_B.detach().mean(), log_z_rate)
    loss = mean_over_rows((log_z.to(log_ratio_B) - log_ratio_B) ** 2)
    return loss, {"log_z": log_z}


_BISECTIONS = 40


@estimator("snis", off_policy=True, refuses=any_target)
def snis(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    group_B: Tensor | None = None,
    *,
    ess: Annotated[float, BELOW_1] = 0.1,
) -> tuple[Tensor, Metrics]:
    """Self-normalised importance sampling: -sum w lp, w the softmax of log_target - log q.

    The gradient of KL(p || pi) for the normalised target p, as in reweighted wake-sleep (Bornschein
    and Bengio, arXiv 1406.2751); with fixed weights it is maximum likelihood on p. Rows may come
    from any distribution with known log q. The normalisation of the weights causes a bias of order
    1/B, and none if the policy is the target.

    Deviations:
        1. Tempering: if few rows carry the weight, log w is multiplied by the largest number up to
           1 at which the effective sample size reaches the share ``ess`` of the rows of non-zero
           weight. At the target the weights are equal, and nothing is tempered.
        2. Groups: each is normalised separately and counts by its number of rows.

    Options:
        ess: least effective sample size, as a share of the batch; weights are tempered to reach
            it. 0: no tempering.

    Metrics: ess, the effective sample size as a share of the rows, before tempering; temper, the
    mean of the multipliers.
    """
    groups = Groups.of(group_B, logp_policy_B)
    sizes_B("snis", groups)  # a single row would have weight 1 in any case
    log_weight_B = log_target_B - logp_behaviour_B
    return _weighted_likelihood(logp_policy_B, log_weight_B, groups, ess)


@estimator("msc", off_policy=False, refuses=any_target)
def msc(
    logp_policy_B: Tensor,
    log_target_B: Tensor,
    logp_behaviour_B: Tensor,
    chains: Chains,
    retained_B: Tensor | None = None,
    group_B: Tensor | None = None,
    *,
    ess: Annotated[float, BELOW_1] = 0.0,
    seed: Annotated[int, Range(0, math.inf, "[)")] = 0,
) -> tuple[Tensor, Metrics]:
    """Markovian score climbing: ``snis`` with a row of each group retained from batch to batch.

    Naesseth, Lindsten and Blei, arXiv 2003.10374. Samples of the policy and the retained row are
    weighted together (conditional importance sampling); one of them, drawn by its weight, is the
    next retained row. For a constant policy the chain's rows follow the target at any batch size,
    so the bias of ``snis`` decreases with the steps, not with B.

    Deviations:
        1. The gradient uses all rows by their weights, not only the drawn one: the same expectation
           given the batch, with less variance.
        2. Tempering as in ``snis``, of the gradient's weights only, off by default.

    Options:
        ess: as in snis; 0: no tempering.
        seed: seed of the draws of retained rows.

    Metrics: those of ``snis``; moved, the share of the groups whose retained row was replaced.
    """
    groups = Groups.of(group_B, logp_policy_B)
    kept_B = torch.zeros_like(log_target_B, dtype=torch.bool) if retained_B is None else retained_B
    if any_row(groups.sum_B(kept_B.long()) > 1):
        raise ValueError(
            "msc retains one row a group, but a group of the batch has several: give each chain a "
            "group number of its own"
        )
    log_weight_B = log_target_B - logp_behaviour_B
    chains.draw(log_weight_B, groups, seed)
    loss, metrics = _weighted_likelihood(logp_policy_B, log_weight_B, groups, ess)
    assert chains.carry_B is not None  # draw has set it
    metrics["moved"] = (chains.carry_B & ~kept_B).sum() / len(groups.ids_N)
    return loss, metrics


def _weighted_likelihood(
    logp_policy_B: Tensor, log_weight_B: Tensor, groups: Groups, ess: float
) -> tuple[Tensor, Metrics]:
    """Return the weighted likelihood of the batch, and the metrics ess and temper.

    The log weights are multiplied by the largest number up to 1 at which each group reaches the
    share ``ess`` of its rows of non-zero weight.
    """
    possible_B = log_weight_B != -torch.inf  # NaN passes, for the objective to refuse

    def weight_B(temper_B: Tensor) -> Tensor:
        """Return weights that sum to 1 over each group; all 0 in a group without mass."""
        log_B = torch.where(possible_B, log_weight_B * temper_B, -torch.inf)
        highest_B = groups.max_N(log_B, possible_B)[groups.index_B]
        raw_B = torch.where(possible_B, (log_B - highest_B).exp(), 0.0)
        return torch.where(possible_B, raw_B / groups.sum_B(raw_B).clamp(min=1), 0.0)

    def share_B(temper_B: Tensor) -> Tensor:
        """Return the effective sample size of each row's group as a share of its rows, or 0."""
        square_B = groups.sum_B(weight_B(temper_B) ** 2)
        return torch.where(square_B > 0, 1 / square_B, 0.0) / groups.size_B

    low_B, high_B = torch.zeros_like(log_weight_B), torch.ones_like(log_weight_B)
    untempered_B = share_B(high_B)
    least_B = ess * groups.sum_B(possible_B.to(log_weight_B)) / groups.size_B
    done_B = untempered_B >= least_B
    # during `torch.compile` the values cannot be inspected
    needs_search = torch.compiler.is_compiling() or not bool(done_B.all())
    for _ in range(_BISECTIONS if needs_search else 0):
        middle_B = (low_B + high_B) / 2
        enough_B = share_B(middle_B) >= least_B
        low_B = torch.where(enough_B, middle_B, low_B)
        high_B = torch.where(enough_B, high_B, middle_B)
    temper_B = torch.where(done_B, 1.0, low_B)
    loss = -mean_over_rows(weight_B(temper_B) * groups.size_B * logp_policy_B)
    return loss, {"ess": untempered_B.mean(), "temper": temper_B.mean()}
