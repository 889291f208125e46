"""The page: its sections in their order, how each is to be read, its tables, its provenance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from markupsafe import Markup

from chemkl import __version__
from chemkl.config.document import dump
from chemkl.display import MISSING, Column, cell, is_missing, span
from chemkl.reports.curves import (
    any_hit,
    collapse_panels,
    learning_panels,
    rank_panels,
    yield_panels,
)
from chemkl.reports.figures import HOW_TO_READ_BANDS, Panel, colour, dash
from chemkl.reports.likelihoods import DOTS, likelihood_panels
from chemkl.reports.molecules import family_blocks, render_top_table, scaffold_blocks
from chemkl.reports.space_map import space_panels
from chemkl.reports.summary import describe
from chemkl.reports.view import Methods, PageOptions, RunView, template, valid_rows
from chemkl.results.collapse import watched
from chemkl.results.provenance import ABSENT, differences

Section = dict[str, Any]
"""`id`, `title`, `read` (how to read it), `kind` (the part of the template that shows it),
`missing` (a sentence where there is nothing to show, else empty), and what that part needs."""

OFF = "Switched off in the settings of this report."
MORE_FAMILIES = 3
"""Families are lower on the page than scaffolds with their molecules: so many more are shown."""


@dataclass(frozen=True)
class Table:
    """A table before its cells are written, a row a run; empty columns are left out."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def render_page(
    runs: Sequence[RunView], methods: Methods, tables: Sequence[Table], options: PageOptions
) -> str:
    """Render the report; equal inputs give equal text."""
    shown = [table_cells(table, methods) for table in tables]
    method_of = {m: number for number, own in enumerate(methods.values()) for m in own}
    return template("report.html.j2").render(
        title=options.title,
        threshold=f"{options.threshold:g}",
        version=__version__,
        methods=[
            {
                "name": name,
                "anchor": f"method-{number + 1}",
                "swatch": _swatch(number),
                "n": len(members),
            }
            for number, (name, members) in enumerate(methods.items())
        ],
        runs=[
            {
                "name": run.name,
                "swatch": _swatch(method_of[number]),
                "facts": facts(run),
                "config": as_yaml(run.manifest.get("config", {})),
                "versions": run.manifest.get("versions", {}),
            }
            for number, run in enumerate(runs)
        ],
        tables=shown,
        definitions=list({c.key: c for table in shown for c in table["columns"]}.values()),
        note=options.note,
        sections=sections(runs, methods, options),
        differences=different_settings(runs, methods),
        settings=as_yaml(options.settings),
    )


