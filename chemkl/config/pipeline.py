"""Settings of a pipeline, and their expansion into jobs."""

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
"""A name that is safe in a shell and in a file system."""


class StageEntry(Config):
    """One line of a pipeline: a stage with its settings, once or over a grid."""

    stage: StageName
    """The stage to run: a name as on the command line."""
    name: FolderName | None = None
    """Name of its output folder, and of the reference ${name} in later entries: letters, digits and
    ._=+- only, the first one a letter or a digit. Default: the name of the stage."""
    config: InputPath | dict[str, Any] = Field(default_factory=dict)
    """The settings of the stage: a config file, looked up in the folder of the pipeline file and
    then in the working directory, or the settings themselves."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changed settings: dotted key and value, as target.beta: 0.1."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Settings to vary: dotted key and list of values; one job per combination."""

    @property
    def label(self) -> str:
        """Its name; default: that of its stage."""
        return self.name or self.stage


class PipelineConfig(Config):
    """Stages in the order in which they run; later ones may read the output of earlier ones."""

    name: FolderName
    """Name of the output folder, runs/<name>: letters, digits and ._=+- only, the first one a
    letter or a digit."""
    stages: list[StageEntry] = Field(min_length=1)
    """The entries in order. ${name} in their settings stands for the output folder of an earlier
    entry; if that entry has a grid, for the folders of all its jobs."""


REFERENCE = re.compile(r"\$\{([^{}]*)\}")
MOST_JOBS = 1_000
"""Limit of the jobs of one entry, and of the folders that one text may refer to."""

LONGEST_VALUE = 40
"""Longer values are numbered in the name of a job."""


