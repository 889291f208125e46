"""Which hit lends its reference probability to the others: the anchor z of each group.

Legend: B rows, N groups. The anchor is one pair (log pi_ref(z), R(z)) a group. Copies of a sequence
never move it: a maximum does not count, and the running anchor takes every hit in once.
"""

from bisect import insort
from collections.abc import Mapping

import torch
from torch import Tensor

from chemkl.losses.reductions import Groups

_LOGP_DIGITS = 3  # one sequence's log pi_ref varies by about 1e-5 nats with the batch it is in
_REWARD_DIGITS = 6


def batch_anchor(
    logp_ref_B: Tensor, reward_B: Tensor, hit_B: Tensor, groups: Groups
) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest hit under the reference in each group; the first row of a tie.

    Returns:
        Three (B,) tensors: True at the row that is its group's anchor, and log pi_ref(z) and R(z)
        of the row's group (NaN where the group has no hit).
    """
    best_B = groups.max_N(logp_ref_B, hit_B)[groups.index_B]
    row_N = groups.first_row_N(hit_B & (logp_ref_B == best_B))
    n_rows = hit_B.numel()
    row_B = torch.arange(n_rows, device=hit_B.device)
    anchor_B = row_B == row_N[groups.index_B]
    found_N = row_N < n_rows
    safe_row_N = row_N.clamp(max=n_rows - 1)
    logp_z_N = torch.where(found_N, logp_ref_B[safe_row_N], torch.nan)
    reward_z_N = torch.where(found_N, reward_B[safe_row_N], torch.nan)
    return anchor_B, logp_z_N[groups.index_B], reward_z_N[groups.index_B]


class RunningAnchor:
    """A high quantile of log pi_ref over the hits of the run so far, kept for each group number.

    State: for each group the distinct hits seen, as pairs (log pi_ref, R) in ascending order. Two
    hits are one sequence when log pi_ref agrees to 1e-3 nats and R to 1e-6, so a sequence that is
    sampled again, or replayed, changes nothing, and neither does calling twice on one batch. It
    grows by 16 bytes of payload a distinct hit. Group numbers must keep their meaning from batch
    to batch.
    """

    def __init__(self) -> None:
        self._hits: dict[int, list[tuple[float, float]]] = {}
        self._known: set[tuple[int, float, float]] = set()

    def update(self, logp_ref_B: Tensor, reward_B: Tensor, hit_B: Tensor, groups: Groups) -> None:
        """Take the hits of a batch in."""
        group_of_hits = groups.ids_N[groups.index_B][hit_B].tolist()
        rows = zip(group_of_hits, logp_ref_B[hit_B].tolist(), reward_B[hit_B].tolist(), strict=True)
        for group, logp_ref, reward in rows:
            self._add(group, logp_ref, reward)

    def anchor(
        self, quantile: float, logp_ref_B: Tensor, reward_B: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor]:
        """Return log pi_ref(z) and R(z) for each row's group (NaN while it has had no hit).

        The pair is that of one hit: number floor(q (n - 1)) of n, counted from the rarest, so it
        is never the likeliest one as soon as there are two.
        """
        pair_N = [self._pair(group, quantile) for group in groups.ids_N.tolist()]
        logp_z_N, reward_z_N = torch.tensor(pair_N, dtype=torch.float64).unbind(dim=1)
        index_B = groups.index_B
        return logp_z_N.to(logp_ref_B)[index_B], reward_z_N.to(reward_B)[index_B]

    def state_dict(self) -> dict[str, Tensor]:
        """The distinct hits so far as three columns: group, logp_ref, reward."""
        rows = [(group, *pair) for group, pairs in self._hits.items() for pair in pairs]
        return {
            "group": torch.tensor([row[0] for row in rows], dtype=torch.int64),
            "logp_ref": torch.tensor([row[1] for row in rows], dtype=torch.float64),
            "reward": torch.tensor([row[2] for row in rows], dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Forget the hits so far and take those of ``state``, the result of ``state_dict``."""
        missing = {"group", "logp_ref", "reward"} - state.keys()
        if missing:
            raise ValueError(f"the running anchor's state lacks {', '.join(sorted(missing))}")
        self._hits.clear()
        self._known.clear()
        columns = (state["group"].tolist(), state["logp_ref"].tolist(), state["reward"].tolist())
        for group, logp_ref, reward in zip(*columns, strict=True):
            self._add(group, logp_ref, reward)

    def _add(self, group: int, logp_ref: float, reward: float) -> None:
        key = (group, round(logp_ref, _LOGP_DIGITS), round(reward, _REWARD_DIGITS))
        if key not in self._known:
            self._known.add(key)
            insort(self._hits.setdefault(group, []), (logp_ref, reward))

    def _pair(self, group: int, quantile: float) -> tuple[float, float]:
        hits = self._hits.get(group)
        return hits[int(quantile * (len(hits) - 1))] if hits else (torch.nan, torch.nan)
