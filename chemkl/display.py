"""How results look to a reader: numbers and words, tables on the screen, progress of what is slow.

Results go to standard output, all else to the error output.
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
"""Characters of a line where standard output is a file or a pipe, which have no width."""

# ---- numbers and words


def is_missing(value: Any) -> bool:
    """Whether a cell is null."""
    is_float = isinstance(value, float | np.floating)
    return value is None or value is pd.NA or (is_float and math.isnan(value))


def cell(value: Any, how: str) -> str:
    """A value in a format, as in `format(value, how)`, or a dash where there is none."""
    if is_missing(value):
        return MISSING
    return format(int(value), how) if how.endswith("d") else format(float(value), how)


def short(text: str, width: int = 60) -> str:
    """Cut a SMILES or a prompt that is longer than so many characters in the middle."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def counted(n: int, thing: str) -> str:
    """A count with its noun: `1 hit`, `2,000 hits`."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def span(values: Iterable[Any], how: str | Callable[[Any], str] = ",d") -> str:
    """The least and the greatest value; one of them where both read alike."""
    values = list(values)
    low, high = (
        format(value, how) if isinstance(how, str) else how(value)
        for value in (min(values), max(values))
    )
    return low if low == high else f"{low} to {high}"


def listed(names: Sequence[str]) -> str:
    """Names with commas and a last `and`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def percent(share: float) -> str:
    """A share with one decimal, or as the whole number it is; it is not broken in a line."""
    return f"{100 * share:.{0 if (100 * share) % 1 == 0 else 1}f}\N{NO-BREAK SPACE}%"


# ---- tables


@dataclass(frozen=True)
class Column:
    """A column of a table, on the screen or on a page.

    Attributes:
        key: of its value in a row.
        label: heading.
        how: format of a number, as in `format(value, how)`, or a function that writes it. Empty: a
            text, which stands to the left.
        meaning: its definition.
    """

    key: str
    label: str
    how: str | Callable[[Any], str] = ""
    meaning: str = ""

    def write(self, value: Any) -> str:
        """A value of this column; a dash where there is none."""
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
    """A table for the terminal: texts to the left and folded, numbers to the right and whole.

    Columns of numbers without a value are left out, unless `keep_empty`; with `group`, a first cell
    that is the one above too.
    """
    rows = list(rows)
    shown = [
        column
        for column in columns
        if keep_empty or not column.how or any(not is_missing(row.get(column.key)) for row in rows)
    ]
    cells = [[column.write(row.get(column.key)) for column in shown] for row in rows]
    made = plain_table(title)
    for place, column in enumerate(shown):
        if column.how:
            made.add_column(Text(column.label), justify="right", no_wrap=True)
            continue
        longest = max(map(len, (column.label, *(row[place] for row in cells))))
        made.add_column(Text(column.label), overflow="fold", min_width=min(24, longest))
    above = ""
    for first, *others in cells:
        made.add_row(Text("" if group and first == above else first), *map(Text, others))
        above = first
    return made


def plain_table(title: str = "") -> Table:
    """An empty table as all tables here look: a line under its head, narrow gaps."""
    made = Table(title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    made.title = Text(title) if title else None
    made.padding = (0, 1, 0, 0)
    return made


def facts(rows: Iterable[Sequence[str]]) -> Table:
    """Names and what there is of each, without a head; further cells stand beside."""
    made = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows:
        made.add_row(*map(Text, row))
    return made


# ---- output and progress


def standard_output() -> Console:
    """The console for what a stage finds: as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def say(line: str) -> None:
    """Tell the user how a run goes; brackets in the line, as in the name of a folder, stay."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


class Bar:
    """Progress on the error output: a bar in a terminal; elsewhere lines now and then, or nothing.

    A context that shows the bar for as long as it lasts.

    Args:
        label: what is done.
        total: how much there is of it; None: not known.
        unit: what is counted; may be empty.
        shown: whether anything is shown at all.
        lines: where there is no terminal, lines from the beginning to the end; one for each 1,000
            done where the end is not known. 0: none.
        delay: seconds before the bar appears; it then goes at the end.
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
            TextColumn("{task.fields[unit]}{task.fields[beside]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=delay > 0,
            refresh_per_second=4,
            speed_estimate_period=600,  # a step of a large model takes longer than rich's 30 s
        )
        self._task = self._progress.add_task(label, total=total, unit=unit, beside="")
        self._is_over = False

    def __enter__(self) -> Self:
        """Show it, at once or after the delay."""
        if self._delay:
            self._timer.start()
        else:
            self._show()
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the last state on the screen, or nothing where the bar came late."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._progress.live.is_started:  # else rich writes an empty line
                self._progress.stop()

    def advance(self, n: int = 1) -> None:
        """So many more are done."""
        self.at(int(self._progress.tasks[0].completed) + n)

    def at(self, done: int, beside: str = "", *, label: str | None = None) -> None:
        """So many are done in all."""
        self._progress.update(self._task, completed=done, beside=beside, description=label)
        if not self.shown or not self._lines or self.console.is_terminal:
            return
        task = self._progress.tasks[0]
        line = self._lines * done // task.total if task.total else done // 1000
        if line > self._last_line:
            self._last_line = int(line)
            of = "" if task.total is None else f" of {int(task.total):,}"
            text = f"{task.description}: {done:,}{of} {task.fields['unit']}{beside}"
            text += f", {int(task.elapsed or 0):,} s"
            left = "" if task.finished else task.time_remaining
            text += f", {int(left):,} s left" if left else ""
            self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def part(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A second bar beneath for a part of the work; gives what moves it on."""
        task = self._progress.add_task(label, total=total, unit="", beside="")
        yield lambda n: self._progress.advance(task, n)
        self._progress.remove_task(task)

    def _show(self) -> None:
        with self._lock:
            if self.shown and self.console.is_terminal and not self._is_over:
                self._progress.start()
