"""A report in plain sentences: what collapsed, what was found, and whether a difference is real."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

from chemkl.config.posttrain import CollapseConfig
from chemkl.display import counted, listed, percent, short, span
from chemkl.reports.comparison import Row, number
from chemkl.reports.view import RunView
from chemkl.results.inspection import first_scorings
from chemkl.results.outcome import Spread, Watch, collapse_config, idle_reason

MIN_SEEDS = 5
"""With fewer shared seeds no verdict is given on a difference."""
MANY = 4
"""Of more methods only those with the most and the fewest hits get a sentence of their own."""
SAME_BUDGET = 1.01
"""Budgets that differ by a smaller factor are not worth a sentence: a batch is finished."""


@dataclass(frozen=True)
class Facts:
    """What the sentences say of one run."""

    name: str
    seed: int | None
    status: str | None
    calls: int
    hits: int  # distinct molecules with R >= threshold
    scaffolds: int  # distinct non-empty scaffolds among them
    ob100: int | None  # call of the 100th hit; None where there are fewer
    # SMILES, reward and call of its best molecule, the first at equal rewards
    best: tuple[str, float, int] | None
    watch: Watch  # whether it collapsed; its window holds the last valid samples
    idle: str  # why its target changed nothing; empty where it did


def describe(
    runs: Sequence[RunView],
    threshold: float,
    methods: Mapping[str, Sequence[int]],
    comparison: Sequence[Row] = (),
) -> list[str]:
    """Say what a chemist asks first, in sentences.

    The first method is the baseline. Of the rows of a compare stage only the verdicts on Yield and
    scaffold yield at this threshold are used, and those on fewer than 5 pairs are not.
    """
    facts = [gather(run, threshold) for run in runs]
    grouped = {name: [facts[i] for i in places] for name, places in methods.items() if places}
    if not grouped:
        return ["There is no run to describe."]
    return [
        *_collapse({name: [run.watch for run in group] for name, group in grouped.items()}),
        *(f"{run.name}: {run.idle}." for run in facts if run.idle),
        *_finds(grouped, threshold),
        *_best_and_unequal(facts),
        *_reality(grouped, threshold, comparison),
    ]


def gather(run: RunView, threshold: float) -> Facts:
    """Take from a run what the sentences need."""
    hits, scored = first_scorings(run.trace, threshold), first_scorings(run.trace)
    ranked = scored.dropna(subset="reward").sort_values("reward", ascending=False, kind="stable")
    top = ranked.head(1)
    best = zip(top["canonical_smiles"], top["reward"], top["call"], strict=True)
    watch = Watch(collapse_config(run.manifest))
    watch.add(run.trace)
    return Facts(
        name=run.name,
        seed=run.manifest.get("seed"),
        status=run.manifest.get("status"),
        calls=int(run.trace["call"].count()),
        hits=len(hits),
        scaffolds=int(hits.loc[hits["scaffold"] != "", "scaffold"].nunique()),
        ob100=int(hits["call"].iloc[99]) if len(hits) >= 100 else None,
        best=next(best, None),
        watch=watch,
        idle=idle_reason(run.trace, run.manifest.get("config", {})),
    )


def _finds(methods: Mapping[str, Sequence[Facts]], threshold: float) -> Iterator[str]:
    """What each method found, beside the first one."""
    names = list(methods)
    baseline, base = names[0], methods[names[0]]
    if len(names) > MANY:
        ranked = sorted(names, key=lambda name: fmean(run.hits for run in methods[name]))
        yield (
            f"Of {len(names)} methods {ranked[-1]} has the most hits and {ranked[0]} the fewest; "
            "the tables have them all."
        )
        names = [ranked[-1], ranked[0]]

    def times(runs: Sequence[Facts], what: str) -> str:
        """How many times the baseline's mean; empty where either is 0."""
        ours, theirs = (fmean(getattr(run, what) for run in group) for group in (runs, base))
        ratio = ours / theirs if ours and theirs else 0
        said = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}"
        return f"{said} times the {what}" if ratio else ""

    for name in names:
        said = _found(name, methods[name], threshold)
        if methods[name] is not base and (hits := times(methods[name], "hits")):
            ratios = [hits, *filter(None, [times(methods[name], "scaffolds")])]
            said += f"; that is {' and '.join(ratios)} of {baseline}"
        yield f"{said}."


