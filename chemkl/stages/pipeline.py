"""Run a pipeline: check all of it, skip what is complete, resume or start the rest.

One job after the other in this process, or several at a time, each in a process of its own.
"""

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chemkl.config import InputError
from chemkl.config.pipeline import PipelineConfig, expand
from chemkl.processes import NUMBERS
from chemkl.results.atomic import disk_errors, json_of, write_bytes
from chemkl.results.manifest import Manifest
from chemkl.stages import jobs as processes
from chemkl.stages import runner
from chemkl.stages.plan import (
    Planned,
    Source,
    State,
    check_folders,
    choose,
    is_complete,
    place_of,
    plan_pipeline,
    state_of,
)
from chemkl.stages.registry import STAGES, STOPS, interrupted, interruptible

Status = Literal["planned", "skipped", "done", "stopped", "failed", "interrupted", "not run"]
"""planned: a dry run; skipped: it was complete; stopped: it ended early and can be resumed; not
run: something that it reads is not made."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    name: str
    folder: Path
    status: Status
    code: int = 0  # exit code of its process; of one that was stopped or not run 1


def run(
    pipeline: Source,
    out_dir: str | Path | None = None,
    *,
    only: str | None = None,
    index: int | None = None,
    job: str | None = None,
    jobs: int = 1,
    fresh: bool = False,
    dry_run: bool = False,
) -> list[Outcome]:
    """Run the jobs of a pipeline in order, or several at a time, after checking every one of them.

    Args:
        pipeline: its config, a mapping, or the path of its file.
        out_dir: where the jobs' folders go; default ``runs/<name of the pipeline>``.
        only: name of one entry, one job or one stage; the others are checked but not run.
        index: position, from 0, of the one job to run among those chosen.
        job: name of the one job to run; the others are not even checked.
        jobs: so many run at a time, each in a process of its own that has its share of the cores.
        fresh: set the folders of the chosen jobs aside and start them anew.
        dry_run: show the table of jobs and stop.

    Returns:
        What became of each chosen job; one after the other, it ends early behind one that stopped.

    Raises:
        InputError: with every problem of every job; nothing has started then.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: how many jobs run at a time, 1 or more")
    console = Console()
    with interruptible(lambda: "interrupted: no job has begun; the same command begins anew."):
        if jobs > 1 and not dry_run:  # while this process looks at the settings
            stages = {one.stage for one in expand(pipeline, out_dir).jobs}
            processes.load_ahead(sorted({STAGES[one].module_name for one in stages}), jobs)
        config, planned = plan_pipeline(pipeline, out_dir, job=job, fresh=fresh)
    chosen = choose(planned, only, index)
    states = check_folders(chosen, fresh=fresh)
    if dry_run:
        console.print(_table(config.name, chosen, states))
        return [Outcome(plan.job.name, plan.folder, "planned") for plan in chosen]
    if fresh:
        for plan in chosen:
            runner.move_aside(plan.folder, plan.config)
    if jobs > 1:
        with interruptible(lambda: "interrupted: " + _KEPT):
            return _SideBySide(console, pipeline, chosen, jobs).run()
    outcomes: list[Outcome] = []
    for position, plan in enumerate(chosen, start=1):
        title = f"[{position}/{len(chosen)}] {plan.job.name}"
        told = partial(interrupted, plan.stage, Path(place_of(plan.folder)), fresh=fresh)
        with interruptible(told):
            status = _run_job(_Line(console, title), plan)
        outcomes.append(Outcome(plan.job.name, plan.folder, status, int(status == "stopped")))
        gc.collect()  # trainer and module hold each other, and the networks of a run with them
        if outcomes[-1].status == "stopped":
            break
    return outcomes


_KEPT = "what was running keeps all up to its last checkpoint; the same command goes on from there."


@dataclass
class _Line:
    """What is told of a job: how far the pipeline is, its name, and what has become of it."""

    console: Console
    title: str
    began: float = field(default_factory=time.perf_counter)

    def tell(self, colour: str, text: str) -> None:
        """Print a line."""
        line = f"[bold]{escape(self.title)}[/bold]: [{colour}]{escape(text)}[/{colour}]"
        self.console.print(line, soft_wrap=True, highlight=False)

    def took(self) -> str:
        """The time since the job began, in words."""
        seconds = time.perf_counter() - self.began
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"

    def begins(self, plan: Planned) -> bool:
        """Say that it starts, resumes, or is complete already; only then it need not run."""
        state, place = state_of(plan), place_of(plan.folder)
        if state == "complete":
            self.tell("green", f"complete, skipped ({place}); {runner.AGAIN}")
            return False
        verb = "resumes" if state == "resume" else "starts"
        self.tell("cyan", f"{plan.job.stage} {verb} in {place}")
        return True


def _run_job(line: _Line, plan: Planned) -> Status:
    job, failure = plan.job, plan.logs.with_name(f"{plan.logs.name}.failed")
    if not line.begins(plan):
        return "skipped"
    if state_of(plan) == "again":
        runner.move_aside(plan.folder, plan.config)
    failure.unlink(missing_ok=True)
    try:  # the settings are read again: what they name has been made by now
        kept = runner.kept_models(plan.folder)
        config = plan.stage.load(job.source, job.overrides, also=job.also, kept=kept)
        plan.stage.run(config, plan.folder)
    except BaseException as error:  # a stop, or what a user's reward raised: told, and raised again
        is_stop = isinstance(error, STOPS)
        line.tell("red", f"{'interrupted' if is_stop else 'failed'} after {line.took()}")
        manifest = Manifest.load(plan.folder)
        if not is_stop and (manifest is None or manifest.status == "complete"):
            write_bytes(failure, f"{error}\n".encode(), parents=True)  # for `chemkl status`
        raise
    if not is_complete(plan.folder):
        line.tell("yellow", f"stopped after {line.took()}; the same command resumes it")
        return "stopped"
    line.tell("green", f"done in {line.took()}")
    return "done"