@dataclass(frozen=True)
class Job:
    """One run of one stage: an entry of the pipeline at one point of its grid.

    Attributes:
        entry: label of the entry.
        stage: name of the stage.
        name: unique, for example plain-seed=0.
        folder: for its output.
        source: settings before the overrides.
        overrides: from set and grid.
        also: further folders in which its paths are looked up: that of the pipeline file.
        reads: folders of the earlier jobs in its settings.
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
    """A pipeline with its jobs in the order in which they run.

    Attributes:
        config: the pipeline.
        jobs: without those of entries whose config file cannot be read.
        problems: a line for every mistake in names, grids and references.
        unknown: folders of wrong references and of the missing jobs; further problems with these
            folders follow from the mistakes above.
    """

    config: PipelineConfig
    jobs: list[Job]
    problems: list[str]
    unknown: list[Path]


def expand(
    source: PipelineConfig | Mapping[str, Any] | str | Path, out_dir: str | Path | None = None
) -> Expansion:
    """Read a pipeline and expand it into jobs in the order in which they run.

    The stages check the settings of the jobs. The default output folder is ``runs/NAME`` with the
    name of the pipeline.
    """
    data = source.model_dump(mode="json") if isinstance(source, PipelineConfig) else source
    document = Document.of(data, "pipeline", kinds=["pipelines"])
    keys = document.data if isinstance(document.data, Mapping) else {}
    unknown_keys = [str(key) for key in keys if key not in PipelineConfig.model_fields]
    if "name" not in keys and len(unknown_keys) > 1:
        raise InputError(
            f"{document.where(())}: not a pipeline, which has the keys name and stages: it has "
            f"{', '.join(unknown_keys[:3])}. chemkl check says what a file is for"
        )
    config = load_config(PipelineConfig, document)
    out = Path(out_dir) if out_dir is not None else Path("runs", config.name)
    existing = next((place for place in (out, *out.parents) if place.exists()), out)
    if existing.is_file():
        raise InputError(f"{existing}: a file, not a folder; choose another with --out")
    entries = _Entries(config, document, out.resolve())
    jobs = [job for position in range(len(config.stages)) for job in entries.jobs_of(position)]
    return Expansion(config, jobs, list(dict.fromkeys(entries.problems)), entries.unknown)


class _Entries:
    """Expands entries into jobs, in order, and records the folders that they can refer to."""

    def __init__(self, config: PipelineConfig, document: Document, out: Path) -> None:
        self.problems: list[str] = []
        self.unknown: list[Path] = []
        self._entries = config.stages
        self._document = document
        self._out = out
        self._folders: dict[str, list[Path]] = {}

    def jobs_of(self, position: int) -> list[Job]:
        """Return the jobs of one entry, one for each combination of its grid."""
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
            values_in_use = [settings.data, *(override.value for override in overrides)]
            paths = dict.fromkeys(_absolute_in(values_in_use))
            reads = tuple(path for path in paths if path in earlier)
            job = Job(entry.label, entry.stage, name, folder, settings, overrides, also, reads)
            jobs.append(job)
        folders = {entry.label: [job.folder for job in jobs]}
        folders |= {job.name: [job.folder] for job in jobs}
        for name in sorted(self._folders.keys() & folders.keys()):
            self._complain((*keys, "name"), f"the name {name!r} is taken by an earlier entry")
        if len({job.name for job in jobs}) < len(jobs):
            self._complain((*keys, "grid"), "a value is repeated")
        self._folders |= folders
        if source is None:
            self.unknown += [job.folder for job in jobs]
        return jobs if source is not None else []

    def _source(self, entry: StageEntry, keys: Keys) -> Document | None:
        """Read the settings of an entry, with references replaced; None if that is impossible."""
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
        """Replace each ``${name}`` in a value by the output folder, or folders.

        In a list, a reference to several folders becomes several items.
        """
        if isinstance(value, dict):
            return {key: self._replaced(inner, (*keys, key)) for key, inner in value.items()}
        if isinstance(value, list):
            items: list[Any] = []
            for position, inner in enumerate(value):
                item = self._replaced(inner, (*keys, position))
                items += item if isinstance(inner, str) and isinstance(item, list) else [item]
            return items
        parts: list[Any] = REFERENCE.split(value) if isinstance(value, str) else []
        if len(parts) < 2:
            return value
        referred = [self._folders_of(name, keys) for name in parts[1::2]]
        n_texts = prod(map(len, referred))
        if n_texts > MOST_JOBS:
            self._complain(keys, f"stands for {n_texts:,} folders; at most {MOST_JOBS:,}")
            return value
        texts = []
        for folders in product(*referred):
            parts[1::2] = folders
            texts.append("".join(map(str, parts)))
        return texts[0] if len(texts) == 1 else texts

    def _folders_of(self, name: str, keys: Keys) -> list[Path]:
        if name in self._folders:
            return self._folders[name]
        text = f"${{{name}}} is not an entry{did_you_mean(name, self._folders)}"
        if any(entry.label == name for entry in self._entries):
            text = f"${{{name}}} refers to this entry or a later one; only earlier ones can be read"
        self._complain(keys, text)
        self.unknown.append(self._out / name)
        return self.unknown[-1:]


def _absolute_in(value: Any) -> Iterator[Path]:
    """Yield every absolute path in some settings, and its parent folders."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _absolute_in(inner)
    elif isinstance(value, str) and os.path.isabs(value):
        yield from (Path(value), *Path(value).parents)


def _point_names(axes: list[Override], values: Iterable[Any]) -> Iterator[str]:
    """Name a point of a grid, for example ``seed=0``; values without a short name get a number."""
    short = [str(axis.keys[-1]) for axis in axes]
    for axis, last, value in zip(axes, short, values, strict=True):
        key = last if short.count(last) == 1 else ".".join(map(str, axis.keys))
        name = _slug(value)
        is_unique = name and list(map(_slug, axis.value)).count(name) == 1
        yield f"{key}={name if is_unique else f'value{axis.value.index(value)}'}"


def _slug(value: Any) -> str:
    """Return a number, word or path (its last part) in shell-safe characters; else nothing."""
    if isinstance(value, dict | list):
        return ""
    text = json.dumps(value) if isinstance(value, bool) or value is None else str(value)
    text = re.sub(r"[^A-Za-z0-9._=+-]", "_", text.rstrip("/").rpartition("/")[2])
    return text if len(text) <= LONGEST_VALUE else ""
