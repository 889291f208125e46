"""The log of a run, `log.jsonl`: one event a line with its time, only ever appended to."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chemkl.results.atomic import finite

LOG = "log.jsonl"


class RunLog:
    """Appends events to the log of a run, in the one process that writes.

    What each of them means stands in README.md beside this.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._path = folder / LOG
        self._writes = writes
        self.where: Callable[[], Mapping[str, Any]] = dict
        """Says how far the run is, for every line: step, calls, samples."""

    def add(self, event: str, **about: Any) -> None:
        """Append an event, behind the end of a line that was torn.

        What the disk refuses is left out: the run itself tells of it.
        """
        if not self._writes:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        content = finite({"time": now, "event": event, **self.where(), **about})
        line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with suppress(OSError), self._path.open("a+b", buffering=0) as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The events of a run in order, without torn lines; none where no log can be read."""
    events = []
    with suppress(OSError):
        for line in (Path(folder) / LOG).read_bytes().splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict) and "event" in event]
