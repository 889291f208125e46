"""The summary of a report in sentences: collapses, hits, and the significance of differences."""

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
"""Shared seeds needed for a verdict on a difference."""
MANY = 4
"""With more methods, only those with the most and the fewest hits get a sentence."""
SAME_BUDGET = 1.01
"""Ratio of calls below which they count as equal, because the last batch is always finished."""


@dataclass(frozen=True)
class Facts:
    """The values of one run that the sentences use."""

    name: str
    seed: int | None
    status: str | None
    calls: int
    hits: int  # distinct molecules with R >= threshold
    scaffolds: int  # distinct non-empty scaffolds among them
    ob100: int | None  # call of the 100th hit; None if there are fewer
    # SMILES, reward and call of the best molecule, the first one if rewards are equal
    best: tuple[str, float, int] | None
    watch: Watch  # its collapses, and a window with the last valid samples
    idle: str  # why the target had no effect; empty if it had


def describe(
    runs: Sequence[RunView],
    threshold: float,
    methods: Mapping[str, Sequence[int]],
    comparison: Sequence[Row] = (),
) -> list[str]:
    """Summarise the runs in sentences.

    The first method is the baseline. From the rows of a compare stage, only the verdicts on Yield
    and scaffold yield at this threshold with at least 5 pairs are used.
    """
    facts = [gather(run, threshold) for run in runs]
    grouped = {name: [facts[i] for i in places] for name, places in methods.items() if places}
    if not grouped:
        return ["There are no runs."]
    return [
        *_collapse({name: [run.watch for run in group] for name, group in grouped.items()}),
        *(f"{run.name}: {run.idle}." for run in facts if run.idle),
        *_hits(grouped, threshold),
        *_best_molecule(facts),
        *_inequalities(facts),
        *_significance(grouped, threshold, comparison),
    ]


def gather(run: RunView, threshold: float) -> Facts:
    """Compute the values of a run."""
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


def _hits(methods: Mapping[str, Sequence[Facts]], threshold: float) -> Iterator[str]:
    """Describe the hits of each method, compared with the first one."""
    names = list(methods)
    baseline, base = names[0], methods[names[0]]
    if len(names) > MANY:
        ranked = sorted(names, key=lambda name: fmean(run.hits for run in methods[name]))
        yield (
            f"Of {len(names)} methods {ranked[-1]} has the most hits and {ranked[0]} the fewest; "
            "the tables show all methods."
        )
        names = [ranked[-1], ranked[0]]

    def ratio_to_baseline(runs: Sequence[Facts], noun: str) -> str:
        """Format the ratio to the baseline's mean; empty if either is 0."""
        mean, base_mean = (fmean(getattr(run, noun) for run in group) for group in (runs, base))
        ratio = mean / base_mean if mean and base_mean else 0
        text = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}"
        return f"{text} times the {noun}" if ratio else ""

    for name in names:
        sentence = _method_hits(name, methods[name], threshold)
        if methods[name] is not base and (hits := ratio_to_baseline(methods[name], "hits")):
            ratios = [hits, *filter(None, [ratio_to_baseline(methods[name], "scaffolds")])]
            sentence += f"; that is {' and '.join(ratios)} of {baseline}"
        yield f"{sentence}."


def _method_hits(name: str, runs: Sequence[Facts], threshold: float) -> str:
    def counts(numbers: Sequence[int], noun: str) -> str:
        """Format a count with its noun, for several runs as mean and range."""
        if len(numbers) == 1:
            return counted(numbers[0], noun)
        limits = "" if min(numbers) == max(numbers) else f" ({span(numbers)})"
        return f"{number(fmean(numbers))} {noun}s{limits}"

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


def _best_molecule(facts: Sequence[Facts]) -> Iterator[str]:
    """Name the best molecule of all runs, the one with the lowest call if rewards are equal."""
    best = [(run.name, *run.best) for run in facts if run.best is not None]
    if best:
        name, smiles, value, call = max(best, key=lambda molecule: (molecule[2], -molecule[3]))
        yield (
            f"The best molecule is {short(smiles)} with {_reward(value)}, found by {name} at call "
            f"{call:,}."
        )


def _inequalities(facts: Sequence[Facts]) -> Iterator[str]:
    """Warn of unfinished runs and of different numbers of calls, which affect every count."""
    unfinished = [f"{r.name} ({r.status})" for r in facts if r.status not in (None, "complete")]
    if unfinished:
        yield f"Not finished: {listed(unfinished)}; their numbers are those so far."
    calls = attrgetter("calls")
    least, most = min(facts, key=calls), max(facts, key=calls)
    if most.calls > SAME_BUDGET * least.calls:
        yield (
            f"The runs have different numbers of oracle calls: from {least.calls:,} ({least.name}) "
            f"to {most.calls:,} ({most.name}); more calls find more hits."
        )


