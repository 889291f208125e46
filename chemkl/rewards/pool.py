"""Worker processes with a time limit; a worker that hangs or dies loses its unit and is replaced.

Why not a library: in the pools of the standard library a dead worker breaks the pool. Pebble's
workers share a lock, so killing the worker that holds it stops the pool; processes that a worker
started outlive it; and a lost unit does not say which component was running.
"""

import math
import os
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_all_start_methods, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, NamedTuple

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.processes import StoppedBySignal, adopt, follow_parent, shielded

PORTION = 0.03  # seconds of work to send a worker in one message
MOST_UNITS = 32  # most units to send a worker in one message
TICK = 1e-4
"""Least seconds to assume for a message; some systems' clocks have a resolution of 15 ms."""
GLANCE = 0.25  # seconds between checks of the time limit
GRACE = 1.0  # seconds a worker has to end its own children before it is killed

Jobs = Mapping[str, Callable[[Any], Any]]  # functions a worker can apply to a unit, by name
Mark = Callable[[int], None]
"""Called by a job to record its progress as a number from 0, reported with a lost unit."""


class Lost(NamedTuple):
    """The outcome of a unit whose worker was lost; `at` is its last mark, or -1."""

    reason: str
    at: int


class State:
    """Progress of a worker, in memory shared with its parent: four numbers.

    They are the place of the current unit (-1: none), the last mark of its job (-1: none), the time
    the unit started, and whether the parent has told the worker to end.
    """

    def __init__(self, values: Any) -> None:
        self.values = values

    def begin(self, number: int) -> None:
        """Set the current unit, or none (-1), in an order that never pairs it with an old time."""
        self.values[2] = math.inf
        self.values[0], self.values[1] = number, -1
        if number >= 0:
            self.values[2] = monotonic()

    def mark(self, number: int) -> None:
        """Record the progress of the job."""
        self.values[1] = number

    def read(self) -> tuple[int, float, int]:
        """Return the unit's place, its start time (never too early) and the last mark."""
        unit, since, marked = self.values[0], self.values[2], self.values[1]
        return int(unit), since if self.values[0] == unit else math.inf, int(marked)


# ---- in the worker


def serve(pipe: Connection, values: Any, build: Callable[[Mark], Jobs]) -> None:
    """Apply jobs to the units received through the pipe until it is closed."""
    state = State(values)

    def on_sigterm(*_: object) -> None:
        if state.values[3]:  # ignore a scheduler's SIGTERM, which would lose a unit
            raise StoppedBySignal(signal.SIGTERM, 1)  # runs finalizers

    follow_parent(on_sigterm)
    problem: Exception | None = None
    try:
        jobs = build(state.mark)
    except InputError as error:
        problem = InputError(str(error))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        problem = RuntimeError(f"a worker cannot start: {one_line(error)}")
    with suppress(EOFError, OSError):  # the parent has ended
        pipe.send((problem, 0.0))
        while problem is None:
            job, units = pipe.recv()
            _do(jobs[job], units, state, pipe)


def _do(
    job: Callable[[Any], Any], units: Mapping[int, Any], state: State, pipe: Connection
) -> None:
    """Apply a job to units, and send quick outcomes together."""
    done: list[tuple[int, Any]] = []
    start = monotonic()
    for n_done, (number, unit) in enumerate(units.items(), 1):
        state.begin(number)
        try:
            outcome = job(unit)
        except Exception as error:  # noqa: BLE001 - only this unit is lost
            outcome = Lost(one_line(error), state.read()[2])
        done.append((number, outcome))
        seconds = monotonic() - start
        if n_done == len(units):
            state.begin(-1)
        if n_done == len(units) or seconds > PORTION:
            pipe.send((done, seconds))
            done, start = [], monotonic()


# ---- in the parent


CONTEXT: BaseContext = get_context(
    "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
)
"""Start method of processes, which never forks this one."""


