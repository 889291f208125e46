"""A forecast in plain sentences, doubts included."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chemkl.display import short
from chemkl.evaluation.crossovers import Crossover
from chemkl.evaluation.forecast import HitRate, Prediction

SHOWN_SCAFFOLD = 40
"""Longer SMILES are cut in sentences and tables; the files hold them whole."""
TOP = 0.01
"""Where no sample is a hit, the reward is named at which so large a share of the best begins."""
ALIKE = 1e-3
"""Effective sample sizes and hit shares that differ by a smaller share look the same in a table."""
MOVED = "!"
"""Marks a run that is not trained towards the target that is forecast for it."""


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
    if found.top_scaffold is None or found.effective_scaffolds is None:
        said = f"{subject} has no mass on any scaffold that was sampled."
    else:
        said = (
            f"{subject} puts {found.top_share:.1%} on one scaffold "
            f"({short(found.top_scaffold, SHOWN_SCAFFOLD)}); its effective number of scaffolds is "
            f"at least {number(found.effective_scaffolds)}, and {found.hit_share:.1%} of it are "
            f"hits (R >= {tau:.3g})."
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
        f"Not trustworthy: {number(ess)} of {n:,} samples carry the weight, so the top share is "
        f"likely too high and the number of scaffolds too low; {fix}."
    )


def hit_sentence(rate: HitRate, *, best: float, top: float) -> str:
    """Say how often the prior reaches tau.

    Args:
        rate: how often.
        best: the best reward among the samples.
        top: the reward at which the best of them begin, a share `TOP`.
    """
    interval = f"95 % interval {rate.low:.2%} to {rate.high:.2%}"
    if rate.rate == 0:
        return (
            f"No sample of the prior is a hit at R >= {rate.tau:.3g} ({interval}): the forecast "
            "cannot say what a target has on hits, and the rows of mara are those of gibbs, from "
            f"which it differs on hits alone. {_nearest(best, top)}"
        )
    return f"The prior hits R >= {rate.tau:.3g} with {rate.rate:.2%} of its samples ({interval})."


def _nearest(best: float, top: float) -> str:
    """Say how near the samples come, and which tau they can tell about."""
    if best == 0:
        return "The reward is 0 on every sample."
    seen = f"The best reward seen is {_down(best)}"
    if top == 0:
        return f"{seen}; fewer than {100 * TOP:g} % of the samples have a reward above 0."
    return f"{seen}, and the top {100 * TOP:g} % begins at {_down(top)}: take tau about there."


def _down(reward: float) -> str:
    """A reward with three digits, never rounded up: from there on there are samples."""
    step = 10.0 ** (math.floor(math.log10(reward)) - 2)
    return f"{math.floor(reward / step + 1e-6) * step:.3g}"


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


def alike_sentence(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say why rows of mara do not depend on sigma, where they do not.

    The weights of the hits among one another have no sigma in them, as long as the target gives all
    hits the same reward; only their weight beside the other molecules has. Nothing is said where no
    sample is a hit: there the rows are those of gibbs.
    """
    by_tau: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["target"] == "mara" and row["hit_rate"] > 0:
            by_tau.setdefault(row["tau"], []).append(row)
    alike = [
        f"{tau:.3g}"
        for tau, group in by_tau.items()
        if len(group) > 1
        and min(row["hit_share"] for row in group) > 1 - ALIKE
        and min(row["ess"] for row in group) > (1 - ALIKE) * max(row["ess"] for row in group)
    ]
    if not alike:
        return []
    return [
        f"At tau {', '.join(alike)} the mara rows of all sigmas agree but for the bonus: sigma "
        "sets how much the hits have beside all other molecules, not how they share it, and here "
        "they have all of it at every sigma."
    ]


def caveats(moved: Mapping[str, str]) -> Iterator[str]:
    """Say that a config will not train towards the target that is forecast, and why."""
    for why in moved.values():
        yield f"{why[0].upper()}{why[1:]}: training does not walk to the target that is forecast."


def run_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which of the runs beside the forecast were not trained towards their target, and why."""
    by_why: dict[str, dict[str, None]] = {}
    for row in rows:
        for why in row["moved"].values():
            by_why.setdefault(why, {})[row["run"]] = None
    return [
        f"{MOVED} {', '.join(names)}: {why}, so training did not walk to the target that is "
        "forecast beside it."
        for why, names in by_why.items()
    ]


def crossover_sentences(found: Sequence[Crossover]) -> Iterator[str]:
    """Say which crossovers are known well, and how many are not."""
    if not found:
        yield "No crossover among the main families: their order is the same at every beta."
    yield from (crossover_sentence(crossing) for crossing in found if crossing.trusted)
    unsure = sum(not crossing.trusted for crossing in found)
    if unsure:
        yield f"Crossovers that too few molecules tell: {unsure}; they are in the JSON file."


def crossover_sentence(found: Crossover) -> str:
    """Say which family overtakes which, and where: with the digits that its error leaves it."""
    error = found.sigma_error
    if error == 0:
        where = f"beta {found.beta:.3g} (sigma {found.sigma:.3g})"
    else:
        decimals = max(0, 1 - math.floor(math.log10(error)))
        sigma = f"sigma {found.sigma:.{decimals}f} +- {error:.{decimals}f}"
        where = f"beta {found.beta:.2g} ({sigma}; family ESS {number(found.ess)})"
    return (
        f"Below {where} {short(found.below, SHOWN_SCAFFOLD)} has more of the gibbs target than "
        f"{short(found.above, SHOWN_SCAFFOLD)}."
    )


def number(value: float) -> str:
    """An effective number without digits that mean nothing: whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
