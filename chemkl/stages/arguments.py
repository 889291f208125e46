"""What `chemkl evaluate`, `compare` and `report` are given: a config file, or runs and files."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.evaluate import TRACE_FOLDER, SampledFile, is_pattern, runs_matching
from chemkl.config.paths import STDIN, is_piped
from chemkl.files.molecules import ENDINGS
from chemkl.files.streams import without_packing
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import method_settings
from chemkl.results.trace import find_trace
from chemkl.stages.registry import STAGES

MADE = {"evaluate": "evaluation", "compare": "comparison", "report": "report"}
"""What each stage makes, in the name of its output folder where there is no config file."""
OF_A_SEED = re.compile(r"[-_.]?seed[-_=.]?\d+")


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command, sorted."""

    source: str | Mapping[str, Any]  # the config file, or the settings that runs and files make
    overrides: Sequence[str]  # settings to change, as ``key=value``
    name: str  # of the output folder


def sort_arguments(stage: str, arguments: Sequence[str]) -> Arguments:
    """Tell config files, runs, files of molecules and settings apart.

    A folder, a pattern and a file that ends like molecules do are inputs; what holds an equals sign
    and is not there is a setting, of each file if it is called as one of these (reward_column);
    anything else, given alone, is a config file.
    """
    overrides = [  # a pattern that fits a run is one
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
            f"({', '.join(ENDINGS)}); a config file is given alone, with its runs and files in it"
        )
    if problem:
        raise InputError(problem)
    if configs:
        return Arguments(inputs[0], overrides, Path(inputs[0]).stem + STAGES[stage].suffix)
    settings = _settings(stage, inputs)
    of_a_file = {*SampledFile.model_fields} - {"path"}
    n_files = len(settings.get("samples", ()))
    changes: list[str] = []
    for text in overrides:
        each_file = n_files and text.partition("=")[0].strip() in of_a_file
        changes += [f"samples.{n}.{text}" for n in range(n_files)] if each_file else [text]
    more = f"-and-{len(inputs) - 1}-more" if len(inputs) > 1 else ""
    return Arguments(settings, changes, f"{_stem(inputs[0])}{more}-{MADE[stage]}")


def _is_input(text: str) -> bool:
    path = Path(text)
    is_run = os.path.isdir(path) or (is_pattern(text) and not os.path.exists(path))
    return is_run or is_piped(path) or without_packing(path).suffix.lower() in ENDINGS


def _stem(text: str) -> str:
    """What an input is called in the name of a folder."""
    path = Path(text)
    if path == STDIN:
        return "stdin"
    if os.path.isdir(path):
        return _run_of(path).resolve().name
    return re.sub(r"[*?\[\]]+", "_", without_packing(path).stem)


def _run_of(folder: Path) -> Path:
    """The folder of a run, of which the trace may have been given."""
    return folder.parent if folder.name == TRACE_FOLDER and folder.is_dir() else folder


def _matching(pattern: str) -> list[Path]:
    try:
        return runs_matching(pattern)
    except ValueError:
        return []


def _settings(stage: str, inputs: Sequence[str]) -> dict[str, Any]:
    """The settings that runs and files make."""
    files = [text for text in inputs if os.path.isfile(text) or is_piped(Path(text))]
    folders: list[Path] = []
    for text in inputs:
        if text not in files:  # a pattern that fits no run is left for its reader
            folders += (_matching(text) if is_pattern(text) else []) or [_run_of(Path(text))]
    if files and stage != "evaluate":
        raise InputError(f"{files[0]}: chemkl {stage} takes folders of runs, not files")
    manifests = {folder: Manifest.load(folder) for folder in folders}
    taus = {one.tau for one in manifests.values() if one and one.tau is not None}
    thresholds = {"thresholds": sorted(taus)} if taus else {}
    runs = [str(folder) for folder in folders]
    if stage == "report":
        return {"runs": runs}
    if stage == "evaluate":
        return {"runs": runs, "samples": [{"path": file} for file in files], **thresholds}
    methods = _methods(manifests)
    if len(methods) == 1:
        for folder in folders:
            find_trace(folder)  # of what is no run it says so
        raise InputError(
            f"chemkl compare: {', '.join(runs)}: one method, as nothing but the seed differs. Give "
            "runs of another method too."
        )
    return {"methods": methods, "baseline": next(iter(methods)), **thresholds}


def _methods(manifests: Mapping[Path, Manifest | None]) -> dict[str, list[str]]:
    """Runs by method: those with the same settings but for the seed, named after the first one."""
    groups: dict[str, list[Path]] = {}
    for folder, manifest in manifests.items():
        same = method_settings(manifest.config, manifest.inputs) if manifest else str(folder)
        groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(folder)
    methods: dict[str, list[str]] = {}
    for group in groups.values():
        first = group[0].resolve().name
        name = OF_A_SEED.sub("", first) or first
        name = f"{name}#{len(methods) + 1}" if name in methods else name
        methods[name] = [str(folder) for folder in group]
    return methods
