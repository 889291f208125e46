"""What `chemkl run --jobs 2` gains over one job at a time, one thread a job, by turns.

python -m chemkl.bench.jobs [--budget 3000] [--jobs 2] [--repeats 1]

On a machine that has other work the clock says little. Beside it stands the gain that the processor
time of the jobs allows where each has a core to itself: what more processes cost is in it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chemkl.config import shipped
from chemkl.cores import n_cores
from chemkl.results.atomic import json_of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=3000, help="calls of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs, and how many at a time")
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    entry = {
        "stage": "posttrain",
        "config": str(shipped.root() / "configs/posttrain/quickstart.yaml"),
        "set": {"budget": asked.budget},
        "grid": {"seed": list(range(asked.jobs))},
    }
    walls: dict[int, list[float]] = {1: [], asked.jobs: []}
    times: dict[int, list[float]] = {1: [], asked.jobs: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.yaml")
        file.write_bytes(json_of({"name": "bench", "stages": [entry]}))
        for turn in range(asked.repeats):
            for n_jobs in walls:
                command = [sys.executable, "-P", "-m", "chemkl", "run", str(file)]
                command += ["--jobs", str(n_jobs)]
                before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(
                    [*command, "--out", f"{folder}/{turn}-{n_jobs}"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
                walls[n_jobs].append(time.perf_counter() - began)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
                times[n_jobs].append(spent)
    wall, cpu = ({n: statistics.median(v) for n, v in of.items()} for of in (walls, times))
    for n_jobs in walls:
        print(f"--jobs {n_jobs}: {wall[n_jobs]:7.1f} s, {cpu[n_jobs]:7.1f} s of processor time")
    print(f"by the clock {wall[1] / wall[asked.jobs]:.2f} times as fast on {n_cores()} cores")
    print(
        f"by processor time {asked.jobs * cpu[1] / cpu[asked.jobs]:.2f}, with a core for each job"
    )


if __name__ == "__main__":
    main()
