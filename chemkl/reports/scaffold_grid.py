"""The largest scaffolds of each method, with counts and the best molecules that carry them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from chemkl.display import cell
from chemkl.reports.curves import Methods
from chemkl.reports.drawings import draw_molecule
from chemkl.reports.page_options import PageOptions
from chemkl.reports.view import RunView, best_first, component_names, valid_rows
from chemkl.results.columns import RAW_PREFIX


def scaffold_blocks(
    runs: Sequence[RunView], methods: Methods, options: PageOptions
) -> list[dict[str, Any]]:
    """For each method `name` and `scaffolds`, largest first, ready to be shown."""
    blocks = []
    for name, members in methods.items():
        own = [runs[member] for member in members]
        components = component_names(own)
        table = largest_scaffolds(own, options.threshold, options.window)
        molecules = best_first(own).drop_duplicates("canonical_smiles")
        shown = []
        for row in table[: options.n_scaffolds]:
            of_it = molecules[molecules["scaffold"] == row["scaffold"]].head(options.n_molecules)
            cards = [{str(k): v for k, v in one.items()} for one in of_it.to_dict("records")]
            shown.append(
                {
                    **row,
                    "late": cell(row["late"], ".1%"),
                    "drawing": Markup(draw_molecule(row["scaffold"])),
                    "cards": [_card(one, components) for one in cards],
                }
            )
        blocks.append({"name": name, "scaffolds": shown})
    return blocks


def largest_scaffolds(
    runs: Sequence[RunView], threshold: float, window: int
) -> list[dict[str, Any]]:
    """The scaffolds of the runs of one method, those with most hits first, then most molecules.

    Returns:
        Rows with `scaffold`, `hits` and `molecules` (distinct canonical SMILES of all runs
        together) and `late`, its share of the last `window` valid samples of each run, repeats
        included; None without valid samples. Acyclic molecules are left out.
    """
    distinct = best_first(runs).drop_duplicates("canonical_smiles")
    distinct = distinct[distinct["scaffold"] != ""]
    groups = distinct.assign(is_hit=distinct["reward"] >= threshold).groupby("scaffold")["is_hit"]
    counts = groups.agg(["sum", "size"]).reset_index()
    counts = counts.sort_values(["sum", "size", "scaffold"], ascending=[False, False, True])
    last = pd.concat([valid_rows(run.trace).tail(window)["scaffold"] for run in runs])
    of_last = last.value_counts()
    return [
        {
            "scaffold": str(scaffold),
            "hits": int(hits),
            "molecules": int(size),
            "late": float(of_last.get(scaffold, 0)) / len(last) if len(last) else None,
        }
        for scaffold, hits, size in counts.itertuples(index=False)
    ]


def _card(row: Mapping[str, Any], components: Sequence[str]) -> dict[str, Any]:
    """One molecule: drawing, reward, and what its components were."""
    smiles = str(row["canonical_smiles"])
    return {
        "svg": Markup(draw_molecule(smiles)),
        "smiles": smiles,
        "reward": cell(row["reward"], ".3f"),
        "call": f"{int(row['call']):,}",
        "components": [(name, cell(row.get(f"{RAW_PREFIX}{name}"), ".3g")) for name in components],
    }
