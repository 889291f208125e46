"""The report stage: one self-contained HTML page about runs."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.evaluate import DEFAULT_TAU, MetricOptions, ReportConfig
from chemkl.display import Bar, counted, say, span
from chemkl.evaluation import evaluate, from_trace
from chemkl.evaluation.breakdown import family_rows
from chemkl.evaluation.comparison import COMPARISON_SCHEMA
from chemkl.evaluation.metrics import shown_in, window_at
from chemkl.evaluation.reference import Comparisons
from chemkl.evaluation.samples import Samples, read_samples
from chemkl.reports.page import Table, render_page
from chemkl.reports.view import COLUMNS, PageOptions, RunView
from chemkl.results import Manifest, find_trace, read_trace, trace_components, write_bytes
from chemkl.results.columns import RAW_PREFIX
from chemkl.results.outcome import collapse_config
from chemkl.results.trace import read_part
from chemkl.stages.registry import STAGES
from chemkl.stages.runner import Start
from chemkl.stages.runs import mixed, require_traces, run_names, trace_inputs

PAGE = "report.html"
LARGE = 6_000_000
"""Bytes above which a page is hard to send and slow to open."""
WINDOWS = 60
"""Points of a collapse curve."""


run = STAGES["report"].run


def work(config: ReportConfig, start: Start) -> None:
    """Write `report.html` about one or more runs."""
    began, page, metrics = time.monotonic(), start.out / PAGE, config.metrics
    folders = [*config.runs, *(run for runs in config.methods.values() for run in runs)]
    require_traces(folders)
    names = run_names(folders)
    numbers = iter(range(len(folders)))  # without methods every run is one
    groups = {name: [name] for name in names} if config.runs else config.methods
    methods = {name: list(islice(numbers, len(runs))) for name, runs in groups.items()}
    InputError.refuse(line for method in config.methods.items() for line in mixed(*method))
    comparison = _comparison(config.comparison, methods)
    inputs = trace_inputs(folders)
    if config.prior:
        inputs["prior"] = config.prior.path
    if config.comparison:
        inputs["comparison"] = config.comparison
    with start.claim(inputs, seed=metrics.seed) as manifest:
        threshold, source = _threshold(config, dict(zip(names, folders, strict=True)))
        prior = read_samples("prior", config.prior, metrics.workers) if config.prior else None
        views = []
        # this takes seconds for ten thousand molecules
        with Bar("evaluating the runs", len(folders)) as bar:
            for name, folder in zip(names, folders, strict=True):
                views.append(_view(name, folder, threshold, config, prior))
                bar.advance()
        options = replace(
            _options(config, threshold, prior),
            threshold_source=source,
            note=_note(views, threshold, metrics),
            comparison=comparison,
        )
        content = render_page(views, methods, _tables(views, threshold, metrics), options).encode()
        write_bytes(page, content)
        manifest.finish(results={"runs": names, "bytes": len(content)})
    size, seconds = len(content), time.monotonic() - began
    lines = [f"{page}: {size / 1e6:.1f} MB about {counted(len(views), 'run')}, {seconds:.0f} s"]
    if size > LARGE:
        lines.append(
            f"warning: more than {LARGE / 1e6:.0f} MB is slow to open and hard to send. Lower "
            "n_top, n_molecules, n_scaffolds or n_map, or show fewer runs."
        )
    start.console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _threshold(settings: ReportConfig, runs: Mapping[str, Path]) -> tuple[float, str]:
    """Return the threshold, and a sentence about its source unless the user gave it."""
    if settings.threshold is not None:
        return settings.threshold, ""
    of_runs: dict[float, list[str]] = {}
    for name, folder in runs.items():
        manifest = Manifest.load(folder)
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
    sentence = f"Hits are counted at R ≥ {value:g}, {why}; the setting threshold changes it."
    return value, sentence


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
    # no table shows a metric of the full distance matrix, which costs the most
    options = settings.metrics.model_copy(update={"max_matrix": 2})
    whole, hits = evaluate(samples, [threshold], options, Comparisons(prior=prior))
    late, first = options.late_samples, prior
    if first is None:  # the first valid samples replace the prior; no sample is early and late
        late = max(1, min(late, len(samples.valid) // 2))
        valid = samples.valid[:late]
        early = set(valid)
        molecules = [m for m in samples.molecules if m.smiles in early]
        first = Samples(samples.name, len(valid), valid, molecules, seeds=samples.seeds)
    # windows of the last valid samples, the first when the window is full
    n, width = len(samples.valid), collapse_config(plain).window
    ends = np.unique(np.linspace(min(width, n), n, WINDOWS).astype(int)) if n else np.empty(0, int)
    return RunView(
        name=name,
        trace=trace,
        manifest=plain,
        all_molecules=whole,
        hits=hits,
        windows=pd.DataFrame(
            [window_at(samples, end, width) for end in ends], index=pd.Index(ends, name="valid")
        ),
        families=family_rows(samples, first, late),
    )


def _options(settings: ReportConfig, threshold: float, prior: Samples | None) -> PageOptions:
    window = settings.metrics.late_samples
    start = (
        f"among its first {window:,} valid samples (or its first half, if it has less than twice "
        "as many), as no sample of the prior was given"
    )
    if prior is not None:
        start = f"in the sample of the prior ({len(prior.valid):,} valid)"
    names = ("title", "smoothing", "n_scaffolds", "n_molecules", "n_top", "n_map")
    return PageOptions(
        **{name: getattr(settings, name) for name in names},
        threshold=threshold,
        window=window,
        seed=settings.metrics.seed,
        start_of_families=start,
        prior=list(dict.fromkeys(prior.valid)) if prior else None,
        settings=settings.model_dump(
            mode="json", exclude={"runs", "methods", "prior", "comparison"}
        ),
    )


def _comparison(path: Path | None, methods: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of a compare stage."""
    if path is None:
        return []
    place = f"comparison: {path}"
    fix = "Give the comparison.parquet of a compare stage."
    rows: list[dict[str, Any]] = read_part(path, place=place, fix=fix).to_pylist()
    if rows and not set(COMPARISON_SCHEMA.names) <= rows[0].keys():
        names = ", ".join(rows[0])
        problem = f"is not the comparison.parquet of a compare stage: it has the columns {names}."
    else:
        compared = {row[key] for row in rows for key in ("method", "baseline")}
        if compared <= {*methods}:
            return rows
        problem = (
            f"compares {', '.join(sorted(compared))}; this page has the methods "
            f"{', '.join(methods)}. Give them the same names, under `methods`."
        )
    raise InputError(f"{place} {problem}")


