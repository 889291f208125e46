"""The runs of several methods: whether they may be compared at all, and which seeds pair."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chemkl.config import InputError
from chemkl.config.reward import RewardConfig
from chemkl.results import Manifest
from chemkl.results.provenance import (
    SHOWN,
    as_json,
    describe_differences,
    differences,
    method_settings,
    mixed_settings,
)

_SHARED = ("budget", "max_samples", "prior", "reward")
"""Settings that all compared runs have alike; the others make a method."""


@dataclass(frozen=True)
class ComparedRun:
    """A finished posttrain run.

    Attributes:
        folder: where it is.
        seed: of the run.
        budget: oracle calls that it was given.
        shared: what all compared runs must have alike, by dotted key.
        own: the settings of its method, by dotted key.
        precision: that it used; empty where it is not recorded.
    """

    folder: Path
    seed: int
    budget: int
    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    precision: str


@dataclass(frozen=True)
class Pairs:
    """The seeds that each method has in common with the baseline, and a line for those left out."""

    seeds: Mapping[str, Sequence[int]]
    left_out: Sequence[str]


def read_methods(methods: Mapping[str, Sequence[Path]]) -> dict[str, dict[int, ComparedRun]]:
    """Read the manifests of all runs; traces are not read.

    Returns:
        For each method its runs by seed.

    Raises:
        InputError: with every folder that is no finished posttrain run, every seed that a method
            has twice, and every setting in which runs differ that must not.
    """
    problems: list[str] = []
    runs: dict[str, list[ComparedRun]] = {method: [] for method in methods}
    for method, folders in methods.items():
        for folder in folders:
            try:
                runs[method].append(_read_run(folder))
            except InputError as error:
                problems.append(str(error))
    problems += _twice(runs)
    everything = [run for each in runs.values() for run in each]
    found = differences({str(run.folder): run.shared for run in everything})
    if found:
        problems.append(
            "methods: runs with different rewards, priors or budgets cannot be compared. Leave out "
            f"the runs that differ:\n{describe_differences(found)}"
        )
    for method, each in runs.items():
        problems += mixed_settings(method, {str(run.folder): run.own for run in each})
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return {method: {run.seed: run for run in each} for method, each in runs.items()}


def what_differs(methods: Mapping[str, Mapping[int, ComparedRun]], baseline: str) -> Iterator[str]:
    """Say in which settings each method differs from the baseline; they may be just the same.

    And whether the runs used several precisions.
    """
    of_method = {name: next(iter(runs.values())).own for name, runs in methods.items()}
    for name, own in of_method.items():
        if name == baseline:
            continue
        found = differences({name: own, baseline: of_method[baseline]})
        each = [f"{key} {as_json(v[name])}, not {as_json(v[baseline])}" for key, v in found.items()]
        more = len(each) - SHOWN
        shown = [*each[:SHOWN], *([f"{more} more"] if more > 0 else [])]
        told = "; ".join(shown) or "nothing: the settings are the same, and so is what they do"
        yield f"{name} differs from {baseline} in {told}"
    used: dict[str, list[str]] = {}
    for name, runs in methods.items():
        for seed, run in runs.items():
            if run.precision:
                used.setdefault(run.precision, []).append(f"{name} seed {seed}")
    if len(used) > 1:  # of the same setting, auto, on several machines
        each = [f"{precision} by {', '.join(own)}" for precision, own in used.items()]
        yield f"not all runs were trained in the same precision: {'; '.join(each)}"


def pair_seeds(seeds: Mapping[str, Collection[int]], baseline: str) -> Pairs:
    """Find the seeds that each other method has in common with the baseline.

    Raises:
        InputError: with every method that has none.
    """
    paired, left_out, problems = {}, [], []
    for method, own in seeds.items():
        if method == baseline:
            continue
        paired[method] = sorted(set(own) & set(seeds[baseline]))
        if not paired[method]:
            problems.append(
                f"methods.{method}: no seed in common with the baseline {baseline}: it has "
                f"{_listed(own)}, the baseline {_listed(seeds[baseline])}. Runs are compared seed "
                "by seed: train it with the baseline's seeds."
            )
        unpaired = {method: set(own) - set(seeds[baseline])}
        unpaired[baseline] = set(seeds[baseline]) - set(own)
        alone = [f"{_listed(some)} of {name}" for name, some in unpaired.items() if some]
        if alone:
            left_out.append(f"{method} against {baseline}: without a pair: {'; '.join(alone)}")
    if problems:
        raise InputError("\n".join(problems))
    return Pairs(paired, left_out)


def _read_run(folder: Path) -> ComparedRun:
    manifest = Manifest.load(folder)
    if manifest is None or manifest.stage != "posttrain":
        raise InputError(
            f"{folder}: not the folder of a posttrain run (its manifest.json says so)."
        )
    if manifest.status != "complete":
        raise InputError(
            f"{folder}: the run is {manifest.status}, not complete; what it has of its budget "
            "cannot be compared. Finish it, or leave it out."
        )
    config = manifest.config
    try:
        reward = RewardConfig.model_validate(config.get("reward")).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(
            f"{folder}: its reward cannot be read: {error.errors()[0]['msg']}"
        ) from error
    budget, prior = config.get("budget"), manifest.inputs.get("prior")
    if manifest.seed is None or not isinstance(budget, int) or prior is None:
        raise InputError(f"{folder}: its manifest.json names no seed, no budget or no prior.")
    resolved = config | {"reward": reward, "max_samples": config.get("max_samples") or 10 * budget}
    settings = method_settings(resolved, manifest.inputs)
    shared = {key: value for key, value in settings.items() if key in _SHARED}
    own = {key: value for key, value in settings.items() if key not in shared}
    files = {role: f.sha256 for role, f in manifest.inputs.items() if role.startswith("reward.")}
    shared |= {"prior (sha256)": prior.sha256} | {f"{r} (sha256)": s for r, s in files.items()}
    shared.pop("prior", None)
    used = manifest.precision.used if manifest.precision else ""
    return ComparedRun(folder, manifest.seed, budget, shared, own, used)


def _twice(runs: Mapping[str, Sequence[ComparedRun]]) -> Iterator[str]:
    """Name what stands twice: a seed in a method, a folder in two methods."""
    methods_of: dict[Path, list[str]] = {}
    for method, each in runs.items():
        by_seed: dict[int, list[Path]] = {}
        for run in each:
            by_seed.setdefault(run.seed, []).append(run.folder)
            methods_of.setdefault(run.folder.resolve(), []).append(method)
        for seed, folders in by_seed.items():
            if len(folders) > 1:
                yield (
                    f"methods.{method}: several runs have seed {seed}: "
                    f"{', '.join(map(str, folders))}. Keep one of them."
                )
    for folder, methods in methods_of.items():
        if len(set(methods)) > 1:
            yield f"{folder}: stands under several methods: {', '.join(methods)}. Keep it in one."


def _listed(seeds: Collection[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
