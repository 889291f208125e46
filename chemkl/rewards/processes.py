"""Worker processes as their parent sees them: what is with them, how they died, how they end."""

import math
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

from chemkl.rewards.worker import State

GRACE = 1.0
"""Seconds that a worker has to end its own children before it is killed."""


@dataclass
class Worker:
    """One process, and the units that are with it."""

    process: BaseProcess
    pipe: Connection
    state: State
    ready: bool = False
    units: dict[int, int] = field(default_factory=dict)  # place: bytes

    def send(self, job: str, units: Mapping[int, Any]) -> None:
        """Hand out units; a worker that is dead is found out later."""
        with suppress(OSError):
            self.pipe.send((job, units))

    def due(self, limits: Sequence[float]) -> tuple[int, float]:
        """Its present unit, and when the time of that is over."""
        unit, since, _ = self.state.read()
        return unit, since + limits[unit] if unit in self.units else math.inf

    def death(self) -> str:
        """Say how the process ended."""
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):  # a signal without a name
                return f"the worker died ({signal.Signals(-code).name})"
        return f"the worker died (exit code {code})"


def start_method() -> str:
    """How workers are started on this system: never by forking this process."""
    return "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


def close_workers(workers: list[Worker], owner: int) -> None:
    """End workers: ask them, then kill what is left of them and their process groups."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.state.end()
        worker.process.terminate()
    end = monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, end - monotonic()))
        _kill_group(worker.process)
        worker.process.join()
        worker.pipe.close()
    workers.clear()


def _kill_group(process: BaseProcess) -> None:
    if process.exitcode is None:
        process.kill()
    if process.pid is not None and hasattr(os, "killpg"):
        with suppress(OSError):  # no such group (any more)
            os.killpg(process.pid, signal.SIGKILL)
