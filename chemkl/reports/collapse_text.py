"""Which methods collapsed, in sentences."""

from collections.abc import Iterator, Mapping, Sequence

from chemkl.reports.late_samples import (
    ENOUGH,
    LARGEST_SCAFFOLD,
    LEAST_DISTINCT,
    WINDOW,
    LateSamples,
)
from chemkl.reports.wording import listed, percent, span
from chemkl.results.cells import short


def collapse_sentences(methods: Mapping[str, Sequence[LateSamples]]) -> Iterator[str]:
    """Say which methods collapsed and since when, which did not, and what that means.

    Args:
        methods: name of a method to the last samples of each of its runs.
    """
    judged = {
        name: [late for late in runs if late.collapsed is not None]
        for name, runs in methods.items()
    }
    for name, lates in judged.items():
        bad = [late for late in lates if late.collapsed]
        if bad:
            yield _collapsed(name, bad, len(lates))
    good = {
        name: lates
        for name, lates in judged.items()
        if lates and not any(late.collapsed for late in lates)
    }
    if good:
        yield _not_collapsed(list(good), [late for lates in good.values() for late in lates])
    for name, runs in methods.items():
        few = [late.n for late in runs if late.collapsed is None]
        if few:
            whose = name if len(runs) == 1 else f"{len(few)} of {len(runs)} runs of {name}"
            yield (
                f"{whose}: too few valid samples ({span(few, '{:,}'.format)}; {ENOUGH} are "
                "needed) to say whether it collapsed."
            )
    if any(judged.values()):
        yield (
            f"Collapsed means here: of the last {WINDOW:,} valid samples (of all, where there are "
            f"fewer) at most {percent(LEAST_DISTINCT)} are distinct, or at least "
            f"{percent(LARGEST_SCAFFOLD)} of those with a scaffold share one, where at least half "
            "have one."
        )


def _collapsed(name: str, bad: Sequence[LateSamples], n_runs: int) -> str:
    who = f"{name} collapsed" if n_runs == 1 else f"{len(bad)} of {n_runs} runs of {name} collapsed"
    shares = [late.top_share for late in bad if late.top_share is not None]
    if not shares:
        family = "none has a scaffold"
    elif len(bad) == 1:
        family = f"{percent(shares[0])} share the scaffold {short(str(bad[0].scaffold))}"
    else:
        family = f"the largest scaffold holds {span(shares, percent)}"
    calls = [late.since for late in bad if late.since is not None]
    since = f"; it has been so since call {span(calls, '{:,}'.format)}" if calls else ""
    return (
        f"{who}: of the last {span([late.n for late in bad], '{:,}'.format)} valid samples "
        f"{span([late.distinct or 0.0 for late in bad], percent)} are distinct, and "
        f"{family}{since}."
    )


def _not_collapsed(names: Sequence[str], lates: Sequence[LateSamples]) -> str:
    least = percent(min(late.distinct or 0.0 for late in lates))
    largest = max(late.top_share or 0.0 for late in lates)
    at_least = "at least " if len(lates) > 1 else ""
    family = (
        f"no scaffold holds more than {percent(largest)} of those with one"
        if largest
        else "none has a scaffold"
    )
    return (
        f"{listed(names)} did not collapse: of the last "
        f"{span([late.n for late in lates], '{:,}'.format)} valid samples"
        f"{' of each run' if len(lates) > 1 else ''} {at_least}{least} are distinct, and {family}."
    )
