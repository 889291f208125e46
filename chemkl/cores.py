"""How many cores there are for this process, and threads for what it starts."""

import os
import sys
from collections.abc import Mapping


def n_cores() -> int:
    """Those that it may run on: Slurm, containers and taskset leave it some of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_threads(n_jobs: int = 1) -> int:
    """Threads of each of several jobs: its share of the cores, or fewer if the user has said so."""
    share = max(1, n_cores() // n_jobs)
    most = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(most))) if most.isdecimal() else share


def adopt(environment: Mapping[str, str]) -> None:
    """Give a process that a server has forked the environment and threads of who asked for it."""
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:  # loaded by the server, with threads of its own
        sys.modules["torch"].set_num_threads(n_threads())
