"""The sections of a report in their order: heading, how to read it, and what is in it."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from chemkl.reports import bands, how_to_read
from chemkl.reports.curves import Methods, collapse_panels, learning_panels, yield_panels
from chemkl.reports.families import family_blocks
from chemkl.reports.figures import Panel
from chemkl.reports.likelihoods import DOTS, likelihood_panels
from chemkl.reports.page_options import PageOptions
from chemkl.reports.ranks import rank_panels
from chemkl.reports.scaffold_grid import scaffold_blocks
from chemkl.reports.space_map import space_panels
from chemkl.reports.summary import describe
from chemkl.reports.top_table import render_top_table
from chemkl.reports.view import RunView, valid_rows
from chemkl.reports.wording import span
from chemkl.results.collapse import watched
from chemkl.results.inspection import first_scorings

Section = dict[str, Any]
"""`id`, `title`, `read` (how to read it), `kind` (the part of the template that shows it),
`missing` (a sentence where there is nothing to show, else empty), and what that part needs."""

OFF = "Switched off in the settings of this report."
MORE_FAMILIES = 3
"""Families are lower on the page than scaffolds with their molecules: so many more are shown."""


def of_page(runs: Sequence[RunView], methods: Methods, options: PageOptions) -> list[Section]:
    """All sections, whether they have data or not."""
    several = any(len(own) > 1 for own in methods.values())
    return [
        _section(
            "summary",
            "Summary",
            how_to_read.SUMMARY,
            kind="words",
            sentences=[
                *filter(None, [options.threshold_source]),
                *describe(runs, options.threshold, methods, options.comparison),
            ],
        ),
        _section(
            "tables",
            "Tables",
            how_to_read.TABLES + (how_to_read.MEANS if several else ""),
            kind="tables",
        ),
        *_curves(runs, methods, options, f" {bands.NOTE}" if several else ""),
        *_chemistry(runs, methods, options),
        _section("settings", "Settings and provenance", how_to_read.SETTINGS, kind="settings"),
    ]


def _curves(
    runs: Sequence[RunView], methods: Methods, options: PageOptions, spread: str
) -> list[Section]:
    """What happened along the runs, and how their hits spread; `spread` explains the bands."""
    threshold = options.threshold
    no_sample = "" if any(len(run.trace) for run in runs) else "No run has a sample yet."
    no_molecule = _no_molecule(runs)
    no_hit = "" if _some(runs, threshold) else how_to_read.NO_HIT.format(threshold=threshold)
    single = any(len(own) == 1 for own in methods.values())
    no_hit_rate = f" {no_hit}" if no_hit and not no_sample else ""
    return [
        _panels(
            "learning",
            "Learning curves",
            how_to_read.smoothing(options.smoothing, single=single) + no_hit_rate + spread,
            no_sample,
            lambda: learning_panels(runs, methods, threshold, options.smoothing),
            columns=3,
        ),
        _panels(
            "yield",
            "Yield over oracle calls",
            (f"{no_hit} {how_to_read.BEST}" if no_hit else how_to_read.YIELD) + spread,
            no_molecule,
            lambda: yield_panels(runs, methods, threshold),
        ),
        _panels(
            "collapse",
            "Collapse",
            how_to_read.COLLAPSE + spread,
            no_molecule or _no_window(runs),
            lambda: collapse_panels(runs, methods),
        ),
        _panels(
            "rank",
            "Hits by scaffold",
            how_to_read.RANK + spread,
            no_hit,
            lambda: rank_panels(runs, methods, threshold),
        ),
    ]


def _chemistry(runs: Sequence[RunView], methods: Methods, options: PageOptions) -> list[Section]:
    """Which molecules they are, and where they lie."""
    threshold, window = options.threshold, options.window
    no_molecule = _no_molecule(runs)
    no_family = "" if any(run.families for run in runs) else "No molecule has a ring."
    return [
        _panels(
            "anchors",
            "Reward against the prior",
            how_to_read.ANCHORS.format(dots=DOTS, window=window),
            no_molecule,
            lambda: likelihood_panels(runs, methods, threshold, window, options.seed),
        ),
        _section(
            "families",
            "Scaffold families",
            how_to_read.FAMILIES.format(start=options.start_of_families, window=window),
            no_family or _off(options.n_scaffolds),
            kind="families",
            blocks=family_blocks(runs, methods, options.n_scaffolds + MORE_FAMILIES),
        ),
        _panels(
            "map",
            "Chemical space",
            how_to_read.MAP,
            no_molecule or _off(options.n_map),
            lambda: space_panels(
                runs, threshold, methods, options.prior, options.n_map, options.seed
            ),
            columns=3,
        ),
        _section(
            "scaffolds",
            "Largest scaffolds",
            how_to_read.SCAFFOLDS.format(window=window),
            no_molecule or _off(options.n_scaffolds),
            kind="scaffolds",
            blocks=scaffold_blocks(runs, methods, options),
        ),
        _section(
            "top",
            "Top molecules",
            how_to_read.TOP,
            no_molecule or _off(options.n_top),
            kind="markup",
            markup=Markup("")
            if no_molecule or not options.n_top
            else render_top_table(runs, threshold, options.n_top),
        ),
    ]


def _section(
    name: str, title: str, read: str, missing: str = "", *, kind: str, **content: Any
) -> Section:
    return {"id": name, "title": title, "read": read, "missing": missing, "kind": kind, **content}


def _panels(
    name: str,
    title: str,
    read: str,
    missing: str,
    draw: Callable[[], Sequence[Panel]],
    *,
    columns: int = 2,
) -> Section:
    """A section of panels, so many in a row; they are drawn only where there is something."""
    panels = [] if missing else draw()
    shown = [{"title": p.title, "note": p.note, "svg": Markup(p.svg)} for p in panels]
    return _section(name, title, read, missing, kind="panels", columns=columns, panels=shown)


def _some(runs: Sequence[RunView], threshold: float | None = None) -> bool:
    """Whether any run has a molecule, or a hit."""
    return any(len(first_scorings(run.trace, threshold)) for run in runs)


def _no_molecule(runs: Sequence[RunView]) -> str:
    return "" if _some(runs) else "No run has a valid molecule yet."


def _no_window(runs: Sequence[RunView]) -> str:
    """Say so where no run has as many valid samples as its alarm looks at."""
    windows = [watched(run.manifest).window for run in runs]
    if any(len(valid_rows(run.trace)) >= n for run, n in zip(runs, windows, strict=True)):
        return ""
    return (
        f"No run has {span(windows, '{:,}'.format)} valid samples, as many as are looked at to "
        "judge a collapse."
    )


def _off(n: int) -> str:
    return "" if n else OFF
