"""Settings of a pipeline: stages in order, as data."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from chemkl.config.base import Config, InputError, Keys, did_you_mean
from chemkl.config.loading import Document, Override, dotted, load_config
from chemkl.config.paths import InputPath

StageName = Literal[
    "prepare",
    "pretrain",
    "pretrain_llm",
    "forecast",
    "posttrain",
    "posttrain_llm",
    "sample",
    "score",
    "evaluate",
    "evaluate_text",
    "compare",
    "report",
    "didactic",
]


FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$")]
"""A name without signs that trouble a shell or a file system."""


class StageEntry(Config):
    """One line of a pipeline: a stage with its settings, once or over a grid."""

    stage: StageName
    """Which stage runs: the same names as the commands of chemkl."""
    name: FolderName | None = None
    """What its output folder is called, and how later entries refer to it, ${name}: letters, digits
    and ._=+- only, the first one a letter or a digit. Default: the name of the stage."""
    config: InputPath | dict[str, Any] = Field(default_factory=dict)
    """The stage's settings: a config file, looked up beside the pipeline file and then in the
    working directory, or the settings themselves."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings changed from the config: dotted key and value, as target.beta: 0.1."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Settings to vary: dotted key and list of values; one job for every combination."""

    @property
    def label(self) -> str:
        """Its name, or that of its stage."""
        return self.name or self.stage


class PipelineConfig(Config):
    """Stages in the order in which they run; a later one may read what earlier ones wrote."""

    name: FolderName
    """What the pipeline's output folder is called, runs/<name>: letters, digits and ._=+- only, the
    first one a letter or a digit."""
    stages: list[StageEntry] = Field(min_length=1)
    """The entries, in order. ${name} in their settings stands for the output folder of an earlier
    entry; where that one has a grid, for the folders of all its jobs."""


REFERENCE = re.compile(r"\$\{([^{}]*)\}")
MOST_JOBS = 1_000
"""Of one entry, and folders that a text with several references may stand for."""

LONGEST_VALUE = 40
"""Values of more characters than this are numbered in a job's name."""


@dataclass(frozen=True)
class Job:
    """One run of one stage: an entry of the pipeline at one point of its grid.

    It has a name of its own, for example plain-seed=0, and a folder for its output. ``also`` are
    further places where its paths are looked up: the folder of the pipeline file; ``reads`` are the
    folders of the earlier jobs that stand in its settings.
    """

    entry: str
    stage: StageName
    name: str
    folder: Path
    source: Document
    overrides: tuple[Override, ...]
    also: tuple[Path, ...]
    reads: tuple[Path, ...]


@dataclass(frozen=True)
class Expansion:
    """A pipeline with its jobs, in the order in which they run, and what is wrong with it.

    Jobs of an entry whose config file cannot be read are left out. ``problems`` has a line for
    every mistake in names, grids and references; ``unknown`` are the folders that stand in the
    settings where a reference has gone wrong, and those of the jobs left out: nobody should
    complain of them once more.
    """

    config: PipelineConfig
    jobs: list[Job]
    problems: list[str]
    unknown: list[Path]


def expand(
    source: PipelineConfig | Mapping[str, Any] | str | Path, out_dir: str | Path | None = None
) -> Expansion:
    """Read a pipeline and expand it into jobs, in the order in which they run.

    Their settings are checked by their stages; their folders go to ``runs/<name of the pipeline>``
    by default.
    """
    data = source.model_dump(mode="json") if isinstance(source, PipelineConfig) else source
    document = Document.of(data, "pipeline", kinds=["pipelines"])
    given = document.data if isinstance(document.data, Mapping) else {}
    other = [str(key) for key in given if key not in PipelineConfig.model_fields]
    if "name" not in given and len(other) > 1:
        raise InputError(
            f"{document.where(())}: no pipeline, whose keys are name and stages: it has "
            f"{', '.join(other[:3])}. chemkl check tells what a file is for"
        )
    config = load_config(PipelineConfig, document)
    out = Path(out_dir) if out_dir is not None else Path("runs", config.name)
    there = next((place for place in (out, *out.parents) if place.exists()), out)
    if there.is_file():
        raise InputError(f"{there}: a file, not a folder for runs; choose another with --out")
    entries = _Entries(config, document, out.resolve())
    jobs = [job for position in range(len(config.stages)) for job in entries.jobs_of(position)]
    return Expansion(config, jobs, list(dict.fromkeys(entries.problems)), entries.unknown)


