"""Signals, cores and threads of this process and of the worker processes it starts.

SIGTERM, SIGHUP and SIGUSR1, as a scheduler sends them, end a run. Inside `handled` such a signal
raises `StoppedBySignal` in the main thread, as Ctrl-C raises KeyboardInterrupt. Inside `deferred`
it is only recorded: the code polls `pending` where it is safe to stop, and a signal that is still
pending is raised when the scope ends. A second signal ends the process at once, even in compiled
code. This module imports the standard library only, so that the handlers are set before anything
heavy is loaded.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from time import monotonic, sleep
from types import FrameType, ModuleType
from typing import Any

NUMBERS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""The signals that end a run; Windows has only the first."""

ECHO = 0.1
"""Seconds within which a second signal counts as the first one again: `timeout` and some schedulers
send one to the process and another to its group."""

_END = b"\0"
"""Ends the watcher thread; no signal has the number 0."""


class StoppedBySignal(SystemExit):
    """A signal told the process to end; unless it is caught, the exit code is 128 + its number.

    Args:
        number: of the signal.
        code: exit code instead, for a process that the user did not start.
    """

    def __init__(self, number: int, code: int | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number if code is None else code


@dataclass
class _State:
    """The signal received so far, if any, and how many `deferred` scopes are open."""

    number: int | None = None
    since: float = 0.0
    first: int | None = None  # as seen by `_watch`
    scopes: int = 0


_state = _State()


def pending() -> int | None:
    """Return the number of the signal received; None if there was none."""
    return _state.number


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals in this scope.

    Only signals that would kill the process are handled: one that is ignored, as under `nohup`,
    stays ignored, and handlers of the caller stay in force. Only the main thread can set handlers;
    in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in NUMBERS if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _receive)
    try:
        with _watched(numbers) if numbers else nullcontext():
            yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if numbers:
            _state.number = _state.first = None


@contextmanager
def deferred() -> Iterator[None]:
    """Record a signal in this scope and raise it at the end."""
    before = _state.number
    _state.scopes += 1
    try:
        yield
    finally:
        _state.scopes -= 1
    if before is None and _state.number is not None and not _state.scopes:
        raise StoppedBySignal(_state.number)


def _receive(number: int, _frame: FrameType | None) -> None:
    if _state.number is not None:
        if monotonic() - _state.since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    _state.number, _state.since = _state.first or number, monotonic()
    if not _state.scopes:
        raise StoppedBySignal(_state.number)


@contextmanager
def _watched(numbers: Collection[int]) -> Iterator[None]:
    """Run a thread that sees signals as they arrive: `_receive` must wait for compiled code."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading, numbers), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _END)  # closing is not enough: a forked child may hold the pipe too
        watcher.join()
        os.close(writing)
        os.close(reading)


def _watch(reading: int, numbers: Collection[int]) -> None:
    """Record which signal came first; end the process at a second one if `_receive` cannot."""
    if hasattr(signal, "pthread_sigmask"):  # signals go to the main thread, which may be `shielded`
        signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
    since = 0.0
    while _END not in (received := os.read(reading, 64)):
        for number in filter(numbers.__contains__, received):
            if _state.first is None:
                _state.first, since = number, monotonic()
            elif monotonic() - since > ECHO:
                sleep(2 * ECHO)
                os._exit(128 + number)


def _forget_watcher() -> None:
    """Detach a forked child from the watcher of its parent."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watcher)


# ---- worker processes


@contextmanager
def shielded() -> Iterator[None]:
    """Block the signals, and Ctrl-C, in processes that are started in this scope.

    A terminal or a scheduler signals all processes of a job, but this process decides when its
    workers end, and the servers that start them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # Unix only

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
    try:
        resource_tracker.ensure_running()  # starting it unblocks two of the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, {*NUMBERS, signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_script() -> Iterator[None]:
    """Let processes that are started in this scope not run the script of this one first."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def follow_parent(on_term: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """Make a `shielded` worker process take signals from its parent only, and die with it."""
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

    # the kernel sends SIGIO, which kills, when the other end of the pipe is closed, even if that
    # process was killed and this one is stuck in compiled code
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC)


# ---- cores and threads


def n_cores() -> int:
    """Count the cores this process may use; Slurm, containers and taskset may restrict them."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_threads(n_jobs: int = 1) -> int:
    """Return the threads for each of several jobs: its share of the cores, or OMP_NUM_THREADS."""
    share = max(1, n_cores() // n_jobs)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(limit))) if limit.isdecimal() else share


def adopt(environment: Mapping[str, str]) -> None:
    """Give a forked server process the environment and the threads of its client."""
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:  # loaded by the server with its own number of threads
        sys.modules["torch"].set_num_threads(n_threads())
