"""Run a stage in a folder: skip what is complete, refuse foreign folders, move old output aside."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console

from chemkl.config import Config, InputError
from chemkl.display import say, standard_output
from chemkl.results.atomic import claim, is_further_rank
from chemkl.results.manifest import FILE_NAME, INPUTS, Manifest
from chemkl.results.provenance import UsedPrecision, sha256_of
from chemkl.results.trace import read_part

if TYPE_CHECKING:
    from chemkl.stages.registry import Stage

AGAIN = "--fresh repeats it"
"""How to repeat what is complete."""
ANEW = "starts again: there is no checkpoint to resume from"
"""Said of a run that was killed before its first checkpoint."""
TABLES = (".parquet", ".csv")
"""Endings of the single files that a command writes as its output."""


@dataclass(frozen=True)
class Start:
    """One start of a stage in a folder."""

    stage: "Stage"
    config: Config
    out: Path  # exists after `claim`
    console: Console  # for results

    def claim(
        self,
        inputs: Mapping[str, Path] | None = None,
        *,
        seed: int | None = None,
        precision: UsedPrecision | None = None,
        rank: int | None = None,
    ) -> Manifest:
        """Claim the folder; check the inputs before."""
        return Manifest.start(
            self.out,
            stage=self.stage.name,
            config=self.config.model_dump(mode="json"),
            seed=getattr(self.config, "seed", None) if seed is None else seed,
            inputs=inputs,
            precision=precision,
            rank=rank,
            limits=[key for key, why in self.stage.limits.items() if not why],
        )

    def copy_models(self, manifest: Manifest, *roles: str) -> None:
        """Convert inputs that are models of REINVENT into the folder; resuming needs only these.

        Raises:
            InputError: a model has been deleted and its copy has changed.
        """
        from chemkl.policies.checkpoint import convert_reinvent  # it imports torch
        from chemkl.policies.reinvent import is_reinvent

        for role in roles:
            file, copy = manifest.inputs.get(role), self.out / INPUTS / f"{role}.safetensors"
            if file is None or not (file.kept or is_reinvent(file.place)):
                copy.unlink(missing_ok=True)  # of an earlier attempt
                continue
            if copy.is_file() and sha256_of(copy) == file.kept_sha256:
                continue
            if not file.place.exists():
                raise InputError(
                    f"{copy}: has changed since {self.out} was started, and {file.place} is gone: "
                    "restore one of them, or start again with --fresh and another model"
                )
            convert_reinvent(file.place, copy)
            update = {"kept": f"{INPUTS}/{copy.name}", "kept_sha256": sha256_of(copy)}
            manifest.inputs[role] = file.model_copy(update=update)
            manifest.save()

    @property
    def for_rank(self) -> dict[str, Any]:
        """What `chemkl.stages.registry.take_part` needs in another process of this run, as JSON."""
        config = self.config.model_dump(mode="json")
        return {"stage": self.stage.name, "config": config, "out": str(self.out.absolute())}

    def say(self, *lines: str) -> None:
        """Print lines about the run."""
        for line in lines:
            say(f"{self.out}: {line}")


def run(stage: "Stage", source: object, out: Path, console: Console | None) -> Any:
    """Run a stage; see `Stage.run`.

    The work is skipped, with a line, if the folder holds the complete output of these settings and
    inputs. If one of its files is missing or damaged the work is repeated, except for the last
    checkpoint, which only a longer run needs.
    """
    copies = model_copies(out)
    config, module = stage.load(source, kept=copies), stage.module
    check_folder(stage, config, out, say)
    name = stage.result(config) if callable(stage.result) else stage.result
    result = out / name
    if is_finished(stage, config, out, say) and result.exists():
        say(f"{out}: complete, skipped; {AGAIN}")
    else:
        stage.check(config, starts=True, copies=copies)
        try:
            module.work(config, Start(stage, config, out, console or standard_output()))
        except SystemExit as end:  # Lightning's trainer turns Ctrl-C into it
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
    if stage.gives_table:
        return read_part(result).to_pandas()
    return module.read(result) if hasattr(module, "read") else result


def model_copies(out: Path) -> dict[Path, Path]:
    """Return a run's copies of model files that have been deleted, by the deleted paths."""
    manifest = Manifest.load(out)
    return {} if manifest is None else manifest.input_copies


def check_folder(
    stage: "Stage", config: Config, out: Path, report: Callable[[str], object] | None = None
) -> None:
    """Refuse a folder that holds a run of another config; limits may be raised, not lowered.

    `report` gets a line if a complete run continues to other limits.
    """
    manifest, plain = Manifest.load(out), config.model_dump(mode="json")
    if manifest is None or manifest.can_be_replaced_by(stage.name):
        return
    if manifest.check_same(stage.name, plain, stage.limits):
        return
    stage.module.check_spent(config, out)
    changed = [key for key in stage.limits if manifest.config.get(key) != plain[key]]
    if report is not None and manifest.status == "complete" and changed:
        before = " and ".join(f"a {key} of {_number(manifest.config.get(key))}" for key in changed)
        now = " and ".join(_number(plain[key]) for key in changed)
        report(f"{out}: was complete with {before}; continues to {now}")


