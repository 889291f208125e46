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
from chemkl.stages.registry import STAGES, STOPS, interrupted, interruptible
from chemkl.stages.runner import (
    AGAIN,
    check_folder,
    check_movable,
    is_finished,
    move_aside,
    paths_of,
)

State = Literal["new", "resume", "again", "complete"]
"""What a job's folder holds: nothing, an unfinished run, a run of input that has changed since
(set aside and run again), or the finished run."""


@dataclass(frozen=True)
class Planned:
    """A job whose settings have been checked."""

    job: Job
    config: Config
    needs: tuple[Job, ...]
    """Earlier jobs whose output it reads."""


def plan_pipeline(
    source: PipelineConfig | Mapping[str, Any] | str | Path,
    out_dir: str | Path | None = None,
    promised: Sequence[Path] = (),
) -> tuple[PipelineConfig, list[Planned]]:
    """Read a pipeline and check the settings of every job of it.

    Args:
        source: the pipeline's config, a mapping, or the path of its file.
        out_dir: where the jobs' folders go; default ``runs/<name of the pipeline>``.
        promised: folders beside those of earlier jobs whose content need not exist yet.

    Raises:
        InputError: with every problem, of the pipeline's references and of its jobs alike.
    """
    expansion = expand(source, out_dir)
    problems = dict.fromkeys(expansion.problems)
    planned = []
    try:
        planned = plan(expansion.jobs, [*promised, *expansion.unknown])
    except InputError as error:
        problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise InputError("\n".join(problems))
    return expansion.config, planned


def plan(jobs: Sequence[Job], promised: Sequence[Path] = ()) -> list[Planned]:
    """Check the settings of every job.

    Args:
        jobs: in the order in which they run.
        promised: folders beside those of earlier jobs whose content need not exist yet.

    Raises:
        InputError: with every problem of every job, each once.
    """
    planned: list[Planned] = []
    problems: dict[str, None] = {}
    for position, job in enumerate(jobs):
        earlier = {other.folder: STAGES[other.stage].outputs for other in jobs[:position]}
        try:
            config = load_job(job, promised, earlier)
            unread = awaited(config, promised, earlier)  # the stage looks at it when it runs
            read = {folder for path in unread for folder in (path, *path.parents)}
            needs = [other for other in jobs[:position] if other.folder in read]
            STAGES[job.stage].check(config, job.entry, unread)
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        else:
            planned.append(Planned(job, config, tuple(needs)))
    if problems:
        raise InputError("\n".join(problems))
    return planned


def load_job(
    job: Job,
    promised: Iterable[Path] = (),
    earlier: Mapping[Path, Sequence[str]] | None = None,
) -> Config:
    """Read the settings of a job, see `load_config`.

    Raises:
        InputError: with every problem.
    """
    return STAGES[job.stage].load(
        job.source, job.overrides, also=job.also, promised=promised, earlier=earlier
    )


def awaited(config: Config, promised: Iterable[Path], earlier: Iterable[Path] = ()) -> list[Path]:
    """Paths of a config that are yet to be made, or made anew.

    Args:
        config: the settings.
        promised: folders of which some run is expected to write what is not there.
        earlier: folders that jobs of this run write anew.
    """
    anew, later = {*earlier}, {*promised}
    return [
        path
        for path in paths_of(config)
        if not anew.isdisjoint((path, *path.parents))
        or (not later.isdisjoint((path, *path.parents)) and not path.exists())
    ]


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    name: str
    """The job's name."""
    folder: Path
    """Its output folder."""
    status: Literal["planned", "skipped", "done", "stopped"]
    """planned: a dry run; skipped: it was complete; stopped: it ended early and can be resumed."""