# ---- the tables of the page


_COVERAGE = (
    "Share of the generic scaffolds of the prior's sample (of its hits, in the table of hits) that "
    "the set has as well."
)
"""Meaning of prior_coverage; its usual text refers to a column that the page lacks."""


def _tables(views: Sequence[RunView], threshold: float, options: MetricOptions) -> list[Table]:
    """Return the tables of the page: all molecules, along the run, and hits if there are any."""
    whole, hits = [view.all_molecules for view in views], [view.hits for view in views]
    titled = {
        "All distinct molecules": (["whole"], whole),
        "Along the run": (["late", "auc"], whole),
        f"Hits: R ≥ {threshold:g}": (["hits"], hits if any(r.get("yield") for r in hits) else []),
    }
    tables = []
    for title, (names, rows) in titled.items():
        metrics = [metric for name in names for metric in shown_in(name, options)]
        columns = [
            replace(m, meaning=_COVERAGE) if m.key == "prior_coverage" else m for m in metrics
        ]
        tables += [Table(title, columns, rows)] if rows else []
    return tables


def _note(views: Sequence[RunView], threshold: float, options: MetricOptions) -> str:
    """Say how the numbers were computed: fingerprint, picker, calls under the AUC."""
    over = [n for view in views if (n := view.all_molecules.get("auc_calls"))]
    calls = f"{span(over)} call{'s' * ({*over} != {1})}" if over else ""
    auc = f" AUC: over {calls}, as many as a run had." if over else ""
    has_hits = any(view.hits.get("yield") for view in views)
    return ("" if has_hits else f"No run has a hit: none with R ≥ {threshold:g}. ") + (
        "IntDiv: MOSES, p = 1; #Circles: LeaderPicker, Tanimoto distance > "
        f"{options.circles_distance:g}, in the order first scored; both on Morgan fingerprints of "
        "radius 2 and 1024 bits. Scaffolds: Bemis-Murcko, acyclic molecules left out. OB: oracle "
        "calls until the first, 10th and 100th hit. IntDiv is computed on at most "
        f"{options.max_molecules:,} molecules of a set. Late: the last {options.late_samples:,} "
        f"valid samples.{auc}"
    )