def _significance(
    methods: Mapping[str, Sequence[Facts]], threshold: float, comparison: Sequence[Row]
) -> Iterator[str]:
    """Say whether the differences from the first method are significant."""
    baseline, *compared = methods
    if not compared:
        return
    seeds = {name: {run.seed for run in runs} - {None} for name, runs in methods.items()}

    def whether(names: Sequence[str]) -> str:
        differ = "differs" if len(names) == 1 else "differ"
        return f"Whether {listed(names)} {differ} from {baseline} by more than chance is not"

    shared = {name: len(seeds[baseline] & seeds[name]) for name in compared}
    few = {name: n for name, n in shared.items() if n < MIN_SEEDS}
    if few:
        yield (
            f"{whether(list(few))} resolved: {span(few.values())} "
            f"seed{'' if max(few.values()) == 1 else 's'} in common; chemkl compare tests this "
            f"with at least {MIN_SEEDS}."
        )
    sentences = [text for row in comparison if (text := _tested(row, baseline, threshold))]
    yield from sentences
    enough = [name for name in shared if name not in few]
    if enough and not sentences:
        n_shared = span(shared[name] for name in enough)
        yield (
            f"{whether(enough)} tested on this page: {n_shared} seeds in common; chemkl compare "
            "tests this."
        )


_METRICS = {"yield": "hits", "scaffold_yield": "scaffolds among its hits"}
_VERDICTS = {
    "better": "this is more than chance explains",
    "not shown": "the test does not show that it has more",
    "not resolved": "not resolved, as there is no variance",
}


def _tested(row: Row, baseline: str, threshold: float) -> str | None:
    """Describe one row of a comparison; None if it does not apply or has fewer than 5 pairs."""
    noun = _METRICS.get(row["metric"])
    applies = row["threshold"] == threshold and row["baseline"] == baseline
    if noun is None or not applies or row["n"] < MIN_SEEDS or row["difference"] is None:
        return None
    interval = "" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]"
    p = row["p_holm"]
    if p is not None:
        value = "below 0.001" if p < 0.001 else f"{p:.3f}"
        p = f" (one-sided Welch test, corrected p {value})"
    more = "more" if row["difference"] >= 0 else "fewer"
    return (
        f"Over {row['n']} shared seeds {row['method']} has {number(abs(row['difference']))} {more} "
        f"{noun} than {baseline}{interval}: {_VERDICTS[row['verdict']]}{p or ''}."
    )


def _reward(value: float) -> str:
    """Format a raw reward R, without a line break in it."""
    return f"R\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{value:.4g}"


# ---- collapse


def _collapse(methods: Mapping[str, Sequence[Watch]]) -> Iterator[str]:
    """Say which methods collapsed, at which call, which did not, and by which limits."""
    judged = {
        name: [watch for watch in runs if watch.collapsed is not None]
        for name, runs in methods.items()
    }
    collapsed = {n: [watch for watch in runs if watch.collapsed] for n, runs in judged.items()}
    for name, runs in collapsed.items():
        if runs:
            yield _collapsed(name, runs, len(judged[name]))
    intact = {name: runs for name, runs in judged.items() if runs and not collapsed[name]}
    if intact:
        lates = [_late(watch) for runs in intact.values() for watch in runs]
        yield _not_collapsed(list(intact), lates)
    for name, watches in methods.items():
        few = [watch for watch in watches if watch.collapsed is None]
        if few:
            subject = name if len(watches) == 1 else f"{len(few)} of {len(watches)} runs of {name}"
            yield (
                f"{subject}: too few valid samples to detect a collapse "
                f"({span(_late(watch).n for watch in few)}; "
                f"{span(watch.config.window for watch in few)} are needed)."
            )
    limits: dict[str, dict[str, None]] = {}
    for name, runs in judged.items():
        for watch in runs:
            limits.setdefault(_limits(watch.config), {})[name] = None
    for meaning, names in limits.items():
        subject = f" for {listed(list(names))}" if len(limits) > 1 else ""
        yield f"Collapsed means{subject}: {meaning}."


def _late(watch: Watch) -> Spread:
    """Describe the last valid samples, in the window of the run's collapse alarm."""
    return watch.alarm.window.spread(effective=False)


def _limits(settings: CollapseConfig) -> str:
    """Describe the limits of a run's collapse alarm."""
    limits = []
    if settings.duplicate_rate is not None:
        limits.append(f"at most {percent(1 - settings.duplicate_rate)} are distinct")
    where = ""
    if settings.top_share is not None or settings.effective_scaffolds is not None:
        where = f", where at least {percent(settings.with_scaffold)} have one"
    if settings.top_share is not None:
        limits.append(f"at least {percent(settings.top_share)} of those with a scaffold share one")
    if settings.effective_scaffolds is not None:
        limits.append(f"their effective scaffolds are {settings.effective_scaffolds:g} or fewer")
    return (
        f"of the newest {settings.window:,} valid samples, at some time in the run, "
        f"{', or '.join(limits)}{where}"
    )


def _collapsed(name: str, watches: Sequence[Watch], n_runs: int) -> str:
    subject = name if n_runs == 1 else f"{len(watches)} of {n_runs} runs of {name}"
    lates = [_late(watch) for watch in watches]
    shares = [late.top_share for late in lates if late.top_share is not None]
    family = "none has a scaffold"
    if shares:
        family = f"the largest scaffold holds {span(shares, percent)}"
        if len(watches) == 1:
            scaffold = short(watches[0].alarm.window.most_frequent())
            family = f"{percent(shares[0])} share the scaffold {scaffold}"
    n_recovered = sum(not watch.alarm.raised for watch in watches)
    recovered = " and recovered" if n_recovered else ""
    if recovered and len(watches) > 1:
        recovered = f"; {n_recovered} of them recovered"
    return (
        f"{subject} collapsed at call {span(watch.events[0].call for watch in watches)}"
        f"{recovered}: of the last {span(late.n for late in lates)} valid samples "
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
