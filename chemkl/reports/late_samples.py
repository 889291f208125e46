"""Whether a run has collapsed, by its own alarm, and what its last valid samples look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from chemkl.config.posttrain import CollapseConfig
from chemkl.reports.view import valid_rows
from chemkl.results.collapse import CollapseEvent, Watch, spread, watched


@dataclass(frozen=True)
class LateSamples:
    """The last valid samples of a run, repeats included, as many as its alarm looks at.

    Attributes:
        n: how many they are.
        distinct: share of distinct canonical SMILES among them; None without samples.
        scaffold: the largest Bemis-Murcko scaffold among them; None where all are acyclic.
        top_share: its share, acyclic samples left out.
        settings: by which the run is judged.
        collapsed: whether it ever did; None where they are fewer than the alarm looks at.
        first: when it did first; None where it did not.
        over: whether it was over it at the end.
    """

    n: int
    distinct: float | None
    scaffold: str | None
    top_share: float | None
    settings: CollapseConfig
    collapsed: bool | None
    first: CollapseEvent | None
    over: bool


def late_samples(trace: pd.DataFrame, manifest: Mapping[str, Any] | None = None) -> LateSamples:
    """Look at the last valid samples of a run; rows from a replay buffer were not sampled.

    Args:
        trace: of the run.
        manifest: of the run, as plain values; None: it has none.
    """
    settings = watched(manifest)
    watch = Watch(settings)
    watch.add(trace)
    rows = valid_rows(trace).tail(settings.window)
    now = spread(rows["canonical_smiles"].tolist(), rows["scaffold"].fillna("").tolist())
    return LateSamples(
        n=now.n,
        distinct=now.uniqueness,
        scaffold=watch.alarm.window.most_frequent() or None,
        top_share=now.top_share,
        settings=settings,
        collapsed=watch.collapsed,
        first=watch.events[0] if watch.events else None,
        over=bool(watch.events) and not watch.alarm.raised,
    )
