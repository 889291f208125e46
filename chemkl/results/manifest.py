"""The manifest of an output folder: what made it, from what, with which settings, how it ended."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from chemkl.config import InputError
from chemkl.results.atomic import finite, write_json
from chemkl.results.provenance import InputFile, config_hash, installed_versions

FILE_NAME = "manifest.json"
SHOWN_DIFFERENCES = 20

Status = Literal["running", "complete", "failed", "interrupted"]


class Manifest(BaseModel):
    """What `manifest.json` holds.

    Used as a context manager it records how the stage ended: an exception is `failed`, a keyboard
    interrupt or an exit is `interrupted`, and leaving without `finish` is `complete`.
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
    inputs: dict[str, InputFile] = {}
    versions: dict[str, str] = {}
    results: dict[str, Any] = {}

    _folder: Path = PrivateAttr()

    @classmethod
    def start(
        cls,
        out_dir: str | Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        seed: int | None = None,
        inputs: Mapping[str, str | Path] | None = None,
        fresh: bool = False,
    ) -> Self:
        """Claim a folder for a stage and write its manifest with status `running`.

        Args:
            out_dir: the output folder; made when missing.
            stage: name of the stage.
            config: the resolved config, as JSON types.
            seed: the seed of the run, where it has one.
            inputs: what the stage reads, by role; each file or folder is hashed.
            fresh: move an earlier output aside (`<folder>.old-N`) and begin anew.

        Returns:
            The manifest; `was_resumed` says whether the folder held the same run before.

        Raises:
            InputError: the folder holds the output of another stage or config.
        """
        folder = Path(out_dir)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: the output must be a folder, and this is a file.")
        if fresh:
            _move_aside(folder)
        earlier = cls.load(folder)
        plain = finite(config)
        if earlier is not None:
            earlier.check_same(stage, plain)
        now = _now()
        manifest = cls(
            stage=stage,
            run_id=earlier.run_id
            if earlier
            else _run_id(stage, plain, f"{folder.resolve()} {now}"),
            status="running",
            started=earlier.started if earlier else now,
            resumed=[*earlier.resumed, now] if earlier else [],
            seed=seed,
            config_hash=config_hash(plain),
            config=plain,
            inputs={role: InputFile.of(Path(path)) for role, path in (inputs or {}).items()},
            versions=installed_versions(),
            results=earlier.results if earlier else {},
        )
        manifest._folder = folder
        manifest.save()
        return manifest

    @classmethod
    def load(cls, out_dir: str | Path) -> Self | None:
        """Read the manifest of a folder; None where there is none.

        Raises:
            InputError: the file is not a manifest.
        """
        path = Path(out_dir) / FILE_NAME
        if not path.is_file():
            return None
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
            )
            raise InputError(
                f"{path}: not a chemkl manifest ({problems}). "
                "Choose another output folder, or move this file away."
            ) from error
        manifest._folder = Path(out_dir)
        return manifest

    @property
    def was_resumed(self) -> bool:
        """Whether the folder already held this run when it was last started."""
        return bool(self.resumed)

    def is_complete(self, stage: str, config: Mapping[str, Any]) -> bool:
        """Whether this is the finished output of exactly that stage and config."""
        same = self.stage == stage and self.config_hash == config_hash(config)
        return same and self.status == "complete"

    def check_same(self, stage: str, config: Mapping[str, Any]) -> None:
        """Refuse to mix two configs in one folder.

        Raises:
            InputError: with every key that differs and both values.
        """
        fix = "Fix: choose another folder with --out, or move this one aside with --fresh."
        if self.stage != stage:
            raise InputError(
                f"{self._folder}: holds the output of stage {self.stage!r}; "
                f"stage {stage!r} will not write into it.\n{fix}"
            )
        if self.config_hash == config_hash(config):
            return
        lines = list(_differences(self.config, finite(config)))
        shown = "\n".join(f"  {line}" for line in lines[:SHOWN_DIFFERENCES])
        more = len(lines) - SHOWN_DIFFERENCES
        tail = f"\n  ... and {more} more" if more > 0 else ""
        raise InputError(
            f"{self._folder}: holds a run of stage {stage!r} with a different config:\n"
            f"{shown}{tail}\n{fix}"
        )

    def finish(
        self,
        status: Status = "complete",
        *,
        ended_by: str | None = None,
        results: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how the stage ended, add its results, and write the file."""
        self.status = status
        self.ended_by = ended_by
        self.finished = _now()
        self.results = {**self.results, **finite(results or {})}
        self.save()

    def save(self) -> None:
        """Write `manifest.json` atomically."""
        write_json(self._folder / FILE_NAME, self.model_dump(mode="json"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self.status == "running":
                self.finish()
            return
        status: Status = "failed" if issubclass(kind, Exception) else "interrupted"
        self.finish(status, ended_by=f"{kind.__name__}: {error}" if str(error) else kind.__name__)


def _differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Lines 'dotted.key: <old> there, <new> here' for every leaf that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in sorted({*there, *here}):
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(there.get(name, _ABSENT), here.get(name, _ABSENT), inner)
    elif there != here:
        yield f"{key}: {_show(there)} in the folder, {_show(here)} in the new config"


_ABSENT = object()


def _show(value: Any) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def _run_id(stage: str, config: Mapping[str, Any], occasion: str) -> str:
    """A short name of one start in one folder: `posttrain-1a2b3c4d`."""
    text = f"{config_hash(config)} {occasion} {os.getpid()}"
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _move_aside(folder: Path) -> None:
    """Rename a folder with a manifest in it to the first free `<folder>.old-N`."""
    if not (folder / FILE_NAME).exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(aside)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
