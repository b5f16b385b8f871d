"""Standard streams that do not end a run when nobody reads them any more."""

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""The reader of a pipe, the terminal or the file itself is gone for good."""


class _Outlet(io.FileIO):
    """A file descriptor that takes everything: what cannot be written is lost."""

    def write(self, data: Any) -> int:
        nbytes = memoryview(data).nbytes
        try:
            written = super().write(data)
            while written is None:  # another process has made the terminal non-blocking
                select.select([], [self], [], 1.0)
                written = super().write(data)
            return written
        except OSError as error:
            if error.errno in GONE:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return nbytes


def keep_output_from_failing() -> None:
    """Keep print from raising from now on: not for a closed pipe, a full disk, or a letter that the terminal lacks."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO | None) -> Any:
    if stream is None:  # closed from the start: print does nothing then
        return None
    stream.flush()
    outlet = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(outlet, stream.encoding, "backslashreplace", line_buffering=True)
