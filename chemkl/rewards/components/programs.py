"""Components for programs of the user: kept alive, a line a molecule; or run once for a batch."""

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

LONGEST_ANSWER = 1_000_000  # a line longer than this many bytes is no answer
KEPT_LINES = 5  # so many last lines of standard error are kept for the reason
GRACE = 0.4
"""Seconds that a program has to end when it is asked to: well below the seconds of
`chemkl.rewards.pool` that a worker which is to end has for all of its programs."""


class ProgramDiedError(RuntimeError):
    """The program ended where an answer was due."""


def find_program(command: Sequence[str], folder: Path | None = None) -> list[str]:
    """Give a command with full paths: of the program, and of files in the config file's folder."""

    def beside(argument: str) -> str:
        """The full path of a file beside the config file; anything else as it is."""
        places = [place for place in (folder, Path.cwd()) if place is not None and argument]
        return next(filter(os.path.isfile, (str(place / argument) for place in places)), argument)

    name, *arguments = command
    program, problem = shutil.which(name), ""
    if "/" in name:
        program = str(Path(os.path.expanduser(beside(name))).absolute())
        if not Path(program).is_file():
            problem = f"no such program: {program}"
        elif not os.access(program, os.X_OK):
            problem = f"{program} may not be run: chmod +x it, or put its interpreter before it"
    elif program is None:
        problem = f"no program {name!r} on this machine's PATH; to name a file, write ./{name}"
    if problem:
        raise InputError(problem)
    return [str(program), *map(beside, arguments)]


