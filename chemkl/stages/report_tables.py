"""The tables of a report: which metrics they show, how each is written, and what it means."""

from collections.abc import Mapping, Sequence

from chemkl.config.evaluate import MetricOptions
from chemkl.config.report import ReportConfig
from chemkl.evaluation import metrics_schema
from chemkl.reports import Column, RunView, Table
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


def tables(views: Sequence[RunView], settings: ReportConfig) -> list[Table]:
    """The tables of the page: of all molecules, along the run, and of the hits."""
    whole, hits = [view.all_molecules for view in views], [view.hits for view in views]
    return [
        Table("All distinct molecules", _columns(_ALL, settings.metrics), whole),
        Table("Along the run", _columns(_ALONG, settings.metrics), whole),
        Table(f"Hits: R ≥ {settings.threshold:g}", _columns(_HITS, settings.metrics), hits),
    ]


def note(options: MetricOptions) -> str:
    """Fingerprint, bits and picker: what belongs beside every number."""
    return (
        "IntDiv: MOSES, p = 1; #Circles: LeaderPicker, Tanimoto distance > "
        f"{options.circles_distance:g}, in the order first scored; both on Morgan fingerprints of "
        "radius 2 and 1024 bits. Scaffolds: Bemis-Murcko, acyclic molecules left out. OB: oracle "
        "calls until the first, 10th and 100th hit. IntDiv is computed on at most "
        f"{options.max_molecules:,} molecules of a set. Late: the last {options.late_samples:,} "
        f"valid samples. AUC: over {options.auc_calls:,} calls."
    )


def _columns(shown: Mapping[str, tuple[str, str]], options: MetricOptions) -> Sequence[Column]:
    schema = metrics_schema(options)
    return [
        Column(key, label, how, _MEANINGS.get(key) or description_of(schema.field(key)))
        for key, (label, how) in shown.items()
    ]
