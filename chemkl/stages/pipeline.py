"""Run a pipeline: check all of it, skip what is complete, resume or start the rest in order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chemkl.config import Config, InputError, did_you_mean
from chemkl.config.pipeline import Job, PipelineConfig, expand
from chemkl.results.manifest import Manifest
from chemkl.stages import runner
from chemkl.stages.registry import STAGES, STOPS, Stage, interrupted, interruptible

Source = PipelineConfig | Mapping[str, Any] | str | Path
State = Literal["new", "resume", "again", "complete"]
"""What a job's folder holds: nothing, an unfinished run, a run of input that has changed since
(set aside and run again), or the finished run."""
Status = Literal["planned", "skipped", "done", "stopped"]
"""planned: a dry run; skipped: it was complete; stopped: it ended early and can be resumed."""


@dataclass(frozen=True)
class Planned:
    """A job whose settings have been checked."""

    job: Job
    stage: Stage
    config: Config
    folder: Path
    needs: tuple[Job, ...]  # earlier jobs whose output it reads


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    name: str
    folder: Path
    status: Status


def run(
    pipeline: Source,
    out_dir: str | Path | None = None,
    *,
    only: str | None = None,
    index: int | None = None,
    fresh: bool = False,
    dry_run: bool = False,
) -> list[Outcome]:
    """Run the jobs of a pipeline in order, after checking every one of them.

    Args:
        pipeline: its config, a mapping, or the path of its file.
        out_dir: where the jobs' folders go; default ``runs/<name of the pipeline>``.
        only: name of one entry, one job or one stage; the others are checked but not run.
        index: position, from 0, of the one job to run among those chosen.
        fresh: set the folders of the chosen jobs aside and start them anew.
        dry_run: show the table of jobs and stop.

    Returns:
        What became of each chosen job; it ends early behind one that stopped.

    Raises:
        InputError: with every problem of every job; nothing has started then.
    """
    console = Console()
    with interruptible(lambda: "interrupted: no job has begun; the same command begins anew."):
        config, planned = plan_pipeline(pipeline, out_dir)
    chosen = _chosen(planned, only, index)
    _check_folders(chosen, fresh)
    if dry_run:
        console.print(_table(config.name, chosen, fresh))
        return [Outcome(plan.job.name, plan.folder, "planned") for plan in chosen]
    if fresh:
        for plan in chosen:
            runner.move_aside(plan.folder, plan.config)
    outcomes: list[Outcome] = []
    for position, plan in enumerate(chosen, start=1):
        title = f"[{position}/{len(chosen)}] {plan.job.name}"
        told = partial(interrupted, plan.stage, Path(_shown(plan.folder)), fresh=fresh)
        with interruptible(told):
            status = _run_job(console, plan, title)
        outcomes.append(Outcome(plan.job.name, plan.folder, status))
        if outcomes[-1].status == "stopped":
            break
    return outcomes


# ---- the plan


def plan_pipeline(
    source: Source, out_dir: str | Path | None = None, promised: Sequence[Path] = ()
) -> tuple[PipelineConfig, list[Planned]]:
    """Read a pipeline, and check the settings of its jobs in the order in which they run."""
    expansion = expand(source, out_dir)
    problems = dict.fromkeys(expansion.problems)
    promised = [*promised, *expansion.unknown]
    earlier: dict[Path, Sequence[str]] = {}
    job_of: dict[Path, Job] = {}
    planned: list[Planned] = []
    for job in expansion.jobs:
        stage = STAGES[job.stage]
        try:
            config = stage.load(
                job.source, job.overrides, also=job.also, promised=promised, earlier=earlier
            )
            unread = awaited(config, promised, earlier)  # the stage looks at it when it runs
            stage.check(config, job.entry, unread)
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        else:
            read = {folder for path in unread for folder in (path, *path.parents)}
            needs = tuple(other for folder, other in job_of.items() if folder in read)
            planned.append(Planned(job, stage, config, job.folder, needs))
        earlier[job.folder] = stage.outputs
        job_of[job.folder] = job
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


def _chosen(planned: list[Planned], only: str | None, index: int | None) -> list[Planned]:
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


def _check_folders(chosen: list[Planned], fresh: bool) -> None:
    """Refuse folders that cannot be used, or moved aside, and input that nobody will have made."""
    problems: list[str] = []
    running = {plan.folder for plan in chosen}
    to_run: list[str] = []
    for plan in chosen:
        try:
            state = "new" if fresh else _state(plan, to_run)
            to_run += [plan.job.name] if state != "complete" else []
            if fresh or state == "again":
                runner.check_movable(plan.folder, plan.config)
            if not fresh:
                runner.check_folder(plan.stage, plan.config, plan.folder)
        except InputError as error:
            problems.append(str(error))
        problems += [
            f"{plan.job.name}: reads {_shown(need.folder)}, which is not complete; first run it: "
            f"--only {need.name}"
            for need in plan.needs
            if need.folder not in running and not _is_complete(need.folder)
        ]
    InputError.refuse(dict.fromkeys(problems))


def _is_complete(folder: Path) -> bool:
    manifest = Manifest.load(folder)
    return manifest is not None and manifest.status == "complete"


def _state(plan: Planned, to_run: Iterable[str] = ()) -> State:
    """What a job's folder holds; `to_run` names the jobs that will have run again by then."""
    manifest = Manifest.load(plan.folder)
    if manifest is None or manifest.gives_way_to(plan.stage.name):
        return "new"
    if manifest.has_changed_inputs():
        return "again"
    for need in plan.needs:
        read = Manifest.load(need.folder)
        if need.name in to_run or read is None or (read.finished or "") > manifest.started:
            return "again"
    return "complete" if runner.is_finished(plan.stage, plan.config, plan.folder) else "resume"


