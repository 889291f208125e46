"""The report stage: the traces of runs become one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chemkl.config.evaluate import MetricOptions
from chemkl.config.loading import load_config
from chemkl.config.report import ReportConfig
from chemkl.evaluation import evaluate, from_trace, metrics_schema
from chemkl.reports import Column, RunView, render_page
from chemkl.results import Manifest, description_of, read_trace, write_bytes
from chemkl.stages.evaluate import require_traces, run_names

PAGE = "report.html"
_SHARED = {
    "murcko": ("scaffolds", ",d"),
    "generic": ("generic", ",d"),
    "effective_scaffolds": ("effective", ",.0f"),
    "top_share": ("top share", ".1%"),
    "int_div_moses_1": ("IntDiv", ".3f"),
    "circles": ("#Circles", ",d"),
}
_ALL = {
    "n_sampled": ("sampled", ",d"),
    "n_molecules": ("distinct", ",d"),
    "validity": ("valid", ".1%"),
    "uniqueness": ("unique", ".1%"),
    **_SHARED,
}
_HITS = {
    "yield": ("Yield", ",d"),
    "ob1": ("OB1", ",d"),
    "ob10": ("OB10", ",d"),
    "ob100": ("OB100", ",d"),
    **_SHARED,
}


def run(config: Mapping[str, Any] | str | Path | ReportConfig, out_dir: str | Path) -> Path:
    """Write `report.html` about one or several runs.

    Args:
        config: the settings, as a mapping, a YAML file or a config.
        out_dir: the output folder.

    Returns:
        The path of the page.

    Raises:
        InputError: a setting or a trace cannot be used; the message names each.
    """
    settings = load_config(ReportConfig, config)
    require_traces(settings.runs)
    page = Path(out_dir) / PAGE
    names = run_names(settings.runs)
    with Manifest.start(
        out_dir,
        stage="report",
        config=settings.model_dump(mode="json"),
        seed=settings.metrics.seed,
        inputs={
            f"run {name}": folder / "trace"
            for name, folder in zip(names, settings.runs, strict=True)
        },
    ) as manifest:
        views = [
            _view(name, folder, settings) for name, folder in zip(names, settings.runs, strict=True)
        ]
        text = render_page(
            views,
            title=settings.title,
            threshold=settings.threshold,
            all_columns=_columns(_ALL, settings.metrics),
            hit_columns=_columns(_HITS, settings.metrics),
            note=_note(settings.metrics),
            n_molecules=settings.n_molecules,
            smoothing=settings.smoothing,
        )
        write_bytes(page, text.encode())
        manifest.finish(results={"runs": names, "bytes": len(text.encode())})
    return page


def _view(name: str, folder: Path, settings: ReportConfig) -> RunView:
    trace = read_trace(folder)
    whole, hits = evaluate(from_trace(name, trace), [settings.threshold], settings.metrics)
    manifest = Manifest.load(folder)
    return RunView(
        name=name,
        trace=trace,
        manifest=manifest.model_dump(mode="json") if manifest else {},
        all_molecules=whole,
        hits=hits,
    )


def _note(options: MetricOptions) -> str:
    """Fingerprint, bits and picker: what belongs beside every number."""
    return (
        "IntDiv: MOSES, p = 1; #Circles: LeaderPicker, Tanimoto distance > "
        f"{options.circles_distance:g}, in the order first scored; both on Morgan fingerprints of "
        "radius 2 and 1024 bits. Scaffolds: Bemis-Murcko, acyclic molecules left out. OB: oracle "
        "calls until the first, 10th and 100th hit. IntDiv is computed on at most "
        f"{options.max_molecules:,} molecules of a set."
    )


def _columns(shown: Mapping[str, tuple[str, str]], options: MetricOptions) -> Sequence[Column]:
    schema = metrics_schema(options)
    return [
        Column(key, label, how, description_of(schema.field(key)))
        for key, (label, how) in shown.items()
    ]
