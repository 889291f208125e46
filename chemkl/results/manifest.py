"""The manifest of an output folder: what made it, from what, with which settings, how it ended."""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
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
from chemkl.results.log import LOG, RunLog
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
LAST_CHECKPOINT = "checkpoints/last.ckpt"
INPUTS = "inputs"
"""The folder of copies that a run keeps of its inputs, see `InputFile.kept`."""
_OF_THE_ATTEMPT = ("prompts.json", "answers.parquet")
"""What a run writes before its first result, and another attempt may not write again."""
_NOT_OUTPUT = (FILE_NAME, LOG, "logs/*", "*.yaml", "*.yml", "*.py", "*.txt", "*.log")
"""What lies in an output folder beside the output: logs, and what users keep there."""

Status = Literal["running", "complete", "failed", "interrupted"]
_EVENTS = {"complete": "end", "failed": "failure", "interrupted": "signal"}


class Manifest(BaseModel):
    """What `manifest.json` holds.

    Used as a context manager it records how the stage ended: an exception is `failed`, a keyboard
    interrupt, an exit or a signal is `interrupted`, and leaving without `finish` is `complete`.
    Signals that would kill the process are handled in the meantime (see `chemkl.processes`).
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
    """What is no part of the identity and by which the run is read: ``collapse``, its settings;
    ``weights``: a language model learns by those of its corpus."""
    inputs: dict[str, InputFile] = {}
    versions: dict[str, str] = {}
    precision: UsedPrecision | None = None
    results: dict[str, Any] = {}
    outputs: list[str] = []
    """What the folder held when the stage was complete; a path that leads out of it is absolute."""
    extended: list[dict[str, Any]] = []
    """How the run stood when it was given other limits, the oldest first: the limits that it had,
    its config_hash, and when it had finished, by what it had ended, and with which results."""
    sha256: str = Field("", exclude=True)
    """The file's own checksum, see `chemkl.results.seal`; files of earlier versions have none."""

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

        The same run goes on. An earlier attempt with another config or other inputs that ended
        before its first result is replaced, and the user is told so. All else is refused.

        Args:
            out_dir: the output folder; made when missing.
            stage: name of the stage.
            config: the resolved config, as JSON types.
            seed: the seed of the run, where it has one.
            inputs: what the stage reads, by role; each file or folder is hashed.
            rank: of this process in its distributed run, which shares the folder; see `claim`.
            limits: settings that only say when the run ends: it goes on where they are others.
            precision: of a training run; the one that it began with.

        Returns:
            The manifest; `was_resumed` says whether the folder held the same run before.

        Raises:
            InputError: the folder cannot be written, another process is running in it, it holds
                the output of another stage or config, or an input has changed since it was begun.
        """
        folder, plain, now = Path(out_dir), identity(config), _now()
        lock = claim(folder, rank=rank)
        with ExitStack() as undo:
            if lock is not None:
                undo.callback(lock.close)
            earlier = cls.load(folder)
            before = {} if earlier is None else earlier.inputs
            files = {
                role: _as_now(Path(path), before.get(role)) for role, path in (inputs or {}).items()
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
        """Go on with the earlier run of the folder, or begin anew if it left none; else refuse."""
        free = dict.fromkeys(limits, "")
        try:
            same = earlier.check_same(self.stage, self.config, free, self.inputs)
        except InputError:
            if not earlier.gives_way_to(self.stage, locked=self._lock is not None):
                raise
            for name in _OF_THE_ATTEMPT:  # it would pass for the next one's
                (self._folder / name).unlink(missing_ok=True)
            sys.stderr.write(
                f"{self._folder}: the earlier attempt ({earlier.status}) left no results and was "
                "another one; begins anew\n"
            )
            return
        self.resumed, self.extended = [*earlier.resumed, self.started], earlier.extended
        self.run_id, self.started = earlier.run_id, earlier.started
        if same:
            self.config_hash, self.results = earlier.config_hash, earlier.results
        else:
            of_end = {"config_hash", "finished", "ended_by", "results"}
            had = {key: earlier.config.get(key) for key in limits}
            self.extended += [had | earlier.model_dump(include=of_end)]

    @classmethod
    def load(cls, out_dir: str | Path) -> Self | None:
        """Read the manifest of a folder; None where there is none.

        Raises:
            InputError: the file is not a manifest, or damaged.
        """
        path = Path(out_dir) / FILE_NAME
        if not path.is_file() and not path.is_dir():
            return None
        restore = "Restore it from a copy, or move the folder away and begin anew" + (
            "; chemkl show reads the trace without it." if (path.parent / "trace").exists() else "."
        )
        check_json(path, f"{restore} If you have edited it on purpose, take its line sha256 out.")
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except (IsADirectoryError, ValidationError) as error:
            problem = "a folder, where a manifest belongs"
            fix = "Choose another output folder, or move this away."
            if isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid":
                problem, fix = "damaged, or no manifest: it is not whole JSON", restore
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
        """Refuse to go on with this run in another stage, with another config or other inputs.

        Limits say when a run ends, and why it cannot go on with others; empty: it can. Returns
        whether the config is the same, its limits included.
        """
        differing = differences({"there": identity(self.config), "here": identity(config)})
        problem = ""
        if self.stage != stage:
            problem = (
                f"holds the output of stage {self.stage!r}; stage {stage!r} will not write into it."
            )
        elif any(limits.get(key) != "" for key in differing):
            lines = [
                f"  {key}: {as_json(values['there'])} in the folder, {as_json(values['here'])} in "
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
                "Fix: to go on with that run, give its settings and inputs; for another one choose "
                "another folder with --out, or begin anew with --fresh."
            )
            raise InputError("\n".join([*problems, fix]))
        return not differing

    def _changes(self, inputs: Mapping[str, InputFile]) -> list[str]:
        """What inputs hold now that was something else when the run began, in sentences."""
        return [
            f"{now.path}: has changed since {self._folder} was begun (sha256 {now.sha256[:12]}..., "
            f"then {self.inputs[role].sha256[:12]}...)"
            for role, now in inputs.items()
            if role in self.inputs and self.inputs[role].sha256 != now.sha256
        ]

    def has_changed_inputs(self) -> bool:
        """Whether an input that is still where it was holds something else by now."""
        return bool(self._changes(self._inputs_now()))

    def _inputs_now(self) -> dict[str, InputFile]:
        """The inputs that are still where they were, as they are now."""
        places = ((role, file.place) for role, file in self.inputs.items())
        return {role: InputFile.of(p) for role, p in places if p.exists() or is_copied(p)}

    def gives_way_to(self, stage: str, *, locked: bool = True) -> bool:
        """Whether this attempt ended before its first result, so that another may begin in place.

        Whether one with a status of `running` has ended, only the lock can tell (see `claim`): it
        may be left of a kill. It gives way to another stage only where it is known to have failed.
        A file of an unknown kind counts as a result. Hidden files do not, but for the rows of a
        trace: those that a resumed run set aside, and those of a swap that a kill cut off.
        """
        over = self.status == "interrupted" or (self.status == "running" and locked)
        if self.status != "failed" and not (over and self.stage == stage):
            return False
        rows = [*(self._folder / ORPHANS).rglob("*"), *(self._folder / DRAFTS / READY).rglob("*")]
        names = (n for n in _output_in(self._folder) if not n.startswith(f"{INPUTS}/"))
        others = {*names} - {*_OF_THE_ATTEMPT}
        return not others and not any(path.is_file() for path in rows)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    @property
    def kept(self) -> dict[Path, Path]:
        """The copies of inputs that are gone, by where these were."""
        copies = ((f.place, self._folder / f.kept) for f in self.inputs.values() if f.kept)
        return {place: copy for place, copy in copies if copy.is_file() and not place.exists()}

    @property
    def log(self) -> RunLog:
        """The log of the run."""
        return self._log

    @property
    def was_resumed(self) -> bool:
        """Whether the folder already held this run when it was last started."""
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
        """Whether this is the finished output of exactly that stage, config and input.

        Raises:
            InputError: it is another one's, or an input has changed since.
        """
        return self.status == "complete" and self.check_same(
            stage, config, limits, self._inputs_now()
        )

    def goes_on_with(self, config: Mapping[str, Any]) -> bool:
        """Whether a start with this config goes on with this run, unless it is refused."""
        return identity(self.config) == identity(config) or not self.gives_way_to(self.stage)

    def lost_outputs(self) -> dict[str, str]:
        """What a complete stage wrote and is there no more as it was: why, by name."""
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

        `beside` are files that it wrote outside its folder.
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
        """What to tell where the folder was taken away since the start; else empty."""
        path = self._folder / FILE_NAME
        if path.is_file() or not self._saved:
            return ""
        return (
            f"{path}: cannot be written: the folder {self._folder} was removed or moved away in "
            "the middle of the run."
        )

    def __enter__(self) -> Self:
        self._scope.enter_context(handled())
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        of_disk = self._of_disk(error)
        ended: BaseException | None = of_disk or error
        if isinstance(ended, SystemExit) and isinstance(ended.__context__, KeyboardInterrupt):
            ended = KeyboardInterrupt()  # what Lightning's trainer makes of Ctrl-C
        try:
            with deferred():
                if ended is not None:
                    name, why = type(ended).__name__, f": {ended}" if str(ended) else ""
                    is_failure = isinstance(ended, Exception)
                    self.finish("failed" if is_failure else "interrupted", ended_by=name + why)
                elif self.status == "running":
                    self.finish()
        except StorageError as unwritten:
            of_disk = of_disk or self._of_disk(unwritten)
        finally:  # the last write is behind: only now may another start have the folder
            if self._lock is not None:
                self._lock.close()
            self._lock = None
            self._scope.close()
        if of_disk is not None:
            raise of_disk from error

    def _of_disk(self, error: BaseException | None) -> StorageError | None:
        """What to tell where it is the disk that ended the run; None: it is something else."""
        if not isinstance(error, Exception):
            return None
        told = error if isinstance(error, StorageError) else storage_error(error, self._folder)
        message = self._gone() or ("" if told is None else str(told))
        if not message and isinstance(error, OSError) and error.filename:
            place = Path(os.fsdecode(error.filename2 or error.filename))
            if place.absolute().is_relative_to(self._folder.absolute()):
                message = f"{place}: cannot be used: {error.strerror}."
        if not message:
            return None
        checkpoint = self._folder / LAST_CHECKPOINT
        safe = (
            f"No file in {self._folder} is half-written. Once it can be written, give the same "
            "command again."
        )
        if not (self._folder / FILE_NAME).is_file():
            safe = f"Nothing of the run is left in {self._folder}."
        elif checkpoint.is_file():
            safe = (
                f"Safe in {self._folder} is all up to the checkpoint of "
                f"{note_of(checkpoint) or 'the last one'}. Once it can be written, the same "
                "command goes on from there."
            )
        return StorageError(f"{message} {safe}")


def _as_now(path: Path, before: InputFile | None) -> InputFile:
    """An input as it is; where a copy of it is kept, with that, and as it was if it is gone."""
    if before is None or before.kept is None or before.place != path:
        return InputFile.of(path)
    now = InputFile.of(path) if path.exists() else before
    return before if before.sha256 == now.sha256 else now


def _written_by(path: Path) -> str:
    """Which version wrote a manifest, whatever else is in it."""
    try:
        version = json.loads(path.read_bytes())["versions"]["chemkl"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" that version {__version__} can read; version {version} wrote it"


def _output_in(folder: Path) -> list[str]:
    """The files that stages wrote, as relative names; neither hidden ones nor the user's."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    visible = (name for name in names if "/." not in f"/{name}")
    return sorted(n for n in visible if not any(fnmatch(n, other) for other in _NOT_OUTPUT))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
