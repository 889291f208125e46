"""The jobs of a pipeline, checked: which of them reads which, and what their folders hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chemkl.config import Config, InputError, did_you_mean
from chemkl.config.pipeline import Job, PipelineConfig, expand
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import as_json, differences, identity
from chemkl.stages import runner
from chemkl.stages.registry import LAST, STAGES, Stage

Source = PipelineConfig | Mapping[str, Any] | str | Path
State = Literal["new", "resume", "again", "complete"]
"""What a job's folder holds: nothing; an unfinished run; a run of input that has changed since, or
of other jobs than it is to read now (set aside and run again); or the finished run."""
LOGS = "_logs"
"""Folder of the jobs' output beside their own folders; no job can be called so."""


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
        """Where the output of this job goes if it does not go to a terminal, without its ending."""
        return self.folder.parent / LOGS / self.job.name


def plan_pipeline(
    source: Source,
    out_dir: str | Path | None = None,
    promised: Sequence[Path] = (),
    *,
    job: str | None = None,
    fresh: bool = False,
) -> tuple[PipelineConfig, list[Planned]]:
    """Read a pipeline, and check the settings of its jobs in the order in which they run.

    With the name of one job, only its settings are looked into. With `fresh` it does without what
    runs keep of models that are gone.
    """
    expansion = expand(source, out_dir)
    problems = dict.fromkeys(expansion.problems)
    names = [one.name for one in expansion.jobs]
    if job is not None and job not in names and not problems:
        raise InputError(f"--job {job}: the pipeline has none{did_you_mean(job, names)}")
    promised = [*promised, *expansion.unknown]
    earlier: dict[Path, Sequence[str]] = {}
    job_of: dict[Path, Job] = {}
    planned: list[Planned] = []
    for one in expansion.jobs:
        stage, places = STAGES[one.stage], {"also": one.also, "promised": promised}
        try:
            if job in (None, one.name):
                kept = {} if fresh else runner.kept_models(one.folder)
                config = stage.load(one.source, one.overrides, kept=kept, earlier=earlier, **places)
                unread = awaited(config, promised, earlier)  # the stage looks at it when it runs
                stage.check(config, one.entry, unread, kept=kept)
                read = {*one.reads, *(up for path in unread for up in (path, *path.parents))}
                needs = tuple(other for folder, other in job_of.items() if folder in read)
                planned.append(Planned(one, stage, config, one.folder, needs))
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        earlier[one.folder] = stage.outputs
        job_of[one.folder] = one
    InputError.refuse(problems)
    return expansion.config, planned


def awaited(config: Config, promised: Iterable[Path], earlier: Iterable[Path] = ()) -> list[Path]:
    """Paths of a config that are yet to be made, or made anew."""
    anew, later = {*earlier}, {*promised}
    return [
        path
        for path in runner.paths_of(config)
        if not anew.isdisjoint((path, *path.parents))
        or (not later.isdisjoint((path, *path.parents)) and not path.exists())
    ]


def choose(planned: list[Planned], only: str | None, index: int | None) -> list[Planned]:
    """The jobs of one entry, one job or all of one stage; or the one at a position among them."""
    chosen, problem = planned, ""
    if only is not None:
        for key in ("entry", "name", "stage"):
            chosen = [plan for plan in planned if only == getattr(plan.job, key)]
            if chosen:
                break
        else:
            names = {name for p in planned for name in (p.job.entry, p.job.name, p.job.stage)}
            problem = f"--only {only}: the pipeline has none{did_you_mean(only, names)}"
    if index is not None and not problem and not 0 <= index < len(chosen):
        there = f"{len(chosen)} jobs{f' of {only}' if only else ''}, 0 to {len(chosen) - 1}"
        problem = f"--index {index}: there are {there}; --dry-run lists them."
    if problem:
        raise InputError(problem)
    return chosen if index is None else [chosen[index]]


# ---- what the folders hold


def check_folders(chosen: list[Planned], *, fresh: bool = False) -> dict[str, State]:
    """What the folders of the jobs hold, by their names.

    Raises:
        InputError: folders that cannot be used, or moved aside, and input that nobody will make.
    """
    problems: list[str] = []
    states: dict[str, State] = {}
    running = {plan.folder for plan in chosen}
    for plan in chosen:
        to_run = [name for name, state in states.items() if state != "complete"]
        state: State = "new"  # also where it cannot be told: then there is a problem
        try:
            if not fresh:
                state = state_of(plan, to_run)
            if fresh or state == "again":
                runner.check_movable(plan.folder, plan.config)
            if not fresh and not _reads_others(plan, Manifest.load(plan.folder)):
                runner.check_folder(plan.stage, plan.config, plan.folder)
        except InputError as error:
            problems.append(str(error))
        states[plan.job.name] = state
        problems += [
            f"{plan.job.name}: reads {place_of(need.folder)}, which is not complete; first run it: "
            f"--only {need.name}"
            for need in plan.needs
            if need.folder not in running and not is_complete(need.folder)
        ]
    InputError.refuse(dict.fromkeys(problems))
    return states


def is_complete(folder: Path) -> bool:
    """Whether a folder's run has come to its end."""
    manifest = Manifest.load(folder)
    return manifest is not None and manifest.status == "complete"


def state_of(plan: Planned, to_run: Iterable[str] = ()) -> State:
    """What a job's folder holds; `to_run` names the jobs that will have run again by then."""
    manifest = Manifest.load(plan.folder)
    if manifest is None or manifest.can_be_replaced_by(plan.stage.name):
        return "new"
    if manifest.has_changed_inputs() or _reads_others(plan, manifest):
        return "again"
    for need in plan.needs:
        read = Manifest.load(need.folder)
        if need.name in to_run or read is None or (read.finished or "") > manifest.started:
            return "again"
    return "complete" if runner.is_finished(plan.stage, plan.config, plan.folder) else "resume"


def _reads_others(plan: Planned, manifest: Manifest | None) -> bool:
    """Whether a table or report is to be made of other jobs of this pipeline than it was.

    So it is where seeds or methods have been added. Nothing else may differ in the settings.
    """
    if manifest is None or manifest.stage != plan.stage.name or LAST in plan.stage.outputs:
        return False
    now = identity(plan.config.model_dump(mode="json"))
    differing = differences({"there": identity(manifest.config), "here": now})
    jobs = f'"{plan.folder.parent}/'
    return bool(differing) and all(
        any(jobs in as_json(value) for value in values.values()) for values in differing.values()
    )


def place_of(folder: Path) -> str:
    """A folder relative to the working directory where it lies within."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
