"""Check without running: one config file, or the jobs of a pipeline and what their folders hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from chemkl.config import Config, InputError, complaints, did_you_mean
from chemkl.config.loading import Document, Draft, Override
from chemkl.config.pipeline import Job, PipelineConfig, expand
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import as_json, differences, identity
from chemkl.stages import runner
from chemkl.stages.registry import LAST, STAGES, Stage

Source = PipelineConfig | Mapping[str, Any] | str | Path
State = Literal["new", "resume", "again", "complete"]
"""State of a job's folder. new: no run yet; resume: an unfinished run; again: a run whose inputs
have changed or that read other jobs, to be moved aside and repeated; complete: a finished run."""
LOGS = "_logs"
"""Folder for the output of jobs, next to the jobs' folders; no job can have this name."""
KINDS = (*STAGES, "pipeline", "reward")
"""What a file can be for."""
OUTPUT_PLACES = ("runs", "data/corpora")
"""Folders of the working directory that stages write to by default or by convention. `chemkl check`
accepts paths in them that do not exist yet; a run does not."""


@dataclass(frozen=True)
class Planned:
    """A job whose settings have been checked."""

    job: Job
    stage: Stage
    config: Config
    folder: Path
    needs: tuple[Job, ...]  # earlier jobs whose output it reads

    @property
    def logs(self) -> Path:
        """Path of the job's log files, without their suffix."""
        return self.folder.parent / LOGS / self.job.name


def plan_pipeline(
    source: Source,
    out_dir: str | Path | None = None,
    promised: Sequence[Path] = (),
    *,
    job: str | None = None,
    fresh: bool = False,
) -> tuple[PipelineConfig, list[Planned]]:
    """Read a pipeline and check the settings of its jobs in the order in which they run.

    Args:
        source: a pipeline or the path of its file.
        out_dir: parent of the jobs' folders.
        promised: folders whose content need not exist yet.
        job: check only the job with this name.
        fresh: ignore the copies that runs keep of models that have been deleted.
    """
    expansion = expand(source, out_dir)
    problems = dict.fromkeys(expansion.problems)
    names = [each.name for each in expansion.jobs]
    if job is not None and job not in names and not problems:
        raise InputError(f"--job {job}: the pipeline has no such job{did_you_mean(job, names)}")
    promised = [*promised, *expansion.unknown]
    earlier: dict[Path, Sequence[str]] = {}
    job_of: dict[Path, Job] = {}
    planned: list[Planned] = []
    for each in expansion.jobs:
        stage, places = STAGES[each.stage], {"also": each.also, "promised": promised}
        try:
            if job in (None, each.name):
                copies = {} if fresh else runner.model_copies(each.folder)
                config = stage.load(
                    each.source, each.overrides, kept=copies, earlier=earlier, **places
                )
                pending = pending_paths(config, promised, earlier)
                stage.check(config, each.entry, pending, copies=copies)
                inputs = {*each.reads, *(p for path in pending for p in (path, *path.parents))}
                needs = tuple(source for folder, source in job_of.items() if folder in inputs)
                planned.append(Planned(each, stage, config, each.folder, needs))
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        earlier[each.folder] = stage.outputs
        job_of[each.folder] = each
    InputError.refuse(problems)
    return expansion.config, planned


def pending_paths(
    config: Config, promised: Iterable[Path], earlier: Iterable[Path] = ()
) -> list[Path]:
    """Return the paths of a config that do not exist yet or that an earlier job makes again."""
    remade, future = {*earlier}, {*promised}
    return [
        path
        for path in runner.paths_of(config)
        if not remade.isdisjoint((path, *path.parents))
        or (not future.isdisjoint((path, *path.parents)) and not path.exists())
    ]


def choose(planned: list[Planned], only: str | None, index: int | None) -> list[Planned]:
    """Select the jobs of one entry, one job or one stage; with an index, only that one of them."""
    chosen, problem = planned, ""
    if only is not None:
        for key in ("entry", "name", "stage"):
            chosen = [plan for plan in planned if only == getattr(plan.job, key)]
            if chosen:
                break
        else:
            names = {name for p in planned for name in (p.job.entry, p.job.name, p.job.stage)}
            problem = (
                f"--only {only}: the pipeline has no such entry, job or stage"
                f"{did_you_mean(only, names)}"
            )
    if index is not None and not problem and not 0 <= index < len(chosen):
        positions = f"{len(chosen)} jobs{f' of {only}' if only else ''}, 0 to {len(chosen) - 1}"
        problem = f"--index {index}: there are {positions}; --dry-run lists them."
    if problem:
        raise InputError(problem)
    return chosen if index is None else [chosen[index]]


# ---- the folders of jobs


