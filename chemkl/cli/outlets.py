"""Standard output and error that outlive those who read them."""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class _Outlet(io.FileIO):
    """A file that drops what nobody reads any more: `| head` has ended, the terminal is closed.

    It also drops what a full disk does not take, and remembers why. A run goes on: its results are
    other files.
    """

    problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes, if anybody is there."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                self.problem = error
            return memoryview(data).nbytes


def _outlasting(stream: IO[str]) -> IO[str]:
    """The same stream over such a file; one that is no process's own stays as it is."""
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    raw = _Outlet(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Go on without a message when what reads the output of this process ends, in this scope.

    Where output was lost otherwise, an exit with 0 becomes one with 1 and a line that says so.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_outlasting, before)
    try:
        yield
    except SystemExit as ended:
        problem = _problem()
        if problem is None or ended.code:
            raise
        sys.stderr.write(f"not all output could be written ({problem.strerror})\n")
        sys.exit(1)
    finally:
        _problem()
        sys.stdout, sys.stderr = before


def _problem() -> OSError | None:
    """Write out what waits in both streams, and say why some of it was lost, if it was."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed at the start
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(raw, _Outlet) and raw.problem is not None:
            return raw.problem
    return None