def run(
    pipeline: PipelineConfig | Mapping[str, Any] | str | Path,
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
        _show_table(console, config.name, chosen, fresh)
        return [Outcome(p.job.name, p.job.folder, "planned") for p in chosen]
    if fresh:
        for each in chosen:
            move_aside(each.job.folder, each.config)
    outcomes: list[Outcome] = []
    for position, each in enumerate(chosen, start=1):
        title = f"[{position}/{len(chosen)}] {each.job.name}"
        stage, folder = STAGES[each.job.stage], Path(_shown(each.job.folder))
        with interruptible(partial(interrupted, stage, folder, fresh=fresh)):
            outcomes.append(_run_job(console, each, title))
        if outcomes[-1].status == "stopped":
            break
    return outcomes


def _chosen(planned: list[Planned], only: str | None, index: int | None) -> list[Planned]:
    chosen = planned
    if only is not None:
        by = [
            [p for p in planned if only == p.job.entry],
            [p for p in planned if only == p.job.name],
            [p for p in planned if only == p.job.stage],
        ]
        chosen = next((found for found in by if found), [])
        if not chosen:
            known = {name for p in planned for name in (p.job.entry, p.job.name, p.job.stage)}
            raise InputError(f"--only {only}: the pipeline has none{did_you_mean(only, known)}")
    if index is None:
        return chosen
    if not 0 <= index < len(chosen):
        of = f" of {only}" if only else ""
        raise InputError(
            f"--index {index}: there are {len(chosen)} jobs{of}, 0 to {len(chosen) - 1}; "
            "--dry-run lists them."
        )
    return [chosen[index]]


def _check_folders(chosen: list[Planned], fresh: bool) -> None:
    """Refuse folders that cannot be used, or moved aside, and input that nobody will have made.

    Raises:
        InputError: with every problem.
    """
    problems: dict[str, None] = {}
    running = {each.job.folder for each in chosen}
    to_run: list[str] = []
    for each in chosen:
        try:
            state = "new" if fresh else _state(each, to_run)
            to_run += [each.job.name] if state != "complete" else []
            if fresh or state == "again":
                check_movable(each.job.folder, each.config)
            if not fresh:
                check_folder(STAGES[each.job.stage], each.config, each.job.folder)
        except InputError as error:
            problems[str(error)] = None
        for need in each.needs:
            if need.folder not in running and not _is_complete(need.folder):
                problems[
                    f"{each.job.name}: reads {_shown(need.folder)}, which is not complete; "
                    f"first run it: --only {need.name}"
                ] = None
    if problems:
        raise InputError("\n".join(problems))


def _is_complete(folder: Path) -> bool:
    manifest = Manifest.load(folder)
    return manifest is not None and manifest.status == "complete"


def _state(each: Planned, to_run: Iterable[str] = ()) -> State:
    """What a job's folder holds; `to_run` names the jobs that will have run again by then."""
    own = Manifest.load(each.job.folder)
    if own is None or own.gives_way_to(each.job.stage):
        return "new"
    if own.has_changed_inputs():
        return "again"
    for need in each.needs:
        read = Manifest.load(need.folder)
        if need.name in to_run or read is None or (read.finished or "") > own.started:
            return "again"
    stage = STAGES[each.job.stage]
    return "complete" if is_finished(stage, each.config, each.job.folder) else "resume"


def _run_job(console: Console, each: Planned, title: str) -> Outcome:
    job, began = each.job, perf_counter()
    state = _state(each)
    if state == "complete":
        _say(console, title, "green", f"complete, skipped ({_shown(job.folder)}); {AGAIN}")
        return Outcome(job.name, job.folder, "skipped")
    if state == "again":
        move_aside(job.folder, each.config)
    verb = "resumes" if state == "resume" else "starts"
    _say(console, title, "cyan", f"{job.stage} {verb} in {_shown(job.folder)}")
    try:
        STAGES[job.stage].run(load_job(job), job.folder)
    except BaseException as error:
        verb = "interrupted" if isinstance(error, STOPS) else "failed"
        _say(console, title, "red", f"{verb} after {_duration(perf_counter() - began)}")
        raise
    took = _duration(perf_counter() - began)
    if not _is_complete(job.folder):
        _say(console, title, "yellow", f"stopped after {took}; the same command resumes it")
        return Outcome(job.name, job.folder, "stopped")
    _say(console, title, "green", f"done in {took}")
    return Outcome(job.name, job.folder, "done")


def _show_table(console: Console, name: str, chosen: list[Planned], fresh: bool) -> None:
    table = Table("index", "job", "stage", "reads", "state", title=f"pipeline {escape(name)}")
    to_run: list[str] = []
    for position, each in enumerate(chosen):
        state = "new" if fresh else _state(each, to_run)
        if state != "complete":
            to_run.append(each.job.name)
        needs = ", ".join(dict.fromkeys(need.entry for need in each.needs))
        table.add_row(str(position), escape(each.job.name), each.job.stage, escape(needs), state)
    console.print(table)


def _say(console: Console, title: str, colour: str, text: str) -> None:
    line = f"[bold]{escape(title)}[/bold]: [{colour}]{escape(text)}[/{colour}]"
    console.print(line, soft_wrap=True, highlight=False)


def _shown(folder: Path) -> str:
    """A folder relative to the working directory where it lies within."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
