"""Worker processes that stay: work handed out in units, a limit of time for each, deaths borne."""

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any, Self

from chemkl.config import InputError
from chemkl.rewards.processes import Worker, close_workers, start_method
from chemkl.rewards.worker import PORTION, Jobs, Lost, Mark, State, serve
from chemkl.signals import shielded

TICK = 1e-4
"""Seconds that a message of units takes at least: some systems' clocks see no less than 15 ms."""

GLANCE = 0.25
"""Seconds after which the clock is looked at again where units have a limit."""

MOST_UNITS = 32
"""No more units than these are with a worker at once, however quick they are."""

MOST_BYTES = 32_768
"""No more bytes than these are written to a worker that is busy: writing must not block."""


class Pool:
    """Worker processes, started when they are first needed.

    The workers are children of a small server process (forkserver) where there is such a thing,
    so starting one anew costs some hundredths of a second. As always with processes in Python, a
    script must keep its own work under ``if __name__ == "__main__":``.

    Args:
        build: called once in each worker with a `Mark`; gives the jobs. Must be picklable.
        workers: how many processes.
        preload: modules that the server imports once for all workers.
    """

    def __init__(
        self, build: Callable[[Mark], Jobs], workers: int, preload: Sequence[str] = ()
    ) -> None:
        self._build = build
        self._n = workers
        self._context: BaseContext = get_context(start_method())
        self._context.set_forkserver_preload([__name__, *preload])
        self._workers: list[Worker] = []
        self._mean: dict[str, float] = {}  # seconds a unit of a job takes
        # at the end of the process too; a fork of it must leave the workers alone
        self.close = weakref.finalize(self, close_workers, self._workers, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    def run(
        self, job: str, units: Sequence[Any], limits: Sequence[float] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Have every unit done: each once, in no order, but with its place in the list.

        Args:
            job: name of the job.
            units: what it is called with, one at a time.
            limits: seconds for each unit, then its worker is killed; None: no limit.

        Yields:
            The unit's place, and what the job returned; `Lost` where the worker was killed or died.

        Raises:
            InputError: the jobs cannot be built.
            RuntimeError: a worker died before it began, or the pool is closed.
        """
        if not self.close.alive:
            raise RuntimeError("this pool of workers is closed")
        waiting, left = deque(range(len(units))), len(units)
        try:
            while left:
                self._feed(job, units, waiting)
                for number, outcome in self._hear(job, limits, waiting):
                    left -= 1
                    yield number, outcome
        finally:
            if left:  # an exception or Ctrl-C: what is still with the workers is of no use
                close_workers(self._workers, os.getpid())

    def _feed(self, job: str, units: Sequence[Any], waiting: deque[int]) -> None:
        """Hand out units: one at a time, or several quick ones."""
        self._man(len(waiting))
        most = int(PORTION / self._mean.get(job, math.inf)) if waiting else 0
        most = max(1, min(most, MOST_UNITS, len(waiting) // len(self._workers)))
        if min(len(worker.units) for worker in self._workers) > most // 2:
            return
        portions: dict[int, dict[int, Any]] = {}
        while waiting:
            at, worker = min(enumerate(self._workers), key=lambda each: len(each[1].units))
            size = _size(units[waiting[0]])
            too_long = worker.units and sum(worker.units.values()) + size > MOST_BYTES
            if len(worker.units) >= most or too_long:
                break
            number = waiting.popleft()
            worker.units[number] = size
            portions.setdefault(at, {})[number] = units[number]
        for at, portion in portions.items():
            self._workers[at].send(job, portion)

    def _man(self, n_waiting: int) -> None:
        """Have as many workers as there is work for."""
        for worker in [each for each in self._workers if not each.units]:
            if worker.process.exitcode is not None:  # died while it had nothing to do
                self._workers.remove(worker)
                worker.pipe.close()
        n_busy = sum(bool(worker.units) for worker in self._workers)
        while len(self._workers) < min(self._n, n_busy + n_waiting):
            self._workers.append(self._start())

    def _hear(
        self, job: str, limits: Sequence[float] | None, waiting: deque[int]
    ) -> list[tuple[int, Any]]:
        """Wait for news: units done, or lost."""
        busy = [worker for worker in self._workers if worker.units]
        pipes = [worker.pipe for worker in busy]
        ready = connection.wait(pipes, None if limits is None else _patience(busy, limits))
        news: list[tuple[int, Any]] = []
        for worker in busy:
            if worker.pipe in ready:
                news += self._read(job, worker, waiting)
            elif limits is not None:
                unit, end = worker.due(limits)
                if monotonic() >= end:
                    reason = f"timeout after {limits[unit]:g} s"
                    news.append(self._lose(worker, unit, reason, waiting))
        return news

    def _read(self, job: str, worker: Worker, waiting: deque[int]) -> list[tuple[int, Any]]:
        """Take what a worker has to say."""
        try:
            done, seconds = worker.pipe.recv()
        except (EOFError, OSError):
            return self._bury(worker, waiting)
        if not worker.ready:
            _check_built(done)
            worker.ready = True
            return []
        mean = max(seconds, TICK) / len(done)
        self._mean[job] = (self._mean.get(job, mean) + mean) / 2
        for number, _ in done:
            del worker.units[number]
        return list(done)

    def _bury(self, worker: Worker, waiting: deque[int]) -> list[tuple[int, Any]]:
        """Part with a worker that died."""
        reason = worker.death()
        if not worker.ready:
            raise RuntimeError(
                f"{reason} before it could begin. Is there enough memory, and does your script do "
                "its own work under 'if __name__ == \"__main__\":' only?"
            )
        return [self._lose(worker, worker.state.read()[0], reason, waiting)]

    def _lose(
        self, worker: Worker, unit: int, reason: str, waiting: deque[int]
    ) -> tuple[int, Lost]:
        """Kill a worker: the unit that it was at is lost, the others wait again.

        Also those that it had done and not handed over: they are done again. A worker that died
        between two units costs the first that is with it, so that there is an end in any case.
        """
        self._workers.remove(worker)
        lost = Lost(reason, worker.state.read()[2])
        close_workers([worker], os.getpid())
        unit = unit if unit in worker.units else next(iter(worker.units))
        waiting.extendleft(each for each in reversed(worker.units) if each != unit)
        return unit, lost

    def _start(self) -> Worker:
        ours, theirs = self._context.Pipe()
        values = self._context.RawArray("d", [-1.0, -1.0, math.inf, 0.0])
        process = self._context.Process(  # type: ignore[attr-defined] # every concrete context has it
            target=serve, args=(theirs, values, self._build), daemon=True
        )
        with shielded():
            process.start()
        theirs.close()
        return Worker(process, ours, State(values))


def _patience(busy: Sequence[Worker], limits: Sequence[float]) -> float:
    """Seconds to wait for news before the clock is looked at again.

    A worker that goes on to the next of its units does not say so at once, hence never for long.
    """
    earliest = min(worker.due(limits)[1] for worker in busy)
    return min(GLANCE, max(0.0, earliest - monotonic()))


def _size(unit: Any) -> int:
    """About how many bytes a unit is in a message."""
    return len(repr(unit))


def _check_built(problem: tuple[bool, str] | None) -> None:
    """Pass on why a worker could not build its jobs."""
    if problem is not None:
        is_input, text = problem
        raise InputError(text) if is_input else RuntimeError(f"a worker cannot begin: {text}")