def _found(name: str, runs: Sequence[Facts], threshold: float) -> str:
    def counts(numbers: Sequence[int], thing: str) -> str:
        """A count with its noun; of several runs the mean and the range."""
        if len(numbers) == 1:
            return counted(numbers[0], thing)
        low_to_high = "" if min(numbers) == max(numbers) else f" ({span(numbers)})"
        return f"{number(fmean(numbers))} {thing}s{low_to_high}"

    calls = f"in {span(run.calls for run in runs)} oracle calls"
    best = max((run.best[1] for run in runs if run.best), default=None)
    if best is None:
        return f"{name} has no molecule with a reward"
    its_best = f"; its best molecule has {_reward(best)}"
    if not any(run.hits for run in runs):
        return f"{name} found no hit (R ≥ {threshold:g}) {calls}{its_best}"
    reached = [run.ob100 for run in runs if run.ob100 is not None]
    ob100 = f", the 100th after {span(reached)}" if reached else ""
    if 0 < len(reached) < len(runs):
        ob100 += f" ({len(runs) - len(reached)} of {len(runs)} runs have fewer)"
    mean = f", as a mean over {len(runs)} runs," if len(runs) > 1 else ""
    return (
        f"{name} found{mean} {counts([run.hits for run in runs], 'hit')} (R ≥ {threshold:g}) on "
        f"{counts([run.scaffolds for run in runs], 'scaffold')} {calls}{ob100}{its_best}"
    )


def _best_and_unequal(facts: Sequence[Facts]) -> Iterator[str]:
    """The best molecule of all runs, at equal rewards the one found first; and what is unequal.

    Runs that are not done, and budgets that differ: both change every count.
    """
    best = [(run.name, *run.best) for run in facts if run.best is not None]
    if best:
        name, smiles, value, call = max(best, key=lambda one: (one[2], -one[3]))
        yield (
            f"The best molecule is {short(smiles)} with {_reward(value)}, found by {name} at call "
            f"{call:,}."
        )
    undone = [f"{run.name} ({run.status})" for run in facts if run.status not in (None, "complete")]
    if undone:
        yield f"Not finished: {listed(undone)}; their numbers are those so far."
    calls = attrgetter("calls")
    least, most = min(facts, key=calls), max(facts, key=calls)
    if most.calls > SAME_BUDGET * least.calls:
        yield (
            f"The runs did not spend the same: from {least.calls:,} oracle calls ({least.name}) to "
            f"{most.calls:,} ({most.name}); more calls find more hits."
        )


def _reality(
    methods: Mapping[str, Sequence[Facts]], threshold: float, comparison: Sequence[Row]
) -> Iterator[str]:
    """Whether the differences to the first method are more than chance."""
    baseline, *others = methods
    if not others:
        return
    seeds = {name: {run.seed for run in runs} - {None} for name, runs in methods.items()}

    def whether(names: Sequence[str]) -> str:
        differ = "differs" if len(names) == 1 else "differ"
        return f"Whether {listed(names)} {differ} from {baseline} by more than chance is not"

    shared = {name: len(seeds[baseline] & seeds[name]) for name in others}
    few = {name: n for name, n in shared.items() if n < MIN_SEEDS}
    if few:
        yield (
            f"{whether(list(few))} resolved: {span(few.values())} "
            f"seed{'' if max(few.values()) == 1 else 's'} in common, and at least {MIN_SEEDS} are "
            "needed; then chemkl compare tests it."
        )
    tested = [said for row in comparison if (said := _tested(row, baseline, threshold))]
    yield from tested
    enough = [name for name in shared if name not in few]
    if enough and not tested:
        n_shared = span(shared[name] for name in enough)
        yield (
            f"{whether(enough)} tested on this page: {n_shared} seeds in common; chemkl compare "
            "tests it."
        )


_METRICS = {"yield": "hits", "scaffold_yield": "scaffolds among its hits"}
_VERDICTS = {
    "better": "this is more than chance explains",
    "not shown": "that it has more is not shown",
    "not resolved": "not resolved, nothing varies",
}


def _tested(row: Row, baseline: str, threshold: float) -> str | None:
    """One row of a comparison in words; None for what is not asked here, and below 5 pairs."""
    what = _METRICS.get(row["metric"])
    asked = row["threshold"] == threshold and row["baseline"] == baseline
    if what is None or not asked or row["n"] < MIN_SEEDS or row["difference"] is None:
        return None
    interval = "" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]"
    p = row["p_holm"]
    if p is not None:
        written = "below 0.001" if p < 0.001 else f"{p:.3f}"
        p = f" (one-sided Welch test, corrected p {written})"
    more = "more" if row["difference"] >= 0 else "fewer"
    return (
        f"Over {row['n']} shared seeds {row['method']} has {number(abs(row['difference']))} {more} "
        f"{what} than {baseline}{interval}: {_VERDICTS[row['verdict']]}{p or ''}."
    )


