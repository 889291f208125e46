"""Molecules on the page: the largest scaffolds, scaffold families, the table of top molecules.

Structures are SVG text, either large, or small enough for hundreds on a page.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import fmean
from typing import Any

import pandas as pd
from markupsafe import Markup
from rdkit.Chem import Mol, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chemkl.chem.molecules import MoleculeError, parse, step
from chemkl.display import MISSING, Column, cell, counted, is_missing
from chemkl.reports.figures import SOFT, colour
from chemkl.reports.view import Methods, PageOptions, RunView, best_first, component_names, template
from chemkl.results.columns import RAW_PREFIX
from chemkl.results.inspection import valid_rows

DUMBBELL_WIDTH, DUMBBELL_MARGIN = 300, 8
"""Pixels of a dumbbell and of the margin at both ends."""
NBSP = "\N{NO-BREAK SPACE}"
_CSV_NAMES = {"drawing": "", "canonical_smiles": "smiles"}
"""Names of columns in the saved CSV file that differ from their keys; empty: not saved."""
PAGE_ROWS = 50
"""Rows of the table of molecules shown at first, and added by each click on "more"."""

LARGE, SMALL = (220, 150), (150, 96)
"""Width and height in pixels."""
SCALE = 10
"""Coordinates of small drawings are whole numbers of tenths of a pixel."""
_REDUNDANT = re.compile(
    r" class='[^']*'|fill-rule:evenodd;|;stroke-linecap:butt|;stroke-linejoin:miter"
    r"|;stroke-opacity:1(?=['\";])"
)
"""Unused class names and explicit SVG defaults on every path, which are half of the text."""
_PATH = re.compile(r"<path( class='[^']*')? d='([^']*)' style='([^']*)'")
_TEXT = re.compile(r"<text x='([\d.-]+)' y='([\d.-]+)'[^>]*style='([^']*)'\s*>([^<]*)</text>")
_POINT = re.compile(r"([\d.-]+),([\d.-]+)")


# ---- the largest scaffolds


def scaffold_blocks(
    runs: Sequence[RunView], methods: Methods, options: PageOptions
) -> list[dict[str, Any]]:
    """Prepare for each method its `name` and `scaffolds`, largest first, for the template."""
    blocks = []
    for name, members in methods.items():
        views = [runs[member] for member in members]
        components = component_names(views)
        molecules = best_first(views).drop_duplicates("canonical_smiles")

        scaffolds: list[dict[str, Any]] = []
        largest = largest_scaffolds(views, options.threshold, options.window)
        for row in largest[: options.n_scaffolds]:
            members_of = molecules[molecules["scaffold"] == row["scaffold"]]
            cards = [
                {
                    "svg": Markup(draw_molecule(molecule["canonical_smiles"])),
                    "smiles": molecule["canonical_smiles"],
                    "call": f"{int(molecule['call']):,}",
                    "reward": cell(molecule["reward"], ".3f"),
                    "components": [
                        (c, cell(molecule.get(f"{RAW_PREFIX}{c}"), ".3g")) for c in components
                    ],
                }
                for molecule in members_of.head(options.n_molecules).to_dict("records")
            ]
            drawing = Markup(draw_molecule(row["scaffold"]))
            late = cell(row["late"], ".1%")
            scaffolds.append({**row, "late": late, "drawing": drawing, "cards": cards})
        blocks.append({"name": name, "scaffolds": scaffolds})
    return blocks


def largest_scaffolds(
    runs: Sequence[RunView], threshold: float, window: int
) -> list[dict[str, Any]]:
    """List the scaffolds of one method's runs by descending number of hits, then of molecules.

    `hits` and `molecules` count distinct canonical SMILES over all runs. `late` is the share of the
    scaffold among the last `window` valid samples of each run, repeats included; None without any.
    Acyclic molecules are excluded.
    """
    distinct = best_first(runs).drop_duplicates("canonical_smiles")
    distinct = distinct[distinct["scaffold"] != ""]
    groups = distinct.assign(is_hit=distinct["reward"] >= threshold).groupby("scaffold")["is_hit"]
    counts = groups.agg(["sum", "size"]).reset_index()
    counts = counts.sort_values(["sum", "size", "scaffold"], ascending=[False, False, True])
    late = pd.concat([valid_rows(run.trace).tail(window)["scaffold"] for run in runs])
    late_counts = late.value_counts()
    return [
        {
            "scaffold": str(scaffold),
            "hits": int(hits),
            "molecules": int(size),
            "late": float(late_counts.get(scaffold, 0)) / len(late) if len(late) else None,
        }
        for scaffold, hits, size in counts.itertuples(index=False)
    ]


# ---- scaffold families


def family_blocks(runs: Sequence[RunView], methods: Methods, n: int) -> list[dict[str, Any]]:
    """Prepare the n families with the largest share at the start or the end of each method.

    `before` and `after` of a method are the numbers of families with a share, averaged over its
    runs. All methods have the same scale, which ends at the share `maximum`.
    """
    members = {
        name: [runs[m] for m in places if runs[m].families] for name, places in methods.items()
    }
    largest = {name: mean_shares(method_runs)[:n] for name, method_runs in members.items()}
    first = [rows[0] for rows in largest.values() if rows]
    maximum = max((max(row["before"], row["after"]) for row in first), default=0) or 1.0

    def n_with_share(name: str, key: str) -> str:
        """Count the families with a share above 0, averaged over the runs with families."""
        counts = [sum(row[key] > 0 for row in run.families) for run in members[name]]
        return cell(fmean(counts) if counts else None, ",.0f")

    return [
        {
            "name": name,
            "before": n_with_share(name, "prior_share"),
            "after": n_with_share(name, "policy_share"),
            "maximum": f"{maximum:.1%}",
            "rows": [
                {
                    "family": row["family"],
                    "before": f"{row['before']:.1%}",
                    "after": f"{row['after']:.1%}",
                    "molecules": f"{row['molecules']:,} molecules",
                    "best": cell(row["best"], ".3f") if row["best"] is not None else "",
                    "drawing": Markup(draw_thumbnail(row["family"])),
                    "dumbbell": _dumbbell(row, maximum, colour(number)),
                }
                for row in largest[name]
            ],
        }
        for number, name in enumerate(methods)
    ]


def mean_shares(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """Average the shares of each family `before` and `after` over the runs, largest first.

    The share of a family missing in a run is 0; runs without families are ignored. `molecules`
    counts distinct molecules, summed over the runs; `best` is the largest reward or None.
    """
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for row in run.families:
            by_family.setdefault(row["family"], []).append(row)
    n_runs = sum(bool(run.families) for run in runs)
    means = []
    for family, rows in by_family.items():
        rewards = [row["best_reward"] for row in rows if not is_missing(row["best_reward"])]
        means.append(
            {
                "family": family,
                "before": sum(row["prior_share"] / n_runs for row in rows),
                "after": sum(row["policy_share"] / n_runs for row in rows),
                "molecules": sum(row["n_molecules"] for row in rows),
                "best": max(rewards, default=None),
            }
        )
    return sorted(means, key=lambda row: (-max(row["before"], row["after"]), row["family"]))


def _dumbbell(row: Mapping[str, Any], maximum: float, shade: str) -> Markup:
    """Draw a line from a grey ring (share at the start) to a dot (share at the end)."""
    left, right = DUMBBELL_MARGIN, DUMBBELL_WIDTH - DUMBBELL_MARGIN
    before, after = (left + (right - left) * row[key] / maximum for key in ("before", "after"))
    return Markup(
        f'<svg class="dumbbell" viewBox="0 0 {DUMBBELL_WIDTH} 18" role="img" aria-label="from '
        f'{row["before"]:.1%} to {row["after"]:.1%}">'
        f'<line x1="{left}" y1="9" x2="{right}" y2="9" stroke="#e6e9ee"/>'
        f'<line x1="{before:.1f}" y1="9" x2="{after:.1f}" y2="9" stroke="{shade}" '
        'stroke-width="3" stroke-opacity=".45"/>'
        f'<circle cx="{before:.1f}" cy="9" r="4.5" fill="#fff" stroke="{SOFT}" stroke-width="2"/>'
        f'<circle cx="{after:.1f}" cy="9" r="5" fill="{shade}"/></svg>'
    )


# ---- the table of top molecules


def render_top_table(runs: Sequence[RunView], threshold: float, n: int) -> Markup:
    """Render the n best molecules of all runs as a table, with the script that sorts it.

    The HTML fragment depends only on the colours of the page.
    """
    molecules = distinct_molecules(runs, threshold)
    logp = f"log{NBSP}π"
    columns = [
        Column("drawing", "structure"),
        Column("reward", "R", ".4g", "raw reward"),
        *(
            Column(f"{RAW_PREFIX}{name}", name, ".3g", f"raw value of {name}")
            for name in component_names(runs)
        ),
        Column("runs", "run", "", "runs that found it; the values are those of the first run"),
        Column("call", "call", ",.0f", "oracle call of its first scoring"),
        Column("scaffold", "scaffold", "", "Bemis-Murcko scaffold"),
        Column("hits_of_scaffold", "hits of scaffold", ",.0f", "distinct hits of all runs with it"),
        Column("logp_ref", f"{logp} prior", ".1f", "log-probability under the prior, nats"),
        Column("logp_policy", f"{logp} policy", ".1f", "log-probability when first scored, nats"),
        Column("canonical_smiles", "SMILES", "", "canonical SMILES; a click selects it"),
    ]
    rows = molecules.head(n).to_dict("records")
    return Markup(
        template("top_table.html.j2").render(
            heads=[
                {
                    "name": _CSV_NAMES.get(c.key, c.key.removeprefix(RAW_PREFIX)),
                    "label": c.label,
                    "kind": "number" if c.how else "drawing" if c.key == "drawing" else "text",
                    "meaning": c.meaning,
                }
                for c in columns
            ],
            rows=[[_cell(column, row) for column in columns] for row in rows],
            note=_note(runs, molecules, n, threshold),
            page_rows=PAGE_ROWS,
        )
    )


def distinct_molecules(runs: Sequence[RunView], threshold: float) -> pd.DataFrame:
    """List the distinct molecules of all runs, best first.

    Each has the row of the run with the highest reward, then the lowest call, then the first run.
    `runs` are the names of all runs that scored it, in that order, and `hits_of_scaffold` counts
    the distinct hits of all runs with the same scaffold.
    """
    scorings = best_first(runs)
    scorings["scaffold"] = scorings["scaffold"].fillna("")
    names = scorings.groupby("canonical_smiles", sort=False)["run"].agg(list)
    best = scorings.drop_duplicates("canonical_smiles")
    hits = best.loc[best["reward"] >= threshold, "scaffold"].value_counts()
    return best.assign(
        runs=best["canonical_smiles"].map(names),
        hits_of_scaffold=best["scaffold"].map(hits).fillna(0).astype(int),
    )


def _cell(column: Column, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Make a cell: its `text`, and the `value` for sorting and saving if that differs."""
    value: Any = row.get(column.key)
    if column.key == "drawing":
        return {"text": Markup(draw_thumbnail(row["canonical_smiles"]))}
    if column.key == "runs":  # allow a line break after an underscore
        names = [Markup("_<wbr>").join(name.split("_")) for name in row["runs"]]
        return {"text": Markup(", ").join(names)}
    if not column.how:
        return {"text": value} if value else {"text": "acyclic", "value": ""}
    if is_missing(value):
        return {"text": MISSING, "value": ""}
    text, exact = column.write(value), f"{float(value):.7g}"
    return {"text": text} if text == exact else {"text": text, "value": exact}


