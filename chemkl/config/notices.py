"""Lines on the error output that are said once: what was taken for granted, what is not safe."""

import multiprocessing
import sys
from functools import cache


@cache
def say_once(line: str) -> None:
    """Say a line, once in a run: its workers meet the same things again, and are silent."""
    if multiprocessing.parent_process() is None:
        sys.stderr.write(" ".join(line.split()) + "\n")
