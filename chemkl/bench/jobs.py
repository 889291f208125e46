"""What `chemkl run --jobs 2` gains over one job at a time, one thread a job, by turns.

python -m chemkl.bench.jobs [--budget 3000] [--jobs 2] [--repeats 1]

The runs are equal but for one sample at their end: one that took longer would leave a core idle. On
a machine that has other work the clock says little. Beside it stands the gain that the processor
time of the jobs allows where each has a core to itself: what more processes cost is in it. Above
all stands what the machine itself gains: matrix products alone, in one process and in several.
"""

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median

from chemkl.bench.measure import Used, run_command
from chemkl.config.paths import shipped_root
from chemkl.processes import n_cores
from chemkl.results.atomic import json_of

PRODUCTS = """
import time
import torch
from chemkl.policies.lstm import Matrix
multiply, rows = Matrix(torch.ones(2048, 1024), torch.float32), torch.ones(64, 1024)
until, n = time.perf_counter() + 0.3, 0
while time.perf_counter() < until:
    multiply(rows)
print(flush=True)
input()
until = time.perf_counter() + 3
while time.perf_counter() < until:
    multiply(rows)
    n += 1
print(n)
"""
"""What a process does to count its products in three seconds, once it is told to begin."""
SUBREAPER = 36
"""Linux's PR_SET_CHILD_SUBREAPER: the server of the jobs, left behind, becomes this one's child."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=3000, help="calls of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs, and how many at a time")
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    print(f"matrix products alone: {machine_gain(asked.jobs):.2f} times as many in {asked.jobs}")
    entry = {
        "stage": "posttrain",
        "config": str(shipped_root() / "configs/posttrain/quickstart.yaml"),
        "set": {"budget": asked.budget},
        "grid": {"max_samples": [2 * asked.budget - n for n in range(asked.jobs)]},
    }
    taken: dict[int, list[Used]] = {1: [], asked.jobs: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.yaml")
        file.write_bytes(json_of({"name": "bench", "stages": [entry]}))
        for turn in range(asked.repeats):
            for n_jobs, used in taken.items():
                out = f"{folder}/{turn}-{n_jobs}"
                command = ("run", str(file), "--jobs", str(n_jobs), "--out", out)
                before = _processor()
                one = run_command(*command, threads=1)
                with suppress(ChildProcessError):
                    while True:
                        os.wait()
                used.append(one._replace(processor=_processor() - before))
    wall = {n: median(one.seconds for one in used) for n, used in taken.items()}
    cpu = {n: median(one.processor for one in used) for n, used in taken.items()}
    for n_jobs in taken:
        print(f"--jobs {n_jobs}: {wall[n_jobs]:7.1f} s, {cpu[n_jobs]:7.1f} s of processor time")
    print(f"by the clock {wall[1] / wall[asked.jobs]:.2f} times as fast on {n_cores()} cores")
    print(
        f"by processor time {asked.jobs * cpu[1] / cpu[asked.jobs]:.2f}, with a core for each job"
    )


def machine_gain(n: int) -> float:
    """How many times the matrix products of one process n make in a time, a thread each."""
    return _products(n) / _products(1)


def _products(n: int) -> int:
    """The products that n processes make together in the same seconds of the clock."""
    command = [sys.executable, "-c", PRODUCTS]
    pipe, environment = subprocess.PIPE, os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) for _ in range(n)
    ]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()  # it is warm
    for one in started:
        assert one.stdin is not None
        one.stdin.write(b"\n")
        one.stdin.flush()
    return sum(int(one.communicate()[0]) for one in started)


def _processor() -> float:
    """Seconds of the processor of all children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
