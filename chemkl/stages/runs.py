"""Runs and files of molecules as inputs of evaluate, compare and report: arguments and names."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemkl.config import InputError, complaints
from chemkl.config.base import utf8
from chemkl.config.evaluate import TRACE_FOLDER, SampledFile, is_pattern, runs_matching
from chemkl.config.paths import STDIN, is_piped
from chemkl.files.molecules import ENDINGS
from chemkl.files.tables import without_packing
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import method_settings, mixed_settings
from chemkl.results.trace import find_trace
from chemkl.stages.registry import STAGES

NOUNS = {"evaluate": "evaluation", "compare": "comparison", "report": "report"}
"""Suffix of a stage's output folder if there is no config file."""
SEED_SUFFIX = re.compile(r"[-_.]?seed[-_=.]?\d+")


def require_traces(folders: Iterable[Path]) -> None:
    """Check that all runs have a trace."""
    InputError.refuse(complaints(*((find_trace, folder) for folder in folders)))


def run_names(folders: Sequence[Path]) -> list[str]:
    """Name runs after their folders, with as many parent folders as make the names unique."""
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        names = [utf8("/".join(folder.parts[-depth:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{utf8(folder)}#{number}" for number, folder in enumerate(folders, start=1)]


def trace_inputs(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the traces of runs as inputs of a stage, by role."""
    names = zip(run_names(folders), folders, strict=True)
    return {f"run {name}": folder / TRACE_FOLDER for name, folder in names}


def mixed(method: str, folders: Iterable[Path]) -> list[str]:
    """Return every setting in which the runs of a method differ; skip runs without a manifest."""
    manifests = {str(folder): Manifest.load(folder) for folder in folders}
    settings = {n: method_settings(m.config, m.inputs) for n, m in manifests.items() if m}
    return mixed_settings(method, settings)


@dataclass(frozen=True)
class Arguments:
    """The sorted arguments of a command."""

    source: str | Mapping[str, Any]  # a config file, or the settings for the runs and files
    overrides: Sequence[str]  # settings to change, as ``key=value``
    name: str  # of the output folder


def sort_arguments(stage: str, arguments: Sequence[str]) -> Arguments:
    """Separate config files, runs, files of molecules and settings.

    Folders, patterns and files with an ending for molecules are inputs. Text with an equals sign
    that is not a path is a setting; the keys of a file of molecules (reward_column) go to every
    such file. Anything else is a config file and must be the only input.
    """
    overrides = [  # a pattern that matches a run is an input
        text
        for text in arguments
        if "=" in text and not os.path.exists(text) and not (is_pattern(text) and _matching(text))
    ]
    inputs = [text for text in arguments if text not in overrides]
    configs = [text for text in inputs if not _is_input(text)]
    problem = "" if inputs else f"chemkl {stage}: give a config file, or runs to {stage}"
    if configs and len(inputs) > 1:
        no_file = "" if os.path.exists(configs[0]) else "no such file; "
        problem = (
            f"{configs[0]}: {no_file}neither a run's folder nor a file of molecules "
            f"({', '.join(ENDINGS)}); a config file must be the only input and "
            "name its runs and files"
        )
    if problem:
        raise InputError(problem)
    if configs:
        return Arguments(inputs[0], overrides, Path(inputs[0]).stem + STAGES[stage].suffix)
    settings = _settings(stage, inputs)
    file_keys = {*SampledFile.model_fields} - {"path"}
    n_files = len(settings.get("samples", ()))
    changes: list[str] = []
    for text in overrides:
        for_files = n_files and text.partition("=")[0].strip() in file_keys
        changes += [f"samples.{n}.{text}" for n in range(n_files)] if for_files else [text]
    more = f"-and-{len(inputs) - 1}-more" if len(inputs) > 1 else ""
    return Arguments(settings, changes, f"{_stem(inputs[0])}{more}-{NOUNS[stage]}")


def _is_input(text: str) -> bool:
    path = Path(text)
    is_run = os.path.isdir(path) or (is_pattern(text) and not os.path.exists(path))
    return is_run or is_piped(path) or without_packing(path).suffix.lower() in ENDINGS


def _stem(text: str) -> str:
    """Return the name of an input for a folder."""
    path = Path(text)
    if path == STDIN:
        return "stdin"
    if os.path.isdir(path):
        return _run_of(path).resolve().name
    return re.sub(r"[*?\[\]]+", "_", without_packing(path).stem)


def _run_of(folder: Path) -> Path:
    """Return the folder of a run or of its trace."""
    return folder.parent if folder.name == TRACE_FOLDER and folder.is_dir() else folder


def _matching(pattern: str) -> list[Path]:
    try:
        return runs_matching(pattern)
    except ValueError:
        return []


def _settings(stage: str, inputs: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a stage for runs and files."""
    files = [text for text in inputs if os.path.isfile(text) or is_piped(Path(text))]
    folders: list[Path] = []
    for text in inputs:
        if text not in files:  # a pattern without a match is an error of the stage
            folders += (_matching(text) if is_pattern(text) else []) or [_run_of(Path(text))]
    if files and stage != "evaluate":
        raise InputError(f"{files[0]}: chemkl {stage} takes folders of runs, not files")
    manifests = {folder: Manifest.load(folder) for folder in folders}
    taus = {m.tau for m in manifests.values() if m and m.tau is not None}
    thresholds = {"thresholds": sorted(taus)} if taus else {}
    runs = [str(folder) for folder in folders]
    if stage == "report":
        return {"runs": runs}
    if stage == "evaluate":
        return {"runs": runs, "samples": [{"path": file} for file in files], **thresholds}
    methods = _methods(manifests)
    if len(methods) == 1:
        for folder in folders:
            find_trace(folder)  # raises if this is no run
        raise InputError(
            f"chemkl compare: {', '.join(runs)}: only the seed differs, so all are one method. "
            "Give runs of another method too."
        )
    return {"methods": methods, "baseline": next(iter(methods)), **thresholds}


def _methods(manifests: Mapping[Path, Manifest | None]) -> dict[str, list[str]]:
    """Group runs that differ only in the seed; each method has the name of its first run."""
    groups: dict[str, list[Path]] = {}
    for folder, manifest in manifests.items():
        settings = method_settings(manifest.config, manifest.inputs) if manifest else str(folder)
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(folder)
    methods: dict[str, list[str]] = {}
    for group in groups.values():
        first = group[0].resolve().name
        name = SEED_SUFFIX.sub("", first) or first
        name = f"{name}#{len(methods) + 1}" if name in methods else name
        methods[name] = [str(folder) for folder in group]
    return methods
