"""Tables of metrics: a row a method, as mean and standard deviation of its runs, or a row a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from chemkl.display import MISSING, Column, cell, is_missing
from chemkl.reports.curves import Methods


@dataclass(frozen=True)
class Table:
    """A table to be shown, before its cells are written.

    Attributes:
        title: caption.
        columns: in order; those without any value are left out.
        rows: metrics of every run, by column name.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def written(table: Table, methods: Methods) -> dict[str, Any]:
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
    known = [float(value) for value in values if not is_missing(value)]
    if len(values) == 1:
        return {"text": cell(values[0], how), "sd": "", "of": ""}
    if not known:
        return {"text": MISSING, "sd": "", "of": ""}
    middle = mean(known)
    if how.endswith("d"):
        how = ",.0f" if abs(middle) >= 100 else ",.1f"
    return {
        "text": format(middle, how),
        "sd": f"± {format(stdev(known), how)}" if len(known) > 1 else "",
        "of": f"{len(known)} of {len(values)}" if len(known) < len(values) else "",
    }
