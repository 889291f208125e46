"""A forecast in plain sentences, doubts included."""

from collections.abc import Mapping, Sequence
from typing import Any

from chemkl.evaluation.crossovers import Crossover
from chemkl.evaluation.forecast import HitRate, Prediction

SHOWN_SCAFFOLD = 40
"""Longer SMILES are cut in sentences and tables; the files hold them whole."""


def target_sentence(
    kind: str, beta: float | None, tau: float, found: Prediction, n: int, *, trusted: bool
) -> str:
    """Say in one or two sentences what a target asks for.

    Args:
        kind: of the target.
        beta: of the target; None for the prior itself.
        tau: of the target, and what counts as a hit.
        found: the prediction.
        n: points that it comes from.
        trusted: whether enough of them carry the weight.
    """
    subject = _subject(kind, beta, tau)
    if found.top_scaffold is None:
        said = f"{subject} has no mass on any scaffold that was sampled."
    else:
        several = f"{found.effective_scaffolds:,.1f}".removesuffix(".0")
        said = (
            f"{subject} puts {found.top_share:.1%} on one scaffold "
            f"({short(found.top_scaffold)}); its effective number of scaffolds is at least "
            f"{several}, and {found.hit_share:.1%} of it are hits (R >= {tau:.3g})."
        )
    return said if trusted else f"{said} {doubt(kind, found.ess, n)}"


def _subject(kind: str, beta: float | None, tau: float) -> str:
    if beta is None:
        return "The prior"
    sigma = f"{1 / beta:.4g}"
    where = {"gibbs": f"At sigma {sigma}", "filter": f"At tau {tau:.3g}"}
    return f"{where.get(kind, f'At sigma {sigma} and tau {tau:.3g}')} the {kind} target"


def doubt(kind: str, ess: float, n: int) -> str:
    """Say that, why and in which direction a prediction is not to be trusted."""
    fix = (
        "MARA weighs each hit by 1 / pi_ref, over many nats, so that more samples help slowly; "
        "alpha below 1 or a cap in the target tame it"
        if kind == "mara"
        else "take more samples (n), or a smaller sigma"
    )
    return (
        f"Not trustworthy: {ess:,.1f} of {n:,} samples carry the weight, so the top share is "
        f"likely too high and the number of scaffolds too low; {fix}."
    )


def hit_sentence(rate: HitRate) -> str:
    """Say how often the prior reaches tau."""
    interval = f"95 % interval {rate.low:.2%} to {rate.high:.2%}"
    if rate.rate == 0:
        return (
            f"No sample of the prior is a hit at R >= {rate.tau:.3g} ({interval}): the forecast "
            "cannot say what a target has on hits, and mara is gibbs without them."
        )
    return f"The prior hits R >= {rate.tau:.3g} with {rate.rate:.2%} of its samples ({interval})."


def bonus_sentence(row: Mapping[str, Any]) -> list[str]:
    """Say how large MARA's bonus is beside the reward; nothing for a row without a bonus."""
    if row.get("bonus_mean") is None:
        return []
    said = (
        f"At sigma {row['sigma']:.4g} and tau {row['tau']:.3g} the MARA bonus on hits is "
        f"{row['bonus_mean']:.3f} +- {row['bonus_std']:.3f} (at most {row['bonus_largest']:.3f}), "
        f"beside a reward of standard deviation {row['reward_std']:.3f} and range "
        f"{row['reward_range']:.3f}"
    )
    return [f"{said}."]


def drowned_sentence(rows: Sequence[Mapping[str, Any]], tau: float) -> list[str]:
    """Say where MARA's bonus is larger than the reward can be; nothing where it is not."""
    sigmas = [
        f"{row['sigma']:.4g}"
        for row in rows
        if row["tau"] == tau
        and row.get("bonus_largest") is not None
        and row["bonus_largest"] > row["reward_range"]
    ]
    if not sigmas:
        return []
    listed = ", ".join(sigmas)
    return [f"At sigma {listed} the largest MARA bonus exceeds the whole range of the reward."]


def crossover_sentence(found: Crossover) -> str:
    """Say which family overtakes which, and where."""
    return (
        f"Below beta {found.beta:.3g} (sigma {found.sigma:.3g} +- {found.sigma_error:.2g}) "
        f"{short(found.below)} has more of the gibbs target than {short(found.above)}."
    )


def short(scaffold: str) -> str:
    """Cut a long SMILES in the middle."""
    if len(scaffold) <= SHOWN_SCAFFOLD:
        return scaffold
    half = (SHOWN_SCAFFOLD - 3) // 2
    return f"{scaffold[:half]}...{scaffold[-half:]}"
