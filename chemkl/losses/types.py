"""The inputs and outputs of the loss core, and their checks.

Legend: B rows of a batch, one sampled sequence each; P fresh samples of the reference.
Log-probabilities are sums over the tokens of a sequence in nats, end token included, padding
masked, fp32 or wider; never divided by the length.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

_PRECISE = (torch.float32, torch.float64)
_DTYPES: dict[str, tuple[tuple[torch.dtype, ...], str]] = {
    "logp": (
        _PRECISE,
        "float32 or float64: take log-softmax and the sum over tokens in fp32",
    ),
    "reward": (_PRECISE, "float32 or float64: take .float() or .double()"),
    "whole": (
        (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
        "a tensor of whole numbers (int64)",
    ),
    "bool": ((torch.bool,), "a bool tensor"),
}
"""The dtypes of each kind of rows, and what a message requires."""
_FINITE = {
    "logp": "take log-softmax in fp32, mask padding with 0 (not -inf), and look for a token that "
    "the model gives probability 0",
    "reward": "a sequence that could not be scored has reward 0 and a reason",
}
"""The kinds of rows that must be finite, and how to fix rows that are not."""


@dataclass(frozen=True, eq=False)
class LossInputs:
    """One batch; every tensor is (B,) unless stated otherwise.

    The first three are always needed, the others by some estimators and shapers only.

    Attributes:
        logp_policy: log pi_theta(y), with its graph if the loss is back-propagated.
        logp_ref: log pi_ref(y) under the frozen reference.
        reward: R(y) after the diversity filter, so a penalised sequence is neither hit nor anchor;
            an invalid sequence stays in the batch with reward 0.
        group: integer labels; rows of one group share an anchor, a quantile and a baseline (the
            prompt of a conditional model). None: the batch is one group.
        duplicate: True if an earlier row of the same batch and group has the same sequence. Needed
            only by an objective with ``duplicates="drop"``.
        logp_behaviour: log-probability with which the row was sampled, for estimators that weigh by
            it: under the policy that sampled it (``rloo``, ``ppo``, ``grpo``), or under the mixture
            of policy and memory (``snis``). None: the current policy sampled all rows.
        retained: True at rows that the current policy did not sample: those of ``LossOutput.carry``
            of the last batch (``msc``), or replayed ones. They count in target and loss, but not in
            the metrics that describe a batch; the loss and the estimator's own metrics (``weight``,
            ``advantage_std``, ``clip_rate``) are over all rows.
        logp_policy_of_prior: (P,), log pi_theta, with graph, of sequences that the reference has
            sampled for this batch (``forward_kl`` with reference "prior").
        kernel: (B, B), similarity of the rows in [0, 1], symmetric, 1 on the diagonal (a shaper).
        outcome: integer labels of the rows' outcomes, for example scaffolds; -1 for no outcome (a
            shaper).
        features: (B, F), numbers that describe a row, such as the bits of its fingerprint; zeros
            for a row without (a shaper).
    """

    logp_policy: Tensor
    logp_ref: Tensor
    reward: Tensor
    group: Tensor | None = None
    duplicate: Tensor | None = None
    logp_behaviour: Tensor | None = None
    retained: Tensor | None = None
    logp_policy_of_prior: Tensor | None = None
    kernel: Tensor | None = None
    outcome: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        check_rows(**{name: getattr(self, name) for name in _ROWS})
        check_rows(logp_policy_of_prior=self.logp_policy_of_prior)
        for kind, names in _ROWS_OF_KIND.items():
            check_values(kind, **{name: getattr(self, name) for name in names})

    def where(self, kept_B: Tensor) -> "LossInputs":
        """Select the marked rows; samples of the reference are not rows and stay."""
        rows = {name: getattr(self, name) for name in (*_ROWS, "features")}
        rows = {name: rows_B[kept_B] for name, rows_B in rows.items() if rows_B is not None}
        kernel = None if self.kernel is None else self.kernel[kept_B][:, kept_B]
        return replace(self, **rows, kernel=kernel)


_ROWS_OF_KIND = {
    "logp": ("logp_policy", "logp_ref", "logp_behaviour", "logp_policy_of_prior"),
    "reward": ("reward",),
    "whole": ("group", "outcome"),
    "bool": ("duplicate", "retained"),
}
_ROWS = [n for names in _ROWS_OF_KIND.values() for n in names if n != "logp_policy_of_prior"]
"""The fields of LossInputs with one value per row."""


@dataclass(frozen=True, eq=False)
class TargetOutput:
    """The unnormalised target at each row of a batch; every tensor is (B,) and has no graph.

    Attributes:
        log_target: log of the target density in nats, up to one constant per group.
        hit: the row is treated as a hit. Always False for a target without a hit test.
        anchor: the row is the anchor of its group: at most one a group, the first one of a tie.
            Always False if the anchor is remembered from earlier batches.
        anchor_logp_ref: log pi_ref of the anchor of the row's group; NaN without an anchor.
        logp_anchored: log pi_ref in the target: of a mara hit that of its anchor.
        reward_anchored: the reward in the target. Both define the target under the forward KL,
            beta exp(logp_anchored) / (L - reward_anchored).
    """

    log_target: Tensor
    hit: Tensor
    anchor: Tensor
    anchor_logp_ref: Tensor
    logp_anchored: Tensor
    reward_anchored: Tensor

    def where(self, kept_B: Tensor) -> "TargetOutput":
        """Select the marked rows."""
        return TargetOutput(*(getattr(self, field.name)[kept_B] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class LossOutput:
    """The result of an objective on one batch.

    Attributes:
        loss: a scalar to minimise.
        metrics: detached scalars.
        target: the target at every row of the batch.
        carry: (B,), True at the rows to include in the next batch as retained; None for an
            estimator that retains no rows.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    target: TargetOutput
    carry: Tensor | None = None


