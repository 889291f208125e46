"""What a report shows of one run, drawn from its trace alone: curves, scaffolds, best molecules.

A molecule is a distinct canonical SMILES, counted at its first scoring; a hit has R >= threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

RAW = "raw_"


@dataclass(frozen=True)
class RunView:
    """One run of a report.

    Attributes:
        name: name of the run.
        trace: its trace, one row per sampled sequence.
        manifest: what its manifest holds; empty where there is none.
        all_molecules: metrics of all its distinct molecules, by column name.
        hits: metrics of its hits, by column name.
    """

    name: str
    trace: pd.DataFrame
    manifest: Mapping[str, Any] = field(default_factory=dict)
    all_molecules: Mapping[str, Any] = field(default_factory=dict)
    hits: Mapping[str, Any] = field(default_factory=dict)


def sampled_rows(trace: pd.DataFrame) -> pd.DataFrame:
    """The rows that the policy sampled; those drawn from a replay buffer are left out."""
    return trace[~trace["is_replay"].astype(bool)]


def hit_rows(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows at which a hit was first scored, in the order of their calls."""
    scored = sampled_rows(trace)
    scored = scored[scored["call"].notna() & (scored["reward"] >= threshold)]
    return scored.sort_values("call", kind="stable")


def learning_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Per step, over the sampled rows: what the policy draws and how likely it is.

    Returns:
        Indexed by step: `reward` (mean R, 0 for invalid), `hit_rate` (share with R >= threshold),
        `unique_rate` (share that is valid and new in the run), `top_scaffold` (share of the most
        frequent scaffold among the valid rows of the step that have one), `logp_policy`,
        `logp_ref` (means, nats).
    """
    rows = sampled_rows(trace)
    rows = rows.assign(
        hit_rate=rows["reward"] >= threshold,
        unique_rate=rows["valid"].astype(bool) & ~rows["repeat"].astype(bool),
    )
    names = ["reward", "hit_rate", "unique_rate", "logp_policy", "logp_ref"]
    curves = rows.groupby("step")[names].mean()
    with_scaffold = rows[rows["scaffold"].fillna("") != ""]
    curves["top_scaffold"] = with_scaffold.groupby("step")["scaffold"].agg(
        lambda scaffolds: scaffolds.value_counts(normalize=True).iloc[0]
    )
    return curves


def yield_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How hits and their scaffolds add up over the oracle calls.

    Returns:
        Columns `call`, `molecules`, `scaffolds`: the counts after that call; one row for each hit,
        and one for the beginning and the end of the run.
    """
    hits = hit_rows(trace, threshold)
    new_scaffold = (hits["scaffold"] != "") & ~hits["scaffold"].duplicated()
    curve = pd.DataFrame(
        {
            "call": hits["call"].astype(int),
            "molecules": np.arange(1, len(hits) + 1),
            "scaffolds": new_scaffold.cumsum(),
        }
    )
    calls = trace["call"].dropna()
    start = pd.DataFrame({"call": [0], "molecules": [0], "scaffolds": [0]})
    end = (
        (curve if len(curve) else start).tail(1).assign(call=int(calls.max()) if len(calls) else 0)
    )
    return pd.concat([start, curve, end], ignore_index=True)


def scaffold_sizes(trace: pd.DataFrame, threshold: float) -> pd.Series:
    """Hits per Bemis-Murcko scaffold, largest first; acyclic molecules have none."""
    scaffolds = hit_rows(trace, threshold)["scaffold"]
    return scaffolds[scaffolds != ""].value_counts()


def best_molecules(trace: pd.DataFrame, threshold: float, n: int) -> pd.DataFrame:
    """The best molecule of each scaffold, best first; at equal rewards the earlier one.

    Returns:
        At most n rows of the trace with two columns more: `of_scaffold`, the number of distinct
        molecules with that scaffold, and `hits_of_scaffold`, the hits among them. Acyclic
        molecules count as one scaffold here, so that a run of them is not left blank.
    """
    rows = sampled_rows(trace)
    scored = rows[rows["call"].notna()].sort_values("call", kind="stable")
    groups = scored.groupby("scaffold", sort=False)["reward"]
    best = scored.sort_values("reward", ascending=False, kind="stable")
    best = best.drop_duplicates("scaffold").head(n)
    return best.assign(
        of_scaffold=best["scaffold"].map(groups.size()),
        hits_of_scaffold=best["scaffold"].map(groups.agg(lambda r: int((r >= threshold).sum()))),
    )


def component_names(trace: pd.DataFrame) -> list[str]:
    """Names of the reward's components, in the order of the trace."""
    return [name.removeprefix(RAW) for name in trace.columns if name.startswith(RAW)]
