"""The manifest of an output folder: what made it, from what, with which settings, how it ended."""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from chemkl import __version__
from chemkl.config import InputError, StorageError
from chemkl.config.base import utf8
from chemkl.config.paths import is_copied
from chemkl.results.atomic import claim, finite, raise_storage_error, write_json
from chemkl.results.provenance import (
    InputFile,
    UsedPrecision,
    as_json,
    config_hash,
    differences,
    first_lines,
    identity,
    installed_versions,
)
from chemkl.results.seal import check_json, is_whole, note_of
from chemkl.results.trace import DRAFTS, ORPHANS, READY
from chemkl.signals import deferred, handled

FILE_NAME = "manifest.json"
_FIX = (
    "Restore it from a copy, or begin the run anew with --fresh after you have moved the folder "
    "away. If you have edited it on purpose, take its line sha256 out."
)
LAST_CHECKPOINT = "checkpoints/last.ckpt"
_OF_THE_ATTEMPT = ("prompts.json", "answers.parquet")
"""What a run writes before its first result, and another attempt may not write again."""
_OF_THE_USER = ("*.yaml", "*.yml", "*.py", "*.txt", "*.log")
"""What users keep in an output folder beside the output; no stage touches it."""

Status = Literal["running", "complete", "failed", "interrupted"]


