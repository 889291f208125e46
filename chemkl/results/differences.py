"""Where two configs differ, key by key."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Lines 'dotted.key: <old> there, <new> here' for every leaf that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in sorted({*there, *here}):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(there.get(name, _ABSENT), here.get(name, _ABSENT), inner)
    elif there != here:
        yield f"{key}: {_show(there)} in the folder, {_show(here)} in the new config"


def _show(value: Any) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
