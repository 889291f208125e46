"""What came of a run, in sentences: its hits, its best reward, and a target that never acted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemkl.config.objective import beta_of
from chemkl.display import counted
from chemkl.results.collapse import judge
from chemkl.results.inspection import (
    by_final_reward,
    count,
    identity_columns,
    new_rows,
    sampled_rows,
)
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import at_the_end, tau_of
from chemkl.results.trace import read_trace

SAME_NATS = 1e-3
"""A row whose log target is as near as this to that of gibbs has the target of gibbs: what the
same sequence has in two batches differs by less."""


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    hits: str  # how many distinct ones, and by which tau; empty for a target without one
    best: float | None  # the highest raw reward; None without a reward
    collapse: str  # the verdict in a line; empty where nothing is watched
    idle: str  # why the target changed nothing, in a sentence; empty where it did
    unexplored: str  # why exploration found nothing, likewise
    lost: str  # which parts no sample holds, and what may help; empty where each is held

    def lines(self) -> Iterator[str]:
        """Say all of it."""
        best = "no reward" if self.best is None else f"best reward {self.best:.4g}"
        yield f"{self.hits or 'no tau to count hits by'}, {best}"
        yield from filter(None, (self.collapse, self.idle, self.unexplored, self.lost))


def outcome_of(trace: pd.DataFrame, manifest: Mapping[str, Any]) -> Outcome:
    """What a run found, by its trace."""
    config = manifest.get("config", {})
    target, tau = at_the_end(config).get("target") or {}, tau_of(config)
    moves = bool((target.get("schedule") or {}).get("tau"))
    counts, watch = count(trace, tau), judge(trace, manifest)
    n, by = counts.hits, "" if tau is None else f"R >= {tau:g}"
    if tau is None and (moves or target.get("tau_quantile") is not None):
        rows = by_final_reward(new_rows(trace))
        hits = rows.loc[rows["hit"].astype(bool), identity_columns(trace)]
        n = len(hits.drop_duplicates())
        by = f"at or above the quantile {target.get('tau_quantile') or 0:g} of their batch"
        if moves:
            by = f"R >= tau of their step, at last {trace['tau'].iloc[-1]:.4g}"
    if by and "final_reward" in trace:
        by += ", by the reward of the last stage"
    return Outcome(
        hits="" if n is None else f"{counted(n, 'hit')} ({by})",
        best=counts.best,
        collapse="" if watch is None else watch.summary,
        idle=idle_at_the_end(trace, config),
        unexplored=unexplored(trace, config.get("exploration") or {}),
        lost=lost_parts(trace) if config.get("generator") else "",
    )


def read_outcome(folder: Path, manifest: Manifest) -> Outcome:
    """What the run in a folder found."""
    return outcome_of(read_trace(folder), manifest.model_dump(mode="json"))


def read_never_acted(folder: Path) -> str:
    """What `never_acted` says of the run in a folder."""
    manifest = Manifest.load(folder)
    return idle_at_the_end(read_trace(folder), manifest.config) if manifest else ""


def idle_at_the_end(trace: pd.DataFrame, config: Mapping[str, Any]) -> str:
    """What `never_acted` says of a run; of one of several stages, of its last one."""
    if "stage" in trace:
        trace = trace[trace["stage"] == len(config.get("stages") or ())]
    target = at_the_end(config).get("target")
    return never_acted(trace, target) if target and len(trace) else ""


def never_acted(trace: pd.DataFrame, target: Mapping[str, Any]) -> str:
    """Say why the target of a run was never another than gibbs, or why a filter had no aim.

    A row tells where its log target is not that of gibbs, log pi_ref + R / beta. A batch with one
    hit alone has none: the hit is its own anchor, and so are copies of it. Empty where the target
    acted, and for targets that are gibbs.
    """
    kind, tau = target.get("kind"), target.get("tau")
    rows = new_rows(trace)
    if kind not in ("mara", "filter"):
        return ""
    hits = rows[rows["hit"].astype(bool) & rows["log_target"].notna()]
    if not hits.empty and (kind == "filter" or _moved(hits, target)):
        return ""
    if len(hits) and not target.get("alpha", 1.0) and target.get("reward_on_hits") == "own":
        why = "with alpha = 0 and reward_on_hits = own it is that of gibbs"
    elif len(hits):
        of = " of one prompt" if "group" in rows else ""
        why = f"no batch had two different hits{of}, and one alone keeps its own target"
    elif tau is None:
        why = f"no batch had two rewards of at least tau_floor = {target.get('tau_floor'):g}"
    elif (rows["reward"] >= float(tau)).any():
        why = f"the diversity filter withdrew every reward of at least tau = {float(tau):g}"
    else:
        why = f"no reward reached tau = {float(tau):g}"
    before = " before it" if why.startswith("the diversity") else ""
    why += f";{before} the best reward is {rows['reward'].max():.4g}"
    if kind == "filter":
        return f"the target filter had nothing to walk to: {why}"
    return f"the target mara never acted: {why}; the samples are those of the target gibbs"


def unexplored(trace: pd.DataFrame, exploration: Mapping[str, Any]) -> str:
    """Say that a run that was to explore spent no call on it; empty: it did, or was not to."""
    if not exploration or (trace["call"].notna() & ~trace["origin"].isin(["policy", "seed"])).any():
        return ""
    every, start = exploration.get("every", 1), exploration.get("start", 0)
    made = f"the run made {trace['step'].max() + 1:,}"
    return f"exploration spent no call: due every {every:,} steps from call {start:,} on; {made}"


def lost_parts(trace: pd.DataFrame) -> str:
    """Say which parts of a generator are in no valid sample, and why most often; empty: none is."""
    rows = sampled_rows(trace)
    held = rows.groupby("prompt", sort=False)["valid"].any()
    lost = list(held.index[~held])
    if not lost:
        return ""
    rows = rows[rows["prompt"].isin(lost)]
    named = f"{', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}"
    return (
        f"no valid molecule was made of {named}, by any of {len(rows):,} samples; most often: "
        f"{rows['reason'].mode().iloc[0]}. What may help: a smaller part, more choices, a prior "
        "that writes such molecules (chemkl sample with this generator shows what it makes of them)"
    )


def _moved(hits: pd.DataFrame, target: Mapping[str, Any]) -> bool:
    """Whether a hit has another log target than gibbs gives it."""
    if target.get("beta") is None and target.get("sigma") is None:  # written by another version
        return True
    beta: Any = beta_of(target)  # the stubs of pandas take no float here
    if target.get("reward_on_hits", "anchor") != "tau":
        hits = hits[~hits["anchor"].astype(bool)]
    beta = hits.get("beta", beta)
    gibbs = hits["logp_ref"].astype(float) + hits["reward_filtered"] / beta
    away = (hits["log_target"].astype(float) - gibbs).abs()
    return bool((away > SAME_NATS + np.finfo(np.float32).eps * 8 * gibbs.abs()).any())