def check_folders(chosen: list[Planned], *, fresh: bool = False) -> dict[str, State]:
    """Return the state of each job's folder, by the job's name.

    Raises:
        InputError: a folder cannot be used or moved aside, or no job makes an input.
    """
    problems: list[str] = []
    states: dict[str, State] = {}
    running = {plan.folder for plan in chosen}
    for plan in chosen:
        to_run = [name for name, state in states.items() if state != "complete"]
        state: State = "new"  # also of a folder with a problem
        try:
            if not fresh:
                state = state_of(plan, to_run)
            if fresh or state == "again":
                runner.check_movable(plan.folder, plan.config)
            if not fresh and not _reads_other_jobs(plan, Manifest.load(plan.folder)):
                runner.check_folder(plan.stage, plan.config, plan.folder)
        except InputError as error:
            problems.append(str(error))
        states[plan.job.name] = state
        problems += [
            f"{plan.job.name}: reads {relative(need.folder)}, which is not complete; first run "
            f"it: --only {need.name}"
            for need in plan.needs
            if need.folder not in running and not is_complete(need.folder)
        ]
    InputError.refuse(dict.fromkeys(problems))
    return states


def is_complete(folder: Path) -> bool:
    """Tell whether a folder holds a finished run."""
    manifest = Manifest.load(folder)
    return manifest is not None and manifest.status == "complete"


def state_of(plan: Planned, to_run: Iterable[str] = ()) -> State:
    """Return the state of a job's folder; `to_run` names earlier jobs that will run first."""
    manifest = Manifest.load(plan.folder)
    if manifest is None or manifest.can_be_replaced_by(plan.stage.name):
        return "new"
    if manifest.has_changed_inputs() or _reads_other_jobs(plan, manifest):
        return "again"
    for need in plan.needs:
        source = Manifest.load(need.folder)
        if need.name in to_run or source is None or (source.finished or "") > manifest.started:
            return "again"
    return "complete" if runner.is_finished(plan.stage, plan.config, plan.folder) else "resume"


def _reads_other_jobs(plan: Planned, manifest: Manifest | None) -> bool:
    """Tell whether a table or report now reads other jobs of this pipeline and is else unchanged.

    That is so when seeds or methods have been added to the pipeline.
    """
    if manifest is None or manifest.stage != plan.stage.name or LAST in plan.stage.outputs:
        return False
    now = identity(plan.config.model_dump(mode="json"))
    changed = differences({"there": identity(manifest.config), "here": now})
    jobs = f'"{plan.folder.parent}/'
    return bool(changed) and all(
        any(jobs in as_json(value) for value in values.values()) for values in changed.values()
    )


def relative(folder: Path) -> str:
    """Return a folder's path relative to the working directory if it lies in it."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


# ---- chemkl check


@dataclass(frozen=True)
class Checked:
    """A file without a problem."""

    kind: str  # a stage's name, ``pipeline`` or ``reward``
    pending: tuple[Path, ...] = ()  # inputs that do not exist yet


def check_file(path: str | Path, kind: str | None = None, overrides: Sequence[str] = ()) -> Checked:
    """Check a config, pipeline or reward file."""
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
        from chemkl.rewards import RewardModel  # it imports RDKit: not for chemkl run

        RewardModel.from_config(document)
        return Checked(kind)
    if kind == "pipeline":
        planned = plan_pipeline(path, promised=promised)[1]
        made = {plan.folder for plan in planned}
        missing = [place for plan in planned for place in pending_paths(plan.config, promised)]
        foreign = (place for place in missing if made.isdisjoint((place, *place.parents)))
        return Checked(kind, tuple(dict.fromkeys(foreign)))
    stage = STAGES[kind]
    config = stage.load(document, overrides, promised=promised)
    missing = pending_paths(config, promised)
    changes = [Override.parse(text) for text in overrides]
    draft = Draft(stage.model, document, document.data, changes, {})
    problems = complaints(
        (partial(stage.check, placed=draft.placed), config, document.name, missing)
    )
    if problems:
        not_made = [f"{document.name}: not made yet: {path}" for path in missing]
        raise InputError("\n".join([*problems, *not_made]))
    return Checked(kind, tuple(missing))


def kind_of(document: Document) -> str:
    """Infer what a config file is for.

    1. ``stages`` without ``target``, outside a stage's folder: a pipeline.
    2. ``components``, or the folder ``rewards``: a reward.
    3. The folder has the name of a stage: that stage.
    4. The parent folder is ``rewards`` (rewards/pmo/): a reward.
    5. Otherwise the stage that knows most of its keys.
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
    best = [  # forecast has all keys of posttrain: without one of its own, the file is posttrain's
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
