"""Run a pipeline: check all of it, skip what is complete, resume or start the rest.

Jobs run one after the other in this process, or several at a time, each in a process of its own.
Such a process is what ``python -m chemkl run PIPELINE --job NAME`` would be, but forked by a server
that has imported what it needs. The server only imports: its copies would lose a pool of threads.
"""

import atexit
import gc
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
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
from chemkl.processes import NUMBERS, adopt, die_with, n_threads, shielded, without_script
from chemkl.results.atomic import disk_errors, json_of, write_bytes
from chemkl.results.manifest import Manifest
from chemkl.stages import runner
from chemkl.stages.plan import (
    Planned,
    Source,
    State,
    check_folders,
    choose,
    is_complete,
    plan_pipeline,
    relative,
    state_of,
)
from chemkl.stages.registry import STAGES, STOPS, interrupted, interruptible

Status = Literal["planned", "skipped", "done", "stopped", "failed", "interrupted", "not run"]
"""planned: a dry run; skipped: was complete; stopped: ended early and can be resumed; not run: one
of its inputs was not made."""
_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


@dataclass(frozen=True)
class Outcome:
    """The result of a job."""

    name: str
    folder: Path
    status: Status
    code: int = 0  # exit code of its process; 1 if it was stopped or not run


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
        out_dir: parent of the jobs' folders; default ``runs/<name of the pipeline>``.
        only: run only this entry, job or stage; the others are checked.
        index: run only the job at this position, from 0, of the selected jobs.
        job: run only the job with this name; the others are not checked.
        jobs: number of jobs that run at a time, each in a process with its share of the cores.
        fresh: move the folders of the selected jobs aside and start again.
        dry_run: print the table of jobs and stop.

    Returns:
        The outcome of each job that was reached; in one process, a stopped job ends the pipeline.

    Raises:
        InputError: every problem of every job; no job has started then.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: should be 1 or more")
    console = Console()
    with interruptible(lambda: "interrupted: no job has begun; the same command starts again."):
        if jobs > 1 and not dry_run:  # the server imports while this process checks the settings
            stages = {each.stage for each in expand(pipeline, out_dir).jobs}
            start_server(sorted({STAGES[name].module_name for name in stages}), jobs)
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
        message = (
            "interrupted: running jobs keep everything up to their last checkpoint; the same "
            "command continues from there."
        )
        with interruptible(lambda: message):
            return _SideBySide(console, pipeline, chosen, jobs).run()
    outcomes: list[Outcome] = []
    for position, plan in enumerate(chosen, start=1):
        title = f"[{position}/{len(chosen)}] {plan.job.name}"
        with interruptible(
            partial(interrupted, plan.stage, Path(relative(plan.folder)), fresh=fresh)
        ):
            status = _run_job(_Line(console, title), plan)
        outcomes.append(Outcome(plan.job.name, plan.folder, status, int(status == "stopped")))
        gc.collect()  # trainer and module refer to each other and keep the networks of a run
        if outcomes[-1].status == "stopped":
            break
    return outcomes


