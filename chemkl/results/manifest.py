"""The record of an output folder: `manifest.json` says what made it, `log.jsonl` what happened.

The manifest holds the stage, settings, inputs and versions, and how the stage ended. The log is
only appended to, one event a line.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from chemkl import __version__
from chemkl.config import InputError, StorageError
from chemkl.config.base import utf8
from chemkl.config.paths import is_copied
from chemkl.processes import deferred, handled
from chemkl.results.atomic import claim, finite, is_further_rank, storage_error, write_json
from chemkl.results.provenance import (
    InputFile,
    UsedPrecision,
    as_json,
    config_hash,
    differences,
    first_lines,
    identity,
    installed_versions,
    tau_of,
)
from chemkl.results.seal import check_json, is_whole, note_of
from chemkl.results.trace import DRAFTS, ORPHANS, READY

FILE_NAME = "manifest.json"
LOG = "log.jsonl"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
INPUTS = "inputs"
"""The folder of a run with copies of its inputs, see `InputFile.kept`."""
_BEFORE_RESULTS = ("prompts.json", "answers.parquet")
"""Files that a run writes before its first result; a new attempt must not find them."""
_NOT_OUTPUT = (FILE_NAME, LOG, "logs/*", "*.yaml", "*.yml", "*.py", "*.txt", "*.log")
"""Files in an output folder that are not output: logs, and what users put there."""

Status = Literal["running", "complete", "failed", "interrupted"]
_EVENTS = {"complete": "end", "failed": "failure", "interrupted": "signal"}


class RunLog:
    """Appends events to `log.jsonl`, in the one process that writes.

    README.md in this folder lists the events.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._path = folder / LOG
        self._writes = writes
        self.where: Callable[[], Mapping[str, Any]] = dict
        """Returns the progress of the run, for every line: steps, calls, samples."""

    def add(self, event: str, **about: Any) -> None:
        """Append an event on a line of its own, even after a torn line.

        A write that the disk refuses is dropped: the run itself reports the disk.
        """
        if not self._writes:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        content = finite({"time": now, "event": event, **self.where(), **about})
        line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with suppress(OSError), self._path.open("a+b", buffering=0) as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Read the events of a run in order, without torn lines; none if there is no readable log."""
    events = []
    with suppress(OSError):
        for line in (Path(folder) / LOG).read_bytes().splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict) and "event" in event]


class Manifest(BaseModel):
    """The content of `manifest.json`.

    As a context manager it records how the stage ended: an exception is `failed`; a keyboard
    interrupt, an exit or a signal is `interrupted`; leaving without `finish` is `complete`.
    Within it, signals that would kill the process are handled (see `chemkl.processes`).
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format: Literal["chemkl-manifest-1"] = "chemkl-manifest-1"
    stage: str
    run_id: str
    status: Status
    ended_by: str | None = None
    started: str
    resumed: list[str] = []
    finished: str | None = None
    seed: int | None = None
    config_hash: str
    config: dict[str, Any]
    beside: dict[str, Any] = {}
    """Settings that readers of the run need and that are not part of its identity: ``collapse``,
    those of the collapse alarm; ``weights``: a language model learns with those of its corpus."""
    inputs: dict[str, InputFile] = {}
    versions: dict[str, str] = {}
    precision: UsedPrecision | None = None
    results: dict[str, Any] = {}
    outputs: list[str] = []
    """The files in the folder when the stage was complete; a path outside it is absolute."""
    extended: list[dict[str, Any]] = []
    """The state of the run each time its limits were changed, oldest first: the earlier limits,
    config_hash, finished, ended_by and results."""
    sha256: str = Field("", exclude=True)
    """The checksum of the file, see `chemkl.results.seal`; files of earlier versions have none."""

    _folder: Path = PrivateAttr()
    _lock: IO[str] | None = PrivateAttr(default=None)
    _scope: ExitStack = PrivateAttr(default_factory=ExitStack)
    _saved: bool = PrivateAttr(default=False)
    _log: RunLog = PrivateAttr()

    @classmethod
    def start(
        cls,
        out_dir: str | Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        seed: int | None = None,
        inputs: Mapping[str, str | Path] | None = None,
        rank: int | None = None,
        limits: Collection[str] = (),
        precision: UsedPrecision | None = None,
    ) -> Self:
        """Claim a folder for a stage and write its manifest with status `running`.

        The same run continues. An earlier attempt with another config or other inputs that ended
        before its first result is replaced, with a line on standard error. Anything else is
        refused.

        Args:
            out_dir: the output folder; created if missing.
            stage: name of the stage.
            config: the resolved config, as JSON types.
            seed: the seed of the run, if it has one.
            inputs: files and folders that the stage reads, by role; each one is hashed.
            rank: of this process in its distributed run, which shares the folder; see `claim`.
            limits: settings that only say when the run ends: a run continues with other ones.
            precision: the precision with which a training run started.

        Returns:
            The manifest; `was_resumed` says whether the folder held the same run before.

        Raises:
            InputError: the folder cannot be written, another process is running in it, it holds
                the output of another stage or config, or an input has changed since the run
                started.
        """
        folder, plain, now = Path(out_dir), identity(config), _now()
        lock = claim(folder, rank=rank)
        with ExitStack() as undo:
            if lock is not None:
                undo.callback(lock.close)
            earlier = cls.load(folder)
            before = {} if earlier is None else earlier.inputs
            files = {
                role: _current(Path(path), before.get(role))
                for role, path in (inputs or {}).items()
            }
            occasion = f"{config_hash(plain)} {utf8(folder.resolve())} {now} {os.getpid()}"
            manifest = cls(
                stage=stage,
                run_id=f"{stage}-{hashlib.sha256(occasion.encode()).hexdigest()[:8]}",
                status="running",
                started=now,
                seed=seed,
                config_hash=config_hash(plain),
                config=plain,
                inputs=files,
                versions=installed_versions(),
                precision=precision,
            )
            manifest._folder, manifest._lock = folder, lock
            is_first = not (is_further_rank() if rank is None else rank)
            manifest._log = RunLog(folder, writes=is_first)
            if earlier is not None:
                manifest._follow(earlier, limits)
            manifest.save()
            manifest.log.add("start", stage=stage, run_id=manifest.run_id, pid=os.getpid())
            undo.pop_all()
        return manifest

    def _follow(self, earlier: Self, limits: Collection[str]) -> None:
        """Continue the earlier run of the folder, or replace it if it left no results.

        Raises:
            InputError: it is another run, and has results.
        """
        free = dict.fromkeys(limits, "")
        try:
            same = earlier.check_same(self.stage, self.config, free, self.inputs)
        except InputError:
            if not earlier.can_be_replaced_by(self.stage, locked=self._lock is not None):
                raise
            for name in _BEFORE_RESULTS:  # the new attempt would take them for its own
                (self._folder / name).unlink(missing_ok=True)
            sys.stderr.write(
                f"{self._folder}: the earlier attempt ({earlier.status}) left no results and had "
                "other settings or inputs; starting again\n"
            )
            return
        self.resumed, self.extended = [*earlier.resumed, self.started], earlier.extended
        self.run_id, self.started = earlier.run_id, earlier.started
        if same:
            self.config_hash, self.results = earlier.config_hash, earlier.results
        else:
            state = earlier.model_dump(include={"config_hash", "finished", "ended_by", "results"})
            self.extended += [{key: earlier.config.get(key) for key in limits} | state]

    @classmethod
    def load(cls, out_dir: str | Path) -> Self | None:
        """Read the manifest of a folder; None if it has none.

        Raises:
            InputError: the file is not a manifest, or is damaged.
        """
        path = Path(out_dir) / FILE_NAME
        if not path.is_file() and not path.is_dir():
            return None
        restore = "Restore it from a copy, or move the folder away and start again" + (
            "; chemkl show reads the trace without it." if (path.parent / "trace").exists() else "."
        )
        check_json(path, f"{restore} If you edited it on purpose, delete its line sha256.")
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except (IsADirectoryError, ValidationError) as error:
            problem = "a folder; expected a manifest"
            fix = "Choose another output folder, or move this one away."
            if isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid":
                problem, fix = "damaged, or not a manifest: it is not valid JSON", restore
            elif isinstance(error, ValidationError):
                problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                why = "; ".join(problem.removeprefix(": ") for problem in problems)
                problem = f"not a chemkl manifest{_written_by(path)} ({why})"
            raise InputError(f"{path}: {problem}. {fix}") from error
        manifest._folder = Path(out_dir)
        manifest._log = RunLog(manifest._folder)
        return manifest

    def check_same(
        self,
        stage: str,
        config: Mapping[str, Any],
        limits: Mapping[str, str] = MappingProxyType({}),
        inputs: Mapping[str, InputFile] = MappingProxyType({}),
    ) -> bool:
        """Refuse to continue this run in another stage, with another config or other inputs.

        Args:
            stage: name of the new stage.
            config: the new config.
            limits: by key of a setting that says when the run ends, why the run cannot continue
                with another value; empty if it can.
            inputs: the inputs as they are now.

        Returns:
            Whether the config is the same, including its limits.

        Raises:
            InputError: the run cannot be continued; the message lists all differences.
        """
        differing = differences({"old": identity(self.config), "new": identity(config)})
        problem = ""
        if self.stage != stage:
            problem = (
                f"holds the output of stage {self.stage!r}; stage {stage!r} will not write into it."
            )
        elif any(limits.get(key) != "" for key in differing):
            lines = [
                f"  {key}: {as_json(values['old'])} in the folder, {as_json(values['new'])} in "
                f"the new config{limits.get(key, '')}"
                for key, values in sorted(differing.items())
            ]
            problem = (
                f"holds a run of stage {stage!r} with a different config:\n{first_lines(lines)}"
            )
        problems = [f"{self._folder}: {problem}"] if problem else []
        problems += self._changes(inputs)
        if problems:
            fix = (
                "Fix: to continue that run, use its settings and inputs; to start another one, "
                "choose another folder with --out, or move the old run aside with --fresh."
            )
            raise InputError("\n".join([*problems, fix]))
        return not differing

    def _changes(self, inputs: Mapping[str, InputFile]) -> list[str]:
        """Describe the inputs whose content has changed since the run started."""
        return [
            f"{now.path}: has changed since {self._folder} was started (sha256 now "
            f"{now.sha256[:12]}..., then {self.inputs[role].sha256[:12]}...)"
            for role, now in inputs.items()
            if role in self.inputs and self.inputs[role].sha256 != now.sha256
        ]

    def has_changed_inputs(self) -> bool:
        """Whether the content of an input that is still in its place has changed."""
        return bool(self._changes(self._current_inputs()))

    def _current_inputs(self) -> dict[str, InputFile]:
        """Hash the inputs that are still in their places."""
        places = ((role, file.place) for role, file in self.inputs.items())
        return {role: InputFile.of(p) for role, p in places if p.exists() or is_copied(p)}

    def can_be_replaced_by(self, stage: str, *, locked: bool = True) -> bool:
        """Whether this attempt ended before its first result, so that another may replace it.

        A `running` status may be left from a kill; only the lock can tell (see `claim`). Another
        stage may replace only an attempt that failed. A file of an unknown kind counts as a
        result. A hidden file does not, except rows of a trace: those that a resumed run set aside,
        and those of a swap that a kill interrupted.
        """
        over = self.status == "interrupted" or (self.status == "running" and locked)
        if self.status != "failed" and not (over and self.stage == stage):
            return False
        rows = [*(self._folder / ORPHANS).rglob("*"), *(self._folder / DRAFTS / READY).rglob("*")]
        names = (n for n in _output_in(self._folder) if not n.startswith(f"{INPUTS}/"))
        return not {*names} - {*_BEFORE_RESULTS} and not any(path.is_file() for path in rows)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self._folder

    @property
    def input_copies(self) -> dict[Path, Path]:
        """The copies of inputs that no longer exist, by the inputs' paths."""
        copies = ((f.place, self._folder / f.kept) for f in self.inputs.values() if f.kept)
        return {place: copy for place, copy in copies if copy.is_file() and not place.exists()}

    @property
    def log(self) -> RunLog:
        """The log of the run."""
        return self._log

    @property
    def was_resumed(self) -> bool:
        """Whether the folder already held this run when the stage started."""
        return bool(self.resumed)

    @property
    def tau(self) -> float | None:
        """The tau of the run's target, see `tau_of`."""
        return tau_of(self.config)

    def is_finished(
        self,
        stage: str,
        config: Mapping[str, Any],
        limits: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Whether this is the finished output of this stage with this config and these inputs.

        Raises:
            InputError: it belongs to another stage or config, or an input has changed.
        """
        return self.status == "complete" and self.check_same(
            stage, config, limits, self._current_inputs()
        )

    def continues_with(self, config: Mapping[str, Any]) -> bool:
        """Whether a start with this config continues this run or is refused."""
        return identity(self.config) == identity(config) or not self.can_be_replaced_by(self.stage)

    def lost_outputs(self) -> dict[str, str]:
        """Files that a complete stage wrote and that are now "missing" or "damaged", by name."""
        lost = {}
        for name in self.outputs:
            path = self._folder / name
            if not path.is_file():
                lost[name] = "missing"
            elif not path.stat().st_size or not is_whole(path):
                lost[name] = "damaged"
        return lost

    def finish(
        self,
        status: Status = "complete",
        *,
        ended_by: str | None = None,
        results: Mapping[str, Any] | None = None,
        beside: Iterable[Path] = (),
    ) -> None:
        """Record how the stage ended, add its results, and write the file.

        Args:
            status: how it ended.
            ended_by: what ended it.
            results: added to those of earlier calls.
            beside: files that the stage wrote outside its folder.
        """
        self.status = status
        self.ended_by = ended_by
        self.finished = _now()
        self.results = {**self.results, **finite(results or {})}
        if status == "complete":
            outside = (str(path.resolve()) for path in beside)
            self.outputs = [*_output_in(self._folder), *outside]
        self.log.add(_EVENTS[status], ended_by=ended_by)  # a complete run gets no more lines
        self.save()

    def save(self) -> None:
        """Write `manifest.json` atomically, with a checksum.

        Raises:
            StorageError: the disk is full, or the folder was taken away since the start.
        """
        if gone := self._gone():
            raise StorageError(gone)
        write_json(self._folder / FILE_NAME, self.model_dump(mode="json"), sealed=True)
        self._saved = True

    def _gone(self) -> str:
        """The message if the folder was removed since the start; else empty."""
        path = self._folder / FILE_NAME
        if path.is_file() or not self._saved:
            return ""
        return (
            f"{path}: cannot be written: the folder {self._folder} was removed or moved away "
            "during the run."
        )

    def __enter__(self) -> Self:
        self._scope.enter_context(handled())
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        disk_error = self._disk_error(error)
        reason: BaseException | None = disk_error or error
        if isinstance(reason, SystemExit) and isinstance(reason.__context__, KeyboardInterrupt):
            reason = KeyboardInterrupt()  # Lightning's trainer turns Ctrl-C into an exit
        try:
            with deferred():
                if reason is not None:
                    name, why = type(reason).__name__, f": {reason}" if str(reason) else ""
                    is_failure = isinstance(reason, Exception)
                    self.finish("failed" if is_failure else "interrupted", ended_by=name + why)
                elif self.status == "running":
                    self.finish()
        except StorageError as write_error:
            disk_error = disk_error or self._disk_error(write_error)
        finally:  # only after the last write may another process claim the folder
            if self._lock is not None:
                self._lock.close()
            self._lock = None
            self._scope.close()
        if disk_error is not None:
            raise disk_error from error

    def _disk_error(self, error: BaseException | None) -> StorageError | None:
        """The error to report if the disk ended the run; None for any other reason."""
        if not isinstance(error, Exception):
            return None
        cause = error if isinstance(error, StorageError) else storage_error(error, self._folder)
        message = self._gone() or ("" if cause is None else str(cause))
        if not message and isinstance(error, OSError) and error.filename:
            place = Path(os.fsdecode(error.filename2 or error.filename))
            if place.absolute().is_relative_to(self._folder.absolute()):
                message = f"{place}: cannot be used: {error.strerror}."
        if not message:
            return None
        checkpoint = self._folder / LAST_CHECKPOINT
        safe = (
            f"No file in {self._folder} is half-written. Once the disk can be written again, run "
            "the same command again."
        )
        if not (self._folder / FILE_NAME).is_file():
            safe = f"Nothing of the run is left in {self._folder}."
        elif checkpoint.is_file():
            last = note_of(checkpoint) or checkpoint.name
            safe = (
                f"Everything up to the last checkpoint ({last}) is safe in {self._folder}. Once "
                "the disk can be written again, the same command continues from there."
            )
        return StorageError(f"{message} {safe}")


def _current(path: Path, before: InputFile | None) -> InputFile:
    """Hash an input; keep the earlier record of one with a copy if it is gone or unchanged."""
    if before is None or before.kept is None or before.place != path:
        return InputFile.of(path)
    now = InputFile.of(path) if path.exists() else before
    return before if before.sha256 == now.sha256 else now


def _written_by(path: Path) -> str:
    """Describe the version that wrote a manifest, if the file says so."""
    try:
        version = json.loads(path.read_bytes())["versions"]["chemkl"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" that version {__version__} can read; version {version} wrote it"


def _output_in(folder: Path) -> list[str]:
    """List the files that stages wrote, as relative names; no hidden ones, none of the user's."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    visible = (name for name in names if "/." not in f"/{name}")
    return sorted(n for n in visible if not any(fnmatch(n, pattern) for pattern in _NOT_OUTPUT))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
