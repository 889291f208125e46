"""Clocks, alternating measurements and the rate of matrix products, which all of bench uses."""

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
"""Seconds by part."""


class Spread(NamedTuple):
    """A median and the limits of the middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Compute from one value or more."""
        low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
        return cls(median(values), low, high)


def clock() -> float:
    """Return the processor time of a single thread, or the wall time of several.

    Processor time depends less on other work on the machine.
    """
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Watch:
    """Measures the parts of a step one after the other."""

    def __init__(self) -> None:
        self.parts: Parts = {}
        self._last = clock()

    def lap(self, part: str) -> None:
        """End a part."""
        now = clock()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now


def timed(part: str, work: Callable[..., object], *arguments: Any) -> Parts:
    """Return the seconds of a call as one part."""
    watch = Watch()
    work(*arguments)
    watch.lap(part)
    return watch.parts


def alternate(variants: Mapping[str, Callable[[], Parts]], repeats: int) -> dict[str, list[Parts]]:
    """Measure several variants in turn, A B A B, after a warm-up of each."""
    times: dict[str, list[Parts]] = {name: [] for name in variants}
    for repeat in range(1 + repeats):
        for name, variant in variants.items():
            parts = variant()
            if repeat:
                times[name].append(parts)
    return times


def total(turns: list[Parts]) -> Spread:
    """Summarise the seconds of whole turns."""
    return Spread.of([sum(parts.values()) for parts in turns])


def by_part(turns: list[Parts]) -> Parts:
    """Return the median seconds of each part."""
    return {name: median(parts[name] for parts in turns) for name in turns[0]}


def product_rate(n_rows: int, kind: torch.dtype = torch.float32, seconds: float = 0.3) -> float:
    """Return the operations a second of rows times the weight of an LSTM of 512 units."""
    weight, rows = torch.ones(2048, 1024), torch.ones(n_rows, 1024, dtype=kind)
    multiply = Matrix(weight, kind)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        start = clock()
        multiply(rows)
        times.append(clock() - start)
    return 2 * weight.numel() * n_rows / median(times)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Set torch's number of threads in this scope."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """Describe the processor, its instruction set and the speed of its matrix products."""
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
        + (f", oneDNN limited to {limit}" if limit else ""),
        "torch": torch.__version__,
        "gflops_one_thread": rates,
    }


def memory_mib() -> float | None:
    """Return the memory that this process uses now; None if the system does not report it."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return None
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Used(NamedTuple):
    """The resources that a command used."""

    seconds: float  # wall time
    peak_mib: float  # peak memory
    processor: float  # processor time of the command and of the processes that it started


def run_command(*arguments: str, threads: int | None = None) -> Used:
    """Run a chemkl command in a process of its own, with so many threads, or the default number.

    Raises:
        RuntimeError: the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "chemkl", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})},
    )
    assert process.stderr is not None
    message = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f"chemkl {' '.join(arguments)} ended with {process.returncode}: {message}"
        )
    seconds = time.perf_counter() - start
    return Used(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def run_quickstart(out: Path, *settings: str, threads: int | None = None) -> Used:
    """Run the quickstart's post-training into a folder; see `run_command`."""
    command = ("posttrain", "configs/posttrain/quickstart.yaml", "callbacks.progress_bar=false")
    return run_command(*command, *settings, "--out", str(out), threads=threads)
