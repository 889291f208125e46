"""Check the jobs of a pipeline before any of them starts, and find who reads whose output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from chemkl.config import Config, InputError
from chemkl.config.jobs import Job
from chemkl.stages.registry import STAGES


@dataclass(frozen=True)
class Planned:
    """A job whose settings have been checked."""

    job: Job
    config: Config
    needs: tuple[Job, ...]
    """Earlier jobs whose output it reads."""


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
        earlier = jobs[:position]
        stage = STAGES[job.stage]
        try:
            folders = [*promised, *(other.folder for other in earlier)]
            config = job.load(stage.model, promised=folders)
            paths = list(paths_of(config))
            needs = [j for j in earlier if any(p.is_relative_to(j.folder) for p in paths)]
            if not needs and not awaited(config, folders):  # else the stage looks when it runs
                stage.check(config, job.entry)
        except InputError as error:
            problems |= dict.fromkeys(str(error).splitlines())
        else:
            planned.append(Planned(job, config, tuple(needs)))
    if problems:
        raise InputError("\n".join(problems))
    return planned


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


def awaited(config: Config, promised: Sequence[Path]) -> list[Path]:
    """Paths of a config that do not exist yet and that some run is expected to write."""
    return [
        path
        for path in paths_of(config)
        if not path.exists() and any(path.is_relative_to(folder) for folder in promised)
    ]