# ---- the jobs


def _run_job(console: Console, plan: Planned, title: str) -> Status:
    job, began = plan.job, perf_counter()

    def tell(colour: str, text: str) -> None:
        line = f"[bold]{escape(title)}[/bold]: [{colour}]{escape(text)}[/{colour}]"
        console.print(line, soft_wrap=True, highlight=False)

    def took() -> str:
        minutes, rest = divmod(round(perf_counter() - began), 60)
        return f"{minutes} min {rest} s" if minutes else f"{perf_counter() - began:.1f} s"

    state, folder = _state(plan), _shown(plan.folder)
    if state == "complete":
        tell("green", f"complete, skipped ({folder}); {runner.AGAIN}")
        return "skipped"
    if state == "again":
        runner.move_aside(plan.folder, plan.config)
    verb = "resumes" if state == "resume" else "starts"
    tell("cyan", f"{job.stage} {verb} in {folder}")
    try:  # the settings are read again: what they name has been made by now
        config = plan.stage.load(job.source, job.overrides, also=job.also)
        plan.stage.run(config, plan.folder)
    except BaseException as error:
        verb = "interrupted" if isinstance(error, STOPS) else "failed"
        tell("red", f"{verb} after {took()}")
        raise
    if not _is_complete(plan.folder):
        tell("yellow", f"stopped after {took()}; the same command resumes it")
        return "stopped"
    tell("green", f"done in {took()}")
    return "done"


def _table(name: str, chosen: list[Planned], fresh: bool) -> Table:
    table = Table("index", "job", "stage", "reads", "state", title=f"pipeline {escape(name)}")
    to_run: list[str] = []
    for position, plan in enumerate(chosen):
        state = "new" if fresh else _state(plan, to_run)
        if state != "complete":
            to_run.append(plan.job.name)
        needs = ", ".join(dict.fromkeys(need.entry for need in plan.needs))
        table.add_row(str(position), escape(plan.job.name), plan.job.stage, escape(needs), state)
    return table


def _shown(folder: Path) -> str:
    """A folder relative to the working directory where it lies within."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
