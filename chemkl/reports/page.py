"""Puts a report together: what the template is given, and the page that it makes."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from chemkl import __version__
from chemkl.reports import sections
from chemkl.reports.curves import Methods
from chemkl.reports.figures import colour, dash
from chemkl.reports.page_options import PageOptions
from chemkl.reports.provenance import as_yaml, different_settings, facts
from chemkl.reports.tables import Table, written
from chemkl.reports.template import template
from chemkl.reports.view import RunView

TEMPLATE = "report.html.j2"


def render_page(
    runs: Sequence[RunView],
    methods: Methods,
    tables: Sequence[Table],
    options: PageOptions,
) -> str:
    """Render the report.

    Args:
        runs: what to show, in order.
        methods: name of each method, and the positions of its runs.
        tables: of metrics, one row a run.
        options: what is shown, and how much of it.

    Returns:
        The page; equal inputs give equal text.
    """
    shown = [written(table, methods) for table in tables]
    return template(TEMPLATE).render(
        title=options.title,
        threshold=f"{options.threshold:g}",
        version=__version__,
        methods=_methods(methods),
        runs=_runs(runs, methods),
        tables=shown,
        definitions=list({c.key: c for table in shown for c in table["columns"]}.values()),
        note=options.note,
        sections=sections.of_page(runs, methods, options),
        differences=different_settings(runs, methods),
        settings=as_yaml(options.settings),
    )


def _methods(methods: Methods) -> list[dict[str, Any]]:
    """How each method is called and drawn, and how many runs it has."""
    return [
        {
            "name": name,
            "anchor": f"method-{number + 1}",
            "swatch": Markup(_swatch(number)),
            "n": len(members),
        }
        for number, (name, members) in enumerate(methods.items())
    ]


def _runs(runs: Sequence[RunView], methods: Methods) -> list[dict[str, Any]]:
    """Where each run comes from, in the colour of its method."""
    method_of = {m: number for number, own in enumerate(methods.values()) for m in own}
    return [
        {
            "name": run.name,
            "swatch": Markup(_swatch(method_of[number])),
            "facts": facts(run),
            "config": as_yaml(run.manifest.get("config", {})),
            "versions": run.manifest.get("versions", {}),
        }
        for number, run in enumerate(runs)
    ]


def _swatch(number: int) -> str:
    """A stroke in the colour and dash of a method, as it is drawn in the panels."""
    dashes = {"-": "", "--": "5 2", ":": "1.5 2", "-.": "5 2 1.5 2"}[dash(number)]
    return (
        '<svg class="swatch" width="22" height="10" aria-hidden="true"><line x1="1" y1="5" x2="21" '
        f'y2="5" stroke="{colour(number)}" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )
