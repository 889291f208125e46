"""The page of a report: its sections with explanations, its tables and its provenance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import Any

from markupsafe import Markup

from chemkl import __version__
from chemkl.config.loading import dump
from chemkl.display import MISSING, Column, cell, is_missing, span
from chemkl.reports import curves
from chemkl.reports.figures import HOW_TO_READ_BANDS, Panel, colour, dash
from chemkl.reports.molecules import family_blocks, render_top_table, scaffold_blocks
from chemkl.reports.space_map import space_panels
from chemkl.reports.summary import describe
from chemkl.reports.view import Methods, PageOptions, RunView, template
from chemkl.results.inspection import valid_rows
from chemkl.results.outcome import collapse_config
from chemkl.results.provenance import ABSENT, differences

Section = dict[str, Any]
"""`id`, `title`, `intro` (how to read it), `kind` (the template that renders it), `missing` (why
there is nothing to show, else empty), and the values for the template."""

OFF = "Disabled in the settings of this report."
MORE_FAMILIES = 3
"""Families shown in addition to `n_scaffolds`, as they take less space than scaffolds."""


@dataclass(frozen=True)
class Table:
    """A table before formatting, with a row per run; empty columns are omitted."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def render_page(
    runs: Sequence[RunView], methods: Methods, tables: Sequence[Table], options: PageOptions
) -> str:
    """Render the report; equal inputs give equal text."""
    formatted = [table_cells(table, methods) for table in tables]
    swatches = [_swatch(number) for number in range(len(methods))]
    swatch_of = {
        m: swatches[number] for number, places in enumerate(methods.values()) for m in places
    }
    method_values = [
        {"name": name, "anchor": f"method-{k + 1}", "swatch": swatches[k], "n": len(members)}
        for k, (name, members) in enumerate(methods.items())
    ]
    run_values = [
        {
            "name": run.name,
            "swatch": swatch_of[number],
            "facts": facts(run),
            "config": dump(config) if (config := dict(run.manifest.get("config", {}))) else "",
            "versions": run.manifest.get("versions", {}),
        }
        for number, run in enumerate(runs)
    ]
    return template("report.html.j2").render(
        title=options.title,
        threshold=f"{options.threshold:g}",
        version=__version__,
        methods=method_values,
        runs=run_values,
        tables=formatted,
        definitions=list({c.key: c for table in formatted for c in table["columns"]}.values()),
        note=options.note,
        sections=sections(runs, methods, options),
        differences=different_settings(runs, methods),
        settings=dump(dict(options.settings)) if options.settings else "",
    )


