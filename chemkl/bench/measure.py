"""Clocks, alternation and the rate of matrix products: what every measurement here is made of."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

from chemkl.policies.lstm import Matrix, packs
from chemkl.processes import n_cores

Parts = dict[str, float]
"""Seconds by the name of a part."""


class Spread(NamedTuple):
    """A median, and between which values the middle half lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of some values, one at least."""
        low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
        return cls(median(values), low, high)


def clock() -> float:
    """Seconds of this thread where there is one alone: neighbours on the machine count less then.

    With several threads those of the wall.
    """
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Watch:
    """Notes how long each part took since the one before it."""

    def __init__(self) -> None:
        self.parts: Parts = {}
        self._last = clock()

    def lap(self, part: str) -> None:
        """A part ends here."""
        now = clock()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now


def timed(part: str, work: Callable[..., object], *arguments: Any) -> Parts:
    """What a call takes, as one part."""
    watch = Watch()
    work(*arguments)
    watch.lap(part)
    return watch.parts


def alternate(ways: Mapping[str, Callable[[], Parts]], repeats: int) -> dict[str, list[Parts]]:
    """Do several ways in turn, A B A B, after a first time of each that does not count."""
    taken: dict[str, list[Parts]] = {name: [] for name in ways}
    for repeat in range(1 + repeats):
        for name, way in ways.items():
            parts = way()
            if repeat:
                taken[name].append(parts)
    return taken


def total(taken: list[Parts]) -> Spread:
    """The seconds of a whole turn."""
    return Spread.of([sum(parts.values()) for parts in taken])


def by_part(taken: list[Parts]) -> Parts:
    """The median seconds of each part."""
    return {name: median(parts[name] for parts in taken) for name in taken[0]}


def product_rate(n_rows: int, kind: torch.dtype = torch.float32, seconds: float = 0.3) -> float:
    """Floating-point operations a second of rows times a weight of an LSTM of 512 units."""
    weight, rows = torch.ones(2048, 1024), torch.ones(n_rows, 1024, dtype=kind)
    multiply = Matrix(weight, kind)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 3:
        begin = clock()
        multiply(rows)
        taken.append(clock() - begin)
    return 2 * weight.numel() * n_rows / median(taken)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch have so many threads in this scope."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """The processor, what it can do, and how fast matrix products are on it."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    rates = {
        "float32": product_rate(64) / 1e9,
        "bfloat16": product_rate(64, torch.bfloat16) / 1e9 if packs(torch.bfloat16) else None,
    }
    return {
        "processor": name,
        "cores": n_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability()
        + (f", oneDNN held to {limit}" if limit else ""),
        "torch": torch.__version__,
        "gflops_one_thread": rates,
    }


def memory_mib() -> float | None:
    """Memory of this process that is in use now; None where the system does not tell."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return None
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Used(NamedTuple):
    """What a command took."""

    seconds: float
    """By the clock on the wall."""
    peak_mib: float
    """Memory at its peak."""
    processor: float
    """Seconds of the processor, of the command and of what it started."""


def run_command(*arguments: str, threads: int | None = None) -> Used:
    """Run a command of chemkl in a process of its own; its threads are as usual, or so many.

    Raises:
        RuntimeError: it fails.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "chemkl", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})},
    )
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"chemkl {' '.join(arguments)} ended with {process.returncode}: {said}")
    seconds = time.perf_counter() - begin
    return Used(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def run_quickstart(out: Path, *settings: str, threads: int | None = None) -> Used:
    """Run the quickstart's post-training into a folder; see `run_command`."""
    command = ("posttrain", "configs/posttrain/quickstart.yaml", "callbacks.progress_bar=false")
    return run_command(*command, *settings, "--out", str(out), threads=threads)