def _note(runs: Sequence[RunView], molecules: pd.DataFrame, n: int, threshold: float) -> str:
    """Say how many molecules there are and are listed, and which run their values come from."""
    if not len(molecules):
        return "No molecule was scored."
    n_hits = int((molecules["reward"] >= threshold).sum())
    how_many = "All" if len(molecules) <= n else f"The {n:,} best of"
    note = (
        f"{how_many} {len(molecules):,} distinct molecules of {counted(len(runs), 'run')}, of "
        f"which {n_hits:,} are hits (R ≥ {threshold:g})."
    )
    if len(runs) > 1:
        note += (
            " A molecule found by several runs has one row, with the values of the first run "
            "named: the one with the highest R, then the lowest call."
        )
    return note


# ---- drawings


def draw_molecule(smiles: str) -> str:
    """Draw a molecule as an svg element; an empty string if RDKit cannot parse or draw it."""
    look = {"bondLineWidth": 1.3, "fixedBondLength": 24, "padding": 0.04, "minFontSize": 9}
    document = _document(smiles, rdMolDraw2D.MolDraw2DSVG(*LARGE), **look)
    element = re.sub(r"<!--.*?-->\s*", "", document[document.find("<svg") :])
    return _REDUNDANT.sub("", element).strip()


def draw_thumbnail(smiles: str) -> str:
    """Draw a molecule as a small svg element of 1 to 2 kB, otherwise like `draw_molecule`.

    The bonds drawn by RDKit are joined into one path per colour and line width, with relative
    whole-number coordinates, and its patches over corners are replaced by round line ends.
    """
    width, height = SMALL
    look = {"bondLineWidth": 1.1, "fixedBondLength": 18, "padding": 0.03, "minFontSize": 7}
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height, -1, -1, True)  # letters as text, not as paths
    document = _document(smiles, drawer, maxFontSize=9, **look)
    if not document:
        return ""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for bond_class, path, text in _PATH.findall(document):
        style = _declarations(text)
        if not bond_class and style.get("fill") == "none":
            continue  # a patch over a corner
        fill = "" if style["fill"] == "none" else f' fill="{_hex(style["fill"])}"'
        line = round(SCALE * float(style.get("stroke-width", "1").removesuffix("px")))
        points = [(_whole(x), _whole(y)) for x, y in _POINT.findall(path)]
        moves = "".join(f"l{x1 - x0} {y1 - y0}" for (x0, y0), (x1, y1) in pairwise(points))
        closed = "z" if path.rstrip().endswith("Z") else ""
        relative = f"M{points[0][0]} {points[0][1]}{moves}{closed}".replace(" -", "-")
        paths[f'{fill} stroke="{_hex(style["stroke"])}" stroke-width="{line}"'].append(relative)
    letters: defaultdict[str, list[str]] = defaultdict(list)
    for x, y, text, letter in _TEXT.findall(document):
        style = _declarations(text)
        size = round(SCALE * float(style["font-size"].removesuffix("px")))
        group = f'fill="{_hex(style["fill"])}" font-size="{size}"'
        letters[group].append(f'<text x="{_whole(x)}" y="{_whole(y)}">{letter}</text>')
    return "".join(
        [
            f'<svg viewBox="0 0 {width * SCALE} {height * SCALE}" width="{width}" '
            f'height="{height}" aria-hidden="true" fill="none" stroke-linecap="round">',
            *(f'<path d="{"".join(parts)}"{style}/>' for style, parts in paths.items()),
            *(f"<g {group}>{''.join(parts)}</g>" for group, parts in letters.items()),
            "</svg>",
        ]
    )


def _document(smiles: str, drawer: rdMolDraw2D.MolDraw2DSVG, **look: float) -> str:
    """Draw a molecule with RDKit; return its SVG, or an empty string if that fails."""

    @step("drawing")
    def draw(mol: Mol) -> str:
        rdDepictor.Compute2DCoords(mol, canonOrient=True)
        options: Any = drawer.drawOptions()  # RDKit's stubs declare its attributes read-only
        options.clearBackground = False
        options.flagCloseContactsDist = -1  # no red marks on atoms close to each other
        for name, value in look.items():
            setattr(options, name, value)
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
        drawer.FinishDrawing()
        return str(drawer.GetDrawingText())

    mol = parse(smiles)
    with suppress(MoleculeError):
        return "" if mol is None else draw(mol)
    return ""


def _declarations(style: str) -> dict[str, str]:
    return dict(part.split(":", 1) for part in style.split(";") if ":" in part)


def _whole(coordinate: str) -> int:
    return round(SCALE * float(coordinate))


def _hex(colour: str) -> str:
    """Shorten #AABBCC to #abc if possible."""
    text = colour.lower()
    short = text[0] + text[1::2]
    return short if text[1::2] == text[2::2] else text
