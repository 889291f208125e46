"""What `chemkl status` prints: which jobs of a pipeline, or runs, are done, run, wait or failed.

It goes by the manifests and their locks, so that it needs no scheduler; where there is Slurm, what
`chemkl submit` has put into its queue is told too.
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

KILLED = "killed, or no lock can be seen here; the same command goes on"
"""What there is to say of a run that no process seems to make."""


@dataclass(frozen=True)
class Row:
    """How a job stands: done, running, waiting, stopped (it goes on when told to) or failed."""

    name: str
    stage: str
    state: str
    calls: str = ""  # spent, of the budget
    time: str = ""  # from the first start to the end, or to now
    why: str = ""


def status(places: Sequence[str], out_dir: Path | None = None) -> list[Row]:
    """How the jobs of pipelines, and runs, stand; folders may hold a run, or runs."""
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
    """Print the table, and how many jobs there are of each state."""
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
        held = is_locked(folder)
        why = "" if held else KILLED
        state, until = ("running", now) if held else ("failed", "")
    try:
        calls = read_settled(folder, lambda: _calls(manifest, folder))
    except InputError as error:
        state, why, calls = "failed", one_line(error), ""
    words, time = {"complete": "done", "interrupted": "stopped"}, ""
    if until:
        took = datetime.fromisoformat(until) - datetime.fromisoformat(manifest.started)
        minutes, rest = divmod(round(max(took.total_seconds(), 0)), 60)
        time = f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    why = "" if state == "complete" else why.strip()
    return Row(name, manifest.stage, words.get(state, state), calls, time, why)


def _calls(manifest: Manifest, folder: Path) -> str:
    """The calls that a run has spent by its results, or by the last part of its trace."""
    budget = manifest.config.get("budget")
    spent = manifest.results.get("calls") if manifest.status == "complete" else None
    for part in reversed(list_parts(folder) if spent is None else []):
        spent = pc.max(read_part(part.path, ["call"])["call"]).as_py()
        if spent is not None:
            break
    if spent is None and budget is None:
        return ""
    return cell(spent or 0, ",d") + (f" / {budget:,}" if budget else "")


def is_locked(folder: Path) -> bool:
    """Whether a process works in a folder, here or on another machine that sees its locks.

    The lock is looked at, not taken: whoever starts just then would be refused.
    """
    try:
        import fcntl  # Unix only

        with (folder / LOCK).open("rb") as lock:
            if sys.platform == "linux":
                kind = "hhqqi4x"  # struct flock: type, whence, start, length, process
                asked = struct.pack(kind, fcntl.F_WRLCK, 0, 0, 0, 0)
                found = struct.unpack(kind, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
                return bool(found[0] != fcntl.F_UNLCK)
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (BlockingIOError, PermissionError):
        return True
    except (OSError, ImportError):  # no lock file, or no locks
        return False