class _Entries:
    """Entries to jobs, one after the other; remembers the folders that may be referred to."""

    def __init__(self, config: PipelineConfig, document: Document, out: Path) -> None:
        self.problems: list[str] = []
        self.unknown: list[Path] = []
        self._entries = config.stages
        self._document = document
        self._out = out
        self._folders: dict[str, list[Path]] = {}

    def jobs_of(self, position: int) -> list[Job]:
        """The jobs of one entry, one for each combination of its grid."""
        entry = self._entries[position]
        keys: Keys = ("stages", position)
        source = self._source(entry, keys)
        fixed = self._overrides(entry.set, (*keys, "set"))
        varied = self._overrides(entry.grid, (*keys, "grid"))
        jobs: list[Job] = []
        n_jobs = prod(len(axis.value) for axis in varied)
        if n_jobs > MOST_JOBS:
            self._complain((*keys, "grid"), f"{n_jobs:,} combinations; at most {MOST_JOBS:,}")
            return jobs
        also = (self._document.folder,) if self._document.folder else ()
        settings = source or Document({}, entry.label)
        earlier = {folder for folders in self._folders.values() for folder in folders}
        for values in product(*(axis.value for axis in varied)):
            pairs = zip(varied, values, strict=True)
            point = [Override(axis.keys, value, axis.where) for axis, value in pairs]
            name = "-".join([entry.label, *_point_names(varied, values)])
            folder = self._out / name
            overrides = (*fixed, *point)
            given = [settings.data, *(one.value for one in overrides)]
            reads = tuple(dict.fromkeys(place for place in _absolute_in(given) if place in earlier))
            job = Job(entry.label, entry.stage, name, folder, settings, overrides, also, reads)
            jobs.append(job)
        folders = {entry.label: [job.folder for job in jobs]}
        folders |= {job.name: [job.folder] for job in jobs}
        for name in sorted(self._folders.keys() & folders.keys()):
            self._complain((*keys, "name"), f"the name {name!r} is taken by an earlier entry")
        if len({job.name for job in jobs}) < len(jobs):
            self._complain((*keys, "grid"), "a value is given twice")
        self._folders |= folders
        if source is None:
            self.unknown += [job.folder for job in jobs]
        return jobs if source is not None else []

    def _source(self, entry: StageEntry, keys: Keys) -> Document | None:
        """A file's settings, or the entry's own, references replaced; None: it cannot be read."""
        if not isinstance(entry.config, Path):
            place = (*keys, "config")
            return self._document.at(place, self._replaced(entry.config, place))
        inside = entry.config.is_relative_to(Path.cwd())
        try:
            return Document.read(entry.config.relative_to(Path.cwd()) if inside else entry.config)
        except InputError as error:
            self.problems += str(error).splitlines()
            return None

    def _overrides(self, settings: Mapping[str, Any], keys: Keys) -> list[Override]:
        changes = []
        for name, value in settings.items():
            place = (*keys, name)
            where = self._document.where(place)
            try:
                changes.append(Override(dotted(name, where), self._replaced(value, place), where))
            except InputError as error:
                self.problems.append(str(error))
        return changes

    def _complain(self, keys: Keys, text: str) -> None:
        self.problems.append(f"{self._document.where(keys)}: {'.'.join(map(str, keys))}: {text}.")

    def _replaced(self, value: Any, keys: Keys) -> Any:
        """The value with each ``${name}`` in it replaced by the output folder, or folders.

        A reference to several folders in a list becomes several items of that list.
        """
        if isinstance(value, dict):
            return {key: self._replaced(inner, (*keys, key)) for key, inner in value.items()}
        if isinstance(value, list):
            items: list[Any] = []
            for position, inner in enumerate(value):
                new = self._replaced(inner, (*keys, position))
                items += new if isinstance(inner, str) and isinstance(new, list) else [new]
            return items
        parts: list[Any] = REFERENCE.split(value) if isinstance(value, str) else []
        if len(parts) < 2:
            return value
        referred = [self._referred(name, keys) for name in parts[1::2]]
        n_texts = prod(map(len, referred))
        if n_texts > MOST_JOBS:
            self._complain(keys, f"stands for {n_texts:,} folders; at most {MOST_JOBS:,}")
            return value
        texts = []
        for folders in product(*referred):
            parts[1::2] = folders
            texts.append("".join(map(str, parts)))
        return texts[0] if len(texts) == 1 else texts

    def _referred(self, name: str, keys: Keys) -> list[Path]:
        if name in self._folders:
            return self._folders[name]
        text = f"${{{name}}} is not an entry{did_you_mean(name, self._folders)}"
        if any(entry.label == name for entry in self._entries):
            text = f"${{{name}}} refers to this entry or a later one; only earlier ones can be read"
        self._complain(keys, text)
        self.unknown.append(self._out / name)
        return self.unknown[-1:]


def _absolute_in(value: Any) -> Iterator[Path]:
    """Every absolute path that a text of some settings is, and the folders that it lies in."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _absolute_in(inner)
    elif isinstance(value, str) and os.path.isabs(value):
        yield from (Path(value), *Path(value).parents)


def _point_names(axes: list[Override], values: Iterable[Any]) -> Iterator[str]:
    """One point of a grid in words, for example ``seed=0``; a value without a name: its number."""
    short = [str(axis.keys[-1]) for axis in axes]
    for axis, last, value in zip(axes, short, values, strict=True):
        key = last if short.count(last) == 1 else ".".join(map(str, axis.keys))
        name = _slug(value)
        is_clear = name and [_slug(other) for other in axis.value].count(name) == 1
        yield f"{key}={name if is_clear else f'value{axis.value.index(value)}'}"


def _slug(value: Any) -> str:
    """A number, word or path (its last part) without signs that trouble a shell; else nothing."""
    if isinstance(value, dict | list):
        return ""
    text = json.dumps(value) if isinstance(value, bool) or value is None else str(value)
    text = re.sub(r"[^A-Za-z0-9._=+-]", "_", text.rstrip("/").rpartition("/")[2])
    return text if len(text) <= LONGEST_VALUE else ""