def _swatch(number: int) -> Markup:
    """Draw a stroke in the colour and dash of a method, as in the panels."""
    dashes = {"-": "", "--": "5 2", ":": "1.5 2", "-.": "5 2 1.5 2"}[dash(number)]
    return Markup(
        '<svg class="swatch" width="22" height="10" aria-hidden="true"><line x1="1" y1="5" x2="21" '
        f'y2="5" stroke="{colour(number)}" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )


# ---- sections

_INTRODUCTIONS = {
    "summary": ("Summary", "The results below in words."),
    "tables": (
        "Tables",
        "Hover over a heading for its definition; all definitions are below the tables.",
    ),
    "learning": (
        "Learning curves",
        "Strong lines: centred running mean over {smoothing} steps{faint}.",
    ),
    "yield": (
        "Yield over oracle calls",
        "Top: steeper is better; a flat curve finds nothing new, and a curve that ends early "
        "belongs to a run that reached its limit of samples before that of calls. Bottom: the "
        "best rewards so far.",
    ),
    "collapse": (
        "Collapse",
        "Values in a moving window of valid samples, repeats included. A collapsing policy "
        "repeats itself (the left curve falls) or samples a single scaffold (the right curve "
        "rises). Beyond a dashed line, which is a limit of the run's collapse alarm, it counts as "
        "collapsed.",
    ),
    "rank": (
        "Hits by scaffold",
        "Left: a long, low curve means many scaffolds of similar size, a steep curve few scaffolds "
        "with most of the hits. Right: the cumulative share; lower is more even. Acyclic molecules "
        "are excluded.",
    ),
    "anchors": (
        "Reward against the prior",
        "A dot is a distinct molecule, at most {dots:,} per kind, chosen at random; all anchors "
        "are shown. Left: hits far to the left are good molecules that are unlikely under the "
        "prior. The histograms above show how the distribution moved: the first (grey) and the "
        "last (line) {window:,} valid samples of each run, or the halves of a shorter run. Right: "
        "on the dashed line (slope 1) the policy keeps the ratios of the prior among the hits, as "
        "a Gibbs target requires for equal rewards; on a flat line (slope 0) all hits are equally "
        "likely, as MARA requires. The solid line is the least-squares fit; a collapsed policy "
        "has a small slope too.",
    ),
    "families": (
        "Scaffold families",
        "A family is a generic scaffold: all atoms carbon, all bonds single. Ring: its share "
        "{start}; dot: its share among the last {window:,} valid samples of the run. Repeats "
        "count, samples without a family do not; values are means over the runs of a method. The "
        "families with the largest share at the start or the end are shown.",
    ),
    "map": (
        "Chemical space",
        "Similar molecules are close: the map shows which regions of the prior a method covers.",
    ),
    "scaffolds": (
        "Largest scaffolds",
        "The Bemis-Murcko scaffolds with the most hits (the most molecules if there is no hit), "
        "and their molecules with the highest R. The runs of a method are pooled, and each "
        "molecule counts once. Late share: of the last {window:,} valid samples of each run, "
        "repeats included.",
    ),
    "top": (
        "Top molecules",
        "Click a heading to sort; type to search by SMILES, scaffold or run.",
    ),
    "settings": (
        "Settings and provenance",
        "The settings, status and package versions of each run.",
    ),
}
"""Title and introduction of each section."""
_MEANS = " Rows are methods: the mean over the runs, with the standard deviation (n - 1) below it."


def sections(runs: Sequence[RunView], methods: Methods, options: PageOptions) -> list[Section]:
    """Make all sections in order, including those without data."""
    sizes = {len(places) for places in methods.values()}
    means, bands = (_MEANS, f" {HOW_TO_READ_BANDS}") if max(sizes, default=1) > 1 else ("", "")
    sentences = describe(runs, options.threshold, methods, options.comparison)
    sentences = [*filter(None, [options.threshold_source]), *sentences]
    missing = _missing(runs, options)
    values = {
        "smoothing": options.smoothing,
        "faint": "; faint lines: single steps" if 1 in sizes else "",
        "dots": curves.DOTS,
        "window": options.window,
        "start": options.start_of_families,
    }

    def section(name: str, kind: str, more: str = "", **content: Any) -> Section:
        title, intro = _INTRODUCTIONS[name]
        if name == "learning" and options.smoothing == 1:
            intro = "Values of single steps."
        if name == "learning" and missing["rank"] and not missing[name]:
            more = f" {missing['rank']}{more}"
        if name == "yield" and missing["rank"]:
            intro = f"{missing['rank']} The panels show the best rewards so far."
        head = {"id": name, "title": title, "kind": kind, "missing": missing.get(name, "")}
        return {**head, "intro": intro.format(**values) + more, **content}

    def panels(
        name: str, draw: Callable[[], Sequence[Panel]], more: str = "", columns: int = 2
    ) -> Section:
        """Make a section of panels, which are drawn only if there is data."""
        drawn = [] if missing[name] else draw()
        content = [{"title": p.title, "note": p.note, "svg": Markup(p.svg)} for p in drawn]
        return section(name, "panels", more, columns=columns, panels=content)

    threshold, window, seed = options.threshold, options.window, options.seed
    n_families = options.n_scaffolds + MORE_FAMILIES
    map_options = methods, options.prior, options.n_map, seed
    learning = partial(curves.learning_panels, runs, methods, threshold, options.smoothing)
    likelihoods = partial(curves.likelihood_panels, runs, methods, threshold, window, seed)
    top = None if missing["top"] else render_top_table(runs, threshold, options.n_top)
    families = family_blocks(runs, methods, n_families)
    scaffolds = scaffold_blocks(runs, methods, options)
    return [
        section("summary", "words", sentences=sentences),
        section("tables", "tables", means),
        panels("learning", learning, bands, columns=3),
        panels("yield", partial(curves.yield_panels, runs, methods, threshold), bands),
        panels("collapse", partial(curves.collapse_panels, runs, methods), bands),
        panels("rank", partial(curves.rank_panels, runs, methods, threshold), bands),
        panels("anchors", likelihoods),
        section("families", "families", blocks=families),
        panels("map", partial(space_panels, runs, threshold, *map_options), columns=3),
        section("scaffolds", "scaffolds", blocks=scaffolds),
        section("top", "markup", markup=top),
        section("settings", "settings"),
    ]


def _missing(runs: Sequence[RunView], options: PageOptions) -> dict[str, str]:
    """Say why a section has nothing to show; empty if it has something."""
    windows = [collapse_config(run.manifest).window for run in runs]
    has_window = any(len(valid_rows(run.trace)) >= n for run, n in zip(runs, windows, strict=True))
    no_sample = "" if any(len(run.trace) for run in runs) else "No run has a sample yet."
    no_molecule = "" if curves.any_hit(runs) else "No run has a valid molecule yet."
    no_hit = f"No run has a hit: none with R ≥ {options.threshold:g}."
    no_window = "valid samples, which the collapse alarm needs."
    no_family = "" if any(run.families for run in runs) else "No molecule has a ring."
    return {
        "learning": no_sample,
        "yield": no_molecule,
        "collapse": no_molecule
        or ("" if has_window else f"No run has {span(windows)} {no_window}"),
        "rank": "" if curves.any_hit(runs, options.threshold) else no_hit,
        "anchors": no_molecule,
        "families": no_family or ("" if options.n_scaffolds else OFF),
        "map": no_molecule or ("" if options.n_map else OFF),
        "scaffolds": no_molecule or ("" if options.n_scaffolds else OFF),
        "top": no_molecule or ("" if options.n_top else OFF),
    }


# ---- tables of metrics


def table_cells(table: Table, methods: Methods) -> dict[str, Any]:
    """Format a table: columns with values, and a row per method (`methods`) and run (`runs`)."""
    columns = [
        c for c in table.columns if any(not is_missing(row.get(c.key)) for row in table.rows)
    ]
    return {
        "title": table.title,
        "columns": columns,
        "methods": [
            [spread([table.rows[m].get(c.key) for m in members], str(c.how)) for c in columns]
            for members in methods.values()
        ],
        "runs": [[spread([row.get(c.key)], str(c.how)) for c in columns] for row in table.rows],
    }


def spread(values: Sequence[Any], how: str) -> dict[str, str]:
    """Format the mean of the defined values, their standard deviation (n - 1) and number.

    `sd` is empty below two values, `of` unless a value is missing.
    """
    numbers = [float(value) for value in values if not is_missing(value)]
    if len(values) == 1 or not numbers:
        return {"text": cell(values[0], how), "sd": "", "of": ""}
    average = mean(numbers)
    if how.endswith("d"):
        how = ",.0f" if abs(average) >= 100 else ",.1f"
    return {
        "text": format(average, how),
        "sd": f"± {format(stdev(numbers), how)}" if len(numbers) > 1 else "",
        "of": f"{len(numbers)} of {len(values)}" if len(numbers) < len(values) else "",
    }


# ---- provenance


def facts(run: RunView) -> list[tuple[str, str]]:
    """List the provenance of a run as (label, value); empty if the run has no manifest."""
    manifest = run.manifest
    if not manifest:
        return []
    started, finished = (  # to the minute, UTC
        str(manifest[key])[:16].replace("T", " ") if manifest.get(key) else MISSING
        for key in ("started", "finished")
    )
    status = " · ".join(str(v) for v in (manifest.get("status"), manifest.get("ended_by")) if v)
    seed = manifest.get("seed")
    results = {k: v for k, v in manifest.get("results", {}).items() if isinstance(v, int | float)}
    return [
        ("run", str(manifest.get("run_id", MISSING))),
        ("status", status or MISSING),
        ("seed", MISSING if seed is None else str(seed)),
        ("started", started),
        ("finished", finished),
        ("config hash", str(manifest.get("config_hash", MISSING))[:16]),
        *((name.replace("_", " "), f"{value:,.6g}") for name, value in results.items()),
    ]


def different_settings(runs: Sequence[RunView], methods: Methods) -> list[tuple[str, list[str]]]:
    """List settings that differ between runs, by dotted key, with the values of each method.

    Runs without a manifest are ignored.
    """
    configs = {str(n): run.manifest["config"] for n, run in enumerate(runs) if run.manifest}
    rows = []
    for key, values in sorted(differences(configs).items()):
        texts = {
            number: dump(value, one_line=True)
            for number, value in values.items()
            if value is not ABSENT
        }
        cells = [
            dict.fromkeys(texts.get(str(m), MISSING) for m in places) for places in methods.values()
        ]
        rows.append((key, [", ".join(column) for column in cells]))
    return rows
