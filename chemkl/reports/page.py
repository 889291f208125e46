"""Puts a report together: what the template is given, and the page that it makes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chemkl import __version__
from chemkl.reports.drawings import draw_molecule
from chemkl.reports.figures import (
    Panel,
    colour,
    dash,
    learning_panels,
    rank_panels,
    yield_panels,
)
from chemkl.reports.view import RunView, best_molecules, component_names

TEMPLATE = "report.html.j2"
EMPTY = "–"  # noqa: RUF001 - an en dash is the typographer's sign for an empty cell


@dataclass(frozen=True)
class Column:
    """One column of a metrics table.

    Attributes:
        key: name of the metric.
        label: heading.
        how: format of the value, as in `format(value, how)`.
        meaning: its definition, shown on hovering and in the list of definitions.
    """

    key: str
    label: str
    how: str
    meaning: str


def render_page(
    runs: Sequence[RunView],
    *,
    title: str,
    threshold: float,
    all_columns: Sequence[Column],
    hit_columns: Sequence[Column],
    note: str,
    n_molecules: int,
    smoothing: int,
) -> str:
    """Render the report.

    Args:
        runs: what to show, in order.
        title: heading of the page.
        threshold: hits are molecules with R of at least this.
        all_columns: columns of the table of all molecules.
        hit_columns: columns of the table of hits.
        note: how the numbers were computed, printed under the tables.
        n_molecules: molecules drawn per run.
        smoothing: width in steps of the running mean over the learning curves.

    Returns:
        The page; equal inputs give equal text.
    """
    environment = Environment(
        loader=PackageLoader("chemkl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_run(number, run, threshold, n_molecules) for number, run in enumerate(runs)]
    return environment.get_template(TEMPLATE).render(
        title=title,
        threshold=f"{threshold:g}",
        version=__version__,
        runs=views,
        tables=[
            _table("All distinct molecules", all_columns, [run.all_molecules for run in runs]),
            _table(f"Hits: R ≥ {threshold:g}", hit_columns, [run.hits for run in runs]),
        ],
        note=note,
        definitions=list({c.key: c for c in (*all_columns, *hit_columns)}.values()),
        figures=[
            _figure("Learning curves", learning_panels(runs, threshold, smoothing)),
            _figure("Yield over oracle calls", yield_panels(runs, threshold)),
            _figure("Hits by scaffold", rank_panels(runs, threshold)),
        ],
        smoothing=smoothing,
        differences=_differences(runs),
    )


def _run(number: int, run: RunView, threshold: float, n_molecules: int) -> dict[str, Any]:
    components = component_names(run.trace)
    best = best_molecules(run.trace, threshold, n_molecules)
    cards = [{str(k): v for k, v in row.items()} for row in best.to_dict("records")]
    return {
        "name": run.name,
        "anchor": f"run-{number + 1}",
        "swatch": Markup(_swatch(number)),
        "cards": [_card(row, components) for row in cards],
        "facts": _facts(run),
        "config": _as_yaml(run.manifest.get("config", {})),
        "versions": run.manifest.get("versions", {}),
    }


def _swatch(number: int) -> str:
    """A stroke in the colour and dash of a run, as it is drawn in the panels."""
    dashes = {"-": "", "--": "5 2", ":": "1.5 2", "-.": "5 2 1.5 2"}[dash(number)]
    return (
        '<svg class="swatch" width="22" height="10" aria-hidden="true"><line x1="1" y1="5" x2="21" '
        f'y2="5" stroke="{colour(number)}" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )


def _card(row: Mapping[str, Any], components: Sequence[str]) -> dict[str, Any]:
    """One molecule: drawing, reward, what its components were, and how its scaffold did."""
    smiles = str(row["canonical_smiles"])
    return {
        "svg": Markup(draw_molecule(smiles)),
        "smiles": smiles,
        "reward": f"{row['reward']:.3f}",
        "call": f"{int(row['call']):,}",
        "hits": f"{int(row['hits_of_scaffold']):,}",
        "molecules": f"{int(row['of_scaffold']):,}",
        "acyclic": row["scaffold"] == "",
        "components": [(name, _cell(row[f"raw_{name}"], ".3g")) for name in components],
    }


def _table(
    title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Headings and formatted cells; columns without any value are left out."""
    shown = [c for c in columns if any(not _is_missing(row.get(c.key)) for row in rows)]
    cells = [[_cell(row.get(c.key), c.how) for c in shown] for row in rows]
    return {"title": title, "columns": shown, "rows": cells}


def _figure(title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    return {
        "title": title,
        "panels": [{"title": p.title, "note": p.note, "svg": Markup(p.svg)} for p in panels],
    }


def _facts(run: RunView) -> list[tuple[str, str]]:
    """Provenance of a run as label and value; empty where the run has no manifest."""
    manifest = run.manifest
    if not manifest:
        return []
    started, finished = (_time(manifest.get(key)) for key in ("started", "finished"))
    status = " · ".join(str(v) for v in (manifest.get("status"), manifest.get("ended_by")) if v)
    seed = manifest.get("seed")
    results = {k: v for k, v in manifest.get("results", {}).items() if isinstance(v, int | float)}
    return [
        ("run", str(manifest.get("run_id", EMPTY))),
        ("status", status or EMPTY),
        ("seed", EMPTY if seed is None else str(seed)),
        ("started", started),
        ("finished", finished),
        ("config hash", str(manifest.get("config_hash", EMPTY))[:16]),
        *((name.replace("_", " "), f"{value:,.6g}") for name, value in results.items()),
    ]


def _differences(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, by dotted key, with each run's value."""
    flat = [dict(_leaves(run.manifest.get("config", {}))) for run in runs]
    keys = sorted({key for leaves in flat for key in leaves})
    rows = ((key, [leaves.get(key, EMPTY) for leaves in flat]) for key in keys)
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _leaves(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            leaf
            for name, inner in value.items()
            for leaf in _leaves(inner, f"{key}.{name}" if key else str(name))
        ]
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return [(key, text.strip().removesuffix("\n..."))]


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def _time(text: Any) -> str:
    """A time stamp without seconds and zone; it is in UTC."""
    return str(text)[:16].replace("T", " ") if text else EMPTY


def _cell(value: Any, how: str) -> str:
    if _is_missing(value):
        return EMPTY
    return format(int(value), how) if how.endswith("d") else format(float(value), how)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
