"""What a report shows, and how much of it; what it draws from the trace of a run.

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
"""What the page needs of a trace, beside the raw values of the reward's components."""
Methods = Mapping[str, Sequence[int]]
"""Name of each method, and which of the runs are its."""
TOP = (10, 100)
"""How many of the best molecules the running means of the best are over."""


@dataclass(frozen=True)
class RunView:
    """One run of a report."""

    name: str
    trace: pd.DataFrame  # one row per sampled sequence
    # as plain values; empty where there is none
    manifest: Mapping[str, Any] = field(default_factory=dict)
    # metrics of all its distinct molecules, by column name
    all_molecules: Mapping[str, Any] = field(default_factory=dict)
    hits: Mapping[str, Any] = field(default_factory=dict)  # metrics of its hits, by column name
    # its last valid samples, looked at along the run: indexed by the number of valid samples so
    # far, with columns `late_uniqueness`, `late_top_share` and others
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)
    families: Sequence[Mapping[str, Any]] = ()  # rows as in `families.parquet`


@dataclass(frozen=True)
class PageOptions:
    """Settings of the page."""

    title: str
    threshold: float  # hits are molecules with R of at least this
    threshold_source: str = ""  # where that comes from, in a sentence; empty where the user gave it
    window: int = 1000  # valid samples that stand for the beginning and for the end of a run
    smoothing: int = 9  # width in steps of the running mean over the learning curves
    n_scaffolds: int = 5  # scaffolds and families shown of each method
    n_molecules: int = 4  # molecules drawn of each scaffold
    n_top: int = 100  # rows of the table of the top molecules
    n_map: int = 1500  # molecules on the map
    seed: int = 0
    note: str = ""  # how the numbers were computed, printed under the tables
    start_of_families: str = ""  # what the shares at the end are compared with, in words
    prior: Sequence[str] | None = None  # SMILES sampled from the prior, for the map
    comparison: Sequence[Mapping[str, Any]] = ()  # rows of the compare stage, for the summary
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the report, printed at its end


def template(name: str) -> Template:
    """A template of this package; what it is given is escaped, and what it lacks is an error."""
    loader = PackageLoader("chemkl.reports")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template(name)


def learning_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Per step, over the sampled rows: what the policy draws and how likely it is.

    `reward` (mean R, 0 for invalid), `hit_rate` (share with R >= threshold), `unique_rate` (share
    that is valid and new in the run), `top_scaffold` (share of the most frequent scaffold among the
    valid rows of the step that have one), `logp_policy`, `logp_ref` (means, nats).
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
    """Steps, or calls (`unit`), at which the stages of a run after the first one began."""
    if "stage" not in trace:
        return []
    stage, later = trace["stage"], range(2, int(trace["stage"].max()) + 1)
    if unit == "step":
        return [float(trace["step"][stage == number].min()) for number in later]
    return [float(trace["call"][stage < number].count()) for number in later]


def yield_curves(trace: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How hits (`molecules`) and their `scaffolds` add up over the oracle calls.

    One row for each hit, and one for the beginning and the end of the run.
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
    """Means of the best rewards so far, over the oracle calls: for each k of TOP a column `top_k`.

    At most n_points calls and the last one; missing while there are fewer than k, but for the last
    call, where it is then the mean of all.
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
    """The first scorings of several runs, the highest reward first, then the lowest call.

    At equal ones the runs stand in their order; a molecule that several found has as many rows.
    """
    views = [first_scorings(run.trace).assign(run=run.name) for run in runs]
    views = [view for view in views if len(view)] or views[:1]
    whole = pd.concat(views, ignore_index=True)
    return whole.sort_values(["reward", "call"], ascending=[False, True], kind="stable")


def component_names(runs: Sequence[RunView]) -> list[str]:
    """Names of the components of the runs' rewards, each once, in the order of the traces."""
    return list(dict.fromkeys(c for run in runs for c in trace_components(run.trace.columns)))