def _swatch(number: int) -> Markup:
    """A stroke in the colour and dash of a method, as it is drawn in the panels."""
    dashes = {"-": "", "--": "5 2", ":": "1.5 2", "-.": "5 2 1.5 2"}[dash(number)]
    return Markup(
        '<svg class="swatch" width="22" height="10" aria-hidden="true"><line x1="1" y1="5" x2="21" '
        f'y2="5" stroke="{colour(number)}" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )


# ---- sections

_HOW_TO_READ = {
    "summary": "What the figures below come to, in words.",
    "tables": "Hover over a heading for its definition; all of them are written out at the end.",
    "yield": (
        "Above: steeper is better; a curve that flattens finds nothing new for its calls, and one "
        "that ends early belongs to a run that ran out of samples, not of calls. Below: the best "
        "rewards so far."
    ),
    "collapse": (
        "A window moves over the valid samples, repeats included. A policy that collapses repeats "
        "itself (the left curve falls) or keeps to one scaffold (the right one rises); beyond a "
        "dashed line, a limit of the run's own alarm, it counts as collapsed."
    ),
    "rank": (
        "Left: a long, low curve means many scaffolds of like size, a steep one a few that hold "
        "most hits. Right: the same summed up; the lower, the more even. Acyclic molecules are "
        "left out."
    ),
    "anchors": (
        "A dot is a distinct molecule, at most {dots:,} of a kind, drawn at random; every anchor "
        "is shown. Left: hits far to the left are good molecules that the prior finds unlikely. "
        "Above them, the first (grey) and the last (line) {window:,} valid samples of each run, or "
        "its halves where it is shorter: where the mass moved. Right: along the dashed line (slope "
        "1) the policy keeps the hits in the proportions of the prior, as a Gibbs target asks for "
        "equal rewards; on a flat line (slope 0) it makes them all alike, as MARA asks. The full "
        "line is the least-squares fit; a policy that has collapsed has a small slope as well."
    ),
    "families": (
        "A family is a generic scaffold: all atoms carbon, all bonds single. Ring: its share "
        "{start}; dot: its share among the last {window:,} valid samples of the run. Repeats "
        "count, samples without a family do not; a mean over the runs of the method. The families "
        "with the largest share at either end are shown."
    ),
    "map": "Molecules that are alike lie close; what a method covers, and what of the prior it "
    "left.",
    "scaffolds": (
        "The Bemis-Murcko scaffolds with most hits (with most molecules where there is no hit), "
        "and the molecules with the highest R on each. The runs of a method are taken together, "
        "each molecule once. Late share: of the last {window:,} valid samples of each run, repeats "
        "included."
    ),
    "top": "Click on a heading to sort by it; type to search by SMILES, scaffold or run.",
    "settings": "What each run was told to do, how it ended, and with which versions.",
}
"""What a reader sees above the figures of a section."""
_MEANS = (
    " A row is a method: the mean over its runs, and beneath it their standard deviation (n - 1)."
)
_TITLES = {
    "summary": "Summary",
    "tables": "Tables",
    "learning": "Learning curves",
    "yield": "Yield over oracle calls",
    "collapse": "Collapse",
    "rank": "Hits by scaffold",
    "anchors": "Reward against the prior",
    "families": "Scaffold families",
    "map": "Chemical space",
    "scaffolds": "Largest scaffolds",
    "top": "Top molecules",
    "settings": "Settings and provenance",
}


def sections(runs: Sequence[RunView], methods: Methods, options: PageOptions) -> list[Section]:
    """All sections in their order, whether they have data or not."""
    several = any(len(own) > 1 for own in methods.values())
    sentences = describe(runs, options.threshold, methods, options.comparison)
    if options.threshold_source:
        sentences.insert(0, options.threshold_source)
    no_molecule = "" if any_hit(runs) else "No run has a valid molecule yet."
    return [
        _section("summary", kind="words", sentences=sentences),
        _section("tables", more=_MEANS if several else "", kind="tables"),
        *_curves(runs, methods, options, no_molecule, f" {HOW_TO_READ_BANDS}" if several else ""),
        *_chemistry(runs, methods, options, no_molecule),
        _section("settings", kind="settings"),
    ]


def _curves(
    runs: Sequence[RunView], methods: Methods, options: PageOptions, no_molecule: str, bands: str
) -> list[Section]:
    """What happens along the runs, and how their hits spread; `bands` is behind every note."""
    threshold = options.threshold
    no_sample = "" if any(len(run.trace) for run in runs) else "No run has a sample yet."
    no_hit = "" if any_hit(runs, threshold) else f"No run has a hit: none with R ≥ {threshold:g}."
    no_hit_rate = f" {no_hit}" if no_hit and not no_sample else ""
    yields = f"{no_hit} The best rewards so far are all there is to show." if no_hit else None
    return [
        _panels(
            "learning",
            no_sample,
            lambda: learning_panels(runs, methods, threshold, options.smoothing),
            read=_smoothing(options.smoothing, methods) + no_hit_rate,
            more=bands,
            columns=3,
        ),
        _panels(
            "yield",
            no_molecule,
            lambda: yield_panels(runs, methods, threshold),
            read=yields,
            more=bands,
        ),
        _panels(
            "collapse",
            no_molecule or _no_window(runs),
            lambda: collapse_panels(runs, methods),
            more=bands,
        ),
        _panels("rank", no_hit, lambda: rank_panels(runs, methods, threshold), more=bands),
    ]


def _chemistry(
    runs: Sequence[RunView], methods: Methods, options: PageOptions, no_molecule: str
) -> list[Section]:
    """Which molecules they are, and where they lie."""
    threshold, window, seed = options.threshold, options.window, options.seed
    no_family = "" if any(run.families for run in runs) else "No molecule has a ring."
    n_families = options.n_scaffolds + MORE_FAMILIES
    top = Markup("")
    if options.n_top and not no_molecule:
        top = render_top_table(runs, threshold, options.n_top)
    return [
        _panels(
            "anchors",
            no_molecule,
            lambda: likelihood_panels(runs, methods, threshold, window, seed),
            dots=DOTS,
            window=window,
        ),
        _section(
            "families",
            no_family or _off(options.n_scaffolds),
            kind="families",
            blocks=family_blocks(runs, methods, n_families),
            start=options.start_of_families,
            window=window,
        ),
        _panels(
            "map",
            no_molecule or _off(options.n_map),
            lambda: space_panels(runs, threshold, methods, options.prior, options.n_map, seed),
            columns=3,
        ),
        _section(
            "scaffolds",
            no_molecule or _off(options.n_scaffolds),
            kind="scaffolds",
            blocks=scaffold_blocks(runs, methods, options),
            window=window,
        ),
        _section("top", no_molecule or _off(options.n_top), kind="markup", markup=top),
    ]


def _section(
    name: str, missing: str = "", *, read: str | None = None, more: str = "", **content: Any
) -> Section:
    """A section; `read` stands for its own way of how it is to be read, `more` behind it."""
    how = _HOW_TO_READ[name].format(**content) if read is None else read
    head = {"id": name, "title": _TITLES[name], "read": how + more, "missing": missing}
    return {**head, **content}


def _panels(
    name: str,
    missing: str,
    draw: Callable[[], Sequence[Panel]],
    *,
    columns: int = 2,
    **content: Any,
) -> Section:
    """A section of panels, so many in a row; they are drawn only where there is something."""
    panels = [] if missing else draw()
    shown = [{"title": p.title, "note": p.note, "svg": Markup(p.svg)} for p in panels]
    return _section(name, missing, kind="panels", columns=columns, panels=shown, **content)


def _smoothing(width: int, methods: Methods) -> str:
    """What the lines of the learning curves are, by the width of the running mean in steps."""
    if width == 1:
        return "Every step as it was."
    single = any(len(own) == 1 for own in methods.values())
    faint = "; faint lines: the steps themselves" if single else ""
    return f"Strong lines: centred running mean over {width} steps{faint}."


def _no_window(runs: Sequence[RunView]) -> str:
    """Say so where no run has as many valid samples as its alarm looks at."""
    windows = [watched(run.manifest).window for run in runs]
    if any(len(valid_rows(run.trace)) >= n for run, n in zip(runs, windows, strict=True)):
        return ""
    return (
        f"No run has {span(windows)} valid samples, as many as are looked at to judge a collapse."
    )


def _off(n: int) -> str:
    return "" if n else OFF


# ---- tables of metrics


def table_cells(table: Table, methods: Methods) -> dict[str, Any]:
    """Headings and cells: `methods`, a row each, and `runs`, a row each."""
    shown = [c for c in table.columns if any(not is_missing(row.get(c.key)) for row in table.rows)]
    return {
        "title": table.title,
        "columns": shown,
        "methods": [
            [spread([table.rows[m].get(c.key) for m in members], str(c.how)) for c in shown]
            for members in methods.values()
        ],
        "runs": [[spread([row.get(c.key)], str(c.how)) for c in shown] for row in table.rows],
    }


def spread(values: Sequence[Any], how: str) -> dict[str, str]:
    """Mean of the values that there are, their standard deviation (n - 1), and how many they are.

    Returns:
        `text`; `sd`, empty below two values; `of`, empty unless a value is missing.
    """
    numbers = [float(value) for value in values if not is_missing(value)]
    if len(values) == 1:
        return {"text": cell(values[0], how), "sd": "", "of": ""}
    if not numbers:
        return {"text": MISSING, "sd": "", "of": ""}
    middle = mean(numbers)
    if how.endswith("d"):
        how = ",.0f" if abs(middle) >= 100 else ",.1f"
    return {
        "text": format(middle, how),
        "sd": f"± {format(stdev(numbers), how)}" if len(numbers) > 1 else "",
        "of": f"{len(numbers)} of {len(values)}" if len(numbers) < len(values) else "",
    }


# ---- provenance


def facts(run: RunView) -> list[tuple[str, str]]:
    """Provenance of a run as label and value; empty where the run has no manifest."""
    manifest = run.manifest
    if not manifest:
        return []
    started, finished = (  # without seconds and zone; in UTC
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
    """Settings that are not the same in all runs, by dotted key, with each method's values.

    A run without a manifest has no settings and takes no part.
    """
    configs = {str(n): run.manifest["config"] for n, run in enumerate(runs) if run.manifest}
    return [
        (
            key,
            [
                ", ".join(dict.fromkeys(_shown(values.get(str(m), ABSENT)) for m in own))
                for own in methods.values()
            ],
        )
        for key, values in sorted(differences(configs).items())
    ]


def as_yaml(config: Mapping[str, Any]) -> str:
    """Settings as YAML; empty where there are none."""
    return dump(dict(config)) if config else ""


def _shown(value: Any) -> str:
    """A value as YAML on one line; a dash where there is none."""
    if value is ABSENT:
        return MISSING
    return dump(value, one_line=True)
