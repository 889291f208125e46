"""The settings of runs, key by key: what makes a method of them, and where those of several differ.

The config in a manifest is the identity of a run: settings that cannot change a row (workers,
caches, the progress bar) are not in it. A method is the same without what may differ from run to
run of it: the seed, and what is logged and saved how often.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chemkl.results.provenance import InputFile

ABSENT = object()
"""The value of a key that a config has not."""
OF_ONE_RUN = frozenset(
    {
        "seed",
        "callbacks.checkpoint_every",
        "trainer.devices",
        "trainer.enable_model_summary",
        "trainer.enable_progress_bar",
        "trainer.log_every_n_steps",
        "trainer.profiler",
    }
)
"""Settings by dotted key that may differ between the runs of a method."""
SHOWN = 12
"""So many differences are told at most."""
_NONE = {"trainer.gradient_clip_val": (0,)}
"""Further values that mean the same as null, by key."""


def differences(configs: Mapping[str, Any], key: str = "") -> dict[str, dict[str, Any]]:
    """Find the keys whose values are not alike in all configs.

    Args:
        configs: by the name of their owner.
        key: of these values, where they are part of something.

    Returns:
        By dotted key the value of each owner, or `ABSENT`. A value is told apart further where all
        have a mapping there, or lists of equal length that hold mappings.
    """
    values = list(configs.values())
    found: dict[str, dict[str, Any]] = {}
    if all(isinstance(value, Mapping) for value in values):
        names: Iterable[Any] = dict.fromkeys(name for value in values for name in value)
        inside = {name: {o: v.get(name, ABSENT) for o, v in configs.items()} for name in names}
    elif all(_holds_mappings(value) for value in values) and len({*map(len, values)}) == 1:
        inside = {n: {o: v[n] for o, v in configs.items()} for n in range(len(values[0]))}
    else:
        return {key: dict(configs)} if len({*map(written, values)}) > 1 else {}
    for name, own in inside.items():
        found |= differences(own, f"{key}.{name}" if key else str(name))
    return found


def method_settings(config: Mapping[str, Any], inputs: Mapping[str, InputFile]) -> dict[str, Any]:
    """Take the settings that make a method out of a run's config; null is as good as absent.

    Args:
        config: of the run's manifest.
        inputs: of the same; a file is known by what it holds, wherever it lies.
    """
    content = {file.path: f"sha256 {file.sha256[:12]}" for file in inputs.values()}

    def kept(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            places = {name: f"{key}.{name}" if key else str(name) for name in value}
            own = {
                n: kept(value[n], place) for n, place in places.items() if place not in OF_ONE_RUN
            }
            return {n: v for n, v in own.items() if v not in (None, {}, *_NONE.get(places[n], ()))}
        if isinstance(value, list):
            return [kept(each, f"{key}.{n}") for n, each in enumerate(value)]
        return content.get(value, value) if isinstance(value, str) else value

    settings: dict[str, Any] = kept(config, "")
    return settings


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in value)


def written(value: Any) -> str:
    """Write a value as JSON, or say that there is none."""
    return "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def told(found: Mapping[str, Mapping[str, Any]], most: int = SHOWN) -> str:
    """Write differences as indented lines: each value of a key, null for none, and who has it.

    Args:
        found: as `differences` gives them.
        most: lines at most; further ones are counted.
    """
    lines = []
    for key, values in found.items():
        owners: dict[str, list[str]] = {}
        for owner, value in values.items():
            owners.setdefault(written(None if value is ABSENT else value), []).append(owner)
        each = (f"{value} in {', '.join(some)}" for value, some in owners.items())
        lines.append(f"  {key}: {'; '.join(each)}")
    return listed(lines, most)


def listed(lines: Sequence[str], most: int = SHOWN) -> str:
    """Put lines below each other; further ones than so many are counted."""
    more = len(lines) - most
    return "\n".join([*lines[:most], *([f"  ... and {more} more"] if more > 0 else [])])


def mixed(method: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where runs that are to be of one method differ in more than the seed.

    Args:
        method: its name.
        settings: of each run, see `method_settings`.

    Returns:
        A message, or nothing.
    """
    found = differences(settings)
    if not found:
        return []
    return [
        f"methods.{method}: its runs differ in more than the seed. Give each setting a method of "
        f"its own:\n{told(found)}"
    ]
