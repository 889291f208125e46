"""Components for a user's programs: one that runs on, a line a molecule, or one run per batch."""

import hashlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from rdkit.Chem import Mol, MolToSmiles

from chemkl.config import InputError
from chemkl.config.base import quoted
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import (
    REAL,
    BatchScore,
    Identified,
    Score,
    TransientError,
    component,
)

LONGEST_ANSWER = 1_000_000  # most bytes of a line
ERROR_LINES = 5  # last lines of standard error to report in a reason
GRACE = 0.4
"""Seconds a program has to end after a signal, well below the time that `chemkl.rewards.pool`
allows a worker for ending all of its programs."""


class ProgramDiedError(RuntimeError):
    """The program ended before it answered."""


def find_program(command: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return a command with full paths of the program and of files in the config's folder."""

    def resolve(argument: str) -> str:
        """Return the full path of a file in the folder or the working directory, or the text."""
        places = [place for place in (folder, Path.cwd()) if place is not None and argument]
        return next(filter(os.path.isfile, (str(place / argument) for place in places)), argument)

    name, *arguments = command
    program, problem = shutil.which(name), ""
    if "/" in name:
        program = str(Path(os.path.expanduser(resolve(name))).absolute())
        if not Path(program).is_file():
            problem = f"no such program: {program}"
        elif not os.access(program, os.X_OK):
            problem = f"{program} is not executable: chmod +x it, or put its interpreter before it"
    elif program is None:
        problem = f"no program {name!r} on this machine's PATH; to name a file, write ./{name}"
    if problem:
        raise InputError(problem)
    return [str(program), *map(resolve, arguments)]


def _content(command: Sequence[str]) -> str:
    """Return a hash of the contents of all files in a command."""
    files = (Path(part) for part in command if Path(part).is_absolute())
    digests = [sha256_of(file) for file in files if file.is_file()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


class Program:
    """A score function that sends molecules to a program.

    The program starts with the first molecule. A fork of this process starts its own program,
    because two processes must not share the pipes.
    """

    def __init__(self, command: tuple[str, ...], timeout: float) -> None:
        self.command = command
        self.timeout = timeout
        self._running: _Running | None = None
        self._lock, self._process = threading.Lock(), os.getpid()

    @property
    def identity(self) -> str:
        """What values depend on besides the settings: the program's files."""
        return _content(self.command)

    def __call__(self, mol: Mol) -> float:
        """Score one molecule; raise a RuntimeError if there is no usable answer."""
        if self._process != os.getpid():
            self._running = None
            self._lock, self._process = threading.Lock(), os.getpid()
        smiles = MolToSmiles(mol)
        with self._lock:
            try:
                return self._answer(smiles)
            except ProgramDiedError:
                return self._answer(smiles)  # restarted once

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.command, self.timeout)

    def _answer(self, smiles: str) -> float:
        if self._running is None:
            self._running = _Running(self.command)
        try:
            answer = self._running.query(smiles, self.timeout)
        except BaseException:
            # also after Ctrl-C, because a late answer would be taken for the next molecule's
            self._running.stop()
            self._running = None
            raise
        value = answer.get("value")
        if "error" in answer:
            problem = " ".join(str(answer["error"]).split())[:400]
            if answer.get("transient") is True:
                raise TransientError(problem)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            problem = f"its value {quoted(value)} is not a number"
        else:
            return float(value)
        raise RuntimeError(problem)


class _Running:
    """A running program."""

    def __init__(self, command: tuple[str, ...]) -> None:
        try:
            self._popen: Any = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # its children receive its signals, but not our Ctrl-C
                bufsize=0,
            )
        except OSError as error:
            raise RuntimeError(f"{command[0]} cannot be started ({error.strerror})") from None
        self._lines: deque[str] = deque(maxlen=ERROR_LINES)
        self._listener = threading.Thread(
            target=_listen,  # a function, because a method would keep this object alive
            args=(self._popen.stderr, self._lines),
            daemon=True,
        )
        self._listener.start()
        self._buffer = bytearray()
        self._n_queries = 0
        # unlike atexit it also runs at the end of a worker of multiprocessing
        self.stop = Finalize(self, _stop, (self._popen,), exitpriority=10)

    def query(self, smiles: str, timeout: float) -> dict[str, Any]:
        """Send a molecule and read the answer, a mapping with a value or an error."""
        deadline = monotonic() + timeout
        if self._buffer or self._readable(0):
            line = self._line(deadline, timeout)
            raise RuntimeError(f"it wrote more than one line for a molecule: {quoted(line)}")
        self._n_queries += 1
        query = {"id": self._n_queries, "smiles": smiles}
        try:
            self._popen.stdin.write(json.dumps(query).encode() + b"\n")
        except OSError:
            raise self._died("input") from None
        line = self._line(deadline, timeout)
        answer = None
        with suppress(ValueError):
            answer = json.loads(line)
        if not isinstance(answer, dict) or not {"value", "error"} & answer.keys():
            raise RuntimeError(
                f'its answer {quoted(line)} is not a JSON line {{"value": ...}} or '
                '{"error": ...}; write other output to standard error'
            )
        for key, expected in query.items():
            if answer.get(key, expected) != expected:
                raise RuntimeError(
                    f"its answer has {key} {quoted(answer[key])} instead of {quoted(expected)}: "
                    "it answers out of order"
                )
        return answer

    def _readable(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            return bool(selector.select(max(seconds, 0)))

    def _line(self, deadline: float, timeout: float) -> str:
        """Read a line from standard output."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > LONGEST_ANSWER:
                raise RuntimeError(f"its answer is longer than {LONGEST_ANSWER:,} bytes")
            if not self._readable(deadline - monotonic()):
                raise RuntimeError(f"no answer within {timeout:g} s{self._stderr()}")
            part = os.read(self._popen.stdout.fileno(), 65536)
            if not part:
                raise self._died("output")
            self._buffer += part
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line.decode("utf-8", "replace")

    def _died(self, stream: str) -> ProgramDiedError:
        """Return an error with the exit status, or saying that it closed a stream."""
        try:
            status = self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return ProgramDiedError(f"it closed its standard {stream}{self._stderr()}")
        how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        return ProgramDiedError(f"the program ended ({how}){self._stderr()}")

    def _stderr(self) -> str:
        """Return the last lines of standard error as the end of a message."""
        if self._popen.poll() is not None:
            self._listener.join(GRACE)
        text = " ".join(" ".join(list(self._lines)).split())
        return f"; standard error: {text[-400:]}" if text else ""


def _listen(pipe: Iterable[bytes], lines: deque[str]) -> None:
    with suppress(ValueError):  # closed while reading
        lines.extend(line.decode("utf-8", "replace") for line in pipe)


def _stop(popen: Any) -> None:
    """End a program and its child processes."""
    with suppress(OSError):
        popen.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, number)
        with suppress(subprocess.TimeoutExpired):
            popen.wait(GRACE)
    popen.stdout.close()
    popen.stderr.close()


Command = Annotated[
    list[str],
    Field(min_length=1),
    AfterValidator(lambda words, info: find_program(words, (info.context or {}).get("folder"))),
]


@component("external_program", unit="as answered", range=REAL, source="your program", costly=True)
def external_program(
    command: Command, *, timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
) -> Score:
    """Value computed by your program for a molecule; you decide what high values mean.

    The program is started once per process and keeps running. For each line
    {"id": 7, "smiles": "CCO"} on its standard input it writes one line {"value": 1.2}, or
    {"error": "why not"}, to its standard output and flushes it; an id or smiles in the answer is
    checked. After {"error": "why not", "transient": true} the molecule is scored again later. The
    program ends when its input ends. One that dies is restarted once for the same molecule; the end
    of its standard error is in the reason.

    Args:
        command: The program and its arguments, as a list. Names of files in the config's folder
            are replaced by their paths.
        timeout: Time limit per molecule in seconds, including the start; then the program is
            stopped and the molecule fails.
    """
    return Program(tuple(command), timeout)


# ---- a program run once per batch


@component(
    "batch_program",
    unit="as answered",
    range=REAL,
    source="your program; the protocol is that of REINVENT4's ExternalProcess",
    batched=True,
    costly=True,
)
def batch_program(
    command: Command,
    property: str,
    *,
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0,
) -> BatchScore:
    """Values computed by your program for several molecules; you decide what high values mean.

    The program is run once per batch: it reads SMILES from its standard input, one per line, and
    writes {"payload": {"<property>": [1.2, 0.3]}} to its standard output, one number per SMILES in
    order.

    Args:
        command: The program and its arguments, as a list. Names of files in the config's folder
            are replaced by their paths.
        property: The key of the numbers in the payload.
        timeout: Time limit per batch in seconds; then its molecules are scored one by one, and
            those without an answer fail.
    """

    def score(mols: Sequence[Mol]) -> Sequence[float]:
        smiles = "\n".join(map(MolToSmiles, mols))
        piped: Any = {"capture_output": True, "check": False, "text": True, "errors": "replace"}
        try:
            ended = subprocess.run(command, input=smiles, timeout=timeout, **piped)
            values: Sequence[float] = json.loads(ended.stdout)["payload"][property]
        except subprocess.TimeoutExpired:
            problem = f"no answer within {timeout:g} s"
        except OSError as error:
            problem = f"{command[0]} cannot be run ({error.strerror})"
        except (ValueError, KeyError, TypeError):
            stderr = " ".join(ended.stderr.split())[-400:]
            problem = (
                f'its answer {quoted(ended.stdout)} is not {{"payload": {{"{property}": [...]}}}} '
                f"(exit status {ended.returncode}{f'; standard error: {stderr}' if stderr else ''})"
            )
        else:
            return values
        raise RuntimeError(problem)

    return Identified(score, _content(command))
