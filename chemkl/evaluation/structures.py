"""The structures of very many molecules, read in this process or in several at once."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chemkl.chem.molecules import canonicalise
from chemkl.chem.scaffolds import Structure, StructureReader
from chemkl.rewards.pool import Jobs, Lost, Mark, Pool

ALONE = 20_000
"""Fewer molecules than these are read by this process alone: some seconds, as long as it takes to
start others."""

UNIT = 100
"""So many molecules are handed to a process at a time: 10 ms of work."""

CHECKED = 1000
"""Recorded scaffolds are believed if so many of them are what this RDKit makes of the molecules."""


def n_workers(wanted: int | None) -> int:
    """How many processes or threads to use: so many as wanted, or else one for each core."""
    if wanted is not None:
        return wanted
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_structures(
    smiles: Sequence[str],
    scaffolds: Sequence[str | None] | None = None,
    workers: int | None = None,
) -> list[Structure | None]:
    """Read molecules, in order; None where RDKit refuses one.

    Args:
        smiles: of the molecules.
        scaffolds: their Bemis-Murcko scaffolds as they were recorded, None where one was not. They
            save a third of the time where there are many, after a check of 1,000 of them: if one is
            not what this RDKit makes of its molecule, none is used. Few are computed anew.
        workers: processes; None: one for each core. What is read does not depend on it.

    Raises:
        RuntimeError: a worker process died.
    """
    units: list[Any] = list(smiles)
    if scaffolds is not None and _are_right(smiles, scaffolds):
        units = list(zip(smiles, scaffolds, strict=True))
    found = _in_order("structures", units, workers)
    return [None if each is None else Structure._make(each) for each in found]


def canonical_smiles(texts: Sequence[str], workers: int | None = None) -> list[str | None]:
    """Canonicalise SMILES, in order; None where one is not valid.

    Raises:
        RuntimeError: a worker process died.
    """
    return _in_order("canonical", texts, workers)


def _are_right(smiles: Sequence[str], scaffolds: Sequence[str | None]) -> bool:
    if len(smiles) <= CHECKED:
        return False
    read = StructureReader()
    for i in np.linspace(0, len(smiles) - 1, CHECKED).astype(int):
        found = read(smiles[i])
        if found is not None and scaffolds[i] not in {None, found.scaffold}:
            return False
    return True


def _jobs(_mark: Mark | None = None) -> Jobs:
    """What is done with a unit; a process keeps its reader, and so what that remembers."""
    read = StructureReader()

    def structures(unit: Sequence[str | tuple[str, str | None]]) -> list[tuple[Any, ...] | None]:
        found = (read(each) if isinstance(each, str) else read(*each) for each in unit)
        return [each and tuple(each) for each in found]  # plain tuples travel five times as fast

    def canonical(unit: Sequence[str]) -> list[str | None]:
        return [canonicalise(each) for each in unit]

    return {"structures": structures, "canonical": canonical}


def _in_order(job: str, items: Sequence[Any], workers: int | None) -> list[Any]:
    """Do a job with many items, in units, and give what comes of each item."""
    workers = n_workers(workers)
    if workers == 1 or len(items) < ALONE:
        work: Callable[[Any], list[Any]] = _jobs()[job]
        return work(items)
    units = [items[start : start + UNIT] for start in range(0, len(items), UNIT)]
    done: list[Any] = [None] * len(items)
    with Pool(_jobs, workers, preload=[__name__]) as pool:
        for number, outcome in pool.run(job, units):
            first = number * UNIT
            _refuse_lost(outcome, first + 1, first + len(units[number]))
            done[first : first + len(units[number])] = outcome
    return done


def _refuse_lost(outcome: list[Any] | Lost, first: int, last: int) -> None:
    if isinstance(outcome, Lost):
        raise RuntimeError(  # noqa: TRY004 - nobody gave a wrong type: a process died
            f"molecules {first} to {last}: {outcome.reason}. Is there enough memory? With "
            "metrics.workers: 1 there is one process only."
        )
