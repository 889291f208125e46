"""Where the runs of a report come from: identity, settings, and how the settings differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from chemkl.display import MISSING
from chemkl.reports.curves import Methods
from chemkl.reports.view import RunView
from chemkl.results.provenance import ABSENT, differences


def facts(run: RunView) -> list[tuple[str, str]]:
    """Provenance of a run as label and value; empty where the run has no manifest."""
    manifest = run.manifest
    if not manifest:
        return []
    started, finished = (_time(manifest.get(key)) for key in ("started", "finished"))
    status = " · ".join(str(v) for v in (manifest.get("status"), manifest.get("ended_by")) if v)
    seed = manifest.get("seed")
    results = {k: v for k, v in manifest.get("results", {}).items() if isinstance(v, int | float)}
    return [
        ("run", str(manifest.get("run_id", MISSING))),
        ("status", status or MISSING),
        ("seed", MISSING if seed is None else str(seed)),
        ("started", started),
        ("finished", finished),
        ("config hash", str(manifest.get("config_hash", MISSING))[:16]),
        *((name.replace("_", " "), f"{value:,.6g}") for name, value in results.items()),
    ]


def different_settings(runs: Sequence[RunView], methods: Methods) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, by dotted key, with each method's values.

    A run without a manifest has no settings and takes no part.
    """
    configs = {str(n): run.manifest["config"] for n, run in enumerate(runs) if run.manifest}
    return [
        (
            key,
            [
                ", ".join(dict.fromkeys(_shown(values.get(str(m), ABSENT)) for m in own))
                for own in methods.values()
            ],
        )
        for key, values in sorted(differences(configs).items())
    ]


def as_yaml(config: Mapping[str, Any]) -> str:
    """Settings as YAML; empty where there are none."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def _shown(value: Any) -> str:
    """A value as YAML on one line; a dash where there is none."""
    if value is ABSENT:
        return MISSING
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.strip().removesuffix("\n...")


def _time(text: Any) -> str:
    """A time stamp without seconds and zone; it is in UTC."""
    return str(text)[:16].replace("T", " ") if text else MISSING
