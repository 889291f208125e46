"""A report in plain sentences: what collapsed, what was found, and whether a difference is real."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from chemkl.display import short
from chemkl.reports.collapse_text import collapse_sentences
from chemkl.reports.comparison_text import Row, number
from chemkl.reports.late_samples import LateSamples, late_samples
from chemkl.reports.view import RunView
from chemkl.reports.wording import counted, listed, mean, p_value, reward, span, times
from chemkl.results.inspection import first_scorings
from chemkl.results.outcome import never_acted

MIN_SEEDS = 5
"""With fewer shared seeds no verdict is given on a difference."""
MANY = 4
"""Of more methods only those with the most and the fewest hits get a sentence of their own."""
SAME_BUDGET = 1.01
"""Budgets that differ by a smaller factor are not worth a sentence: a batch is finished."""


@dataclass(frozen=True)
class Facts:
    """What the sentences say of one run.

    Attributes:
        name: of the run.
        seed: of the run; None where its manifest has none.
        status: of the run; None without a manifest.
        calls: oracle calls that it spent.
        hits: distinct molecules with R >= threshold.
        scaffolds: distinct non-empty scaffolds among them.
        ob100: call of the 100th hit; None where there are fewer.
        best: SMILES, reward and call of its best molecule, the first at equal rewards.
        late: its last valid samples.
        idle: why its target changed nothing; empty where it did.
    """

    name: str
    seed: int | None
    status: str | None
    calls: int
    hits: int
    scaffolds: int
    ob100: int | None
    best: tuple[str, float, int] | None
    late: LateSamples
    idle: str


def describe(
    runs: Sequence[RunView],
    threshold: float,
    methods: Mapping[str, Sequence[int]],
    comparison: Sequence[Row] = (),
) -> list[str]:
    """Say what a chemist asks first, in sentences.

    Args:
        runs: of the report.
        threshold: hits are molecules with R of at least this.
        methods: name of a method to the positions of its runs; the first one is the baseline.
        comparison: rows of the compare stage, if there are any; only their verdicts on Yield and
            scaffold yield at this threshold are used, and those on fewer than 5 pairs are not.

    Returns:
        Plain text, one string for each sentence or pair of sentences.
    """
    facts = [gather(run, threshold) for run in runs]
    grouped = {name: [facts[i] for i in places] for name, places in methods.items() if places}
    if not grouped:
        return ["There is no run to describe."]
    return [
        *collapse_sentences({name: [run.late for run in group] for name, group in grouped.items()}),
        *(f"{run.name}: {run.idle}." for run in facts if run.idle),
        *_finds(grouped, threshold),
        *_best(facts),
        *_unequal(facts),
        *_reality(grouped, threshold, comparison),
    ]


def gather(run: RunView, threshold: float) -> Facts:
    """Take from a run what the sentences need."""
    hits, scored = first_scorings(run.trace, threshold), first_scorings(run.trace)
    known = scored[scored["reward"].notna()].sort_values("reward", ascending=False, kind="stable")
    best = known.iloc[0] if len(known) else None
    return Facts(
        name=run.name,
        seed=run.manifest.get("seed"),
        status=run.manifest.get("status"),
        calls=int(scored["call"].iloc[-1]) if len(scored) else 0,
        hits=len(hits),
        scaffolds=int(hits.loc[hits["scaffold"] != "", "scaffold"].nunique()),
        ob100=int(hits["call"].iloc[99]) if len(hits) >= 100 else None,
        best=None
        if best is None
        else (str(best["canonical_smiles"]), float(best["reward"]), int(best["call"])),
        late=late_samples(run.trace, run.manifest),
        idle=never_acted(run.trace, run.manifest.get("config", {}).get("target") or {}),
    )


def _finds(methods: Mapping[str, Sequence[Facts]], threshold: float) -> Iterator[str]:
    """What each method found, beside the first one."""
    names = list(methods)
    base = methods[names[0]]
    if len(names) > MANY:
        ranked = sorted(names, key=lambda name: mean([run.hits for run in methods[name]]))
        yield (
            f"Of {len(names)} methods {ranked[-1]} has the most hits and {ranked[0]} the fewest; "
            "the tables have them all."
        )
        names = [ranked[-1], ranked[0]]
    for name in names:
        beside = "" if methods[name] is base else _ratio(methods[name], base, next(iter(methods)))
        yield f"{_found(name, methods[name], threshold)}{beside}."


def _found(name: str, runs: Sequence[Facts], threshold: float) -> str:
    calls = span([run.calls for run in runs], "{:,}".format)
    if not any(run.best for run in runs):
        return f"{name} has no molecule with a reward"
    best = max(run.best[1] for run in runs if run.best)
    if not any(run.hits for run in runs):
        return (
            f"{name} found no hit (R ≥ {threshold:g}) in {calls} oracle calls; its best molecule "
            f"has {reward(best)}"
        )
    hits, scaffolds = [run.hits for run in runs], [run.scaffolds for run in runs]
    reached = [run.ob100 for run in runs if run.ob100 is not None]
    ob100 = f", the 100th after {span(reached, '{:,}'.format)}" if reached else ""
    if 0 < len(reached) < len(runs):
        ob100 += f" ({len(runs) - len(reached)} of {len(runs)} runs have fewer)"
    told = f"{name} found"
    if len(runs) > 1:
        told = f"{name} found, as a mean over {len(runs)} runs,"
    return (
        f"{told} {counted(hits, 'hit')} (R ≥ {threshold:g}) on "
        f"{counted(scaffolds, 'scaffold')} in {calls} oracle calls{ob100}; its best molecule "
        f"has {reward(best)}"
    )


def _ratio(runs: Sequence[Facts], base: Sequence[Facts], baseline: str) -> str:
    """How many times the hits and scaffolds of the baseline; nothing where either has none."""
    hits, scaffolds = (
        (mean([getattr(run, what) for run in runs]), mean([getattr(run, what) for run in base]))
        for what in ("hits", "scaffolds")
    )
    if not hits[0] or not hits[1]:
        return ""
    said = f"; that is {times(*hits)} the hits"
    if scaffolds[0] and scaffolds[1]:
        said += f" and {times(*scaffolds)} the scaffolds"
    return f"{said} of {baseline}"


def _best(facts: Sequence[Facts]) -> Iterator[str]:
    """The best molecule of all runs, by its SMILES; at equal rewards the one found first."""
    found = [(run, run.best) for run in facts if run.best is not None]
    if found:
        run, (smiles, value, call) = max(found, key=lambda one: (one[1][1], -one[1][2]))
        yield (
            f"The best molecule is {short(smiles)} with {reward(value)}, found by {run.name} "
            f"at call {call:,}."
        )


def _unequal(facts: Sequence[Facts]) -> Iterator[str]:
    """Runs that are not done, and budgets that differ: both change every count above."""
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
    (baseline, base), *others = methods.items()
    if not others:
        return
    shared = {name: len(_seeds(base) & _seeds(runs)) for name, runs in others}
    few = {name: n for name, n in shared.items() if n < MIN_SEEDS}
    if few:
        yield (
            f"Whether {listed(list(few))} {'differs' if len(few) == 1 else 'differ'} from "
            f"{baseline} by more than chance is not resolved: {span(list(few.values()), str)} "
            f"seed{'' if max(few.values()) == 1 else 's'} in common, and at least {MIN_SEEDS} are "
            "needed; then chemkl compare tests it."
        )
    tested = [said for row in comparison if (said := _tested(row, baseline, threshold))]
    yield from tested
    enough = [name for name in shared if name not in few]
    if enough and not tested:
        yield (
            f"Whether {listed(enough)} {'differs' if len(enough) == 1 else 'differ'} from "
            f"{baseline} by more than chance is not tested on this page: "
            f"{span([shared[name] for name in enough], str)} seeds in common; chemkl compare "
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
    p = (
        f" (one-sided Welch test, corrected p {p_value(row['p_holm'])})"
        if row["p_holm"] is not None
        else ""
    )
    more = "more" if row["difference"] >= 0 else "fewer"
    return (
        f"Over {row['n']} shared seeds {row['method']} has {number(abs(row['difference']))} {more} "
        f"{what} than {baseline}{interval}: {_VERDICTS[row['verdict']]}{p}."
    )


def _seeds(runs: Sequence[Facts]) -> set[int]:
    return {run.seed for run in runs if run.seed is not None}
