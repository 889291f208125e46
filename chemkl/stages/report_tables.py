"""The tables of a report: which metrics they show, how each is written, and what it means."""

from collections.abc import Mapping, Sequence

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import metrics_schema
from chemkl.reports import Column, RunView, Table
from chemkl.reports.wording import span
from chemkl.results import description_of

_SHARED = {
    "murcko": ("scaffolds", ",d"),
    "generic": ("generic", ",d"),
    "effective_scaffolds": ("effective", ",.0f"),
    "top_share": ("top share", ".1%"),
    "int_div_moses_1": ("IntDiv", ".3f"),
    "circles": ("#Circles", ",d"),
    "prior_coverage": ("of prior", ".1%"),
}
_MEANINGS = {
    "prior_coverage": "Share of the generic scaffolds of the prior's sample (of its hits, in the "
    "table of hits) that the set has as well.",
}
"""Where the text of the column rests on that of another one, which the page does not show."""
_ALL = {
    "n_sampled": ("sampled", ",d"),
    "n_molecules": ("distinct", ",d"),
    "validity": ("valid", ".1%"),
    "uniqueness": ("unique", ".1%"),
    **_SHARED,
}
_ALONG = {
    "collapsed_at_call": ("collapsed at", ",d"),
    "auc_top_1": ("AUC top-1", ".3f"),
    "auc_top_10": ("AUC top-10", ".3f"),
    "auc_top_100": ("AUC top-100", ".3f"),
    "late_uniqueness": ("late unique", ".1%"),
    "late_scaffolds": ("late scaffolds", ",d"),
    "late_top_share": ("late top share", ".1%"),
}
_HITS = {
    "yield": ("Yield", ",d"),
    "ob1": ("OB1", ",d"),
    "ob10": ("OB10", ",d"),
    "ob100": ("OB100", ",d"),
    **_SHARED,
}


def tables(views: Sequence[RunView], threshold: float, options: MetricOptions) -> list[Table]:
    """The tables of the page: of all molecules, along the run, and of the hits if there are any."""
    whole, hits = [view.all_molecules for view in views], [view.hits for view in views]
    found = [
        Table("All distinct molecules", _columns(_ALL, options), whole),
        Table("Along the run", _columns(_ALONG, options), whole),
    ]
    if any(row.get("yield") for row in hits):
        title = f"Hits: R ≥ {threshold:g}"
        found.append(Table(title, _columns(_HITS, options), hits))
    return found


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


def _columns(shown: Mapping[str, tuple[str, str]], options: MetricOptions) -> Sequence[Column]:
    schema = metrics_schema(options)
    return [
        Column(key, label, how, _MEANINGS.get(key) or description_of(schema.field(key)))
        for key, (label, how) in shown.items()
    ]
