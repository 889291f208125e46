"""The best molecules of all runs as a table that can be searched, sorted and saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup

from chemkl.display import MISSING, is_missing
from chemkl.reports.template import template
from chemkl.reports.thumbnails import draw_thumbnail
from chemkl.reports.view import RunView, best_first, component_names
from chemkl.results.columns import RAW_PREFIX

TEMPLATE = "top_table.html.j2"
PAGE_ROWS = 50
"""Rows shown at first, and added each time more are asked for."""
ACYCLIC = "acyclic"


@dataclass(frozen=True)
class Head:
    """One column of the table.

    Attributes:
        name: in the file that the table can be saved as.
        label: heading.
        kind: how it is sorted and set.
        meaning: shown on hovering.
    """

    name: str
    label: str
    kind: Literal["number", "text", "drawing"]
    meaning: str


def render_top_table(runs: Sequence[RunView], threshold: float, n: int) -> Markup:
    """Render the best molecules of all runs, one row each, with the script that sorts them.

    Args:
        runs: of the report.
        threshold: hits are molecules with R of at least this.
        n: rows at most, best first.

    Returns:
        An HTML fragment that needs nothing beside it but the page's colours.
    """
    molecules = distinct_molecules(runs, threshold)
    components = component_names(runs)
    rows = [
        _cells({str(k): v for k, v in row.items()}, components)
        for row in molecules.head(n).to_dict("records")
    ]
    return Markup(
        template(TEMPLATE).render(
            heads=_heads(components),
            rows=rows,
            note=_note(runs, molecules, n, threshold),
            page_rows=PAGE_ROWS,
        )
    )


def distinct_molecules(runs: Sequence[RunView], threshold: float) -> pd.DataFrame:
    """The molecules of all runs, each once, best first.

    Returns:
        The trace's row of the run in which its reward is highest, and then its call lowest; at
        equal ones the first run. Two columns more: `runs`, the names of all runs that scored it, in
        that order, and `hits_of_scaffold`, the distinct hits of all runs with the same scaffold.
    """
    whole = best_first(runs)
    whole["scaffold"] = whole["scaffold"].fillna("")
    names = whole.groupby("canonical_smiles", sort=False)["run"].agg(list)
    best = whole.drop_duplicates("canonical_smiles")
    hits = best.loc[best["reward"] >= threshold, "scaffold"].value_counts()
    return best.assign(
        runs=best["canonical_smiles"].map(names),
        hits_of_scaffold=best["scaffold"].map(hits).fillna(0).astype(int),
    )


def _heads(components: Sequence[str]) -> list[Head]:
    prior, policy = "log\N{NO-BREAK SPACE}π prior", "log\N{NO-BREAK SPACE}π policy"
    return [
        Head("", "structure", "drawing", ""),
        Head("reward", "R", "number", "raw reward"),
        *(Head(name, name, "number", f"raw value of {name}") for name in components),
        Head("runs", "run", "text", "runs that found it; the values are those of the first one"),
        Head("call", "call", "number", "oracle call at which it was first scored"),
        Head("scaffold", "scaffold", "text", "Bemis-Murcko scaffold"),
        Head(
            "hits_of_scaffold",
            "hits of scaffold",
            "number",
            "distinct hits of all runs with this scaffold",
        ),
        Head("logp_ref", prior, "number", "log-probability under the prior, nats"),
        Head("logp_policy", policy, "number", "log-probability under the policy then, nats"),
        Head("smiles", "SMILES", "text", "canonical SMILES; a click selects it"),
    ]


def _cells(row: Mapping[str, Any], components: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of a row, in the order of the columns.

    Each has a `text`; numbers have the `value` that they are sorted by and saved with.
    """
    smiles, scaffold = str(row["canonical_smiles"]), str(row["scaffold"])
    return [
        {"text": Markup(draw_thumbnail(smiles))},
        _number(row["reward"], ".4g"),
        *(_number(row.get(f"{RAW_PREFIX}{name}"), ".3g") for name in components),
        {"text": Markup(", ").join(map(_breakable, row["runs"]))},
        _number(row["call"], ",.0f"),
        {"text": scaffold} if scaffold else {"text": ACYCLIC, "value": ""},
        _number(row["hits_of_scaffold"], ",.0f"),
        _number(row["logp_ref"], ".1f"),
        _number(row["logp_policy"], ".1f"),
        {"text": smiles},
    ]


def _breakable(name: str) -> Markup:
    """The name of a run, which may go on in the next line behind an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _number(value: Any, how: str) -> dict[str, Any]:
    if is_missing(value):
        return {"text": MISSING, "value": ""}
    text, exact = format(float(value), how), f"{float(value):.7g}"
    return {"text": text} if text == exact else {"text": text, "value": exact}


def _note(runs: Sequence[RunView], molecules: pd.DataFrame, n: int, threshold: float) -> str:
    """How many molecules there are, how many are listed, and whose values they have."""
    if not len(molecules):
        return "No molecule was scored."
    n_hits = int((molecules["reward"] >= threshold).sum())
    listed = "All" if len(molecules) <= n else f"The {n:,} best of"
    said = (
        f"{listed} {len(molecules):,} distinct molecules of {len(runs)} "
        f"run{'' if len(runs) == 1 else 's'}, of which {n_hits:,} are hits (R ≥ {threshold:g})."
    )
    if len(runs) > 1:
        said += (
            " A molecule that several runs found has one row, with the values of the run named "
            "first: that of the highest R, then of the lowest call."
        )
    return said
