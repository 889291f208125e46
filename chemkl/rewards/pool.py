"""Worker processes with a time limit: one that hangs or dies costs its unit and is replaced.

A pool of chemkl's own. In those of the standard library a dead worker breaks the pool; pebble's
workers share one lock, so that a worker killed while it holds it stops the pool, what a worker has
started outlives it, and nobody learns which component the worker was at.
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

PORTION = 0.03  # seconds of work that a worker gets at once, in one message, where units are quick
MOST_UNITS = 32  # units that a worker gets at once, however quick they are
TICK = 1e-4
"""Seconds that a message takes at least: the clocks of some systems see no less than 15 ms."""
GLANCE = 0.25  # seconds after which the clock is looked at again where units have a limit
GRACE = 1.0  # seconds that a worker has to end its own children before it is killed

Jobs = Mapping[str, Callable[[Any], Any]]  # what a worker can do with a unit, by name
Mark = Callable[[int], None]
"""Called by a job to say what it is at: a number from 0, which a lost unit comes back with."""


class Lost(NamedTuple):
    """What becomes of a unit whose worker is lost; `at` is -1 where nothing was marked."""

    reason: str
    at: int


class State:
    """What a worker is at, in memory that it shares with its parent: four numbers.

    They are the unit's place (-1: none), what its job has marked (-1: nothing), since when it is at
    the unit, and whether the parent wants the worker to end.
    """

    def __init__(self, values: Any) -> None:
        self.values = values

    def begin(self, number: int) -> None:
        """Begin with a unit, or none (-1); in this order, so that no time is another unit's."""
        self.values[2] = math.inf
        self.values[0], self.values[1] = number, -1
        if number >= 0:
            self.values[2] = monotonic()

    def mark(self, number: int) -> None:
        """Say what the job is at."""
        self.values[1] = number

    def read(self) -> tuple[int, float, int]:
        """The unit's place, since when, and what is marked; the time is never too early."""
        unit, since, marked = self.values[0], self.values[2], self.values[1]
        return int(unit), since if self.values[0] == unit else math.inf, int(marked)


# ---- in the worker


def serve(pipe: Connection, values: Any, build: Callable[[Mark], Jobs]) -> None:
    """Do what comes through the pipe until it is closed."""
    state = State(values)

    def end_if_told(*_: object) -> None:
        if state.values[3]:  # a scheduler's SIGTERM is not for the worker: a unit would be lost
            raise StoppedBySignal(signal.SIGTERM, 1)  # so that finalizers run

    follow_parent(end_if_told)
    problem: Exception | None = None
    try:
        jobs = build(state.mark)
    except InputError as error:
        problem = InputError(str(error))
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        problem = RuntimeError(f"a worker cannot begin: {one_line(error)}")
    with suppress(EOFError, OSError):  # the parent has gone
        pipe.send((problem, 0.0))
        while problem is None:
            job, units = pipe.recv()
            _do(jobs[job], units, state, pipe)


def _do(
    job: Callable[[Any], Any], units: Mapping[int, Any], state: State, pipe: Connection
) -> None:
    """Do units, and hand them over together if they are quick."""
    done: list[tuple[int, Any]] = []
    start = monotonic()
    for left, (number, unit) in enumerate(units.items(), 1 - len(units)):
        state.begin(number)
        try:
            outcome = job(unit)
        except Exception as error:  # noqa: BLE001 - costs this unit only
            outcome = Lost(one_line(error), state.read()[2])
        done.append((number, outcome))
        seconds = monotonic() - start
        if not left:
            state.begin(-1)
        if not left or seconds > PORTION:
            pipe.send((done, seconds))
            done, start = [], monotonic()


# ---- in the parent


CONTEXT: BaseContext = get_context(
    "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
)
"""How processes are started: never by forking this one."""


def start_process(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start a process that is given one end of a pipe, and then the arguments; keep the other."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(  # type: ignore[attr-defined] # every concrete context has it
        target=_be, args=(dict(os.environ), target, theirs, *arguments), daemon=True
    )
    with shielded():
        process.start()
    theirs.close()
    return process, ours


