"""What MARA adds to the logs of a TRL trainer: fixed names, scalars over the batch of all ranks.

Legend: B rows, the completions of a generation batch, prompt by prompt; N prompts; M completions of
a prompt.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from chemkl.llm.anchored import Anchored

METRICS = {
    "mara/reward_mean": "mean reward of the reward functions over the scored completions, without "
    "the bonus and without the KL; trl's own `reward` has the bonus in it",
    "mara/hit_rate": "share of the completions that are hits",
    "mara/groups_without_hits": "share of the prompts without a hit: plain KL-regularised RL there",
    "mara/anchor_rate": "share of the hits as likely as their anchor (to 1e-3 nats): those that "
    "nothing is added to; 1 says that all hits of a prompt are one completion",
    "mara/anchor_logp_ref": "mean over the prompts with a hit of log pi_ref of the anchor, nats",
    "mara/bonus_mean": "mean over the hits of what MARA adds to the reward",
    "mara/bonus_std": "its standard deviation over the hits: beside a reward of 1, not above it",
    "mara/bonus_max": "the largest one",
    "mara/unique_rate": "different token sequences among the completions of a prompt, as a share "
    "of them; mean over the prompts",
    "mara/hit_entropy": "entropy in nats of the token sequences that are hits, of each prompt, "
    "mean over the prompts with a hit; of n hits it is log n at most",
    "mara/truncated_rate": "share of the completions cut off before an end token: never a hit",
    "mara/unscored_rate": "share of the completions for which every reward function gave None or "
    "NaN: never a hit, and not learnt from",
}
"""What is logged beside trl's own metrics; a mean over nothing is NaN, which trl leaves out."""

_SAME_LOGP = 1e-3  # one sequence's log pi_ref varies by about 1e-5 nats with the batch it is in


def describe(
    anchored: Anchored,
    reward_B: Tensor,
    logp_ref_B: Tensor,
    complete_B: Tensor,
    completions: Sequence[Hashable],
    group_size: int,
) -> dict[str, float]:
    """Compute the metrics of a batch.

    Args:
        anchored: the rewards after MARA.
        reward_B: before it; NaN where nothing could be scored.
        logp_ref_B: under the reference.
        complete_B: False where the completion was cut off.
        completions: the token sequence of each row.
        group_size: M.
    """
    hit_B, bonus_B = anchored.hit, anchored.bonus
    hit_NM = hit_B.view(-1, group_size)
    anchor_B = anchored.anchor
    gap_B = anchored.anchor_logp_ref - logp_ref_B
    scored_B = ~reward_B.isnan()
    values = {
        "reward_mean": reward_B[scored_B].double().mean(),
        "hit_rate": hit_B.double().mean(),
        "groups_without_hits": (~hit_NM.any(dim=1)).double().mean(),
        "anchor_rate": (gap_B[hit_B] < _SAME_LOGP).double().mean(),
        "anchor_logp_ref": anchored.anchor_logp_ref[anchor_B].mean(),
        "bonus_mean": bonus_B[hit_B].mean(),
        "bonus_std": bonus_B[hit_B].std(correction=0) if bool(hit_B.any()) else torch.nan,
        "bonus_max": bonus_B[hit_B].max() if bool(hit_B.any()) else torch.nan,
        "truncated_rate": (~complete_B).double().mean(),
        "unscored_rate": (~scored_B).double().mean(),
    }
    named = {f"mara/{name}": float(value) for name, value in values.items()}
    return named | _diversity(completions, hit_B.tolist(), group_size)


def _diversity(
    completions: Sequence[Hashable], hits: Sequence[bool], group_size: int
) -> dict[str, float]:
    """How many different completions there are, prompt by prompt."""
    unique, entropies = [], []
    for start in range(0, len(completions), group_size):
        rows = range(start, start + group_size)
        unique.append(len({completions[row] for row in rows}) / group_size)
        counts = Counter(completions[row] for row in rows if hits[row])
        if counts:
            entropies.append(_entropy(list(counts.values())))
    return {"mara/unique_rate": _mean(unique), "mara/hit_entropy": _mean(entropies)}


def _entropy(counts: Sequence[int]) -> float:
    n = sum(counts)
    return max(0.0, -sum(count / n * math.log(count / n) for count in counts))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
