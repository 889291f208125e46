"""Check the jobs of a pipeline before any of them starts, and find who reads whose output."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from chemkl.config import Config, InputError
from chemkl.config.pipeline import Job, PipelineConfig, expand
from chemkl.stages.registry import STAGES


@dataclass(frozen=True)
class Planned:
    """A job whose settings have been checked."""

    job: Job
    config: Config
    needs: tuple[Job, ...]
    """Earlier jobs whose output it reads."""


def plan_pipeline(
    source: PipelineConfig | Mapping[str, Any] | str | Path,
    out_dir: str | Path | None = None,
    promised: Sequence[Path] = (),
) -> tuple[PipelineConfig, list[Planned]]:
    """Read a pipeline and check the settings of every job of it.

    Args:
        source: the pipeline's config, a mapping, or the path of its file.
        out_dir: where the jobs' folders go; default ``runs/<name of the pipeline>``.
        promised: folders beside those of earlier jobs whose content need not exist yet.

    Raises:
        InputError: with every problem, of the pipeline's references and of its jobs alike.
    """
    expansion = expand(source, out_dir)
    problems = dict.fromkeys(expansion.problems)
    planned = []
    try:
        planned = plan(expansion.jobs, [*promised, *expansion.unknown])
    except InputError as error:
        problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise InputError("\n".join(problems))
    return expansion.config, planned


def plan(jobs: Sequence[Job], promised: Sequence[Path] = ()) -> list[Planned]:
    """Check the settings of every job.

    Args:
        jobs: in the order in which they run.
        promised: folders beside those of earlier jobs whose content need not exist yet.

    Raises:
        InputError: with every problem of every job, each once.
    """
    planned: list[Planned] = []
    problems: dict[str, None] = {}
    for position, job in enumerate(jobs):
        earlier = {other.folder: STAGES[other.stage].outputs for other in jobs[:position]}
        try:
            config = load_job(job, promised, earlier)
            unread = awaited(config, promised, earlier)  # the stage looks at it when it runs
            read = {folder for path in unread for folder in (path, *path.parents)}
            needs = [other for other in jobs[:position] if other.folder in read]
            STAGES[job.stage].check(config, job.entry, unread)
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        else:
            planned.append(Planned(job, config, tuple(needs)))
    if problems:
        raise InputError("\n".join(problems))
    return planned


def load_job(
    job: Job,
    promised: Iterable[Path] = (),
    earlier: Mapping[Path, Sequence[str]] | None = None,
) -> Config:
    """Read the settings of a job, see `load_config`.

    Raises:
        InputError: with every problem.
    """
    return STAGES[job.stage].load(
        job.source, job.overrides, also=job.also, promised=promised, earlier=earlier
    )


def paths_of(value: Any) -> Iterator[Path]:
    """Every path in a config."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        yield from paths_of(dict(value))
    elif isinstance(value, Mapping):
        yield from paths_of(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from paths_of(inner)


def awaited(config: Config, promised: Iterable[Path], earlier: Iterable[Path] = ()) -> list[Path]:
    """Paths of a config that are yet to be made, or made anew.

    Args:
        config: the settings.
        promised: folders of which some run is expected to write what is not there.
        earlier: folders that jobs of this run write anew.
    """
    anew, later = {*earlier}, {*promised}
    return [
        path
        for path in paths_of(config)
        if not anew.isdisjoint((path, *path.parents))
        or (not later.isdisjoint((path, *path.parents)) and not path.exists())
    ]
