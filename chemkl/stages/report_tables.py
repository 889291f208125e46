"""The tables of a report: which metrics they show, how each is written, and what it means."""

from collections.abc import Sequence
from dataclasses import replace

from chemkl.config.evaluate import MetricOptions
from chemkl.display import span
from chemkl.evaluation.metrics import shown_in
from chemkl.reports import RunView, Table

_MEANINGS = {
    "prior_coverage": "Share of the generic scaffolds of the prior's sample (of its hits, in the "
    "table of hits) that the set has as well.",
}
"""Where the text of the column rests on that of another one, which the page does not show."""


def tables(views: Sequence[RunView], threshold: float, options: MetricOptions) -> list[Table]:
    """The tables of the page: of all molecules, along the run, and of the hits if there are any."""
    whole, hits = [view.all_molecules for view in views], [view.hits for view in views]
    titled = {
        "All distinct molecules": (["whole"], whole),
        "Along the run": (["late", "auc"], whole),
        f"Hits: R ≥ {threshold:g}": (["hits"], hits if any(r.get("yield") for r in hits) else []),
    }
    return [
        Table(
            title,
            [
                replace(metric, meaning=_MEANINGS.get(metric.key, metric.meaning))
                for name in names
                for metric in shown_in(name, options)
            ],
            rows,
        )
        for title, (names, rows) in titled.items()
        if rows
    ]


def note(views: Sequence[RunView], threshold: float, options: MetricOptions) -> str:
    """Fingerprint, bits and picker, what AUC is over: what belongs beside every number."""
    over = [row["auc_calls"] for row in (v.all_molecules for v in views) if row.get("auc_calls")]
    calls = f"{span(over, '{:,}'.format)} call{'s' * ({*over} != {1})}" if over else ""
    auc = f" AUC: over {calls}, as many as a run had." if over else ""
    no_hit = (
        f"No run has a hit: none with R ≥ {threshold:g}. "
        if not any(view.hits.get("yield") for view in views)
        else ""
    )
    return no_hit + (
        "IntDiv: MOSES, p = 1; #Circles: LeaderPicker, Tanimoto distance > "
        f"{options.circles_distance:g}, in the order first scored; both on Morgan fingerprints of "
        "radius 2 and 1024 bits. Scaffolds: Bemis-Murcko, acyclic molecules left out. OB: oracle "
        "calls until the first, 10th and 100th hit. IntDiv is computed on at most "
        f"{options.max_molecules:,} molecules of a set. Late: the last {options.late_samples:,} "
        f"valid samples.{auc}"
    )
