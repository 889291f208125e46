"""Where stages print: results to standard output, all else to the error output."""

import sys

from rich.console import Console

PIPED_WIDTH = 120
"""Characters of a line where standard output is a file or a pipe, which have no width."""


def standard_output() -> Console:
    """The console for what a stage found: as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def say(line: str) -> None:
    """Tell the user how a run goes; brackets in the line, as in the name of a folder, stay."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)
