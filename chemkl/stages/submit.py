"""`chemkl submit`: put the jobs of a pipeline into Slurm's queue.

The jobs of an entry that have the same inputs are one array. It waits for exactly the jobs that
make these inputs. The script of each array is ``pipelines/slurm/array.sbatch``.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template, TemplateError
from jinja2.meta import find_undeclared_variables

from chemkl.config import InputError, did_you_mean
from chemkl.config.paths import shipped_root
from chemkl.display import counted, say
from chemkl.results.atomic import claim, write_json
from chemkl.stages.plan import LOGS, Planned, check_folders, plan_pipeline

TEMPLATE = "pipelines/slurm/array.sbatch"
RECORD = "slurm.json"
"""File next to the logs with the number of each job in the queue."""
RESERVED = ("array", "chdir", "dependency", "job-name", "kill-on-invalid-dep", "parsable", "wrap")
"""Options of sbatch that chemkl sets itself."""
AFTER = "--kill-on-invalid-dep=yes"
"""Drops jobs that wait for a failed one; the next submission queues them again."""
NEVER = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Queued:
    """The state of a job in Slurm's queue."""

    number: str  # such as 12_0
    state: str  # waiting, running, or failed if it has left the queue
    why: str


@dataclass
class Array:
    """Jobs of one entry with the same inputs."""

    name: str
    jobs: list[str]
    needs: list[str]  # jobs whose end it waits for
    script: str = ""


