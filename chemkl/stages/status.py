"""`chemkl status`: which jobs of a pipeline, or which runs, are done, running, waiting or failed.

The source is the manifests and their locks, so no scheduler is needed. With Slurm, the jobs that
`chemkl submit` has queued are included.
"""

import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc

from chemkl import display
from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.pipeline import Job, expand
from chemkl.display import Column, cell
from chemkl.results.atomic import LOCK
from chemkl.results.manifest import Manifest
from chemkl.results.trace import list_parts, read_part, read_settled
from chemkl.stages.plan import LOGS
from chemkl.stages.submit import Queued, queue_of

COLUMNS = (
    Column("name", "job"),
    Column("stage", "stage"),
    Column("state", "state"),
    Column("calls", "calls"),
    Column("time", "time"),
    Column("why", "why"),
)

KILLED = "stopped without an end (killed, or running on another machine); repeat the command"
"""Said of an unfinished run without a process."""


@dataclass(frozen=True)
class Row:
    """The state of a job: done, running, waiting, stopped (can be resumed) or failed."""

    name: str
    stage: str
    state: str
    calls: str = ""  # of the budget
    time: str = ""  # from the first start to the end or to now
    why: str = ""


def status(places: Sequence[str], out_dir: Path | None = None) -> list[Row]:
    """Return the state of each job of pipelines and of each run; a folder may hold several runs."""
    rows: list[Row] = []
    for place in places:
        folder = Path(place)
        if (folder / "manifest.json").is_file():
            rows.append(_of_folder(str(folder), folder))
        elif folder.is_dir():
            runs = sorted(path.parent for path in folder.glob("*/manifest.json"))
            if not runs:
                raise InputError(f"{folder}: neither a run nor a folder of runs")
            rows += [_of_folder(str(run), run) for run in runs]
        else:
            rows += _of_pipeline(place, out_dir)
    return rows


def show_status(places: Sequence[str], out_dir: Path | None = None) -> None:
    """Print the table and the number of jobs in each state."""
    rows = status(places, out_dir)
    display.standard_output().print(display.table("", COLUMNS, [vars(row) for row in rows]))
    counts = Counter(row.state for row in rows)
    print(", ".join(f"{n:,} {state}" for state, n in counts.items()), file=sys.stdout)  # noqa: T201


def _of_pipeline(file: str, out_dir: Path | None) -> Iterator[Row]:
    expansion = expand(file, out_dir)
    InputError.refuse(expansion.problems)
    queue = queue_of(expansion.jobs[0].folder.parent) if expansion.jobs else {}
    lost: dict[Path, str] = {}
    for job in expansion.jobs:
        row = _of_job(job, queue, [name for folder, name in lost.items() if folder in job.reads])
        if row.state not in ("done", "running"):
            lost[job.folder] = job.name
        yield row


def _of_job(job: Job, queue: Mapping[str, Queued], lost: Sequence[str]) -> Row:
    failure = job.folder.parent / LOGS / f"{job.name}.failed"
    queued = queue.get(job.name)
    if (job.folder / "manifest.json").is_file():
        row = _of_folder(job.name, job.folder, job.stage)
        if row.state in ("done", "running") or queued is None:
            return row
        return Row(job.name, job.stage, queued.state, row.calls, row.time, queued.why)
    if queued is not None and not (lost and queued.state == "failed"):
        return Row(job.name, job.stage, queued.state, why=queued.why)
    if failure.is_file():
        return Row(job.name, job.stage, "failed", why=failure.read_text().strip())
    return Row(job.name, job.stage, "waiting", why=f"for {', '.join(lost)}" if lost else "")


def _of_folder(name: str, folder: Path, stage: str = "") -> Row:
    try:
        manifest = Manifest.load(folder)
    except InputError as error:
        return Row(name, stage, "failed", why=one_line(error))
    assert manifest is not None, "its file is there"
    now = datetime.now(UTC).isoformat()
    state, why, until = manifest.status, manifest.ended_by or "", manifest.finished or now
    if state == "running":
        locked = is_locked(folder)
        why = "" if locked else KILLED
        state, until = ("running", now) if locked else ("failed", "")
    try:
        calls = read_settled(folder, lambda: _calls(manifest, folder))
    except InputError as error:
        state, why, calls = "failed", one_line(error), ""
    labels, time = {"complete": "done", "interrupted": "stopped"}, ""
    if until:
        took = datetime.fromisoformat(until) - datetime.fromisoformat(manifest.started)
        minutes, rest = divmod(round(max(took.total_seconds(), 0)), 60)
        time = f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    why = "" if state == "complete" else why.strip()
    return Row(name, manifest.stage, labels.get(state, state), calls, time, why)


def _calls(manifest: Manifest, folder: Path) -> str:
    """Return a run's calls from its results or the last part of its trace, and its budget."""
    budget = manifest.config.get("budget")
    calls = manifest.results.get("calls") if manifest.status == "complete" else None
    for part in reversed(list_parts(folder) if calls is None else []):
        calls = pc.max(read_part(part.path, ["call"])["call"]).as_py()
        if calls is not None:
            break
    if calls is None and budget is None:
        return ""
    return cell(calls or 0, ",d") + (f" / {budget:,}" if budget else "")


def is_locked(folder: Path) -> bool:
    """Tell whether a process works in a folder, here or on a machine that shares its locks.

    On Linux the lock is queried, not taken: a process that starts now must not be refused.
    """
    try:
        import fcntl  # Unix only

        with (folder / LOCK).open("rb") as lock:
            if sys.platform == "linux":
                kind = "hhqqi4x"  # struct flock: type, whence, start, length, process
                query = struct.pack(kind, fcntl.F_WRLCK, 0, 0, 0, 0)
                answer = struct.unpack(kind, fcntl.fcntl(lock, fcntl.F_GETLK, query))
                return bool(answer[0] != fcntl.F_UNLCK)
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (BlockingIOError, PermissionError):
        return True
    except (OSError, ImportError):  # no lock file, or no locks
        return False
