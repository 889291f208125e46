"""Runs of stages in forks of one warm process, some of which kill themselves at a given moment.

A moment is a call of a function: `before` it, `after` it, or with `half` of the file that it wrote.
The fork sends itself SIGKILL there: nothing is cleaned up, flushed or reported.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Moment(NamedTuple):
    """The n-th call of a function, ``module:name`` or ``module:class.name``."""

    where: str
    n: int
    how: str = "before"


def moments(where: str, ns: Sequence[int], hows: Sequence[str] = ("before",)) -> list[Moment]:
    return [Moment(where, n, how) for n in ns for how in hows]


def arm(moment: Moment) -> None:
    """Have this process killed at a moment."""
    module, _, path = moment.where.partition(":")
    *owners, name = path.split(".")
    owner = import_module(module)
    for attribute in owners:
        owner = getattr(owner, attribute)
    function, calls = getattr(owner, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) != moment.n:
            return function(*args, **kwargs)
        if moment.how != "before":
            values = [*args, *kwargs.values(), getattr(args[0], "_path", None)]
            paths = [Path(value) for value in values if isinstance(value, str | Path)]
            sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
            function(*args, **kwargs)
            for path, size in zip(paths, sizes, strict=True):
                if moment.how == "half" and path.is_file():
                    os.truncate(path, (size + path.stat().st_size) // 2)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, call)


class Forks:
    """Runs stages, each run in a fork of a process that has imported all of them.

    Used as a context manager.
    """

    def __init__(self, *stages: str) -> None:
        self._command = [sys.executable, __file__, *stages]

    def __enter__(self) -> "Forks":
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # a pool of threads outlives no fork
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen(self._command, env=one_thread, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()

    def run(self, stage: str, config: object, out: Path, moment: Moment | None = None) -> int:
        """Run a stage; return the exit code, negative for a signal. Its errors are in OUT.err."""
        request = json.dumps([stage, config, str(out), moment], default=str)
        self._server.stdin.write(f"{request}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def check_kill(
    forks: Forks, stage: str, config: object, out: Path, moment: Moment, whole: Path, same: Callable
) -> None:
    """Kill a run at a moment, resume it, and compare it with an undisturbed run by `same`."""
    assert forks.run(stage, config, out, moment) == -signal.SIGKILL, f"{moment} is not reached"
    assert forks.run(stage, config, out) == 0, Path(f"{out}.err").read_text()
    same(out, whole)
    assert {path.name for path in out.rglob(".*")} <= {".lock", ".orphan"}


def serve(stages: Sequence[str]) -> None:
    """Import the stages; then fork, run and print the exit code for each line of the input."""
    from chemkl.stages.registry import STAGES

    for stage in stages:
        assert STAGES[stage].module
    for line in sys.stdin:
        stage, config, out, moment = json.loads(line)
        pid = os.fork()
        if not pid:
            errors = os.open(f"{out}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(errors, stream)
            try:
                if moment:
                    arm(Moment(*moment))
                STAGES[stage].run(config, out)
            except BaseException:  # noqa: BLE001 - the fork ends here in any case
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve(sys.argv[1:])
