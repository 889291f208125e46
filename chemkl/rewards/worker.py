"""What runs in a worker process of the pool, and what it and its parent say to each other."""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, NamedTuple

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.signals import follow_parent

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
        values: the unit's place (-1: none), what its job has marked (-1: nothing), since when,
            and whether it is to end.
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

    def end(self) -> None:
        """Say, as the parent, that the SIGTERM which follows is meant: the worker is to end."""
        self._values[3] = 1

    @property
    def is_to_end(self) -> bool:
        """Whether the parent has said so."""
        return bool(self._values[3])

    def read(self) -> tuple[int, float, int]:
        """The unit's place, since when, and what is marked; the time is never too early."""
        unit, since, marked = self._values[0], self._values[2], self._values[1]
        return int(unit), since if self._values[0] == unit else math.inf, int(marked)


def serve(pipe: Connection, values: Any, build: Callable[[Mark], Jobs]) -> None:
    """Do what comes through the pipe until it is closed."""
    state = State(values)

    def end_if_asked(*_: object) -> None:
        if state.is_to_end:  # a scheduler's SIGTERM is not for the worker: a unit would be lost
            sys.exit(1)  # so that finalizers run

    follow_parent(end_if_asked)
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
