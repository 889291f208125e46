"""Standard output and error that outlive those who read them."""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any


class _Outlet(io.FileIO):
    """A file that drops what nobody reads any more: `| head` has ended, the terminal is closed.

    A run goes on: its results are files.
    """

    def write(self, data: Any, /) -> int:
        """Write bytes, if anybody is there."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
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
    """Go on without a message when what reads the output of this process ends, in this scope."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_outlasting, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # no stream at all: it was closed at the start
                stream.flush()
        sys.stdout, sys.stderr = before