def _number(limit: int | None) -> str:
    return "none" if limit is None else f"{limit:,}"


def is_finished(
    stage: "Stage", config: Config, out: Path, report: Callable[[str], object] | None = None
) -> bool:
    """Tell whether a folder holds the complete output of a stage with this config and inputs."""
    manifest, plain = Manifest.load(out), config.model_dump(mode="json")
    if manifest is None or not manifest.is_finished(stage.name, plain, stage.limits):
        return False
    lost = manifest.lost_outputs()
    lost.pop(stage.CHECKPOINT, None)
    if lost and report is not None:
        why = ", ".join(f"{name} is {state}" for name, state in lost.items())
        report(f"{out}: complete, but {why}; it is made again")
    return not lost


# ---- --fresh: move old output aside


def check_movable(
    out: Path, config: Config | None = None, *, also: Iterable[Path] = (), tables: bool = False
) -> None:
    """Refuse to move a path that is in use, is an input, or is not output; move nothing.

    Args:
        out: a folder, or a file with one of the endings in `TABLES`.
        config: a config whose inputs must not be in `out`.
        also: further files that must not be in `out`.
        tables: whether a file may be moved.
    """
    if is_further_rank():  # the first process of this training moves it
        return
    inputs = [] if config is None else paths_of(config.model_dump())  # without caches and the like
    _check_apart(out, inputs, also)
    if _is_output(out, tables=tables) and out.is_dir():
        earlier = Manifest.load(out)
        if earlier is not None:
            _check_apart(out, (), [Path(file.path) for file in earlier.inputs.values()])
        lock = claim(out, shared=False)
        if lock is not None:
            lock.close()


def move_aside(
    out: Path, config: Config | None = None, *, also: Iterable[Path] = (), tables: bool = False
) -> Path | None:
    """Rename output to the first free ``<out>.old-N`` and say so; nothing is ever deleted.

    The arguments are those of `check_movable`.
    """
    check_movable(out, config, also=also, tables=tables)
    if is_further_rank() or not _is_output(out, tables=tables):
        return None
    lock = claim(out, shared=False) if out.is_dir() else None  # it moves along, then is released
    try:
        if not _is_output(out, tables=tables):
            return None  # another process was faster
        backup = free_name(out)
        out.rename(backup)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be moved aside ({error.strerror}); choose another --out"
        ) from error
    finally:
        if lock is not None:
            lock.close()
    say(f"moved {out} aside, to {backup}")
    return backup


def _is_output(out: Path, *, tables: bool) -> bool:
    """Tell whether a path holds output of chemkl; False if it is missing or empty."""
    if not out.exists():
        return False
    problem = "this is a file, not an output folder; choose another --out"
    if out.is_dir():
        if Manifest.load(out) is not None:
            return True
        foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if not foreign:
            return False
        names = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        problem = (
            f"not the output of chemkl: it holds {names}, but no {FILE_NAME}. --fresh moves "
            "nothing else aside: choose another --out, or go without --fresh"
        )
    elif tables and out.name.lower().endswith(TABLES):
        return True
    raise InputError(f"{out}: {problem}")


def _check_apart(out: Path, inputs: Iterable[Path], files: Iterable[Path]) -> None:
    """Refuse output that overlaps with inputs or contains one of certain files."""
    place, problems = out.resolve(), []
    if Path.cwd().is_relative_to(place):
        problems.append("cannot be moved aside: it is the working directory or contains it")
    for path in dict.fromkeys(path.expanduser().resolve() for path in inputs):
        if path == place:
            problems.append("is an input of this config")
        elif path.is_relative_to(place):
            problems.append(f"holds an input of this config, {path}")
        elif place.is_relative_to(path):
            problems.append(f"lies in an input of this config, {path}")
    problems += [
        f"cannot be moved aside: it contains {path}, which is read"
        for path in files
        if path.exists() and place in path.resolve().parents
    ]
    InputError.refuse(f"{out}: {problem}; choose another --out" for problem in problems)


def free_name(path: Path) -> Path:
    """Return the first free ``<path>.old-N``."""
    path = path.resolve() if path.name in ("", "..") else path
    number = 1
    while (backup := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return backup


def paths_of(value: Any) -> Iterator[Path]:
    """Yield every path in a config."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        yield from paths_of(dict(value))
    elif isinstance(value, Mapping):
        yield from paths_of(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from paths_of(inner)
