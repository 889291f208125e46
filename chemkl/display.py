"""Output on the screen: numbers and words, tables, and progress.

Results go to standard output, everything else to the error output.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, Timer
from typing import Any, Self

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

MISSING = "–"  # noqa: RUF001 - an en dash is the typographer's sign for an empty cell
PIPED_WIDTH = 120
"""Line width if standard output is a file or a pipe."""

# ---- numbers and words


def is_missing(value: Any) -> bool:
    """Return whether a cell is null."""
    is_float = isinstance(value, float | np.floating)
    return value is None or value is pd.NA or (is_float and math.isnan(value))


def cell(value: Any, how: str) -> str:
    """Format a value as `format(value, how)`, or as a dash if it is missing."""
    if is_missing(value):
        return MISSING
    return format(int(value), how) if how.endswith("d") else format(float(value), how)


def short(text: str, width: int = 60) -> str:
    """Shorten a long SMILES or prompt in the middle."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def counted(n: int, thing: str) -> str:
    """Format a count with its noun: `1 hit`, `2,000 hits`."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def span(values: Iterable[Any], how: str | Callable[[Any], str] = ",d") -> str:
    """Format a range of values; only one if both ends look the same."""
    values = list(values)
    low, high = (
        format(value, how) if isinstance(how, str) else how(value)
        for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


def listed(names: Sequence[str]) -> str:
    """Join names with commas and a last `and`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def percent(share: float) -> str:
    """Format a share with one decimal, or none for a whole number, without a line break."""
    return f"{100 * share:.{0 if (100 * share) % 1 == 0 else 1}f}\N{NO-BREAK SPACE}%"


# ---- tables


@dataclass(frozen=True)
class Column:
    """A column of a table, on the screen or on a page.

    Attributes:
        key: of its values in the rows.
        label: heading.
        how: format of a number, as in `format(value, how)`, or a function that formats it. Empty: a
            text, aligned to the left.
        meaning: definition.
    """

    key: str
    label: str
    how: str | Callable[[Any], str] = ""
    meaning: str = ""

    def write(self, value: Any) -> str:
        """Format a value of this column; a dash if it is missing."""
        if is_missing(value):
            return "" if self.how == "" else MISSING
        if callable(self.how):
            return self.how(value)
        return cell(value, self.how) if self.how else str(value)


def table(
    title: str,
    columns: Iterable[Column],
    rows: Iterable[Mapping[str, Any]],
    *,
    keep_empty: bool = False,
    group: bool = False,
) -> Table:
    """Make a table for the terminal: texts left-aligned and wrapped, numbers right-aligned.

    Columns of numbers without any value are left out, unless `keep_empty`; with `group`, a first
    cell that repeats the one above is left blank.
    """
    rows = list(rows)
    visible = [
        column
        for column in columns
        if keep_empty or not column.how or any(not is_missing(row.get(column.key)) for row in rows)
    ]
    cells = [[column.write(row.get(column.key)) for column in visible] for row in rows]
    result = plain_table(title)
    for place, column in enumerate(visible):
        if column.how:
            result.add_column(Text(column.label), justify="right", no_wrap=True)
            continue
        longest = max(map(len, (column.label, *(row[place] for row in cells))))
        result.add_column(Text(column.label), overflow="fold", min_width=min(24, longest))
    above = ""
    for first, *rest in cells:
        result.add_row(Text("" if group and first == above else first), *map(Text, rest))
        above = first
    return result


def plain_table(title: str = "") -> Table:
    """Make an empty table in the common style: a line under its head, narrow gaps."""
    result = Table(title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    result.title = Text(title) if title else None
    result.padding = (0, 1, 0, 0)
    return result


def facts(rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of names and values without a head."""
    result = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows:
        result.add_row(*map(Text, row))
    return result


# ---- output and progress


def standard_output() -> Console:
    """Return the console for the results of a stage, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def say(line: str) -> None:
    """Print a line about a run to the error output; brackets in it are no markup."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


class Bar:
    """Progress on the error output: a bar in a terminal, otherwise some lines or nothing.

    A context manager that shows the bar while it is active.

    Args:
        label: the task.
        total: amount of work; None: unknown.
        unit: of the work; may be empty.
        shown: whether to show anything.
        lines: number of lines in total without a terminal, or one for each 1,000 if the total is
            unknown. 0: none.
        delay: seconds before the bar appears; it is then removed at the end.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "",
        *,
        shown: bool = True,
        lines: int = 0,
        delay: float = 0.0,
    ) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.shown = shown
        self._lines, self._delay = lines, delay
        self._last_line = -1
        self._lock = Lock()
        self._timer = Timer(delay, self._show)
        self._timer.daemon = True
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=delay > 0,
            refresh_per_second=4,
            speed_estimate_period=600,  # a step of a large model takes longer than rich's 30 s
        )
        self._task = self._progress.add_task(label, total=total, unit=unit, note="")
        self._is_over = False

    def __enter__(self) -> Self:
        """Show the bar, at once or after the delay."""
        if self._delay:
            self._timer.start()
        else:
            self._show()
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the last state on the screen, or nothing with a delay."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._progress.live.is_started:  # else rich writes an empty line
                self._progress.stop()

    def advance(self, n: int = 1) -> None:
        """Add to the amount done."""
        self.at(int(self._progress.tasks[0].completed) + n)

    def at(self, done: int, note: str = "", *, label: str | None = None) -> None:
        """Set the total amount done."""
        self._progress.update(self._task, completed=done, note=note, description=label)
        if not self.shown or not self._lines or self.console.is_terminal:
            return
        task = self._progress.tasks[0]
        line = self._lines * done // task.total if task.total else done // 1000
        if line > self._last_line:
            self._last_line = int(line)
            of = "" if task.total is None else f" of {int(task.total):,}"
            text = f"{task.description}: {done:,}{of} {task.fields['unit']}{note}"
            text += f", {int(task.elapsed or 0):,} s"
            seconds = None if task.finished else task.time_remaining
            text += f", {int(seconds):,} s left" if seconds else ""
            self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def part(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a second bar for a part of the work; yields the function that advances it."""
        task = self._progress.add_task(label, total=total, unit="", note="")
        yield lambda n: self._progress.advance(task, n)
        self._progress.remove_task(task)

    def _show(self) -> None:
        with self._lock:
            if self.shown and self.console.is_terminal and not self._is_over:
                self._progress.start()
