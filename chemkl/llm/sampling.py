"""Completions drawn from a language model, those of several prompts side by side.

Shape legend: G prompts, B rows, A rows that have not ended yet, D different beginnings of these;
P tokens of the longest prompt (later 1, the one just drawn), S tokens read so far, L tokens of a
completion; V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chemkl.llm.network import Network
from chemkl.llm.prompts import Prompt
from chemkl.policies.base import draw


class Drawn(NamedTuple):
    """Completions, on the CPU.

    Attributes:
        tokens: int64 (B, L), each row filled up with the end token.
        logp: float64_B, nats, end token included.
        truncated: bool_B, no end token within L.
    """

    tokens: Tensor
    logp: Tensor
    truncated: Tensor


def complete(
    network: Network,
    prompts: Sequence[Prompt],
    uniform_BL: Tensor,
    *,
    end_id: int,
    most_rows: int,
    device: torch.device,
) -> Drawn:
    """Draw completions by inverting the cumulative distribution of each token.

    Args:
        network: the model.
        prompts: each gets as many rows, in this order.
        uniform_BL: what each token of each row is drawn by, from [0, 1), on the CPU; no rows give
            no completions.
        end_id: the token that ends a completion.
        most_rows: rows of a pass through the model; a single prompt may have more.
        device: where the model is.

    Returns:
        The completions, prompt by prompt.

    Raises:
        ValueError: the rows cannot be dealt evenly to the prompts.
    """
    if not len(uniform_BL):
        no_token_BL = torch.zeros(uniform_BL.shape, dtype=torch.long)
        return Drawn(no_token_BL, torch.zeros(0).double(), torch.zeros(0, dtype=torch.bool))
    each, left = divmod(len(uniform_BL), len(prompts))
    if left:
        raise ValueError(f"{len(uniform_BL)} rows cannot be dealt evenly to {len(prompts)} prompts")
    rows, parts = [], []
    for places in _passes(prompts, max(1, most_rows // each), pads=network.rewinds):
        row_B = (torch.tensor(places)[:, None] * each + torch.arange(each)).flatten()
        some = [prompts[place] for place in places]
        parts.append(_complete(network, some, uniform_BL[row_B], end_id, device))
        rows.append(row_B)
    order_B = torch.cat(rows).argsort()
    return Drawn(*(torch.cat(column)[order_B] for column in zip(*parts, strict=True)))


def _passes(prompts: Sequence[Prompt], most: int, *, pads: bool) -> Iterator[list[int]]:
    """Deal prompts into passes through the model, those of like length together.

    Args:
        prompts: what is to be completed.
        most: prompts of a pass.
        pads: whether shorter prompts can be filled up; else only equal lengths go together.

    Yields:
        The places of prompts among these.
    """
    lengths = [len(prompt.token_ids) for prompt in prompts]
    taken: list[int] = []
    for place in sorted(range(len(prompts)), key=lengths.__getitem__):
        fits = pads or not taken or lengths[place] == lengths[taken[0]]
        if len(taken) == most or not fits:
            yield taken
            taken = []
        taken.append(place)
    yield taken


def _complete(
    network: Network,
    prompts: Sequence[Prompt],
    uniform_BL: Tensor,
    end_id: int,
    device: torch.device,
) -> Drawn:
    """Draw completions in one pass. Rows with the same beginning share the way over it.

    Prompts of unequal length are filled up on the left with tokens that nothing attends to.
    """
    n, most = uniform_BL.shape
    token_BL = torch.full((n, most), end_id)
    logp_B = torch.zeros(n, dtype=torch.float64)
    active_A = torch.arange(n)
    start_A = torch.arange(len(prompts)).repeat_interleave(n // len(prompts))
    next_DP, real_DS = _filled_up(prompts, end_id, device)
    cache, seen = network.new_cache(), 0
    for t in range(most):
        logits_DV = network.read(next_DP, cache, seen, real_DS, last_alone=True)[:, -1]
        seen += next_DP.shape[1]
        logp_DV = logits_DV.float().log_softmax(dim=-1)
        logp_AV = logp_DV[start_A.to(device)]
        token_A = draw(logp_AV, uniform_BL[active_A, t].to(device))
        drawn_A = logp_AV.gather(1, token_A[:, None]).squeeze(1).cpu().double()
        token_A = token_A.cpu()
        logp_B[active_A] += drawn_A
        token_BL[active_A, t] = token_A
        going_A = token_A != end_id
        active_A = active_A[going_A]
        if not len(active_A):
            break
        pair_A2 = torch.stack([start_A[going_A], token_A[going_A]], dim=1)
        pair_D2, start_A = torch.unique(pair_A2, dim=0, return_inverse=True)
        parent_D, next_DP = pair_D2[:, 0].to(device), pair_D2[:, 1:].to(device)
        if pair_D2[:, 0].tolist() != list(range(len(logp_DV))):  # moving the cache is not free
            cache.reorder_cache(parent_D)
        if real_DS is not None:
            real_DS = torch.cat([real_DS[parent_D], torch.ones_like(next_DP)], dim=1)
    truncated_B = torch.zeros(n, dtype=torch.bool)
    truncated_B[active_A] = True
    return Drawn(token_BL, logp_B, truncated_B)


def _filled_up(
    prompts: Sequence[Prompt], end_id: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the prompts as token_GP, and which of these are theirs; None: all of them."""
    width = max(len(prompt.token_ids) for prompt in prompts)
    token_GP = torch.full((len(prompts), width), end_id, device=device)
    real_GP = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for token_P, real_P, prompt in zip(token_GP, real_GP, prompts, strict=True):
        ids = torch.tensor(prompt.token_ids, device=device)
        token_P[width - len(ids) :] = ids
        real_P[width - len(ids) :] = 1
    return token_GP, None if bool(real_GP.all()) else real_GP