@dataclass
class _Line:
    """Prints the progress of a job behind its position in the pipeline and its name."""

    console: Console
    title: str
    began: float = field(default_factory=time.perf_counter)

    def tell(self, colour: str, text: str) -> None:
        """Print a line."""
        line = f"[bold]{escape(self.title)}[/bold]: [{colour}]{escape(text)}[/{colour}]"
        self.console.print(line, soft_wrap=True, highlight=False)

    def took(self) -> str:
        """Return the time since the job began, with units."""
        seconds = time.perf_counter() - self.began
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"

    def begins(self, plan: Planned) -> bool:
        """Print that the job starts, resumes or is complete; return whether it has to run."""
        state, place = state_of(plan), relative(plan.folder)
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
    try:  # the settings are read again: their input files exist by now
        copies = runner.model_copies(plan.folder)
        config = plan.stage.load(job.source, job.overrides, also=job.also, kept=copies)
        plan.stage.run(config, plan.folder)
    except BaseException as error:  # a stop, or any error of a user's reward; raised again
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
    """A job that runs in its own process."""

    plan: Planned
    line: _Line
    process: BaseProcess

    def log(self, kind: str) -> str:
        """Return the process's standard output (kind out) or standard error (kind log)."""
        path = self.plan.logs.with_name(f"{self.plan.logs.name}.{kind}")
        return path.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """Return the last line of its progress."""
        return self.log("log").strip().rpartition("\n")[2]

    def ended(self) -> Outcome:
        """Print the outcome and what the job printed, and return the outcome."""
        name, code, took = self.plan.job.name, self.process.exitcode or 0, self.line.took()
        lines = [line for line in self.log("out").splitlines() if not line.startswith("[1/1] ")]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        place = f"{relative(self.plan.logs)}.log"
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
    """Starts each job when its inputs are complete; a failure stops only the jobs that need it."""

    def __init__(
        self, console: Console, pipeline: Source, chosen: list[Planned], n_jobs: int
    ) -> None:
        self._console, self._n_jobs = console, n_jobs
        if isinstance(pipeline, PipelineConfig):
            pipeline = pipeline.model_dump(mode="json")
        if not isinstance(pipeline, str | Path):  # data: the jobs need a file
            file = chosen[0].logs.with_name("pipeline.yaml")
            write_bytes(file, json_of(pipeline), parents=True)
            pipeline = file
        self._file = pipeline
        self._queue = {plan.job.name: plan for plan in chosen}
        self._titles = {
            name: f"[{n}/{len(chosen)}] {name}" for n, name in enumerate(self._queue, 1)
        }
        self._running: dict[str, _Child] = {}
        self._outcomes: dict[str, Outcome] = {}

    def run(self) -> list[Outcome]:
        """Run all jobs; after Ctrl-C or a signal each of them writes a checkpoint and ends."""
        try:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while self._queue or self._running:
                    for plan in list(self._queue.values()):
                        self._start_if_ready(plan)
                    for name, child in list(self._running.items()):
                        if child.process.exitcode is not None:
                            self._outcomes[name] = self._running.pop(name).ended()
                    if self._console.is_terminal:
                        lines = [
                            Text(
                                f"{child.line.title}: {child.last_line()}",
                                no_wrap=True,
                                overflow="ellipsis",
                            )
                            for child in self._running.values()
                        ]
                        live.update(Group(*lines), refresh=True)
                    time.sleep(0.1)
        except BaseException:  # a signal or a full disk: every job still writes a checkpoint
            for child in self._running.values():
                child.process.terminate()
            for child in self._running.values():
                child.process.join()
                child.ended()
            raise
        return [self._outcomes[name] for name in self._titles]

    def _start_if_ready(self, plan: Planned) -> None:
        name, line = plan.job.name, _Line(self._console, self._titles[plan.job.name])
        needs = [need.name for need in plan.needs if need.name in self._titles]
        ended = [need for need in needs if need in self._outcomes]
        lost = [need for need in ended if self._outcomes[need].status not in ("done", "skipped")]
        if lost:
            line.tell("red", f"not run: it reads {', '.join(lost)}")
            self._outcomes[name] = Outcome(name, plan.folder, "not run", 1)
        elif len(ended) < len(needs) or len(self._running) == self._n_jobs:
            return
        elif line.begins(plan):
            command = ["run", str(self._file), "--job", name, "--out", str(plan.folder.parent)]
            out, log = (plan.logs.with_name(f"{plan.logs.name}.{kind}") for kind in ("out", "log"))
            plan.logs.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(plan.logs):
                out.write_bytes(b"")
                log.write_bytes(b"")
            process = start_job(command, out, log, self._n_jobs)
            self._running[name] = _Child(plan, line, process)
        else:
            self._outcomes[name] = Outcome(name, plan.folder, "skipped")
        del self._queue[name]


# ---- jobs as processes


def start_server(modules: Iterable[str], n_jobs: int) -> None:
    """Start the server that forks jobs; it imports modules while this process goes on."""
    if _METHOD != "forkserver":
        return
    from multiprocessing import forkserver  # not on Windows

    forkserver.set_forkserver_preload(["chemkl.cli", __name__, *modules])
    before = dict(os.environ)
    os.environ |= {
        "OMP_NUM_THREADS": str(n_threads(n_jobs)),  # torch reads it when it is imported
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONSAFEPATH": "1",  # import nothing from the working directory
    }
    try:
        with shielded():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_job(command: Sequence[str], out: Path, log: Path, n_jobs: int) -> BaseProcess:
    """Start a job; it writes its standard streams into files and dies with this process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads(n_jobs))}
    process: BaseProcess = get_context(_METHOD).Process(  # type: ignore[attr-defined]
        target=_run_command, args=(command, environment, Path.cwd(), out, log)
    )
    with shielded(), without_script():
        process.start()
    return process


def _run_command(
    command: Sequence[str], environment: dict[str, str], folder: Path, out: Path, log: Path
) -> None:
    """Run a command of chemkl in this forked process."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C goes to the parent alone, which signals the jobs
    os.chdir(folder)
    for number, path in ((1, out), (2, log)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    adopt(environment)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*NUMBERS, signal.SIGINT})
    parent = parent_process()
    if parent is not None:
        die_with(int(parent.sentinel))
        if not parent.is_alive():
            os._exit(1)
    sys.argv = ["chemkl", *command]
    try:
        runpy.run_module("chemkl", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out before Python 3.14
