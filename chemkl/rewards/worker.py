"""What runs in a worker process of the pool, and what it and its parent say to each other."""

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, NamedTuple

from chemkl.chem.molecules import one_line
from chemkl.config import InputError

PORTION = 0.03
"""About so many seconds of work are with a worker at once, in one message, if units are quick."""

Jobs = Mapping[str, Callable[[Any], Any]]
"""What a worker can do with a unit, by name."""

Mark = Callable[[int], None]
"""Called by a job to say what it is at: a number from 0, which a lost unit comes back with."""


class Lost(NamedTuple):
    """What a unit comes to whose worker was killed or died.

    Attributes:
        reason: Why, in words.
        at: What the job was at, as it said by its mark; -1 where it said nothing.
    """

    reason: str
    at: int


class State:
    """What a worker is at, in memory that it shares with its parent.

    Args:
        values: the unit's place (-1: none), what its job has marked (-1: nothing), and since when.
    """

    def __init__(self, values: Any) -> None:
        self._values = values

    def begin(self, number: int) -> None:
        """Begin with a unit; in this order, so that its time is never another unit's."""
        self._values[2] = math.inf
        self._values[0], self._values[1] = number, -1
        self._values[2] = monotonic()

    def rest(self) -> None:
        """Be at no unit."""
        self._values[2] = math.inf
        self._values[0] = -1

    def mark(self, number: int) -> None:
        """Say what the job is at."""
        self._values[1] = number

    def read(self) -> tuple[int, float, int]:
        """The unit's place, since when, and what is marked; the time is never too early."""
        unit, since, marked = self._values[0], self._values[2], self._values[1]
        return int(unit), since if self._values[0] == unit else math.inf, int(marked)


def serve(pipe: Connection, values: Any, build: Callable[[Mark], Jobs]) -> None:
    """Do what comes through the pipe until it is closed."""
    _leash()
    state = State(values)
    try:
        jobs = build(state.mark)
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        is_input = isinstance(error, InputError)
        pipe.send(((is_input, str(error) if is_input else one_line(error)), 0.0))
        return
    with suppress(EOFError, OSError):  # the parent has gone
        pipe.send((None, 0.0))
        while True:
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
            state.rest()
        if not left or seconds > PORTION:
            pipe.send((done, seconds))
            done, start = [], monotonic()


def _leash() -> None:
    """Leave Ctrl-C to the parent, end in order when asked, and die with the parent."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that finalizers run
    parent = parent_process()
    if parent is None or not hasattr(signal, "SIGIO"):
        return
    import fcntl

    # the kernel sends SIGIO, which kills, as soon as the parent's end of this pipe is closed, even
    # if the parent was killed and this process is stuck in compiled code
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    sentinel = int(parent.sentinel)
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