def start_process(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start a process that calls `target(pipe, *arguments)`; return it and the pipe's other end."""
    parent_end, child_end = CONTEXT.Pipe()
    process = CONTEXT.Process(  # type: ignore[attr-defined] # every concrete context has it
        target=_run, args=(dict(os.environ), target, child_end, *arguments), daemon=True
    )
    with shielded():
        process.start()
    child_end.close()
    return process, parent_end


def _run(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    adopt(environment)  # the fork server may be older, or belong to a pipeline's jobs
    target(*arguments)


@dataclass
class Worker:
    """A worker process and the places of the units it was sent."""

    process: BaseProcess
    pipe: Connection
    state: State
    ready: bool = False
    units: list[int] = field(default_factory=list)

    def present(self) -> tuple[int, float]:
        """Return its current unit and start time; an infinite time if it works on none."""
        unit, since, _ = self.state.read()
        return unit, since if unit in self.units else math.inf


def close_workers(workers: list[Worker], owner: int) -> None:
    """End workers: ask them to, then kill the remaining ones and their process groups."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.state.values[3] = 1
        worker.process.terminate()
    end = monotonic() + GRACE
    for worker in workers:
        process = worker.process
        process.join(max(0.0, end - monotonic()))
        if process.exitcode is None:
            process.kill()
        if process.pid is not None and hasattr(os, "killpg"):
            with suppress(OSError):  # the group has ended
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        worker.pipe.close()
    workers.clear()


class Pool(AbstractContextManager["Pool"]):
    """Worker processes, started when first needed.

    Where the platform allows, workers are forked from a small server process (forkserver), so
    replacing one takes some hundredths of a second. As always with processes in Python, a script
    must do its own work under ``if __name__ == "__main__":``.

    Args:
        build: Picklable function that is called once in each worker with a `Mark` and returns the
            jobs.
        workers: Number of processes.
        preload: Modules that the server imports once for all workers.
    """

    def __init__(
        self, build: Callable[[Mark], Jobs], workers: int, preload: Sequence[str] = ()
    ) -> None:
        self._build = build
        self._n = workers
        CONTEXT.set_forkserver_preload([__name__, *preload])
        self._workers: list[Worker] = []
        self._mean: dict[str, float] = {}  # seconds per unit, by job
        # runs at the end of this process too, but not in a fork of it
        self.close = weakref.finalize(self, close_workers, self._workers, os.getpid())

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    def run(
        self, job: str, units: Sequence[Any], limit: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Apply a job to every unit; yield each outcome once, in any order, with its place.

        The outcome is `Lost` if the worker died, or was killed after `limit` seconds on the unit.

        Raises:
            InputError: The jobs cannot be built.
            RuntimeError: A worker died before it started, or the pool is closed.
        """
        if not self.close.alive:
            raise RuntimeError("this pool of workers is closed")
        queue, n_pending = deque(range(len(units))), len(units)
        try:
            while n_pending:
                self._assign(job, units, queue)
                for number, outcome in self._collect(job, limit, queue):
                    n_pending -= 1
                    yield number, outcome
        finally:
            if n_pending:  # an exception or Ctrl-C: drop the work in progress
                close_workers(self._workers, os.getpid())

    def _assign(self, job: str, units: Sequence[Any], queue: deque[int]) -> None:
        """Start as many workers as the queue needs, and send units to the idle ones."""
        for worker in [worker for worker in self._workers if not worker.units]:
            if worker.process.exitcode is not None:  # died while idle
                self._workers.remove(worker)
                worker.pipe.close()
        n_busy = sum(bool(worker.units) for worker in self._workers)
        while len(self._workers) < min(self._n, n_busy + len(queue)):
            values = CONTEXT.RawArray("d", [-1.0, -1.0, math.inf, 0.0])
            self._workers.append(Worker(*start_process(serve, values, self._build), State(values)))
        for worker in self._workers:
            if worker.units or not queue:
                continue
            most = min(PORTION / self._mean.get(job, math.inf), MOST_UNITS, len(queue) / self._n)
            worker.units = [queue.popleft() for _ in range(max(1, int(most)))]
            with suppress(OSError):  # a dead worker is noticed by `_receive`
                worker.pipe.send((job, {number: units[number] for number in worker.units}))

    def _collect(self, job: str, limit: float | None, queue: deque[int]) -> list[tuple[int, Any]]:
        """Wait for outcomes, and return them by place."""
        busy = [worker for worker in self._workers if worker.units]
        wait = None
        if limit is not None:
            earliest = min(worker.present()[1] for worker in busy) + limit
            # a worker does not report when it starts the next unit, so never wait for long
            wait = min(GLANCE, max(0.0, earliest - monotonic()))
        ready = connection.wait([worker.pipe for worker in busy], wait)
        outcomes: list[tuple[int, Any]] = []
        for worker in busy:
            unit, since = worker.present()
            if worker.pipe in ready:
                outcomes += self._receive(job, worker, queue)
            elif limit is not None and monotonic() >= since + limit:
                outcomes.append(self._lose(worker, unit, f"timeout after {limit:g} s", queue))
        return outcomes

    def _receive(self, job: str, worker: Worker, queue: deque[int]) -> list[tuple[int, Any]]:
        """Receive the outcomes of a worker that sent some or died."""
        try:
            done, seconds = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(GRACE)
            how = f"exit code {worker.process.exitcode}"
            with suppress(ValueError, TypeError):  # no signal, or one without a name
                how = signal.Signals(-worker.process.exitcode).name  # type: ignore[operator]
            if worker.ready:
                reason = f"the worker died ({how})"
                return [self._lose(worker, worker.present()[0], reason, queue)]
            done = RuntimeError(
                f"the worker died ({how}) before it could start. Is there enough memory, and does "
                "your script do its own work under 'if __name__ == \"__main__\":' only?"
            )
        if isinstance(done, Exception):
            raise done
        if not worker.ready:
            worker.ready = True
            return []
        mean = max(seconds, TICK) / len(done)
        self._mean[job] = (self._mean.get(job, mean) + mean) / 2
        for number, _ in done:
            worker.units.remove(number)
        return list(done)

    def _lose(self, worker: Worker, unit: int, reason: str, queue: deque[int]) -> tuple[int, Lost]:
        """Kill a worker: its current unit is lost, and its other units return to the queue.

        So do units that it finished but did not send. A worker that died between two units loses
        the first unit it was sent, so the run always ends.
        """
        lost = Lost(reason, worker.state.read()[2])
        self._workers.remove(worker)
        close_workers([worker], os.getpid())
        unit = unit if unit in worker.units else worker.units[0]
        queue.extendleft(number for number in reversed(worker.units) if number != unit)
        return unit, lost