def submit(
    pipeline: str,
    out_dir: Path | None = None,
    *,
    settings: Sequence[str] = (),
    template: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Submit jobs to Slurm that are neither complete nor in the queue.

    Args:
        pipeline: the path or name of its file.
        out_dir: parent of the jobs' folders; default ``runs/<name of the pipeline>``.
        settings: options of sbatch such as ``time=2:00:00``, or ``posttrain.gpus=1`` for one entry
            or stage.
        template: template of the script; default ``pipelines/slurm/array.sbatch``.
        dry_run: only print a shell script that does the same.

    Raises:
        InputError: no job is left to submit, Slurm refuses one, or another submission is running.
    """
    config, planned = plan_pipeline(pipeline, out_dir)
    states = check_folders(planned)
    out = planned[0].folder.parent
    logs = out / LOGS
    options = _options(settings, planned)
    if not dry_run and shutil.which("sbatch") is None:
        raise InputError(
            "sbatch is not found: submit on a machine of the cluster, or take --cluster local"
        )
    queue = {name: job for name, job in queue_of(out).items() if job.state != "failed"}
    todo: list[Planned] = []
    for plan in planned:
        name = plan.job.name
        again = not {need.name for need in plan.needs}.isdisjoint(p.job.name for p in todo)
        if states[name] != "complete" and (name not in queue or again):
            todo.append(plan)
    stale = [queue[plan.job.name].number for plan in todo if plan.job.name in queue]
    numbers = {name: job.number for name, job in queue.items() if job.number not in stale}
    if not todo:
        listed = ", ".join(f"{job} is {number}" for job, number in [*numbers.items()][:3])
        submitted = (
            f"already submitted ({listed}{', ...' if len(numbers) > 3 else ''}); `chemkl "
            "status` shows its state, scancel removes jobs"
        )
        complete = "every job is complete; --fresh of `chemkl run` starts again"
        raise InputError(f"{config.name}: {submitted if numbers else complete}")
    arrays = _arrays(config.name, todo, {*numbers})
    fill = _template(template)
    file, script = Path(pipeline).expanduser(), Path(sys.executable).with_name("chemkl")
    program = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "chemkl"]
    for array in arrays:
        entry = next(plan.job for plan in todo if plan.job.name == array.jobs[0])
        try:
            array.script = fill.render(
                name=array.name,
                jobs=array.jobs,
                options=options("", entry.stage, entry.entry),
                chemkl=shlex.join(program),
                pipeline=str(file.resolve()) if file.exists() else pipeline,
                here=str(Path.cwd()),
                out=str(out),
                logs=str(logs),
            )
        except TemplateError as error:
            raise InputError(f"{template}: cannot be filled in: {error}") from error
    if dry_run:
        print("\n".join(_as_shell(arrays, numbers, logs, stale)))  # noqa: T201
        return
    lock = claim(logs, shared=False)
    try:
        if stale:  # they would wait forever for a failed job
            subprocess.run(["scancel", *stale], check=False)
        _submit(arrays, numbers, logs)
    finally:
        if lock is not None:
            lock.close()


def _options(settings: Sequence[str], planned: Sequence[Planned]) -> Callable[..., dict[str, str]]:
    """Parse the options; return a function from entries and stages to their options."""
    owners = {name for plan in planned for name in (plan.job.entry, plan.job.stage)}
    of: dict[str, dict[str, str]] = {}
    problems = []
    for text in settings:
        way, _, value = text.partition("=")
        owner, _, key = way.rpartition(".")
        if owner and owner not in owners:
            problems.append(
                f"--set {text}: no stage or entry {owner!r}{did_you_mean(owner, owners)}"
            )
        elif not re.fullmatch(r"[a-z][a-z0-9-]*", key) or not value.isprintable():
            problems.append(f"--set {text}: should be an option of sbatch, such as time=2:00:00")
        elif key in RESERVED:
            problems.append(f"--set {text}: chemkl sets {key} itself")
        of.setdefault(owner, {})[key] = value
    InputError.refuse(problems)
    return lambda *names: {k: v for name in names for k, v in of.get(name, {}).items()}


def _template(path: Path | None) -> Template:
    file = path or shipped_root() / TEMPLATE
    try:
        text = file.read_text(encoding="utf-8")
        environment = Environment(
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        environment.filters["quoted"] = shlex.quote
        if "jobs" in find_undeclared_variables(environment.parse(text)):
            return environment.from_string(text)
        why: object = f"lacks {{{{ jobs }}}}, so it would run no job: edit a copy of {TEMPLATE}"
    except (OSError, TemplateError) as error:
        why = getattr(error, "strerror", None) or error
    except UnicodeDecodeError:
        why = "not UTF-8 text"
    raise InputError(f"--template {file}: {why}")


def _arrays(pipeline: str, todo: Sequence[Planned], queued: set[str]) -> list[Array]:
    """Group the jobs of each entry by the jobs that they wait for."""
    open_jobs = queued | {plan.job.name for plan in todo}
    arrays: dict[tuple[str, ...], Array] = {}
    for plan in todo:
        needs = [need.name for need in plan.needs if need.name in open_jobs]
        name = f"{pipeline}-{plan.job.entry}"
        array = arrays.setdefault((plan.job.entry, *needs), Array(name, [], needs))
        array.jobs.append(plan.job.name)
    return list(arrays.values())


def _after(array: Array, arrays: Sequence[Array], numbers: Mapping[str, str]) -> list[str]:
    """Return the options with which an array waits for whole arrays, or else for tasks."""
    waits: list[str] = []
    needs = set(array.needs)
    for earlier in arrays:
        if needs >= {*earlier.jobs}:
            waits.append(numbers[earlier.jobs[0]].rpartition("_")[0])
            needs -= {*earlier.jobs}
    waits += [numbers[name] for name in array.needs if name in needs]
    return [f"--dependency=afterok:{':'.join(waits)}", AFTER] if waits else []


def _as_shell(
    arrays: Sequence[Array], numbers: Mapping[str, str], logs: Path, stale: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of a shell script that submits the arrays."""
    numbers = dict(numbers)
    yield f"mkdir -p {shlex.quote(str(logs))}"
    if stale:
        yield f"scancel {' '.join(stale)}"
    for place, array in enumerate(arrays, start=1):
        after = " ".join(["sbatch --parsable", *_after(array, arrays[: place - 1], numbers)])
        yield f"\njob{place}=$({after} <<'END'\n{array.script}END\n)"
        numbers |= {job: f"${{job{place}}}_{task}" for task, job in enumerate(array.jobs)}


def _submit(arrays: Sequence[Array], numbers: dict[str, str], logs: Path) -> None:
    """Submit the arrays in order; if Slurm refuses one, cancel all."""
    new: list[str] = []
    for place, array in enumerate(arrays):
        command = ["sbatch", "--parsable", *_after(array, arrays[:place], numbers)]
        done = subprocess.run(
            command, input=array.script, capture_output=True, text=True, check=False
        )
        if done.returncode:
            if new:
                subprocess.run(["scancel", *new], check=False)
            why = _why(done.stderr)
            note = f" (cancelled: {', '.join(new)})" if new else ""
            raise InputError(f"{array.name}: Slurm refuses it: {why}{note}")
        number = done.stdout.strip().partition(";")[0]
        new.append(number)
        numbers |= {job: f"{number}_{task}" for task, job in enumerate(array.jobs)}
        waits = f", after {counted(len(array.needs), 'job')}" if array.needs else ""
        say(f"{array.name}: job {number}, {counted(len(array.jobs), 'task')}{waits}")
    write_json(logs / RECORD, _recorded(logs) | numbers)


def _why(stderr: str) -> str:
    """Return the error of a program of Slurm on one line; only the fatal one if there is one."""
    lines = [" ".join(line.split()) for line in stderr.splitlines()]
    lines = [line for line in lines if ": fatal: " in line] or lines
    return "; ".join(re.sub(r"^\w+: (error|fatal): ", "", line) for line in lines)


# ---- the queue


def _recorded(logs: Path) -> dict[str, str]:
    file = logs / RECORD
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # nothing was submitted
        return {}
    except (OSError, ValueError):
        recorded = None
    if not isinstance(recorded, dict) or not all(isinstance(n, str) for n in recorded.values()):
        raise InputError(
            f"{file}: damaged, so the jobs in Slurm's queue are unknown; remove it once the queue "
            "(squeue --me) holds no job of this pipeline"
        )
    return recorded


def queue_of(out: Path) -> dict[str, Queued]:
    """Return the state of each job that was submitted from a folder; empty without Slurm."""
    recorded = _recorded(out / LOGS)
    if not recorded or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"Slurm's queue cannot be read: {_why(done.stderr)}")
        return {}
    lines = (line.partition("|") for line in done.stdout.splitlines())
    listed = {number: rest for number, _, rest in lines}
    queue: dict[str, Queued] = {}
    for name, number in recorded.items():
        state, _, reason = listed.get(number, "").partition("|")
        queue[name] = Queued(number, "waiting", f"Slurm {number}: {reason}")
        if not state or reason == NEVER:
            queue[name] = Queued(
                number, "failed", f"it has left Slurm's queue, where it was {number}"
            )
        elif state in ("RUNNING", "COMPLETING"):
            queue[name] = Queued(number, "running", f"Slurm {number}")
    return queue