class Manifest(BaseModel):
    """What `manifest.json` holds.

    Used as a context manager it records how the stage ended: an exception is `failed`, a keyboard
    interrupt, an exit or a signal is `interrupted`, and leaving without `finish` is `complete`.
    Signals that would kill the process are heeded in the meantime (see `chemkl.signals`).
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
    """Settings that are no part of the identity and by which the run is read: ``collapse``."""
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

        An earlier attempt with another config or other inputs is in nobody's way if it ended
        before its first result: the folder is begun anew, and the user is told so.

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
        folder, plain = Path(out_dir), identity(config)
        lock = claim(folder, rank=rank)
        with ExitStack() as undo:
            if lock is not None:
                undo.callback(lock.close)
            files = {role: InputFile.of(Path(path)) for role, path in (inputs or {}).items()}
            earlier = cls.load(folder)
            if earlier is not None and earlier._yields(stage, plain, files, limits, lock):
                earlier = None
            longer = earlier is not None and not earlier.has_config(plain)
            now = _now()
            manifest = cls(
                stage=stage,
                run_id=earlier.run_id if earlier else f"{stage}-{_occasion(plain, folder, now)}",
                status="running",
                started=earlier.started if earlier else now,
                resumed=[*earlier.resumed, now] if earlier else [],
                seed=seed,
                config_hash=earlier.config_hash if earlier and not longer else config_hash(plain),
                config=plain,
                inputs=files,
                versions=installed_versions(),
                precision=precision,
                results=earlier.results if earlier and not longer else {},
                extended=earlier._so_far(limits if longer else ()) if earlier else [],
            )
            manifest._folder, manifest._lock = folder, lock
            manifest.save()
            undo.pop_all()
        return manifest

    @classmethod
    def load(cls, out_dir: str | Path) -> Self | None:
        """Read the manifest of a folder; None where there is none.

        Raises:
            InputError: the file is not a manifest, or damaged.
        """
        path = Path(out_dir) / FILE_NAME
        if path.is_dir():
            raise InputError(f"{path}: a folder, where a manifest belongs; move it away.")
        if not path.is_file():
            return None
        check_json(path, _FIX)
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
            )
            raise InputError(
                f"{path}: not a chemkl manifest{_written_by(path)} ({problems}). "
                "Choose another output folder, or move this file away."
            ) from error
        manifest._folder = Path(out_dir)
        return manifest

    def _yields(
        self,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, InputFile],
        limits: Collection[str],
        lock: IO[str] | None,
    ) -> bool:
        """Whether a start begins anew in this folder; else it goes on with this run.

        Raises:
            InputError: the folder holds results of something else.
        """
        try:
            self.check_same(stage, config, dict.fromkeys(limits, ""))
            self.check_inputs(inputs)
        except InputError:
            if not self.gives_way_to(stage, locked=lock is not None):
                raise
            for name in _OF_THE_ATTEMPT:  # it would pass for the next one's
                (self._folder / name).unlink(missing_ok=True)
            sys.stderr.write(
                f"{self._folder}: the earlier attempt ({self.status}) left no results and was "
                "another one; begins anew\n"
            )
            return True
        return False

    def gives_way_to(self, stage: str, *, locked: bool = True) -> bool:
        """Whether this attempt ended before its first result, so that another may begin in place.

        Whether one with a status of `running` has ended, only the lock can tell (see `claim`): it
        may be left of a kill. It gives way to another stage only where it is known to have failed.
        """
        over = self.status == "interrupted" or (self.status == "running" and locked)
        ended = self.status == "failed" or (over and self.stage == stage)
        return ended and not any(map(_is_result, _names_in(self._folder)))

    @property
    def was_resumed(self) -> bool:
        """Whether the folder already held this run when it was last started."""
        return bool(self.resumed)

    @property
    def tau(self) -> float | None:
        """The tau of the run's target; None where it has none, or one that moves (a quantile)."""
        target = self.config.get("target")
        tau = target.get("tau") if isinstance(target, Mapping) else None
        return None if tau is None else float(tau)

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
        if self.status != "complete":
            return False
        self.check_same(stage, config, limits)
        self.check_inputs(self._inputs_now())
        return self.has_config(config)

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

    def has_config(self, config: Mapping[str, Any]) -> bool:
        """Whether the run has this config, its limits included."""
        return config_hash(self.config) == config_hash(config)

    def goes_on_with(self, config: Mapping[str, Any]) -> bool:
        """Whether a start with this config goes on with this run, unless it is refused."""
        return self.has_config(config) or not self.gives_way_to(self.stage)

    def _so_far(self, limits: Collection[str]) -> list[dict[str, Any]]:
        """What is kept of a run that goes on; with its limits, if it is given others."""
        if not limits:
            return self.extended
        ended = self.model_dump(include={"config_hash", "finished", "ended_by", "results"})
        return [*self.extended, {key: self.config.get(key) for key in limits} | ended]

    def check_same(
        self,
        stage: str,
        config: Mapping[str, Any],
        limits: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Refuse to mix two configs in one folder.

        Limits say when a run ends, and why it cannot go on with others; empty: it can.

        Raises:
            InputError: with every key that differs and both values.
        """
        differing = differences({"there": identity(self.config), "here": identity(config)})
        if self.stage != stage:
            problem = (
                f"holds the output of stage {self.stage!r}; stage {stage!r} will not write into it."
            )
        elif all(limits.get(key) == "" for key in differing):
            return
        else:
            lines = [
                f"  {key}: {as_json(values['there'])} in the folder, {as_json(values['here'])} in "
                f"the new config{limits.get(key, '')}"
                for key, values in sorted(differing.items())
            ]
            problem = (
                f"holds a run of stage {stage!r} with a different config:\n{first_lines(lines)}"
            )
        raise InputError(
            f"{self._folder}: {problem}\nFix: to go on with that run, give its settings; for "
            "another one choose another folder with --out, or move this one aside with --fresh."
        )

    def check_inputs(self, inputs: Mapping[str, InputFile]) -> None:
        """Refuse to continue from inputs that are not those of the beginning.

        Raises:
            InputError: with every input that has changed.
        """
        changed = [
            f"{now.path}: has changed since {self._folder} was begun (sha256 {now.sha256[:12]}..., "
            f"then {self.inputs[role].sha256[:12]}...)"
            for role, now in inputs.items()
            if role in self.inputs and self.inputs[role].sha256 != now.sha256
        ]
        if changed:
            fix = "Fix: put it back, choose another folder with --out, or begin anew with --fresh."
            raise InputError("\n".join([*changed, fix]))

    def has_changed_inputs(self) -> bool:
        """Whether an input that is still where it was holds something else by now."""
        return any(
            self.inputs[role].sha256 != now.sha256 for role, now in self._inputs_now().items()
        )

    def _inputs_now(self) -> dict[str, InputFile]:
        paths = {role: file.place for role, file in self.inputs.items()}
        return {
            role: InputFile.of(path)
            for role, path in paths.items()
            if path.exists() or is_copied(path)
        }

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
            not_ours = (FILE_NAME, "logs/*", *_OF_THE_USER)
            inside = (
                name
                for name in _names_in(self._folder)
                if not _is_hidden(name) and (self._folder / name).is_file()
            )
            ours = sorted(n for n in inside if not any(fnmatch(n, pattern) for pattern in not_ours))
            self.outputs = [*ours, *(str(path.resolve()) for path in beside)]
        self.save()

    def save(self) -> None:
        """Write `manifest.json` atomically, with a checksum.

        Raises:
            StorageError: the disk is full, or the folder was taken away since the start.
        """
        path = self._folder / FILE_NAME
        if self._saved and not path.is_file():
            raise StorageError(
                f"{path}: cannot be written: the folder {self._folder} was removed or moved "
                "away in the middle of the run."
            )
        write_json(path, self.model_dump(mode="json"), sealed=True)
        self._saved = True

    def __enter__(self) -> Self:
        self._scope.enter_context(handled())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        storage = self._storage_error(error)
        try:
            with deferred():
                self._record_end(type(storage) if storage else kind, storage or error)
        except StorageError as unwritten:
            storage = storage or self._storage_error(unwritten)
        finally:  # the last write is behind: only now may another start have the folder
            if self._lock is not None:
                self._lock.close()
            self._lock = None
            self._scope.close()
        if storage is not None:
            raise storage from error

    def _storage_error(self, error: BaseException | None) -> StorageError | None:
        """What to tell where it is the disk that ended the run; None: it is something else."""
        if not isinstance(error, Exception):
            return None
        message = ""
        try:
            if self._saved and not (self._folder / FILE_NAME).is_file():
                self.save()  # says that the folder has gone
            raise_storage_error(error, self._folder)
        except StorageError as problem:
            message = str(problem)
        if not message and isinstance(error, OSError) and error.filename:
            place = Path(os.fsdecode(error.filename2 or error.filename))
            if place.absolute().is_relative_to(self._folder.absolute()):
                message = f"{place}: cannot be used: {error.strerror}."
        return StorageError(f"{message} {self._what_is_safe()}") if message else None

    def _what_is_safe(self) -> str:
        checkpoint = self._folder / LAST_CHECKPOINT
        if not (self._folder / FILE_NAME).is_file():
            return f"Nothing of the run is left in {self._folder}."
        if not checkpoint.is_file():
            return (
                f"No file in {self._folder} is half-written. Once it can be written, give the same "
                "command again."
            )
        return (
            f"Safe in {self._folder} is all up to the checkpoint of "
            f"{note_of(checkpoint) or 'the last one'}. Once it can be written, the same command "
            "goes on from there."
        )

    def _record_end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if kind is None:
            if self.status == "running":
                self.finish()
            return
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            kind, error = KeyboardInterrupt, None  # what Lightning's trainer makes of Ctrl-C
        status: Status = "failed" if issubclass(kind, Exception) else "interrupted"
        self.finish(status, ended_by=f"{kind.__name__}: {error}" if str(error) else kind.__name__)


def _written_by(path: Path) -> str:
    """The version that a manifest says it is of, whatever else is in it."""
    try:
        version = json.loads(path.read_bytes())["versions"]["chemkl"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" that version {__version__} can read; version {version} wrote it"


def _occasion(config: Mapping[str, Any], folder: Path, now: str) -> str:
    text = f"{config_hash(config)} {utf8(folder.resolve())} {now} {os.getpid()}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _names_in(folder: Path) -> Iterator[str]:
    """All that is in a folder but folders, as relative names."""
    return (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _is_result(name: str) -> bool:
    """Whether a file is something that an attempt to run has computed.

    A file that is not known counts as a result. Hidden files do not, but for the rows of a trace
    among them: those that a resumed run set aside, and those of a swap that a kill cut off.
    """
    if name.startswith((f"{ORPHANS}/", f"{DRAFTS}/{READY}/")):
        return True
    others = (FILE_NAME, "logs/*", *_OF_THE_ATTEMPT, *_OF_THE_USER)
    return not _is_hidden(name) and not any(fnmatch(name, pattern) for pattern in others)
