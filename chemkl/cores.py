"""How many cores there are for this process."""

import os


def n_cores() -> int:
    """Those that it may run on: Slurm, containers and taskset leave it some of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
