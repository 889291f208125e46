"""Which methods collapsed, in sentences."""

from collections.abc import Iterator, Mapping, Sequence

from chemkl.config.posttrain import CollapseConfig
from chemkl.display import short
from chemkl.reports.late_samples import LateSamples
from chemkl.reports.wording import listed, percent, span


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
        few = [late for late in runs if late.collapsed is None]
        if few:
            whose = name if len(runs) == 1 else f"{len(few)} of {len(runs)} runs of {name}"
            needed = span([late.settings.window for late in few], "{:,}".format)
            yield (
                f"{whose}: too few valid samples ({span([f.n for f in few], '{:,}'.format)}; "
                f"{needed} are needed) to say whether it collapsed."
            )
    limits: dict[str, list[str]] = {}
    for name, lates in judged.items():
        for late in lates:
            limits.setdefault(_limits(late.settings), []).append(name)
    for meaning, names in limits.items():
        whose = f" for {listed(list(dict.fromkeys(names)))}" if len(limits) > 1 else ""
        yield f"Collapsed means here{whose}: {meaning}."


def _limits(settings: CollapseConfig) -> str:
    """What a run is judged by, in words."""
    told = []
    if settings.duplicate_rate is not None:
        told.append(f"at most {percent(1 - settings.duplicate_rate)} are distinct")
    named = f", where at least {percent(settings.with_scaffold)} have one"
    if settings.top_share is not None:
        told.append(f"at least {percent(settings.top_share)} of those with a scaffold share one")
    if settings.effective_scaffolds is not None:
        told.append(f"their effective scaffolds are {settings.effective_scaffolds:g} or fewer")
    about_scaffolds = settings.top_share is not None or settings.effective_scaffolds is not None
    return (
        f"of the newest {settings.window:,} valid samples, at some time in the run, "
        f"{', or '.join(told)}{named if about_scaffolds else ''}"
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
    calls = span([late.first.call for late in bad if late.first], "{:,}".format)
    n_over = sum(late.over for late in bad)
    over = "" if not n_over else "; over at the end"
    if over and len(bad) > 1:
        over += f" in {n_over} of them"
    n = span([late.n for late in bad], "{:,}".format)
    return (
        f"{who} at call {calls}{over}: of the last {n} valid samples "
        f"{span([late.distinct or 0.0 for late in bad], percent)} are distinct, and "
        f"{family}."
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
