"""Check config files without running anything: what each is for, and every problem in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chemkl.config import InputError, complaints, did_you_mean
from chemkl.config.loading import Document
from chemkl.rewards import RewardModel
from chemkl.stages.plan import awaited, plan_pipeline
from chemkl.stages.registry import STAGES

KINDS = (*STAGES, "pipeline", "reward")

OUTPUT_PLACES = ("runs", "data/corpora")
"""Folders of the working directory that the stages write to by default or by custom. A config may
be checked before what it reads from there has been made; to run it, it must be there."""


@dataclass(frozen=True)
class Checked:
    """A file without a problem."""

    kind: str  # what it is for: a stage's name, ``pipeline`` or ``reward``
    awaited: tuple[Path, ...] = ()  # what it reads that has to be made first


def check_file(path: str | Path, kind: str | None = None, overrides: Sequence[str] = ()) -> Checked:
    """Check one file."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"--stage {kind!r} is not known{did_you_mean(kind, KINDS)}")
    folders = {"pipeline": "pipelines", "reward": "configs/rewards"}
    folders |= {name: f"configs/{name}" for name in STAGES}
    document = Document.read(path, kinds=[folders[kind]] if kind else folders.values())
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
        made = {plan.folder for plan in planned}
        missing = [place for plan in planned for place in awaited(plan.config, promised)]
        foreign = (place for place in missing if made.isdisjoint((place, *place.parents)))
        return Checked(kind, tuple(dict.fromkeys(foreign)))
    config = STAGES[kind].load(document, overrides, promised=promised)
    missing = awaited(config, promised)
    problems = complaints((partial(STAGES[kind].check, config), document.name, missing))
    waits = [f"{document.name}: not made yet: {path}" for path in missing]
    if problems:
        raise InputError("\n".join([*problems, *waits]))
    return Checked(kind, tuple(missing))


def kind_of(document: Document) -> str:
    """What a config file is for.

    A file with ``stages`` is a pipeline, unless it has a ``target``, or lies in the folder of a
    stage: then these are its own. One with ``components`` is a reward; else the folder says it,
    where that is called like a stage or ``rewards`` (also one folder up: rewards/pmo/); else it is
    for the stage that knows most of its keys.
    """
    data, parent = document.data, document.folder or Path()
    folder = parent.name
    if "stages" in data and "target" not in data and folder not in STAGES:
        return "pipeline"
    if folder == "rewards" or "components" in data:
        return "reward"
    if folder in STAGES:
        return folder
    if parent.parent.name == "rewards":
        return "reward"
    models = {name: stage.model for name, stage in STAGES.items()}
    counts = {name: len(model.model_fields.keys() & data.keys()) for name, model in models.items()}
    most = max(counts.values())
    fitting = {name: models[name] for name, n in counts.items() if n == most}
    best = [  # a forecast has all keys of a posttrain: without any of its own, the file is that's
        name
        for name, model in fitting.items()
        if not any(base in fitting.values() for base in model.__mro__[1:])
    ]
    if most and len(best) == 1:
        return best[0]
    raise InputError(
        f"{document.name}: its keys do not tell what it is for; say it with --stage NAME, one of "
        f"{', '.join(best if most else KINDS)}."
    )
