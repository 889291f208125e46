"""Sums and means over the rows of a batch and of its groups: the one place where rows are reduced.

Legend: B rows, N groups. Everything here works on the rows of all ranks: a caller that trains on
several ranks gathers the other ranks' rows (without graph), calls the objective on the joined
batch, and multiplies the loss by the number of ranks when its gradients are averaged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def mean_over_rows(values_B: Tensor) -> Tensor:
    """The mean over all rows of the joined batch; every loss is one of these."""
    return values_B.mean()


@dataclass(frozen=True, eq=False)
class Groups:
    """Which row belongs to which group.

    A (N, B) mask instead of scatter operations: these add in an arbitrary order on a GPU, and a
    run would not repeat to the bit.

    Attributes:
        ids_N: the group numbers, ascending; a batch without groups is the one group 0.
        index_B: the position in ids_N of each row's group.
        member: (N, B), True where the row belongs to the group.
    """

    ids_N: Tensor
    index_B: Tensor
    member: Tensor

    @classmethod
    def of(cls, group_B: Tensor | None, like_B: Tensor) -> "Groups":
        """Read the groups from their numbers; None is one group of all rows of ``like_B``."""
        if group_B is None:
            group_B = torch.zeros(like_B.shape, dtype=torch.int64, device=like_B.device)
        ids_N, index_B = torch.unique(group_B, return_inverse=True)
        return cls(ids_N, index_B, ids_N[:, None] == group_B[None, :])

    def size_B(self) -> Tensor:
        """The number of rows in each row's group."""
        return self.member.sum(dim=1)[self.index_B]

    def sum_B(self, values_B: Tensor) -> Tensor:
        """The sum over each row's group."""
        zero = values_B.new_zeros(())
        return torch.where(self.member, values_B, zero).sum(dim=1)[self.index_B]

    def mean_B(self, values_B: Tensor) -> Tensor:
        """The mean over each row's group."""
        return self.sum_B(values_B) / self.size_B()

    def max_N(self, values_B: Tensor, where_B: Tensor) -> Tensor:
        """The largest value of each group among the rows ``where_B``; -inf without one."""
        low = values_B.new_full((), -torch.inf)
        return torch.where(self.member & where_B, values_B, low).amax(dim=1)

    def quantile_N(self, values_B: Tensor, q: float) -> Tensor:
        """The q-quantile of each group, linear between neighbours."""
        absent = values_B.new_full((), torch.nan)
        return torch.nanquantile(torch.where(self.member, values_B, absent), q, dim=1)

    def first_row_N(self, where_B: Tensor) -> Tensor:
        """The first row of each group among the rows ``where_B``; B without one."""
        n_rows = where_B.numel()
        row_B = torch.arange(n_rows, device=where_B.device)
        none = row_B.new_full((), n_rows)
        return torch.where(self.member & where_B, row_B, none).amin(dim=1)
