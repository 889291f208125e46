"""Sums and means over the rows of a batch and of its groups: the one place where rows are reduced.

Legend: B rows, N groups, M rows of the largest group. Everything here works on the rows of all
ranks: a caller that trains on several ranks gathers the other ranks' rows (without graph), calls
the objective on the joined batch, and multiplies the loss by the number of ranks when its gradients
are averaged.
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

    A table of the groups' rows instead of scatter operations: these add in an arbitrary order on a
    GPU, and a run would not repeat to the bit.

    Attributes:
        ids_N: the group numbers, ascending; a batch without groups is the one group 0.
        index_B: the position in ids_N of each row's group.
        size_N: rows of each group.
        rows_NM: the rows of each group, ascending; groups with fewer than the largest end with B,
            which is no row.
    """

    ids_N: Tensor
    index_B: Tensor
    size_N: Tensor
    rows_NM: Tensor

    @classmethod
    def of(cls, group_B: Tensor | None, like_B: Tensor) -> "Groups":
        """Read the groups from their numbers; None is one group of all rows of ``like_B``."""
        if group_B is None:
            group_B = torch.zeros(like_B.shape, dtype=torch.int64, device=like_B.device)
        ids_N, index_B, size_N = torch.unique(group_B, return_inverse=True, return_counts=True)
        row_B = torch.argsort(index_B, stable=True)
        group_of_row_B = index_B[row_B]
        before_N = size_N.cumsum(dim=0) - size_N
        place_B = torch.arange(len(row_B), device=row_B.device) - before_N[group_of_row_B]
        rows_NM = row_B.new_full((len(ids_N), int(size_N.max())), len(row_B))
        rows_NM[group_of_row_B, place_B] = row_B
        return cls(ids_N, index_B, size_N, rows_NM)

    def size_B(self) -> Tensor:
        """The number of rows in each row's group."""
        return self.size_N[self.index_B]

    def sum_B(self, values_B: Tensor) -> Tensor:
        """The sum over each row's group."""
        return self._table_NM(values_B, 0).sum(dim=1)[self.index_B]

    def mean_B(self, values_B: Tensor) -> Tensor:
        """The mean over each row's group."""
        return self.sum_B(values_B) / self.size_B()

    def max_N(self, values_B: Tensor, where_B: Tensor) -> Tensor:
        """The largest value of each group among the rows ``where_B``; -inf without one."""
        low_B = torch.where(where_B, values_B, -torch.inf)
        return self._table_NM(low_B, -torch.inf).amax(dim=1)

    def log_mean_exp_N(self, values_B: Tensor) -> Tensor:
        """The log of the mean of exp over each group; -inf where every value is."""
        sum_N = self._table_NM(values_B, -torch.inf).logsumexp(dim=1)
        return sum_N - self.size_N.to(values_B).log()

    def quantile_N(self, values_B: Tensor, q: float) -> Tensor:
        """The q-quantile of each group, linear between neighbours."""
        return torch.nanquantile(self._table_NM(values_B, torch.nan), q, dim=1)

    def first_row_N(self, where_B: Tensor) -> Tensor:
        """The first row of each group among the rows ``where_B``; B without one."""
        n_rows = where_B.numel()
        row_B = torch.arange(n_rows, device=where_B.device)
        return self._table_NM(torch.where(where_B, row_B, n_rows), n_rows).amin(dim=1)

    def _table_NM(self, values_B: Tensor, absent: float) -> Tensor:
        """The values of each group, and ``absent`` where it has fewer rows than the largest."""
        return torch.cat([values_B, values_B.new_full((1,), absent)])[self.rows_NM]
