"""A progress bar for components that take their time; quick ones show none."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock, Timer

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE = 2.0
"""Seconds of scoring before the bar is shown."""

Showing = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""How progress is shown: given the number of molecules, a function to call with how many more of
them are done, for as long as the context lasts."""


@contextmanager
def slow_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar once the molecules have taken longer than two seconds; it goes when they are done.

    Nothing is shown where standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=True) as progress:
        task = progress.add_task("score", total=total)
        lock, over = Lock(), [not console.is_terminal]

        def show() -> None:
            with lock:
                if not over[0]:
                    progress.disable = False
                    progress.start()

        timer = Timer(PATIENCE, show)
        timer.daemon = True
        if console.is_terminal:
            timer.start()
        try:
            yield lambda n: progress.advance(task, n)
        finally:
            timer.cancel()
            with lock:
                over[0] = True


@contextmanager
def nothing_shown(_total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing: for a caller that has a bar of its own."""
    yield lambda _n: None
