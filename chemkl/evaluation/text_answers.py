"""Statistics of answers: of sampled ones, and of the exact distribution over the bare ones."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd


def sampled_answers(answers: Sequence[str | None]) -> dict[str, Any]:
    """Describe the answers sampled to one prompt.

    Args:
        answers: of every sample in order; None: it holds no valid answer.

    Returns:
        validity; distinct_answers; answer_entropy in nats, of the shares among the valid ones;
        effective_answers, exp of it; answer_top_share. Without a valid answer: 0 distinct ones, and
        None for what is then not defined.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    shares = [count / counts.total() for count in counts.values()]
    entropy = entropy_of(shares)
    return {
        "validity": counts.total() / len(answers) if answers else None,
        "distinct_answers": len(counts),
        "answer_entropy": entropy,
        "effective_answers": None if entropy is None else math.exp(entropy),
        "answer_top_share": max(shares, default=None),
    }


def entropy_of(shares: Iterable[float]) -> float | None:
    """-sum p ln p in nats; shares of 0 add nothing; None without a share."""
    positive = [share for share in shares if share > 0]
    if not positive:
        return None
    return max(0.0, -sum(share * math.log(share) for share in positive))


def exact_entropies(exact: pd.DataFrame) -> pd.DataFrame:
    """The exact distribution over the recorded answers, at every such step, for every prompt.

    With p the policy's probabilities of the K answers, each the whole completion in the tokenizer's
    own cut, m = sum p their mass and q = p / m,
    and likewise q_ref of the reference: entropy = -sum q ln q, kl_from_ref = sum q ln (q / q_ref).
    All in nats.

    Args:
        exact: rows of step, prompt, answer, logp_policy and logp_ref (nats, end token included).

    Returns:
        A row for each prompt and step: k, ln_k, entropy, entropy_ref, mass, mass_ref, kl_from_ref,
        top_share. Missing where the answers have no probability at all.
    """
    rows = [
        {"prompt": place[0], "step": place[1], **_of_one_step(own)}
        for place, own in exact.groupby(["prompt", "step"])
    ]
    table = pd.DataFrame(rows).sort_values(["step", "prompt"], ignore_index=True)
    return table.astype(dict.fromkeys(table.columns.difference(["step", "prompt"]), float))


def _of_one_step(rows: pd.DataFrame) -> dict[str, Any]:
    mass, log_q = _normalised(rows["logp_policy"])
    mass_ref, log_ref = _normalised(rows["logp_ref"])
    q = np.exp(log_q)
    there = q > 0
    with np.errstate(invalid="ignore"):  # -inf - -inf where neither has any mass
        kl = float((q[there] * (log_q[there] - log_ref[there])).sum()) if mass > 0 else None
    return {
        "k": len(rows),
        "ln_k": math.log(len(rows)),
        "entropy": entropy_of(q) if mass > 0 else None,
        "entropy_ref": entropy_of(np.exp(log_ref)) if mass_ref > 0 else None,
        "mass": mass,
        "mass_ref": mass_ref,
        "kl_from_ref": None if kl is None or not math.isfinite(kl) else max(0.0, kl),
        "top_share": float(q.max()) if mass > 0 else None,
    }


def _normalised(logp: pd.Series) -> tuple[float, np.ndarray]:
    """The sum of the probabilities, and the logarithms after dividing by it."""
    values = logp.to_numpy(dtype=np.float64)
    highest = values.max()
    if not math.isfinite(highest):
        return 0.0, np.full(len(values), -np.inf)
    log_mass = highest + math.log(np.exp(values - highest).sum())
    return math.exp(log_mass), values - log_mass


def over_prompts(steps: pd.DataFrame) -> pd.DataFrame:
    """The mean over the prompts at every step, which is what a figure shows."""
    means: pd.DataFrame = steps.drop(columns="prompt").groupby("step", as_index=False).mean()
    return means