def _content(command: Sequence[str]) -> str:
    """The sha256 of the files in a command."""
    files = (Path(part) for part in command if Path(part).is_absolute())
    digests = [sha256_of(file) for file in files if file.is_file()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


class Program:
    """A component's score function that asks a program.

    The program is started at the first molecule. A process forked from this one starts its own:
    two must not talk through the same pipes.
    """

    def __init__(self, command: tuple[str, ...], timeout: float) -> None:
        self.command = command
        self.timeout = timeout
        self._running: _Running | None = None
        self._lock, self._process = threading.Lock(), os.getpid()

    @property
    def identity(self) -> str:
        """What decides the values beside the settings."""
        return _content(self.command)

    def __call__(self, mol: Mol) -> float:
        """Ask about one molecule; a RuntimeError where there is no usable answer."""
        if self._process != os.getpid():
            self._running = None
            self._lock, self._process = threading.Lock(), os.getpid()
        smiles = MolToSmiles(mol)
        with self._lock:
            try:
                return self._answer(smiles)
            except ProgramDiedError:
                return self._answer(smiles)  # started anew, once

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.command, self.timeout)

    def _answer(self, smiles: str) -> float:
        if self._running is None:
            self._running = _Running(self.command)
        try:
            answer = self._running.ask(smiles, self.timeout)
        except BaseException:
            # also Ctrl-C: an answer may still come, and would be taken for another
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
    """One start of a program."""

    def __init__(self, command: tuple[str, ...]) -> None:
        try:
            self._popen: Any = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # its children get its signals, and not our Ctrl-C
                bufsize=0,
            )
        except OSError as error:
            raise RuntimeError(f"{command[0]} cannot be started ({error.strerror})") from None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._listener = threading.Thread(
            target=_listen,  # no method: a thread must not keep this object from being let go
            args=(self._popen.stderr, self._lines),
            daemon=True,
        )
        self._listener.start()
        self._read = bytearray()
        self._asked = 0
        # unlike atexit it is also run where a worker of multiprocessing ends
        self.stop = Finalize(self, _stop, (self._popen,), exitpriority=10)

    def ask(self, smiles: str, timeout: float) -> dict[str, Any]:
        """Write one question and read its answer, a mapping with a value or an error."""
        deadline = monotonic() + timeout
        problem = ""
        if self._read or self._readable(0):
            line = self._line(deadline, timeout)
            problem = f"it wrote more than one line for a molecule: {quoted(line)}"
        else:
            self._asked += 1
            question = {"id": self._asked, "smiles": smiles}
            try:
                self._popen.stdin.write(json.dumps(question).encode() + b"\n")
            except OSError:
                raise self._died("input") from None
            line = self._line(deadline, timeout)
            answer = None
            with suppress(ValueError):
                answer = json.loads(line)
            if isinstance(answer, dict) and {"value", "error"} & answer.keys():
                wrong = [key for key in question if answer.get(key, question[key]) != question[key]]
                if not wrong:
                    return answer
                problem = (
                    f"its answer has {wrong[0]} {quoted(answer[wrong[0]])}, and was to have "
                    f"{quoted(question[wrong[0]])}: it answers out of order"
                )
            else:
                problem = (
                    f'its answer {quoted(line)} is not a JSON line {{"value": ...}} or '
                    '{"error": ...}; other output belongs on its standard error'
                )
        raise RuntimeError(problem)

    def _readable(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            return bool(selector.select(max(seconds, 0)))

    def _line(self, deadline: float, timeout: float) -> str:
        """Read one whole line."""
        while b"\n" not in self._read:
            if len(self._read) > LONGEST_ANSWER:
                raise RuntimeError(f"its answer is longer than {LONGEST_ANSWER:,} bytes")
            if not self._readable(deadline - monotonic()):
                raise RuntimeError(f"no answer within {timeout:g} s{self._said()}")
            part = os.read(self._popen.stdout.fileno(), 65536)
            if not part:
                raise self._died("output")
            self._read += part
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        return line.decode("utf-8", "replace")

    def _died(self, stream: str) -> ProgramDiedError:
        """Say how it ended, or that it lives and has closed its standard input or output."""
        try:
            status = self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return ProgramDiedError(f"it closed its standard {stream}{self._said()}")
        how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        return ProgramDiedError(f"the program ended ({how}){self._said()}")

    def _said(self) -> str:
        """The last lines of its standard error."""
        if self._popen.poll() is not None:
            self._listener.join(GRACE)
        text = " ".join(" ".join(list(self._lines)).split())
        return f"; standard error: {text[-400:]}" if text else ""


def _listen(pipe: Iterable[bytes], lines: deque[str]) -> None:
    with suppress(ValueError):  # closed while it was being read
        lines.extend(line.decode("utf-8", "replace") for line in pipe)


def _stop(popen: Any) -> None:
    """End a program and all that it started."""
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


@component(
    "external_program", unit="as answered", range=REAL, source="a program of yours", costly=True
)
def external_program(
    command: Command, *, timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
) -> Score:
    """What a program of yours says of a molecule; you decide what high means.

    It is started once in a process and kept alive. For each line {"id": 7, "smiles": "CCO"} on its
    standard input it writes one line {"value": 1.2}, or {"error": "why not"}, to its standard
    output and flushes it; an id or smiles that it adds is compared. With {"error": "why not",
    "transient": true} the molecule is asked about again later. It ends when its input ends.
    One that dies is started once more for the same molecule; what it wrote to its standard error
    is in the reason.

    Args:
        command: The program and its arguments, as a list. What names a file beside the config file
            is that file.
        timeout: How long it may take for one molecule, its start included, in seconds; then it is
            stopped and that molecule has failed.
    """
    return Program(tuple(command), timeout)


# ---- a program that is run once for a batch


@component(
    "batch_program",
    unit="as answered",
    range=REAL,
    source="a program of yours; the protocol is that of REINVENT4's ExternalProcess",
    batched=True,
    costly=True,
)
def batch_program(
    command: Command,
    property: str,
    *,
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0,
) -> BatchScore:
    """What a program of yours says of several molecules at once; you decide what high means.

    It is run anew for each batch: it reads SMILES from its standard input, one a line, and writes
    {"payload": {"<property>": [1.2, 0.3]}} to its standard output, a number for each in order.

    Args:
        command: The program and its arguments, as a list. What names a file beside the config file
            is that file.
        property: The key of the payload under which the numbers stand.
        timeout: How long it may take for one batch, in seconds; then its molecules are asked about
            one by one, and those without an answer have failed.
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
            said = " ".join(ended.stderr.split())[-400:]
            problem = (
                f'its answer {quoted(ended.stdout)} is not {{"payload": {{"{property}": [...]}}}} '
                f"(exit status {ended.returncode}{f'; standard error: {said}' if said else ''})"
            )
        else:
            return values
        raise RuntimeError(problem)

    return Identified(score, _content(command))
