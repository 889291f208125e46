"""Jobs as processes, forked by a server that has imported what they need.

Each is what ``python -m chemkl run PIPELINE --job NAME`` would be, without the seconds that its
imports take. The server does nothing but import: a pool of threads would be lost in the copies.
"""

import atexit
import os
import runpy
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from chemkl.processes import NUMBERS, adopt, die_with, n_threads, shielded

_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


def load_ahead(modules: Iterable[str], n_jobs: int) -> None:
    """Start the server, which imports modules while this process does something else."""
    if _METHOD != "forkserver":
        return
    from multiprocessing import forkserver  # not on Windows

    forkserver.set_forkserver_preload(["chemkl.cli", __name__, *modules])
    environment = os.environ | {
        "OMP_NUM_THREADS": str(n_threads(n_jobs)),  # it is read when torch is loaded
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONSAFEPATH": "1",  # no module of the working directory's
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with shielded():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(command: Sequence[str], out: Path, log: Path, n_jobs: int) -> BaseProcess:
    """Start a job; it writes its standard outputs into files, and dies with this process."""
    own = os.environ | {"OMP_NUM_THREADS": str(n_threads(n_jobs))}
    process: BaseProcess = get_context(_METHOD).Process(  # type: ignore[attr-defined]
        target=_be, args=(command, own, Path.cwd(), out, log)
    )
    with shielded(), without_script():
        process.start()
    return process


@contextmanager
def without_script() -> Iterator[None]:
    """Let processes start that do not run the script of this one first."""
    caller = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = caller


def _be(
    command: Sequence[str], environment: dict[str, str], folder: Path, out: Path, log: Path
) -> None:
    """Be the job, in the process that was forked for it."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the starter, which tells the others
    os.chdir(folder)
    for number, path in ((1, out), (2, log)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    adopt(environment)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*NUMBERS, signal.SIGINT})
    starter = parent_process()
    if starter is not None:
        die_with(int(starter.sentinel))
        if not starter.is_alive():
            os._exit(1)
    sys.argv = ["chemkl", *command]
    try:
        runpy.run_module("chemkl", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out before Python 3.14
