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
from chemkl.files.streams import PACKINGS
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import method_settings
from chemkl.stages.registry import STAGES

MADE = {"evaluate": "evaluation", "compare": "comparison", "report": "report"}
"""What each stage makes, in the name of its output folder where there is no config file."""
OF_A_SEED = re.compile(r"[-_.]?seed[-_=.]?\d+")


@dataclass(frozen=True)
class Given:
    """The arguments of a command, taken apart."""

    source: str | Mapping[str, Any]
    """The config file, or the settings that the runs and files make."""
    overrides: Sequence[str]
    """Settings to change, as ``key=value``."""
    name: str
    """Of the output folder."""


def take_apart(stage: str, arguments: Sequence[str]) -> Given:
    """Tell config files, runs, files of molecules and settings apart.

    A folder, a pattern and a file that ends like molecules do are inputs; what holds an equals sign
    and is not there is a setting, of each file if it is called as one of these (reward_column);
    anything else, given alone, is a config file.

    Args:
        stage: evaluate, compare or report.
        arguments: of the command.

    Raises:
        InputError: there is nothing, or a config file beside something else, or a file where the
            stage takes runs alone, or runs of one method to compare.
    """
    overrides = [each for each in arguments if "=" in each and not _is_there(each)]
    inputs = [each for each in arguments if each not in overrides]
    if not inputs:
        raise InputError(f"chemkl {stage}: give a config file, or runs to {stage}")
    configs = [each for each in inputs if not _is_input(each)]
    if configs and len(inputs) > 1:
        gone = "" if os.path.exists(configs[0]) else "no such file; "
        raise InputError(
            f"{configs[0]}: {gone}neither a run's folder nor a file of molecules "
            f"({', '.join(ENDINGS)}); a config file is given alone, with its runs and files in it"
        )
    if configs:
        return Given(inputs[0], overrides, Path(inputs[0]).stem + STAGES[stage].suffix)
    more = f"-and-{len(inputs) - 1}-more" if len(inputs) > 1 else ""
    settings = _settings(stage, inputs)
    files = range(len(settings.get("samples", ())))
    changes = [
        change
        for each in overrides
        for change in (
            [f"samples.{n}.{each}" for n in files] if _is_of_a_file(each) and files else [each]
        )
    ]
    return Given(settings, changes, f"{_stem(inputs[0])}{more}-{MADE[stage]}")


def _is_input(text: str) -> bool:
    path = Path(text)
    is_run = os.path.isdir(path) or (is_pattern(text) and not os.path.exists(path))
    return is_run or is_piped(path) or _without_packing(path).suffix.lower() in ENDINGS


def _is_of_a_file(override: str) -> bool:
    return override.partition("=")[0].strip() in {*SampledFile.model_fields} - {"path"}


def _without_packing(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in PACKINGS else path


def _stem(text: str) -> str:
    """What an input is called in the name of a folder."""
    path = Path(text)
    if path == STDIN:
        return "stdin"
    if os.path.isdir(path):
        return _run_of(path).resolve().name
    return re.sub(r"[*?\[\]]+", "_", _without_packing(path).stem)


def _run_of(folder: Path) -> Path:
    """The folder of a run, of which the trace may have been given."""
    return folder.parent if folder.name == TRACE_FOLDER and folder.is_dir() else folder


def _settings(stage: str, inputs: Sequence[str]) -> dict[str, Any]:
    """The settings that runs and files make."""
    files = [each for each in inputs if os.path.isfile(each) or is_piped(Path(each))]
    folders = [run for each in inputs if each not in files for run in _runs(each)]
    if files and stage != "evaluate":
        raise InputError(f"{files[0]}: chemkl {stage} takes folders of runs, not files")
    manifests = {folder: Manifest.load(folder) for folder in folders}
    taus = {found.tau for found in manifests.values() if found and found.tau is not None}
    thresholds = {"thresholds": sorted(taus)} if taus else {}
    runs = [str(folder) for folder in folders]
    if stage == "report":
        return {"runs": runs}
    if stage == "evaluate":
        return {"runs": runs, "samples": [{"path": file} for file in files], **thresholds}
    methods = _methods(manifests)
    if len(methods) == 1:
        raise InputError(
            f"chemkl compare: {', '.join(runs)}: one method, as nothing but the seed differs. Give "
            "runs of another method too."
        )
    return {"methods": methods, "baseline": next(iter(methods)), **thresholds}


def _is_there(text: str) -> bool:
    return os.path.exists(text) or (is_pattern(text) and bool(_matching(text)))


def _runs(text: str) -> list[Path]:
    """The folders that an argument names; a pattern that fits none is left for its reader."""
    return (_matching(text) if is_pattern(text) else []) or [_run_of(Path(text))]


def _matching(pattern: str) -> list[Path]:
    try:
        return runs_matching(pattern)
    except ValueError:
        return []


def _methods(manifests: Mapping[Path, Manifest | None]) -> dict[str, list[str]]:
    """Runs by method: those with the same settings but for the seed, named after the first one."""
    groups: dict[str, list[Path]] = {}
    for folder, found in manifests.items():
        same = method_settings(found.config, found.inputs) if found else str(folder)
        groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(folder)
    methods: dict[str, list[str]] = {}
    for own in groups.values():
        name = OF_A_SEED.sub("", own[0].resolve().name) or own[0].resolve().name
        name = f"{name}#{len(methods) + 1}" if name in methods else name
        methods[name] = [str(folder) for folder in own]
    return methods
