"""Inputs and options of a report, and the data of its figures from the trace of a run.

A molecule is a distinct canonical SMILES, counted at its first scoring; a hit has R >= threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from chemkl.results import trace_components
from chemkl.results.inspection import by_final_reward, first_scorings, sampled_rows

COLUMNS = (
    "step", "row", "call", "canonical_smiles", "valid", "repeat", "scaffold", "logp_policy",
    "logp_ref", "reward", "reward_filtered", "log_target", "hit", "anchor", "is_replay", "origin",
    "stage", "final_reward",
)  # fmt: skip
"""Columns of a trace used by the page, in addition to the raw values of reward components."""
Methods = Mapping[str, Sequence[int]]
"""Name of each method, and the positions of its runs."""
TOP = (10, 100)
"""Numbers of molecules in the running means of the best rewards."""


@dataclass(frozen=True)
class RunView:
    """One run of a report."""

    name: str
    trace: pd.DataFrame  # one row per sampled sequence
    manifest: Mapping[str, Any] = field(default_factory=dict)  # empty if there is none
    # metrics of all distinct molecules and of the hits, by column name
    all_molecules: Mapping[str, Any] = field(default_factory=dict)
    hits: Mapping[str, Any] = field(default_factory=dict)
    # late metrics along the run, such as `late_uniqueness` and `late_top_share`, indexed by the
    # number of valid samples so far
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)
    families: Sequence[Mapping[str, Any]] = ()  # rows as in `families.parquet`


@dataclass(frozen=True)
class PageOptions:
    """Settings of the page."""

    title: str
    threshold: float  # hits are molecules with R of at least this
    threshold_source: str = ""  # a sentence on its origin; empty if the user set it
    window: int = 1000  # valid samples that represent the beginning and the end of a run
    smoothing: int = 9  # width in steps of the running mean of the learning curves
    n_scaffolds: int = 5  # scaffolds and families shown per method
    n_molecules: int = 4  # molecules drawn per scaffold
    n_top: int = 100  # rows of the table of top molecules
    n_map: int = 1500  # molecules on the map
    seed: int = 0
    note: str = ""  # how the numbers were computed, shown below the tables
    start_of_families: str = ""  # the reference of the family shares at the end, in words
    prior: Sequence[str] | None = None  # SMILES sampled from the prior, for the map
    comparison: Sequence[Mapping[str, Any]] = ()  # rows of the compare stage, for the summary
    settings: Mapping[str, Any] = field(default_factory=dict)  # shown at the end of the page


def template(name: str) -> Template:
    """Load a template of this package; values are escaped, and missing ones are an error."""
    loader = PackageLoader("chemkl.reports")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template(name)


def learning_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Compute values per step over the sampled rows.

    Columns: `reward` (mean R, 0 for invalid), `hit_rate` (share with R >= threshold), `unique_rate`
    (share that is valid and new in the run), `top_scaffold` (share of the most frequent scaffold
    among the valid rows with a scaffold), `logp_policy` and `logp_ref` (means, nats).
    """
    rows = sampled_rows(trace)
    rows = rows.assign(
        hit_rate=(rows["reward"] >= threshold) & rows.index.isin(by_final_reward(rows).index),
        unique_rate=rows["valid"].astype(bool) & ~rows["repeat"].astype(bool),
    )
    names = ["reward", "hit_rate", "unique_rate", "logp_policy", "logp_ref"]
    curves = rows.groupby("step")[names].mean()
    with_scaffold = rows[rows["scaffold"].fillna("") != ""]
    curves["top_scaffold"] = with_scaffold.groupby("step")["scaffold"].agg(
        lambda scaffolds: scaffolds.value_counts(normalize=True).iloc[0]
    )
    return curves


def stage_starts(trace: pd.DataFrame, unit: str) -> list[float]:
    """Return the steps or calls (`unit`) at which the stages after the first one began."""
    if "stage" not in trace:
        return []
    stage, later = trace["stage"], range(2, int(trace["stage"].max()) + 1)
    if unit == "step":
        return [float(trace["step"][stage == number].min()) for number in later]
    return [float(trace["call"][stage < number].count()) for number in later]


def yield_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Count hits (`molecules`) and their `scaffolds` cumulatively over the oracle calls.

    There is a row for each hit, and one each for the beginning and the end of the run.
    """
    hits = first_scorings(trace, threshold)
    new_scaffold = (hits["scaffold"] != "") & ~hits["scaffold"].duplicated()
    calls = trace["call"].dropna()
    columns = {
        "call": [0, *hits["call"], calls.max() if len(calls) else 0],
        "molecules": [*range(len(hits) + 1), len(hits)],
        "scaffolds": [0, *new_scaffold.cumsum(), new_scaffold.sum()],
    }
    return pd.DataFrame(columns, dtype=int)


def top_curves(trace: pd.DataFrame, n_points: int = 200) -> pd.DataFrame:
    """Compute the mean of the k best rewards so far, over the oracle calls, in columns `top_k`.

    There are at most n_points calls, including the last. Values are missing while there are fewer
    than k molecules, except at the last call, which has the mean of all.
    """
    scored = first_scorings(trace)
    rewards, calls = scored["reward"].fillna(0.0).to_numpy(), scored["call"].to_numpy(dtype=int)
    ends = np.unique(np.linspace(1, len(rewards), min(n_points, len(rewards))).astype(int))
    best = {
        f"top_{k}": [
            float(np.sort(rewards[:end])[-k:].mean()) if end >= min(k, len(rewards)) else np.nan
            for end in ends.tolist()
        ]
        for k in TOP
    }
    return pd.DataFrame(best, index=pd.Index(calls[ends - 1], name="call"), dtype=float)


def best_first(runs: Sequence[RunView]) -> pd.DataFrame:
    """Sort the first scorings of several runs by descending reward, then call, then run.

    A molecule found by several runs has a row for each.
    """
    views = [first_scorings(run.trace).assign(run=run.name) for run in runs]
    views = [view for view in views if len(view)] or views[:1]
    whole = pd.concat(views, ignore_index=True)
    return whole.sort_values(["reward", "call"], ascending=[False, True], kind="stable")


def component_names(runs: Sequence[RunView]) -> list[str]:
    """Return the distinct reward components of the runs, in the order of the traces."""
    return list(dict.fromkeys(c for run in runs for c in trace_components(run.trace.columns)))