def _be(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    adopt(environment)  # the server may be older, or that of a pipeline's jobs
    target(*arguments)


@dataclass
class Worker:
    """One process, and the places of the units that it was given."""

    process: BaseProcess
    pipe: Connection
    state: State
    ready: bool = False
    units: list[int] = field(default_factory=list)

    def present(self) -> tuple[int, float]:
        """Its present unit and since when; infinite where it is at none of those that it has."""
        unit, since, _ = self.state.read()
        return unit, since if unit in self.units else math.inf


def close_workers(workers: list[Worker], owner: int) -> None:
    """End workers: tell them, then kill what is left of them and their process groups."""
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
            with suppress(OSError):  # no such group (any more)
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        worker.pipe.close()
    workers.clear()


class Pool(AbstractContextManager["Pool"]):
    """Worker processes, started when they are first needed.

    The workers are children of a small server process (forkserver) where there is such a thing,
    so starting one anew costs some hundredths of a second. As always with processes in Python, a
    script must keep its own work under ``if __name__ == "__main__":``.

    `build`, which must be picklable, is called once in each worker with a `Mark` and gives the
    jobs; the server imports the modules of `preload` once for all workers.
    """

    def __init__(
        self, build: Callable[[Mark], Jobs], workers: int, preload: Sequence[str] = ()
    ) -> None:
        self._build = build
        self._n = workers
        CONTEXT.set_forkserver_preload([__name__, *preload])
        self._workers: list[Worker] = []
        self._mean: dict[str, float] = {}  # seconds that a unit of a job takes
        # at the end of the process too; a fork of it must leave the workers alone
        self.close = weakref.finalize(self, close_workers, self._workers, os.getpid())

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    def run(
        self, job: str, units: Sequence[Any], limit: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Have every unit done: each once, in no order, but with its place in the list.

        A job's outcome is `Lost` where its worker died, or was killed after `limit` seconds for
        the unit. An InputError says that the jobs cannot be built; a RuntimeError that a worker
        died before it began, or that the pool is closed.
        """
        if not self.close.alive:
            raise RuntimeError("this pool of workers is closed")
        queue, left = deque(range(len(units))), len(units)
        try:
            while left:
                self._hand_out(job, units, queue)
                for number, outcome in self._collect(job, limit, queue):
                    left -= 1
                    yield number, outcome
        finally:
            if left:  # an exception or Ctrl-C: what the workers still do is of no use
                close_workers(self._workers, os.getpid())

    def _hand_out(self, job: str, units: Sequence[Any], queue: deque[int]) -> None:
        """Have as many workers as there is work for, and give units to those that have none."""
        for worker in [worker for worker in self._workers if not worker.units]:
            if worker.process.exitcode is not None:  # died while it had nothing to do
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
            with suppress(OSError):  # a worker that is dead is noticed when it is listened to
                worker.pipe.send((job, {number: units[number] for number in worker.units}))

    def _collect(self, job: str, limit: float | None, queue: deque[int]) -> list[tuple[int, Any]]:
        """Wait for outcomes: units done, or lost."""
        busy = [worker for worker in self._workers if worker.units]
        wait = None
        if limit is not None:
            earliest = min(worker.present()[1] for worker in busy) + limit
            # a worker that goes on to its next unit does not say so, hence never wait for long
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
        """Take what a worker has to say."""
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
                f"the worker died ({how}) before it could begin. Is there enough memory, and does "
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
        """Kill a worker: the unit that it is at is lost, its others wait again.

        Also those that it has done and not handed over: they are done again. A worker that died
        between two units costs the first that it has, so that there is an end in any case.
        """
        lost = Lost(reason, worker.state.read()[2])
        self._workers.remove(worker)
        close_workers([worker], os.getpid())
        unit = unit if unit in worker.units else worker.units[0]
        queue.extendleft(number for number in reversed(worker.units) if number != unit)
        return unit, lost