def _table(name: str, chosen: list[Planned], states: Mapping[str, State]) -> Table:
    table = Table("index", "job", "stage", "reads", "state", title=f"pipeline {escape(name)}")
    for position, plan in enumerate(chosen):
        needs = ", ".join(dict.fromkeys(need.entry for need in plan.needs))
        state = states[plan.job.name]
        table.add_row(str(position), escape(plan.job.name), plan.job.stage, escape(needs), state)
    return table


# ---- several jobs at a time


@dataclass
class _Child:
    """A job that runs in a process of its own."""

    plan: Planned
    line: _Line
    process: BaseProcess

    def log(self, kind: str) -> str:
        """What the process has written: to the standard output (out) or the other one (log)."""
        path = self.plan.logs.with_name(f"{self.plan.logs.name}.{kind}")
        return path.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """The last line of what it says of its progress."""
        return self.log("log").strip().rpartition("\n")[2]

    def ended(self) -> Outcome:
        """Tell what has become of it, and print what it found."""
        name, code, took = self.plan.job.name, self.process.exitcode or 0, self.line.took()
        found = [line for line in self.log("out").splitlines() if not line.startswith("[1/1] ")]
        sys.stdout.write("".join(f"{line}\n" for line in found))
        place = f"{place_of(self.plan.logs)}.log"
        manifest = Manifest.load(self.plan.folder)
        status: Status = "failed"
        if code == 0:
            status = "done"
            self.line.tell("green", f"done in {took}")
        elif code > 128 or -code in NUMBERS:
            status = "interrupted"
            self.line.tell("red", f"interrupted after {took}; the same command resumes it")
        elif manifest is not None and manifest.status == "interrupted":
            status = "stopped"
            self.line.tell("yellow", f"stopped after {took}; the same command resumes it")
        else:
            killed = f"killed by signal {-code}"
            why = killed if code < 0 else self.last_line() or f"exit code {code}"
            self.line.tell("red", f"failed after {took}: {why} (see {place})")
            code = max(code, 1)
        return Outcome(name, self.plan.folder, status, code if code >= 0 else 128 - code)


class _SideBySide:
    """Runs each job as soon as what it reads is made; a failure ends those alone that need it."""

    def __init__(
        self, console: Console, pipeline: Source, chosen: list[Planned], n_jobs: int
    ) -> None:
        self._console, self._n_jobs = console, n_jobs
        if isinstance(pipeline, PipelineConfig):
            pipeline = pipeline.model_dump(mode="json")
        if not isinstance(pipeline, str | Path):  # given as data, which is written for the jobs
            file = chosen[0].logs.with_name("pipeline.yaml")
            write_bytes(file, json_of(pipeline), parents=True)
            pipeline = file
        self._file = pipeline
        self._waiting = {plan.job.name: plan for plan in chosen}
        self._titles = {
            name: f"[{n}/{len(chosen)}] {name}" for n, name in enumerate(self._waiting, 1)
        }
        self._running: dict[str, _Child] = {}
        self._became: dict[str, Outcome] = {}

    def run(self) -> list[Outcome]:
        """Run all; Ctrl-C or a signal ends them in order, each with a checkpoint."""
        try:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while self._waiting or self._running:
                    for plan in list(self._waiting.values()):
                        self._start_if_ready(plan)
                    for name, child in list(self._running.items()):
                        if child.process.exitcode is not None:
                            self._became[name] = self._running.pop(name).ended()
                    if self._console.is_terminal:
                        told = [f"{c.line.title}: {c.last_line()}" for c in self._running.values()]
                        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in told]
                        live.update(Group(*lines), refresh=True)
                    time.sleep(0.1)
        except BaseException:  # a signal, or a disk that is full: none is left without a checkpoint
            for child in self._running.values():
                child.process.terminate()
            for child in self._running.values():
                child.process.join()
                child.ended()
            raise
        return [self._became[name] for name in self._titles]

    def _start_if_ready(self, plan: Planned) -> None:
        name, line = plan.job.name, _Line(self._console, self._titles[plan.job.name])
        needs = [need.name for need in plan.needs if need.name in self._titles]
        made = [need for need in needs if need in self._became]
        lost = [need for need in made if self._became[need].status not in ("done", "skipped")]
        if lost:
            line.tell("red", f"not run: it reads {', '.join(lost)}")
            self._became[name] = Outcome(name, plan.folder, "not run", 1)
        elif len(made) < len(needs) or len(self._running) == self._n_jobs:
            return
        elif line.begins(plan):
            command = ["run", str(self._file), "--job", name, "--out", str(plan.folder.parent)]
            out, log = (plan.logs.with_name(f"{plan.logs.name}.{kind}") for kind in ("out", "log"))
            plan.logs.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(plan.logs):
                out.write_bytes(b"")
                log.write_bytes(b"")
            process = processes.start(command, out, log, self._n_jobs)
            self._running[name] = _Child(plan, line, process)
        else:
            self._became[name] = Outcome(name, plan.folder, "skipped")
        del self._waiting[name]
