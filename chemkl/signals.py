"""Signals that tell a process to end: SIGTERM, SIGHUP and SIGUSR1, as a scheduler sends them.

Within `handled` such a signal raises `StoppedBySignal` in the main thread, as Ctrl-C raises
KeyboardInterrupt. Within `deferred` it is only noted: whoever works there asks `pending` where it
is safe to stop, and what he has not heeded is raised when the scope ends. A second one ends the
process at once, in compiled code too. Nothing here imports more than the standard library: the
handlers are there before anything heavy is loaded.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from time import monotonic, sleep
from types import FrameType
from typing import Any

NUMBERS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""The signals that are heeded; Windows has the first only."""

ECHO = 0.1
"""Seconds within which a second signal is the first one again: `timeout` and some schedulers send
one to the process and another to its group."""


_END = b"\0"
"""What ends the thread that watches: no signal has the number 0."""


class StoppedBySignal(SystemExit):
    """A signal told the process to end; unless it is caught, the exit code is 128 + its number.

    Args:
        number: of the signal.
        code: the exit code instead, for a process whose end is not the user's.
    """

    def __init__(self, number: int, code: int | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number if code is None else code


@dataclass
class _Noted:
    """The signal that has come, and whether it is to wait."""

    number: int | None = None
    since: float = 0.0
    first: int | None = None  # as `_watch` saw it arrive
    scopes: int = 0  # of `deferred`


_noted = _Noted()


def pending() -> int | None:
    """The number of the signal that has come; None: none has."""
    return _noted.number


@contextmanager
def handled() -> Iterator[None]:
    """Heed the signals in this scope.

    Only those are heeded that would kill the process: one that is ignored, as `nohup` ignores
    SIGHUP, stays ignored, and a handler of the caller stays in force. A thread beside the main one
    can set no handlers; there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in NUMBERS if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _note)
    try:
        with _watched(numbers) if numbers else nullcontext():
            yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if numbers:
            _noted.number = _noted.first = None


@contextmanager
def deferred() -> Iterator[None]:
    """Only note a signal in this scope."""
    before = _noted.number
    _noted.scopes += 1
    try:
        yield
    finally:
        _noted.scopes -= 1
    if before is None and _noted.number is not None and not _noted.scopes:
        raise StoppedBySignal(_noted.number)


def _note(number: int, _frame: FrameType | None) -> None:
    if _noted.number is not None:
        if monotonic() - _noted.since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    _noted.number, _noted.since = _noted.first or number, monotonic()
    if not _noted.scopes:
        raise StoppedBySignal(_noted.number)


@contextmanager
def _watched(heeded: Collection[int]) -> Iterator[None]:
    """Let a thread see signals as they arrive: `_note` runs behind the compiled code of a step."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading, heeded), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _END)  # closing does not: a forked child may have the pipe too
        watcher.join()
        os.close(writing)
        os.close(reading)


def _watch(reading: int, heeded: Collection[int]) -> None:
    """Keep which signal came first, and end the process at a second one, if `_note` cannot."""
    if hasattr(signal, "pthread_sigmask"):  # they are the main thread's, which may be `shielded`
        signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
    since = 0.0
    while _END not in (numbers := os.read(reading, 64)):
        for number in filter(heeded.__contains__, numbers):
            if _noted.first is None:
                _noted.first, since = number, monotonic()
            elif monotonic() - since > ECHO:
                sleep(2 * ECHO)
                os._exit(128 + number)


def _forget_watcher() -> None:
    """In a forked child: its signals are not those of this process."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watcher)


# ---- worker processes


@contextmanager
def shielded() -> Iterator[None]:
    """Keep the signals, and Ctrl-C, from processes that are started in this scope.

    A terminal or a scheduler sends them to all processes of a job, but it is this process that
    decides what becomes of its workers, and of the servers that start them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # Unix only

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
    try:
        resource_tracker.ensure_running()  # where it has to start it, it unblocks two of them
        signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(on_term: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """Make a worker process, started `shielded`, heed its parent alone, and die with it."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
    for number in (*NUMBERS, signal.SIGINT):
        signal.signal(number, on_term if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*NUMBERS, signal.SIGINT})
    parent = parent_process()
    if parent is not None:
        die_with(int(parent.sentinel))


def die_with(pipe: int) -> None:
    """Have this process killed as soon as the other end of a pipe is closed."""
    if sys.platform == "win32":
        return
    import fcntl

    # the kernel sends SIGIO, which kills, as soon as the other end of this pipe is closed, even
    # if its process was killed and this one is stuck in compiled code
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC)
