"""What a stage does where its work is done already: one rule for commands, pipelines and Python."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd

from chemkl.config import Config
from chemkl.results.atomic import write_json
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import InputFile, config_hash, sha256_of
from chemkl.results.trace import read_part
from chemkl.stages.registry import LAST, STAGES
from chemkl.stages.terminal import say

AGAIN = "--fresh makes it anew"
C = TypeVar("C", bound=Config)
P = ParamSpec("P")
T = TypeVar("T")


def once(
    stage: str, output: Callable[[C, Path], Path], read: Callable[[Path], Any] = Path
) -> Callable[
    [Callable[Concatenate[C, Path, P], T]],
    Callable[Concatenate[C | Mapping[str, Any] | str | Path, str | Path, P], T],
]:
    """Make of a stage's work its ``run``: settings are read, and what is done is not done again.

    The work is skipped, with a line, where the folder holds its finished output, of these settings
    and of the same inputs, with all files that it wrote. Where one is missing or damaged the work
    is done again; only a last checkpoint may be: it is needed for nothing but a longer run.

    Args:
        stage: name of the stage.
        output: says what a finished run returns the path of.
        read: turns that path into what the run returns.
    """

    def decorate(
        work: Callable[Concatenate[C, Path, P], T],
    ) -> Callable[Concatenate[C | Mapping[str, Any] | str | Path, str | Path, P], T]:
        @wraps(work)
        def run(
            config: C | Mapping[str, Any] | str | Path,
            out_dir: str | Path,
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> T:
            settings: Any = STAGES[stage].load(config)
            out = Path(out_dir)
            check_folder(stage, settings, out, say)
            written = output(settings, out)
            if is_finished(stage, settings, out, say) and written.exists():
                say(f"{out}: complete, skipped; {AGAIN}")
                found: T = read(written)
                return found
            return work(settings, out, *args, **kwargs)

        return run  # type: ignore[return-value]  # it also takes both by name, as mypy cannot say

    return decorate


def check_folder(
    stage: str, config: Config, out: Path, tell: Callable[[str], object] | None = None
) -> None:
    """Refuse a folder that holds a run of another config; its limits may be others, if not lower.

    Args:
        stage: its name.
        config: its settings.
        out: the folder.
        tell: is given a line where a finished run goes on to other limits.

    Raises:
        InputError: it does, or the run has spent more than the limits allow.
    """
    found, plain = Manifest.load(out), config.model_dump(mode="json")
    if found is None or found.gives_way_to(stage):
        return
    limits = STAGES[stage].limits
    found.check_same(stage, plain, limits)
    if found.has_config(plain):
        return
    STAGES[stage].module.check_spent(config, out)
    changed = [key for key in limits if found.config.get(key) != plain[key]]
    if tell is not None and found.status == "complete" and changed:
        was = " and ".join(f"a {key} of {_number(found.config.get(key))}" for key in changed)
        now = " and ".join(_number(plain[key]) for key in changed)
        tell(f"{out}: was complete with {was}; goes on to {now}")


def _number(limit: int | None) -> str:
    return "none" if limit is None else f"{limit:,}"


def is_finished(
    stage: str, config: Config, out: Path, tell: Callable[[str], object] | None = None
) -> bool:
    """Whether a folder holds the finished output of a stage, config and inputs, whole.

    Args:
        stage: its name.
        config: its settings.
        out: the folder.
        tell: is given a line where an output is missing or damaged.

    Raises:
        InputError: it holds that of another config, or an input has changed since.
    """
    found, plain = Manifest.load(out), config.model_dump(mode="json")
    if found is None or not found.is_finished(stage, plain, STAGES[stage].limits):
        return False
    lost = [f"{name} is {why}" for name, why in found.lost_outputs().items() if name != LAST]
    if lost and tell is not None:
        tell(f"{out}: complete, but {', '.join(lost)}; it is made again")
    return not lost


def keep_record(config: Config, inputs: Mapping[str, Path], table: Path) -> None:
    """Write down what a table was made of that stands alone, in a hidden file beside it."""
    write_json(_record(table), _made_of(config, inputs, table))


def has_record(config: Config, inputs: Mapping[str, Path], table: Path) -> bool:
    """Whether a table that stands alone was made of this config and these inputs, and is whole."""
    try:
        return bool(json.loads(_record(table).read_bytes()) == _made_of(config, inputs, table))
    except (OSError, ValueError):
        return False


def _record(table: Path) -> Path:
    return table.with_name(f".{table.name}.manifest.json")


def _made_of(config: Config, inputs: Mapping[str, Path], table: Path) -> dict[str, Any]:
    return {
        "config_hash": config_hash(config.model_dump(mode="json")),
        "inputs": {role: InputFile.of(path).sha256 for role, path in inputs.items()},
        "sha256": sha256_of(table),
    }


def read_table(path: Path) -> pd.DataFrame:
    """The table that a stage wrote, as its run returns it."""
    frame: pd.DataFrame = read_part(path).to_pandas()
    return frame
