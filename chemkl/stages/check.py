"""Check config files without running anything: what each is for, and every problem in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemkl.config import InputError, did_you_mean
from chemkl.config.document import Document
from chemkl.rewards import RewardModel
from chemkl.stages.pipeline import awaited, plan_pipeline
from chemkl.stages.registry import STAGES

KINDS = (*STAGES, "pipeline", "reward")

OUTPUT_PLACES = ("runs", "data/corpora")
"""Folders of the working directory that the stages write to by default or by custom. A config may
be checked before what it reads from there has been made; to run it, it must be there."""


@dataclass(frozen=True)
class Checked:
    """A file without a problem."""

    kind: str
    """What it is for: a stage's name, ``pipeline`` or ``reward``."""
    awaited: tuple[Path, ...] = ()
    """What it reads that has to be made first."""


def check_file(path: str | Path, kind: str | None = None, overrides: Sequence[str] = ()) -> Checked:
    """Check one file.

    Args:
        path: a YAML file.
        kind: what it is for: a stage's name, ``pipeline`` or ``reward``; default: found out from
            its content and the folder it is in.
        overrides: settings of a stage to change, as ``key=value``.

    Returns:
        What it is for, and what it waits for.

    Raises:
        InputError: with a line for every problem.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--stage {kind!r} is not known{did_you_mean(kind, KINDS)}")
    document = Document.read(path, kinds=_folders_of(kind))
    kind = kind or kind_of(document)
    promised = [Path.cwd() / place for place in OUTPUT_PLACES]
    if overrides and kind in ("pipeline", "reward"):
        raise InputError(
            f"{document.name}: {overrides[0]}: a {kind} takes no settings on the command line; "
            "change it in the file"
        )
    if kind == "reward":
        RewardModel.from_config(document)
        return Checked(kind)
    if kind == "pipeline":
        planned = plan_pipeline(path, promised=promised)[1]
        missing = [p for each in planned for p in awaited(each.config, promised)]
        own = [each.job.folder for each in planned]
        foreign = (p for p in missing if not any(p.is_relative_to(folder) for folder in own))
        return Checked(kind, tuple(dict.fromkeys(foreign)))
    config = STAGES[kind].load(document, overrides, promised=promised)
    missing = awaited(config, promised)
    try:
        STAGES[kind].check(config, document.name, missing)
    except InputError as error:
        waits = [f"{document.name}: not made yet: {path}" for path in missing]
        raise InputError("\n".join([str(error), *waits])) from error
    return Checked(kind, tuple(missing))


def _folders_of(kind: str | None) -> list[str]:
    """Where a name alone is looked up among the files that come with chemkl."""
    folders = {name: f"configs/{name}" for name in STAGES}
    folders = {"pipeline": "pipelines", "reward": "configs/rewards", **folders}
    return list(folders.values()) if kind is None else [folders[kind]]


def kind_of(document: Document) -> str:
    """What a config file is for.

    A file with ``stages`` is a pipeline, one with ``components`` a reward; else the folder says it,
    where that is called like a stage or ``rewards`` (also one folder up: rewards/pmo/); else it is
    for the stage that knows most of its keys.

    Raises:
        InputError: no stage knows its keys, or several know as many.
    """
    parent = document.folder or Path()
    folder = parent.name
    if "stages" in document.data:
        return "pipeline"
    if folder == "rewards" or "components" in document.data:
        return "reward"
    if folder in STAGES:
        return folder
    if parent.parent.name == "rewards":
        return "reward"
    known = {name: _known_keys(name, document.data) for name in STAGES}
    most = max(known.values())
    models = {name: STAGES[name].model for name, count in known.items() if count == most}
    best = [  # a forecast has all keys of a posttrain: without any of its own, the file is that's
        name
        for name, model in models.items()
        if not any(model is not other and issubclass(model, other) for other in models.values())
    ]
    if most == 0 or len(best) > 1:
        could_be = best if most else KINDS
        raise InputError(
            f"{document.name}: its keys do not tell what it is for; say it with --stage NAME, one "
            f"of {', '.join(could_be)}."
        )
    return best[0]


def _known_keys(stage: str, data: dict[str, Any]) -> int:
    return len(STAGES[stage].model.model_fields.keys() & data.keys())