def check_rows(**row_tensors: Tensor | None) -> None:
    """Refuse tensors that are not 1-d, not of one length, or empty; None is skipped."""
    tensors = {name: rows for name, rows in row_tensors.items() if rows is not None}
    for name, rows in tensors.items():
        if not isinstance(rows, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(rows).__name__}")
    shapes = {name: tuple(rows.shape) for name, rows in tensors.items()}
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    problem = ""
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        problem = f"1-d tensors of one length are needed, a value per row; got {listed}"
    elif (0,) in shapes.values():
        stay = "invalid sequences stay in it with reward 0, and the caller skips a step of nothing"
        problem = f"the batch is empty: {', '.join(tensors)} have 0 rows; {stay}"
    if problem:
        raise ValueError(problem)


def check_values(kind: str, **rows: Tensor | None) -> None:
    """Refuse rows of a wrong dtype, or not finite if they must be; None is skipped.

    Args:
        kind: "logp", "reward", "whole" (whole numbers) or "bool".
        **rows: by their names in messages.
    """
    dtypes, requirement = _DTYPES[kind]
    for name, rows_B in rows.items():
        if rows_B is None:
            continue
        if rows_B.dtype not in dtypes:
            got = str(rows_B.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {got}, and must be {requirement}")
        if kind in _FINITE:
            check_finite(name, rows_B, _FINITE[kind])


def check_finite(name: str, rows_B: Tensor, fix: str) -> None:
    """Refuse rows that are NaN or infinite."""
    bad_B = ~torch.isfinite(rows_B.detach())
    if any_row(bad_B):
        row = int(bad_B.nonzero()[0])
        raise ValueError(
            f"{name} is not finite in {int(bad_B.sum())} of {rows_B.numel()} rows "
            f"(first: row {row}, {rows_B[row].item()}): {fix}"
        )


def any_row(marked_B: Tensor) -> bool:
    """Whether any row is marked; False during `torch.compile`, where a check breaks the graph."""
    return not torch.compiler.is_compiling() and bool(marked_B.any())


def mean_over_rows(values_B: Tensor) -> Tensor:
    """Return the mean over all rows of the batch; every loss is one of these."""
    return values_B.mean()


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a batch, by their labels ids_N in ascending order.

    index_B is the index in ids_N of each row's group and size_B the number of its rows. rows_NM has
    the rows of each group, padded with B. Sums go through this table because scatter operations add
    in arbitrary order on a GPU, and a run would not repeat to the bit.
    """

    ids_N: Tensor
    index_B: Tensor
    size_N: Tensor
    size_B: Tensor
    rows_NM: Tensor

    @classmethod
    def of(cls, group_B: Tensor | None, like_B: Tensor) -> "Groups":
        """Make groups from labels; None: one group of all rows of ``like_B``."""
        if group_B is None:
            row_B = torch.arange(len(like_B), device=like_B.device)
            first_N, all_B = row_B[:1], torch.zeros_like(row_B)
            return cls(first_N, all_B, first_N + len(row_B), all_B + len(row_B), row_B[None])
        ids_N, index_B, size_N = torch.unique(group_B, return_inverse=True, return_counts=True)
        row_B = torch.argsort(index_B, stable=True)
        group_of_row_B = index_B[row_B]
        before_N = size_N.cumsum(dim=0) - size_N
        place_B = torch.arange(len(row_B), device=row_B.device) - before_N[group_of_row_B]
        rows_NM = row_B.new_full((len(ids_N), int(size_N.max())), len(row_B))
        rows_NM[group_of_row_B, place_B] = row_B
        return cls(ids_N, index_B, size_N, size_N[index_B], rows_NM)

    def sum_B(self, values_B: Tensor) -> Tensor:
        """Return the sum over each row's group."""
        return self.table_NM(values_B, 0).sum(dim=1)[self.index_B]

    def mean_B(self, values_B: Tensor) -> Tensor:
        """Return the mean over each row's group."""
        return self.sum_B(values_B) / self.size_B

    def max_N(self, values_B: Tensor, where_B: Tensor) -> Tensor:
        """Return the maximum of each group over the rows ``where_B``; -inf without any."""
        low_B = torch.where(where_B, values_B, -torch.inf)
        return self.table_NM(low_B, -torch.inf).amax(dim=1)

    def best_row_N(self, values_B: Tensor, where_B: Tensor) -> Tensor:
        """Return the row of each group's maximum over the rows ``where_B``, or B without any.

        The first row of a tie.
        """
        n_rows = where_B.numel()
        best_B = where_B & (values_B == self.max_N(values_B, where_B)[self.index_B])
        row_B = torch.arange(n_rows, device=where_B.device)
        return self.table_NM(torch.where(best_B, row_B, n_rows), n_rows).amin(dim=1)

    def table_NM(self, values_B: Tensor, absent: float) -> Tensor:
        """Return the values of each group, padded with ``absent``."""
        return torch.cat([values_B, values_B.new_full((1,), absent)])[self.rows_NM]