def _reward(value: float) -> str:
    """A raw reward R; it is not broken in a line."""
    return f"R\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{value:.4g}"


# ---- collapse


def _collapse(methods: Mapping[str, Sequence[Watch]]) -> Iterator[str]:
    """Say which methods collapsed and since when, which did not, and what that means."""
    judged = {
        name: [watch for watch in runs if watch.collapsed is not None]
        for name, runs in methods.items()
    }
    bad = {name: [watch for watch in runs if watch.collapsed] for name, runs in judged.items()}
    for name, runs in bad.items():
        if runs:
            yield _collapsed(name, runs, len(judged[name]))
    good = {name: runs for name, runs in judged.items() if runs and not bad[name]}
    if good:
        yield _not_collapsed(list(good), [_late(watch) for runs in good.values() for watch in runs])
    for name, watches in methods.items():
        few = [watch for watch in watches if watch.collapsed is None]
        if few:
            whose = name if len(watches) == 1 else f"{len(few)} of {len(watches)} runs of {name}"
            yield (
                f"{whose}: too few valid samples ({span(_late(watch).n for watch in few)}; "
                f"{span(watch.config.window for watch in few)} are needed) to say whether it "
                "collapsed."
            )
    limits: dict[str, dict[str, None]] = {}
    for name, runs in judged.items():
        for watch in runs:
            limits.setdefault(_limits(watch.config), {})[name] = None
    for meaning, names in limits.items():
        whose = f" for {listed(list(names))}" if len(limits) > 1 else ""
        yield f"Collapsed means here{whose}: {meaning}."


def _late(watch: Watch) -> Spread:
    """How the last valid samples are spread, as many as the run's alarm looks at."""
    return watch.alarm.window.spread(effective=False)


def _limits(settings: CollapseConfig) -> str:
    """What a run is judged by, in words."""
    told = []
    if settings.duplicate_rate is not None:
        told.append(f"at most {percent(1 - settings.duplicate_rate)} are distinct")
    where = ""
    if settings.top_share is not None or settings.effective_scaffolds is not None:
        where = f", where at least {percent(settings.with_scaffold)} have one"
    if settings.top_share is not None:
        told.append(f"at least {percent(settings.top_share)} of those with a scaffold share one")
    if settings.effective_scaffolds is not None:
        told.append(f"their effective scaffolds are {settings.effective_scaffolds:g} or fewer")
    return (
        f"of the newest {settings.window:,} valid samples, at some time in the run, "
        f"{', or '.join(told)}{where}"
    )


def _collapsed(name: str, bad: Sequence[Watch], n_runs: int) -> str:
    who = name if n_runs == 1 else f"{len(bad)} of {n_runs} runs of {name}"
    lates = [_late(watch) for watch in bad]
    shares = [late.top_share for late in lates if late.top_share is not None]
    family = "none has a scaffold"
    if shares:
        family = f"the largest scaffold holds {span(shares, percent)}"
        if len(bad) == 1:
            scaffold = short(bad[0].alarm.window.most_frequent())
            family = f"{percent(shares[0])} share the scaffold {scaffold}"
    n_over = sum(not watch.alarm.raised for watch in bad)
    over = "; over at the end" if n_over else ""
    if over and len(bad) > 1:
        over += f" in {n_over} of them"
    return (
        f"{who} collapsed at call {span(watch.events[0].call for watch in bad)}{over}: of "
        f"the last {span(late.n for late in lates)} valid samples "
        f"{span((late.uniqueness or 0.0 for late in lates), percent)} are distinct, and {family}."
    )


def _not_collapsed(names: Sequence[str], lates: Sequence[Spread]) -> str:
    least = percent(min(late.uniqueness or 0.0 for late in lates))
    largest = max(late.top_share or 0.0 for late in lates)
    of_each, at_least = (" of each run", "at least ") if len(lates) > 1 else ("", "")
    family = "none has a scaffold"
    if largest:
        family = f"no scaffold holds more than {percent(largest)} of those with one"
    return (
        f"{listed(names)} did not collapse: of the last {span(late.n for late in lates)} valid "
        f"samples{of_each} {at_least}{least} are distinct, and {family}."
    )
