"""Whether a run has collapsed: what its last valid samples look like, and since when they do."""

from dataclasses import dataclass

import pandas as pd

from chemkl.config.collapse import CollapseLimits
from chemkl.reports.view import valid_rows
from chemkl.results.window import Alarm, spread

WINDOW = 1000
"""So many of the last valid samples are looked at; a run with fewer is taken whole."""
ENOUGH = 100
"""With fewer valid samples nothing is said: one molecule alone is all distinct, on one scaffold."""
LEAST_DISTINCT, LARGEST_SCAFFOLD = 0.5, 0.3
"""Shares of distinct samples, and of one scaffold, at which a run has collapsed."""
LIMITS = CollapseLimits(top_share=LARGEST_SCAFFOLD, duplicate_rate=1 - LEAST_DISTINCT)
"""The same for the alarm; that of a run has these by default."""


@dataclass(frozen=True)
class LateSamples:
    """The last valid samples of a run, repeats included.

    Attributes:
        n: how many they are.
        distinct: share of distinct canonical SMILES among them; None without samples.
        scaffold: the largest Bemis-Murcko scaffold among them; None where all are acyclic.
        top_share: its share, acyclic samples left out.
        collapsed: whether they reach a limit; None where they are too few to say.
        since: oracle calls spent when that began, to last until the end; None where it did not, or
            the run is shorter than a window.
    """

    n: int
    distinct: float | None
    scaffold: str | None
    top_share: float | None
    collapsed: bool | None
    since: int | None


def late_samples(trace: pd.DataFrame, window: int = WINDOW, enough: int = ENOUGH) -> LateSamples:
    """Look at the last valid samples of a run; rows from a replay buffer were not sampled.

    Args:
        trace: of the run.
        window: samples that are looked at.
        enough: fewer samples are not judged.
    """
    rows = valid_rows(trace)
    molecules = rows["canonical_smiles"].tolist()
    scaffolds = rows["scaffold"].fillna("").tolist()
    calls = rows["call"].astype("Float64").cummax().ffill().fillna(0).astype(int).tolist()
    alarm, since = Alarm(LIMITS, window), None
    for molecule, scaffold, call in zip(molecules, scaffolds, calls, strict=True):
        if alarm.add(molecule, scaffold):
            since = call if alarm.raised else None
    now = spread(molecules[-window:], scaffolds[-window:])
    return LateSamples(
        n=now.n,
        distinct=now.uniqueness,
        scaffold=alarm.window.most_frequent() or None,
        top_share=now.top_share,
        collapsed=bool(alarm.reached(now)) if now.n >= enough else None,
        since=since,
    )
