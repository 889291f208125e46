"""The report stage: the traces of runs become one self-contained HTML page."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.evaluate import DEFAULT_TAU, MetricOptions, ReportConfig
from chemkl.display import Bar, say, span
from chemkl.evaluation import evaluate, from_trace
from chemkl.evaluation.comparison import COMPARISON_SCHEMA
from chemkl.evaluation.metrics import describe_window, shown_in
from chemkl.evaluation.over_time import family_rows
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.samples import Samples, read_samples
from chemkl.reports import PageOptions, RunView, Table, render_page
from chemkl.reports.view import COLUMNS
from chemkl.results import Manifest, find_trace, read_trace, trace_components, write_bytes
from chemkl.results.collapse import watched
from chemkl.results.columns import RAW_PREFIX
from chemkl.results.provenance import method_settings, mixed_settings
from chemkl.results.seal import check_seal
from chemkl.stages.evaluate import require_traces, run_names
from chemkl.stages.registry import STAGES
from chemkl.stages.runner import Start

PAGE = "report.html"
LARGE = 6_000_000
"""Bytes above which a page is awkward to send and slow to open."""
WINDOWS = 60
"""The collapse curves have a point for each of so many parts of a run."""


run = STAGES["report"].run


def work(config: ReportConfig, start: Start) -> None:
    """Write `report.html` about one or several runs."""
    began = time.monotonic()
    folders = [*config.runs, *(run for runs in config.methods.values() for run in runs)]
    require_traces(folders)
    page = start.out / PAGE
    names = run_names(folders)
    methods = _methods(config, names)
    _check_methods(config)
    comparison = _comparison(config.comparison, methods)
    with start.claim(_inputs(config, names, folders), seed=config.metrics.seed) as manifest:
        threshold, source = _threshold(config, dict(zip(names, folders, strict=True)))
        prior = _prior(config)
        views = []
        # some seconds for ten thousand molecules
        with Bar("evaluating the runs", len(folders)) as bar:
            for name, folder in zip(names, folders, strict=True):
                views.append(_view(name, folder, threshold, config, prior))
                bar.advance()
        options = replace(
            _options(config, threshold, prior),
            threshold_source=source,
            note=_note(views, threshold, config.metrics),
            comparison=comparison,
        )
        text = render_page(views, methods, _tables(views, threshold, config.metrics), options)
        written = text.encode()
        write_bytes(page, written)
        manifest.finish(results={"runs": names, "bytes": len(written)})
    for line in _lines(page, len(written), len(views), time.monotonic() - began):
        start.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _threshold(settings: ReportConfig, runs: Mapping[str, Path]) -> tuple[float, str]:
    """Find the threshold, and say in a sentence where it comes from where the user gave none."""
    if settings.threshold is not None:
        return settings.threshold, ""
    manifests = {name: Manifest.load(folder) for name, folder in runs.items()}
    of_runs: dict[float, list[str]] = {}
    for name, manifest in manifests.items():
        if manifest is not None and manifest.tau is not None:
            of_runs.setdefault(manifest.tau, []).append(name)
    value = max(of_runs, default=DEFAULT_TAU)
    if not of_runs:
        why = "as no run has a target with a fixed tau"
    elif len(of_runs) > 1:
        taus = "; ".join(f"{tau:g} in {', '.join(some)}" for tau, some in sorted(of_runs.items()))
        why = f"the highest tau of the runs: {taus}"
    elif len(of_runs[value]) == len(runs):
        why = "the tau of the runs" if len(runs) > 1 else "the tau of the run"
    else:
        why = f"the tau of {', '.join(of_runs[value])}; the other runs have none"
    sentence = f"Hits are counted at R ≥ {value:g}, {why}; the setting threshold takes another."
    return value, sentence


def _prior(settings: ReportConfig) -> Samples | None:
    if settings.prior is None:
        return None
    return read_samples("prior", settings.prior, settings.metrics.workers)


def _lines(page: Path, size: int, n_runs: int, seconds: float) -> Iterator[str]:
    """Say how large the page is, and what to lower where it is too large."""
    yield f"{page}: {size / 1e6:.1f} MB about {n_runs} run{'s' * (n_runs > 1)}, {seconds:.0f} s"
    if size > LARGE:
        yield (
            f"warning: more than {LARGE / 1e6:.0f} MB is slow to open and hard to send. Lower "
            "n_top, n_molecules, n_scaffolds or n_map, or show fewer runs."
        )


def _methods(settings: ReportConfig, names: Sequence[str]) -> dict[str, Sequence[int]]:
    """Which runs are whose: a run that no method was named for is a method of its own."""
    if settings.runs:
        return {name: [number] for number, name in enumerate(names)}
    first = 0
    methods: dict[str, Sequence[int]] = {}
    for name, runs in settings.methods.items():
        methods[name] = range(first, first + len(runs))
        first += len(runs)
    return methods


def _check_methods(settings: ReportConfig) -> None:
    """Look whether the runs of each method are of one method; runs without a manifest may be."""
    problems: list[str] = []
    for method, folders in settings.methods.items():
        found = {str(folder): Manifest.load(folder) for folder in folders}
        problems += mixed_settings(
            method, {n: method_settings(m.config, m.inputs) for n, m in found.items() if m}
        )
    InputError.refuse(problems)


def _view(
    name: str, folder: Path, threshold: float, settings: ReportConfig, prior: Samples | None
) -> RunView:
    schema = pq.read_schema(find_trace(folder)[0].path)
    raw = [f"{RAW_PREFIX}{component}" for component in trace_components(schema.names)]
    trace = read_trace(folder, [*COLUMNS, *raw])
    manifest = Manifest.load(folder)
    plain = manifest.model_dump(mode="json") if manifest else {}
    samples = from_trace(name, trace, settings.metrics.workers, manifest)
    if samples.note is not None:
        say(samples.note)
        trace = trace[~trace["canonical_smiles"].isin(samples.skipped)]
    # no table shows a metric over the whole matrix of distances, which would cost the most
    options = settings.metrics.model_copy(update={"max_matrix": 2})
    whole, hits = evaluate(samples, [threshold], options, Comparisons(prior=prior))
    late = options.late_samples
    if prior is None:  # no sample may count as early and late
        late = max(1, min(late, len(samples.valid) // 2))
    return RunView(
        name=name,
        trace=trace,
        manifest=plain,
        all_molecules=whole,
        hits=hits,
        windows=_windows(samples, watched(plain).window),
        families=family_rows(samples, prior or _beginning(samples, late), late),
    )


def _windows(samples: Samples, width: int) -> pd.DataFrame:
    """The last valid samples at points along the run, the first one when the window is full."""
    n = len(samples.valid)
    ends = np.unique(np.linspace(min(width, n), n, WINDOWS).astype(int)) if n else np.empty(0, int)
    scaffold_of = {molecule.smiles: molecule.scaffold for molecule in samples.molecules}
    rows = [describe_window(samples.valid[max(e - width, 0) : e], scaffold_of) for e in ends]
    return pd.DataFrame(rows, index=pd.Index(ends, name="valid"))


def _beginning(samples: Samples, n: int) -> Samples:
    """The first valid samples of a run, which stand for the prior where there is none."""
    valid = samples.valid[:n]
    first = set(valid)
    return Samples(
        samples.name, len(valid), valid, [m for m in samples.molecules if m.smiles in first]
    )


def _options(settings: ReportConfig, threshold: float, prior: Samples | None) -> PageOptions:
    window = settings.metrics.late_samples
    if prior is None:
        start = (
            f"among its first {window:,} valid samples (its halves are compared where it has not "
            "twice as many), as no sample of the prior was given"
        )
    else:
        start = f"in the sample of the prior ({len(prior.valid):,} valid)"
    shown = settings.model_dump(mode="json", exclude={"runs", "methods", "prior", "comparison"})
    return PageOptions(
        title=settings.title,
        threshold=threshold,
        window=window,
        smoothing=settings.smoothing,
        n_scaffolds=settings.n_scaffolds,
        n_molecules=settings.n_molecules,
        n_top=settings.n_top,
        n_map=settings.n_map,
        seed=settings.metrics.seed,
        start_of_families=start,
        prior=list(dict.fromkeys(prior.valid)) if prior else None,
        settings=shown,
    )


def _comparison(path: Path | None, methods: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a compare stage."""
    if path is None:
        return []
    check_seal(path)
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise InputError(
            f"comparison: {path} cannot be read as Parquet ({error}). Give the comparison.parquet "
            "of a compare stage."
        ) from error
    if rows and not set(COMPARISON_SCHEMA.names) <= rows[0].keys():
        raise InputError(
            f"comparison: {path} is not the comparison.parquet of a compare stage: it has the "
            f"columns {', '.join(rows[0])}."
        )
    compared = {row[key] for row in rows for key in ("method", "baseline")}
    if not compared <= set(methods):
        raise InputError(
            f"comparison: {path} compares {', '.join(sorted(compared))}; this page has the methods "
            f"{', '.join(methods)}. Call them the same, under `methods`."
        )
    return rows


def _inputs(
    settings: ReportConfig, names: Sequence[str], folders: Sequence[Path]
) -> dict[str, Path]:
    traces = {f"run {n}": folder / "trace" for n, folder in zip(names, folders, strict=True)}
    files = {
        "prior": settings.prior.path if settings.prior else None,
        "comparison": settings.comparison,
    }
    return traces | {role: path for role, path in files.items() if path is not None}


# ---- the tables of the page


_MEANINGS = {
    "prior_coverage": "Share of the generic scaffolds of the prior's sample (of its hits, in the "
    "table of hits) that the set has as well."
}
"""Where the text of the column rests on that of another one, which the page does not show."""


def _tables(views: Sequence[RunView], threshold: float, options: MetricOptions) -> list[Table]:
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


def _note(views: Sequence[RunView], threshold: float, options: MetricOptions) -> str:
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
